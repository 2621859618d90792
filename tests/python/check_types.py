# SPDX-License-Identifier: Apache-2.0
"""The types that the package declares: they are those of the module, and the examples are right by them.

    check_types.py PACKAGE_FOLDER EXAMPLES_FOLDER"""

import subprocess
import sys
import tempfile
from pathlib import Path

# What pybind11's classes look like to stubtest; their members are compared under names of their own.
ALLOWED = r"""
kvtier(\._kvtier)?\.(CopyJob|DeviceArray|DeviceMap|DeviceTouches|Hold|Sequence|Session|Step)
kvtier(\._kvtier)?\.(CopyJob|DeviceArray|DeviceMap|DeviceTouches|Hold|Sequence|Session|Step)\.__init__
kvtier\._records\.NamedTuple
"""


def run(*arguments: str) -> None:
    print("$", *arguments, flush=True)
    subprocess.run([sys.executable, "-m", *arguments], check=True)


def main() -> None:
    package, examples = sys.argv[1:]
    with tempfile.TemporaryDirectory() as folder:
        allowed = Path(folder, "allowed")
        allowed.write_text(ALLOWED)
        cache = str(Path(folder, "cache"))
        run("mypy.stubtest", "kvtier", "--concise", "--allowlist", str(allowed))
        run("mypy", "--strict", "--cache-dir", cache, package)
        run("mypy", "--cache-dir", cache, *sorted(map(str, Path(examples).glob("*.py"))))


main()
