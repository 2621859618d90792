# SPDX-License-Identifier: Apache-2.0
#
# kvtierctl top as an operator sees it: on a terminal that is resized, on one that cannot draw, and on none.
import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import termios
import time
import unittest

import pyte
from kvtierd import KVTIERCTL, PATIENCE, Daemon


class Terminal:
    """kvtierctl under a pseudo-terminal, and what it has drawn there."""

    def __init__(self, daemon, *arguments, rows=24, columns=80, term="xterm"):
        self.screen = pyte.Screen(columns, rows)
        self.stream = pyte.ByteStream(self.screen)
        self.raw = b""
        self.master, slave = pty.openpty()
        self.before = termios.tcgetattr(slave)
        self.slave = slave  # kept open, to look at its settings afterwards
        self.resize(rows, columns, tell=False)
        environment = dict(os.environ, TERM=term)
        environment.pop("NO_COLOR", None)
        environment.pop("LINES", None)
        environment.pop("COLUMNS", None)
        self.process = subprocess.Popen(
            [KVTIERCTL, "--socket-dir", daemon.folder, "top", *arguments],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=environment,
            start_new_session=True,
        )

    def resize(self, rows, columns, tell=True):
        fcntl.ioctl(self.slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self.screen.resize(rows, columns)
        if tell:
            self.process.send_signal(signal.SIGWINCH)

    def read(self, seconds):
        ready, _, _ = select.select([self.master], [], [], seconds)
        if not ready:
            return False
        got = os.read(self.master, 65536)
        self.raw += got
        self.stream.feed(got)
        return True

    def text(self):
        return "\n".join(line.rstrip() for line in self.screen.display)

    def shows(self, *words):
        """Waits until all of them are on the screen."""
        end = time.monotonic() + PATIENCE
        while not all(word in self.text() for word in words):
            if time.monotonic() > end:
                return False
            self.read(0.1)
        return True

    def press(self, keys):
        os.write(self.master, keys)

    def finish(self):
        end = time.monotonic() + PATIENCE
        while self.process.poll() is None and time.monotonic() < end:
            self.read(0.05)
        while self.read(0):
            pass
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
            return None
        return self.process.returncode

    def close(self):
        self.process.kill()
        self.process.wait()
        os.close(self.master)
        os.close(self.slave)


class Top(unittest.TestCase):
    def setUp(self):
        self.daemon = Daemon()
        self.addCleanup(self.daemon.close)

    def on_terminal(self, *arguments, **more):
        terminal = Terminal(self.daemon, *arguments, **more)
        self.addCleanup(terminal.close)
        return terminal

    def check_shows(self, terminal, *words):
        self.assertTrue(terminal.shows(*words), f"{words} in\n{terminal.text()}")

    def test_views_and_keys(self):
        top = self.on_terminal("--interval", "0.2")
        self.check_shows(top, "kvtierd ", "healthy", "1 overview", "TIER", "hbm0 (emulated)", "dram", "no sessions", "0.2 s")
        self.assertNotIn("NOT HEALTHY", top.text())
        self.assertTrue(all(len(line) <= 80 for line in top.text().splitlines()))
        top.press(b"\t")
        self.check_shows(top, "arena default", "made of")
        top.press(b"4")
        self.check_shows(top, "READS A PERIOD", "A hbm0, B dram")
        top.press(b"3")
        self.check_shows(top, "no sessions")
        top.press(b"-")
        self.check_shows(top, "0.4 s")
        top.press(b"++")
        self.check_shows(top, "0.2 s")
        top.press(b"s")
        self.check_shows(top, "by held")
        top.press(b"h")
        self.check_shows(top, "stop asking the daemon")
        top.press(b"h1")
        self.check_shows(top, "USED", "GB/s NOW")
        top.press(b"q")
        self.assertEqual(top.finish(), 0)
        # The terminal is as it was.
        self.assertEqual(termios.tcgetattr(top.slave)[:4], top.before[:4])

    def test_resizing(self):
        top = self.on_terminal("--interval", "0.2", "--view", "arenas")
        self.check_shows(top, "arena default", "made of")
        top.resize(12, 60)
        self.check_shows(top, "more lines")
        top.press(b"\x1b[6~")  # PgDn
        self.assertTrue(top.shows("RESERVED"), top.text())
        top.resize(5, 60)
        self.check_shows(top, "40 by 6 at least", "q: end")
        top.resize(50, 120)
        self.check_shows(top, "arena default", "RESERVED")
        top.press(b"\x03")  # Ctrl-C
        self.assertEqual(top.finish(), 0)

    def test_pause_asks_nothing(self):
        top = self.on_terminal("--interval", "0.2")
        self.check_shows(top, "healthy")
        top.press(b"p")
        self.check_shows(top, "PAUSED")
        frozen = top.text()
        for _ in range(10):
            top.read(0.1)
        self.assertEqual(top.text(), frozen)
        top.press(b"p")
        end = time.monotonic() + PATIENCE
        while ("PAUSED" in top.text() or top.text() == frozen) and time.monotonic() < end:
            top.read(0.1)
        self.assertNotIn("PAUSED", top.text())

    def test_a_daemon_that_goes_and_comes_back(self):
        top = self.on_terminal("--interval", "0.2")
        self.check_shows(top, "healthy")
        self.daemon.stop()
        self.check_shows(top, "no kvtierd answers")
        self.daemon.start()
        end = time.monotonic() + PATIENCE
        while "no kvtierd answers" in top.text() and time.monotonic() < end:
            top.read(0.1)
        self.assertNotIn("no kvtierd answers", top.text())
        top.press(b"q")
        self.assertEqual(top.finish(), 0)

    def test_a_dumb_terminal(self):
        top = self.on_terminal("--interval", "0.2", term="dumb")
        self.check_shows(top, "TERM=dumb cannot move its cursor: plain text instead", "hbm0 (emulated)")
        self.assertNotIn(b"\x1b", top.raw)
        top.process.send_signal(signal.SIGINT)
        self.assertEqual(top.finish(), -signal.SIGINT)
        unknown = self.on_terminal("--interval", "0.2", term="no-such-terminal")
        self.check_shows(unknown, "TERM=no-such-terminal", "plain text instead")

    def test_no_terminal(self):
        none = self.daemon.ctl("top")
        self.assertEqual(none.returncode, 2)
        self.assertIn("--once", none.stderr)
        once = self.daemon.ctl("top", "--once", "--interval", "0.2")
        self.assertEqual(once.returncode, 0, once.stderr)
        self.assertIn("hbm0 (emulated)", once.stdout)
        self.assertIn("healthy", once.stdout)
        self.assertTrue(all(len(line) <= 80 for line in once.stdout.splitlines()), once.stdout)
        three = self.daemon.ctl("top", "--batch", "3", "--interval", "0.2")
        self.assertEqual(three.stdout.count("kvtierd "), 3, three.stdout)
        rates = self.daemon.json("top", "--interval", "0.2")
        self.assertGreaterEqual(rates["seconds"], 0.19)
        self.assertEqual([tier["name"] for tier in rates["tiers"]], ["hbm0", "dram"])
        self.daemon.stop()
        gone = self.daemon.ctl("top", "--once")
        self.assertEqual(gone.returncode, 1)
        self.assertIn("no kvtierd answers", gone.stderr)


if __name__ == "__main__":
    unittest.main(verbosity=2)
