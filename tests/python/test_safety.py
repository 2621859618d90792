# SPDX-License-Identifier: Apache-2.0
"""No use of the module from Python crashes the process, and no array shows what it should not."""

import gc
import os
import signal
import subprocess
import sys
import threading
import time

import kvtier
import numpy as np
import pytest
from conftest import Daemon, free, new_keys, publish_new


def mapped_windows() -> int:
    """How many mappings of kvtier's memory this process has."""
    with open("/proc/self/maps") as maps:
        return sum("/memfd:" in line for line in maps)


def test_a_view_outlives_its_step(still_daemon: Daemon):
    """While it lives, the page's frame is not used again, though the page is gone."""
    session = still_daemon.attach(timeout_ms=2000)  # for which the last allocation waits in vain
    hold, keys = publish_new(session, 1)
    page = int(hold.pages[0])
    with session.step() as step:
        view = step.pages(page)[0][10:20]  # a slice: the base keeps what has to be kept
    assert step.ended and session.views == 1
    free(session, hold, page)
    # All memory that can be had is written; not where the view looks.
    others = session.allocate(0)
    try:
        while True:
            others.append(session.allocate(1))
            session.data(others.pages[-1])[:] = 0xEE
    except kvtier.Full:
        pass
    assert len(others) > 1000 and (view == 1).all()
    steps = [session.step() for _ in range(63)]
    with pytest.raises(kvtier.Limit):  # the view's is the 64th
        session.step()
    del view
    assert session.views == 0
    steps.append(session.step())
    session.close()


def test_views_are_read_only_and_stay_so(session):
    hold, keys = publish_new(session, 1)
    with session.step() as step:
        view = step.pages(hold)[0]
        for write in (lambda: view.__setitem__(0, 9), lambda: view.setflags(write=True), lambda: view.view(np.uint16).fill(3)):
            with pytest.raises(ValueError):
                write()
        assert (view == 1).all() and memoryview(view).readonly
        del view


@pytest.mark.parametrize("end", ["publish", "seal", "release", "drop", "session.release", "seal in a step"])
def test_an_array_for_writing_ends_with_the_writing(session, end):
    hold = session.allocate(1)
    page = int(hold.pages[0])
    first, again = session.data(page), session.data(page)
    first[:] = 1
    again[0] = 2
    assert first[0] == 2
    if end == "publish":
        session.publish(hold, new_keys(1))
    elif end == "seal":
        session.seal(hold)
    elif end == "seal in a step":
        with session.step() as step:
            session.seal(hold, step=step)
    elif end == "release":
        hold.release()
    elif end == "session.release":
        session.release(hold.take())
    else:
        del hold
    for array in (first, again):
        assert not array.flags.writeable
        with pytest.raises(ValueError):
            array[0] = 3


def test_a_session_stays_mapped_while_views_live(daemon: Daemon):
    gc.collect()
    before = mapped_windows()
    session = daemon.attach()
    hold, keys = publish_new(session, 1)
    filling = session.allocate(1)
    writable = session.data(filling.pages[0])
    step = session.step()
    view = step.pages(hold)[0]
    with pytest.warns(ResourceWarning, match="stays attached"):
        session.close()
    assert session.closed and mapped_windows() > before
    writable[:] = 77
    assert (view == 1).all() and (writable == 77).all()
    del view, step, hold, filling
    assert mapped_windows() > before
    del writable
    assert mapped_windows() == before


def test_a_dropped_session_lives_as_long_as_what_it_gave(daemon: Daemon):
    before = mapped_windows()

    def view_of_a_page() -> np.ndarray:
        session = daemon.attach()
        hold, keys = publish_new(session, 1)
        with session.step() as step:
            return step.pages(hold)[0]

    view = view_of_a_page()
    assert (view == 1).all()
    del view
    assert mapped_windows() == before


