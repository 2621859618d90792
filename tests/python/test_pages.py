# SPDX-License-Identifier: Apache-2.0
"""Writing, finding, holding and reading pages."""

import os
import subprocess
import sys

import kvtier
import numpy as np
import pytest
from conftest import Daemon, free, holds, new_keys, publish_new


def test_geometry(session):
    arena = session.geometry
    assert arena.pages > 200 and arena.page_bytes == 65536 and not arena.read_only
    assert [window.name for window in arena.windows] == ["hbm", "dram"]
    assert [window.emulated for window in arena.windows] == [True, False]
    assert kvtier.__version__.count(".") == 2


def test_what_one_session_writes_another_one_reads(session, other):
    written, keys = publish_new(session, 5)
    assert not session.data.__doc__ == ""
    with other.hold_keys(keys) as found:
        assert np.array_equal(found.pages, written.pages)
        with other.step() as step:
            arrays = step.pages(found)
            assert [int(array[0]) for array in arrays] == [1, 2, 3, 4, 5]
            assert all((array == array[0]).all() and len(array) == 65536 for array in arrays)
            frames = step.resolve(found)
            assert frames.dtype == np.uint32 and (frames != kvtier.NO_FRAME).all()
            assert [int(array[-1]) for array in step.pages_at(frames)] == [1, 2, 3, 4, 5]
            addresses = step.addresses(found)
            arena = other.geometry
            assert ((addresses - np.uint64(arena.base)) % np.uint64(arena.stride) == 0).all() and (addresses != 0).all()
            del arrays


def test_lookup_takes_arrays_and_bytes(session):
    written, keys = publish_new(session, 3)
    missing = new_keys(1)
    some = np.concatenate([keys[:2], missing, keys[2:]])
    expected = [written.pages[0], written.pages[1], kvtier.NO_PAGE, written.pages[2]]
    assert session.lookup(some).tolist() == expected
    assert session.lookup(some.tobytes()).tolist() == expected
    assert session.lookup(memoryview(some.tobytes())).tolist() == expected
    assert session.lookup(np.asfortranarray(some)).tolist() == expected
    assert session.lookup(some, chain=True).tolist() == expected[:2] + [kvtier.NO_PAGE] * 2
    assert [holds(session, page) for page in written.pages] == [1, 1, 1]  # a lookup holds nothing
    with session.hold_keys(some, chain=False) as all_there:
        assert all_there.pages.tolist() == expected
        assert holds(session, written.pages[2]) == 2
    with session.hold_keys(some) as prefix:
        assert prefix.pages.tolist() == expected[:2]
        assert [holds(session, page) for page in written.pages] == [2, 2, 1]
    assert [holds(session, page) for page in written.pages] == [1, 1, 1]
    assert len(session.lookup(b"")) == 0 and len(session.hold_keys(b"")) == 0


def test_a_hold_is_given_back_with_its_last_reference(session):
    written, keys = publish_new(session, 2)
    page = written.pages[0]
    hold = session.hold([page, page])
    assert holds(session, page) == 3
    alias = hold
    del hold
    assert holds(session, page) == 3
    del alias
    assert holds(session, page) == 1
    hold = session.hold(written)
    taken = hold.take()
    assert len(hold) == 0 and taken.tolist() == written.pages.tolist()
    del hold
    assert holds(session, page) == 2
    session.release(taken)
    assert holds(session, page) == 1
    with pytest.raises(kvtier.NotHeld):
        written.release()
        session.release([page])
    assert len(written) == 0


def test_a_page_that_was_released_is_not_written(session):
    page = session.allocate(1).pages[0]  # nobody keeps the hold: it is given back
    for call in (lambda: session.data(page), lambda: session.seal([page]), lambda: session.publish([page], new_keys(1))):
        with pytest.raises(kvtier.Stale, match="was released"):
            call()


def test_holds_append(session, other):
    written, keys = publish_new(session, 4)
    hold = session.hold(written.pages[:1])
    rest = session.hold(written.pages[1:])
    hold.append(rest)
    assert len(rest) == 0 and np.array_equal(np.asarray(hold), written.pages)
    with pytest.raises(ValueError):
        hold.append(other.hold(written))
    with pytest.raises(ValueError):
        hold.append(hold)
    hold.release()
    assert [holds(session, page) for page in written.pages] == [1] * 4


