# SPDX-License-Identifier: Apache-2.0
#
# kvtierctl arena, and what else tells of arenas that come and go: metrics, events, the configuration.
import os
import re
import signal
import socket
import unittest

from kvtierd import CONFIG, Daemon, eventually


def metrics(daemon):
    """The names of arenas that have series."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.connect(os.path.join(daemon.folder, "metrics.sock"))
        sock.sendall(b"GET /metrics HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n")
        text = b""
        while part := sock.recv(65536):
            text += part
    return set(re.findall(r'[{,]arena="([^"]*)"', text.decode()))


class Arena(unittest.TestCase):
    def test_is_made_and_deleted(self):
        with Daemon() as daemon:
            self.assertEqual(metrics(daemon), {"default"})
            made = daemon.json("arena", "create", "chat", "page_bytes=32KiB", "bytes.hbm0=0")
            self.assertEqual((made["schema"], made["pages"]), ("kvtier.arena-create/1", 30))
            self.assertEqual([(tier["name"], tier["bytes"]) for tier in made["tiers"]], [("dram", 1 << 20)])
            self.assertTrue(eventually(lambda: metrics(daemon) == {"default", "chat"}))
            free = [tier["unassigned_bytes"] for tier in daemon.json("tiers")["tiers"]]
            self.assertEqual(free, [0, 0])

            used = {
                (value["name"], value["key"]): (value["value"], value["source"])
                for value in daemon.json("config", "show")["values"]
                if value["section"] == "arena"
            }
            self.assertEqual(used["chat", "page_bytes"], ("32KiB", "arena create"))
            self.assertEqual(used["chat", "bytes"][0], {"hbm0": "0", "dram": "1MiB"})

            refused = daemon.json("arena", "create", "more", "bytes.hbm0=0")
            self.assertIn('no tier has room', refused["error"])
            gone = daemon.json("arena", "delete", "chat", "--yes")
            self.assertEqual((gone["schema"], gone["configured"]), ("kvtier.arena-delete/1", False))
            self.assertTrue(eventually(lambda: metrics(daemon) == {"default"}))
            kinds = [event["kind"] for event in daemon.json("events")["events"]]
            self.assertEqual(kinds, ["ready", "operator", "arena_created", "operator", "arena_deleted"])
            self.assertEqual(daemon.json("arena", "delete", "chat", "--yes")["error"], 'no arena "chat"')

    def test_a_reload_makes_what_is_new(self):
        with Daemon() as daemon:
            with open(daemon.config, "w", encoding="utf-8") as file:
                file.write(CONFIG + '[[arena]]\nname = "chat"\nbytes = { hbm0 = 0, dram = "1MiB" }\n')
            daemon.process.send_signal(signal.SIGHUP)
            self.assertTrue(eventually(lambda: metrics(daemon) == {"default", "chat"}))
            sources = {
                value["key"]: value["source"] for value in daemon.json("config", "show")["values"] if value["name"] == "chat"
            }
            self.assertRegex(sources["name"], r"kvtierd\.toml:\d+$")
            self.assertRegex(sources["bytes"], r"kvtierd\.toml:\d+$")
            # Deleted by hand, it comes back while it is named.
            self.assertTrue(daemon.json("arena", "delete", "chat", "--yes")["configured"])
            daemon.process.send_signal(signal.SIGHUP)
            self.assertTrue(eventually(lambda: metrics(daemon) == {"default", "chat"}))


if __name__ == "__main__":
    unittest.main(verbosity=2)