def in_child(run) -> int:
    """Exit code of a forked child that runs `run`, or minus the signal that ended it."""
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            run()
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_a_forked_child(daemon: Daemon, session):
    hold, keys = publish_new(session, 1)
    filling = session.allocate(1)
    writable = session.data(filling.pages[0])
    writable[:] = 5
    array = np.zeros(64, dtype=np.uint8)
    job = session.load(hold, [array])
    step = session.step()
    view = step.pages(hold)[0]

    def run() -> None:
        nonlocal hold, filling, step, view, writable, job
        for call in (lambda: session.allocate(1), lambda: session.touch(hold), lambda: step.resolve(hold), lambda: job.wait(),
                     lambda: job.done(), lambda: session.stats(), lambda: session.publish(filling, keys),
                     lambda: session.free_count, lambda: session.geometry, lambda: session.token):
            with pytest.raises(kvtier.Forked):
                call()
        assert not view.any() and not writable.any()  # zeros, no crash
        with daemon.attach() as own, own.hold_keys(keys) as found, own.step() as own_step:
            assert (own_step.pages(found)[0] == 1).all()
        session.close()
        del hold, filling, step, view, writable, job
        gc.collect()

    assert in_child(run) == 0
    job.wait()
    assert (view == 1).all() and (array == 1).all()


def test_waiting_gives_up_the_gil(own_daemon: Daemon):
    """A stopped daemon answers when another thread of Python, which has to run meanwhile, lets it go on."""
    session = own_daemon.attach(timeout_ms=60000)
    own_daemon.signal(signal.SIGSTOP)
    begins = threading.Event()
    failed = []

    def wait() -> None:
        begins.set()
        try:
            session.flush()
        except kvtier.Error as error:
            failed.append(error)

    thread = threading.Thread(target=wait)
    started = time.monotonic()
    thread.start()
    begins.wait()
    own_daemon.signal(signal.SIGCONT)
    thread.join()
    assert not failed and time.monotonic() - started < 30


def test_closing_while_other_threads_call(daemon: Daemon, rng):
    for _ in range(20):
        session = daemon.attach(copy_threads=1)
        hold, keys = publish_new(session, 3)
        unexpected = []
        running = threading.Barrier(4)

        def use(kind: int) -> None:
            running.wait()
            try:
                while True:
                    if kind == 0:
                        with session.step() as step:
                            assert [int(array[0]) for array in step.pages(hold)] == [1, 2, 3]
                    elif kind == 1:
                        session.flush()
                        session.hold_keys(keys)
                    else:
                        arrays = [np.zeros(65536, dtype=np.uint8) for _ in range(3)]
                        session.load(hold, arrays).wait()
                        assert [int(array.min()) for array in arrays] == [1, 2, 3]
            except kvtier.Closed:
                pass
            except BaseException as error:
                unexpected.append(error)

        threads = [threading.Thread(target=use, args=(kind,)) for kind in range(3)]
        for thread in threads:
            thread.start()
        running.wait()
        for _ in range(int(rng.integers(0, 30))):
            session.touch(hold)
        session.close()
        for thread in threads:
            thread.join()
        assert not unexpected