def test_a_hold_whose_page_is_gone_has_a_gap(session):
    written, keys = publish_new(session, 2)
    gone = written.pages[0]
    pages = written.pages.copy()
    free(session, written, gone)
    with session.hold(pages) as hold:
        assert hold.pages.tolist() == [kvtier.NO_PAGE, pages[1]]
    with session.step() as step:
        assert step.pages(pages)[0] is None
        assert step.resolve(pages)[0] == kvtier.NO_FRAME
        assert step.addresses(pages)[0] == 0
        assert step.pages_at(step.resolve(pages))[0] is None


def test_publishing_what_is_there(session, other):
    written, keys = publish_new(session, 2)
    with other.allocate(3) as own:
        more = np.concatenate([keys, new_keys(1)])
        published = other.publish(own, more, parents=[kvtier.NO_PAGE] * 3, group=7)
        assert published.results.tolist() == [kvtier.Publish.PRESENT] * 2 + [kvtier.Publish.PUBLISHED]
        assert published.present.tolist() == [written.pages[0], written.pages[1], kvtier.NO_PAGE]
        info = other.page_info(kvtier.page_index(own.pages[2]))
        assert info.group == 7 and info.keyed and info.key == tuple(more[2].tolist())
        assert info.state == kvtier.State.SEALED and info.page == own.pages[2]


def test_a_chain_has_parents(session):
    first, keys = publish_new(session, 1)
    with session.allocate(2) as more:
        session.publish(more, new_keys(2), chain=True, parents=first.pages[0])
        infos = [session.page_info(kvtier.page_index(page)) for page in more.pages]
        assert [info.parent for info in infos] == [first.pages[0], more.pages[0]]


def test_a_refused_page_raises_and_the_others_are_published(session, other):
    with session.allocate(2) as own, other.allocate(1) as foreign:
        keys = new_keys(3)
        pages = np.array([own.pages[0], foreign.pages[0], own.pages[1]])
        with pytest.raises(kvtier.Permission, match="1 of 3 pages refused") as caught:
            session.publish(pages, keys)
        assert caught.value.published.results.tolist() == [1, kvtier.Permission.code, 1]
        assert session.lookup(keys).tolist() == [own.pages[0], kvtier.NO_PAGE, own.pages[1]]


def test_reserve(session, other):
    written, keys = publish_new(session, 1)
    asked = np.concatenate([keys, new_keys(2)])
    mine = session.reserve(asked)
    assert mine.results.tolist() == [kvtier.Reserve.PRESENT, kvtier.Reserve.NEW, kvtier.Reserve.NEW]
    assert mine.hold.pages[0] == written.pages[0]
    theirs = other.reserve(asked)
    assert theirs.results.tolist() == [kvtier.Reserve.PRESENT, kvtier.Reserve.PENDING, kvtier.Reserve.PENDING]
    assert theirs.hold.pages.tolist() == [written.pages[0], kvtier.NO_PAGE, kvtier.NO_PAGE]
    session.publish(mine.hold.pages[1:], asked[1:])
    assert other.lookup(asked).tolist() == mine.hold.pages.tolist()
    mine.hold.release()
    theirs.hold.release()
    assert holds(session, written.pages[0]) == 1 and holds(other, written.pages[0]) == 0


def test_a_full_arena_gives_nothing(session):
    before = session.free_count
    with pytest.raises(kvtier.Full):
        session.allocate(session.geometry.pages + 1)
    session.flush()
    assert session.free_count >= before
    with pytest.raises((MemoryError, ValueError)):
        session.allocate(2**61)
    assert len(session.allocate(0)) == 0


