# SPDX-License-Identifier: Apache-2.0
"""As much of torch as docs/python.md uses, by the driver that KVTIER_CUDA_DRIVER names: there is no torch with CUDA where
there is no GPU. What an array says of itself is read as torch reads it."""

import contextlib
import ctypes
import types
from typing import Any, Iterator, Optional, Sequence

import gpu
import numpy as np

_driver = gpu.Driver()
_current: Optional[gpu.Stream] = None


def _stream() -> gpu.Stream:
    assert _current is not None, "the example works on a stream of its own"
    return _current


class _Tensor:
    """Bytes of device memory, the last axis without gaps."""

    def __init__(self, owner: Any, address: int, shape: Sequence[int], strides: Sequence[int]) -> None:
        assert strides[-1] == 1
        self._owner, self._address, self.shape, self._strides = owner, address, tuple(shape), tuple(strides)

    def __getitem__(self, row: Any) -> "_Tensor":
        return _Tensor(self._owner, self._address + int(row) * self._strides[0], self.shape[1:], self._strides[1:])

    def fill_(self, value: int) -> "_Tensor":
        assert len(self.shape) == 1
        _driver.cuMemsetD8Async(
            ctypes.c_uint64(self._address),
            ctypes.c_ubyte(value),
            ctypes.c_size_t(self.shape[0]),
            ctypes.c_void_p(_stream().cuda_stream),
        )
        return self

    def cpu(self) -> np.ndarray:
        assert len(self.shape) == 1
        return gpu.fetch(_driver, self._address, self.shape[0], _stream())


def as_tensor(array: Any, device: str) -> _Tensor:
    assert device == "cuda"
    said = array.__cuda_array_interface__
    if said["data"][1]:
        raise TypeError("the read only flag is not supported, should always be False")
    assert said["typestr"] == "|u1"
    return _Tensor(array, said["data"][0], said["shape"], said["strides"])


@contextlib.contextmanager
def _on(stream: gpu.Stream) -> Iterator[None]:
    global _current
    before, _current = _current, stream
    yield
    _current = before


cuda = types.SimpleNamespace(Stream=lambda: gpu.Stream(_driver), stream=_on)
