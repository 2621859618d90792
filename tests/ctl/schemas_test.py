# SPDX-License-Identifier: Apache-2.0
#
# docs/schemas: each is a schema, has the fields that docs/kvtierctl.md has, and no answer of a real daemon has another
# field or lacks one. (kvt_integration compares the tables with answers that only a client's work makes.)
import copy
import glob
import json
import os
import re
import unittest
from collections import defaultdict

import jsonschema
from answers import collect
from kvtierd import Daemon

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
# Tables that describe a part of an answer, or are called otherwise.
NAMES = {
    "a tier": "tier",
    "an arena": "arena",
    "a session": "session",
    "a refusal": "refusal",
    "kvtierctl topology --json": "topology",
    "kvtierctl calibrate --json": "calibration",
}


def schemas():
    found = {}
    for path in sorted(glob.glob(os.path.join(ROOT, "docs", "schemas", "*.json"))):
        with open(path, encoding="utf-8") as file:
            found[os.path.basename(path)[: -len(".json")]] = json.load(file)
    return found


def tables():
    """Fields by table: a field that is not always there is in `sometimes` as well."""
    always, sometimes = defaultdict(set), defaultdict(set)
    for document in ("kvtierctl.md", "topology.md"):
        table = None
        with open(os.path.join(ROOT, "docs", document), encoding="utf-8") as file:
            for line in file:
                if line.startswith("#"):
                    title = re.match(r"### (?:Fields of )?`(.*)`", line)
                    table = title and title.group(1)
                row = re.match(r"\| `([^`]+)`( \*)?", line)
                if table and row:
                    (sometimes if row.group(2) else always)[NAMES.get(table, table)].add(row.group(1))
    return always, sometimes


def fields(schema, path=""):
    """Paths of all values, as the tables write them: (path, whether it is always there)."""
    if "$ref" in schema:
        yield path, True
        return
    if "properties" in schema:
        for name, inner in schema["properties"].items():
            required = name in schema.get("required", [])
            for found, always in fields(inner, f"{path}.{name}" if path else name):
                yield found, required and always and "null" not in schema.get("type", "")
        if "null" in schema.get("type", ""):
            yield path, True
        return
    if schema.get("type") == "array":
        if "items" not in schema:
            yield path + "[]", True
        else:
            yield from fields(schema["items"], path + "[]")
        return
    yield path, True


def strict(schema):
    """The same, without room for fields that it does not name."""
    if isinstance(schema, list):
        return [strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: strict(value) for key, value in schema.items()}
    if "properties" in made and isinstance(made["properties"], dict):
        made["additionalProperties"] = False
    return made


class Schemas(unittest.TestCase):
    def test_each_is_one_and_is_named(self):
        for name, schema in schemas().items():
            jsonschema.Draft202012Validator.check_schema(schema)
            self.assertEqual(schema["$id"], f"urn:kvtier:{name}:1")
            if "schema" in schema["properties"]:
                self.assertEqual(schema["properties"]["schema"]["const"], f"kvtier.{name}/1")

    def test_they_have_the_fields_of_the_tables(self):
        always, sometimes = tables()
        found = schemas()
        self.assertEqual(set(found), set(always))
        for name, schema in found.items():
            have = dict(fields(schema))
            # What may be empty, or of any kind, is said in the table in more than one row.
            documented = {each for each in always[name] | sometimes[name] if not each.startswith("values[].value")}
            for field in documented:
                bare = field[:-2] if field.endswith("[]") else field
                known = field in have or any(each == bare or each.startswith(bare + "[]") for each in have)
                self.assertTrue(known, f"docs/schemas/{name}.json has no {field}")
            for field, is_always in have.items():
                if field.startswith("values[].value"):
                    continue
                bare = field[:-2] if field.endswith("[]") and field not in documented else field
                self.assertIn(bare, documented, f"the table of {name}")
                if not is_always:
                    self.assertIn(field, sometimes[name], f"docs/kvtierctl.md, {name}: needs a *")

    def test_answers_of_a_daemon(self):
        found = schemas()
        store = {schema["$id"]: strict(schema) for schema in found.values()}
        seen = set()

        def check(answer):
            name = re.fullmatch(r"kvtier\.([a-z-]+)/1", answer["schema"]).group(1)
            seen.add(name)
            schema = store[f"urn:kvtier:{name}:1"]
            resolver = jsonschema.RefResolver.from_schema(schema, store=copy.deepcopy(store))
            jsonschema.Draft202012Validator(schema, resolver=resolver).validate(answer)
            # A program that knows only this version takes what a later one adds.
            loose = {each["$id"]: each for each in found.values()}
            open_one = loose[f"urn:kvtier:{name}:1"]
            resolver = jsonschema.RefResolver.from_schema(open_one, store=loose)
            jsonschema.Draft202012Validator(open_one, resolver=resolver).validate({**answer, "added later": 1})

        with Daemon() as daemon:
            for answer in collect(daemon):
                check(answer)
        # Answers to what only a client's pages allow
        parts = {"tier", "arena", "session"}
        self.assertEqual(set(found) - seen - parts, {"explain", "pin", "move", "evict-session"})


if __name__ == "__main__":
    unittest.main(verbosity=2)
