# SPDX-License-Identifier: Apache-2.0
#
# kvtierctl events and config, against a real daemon.
import os
import re
import select
import signal
import socket
import subprocess
import unittest

from kvtierd import KVTIERCTL, KVTIERD, PATIENCE, Daemon


def knock(daemon):
    """A connection that is dropped: what comes is no message."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as client:
        client.connect(os.path.join(daemon.folder, "attach.sock"))
        client.send(b"what?")
        client.settimeout(PATIENCE)
        try:
            return client.recv(100)
        except ConnectionResetError:
            return b""


class Events(unittest.TestCase):
    def setUp(self):
        self.daemon = Daemon()
        self.addCleanup(self.daemon.close)

    def kinds(self, *arguments):
        return [event["kind"] for event in self.daemon.json("events", *arguments)["events"]]

    def test_one_line_each(self):
        self.assertEqual(self.kinds(), ["ready"])
        knock(self.daemon)
        self.assertEqual(self.kinds(), ["ready", "drop"])
        text = self.daemon.ctl("events").stdout
        lines = text.splitlines()
        self.assertEqual(len(lines), 2, text)
        for line in lines:
            self.assertRegex(line, r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d [a-z_]+ ")
        self.assertIn(" ready kvtierd ", lines[0])
        self.assertIn("half a message", lines[1])
        self.assertEqual(self.daemon.json("events", "--since", "1")["events"][0]["serial"], 2)
        self.assertEqual(self.daemon.ctl("events", "--kind", "ready").stdout.count("\n"), 1)
        self.assertEqual(self.kinds("--kind", "drop"), ["drop"])
        self.assertEqual(self.daemon.ctl("events", "--since", "2").stdout, "")

    def test_a_flood_pushes_out_its_own_kind_alone(self):
        for _ in range(300):
            knock(self.daemon)
        answer = self.daemon.json("events")
        kinds = [event["kind"] for event in answer["events"]]
        self.assertEqual(kinds.count("ready"), 1)
        self.assertEqual(kinds.count("drop"), 64)
        self.assertEqual(answer["last"], 301)
        self.assertEqual(answer["left_out"], 301 - 65)
        self.assertTrue(self.daemon.ctl("events").stdout.startswith("... 236 earlier events are not kept any more\n"))

    def test_operators_are_named(self):
        self.assertEqual(self.daemon.json("record", "--out", os.path.join(self.daemon.folder, "r"), "--seconds", "0.1")["ok"], True)
        self.daemon.json("pin", "0")  # refused: nothing is done
        events = [event for event in self.daemon.json("events")["events"] if event["kind"] == "operator"]
        self.assertEqual(len(events), 1, events)
        self.assertRegex(events[0]["text"], rf"^user {os.getuid()}, process \d+: began to record$")
        self.assertIn(events[0]["text"], self.daemon.log())

    def test_following_over_a_restart(self):
        for json in (False, True):
            arguments = ["--json"] if json else []
            follower = subprocess.Popen(
                [KVTIERCTL, "--socket-dir", self.daemon.folder, *arguments, "events", "--follow"],
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                encoding="utf-8",
            )
            self.addCleanup(follower.stdout.close)

            def next_line():
                ready, _, _ = select.select([follower.stdout], [], [], PATIENCE)
                return follower.stdout.readline() if ready else "nothing came"

            ready = '"kind":"ready"' if json else " ready kvtierd "
            drop = '"kind":"drop"' if json else " drop "
            line = next_line()
            self.assertIn(ready, line)
            knock(self.daemon)
            self.assertIn(drop, next_line())
            self.daemon.stop()
            self.daemon.start()
            # It may have seen how the old one stopped.
            line = next_line()
            while "stop" in line:
                line = next_line()
            self.assertIn(ready, line)
            follower.send_signal(signal.SIGINT)
            self.assertEqual(follower.wait(PATIENCE), -signal.SIGINT)
        self.daemon.stop()
        gone = self.daemon.ctl("events", "--follow")
        self.assertEqual(gone.returncode, 1)


class Configuration(unittest.TestCase):
    def setUp(self):
        self.daemon = Daemon()
        self.addCleanup(self.daemon.close)

    def test_what_is_used_and_from_where(self):
        values = {
            (value["section"], value["name"], value["key"]): value
            for value in self.daemon.json("config", "show")["values"]
        }
        period = values["daemon", None, "period_ms"]
        self.assertEqual(period["value"], 2)
        self.assertRegex(period["source"], r"kvtierd\.toml:3$")
        self.assertEqual(values["daemon", None, "socket_dir"]["source"], "--socket-dir")
        self.assertEqual(values["daemon", None, "socket_dir"]["value"], self.daemon.folder)
        self.assertEqual(values["daemon", None, "copy_workers"], {"section": "daemon", "name": None, "key": "copy_workers", "value": 1, "source": "default"})
        self.assertEqual(values["tier", "hbm0", "bytes"]["value"], "2MiB")
        self.assertRegex(values["tier", "hbm0", "bytes"]["source"], r"kvtierd\.toml:9$")
        self.assertEqual(values["tier", "dram", "huge_pages"]["source"], "default")
        self.assertEqual(values["arena", "default", "page_bytes"]["value"], "16KiB")

    def test_it_is_a_configuration_again(self):
        shown = self.daemon.ctl("config", "show")
        self.assertEqual(shown.returncode, 0, shown.stderr)
        self.assertRegex(shown.stdout, re.compile(r"^period_ms = 2 +# .*kvtierd\.toml:3$", re.M))
        again = os.path.join(self.daemon.folder, "again.toml")
        with open(again, "w", encoding="utf-8") as file:
            file.write(shown.stdout)
        checked = self.daemon.ctl("config", "check", again)
        self.assertEqual(checked.returncode, 0, checked.stderr + shown.stdout)
        self.assertIn("is good: 2 tier(s), 1 arena(s)", checked.stdout)

    def test_checking_a_file(self):
        wrong = os.path.join(self.daemon.folder, "wrong.toml")
        with open(wrong, "w", encoding="utf-8") as file:
            file.write("[daemon]\nperiod_ms = 0\n")
        checked = self.daemon.ctl("config", "check", wrong)
        self.assertEqual(checked.returncode, 1)
        self.assertIn("wrong.toml:2: daemon.period_ms = 0: expected an integer from 1 to 1000", checked.stderr)
        answer = self.daemon.json("config", "check", wrong)
        self.assertFalse(answer["ok"])
        self.assertIn("wrong.toml:2", answer["words"])
        self.assertEqual(self.daemon.ctl("config", "check").returncode, 2)
        self.assertEqual(self.daemon.ctl("config", "mend").returncode, 2)
        nothing = self.daemon.ctl("config", "check", wrong, env={**os.environ, "KVTIERD": "/nowhere/kvtierd"})
        self.assertEqual(nothing.returncode, 1)
        self.assertIn("/nowhere/kvtierd is not there", nothing.stderr)

    def test_the_defaults(self):
        shown = self.daemon.ctl("config", "show", "--defaults")
        printed = subprocess.run([KVTIERD, "--print-default-config"], capture_output=True, encoding="utf-8", check=True)
        self.assertEqual(shown.stdout, printed.stdout)


if __name__ == "__main__":
    unittest.main(verbosity=2)
