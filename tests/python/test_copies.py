# SPDX-License-Identifier: Apache-2.0
"""Copy jobs between pages and arrays."""

import kvtier
import numpy as np
import pytest
from conftest import Daemon, new_keys, publish_new


@pytest.fixture(params=[0, 2], ids=["in wait()", "in threads"])
def copier(request, daemon: Daemon):
    with daemon.attach(copy_threads=request.param) as session:
        yield session


def random_array(rng: np.random.Generator, bytes_max: int) -> np.ndarray:
    """Of random type and shape, with gaps between the rows of its first axis."""
    kind = rng.choice(["u1", "u2", "f4", "f8", "c16"])
    item = np.dtype(kind).itemsize
    rest = tuple(int(n) for n in rng.integers(1, 5, int(rng.integers(0, 3))))
    row = item * int(np.prod(rest, dtype=int))
    rows = int(rng.integers(1, max(2, min(20, bytes_max // row))))
    gap = int(rng.integers(1, 4))
    raw = rng.integers(0, 255, (rows * gap,) + rest[:-1] + (rest[-1] * item if rest else item,), dtype=np.uint8)
    array = raw.view(kind)
    return array[::gap] if rest else array[::gap, 0]


def test_random_layouts_come_back(copier, rng):
    page_bytes = copier.geometry.page_bytes
    for _ in range(60):
        n = int(rng.integers(1, 6))
        arrays = [random_array(rng, page_bytes // 4) for _ in range(n)]
        expected = [array.copy() for array in arrays]
        offset = int(rng.integers(0, 100))
        with copier.allocate(n) as pages:
            copier.store(pages, arrays, page_offset=offset).wait()
            for page, array in zip(pages.pages, expected):  # packed in the page
                assert copier.data(page)[offset : offset + array.nbytes].tobytes() == array.tobytes()
            for array in arrays:
                array[...] = 0
            job = copier.load(pages, arrays, page_offset=offset)
            job.wait()
            job.wait()
            assert job.done()
        for array, was in zip(arrays, expected):
            assert array.tobytes() == was.tobytes()


def test_a_layer_at_a_time(copier):
    layers, layer = 4, 1000
    block = np.arange(layers * layer, dtype=np.uint32).reshape(layers, layer)
    with copier.allocate(1) as pages:
        jobs = [copier.store(pages, [block[i : i + 1]], page_offset=i * 8192) for i in range(layers)]
        for job in jobs:
            job.wait()
        copier.publish(pages, new_keys(1))
        back = np.zeros_like(block)
        copier.load(pages, [back], page_stride=8192).wait()
        assert np.array_equal(back, block)


def test_it_can_be_asked_for(copier):
    hold, keys = publish_new(copier, 1)
    array = np.zeros(100, dtype=np.uint8)
    job = copier.load(hold, [array])
    while not job.done():
        job.wait()
    assert (array == 1).all()


def test_a_dropped_job_is_waited_for(copier):
    hold, keys = publish_new(copier, 1)
    array = np.zeros(65536, dtype=np.uint8)
    copier.load(hold, [array])
    assert (array == 1).all()
    for _ in range(3000):  # more than can be open
        copier.load(hold, [array])


def test_a_job_keeps_its_arrays(copier):
    with copier.allocate(8) as pages:
        job = copier.store(pages, [np.full(65536, i, dtype=np.uint8) for i in range(8)])
        noise = [np.full(65536, 0xAA, dtype=np.uint8) for _ in range(64)]
        job.wait()
        assert [int(copier.data(page).min()) for page in pages.pages] == list(range(8))
        del noise


def test_what_cannot_be_copied(copier):
    hold, keys = publish_new(copier, 1)
    frozen = np.zeros(8)
    frozen.flags.writeable = False
    fortran = np.asfortranarray(np.zeros((3, 4, 5)))
    refused = [
        (np.array([object()]), TypeError, "Python objects"),
        (np.zeros(0), ValueError, "empty"),
        (frozen, ValueError, "read-only"),
        (fortran, ValueError, "only the first axis"),
        (np.zeros((4, 4))[::-1], ValueError, "backwards"),
        (np.broadcast_to(np.zeros(4), (3, 4)), ValueError, "read-only"),
        ([1, 2], TypeError, "sequence of arrays"),
    ]
    for array, error, text in refused:
        with pytest.raises(error, match=text):
            copier.load(hold, [array])
    with pytest.raises(ValueError, match="1 pages and 2 arrays"):
        copier.load(hold, [np.zeros(1), np.zeros(1)])
    with pytest.raises(TypeError):
        copier.load(hold, 5)
    with pytest.raises(kvtier.Invalid, match="leaves its page"):
        copier.load(hold, [np.zeros(65537, dtype=np.uint8)])
    with pytest.raises(kvtier.Invalid, match="leaves its page"):
        copier.load(hold, [np.zeros((2, 8))], page_stride=2**63)
    with pytest.raises(kvtier.WrongState):
        copier.store(hold, [np.zeros(8)]).wait()  # it is published
    job = copier.load([2**40], [np.zeros(8)])
    for _ in range(2):
        with pytest.raises(kvtier.Stale):
            job.wait()
    copier.load([], []).wait()
