# SPDX-License-Identifier: Apache-2.0
"""Sessions with a GPU: pages in device memory and in host memory, steps and seals that streams end, copies in their
order, and what lives on the device. The driver is the one that KVTIER_CUDA_DRIVER names."""

import gc
import os
import threading
import time
import warnings
from typing import Iterator

import gpu
import kvtier
import numpy as np
import pytest
from conftest import Daemon, holds, new_keys

PAGE = 65536
CONFIG = """
[daemon]
period_ms = 2
[policy]
name = "off"
[cuda]
driver = "{driver}"
measure = false
[[tier]]
name = "hbm0"
kind = "cuda"
bytes = "4MiB"
[[tier]]
name = "dram"
bytes = "16MiB"
[[arena]]
name = "default"
page_bytes = 65536
"""


@pytest.fixture
def gpu_daemon(tmp_path) -> Iterator[Daemon]:
    """One for each test: its first pages are in device memory."""
    config = tmp_path / "kvtierd.toml"
    config.write_text(CONFIG.format(driver=os.environ["KVTIER_CUDA_DRIVER"]))
    daemon = Daemon(str(config))
    yield daemon
    daemon.end()


@pytest.fixture(scope="module")
def driver() -> gpu.Driver:
    return gpu.Driver()


@pytest.fixture
def stream(driver) -> gpu.Stream:
    return gpu.Stream(driver)


@pytest.fixture
def session(gpu_daemon) -> Iterator[kvtier.Session]:
    with gpu_daemon.attach(cuda_device=0) as session:
        yield session


def wait_for(session: kvtier.Session, stream: gpu.Stream) -> None:
    """Until the daemon knows of all steps and seals behind the stream."""
    stream.synchronize()
    end = time.monotonic() + 60
    while session.poll() != 0:
        assert time.monotonic() < end
    session.flush()


def publish(session: kvtier.Session, driver: gpu.Driver, stream: gpu.Stream, values) -> "tuple[kvtier.Hold, np.ndarray]":
    """Pages that the GPU writes, each byte of page i values[i]; published, held."""
    keys = new_keys(len(values))
    hold = session.allocate(len(values))
    source = gpu.Array(driver, (PAGE,))
    with session.step(stream) as step:
        for page, value in zip(hold.pages, values):
            source.upload(np.full(PAGE, value, dtype=np.uint8), stream)
            gpu.copy(driver, session.device_data(page).address, source.address, PAGE, stream)
        session.seal(hold, step)
    wait_for(session, stream)
    session.publish(hold, keys, chain=True)
    source.free()
    return hold, keys


def bytes_of(session: kvtier.Session, driver: gpu.Driver, stream: gpu.Stream, pages) -> "list[int]":
    """The value of each page, read by the GPU in a step of its stream; -1 where its bytes differ."""
    found = []
    with session.step(stream) as step:
        for address in step.addresses(pages):
            page = gpu.fetch(driver, int(address), PAGE, stream)
            found.append(int(page[0]) if (page == page[0]).all() else -1)
        session.touch(pages)
    return found


def test_windows_say_what_is_device_memory(session):
    windows = session.geometry.windows
    assert [(window.name, window.device, window.reachable) for window in windows] == [
        ("hbm0", True, True),
        ("dram", False, True),
    ]


def test_what_a_gpu_writes_a_gpu_reads(session, driver, stream, gpu_daemon):
    hold, keys = publish(session, driver, stream, range(1, 101))  # more than device memory has
    hbm = session.geometry.windows[0]
    with session.step() as step:
        frames = step.resolve(hold)
    on_device = (frames >= hbm.first_frame) & (frames < hbm.first_frame + hbm.frames)
    assert 0 < on_device.sum() < 100
    assert bytes_of(session, driver, stream, hold) == list(range(1, 101))
    with gpu_daemon.attach(cuda_device=0) as other, other.hold_keys(keys) as found:
        assert len(found) == 100
        assert bytes_of(other, driver, stream, found) == list(range(1, 101))
    # A process without a GPU sees what is in host memory.
    with gpu_daemon.attach() as host, host.hold_keys(keys) as found, host.step() as step:
        assert not host.geometry.windows[0].reachable
        arrays = step.pages(found)
        assert [array is None for array in arrays] == on_device.tolist()
        assert all(array[0] == i + 1 for i, array in enumerate(arrays) if array is not None)
        del arrays