def test_seal_and_release_when_a_step_ends(session):
    hold = session.allocate(2)
    page, released = hold.pages.tolist()
    with session.step() as step:
        session.seal([page], step=step)
        session.release([released], step=step)
        assert session.page_info(kvtier.page_index(page)).state == kvtier.State.FILLING
        assert holds(session, released) == 1
    session.flush()
    assert session.page_info(kvtier.page_index(page)).state == kvtier.State.SEALED
    assert holds(session, released) == 0
    hold.take()
    session.release([page])
    hold = session.allocate(1)
    page = hold.pages[0]
    with session.step() as step:
        hold.release(step=step)
        assert len(hold) == 0 and holds(session, page) == 1
    assert holds(session, page) == 0


def test_the_change_log_leads_where_resolving_leads(session):
    hold, keys = publish_new(session, 30)
    slot_of = {kvtier.page_index(page): i for i, page in enumerate(hold.pages)}
    step = session.step()
    cursor = step.changes_begin()
    frames = step.resolve(hold)
    step.end()
    followed = 0
    while followed < 50:  # the daemon moves pages at random
        with session.step() as step:
            changes = [0]
            while len(changes) != 0:
                cursor, changes = step.changes(cursor, capacity=16)
                for change in changes:
                    if change["index"] in slot_of:
                        frames[slot_of[change["index"]]] = change["frame"]
                        followed += 1
            values = [int(array[0]) for array in step.pages_at(frames)]
        assert values == list(range(1, 31))
    with session.step() as step:
        with pytest.raises(kvtier.Overrun):
            step.changes(2**60)


def test_counting_what_is_read(session):
    hold, keys = publish_new(session, 3)
    session.touch(hold)
    session.touch([int(page) for page in hold.pages])
    session.touch(int(hold.pages[0]))
    session.touch_range(0, session.geometry.pages)
    with session.sequence(4) as sequence:
        sequence.append(hold)
        sequence.touch()
        with pytest.raises(kvtier.Limit):
            sequence.append(hold)
    with pytest.raises(kvtier.Invalid, match="closed"):
        sequence.touch()
    sequence.close()
    assert session.advise(hold, kvtier.Advice.PREFETCH) == 3
    with pytest.raises(kvtier.Invalid):
        session.advise(hold, 99)
    session.set_group(hold, 5)
    session.flush()
    assert session.page_info(kvtier.page_index(hold.pages[2])).group == 5


def test_statistics(session):
    before = session.stats()
    with session.step():
        session.lookup(new_keys(3))
        session.allocate(2)
    after = session.stats()
    assert after.steps - before.steps == 1 and after.lookups - before.lookups == 3
    assert after.allocated - before.allocated == 2 and after.connected and after.lookup_hits == before.lookup_hits


def test_offers_and_balance_can_be_left_out(daemon: Daemon):
    with daemon.attach(offers=False, balance=False, stage_bytes_max=1 << 20) as session:
        hold, _ = publish_new(session, 3)
        with session.step() as step:
            assert list(step.resolve(hold.pages)) == [session.page_info(kvtier.page_index(page)).frame for page in hold.pages]
        stats = session.stats()
        assert stats.offers_taken == 0 and stats.bytes_staged == 0


def test_another_process_joins(daemon: Daemon):
    with daemon.attach(members_max=2) as session:
        hold, keys = publish_new(session, 2)
        program = """
import sys, kvtier
token, page = bytes.fromhex(sys.argv[1]), int(sys.argv[2])
with kvtier.join(token, timeout_ms=20000) as session, session.step() as step:
    assert session.geometry.member == 1
    print(step.pages(page)[0][5])
"""
        environment = dict(os.environ, KVTIER_SOCKET_DIR=daemon.socket_dir)
        command = [sys.executable, "-c", program, session.token.hex(), str(hold.pages[1])]
        assert subprocess.check_output(command, env=environment, text=True) == "2\n"


def test_a_session_that_only_reads(daemon: Daemon, session):
    written, keys = publish_new(session, 1)
    with daemon.attach(read_only=True) as reader:
        assert reader.geometry.read_only
        with reader.hold_keys(keys) as hold, reader.step() as step:
            array = step.pages(hold)[0]
            assert (array == 1).all()
            with pytest.raises(ValueError):
                array[0] = 2
            del array
        for call in (lambda: reader.allocate(1), lambda: reader.data(written.pages[0]), lambda: reader.publish(written, keys)):
            with pytest.raises(kvtier.Permission):
                call()
