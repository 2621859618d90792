# SPDX-License-Identifier: Apache-2.0
"""What is refused, and how it is said."""

import kvtier
import numpy as np
import pytest
from conftest import Daemon, new_keys, publish_new


def test_every_code_has_a_class():
    codes = {}
    for name in dir(kvtier):
        kind = getattr(kvtier, name)
        if isinstance(kind, type) and issubclass(kind, kvtier.Error) and kind not in (kvtier.Error, kvtier.Closed):
            codes[kind.code] = name
    assert sorted(codes) == list(range(-16, 0))
    assert issubclass(kvtier.Invalid, ValueError) and issubclass(kvtier.Closed, kvtier.Invalid)


@pytest.mark.parametrize(
    "pages, error",
    [
        ([-1], OverflowError),
        ([2**64], OverflowError),
        ([1.5], TypeError),
        (["a"], TypeError),
        ("12", TypeError),
        (b"12345678", TypeError),
        (None, TypeError),
        (1.0, TypeError),
        (np.array([1.0]), TypeError),
        (np.array([1], dtype=np.int64), TypeError),
        (np.array([1], dtype=">u8"), TypeError),
        (np.array([[1, 2]], dtype=np.uint64), TypeError),
        (np.array([object()]), TypeError),
    ],
)
def test_what_is_no_page(session, pages, error):
    for call in (session.touch, session.hold, session.release, session.seal):
        with pytest.raises(error):
            call(pages)
    with session.step() as step, pytest.raises(error):
        step.resolve(pages)


@pytest.mark.parametrize(
    "keys, error",
    [
        (b"123", ValueError),
        ("1234567812345678", TypeError),
        ([(1, 2)], TypeError),
        (np.zeros((2, 3), dtype=np.uint64), TypeError),
        (np.zeros(4, dtype=np.uint64), TypeError),
        (np.zeros((2, 2), dtype=np.int64), TypeError),
        (np.zeros((2, 2), dtype=np.float64), TypeError),
        (None, TypeError),
    ],
)
def test_what_is_no_key(session, keys, error):
    for call in (session.lookup, session.hold_keys, session.reserve):
        with pytest.raises(error):
            call(keys)


def test_pages_of_any_layout_are_read_right(session):
    hold, keys = publish_new(session, 6)
    spread = np.zeros(12, dtype=np.uint64)
    spread[::2] = hold.pages
    raw = bytearray(1 + 8 * 6)
    raw[1:] = hold.pages.tobytes()
    unaligned = np.frombuffer(raw, dtype=np.uint64, offset=1)
    with session.step() as step:
        for pages in (spread[::2], unaligned, hold.pages[::-1][::-1], tuple(hold.pages), list(hold.pages.tolist())):
            assert [int(array[0]) for array in step.pages(pages)] == [1, 2, 3, 4, 5, 6]


def test_counts_must_agree(session):
    with session.allocate(2) as pages:
        with pytest.raises(ValueError, match="2 pages and 1 keys"):
            session.publish(pages, new_keys(1))
        with pytest.raises(ValueError, match="1 parents where 2 are expected"):
            session.publish(pages, new_keys(2), parents=[1])
        with pytest.raises(ValueError, match="2 parents where 1 are expected"):
            session.publish(pages, new_keys(2), parents=[1, 2], chain=True)
        with pytest.raises(kvtier.Invalid, match=r"\{0,0\}"):
            session.publish(pages, np.array([[0, 0], [1, 987654]], dtype=np.uint64))


def test_attaching(daemon: Daemon, tmp_path):
    with pytest.raises(kvtier.Again) as caught:
        kvtier.attach(socket_dir=tmp_path)
    assert caught.value.code == -2 and "attach.sock" in str(caught.value)
    with pytest.raises(kvtier.NotFound, match="nowhere"):
        daemon.attach(arena="nowhere")
    with pytest.raises(kvtier.Mismatch):
        daemon.attach(page_bytes=12345)
    with pytest.raises(ValueError, match="32 bytes, not 3"):
        daemon.attach(fingerprint=b"abc")
    with pytest.raises(ValueError, match="16 bytes, not 3"):
        kvtier.join(b"abc", socket_dir=daemon.socket_dir)
    with pytest.raises(kvtier.Error):
        kvtier.join(bytes(16), socket_dir=daemon.socket_dir)
    with pytest.raises(TypeError):
        daemon.attach(page_bytes=-1)
    with daemon.attach(fingerprint=bytes(range(32))), pytest.raises(kvtier.Mismatch):
        daemon.attach(fingerprint=bytes(32))


def test_why_a_page_cannot_be_written(session, other):
    hold = session.allocate(1)
    page = int(hold.pages[0])
    with pytest.raises(kvtier.Permission):
        other.data(page)
    session.seal(page)
    with pytest.raises(kvtier.WrongState):
        session.data(page)
    hold.release()
    session.flush()
    with pytest.raises(kvtier.Stale):
        session.data(page)
    with pytest.raises(kvtier.Invalid):
        session.data(session.geometry.pages)
    with pytest.raises(TypeError):
        session.data(-1)


def test_steps(session, other):
    steps = [session.step() for _ in range(64)]
    with pytest.raises(kvtier.Limit):
        session.step()
    del steps
    step = session.step()
    page = session.allocate(1)
    with pytest.raises(ValueError, match="another session"):
        other.release([], step=step)
    with pytest.raises(ValueError, match="another session"):
        session.allocate(1).release(step=other.step())
    step.end()
    step.end()
    assert step.ended
    for call in (step.changes_begin, lambda: step.resolve([1]), lambda: step.pages([1]), lambda: step.changes(0)):
        with pytest.raises(kvtier.Invalid, match="the step has ended"):
            call()
    with pytest.raises(kvtier.Invalid, match="the step has ended"):
        page.release(step=step)
    assert len(page) == 1  # what was refused is still held
    with session.step() as step:
        for frames in (np.array([2**31], dtype=np.uint32), np.array([session.geometry.frames], dtype=np.uint32)):
            with pytest.raises(ValueError, match="in no tier"):
                step.pages_at(frames)
        assert len(step.pages_at(np.array([0], dtype=np.uint32))[0]) == session.geometry.page_bytes  # padding
        with pytest.raises(TypeError):
            step.pages_at([1])
        with pytest.raises(ValueError):
            step.changes(0, capacity=0)


def test_a_closed_session(daemon: Daemon):
    session = daemon.attach()
    hold = session.allocate(2)
    step = session.step()
    sequence = session.sequence(3)
    session.close()
    session.close()
    assert session.closed
    for call in (lambda: session.allocate(1), lambda: session.lookup(b""), lambda: step.resolve([1]), lambda: sequence.touch(),
                 lambda: session.handle, lambda: session.stats(), lambda: session.step(), lambda: step.changes_begin()):
        with pytest.raises(kvtier.Closed):
            call()
    hold.release()
    sequence.close()
    step.end()


def test_a_daemon_that_goes(own_daemon: Daemon):
    session = own_daemon.attach(timeout_ms=300)
    hold, keys = publish_new(session, 2)
    own_daemon.kill()
    with session.step() as step:
        assert [int(array[0]) for array in step.pages(hold)] == [1, 2]
    assert session.lookup(keys).tolist() == hold.pages.tolist()
    session.touch(hold)
    with pytest.raises(kvtier.Again):
        session.flush()
    assert not session.stats().connected
    hold.release()
    session.close()
