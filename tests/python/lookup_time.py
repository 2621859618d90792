# SPDX-License-Identifier: Apache-2.0
"""How long lookup, hold and resolve of a prefix of 1,000 blocks take in Python, beside the C calls in the same run.

    lookup_time.py [--runs N] [--keys N]      KVTIERD names the daemon's program

The C calls are made through ctypes with arrays that are there already, on the same session: they are what cannot be
less. Prints the median, and the times that a tenth of the runs were below and above. No time is too long for this
program; what the calls find is checked."""

import argparse
import ctypes
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import kvtier
import numpy as np


def spread(seconds):
    low, median, high = np.percentile(np.array(seconds) * 1e6, [10, 50, 90])
    return f"{median:8.1f} us   ({low:.1f} to {high:.1f})"


def timed(call):
    begin = time.perf_counter()
    result = call()
    return time.perf_counter() - begin, result


def measure(session, n, runs):
    with session.allocate(n) as written:
        keys = np.random.default_rng(1).integers(1, 2**63, (n, 2)).astype(np.uint64)
        session.publish(written, keys, chain=True)
        expected = written.pages.copy()

    from kvtier import _kvtier

    library = ctypes.CDLL(_kvtier.__file__)  # the libkvtier that it is linked with
    handle = ctypes.c_void_p(session.handle)
    pages = np.zeros(n, dtype=np.uint64)
    frames = np.zeros(n, dtype=np.uint32)
    count = ctypes.c_size_t(n)

    class RawStep(ctypes.Structure):
        _fields_ = [("epoch", ctypes.c_uint64), ("slot", ctypes.c_uint32), ("serial", ctypes.c_uint32)]

    raw = RawStep()
    keys_at, pages_at, frames_at = (ctypes.c_void_p(array.ctypes.data) for array in (keys, pages, frames))
    chain, hold_chain, none = ctypes.c_uint32(2), ctypes.c_uint32(3), ctypes.c_void_p(None)
    calls = {
        "C       lookup": lambda: library.kvt_lookup(handle, keys_at, count, chain, pages_at),
        "Python  lookup": lambda: session.lookup(keys, chain=True),
        "C       lookup and hold": lambda: library.kvt_lookup(handle, keys_at, count, hold_chain, pages_at),
        "Python  lookup and hold": lambda: session.hold_keys(keys),
        "C       release": lambda: library.kvt_release(handle, pages_at, count, none),
        "Python  release": lambda: python_hold.release(),
        "C       resolve": lambda: library.kvt_resolve(handle, ctypes.byref(raw), pages_at, count, frames_at),
        "Python  resolve": lambda: step.resolve(expected),
        "C       touch": lambda: library.kvt_touch(handle, pages_at, count),
        "Python  touch": lambda: session.touch(expected),
    }
    times = {name: [] for name in calls}
    results = {}
    for _ in range(runs):
        step = session.step()
        assert library.kvt_step_begin(handle, ctypes.byref(raw)) == 0
        for name, call in calls.items():
            seconds, results[name] = timed(call)
            times[name].append(seconds)
            if name == "Python  lookup and hold":
                python_hold = results[name]
                assert np.array_equal(python_hold.pages, expected)
        step.end()
        assert library.kvt_step_end(handle, ctypes.byref(raw)) == 0
        assert results["C       lookup and hold"] == results["C       lookup"] == results["C       resolve"] == n
        assert results["C       release"] == results["C       touch"] == 0
        assert np.array_equal(pages, expected) and np.array_equal(results["Python  lookup"], expected)
        assert np.array_equal(frames, results["Python  resolve"])
    return times


def main():
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--runs", type=int, default=2000)
    options.add_argument("--keys", type=int, default=1000)
    arguments = options.parse_args()
    config = Path(__file__).with_name("still.toml")
    with tempfile.TemporaryDirectory(prefix="kvtier-python-") as folder:
        with_me = ["setpriv", "--pdeathsig", "TERM"] if shutil.which("setpriv") else []
        command = [*with_me, os.environ["KVTIERD"], "--config", config, "--socket-dir", folder]
        daemon = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        try:
            if not any(" is ready" in line for line in daemon.stdout):
                sys.exit("lookup_time: kvtierd did not start")
            with kvtier.attach(socket_dir=folder, timeout_ms=20000) as session:
                times = measure(session, arguments.keys, arguments.runs)
        finally:
            daemon.terminate()
            daemon.communicate()
    print(f"{arguments.keys} keys, {arguments.runs} runs, {platform.machine()}, {os.cpu_count()} cores, Python "
          f"{platform.python_version()}, NumPy {np.__version__}: median (10 % to 90 %)")
    for name, seconds in times.items():
        print(f"{name:24s} {spread(seconds)}")


if __name__ == "__main__":
    main()
