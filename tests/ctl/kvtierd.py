# SPDX-License-Identifier: Apache-2.0
#
# A real kvtierd in a folder of its own, and kvtierctl asking it. The programs are named by KVTIERD and KVTIERCTL.
import json
import os
import signal
import subprocess
import tempfile
import time

KVTIERD = os.environ["KVTIERD"]
KVTIERCTL = os.environ["KVTIERCTL"]
PATIENCE = 60.0  # seconds: the longest that anything is waited for

CONFIG = """
[daemon]
period_ms = 2
[policy]
name = "balance"
[[tier]]
name = "hbm0"
kind = "emulated-hbm"
bytes = "2MiB"
[[tier]]
name = "dram"
bytes = "17MiB"
[[arena]]
name = "default"
page_bytes = "16KiB"
bytes = { hbm0 = "2MiB", dram = "16MiB" }
"""


def eventually(done, limit=PATIENCE):
    """Whether done() becomes true in time."""
    end = time.monotonic() + limit
    while not done():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


class Daemon:
    def __init__(self, config=CONFIG):
        self._folder = tempfile.TemporaryDirectory(prefix="kvt-")
        self.folder = self._folder.name
        self.config = os.path.join(self.folder, "kvtierd.toml")
        with open(self.config, "w", encoding="utf-8") as file:
            file.write(config)
        self.process = None
        self.start()

    def start(self):
        with open(os.path.join(self.folder, "log"), "ab") as log:
            self.process = subprocess.Popen(
                [KVTIERD, "--config", self.config, "--socket-dir", self.folder], stderr=log, stdout=log
            )
        socket = os.path.join(self.folder, "attach.sock")
        ready = eventually(lambda: self.process.poll() is not None or os.path.exists(socket))
        assert ready and self.process.poll() is None, self.log()

    def log(self):
        with open(os.path.join(self.folder, "log"), encoding="utf-8") as file:
            return file.read()

    def stop(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.terminate()
        self.process.wait(PATIENCE)

    def close(self):
        self.stop()
        self._folder.cleanup()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def ctl(self, *arguments, **more):
        """kvtierctl, until it ends."""
        return subprocess.run(
            [KVTIERCTL, "--socket-dir", self.folder, *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            timeout=PATIENCE,
            check=False,
            **more,
        )

    def json(self, *arguments):
        return json.loads(self.ctl("--json", *arguments).stdout)
