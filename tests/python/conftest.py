# SPDX-License-Identifier: Apache-2.0
"""A kvtierd for the tests, and what they share. KVTIERD is the program, KVTIERD_CONFIG its configuration."""

import os
import random
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Iterator

import kvtier
import numpy as np
import pytest


class Daemon:
    """A kvtierd in a private folder."""

    def __init__(self, config: str = os.environ["KVTIERD_CONFIG"]) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="kvtier-python-")
        self.socket_dir = self._folder.name
        with_me = ["setpriv", "--pdeathsig", "TERM"] if shutil.which("setpriv") else []  # it ends however the tests end
        command = [*with_me, os.environ["KVTIERD"], "--config", config, "--socket-dir", self.socket_dir]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        assert self._process.stdout is not None
        said = ""
        for line in self._process.stdout:
            said += line
            if " is ready" in line:
                return
        raise RuntimeError("kvtierd did not start:\n" + said)

    def attach(self, **arguments: object) -> kvtier.Session:
        arguments.setdefault("timeout_ms", 20000)
        return kvtier.attach(socket_dir=self.socket_dir, **arguments)  # type: ignore[arg-type]

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    def end(self) -> None:
        """Ends it in order; fails when it had a fault of its own."""
        self.signal(signal.SIGTERM)
        said, _ = self._process.communicate()
        self._folder.cleanup()
        assert self._process.returncode == 0, said

    def kill(self) -> None:
        if self._process.returncode is None:
            self.signal(signal.SIGKILL)
            self._process.communicate()
            self._folder.cleanup()


@pytest.fixture(scope="session")
def daemon() -> Iterator[Daemon]:
    daemon = Daemon()
    yield daemon
    daemon.end()


@pytest.fixture
def own_daemon() -> Iterator[Daemon]:
    """One that the test may stop."""
    daemon = Daemon()
    yield daemon
    daemon.kill()


@pytest.fixture
def still_daemon() -> Iterator[Daemon]:
    """One of the test's own, that moves no page."""
    daemon = Daemon(str(Path(__file__).with_name("still.toml")))
    yield daemon
    daemon.end()


@pytest.fixture
def session(daemon: Daemon) -> Iterator[kvtier.Session]:
    with daemon.attach() as session:
        yield session


@pytest.fixture
def other(daemon: Daemon) -> Iterator[kvtier.Session]:
    with daemon.attach() as session:
        yield session


@pytest.fixture
def rng() -> np.random.Generator:
    """Random numbers, of a seed that is printed, and taken from KVT_SEED."""
    seed = int(os.environ.get("KVT_SEED", random.randrange(2**32)))
    print(f"KVT_SEED={seed}")
    return np.random.default_rng(seed)


_next_key = 1


def new_keys(n: int) -> np.ndarray:
    """Keys that no other test has."""
    global _next_key
    keys = np.empty((n, 2), dtype=np.uint64)
    keys[:, 0] = np.arange(_next_key, _next_key + n)
    keys[:, 1] = os.getpid()
    _next_key += n
    return keys


def publish_new(session: kvtier.Session, n: int) -> "tuple[kvtier.Hold, np.ndarray]":
    """n published pages, held; each byte of page i is i + 1."""
    keys = new_keys(n)
    hold = session.allocate(n)
    for i, page in enumerate(hold.pages):
        session.data(page)[:] = i + 1
    session.publish(hold, keys, chain=True)
    return hold, keys


def holds(session: kvtier.Session, page: int) -> int:
    return session.page_info(kvtier.page_index(page)).own_holds


def free(session: kvtier.Session, hold: kvtier.Hold, page: int) -> None:
    """Gives `hold` back, and waits until its published page `page` is gone: one that is being moved goes later."""
    session.unpublish(page)
    session.flush()
    hold.release()
    end = time.monotonic() + 60
    while session.page_info(kvtier.page_index(page)).page == page:
        assert time.monotonic() < end, "an unkeyed page that nobody holds stays"