NONSENSE = """
import os, random, sys
import numpy as np
import kvtier

seed = int(sys.argv[1])
choose = random.Random(seed)
rng = np.random.default_rng(seed)
session = kvtier.attach(timeout_ms=200)
arena = session.geometry
filling = session.allocate(1)
things = [session.allocate(3), session.step(), session.sequence(5), session.data(filling.pages[0])]

KINDS = (kvtier.Step, kvtier.Hold, kvtier.Sequence, kvtier.CopyJob, np.ndarray, list)

def number():
    return choose.choice([0, 1, -1, 2**31, 2**32 - 1, 2**32, 2**63, 2**64 - 1, 2**64, arena.pages, arena.frames,
                          choose.randrange(arena.pages), choose.randrange(2**40)])

def value():
    return choose.choice([
        number, lambda: None, lambda: "text", lambda: b"sixteen bytes...", lambda: 1.5, lambda: [number() for _ in range(3)],
        lambda: rng.integers(0, 2**63, 4).astype(np.uint64), lambda: rng.integers(0, arena.pages, 4).astype(np.uint64),
        lambda: rng.integers(0, 2**32, (3, 2)).astype(np.uint64), lambda: rng.integers(0, 2**32, 3).astype(np.uint32),
        lambda: np.zeros((2, 50), dtype=np.uint8), lambda: [np.zeros((2, 50))[::-1], np.ones(7)[::2], np.zeros(0)],
        lambda: choose.choice(things), lambda: True])()

calls = 0
for _ in range(int(sys.argv[2])):
    target = choose.choice(things + [session] * 4)
    # Reading a list of arrays is a use, too.
    if isinstance(target, list):
        for item in target:
            if item is not None: int(item.sum())
        continue
    name = choose.choice([n for n in dir(type(target)) if not n.startswith("__") or n in ("__len__", "__array__")])
    if isinstance(target, np.ndarray) or name == "close": continue
    call = getattr(type(target), name)
    if not callable(call): continue
    arguments = [value() for _ in range(choose.randrange(4))]
    if name == "allocate": arguments = [choose.randrange(50)]
    keywords = {}
    if name in ("store", "load"):
        keywords = choose.choice([{}, {"page_offset": abs(number()) % 2**64}, {"page_stride": abs(number()) % 2**64}])
    try:
        result = call(target, *arguments, **keywords)
        calls += 1
    except (kvtier.Error, TypeError, ValueError, OverflowError, MemoryError, AttributeError):
        continue
    if isinstance(result, kvtier.Reservation): result = result.hold
    if isinstance(result, KINDS):
        things.append(result)
        if len(things) > 40: things.pop(choose.randrange(len(things)))
print(calls)
"""


def test_nonsense_never_crashes(own_daemon: Daemon, rng):
    """Random calls with random values, in processes of their own; each ends as a Python program does."""
    environment = dict(os.environ, KVTIER_SOCKET_DIR=own_daemon.socket_dir)
    for _ in range(4):
        seed = int(rng.integers(0, 2**32))
        command = [sys.executable, "-X", "faulthandler", "-c", NONSENSE, str(seed), "3000"]
        ended = subprocess.run(command, env=environment, text=True, capture_output=True)
        assert ended.returncode == 0, f"seed {seed}: {ended.stderr}"
        assert int(ended.stdout) > 100, f"seed {seed}: hardly a call was valid"


def test_ending_with_everything_alive(daemon: Daemon):
    """The interpreter's end takes objects away in any order."""
    program = """
import kvtier, numpy as np, threading
session = kvtier.attach(copy_threads=1)
hold = session.allocate(3)
array = session.data(hold.pages[0])
step = session.step()
view = step.pages(hold)[0]
job = session.store(hold, [np.zeros(50)] * 3)
cycle = [session, hold, step, view, job]
cycle.append(cycle)
thread = threading.Thread(target=lambda: [session.flush() for _ in range(10**9)], daemon=True)
thread.start()
"""
    environment = dict(os.environ, KVTIER_SOCKET_DIR=daemon.socket_dir)
    for _ in range(5):
        ended = subprocess.run([sys.executable, "-c", program], env=environment, text=True, capture_output=True)
        assert ended.returncode == 0, ended.stderr


@pytest.mark.parametrize(
    "kind",
    [kvtier.CopyJob, kvtier.DeviceArray, kvtier.DeviceMap, kvtier.DeviceTouches, kvtier.Hold, kvtier.Sequence]
    + [kvtier.Session, kvtier.Step],
)
def test_objects_come_from_sessions_alone(kind):
    with pytest.raises(TypeError):
        kind()
    with pytest.raises(TypeError):
        kind.__new__(kind)
    with pytest.raises(TypeError):
        object.__new__(kind)
    with pytest.raises(TypeError):
        type("Mine", (kind,), {})()