def test_the_cpu_is_kept_off_device_memory(session, driver, stream):
    with session.allocate(1) as filling:
        page = filling.pages[0]
        assert session.page_info(kvtier.page_index(page)).tier == 0
        with pytest.raises(kvtier.WrongState, match="is memory of a GPU.*device_data"):
            session.data(page)
        array = session.device_data(page)
        assert array.shape == (PAGE,) and array.__cuda_array_interface__["data"] == (array.address, False)
        del array
    hold, _ = publish(session, driver, stream, [7])
    with session.step() as step:
        with pytest.raises(kvtier.WrongState, match="is memory of a GPU.*device_frames"):
            step.pages(hold)
        with pytest.raises(kvtier.WrongState):
            step.pages_at(np.array([session.geometry.scratch_frame], dtype=np.uint32))


def test_frames_are_one_array(session, driver, stream):
    hold, _ = publish(session, driver, stream, [40, 41])
    frames = session.device_frames()
    said = frames.__cuda_array_interface__
    arena = session.geometry
    assert said["shape"] == (arena.frames, PAGE) and said["strides"] == (arena.stride, 1)
    assert said["typestr"] == "|u1" and said["version"] == 3 and said["data"][0] == arena.base == frames.address
    with session.step(stream) as step:
        for frame, value in zip(step.resolve(hold), [40, 41]):
            assert (gpu.fetch(driver, said["data"][0] + int(frame) * said["strides"][0], PAGE, stream) == value).all()


def test_a_step_lasts_until_its_stream_ends_it(session, driver, stream):
    hold, _ = publish(session, driver, stream, [3])
    with session.step(stream) as step:
        with pytest.raises(ValueError):
            session.seal(hold, step, stream=stream)
        step.resolve(hold)
        session.touch(hold)
    assert step.ended
    with pytest.raises(kvtier.Invalid):
        step.resolve(hold)
    wait_for(session, stream)
    assert session.poll() == 0
    hold.release()


def test_seals_behind_a_stream(session, driver, stream):
    source = gpu.Array(driver, (PAGE,))
    source.upload(np.full(PAGE, 9, dtype=np.uint8), stream)
    with session.allocate(2) as pages:
        for page in pages.pages:
            gpu.copy(driver, session.device_data(page).address, source.address, PAGE, stream)
        session.seal(pages, stream=stream)
        wait_for(session, stream)
        assert all(
            session.page_info(kvtier.page_index(page)).state == kvtier.State.SEALED for page in pages.pages
        )
        assert bytes_of(session, driver, stream, pages) == [9, 9]
    source.free()


def test_copies_in_the_order_of_a_stream(session, driver, stream, rng):
    layers, row = 4, 1000
    blocks = [rng.integers(0, 255, (layers, row), dtype=np.uint8) for _ in range(3)]
    on_device = [gpu.Array(driver, (layers, row)) for _ in blocks]
    back = [gpu.Array(driver, (layers, row)) for _ in blocks]
    for array, block in zip(on_device, blocks):
        array.upload(block, stream)
    with session.allocate(3) as pages:
        for layer in range(layers):  # a layer at a time
            session.enqueue_store(
                stream, pages, [_layer(array, layer, row) for array in on_device], page_offset=layer * 2048
            )
        wait_for(session, stream)
        session.publish(pages, new_keys(3))
        session.enqueue_load(stream, pages, back, page_stride=2048)
        for array, block in zip(back, blocks):
            assert (array.download(stream) == block).all()
        # Memory of NumPy that is not pinned is the driver's to take or to refuse; what is no array is ours.
        with pytest.raises(TypeError, match="__cuda_array_interface__"):
            session.enqueue_load(stream, pages, [1, 2, 3])
        with pytest.raises(ValueError, match="3 pages and 1 arrays"):
            session.enqueue_load(stream, pages, back[:1])
        back[0].strides = (row // 2, 1)
        with pytest.raises(ValueError, match="overlap"):
            session.enqueue_load(stream, pages, back)
        session.enqueue_load(stream, [], [])

        class Huge:
            def __init__(self, shape: "tuple[int, ...]") -> None:
                self.__cuda_array_interface__ = {"shape": shape, "typestr": "<f8", "data": (64, False), "version": 3}

        for shape in ((2**60,), (2**62, 2), (2**32, 2**32), (2**61,)):
            with pytest.raises(ValueError, match="too large|page"):
                session.enqueue_load(stream, pages, [Huge(shape)] * 3)
        with pytest.raises(ValueError, match="axis of -1"):
            session.enqueue_load(stream, pages, [Huge((4, -1))] * 3)
        with pytest.raises(kvtier.WrongState):
            session.enqueue_store(stream, pages, on_device)  # they are sealed
    for array in on_device + back:
        array.free()


def _layer(array: gpu.Array, layer: int, row: int):
    class Row:
        __cuda_array_interface__ = {
            **array.__cuda_array_interface__,
            "shape": (1, row),
            "data": (array.address + layer * row, False),
        }

    return Row()


def test_streams_are_taken_as_engines_have_them(session, stream):
    class Cupy:
        ptr = stream.cuda_stream

    class Other:
        def __cuda_stream__(self):
            return 0, stream.cuda_stream

    for given in (stream, stream.cuda_stream, Cupy(), Other(), np.uint64(stream.cuda_stream)):
        session.step(given).end()
    session.step(0).end()  # the default stream
    class Broken:
        @property
        def cuda_stream(self):
            raise KeyError("of the engine")

        __cuda_array_interface__ = cuda_stream

    with pytest.raises(KeyError, match="of the engine"):
        session.step(Broken())
    with pytest.raises(KeyError, match="of the engine"):
        session.enqueue_load(stream, [1], [Broken()])
    for wrong in ("stream", 1.5, object()):
        with pytest.raises(TypeError, match="a stream is"):
            session.step(wrong)
    with pytest.raises(OverflowError):
        session.step(-1)
    with pytest.raises(kvtier.Invalid, match="cudaStreamPerThread"):
        session.step(2)
    wait_for(session, stream)


def test_offers_are_filled_by_kernels(tmp_path, driver, stream):
    """Pages in host memory that are hot are offered a frame of device memory; the stream fills it."""
    config = tmp_path / "kvtierd.toml"
    config.write_text(CONFIG.format(driver=os.environ["KVTIER_CUDA_DRIVER"]).replace('"off"', '"balance"'))
    daemon = Daemon(str(config))
    with daemon.attach(cuda_device=0) as session:
        hold, _ = publish(session, driver, stream, range(1, 121))
        hot = hold.pages[100:]
        end = time.monotonic() + 60
        filled = 0
        while filled < 5:
            assert time.monotonic() < end, "nothing is offered"
            with session.step(stream) as step:
                frames, targets = step.resolve_targets(hot)
                arena = session.geometry
                for frame, target in zip(frames, targets):
                    if target == kvtier.NO_FRAME:
                        continue
                    at = [arena.base + int(f) * arena.stride for f in (target, frame)]
                    gpu.copy(driver, at[0], at[1], PAGE, stream)
                    filled += 1
                for _ in range(50):
                    session.touch(hot)
            stream.synchronize()
        wait_for(session, stream)
        assert bytes_of(session, driver, stream, hold) == list(range(1, 121))
        assert session.stats().offers_taken >= 5
        # What an exception leaves is not taken for filled, nor what was dropped: nothing is written here, and nothing wrong
        # is read.
        cold = hold.pages[:100]
        end = time.monotonic() + 60
        left, dropped = 0, 0
        while left < 5 or dropped < 5:
            assert time.monotonic() < end, "nothing is offered"
            with pytest.raises(ZeroDivisionError), session.step(stream) as step:
                left += int((step.resolve_targets(cold)[1] != kvtier.NO_FRAME).sum())
                for _ in range(50):
                    session.touch(cold)
                raise ZeroDivisionError
            with session.step(stream) as step:
                dropped += int((step.resolve_targets(cold)[1] != kvtier.NO_FRAME).sum())
                step.drop_targets()
            stream.synchronize()
        wait_for(session, stream)
        assert bytes_of(session, driver, stream, hold) == list(range(1, 121))
    daemon.end()


def test_what_needs_a_gpu_says_so(gpu_daemon, session, stream):
    with gpu_daemon.attach() as host:
        for call in (
            host.device_frames,
            host.device_map,
            host.device_touches,
            host.poll,
            lambda: host.step(stream),
            lambda: host.enqueue_load(stream, [1], [np.zeros(4)]),
        ):
            with pytest.raises(kvtier.WrongState):
                call()
    with session.step() as step:
        for call in (lambda: step.resolve_targets([]), step.drop_targets):
            with pytest.raises(kvtier.Invalid):
                call()
    with pytest.raises(kvtier.NotFound, match="device 7|no device|7"):
        gpu_daemon.attach(cuda_device=7)
    with pytest.raises(kvtier.NotFound, match="/nonexistent"):
        gpu_daemon.attach(cuda_device=0, cuda_driver="/nonexistent/libcuda.so.1")


def test_a_session_lives_as_long_as_its_arrays(gpu_daemon):
    session = gpu_daemon.attach(cuda_device=0)
    frames = session.device_frames()
    with pytest.warns(ResourceWarning):
        session.close()
    assert frames.__cuda_array_interface__["data"][0] != 0
    with pytest.raises(kvtier.Closed):
        session.device_frames()
    del frames
    gc.collect()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        session.close()


def test_closing_while_another_thread_makes_a_map(gpu_daemon):
    for i in range(30):
        session = gpu_daemon.attach(cuda_device=0)
        begun = threading.Event()
        made = []

        def make() -> None:
            begun.set()
            try:
                made.append(session.device_map() if i % 2 else session.device_touches())
            except (kvtier.Closed, kvtier.WrongState):
                pass

        thread = threading.Thread(target=make)
        thread.start()
        begun.wait()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            session.close()
        thread.join()
        made.clear()
        gc.collect()


def test_members_share_the_gpu(gpu_daemon, session, driver, stream):
    owner = gpu_daemon.attach(cuda_device=0, members_max=2)
    member = kvtier.join(owner.token, socket_dir=gpu_daemon.socket_dir, cuda_device=0)
    hold, keys = publish(owner, driver, stream, [11, 12])
    with member.hold_keys(keys) as found:
        assert bytes_of(member, driver, stream, found) == [11, 12]
        assert holds(owner, hold.pages[0]) == 2
    member.close()
    owner.close()


def test_a_map_follows_moves_and_counters_count(session, driver, stream):
    try:
        pages_on_device = session.device_map()
    except kvtier.WrongState as refused:  # a library without device code
        assert "no device code" in str(refused)
        pytest.skip(str(refused))
    hold, _ = publish(session, driver, stream, range(20))
    index = [kvtier.page_index(page) for page in hold.pages]
    with pages_on_device:
        frames = pages_on_device.frames
        assert frames.__cuda_array_interface__["typestr"] == "<u4" and frames.shape == (session.geometry.pages,)
        with session.step(stream) as step:
            assert pages_on_device.update(step, hold) >= 20
            expected = step.resolve(hold)
        stream.synchronize()
        on_device = gpu.fetch(driver, frames.address, 4 * session.geometry.pages, stream).view(np.uint32)
        assert (on_device[index] == expected).all()
        asked = gpu.Array(driver, (21,), "<i4")
        told = gpu.Array(driver, (21,), "<i4")
        asked.upload(np.array(index + [-1], dtype=np.int32), stream)
        pages_on_device.translate(asked, told, stream)
        assert told.download(stream).tolist() == expected.tolist() + [session.geometry.scratch_frame]
        asked.upload(np.array(index + [session.geometry.pages], dtype=np.int32), stream)  # no page of the arena
        pages_on_device.translate(asked, told, stream)
        assert told.download(stream).tolist() == expected.tolist() + [session.geometry.scratch_frame]
        with pytest.raises(TypeError, match="int32"):
            pages_on_device.translate(gpu.Array(driver, (21,), "<i8"), told, stream)
        with pytest.raises(TypeError, match="__cuda_array_interface__"):
            pages_on_device.translate(np.zeros(21, dtype=np.int32), told, stream)  # a kernel reads no such memory
        with session.step() as step, pytest.raises(kvtier.Invalid):
            pages_on_device.update(step)
        del frames
    with pytest.raises(kvtier.Invalid, match="closed"):
        pages_on_device.frames
    with session.device_touches(100) as touches, session.step(stream) as step:
        assert touches.counters != 0
        touches.take(step)
    with pytest.raises(kvtier.Invalid, match="closed"):
        touches.counters
