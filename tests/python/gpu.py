# SPDX-License-Identifier: Apache-2.0
"""A GPU for tests, by the CUDA driver that KVTIER_CUDA_DRIVER names (the stand-in, where there is no GPU): streams, and
memory of the device as engines' arrays are. The device's primary context, which is the CUDA runtime's, too."""

import ctypes
import os
from typing import Any, Dict, Optional, Sequence

import numpy as np

_MEMORY_PORTABLE = 1
_STREAM_NON_BLOCKING = 1


class Driver:
    """Entry points of the driver by name; each raises when it fails."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL(os.environ["KVTIER_CUDA_DRIVER"])
        self._entries: Dict[str, Any] = {}
        self.cuInit(0)
        device = ctypes.c_int()
        self.cuDeviceGet(ctypes.byref(device), 0)
        self.context = ctypes.c_void_p()
        self.cuDevicePrimaryCtxRetain(ctypes.byref(self.context), device)

    def __getattr__(self, name: str) -> Any:
        if name not in self._entries:
            address = ctypes.c_void_p()
            asked = self._library.cuGetProcAddress_v2(
                name.encode(), ctypes.byref(address), 12000, ctypes.c_uint64(0), None
            )
            assert asked == 0 and address.value, f"the driver has no {name}"
            self._entries[name] = ctypes.CFUNCTYPE(ctypes.c_int)(address.value)
        entry = self._entries[name]

        def call(*arguments: Any) -> None:
            if name not in ("cuInit", "cuDeviceGet", "cuDevicePrimaryCtxRetain", "cuCtxSetCurrent"):
                self.cuCtxSetCurrent(self.context)
            code = entry(*arguments)
            if code != 0:
                raise RuntimeError(f"{name} answered {code}")

        return call


class Stream:
    """As a torch.cuda.Stream: its handle is `cuda_stream`."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        made = ctypes.c_void_p()
        driver.cuStreamCreateWithPriority(ctypes.byref(made), _STREAM_NON_BLOCKING, 0)
        assert made.value is not None
        self.cuda_stream: int = made.value

    def synchronize(self) -> None:
        self._driver.cuStreamSynchronize(ctypes.c_void_p(self.cuda_stream))


def copy(driver: Driver, target: int, source: int, n: int, stream: Stream) -> None:
    """Enqueues a copy; addresses of any memory that the driver knows."""
    driver.cuMemcpyAsync(
        ctypes.c_uint64(target), ctypes.c_uint64(source), ctypes.c_size_t(n), ctypes.c_void_p(stream.cuda_stream)
    )


class Array:
    """An array in device memory, of bytes in rows: what engines pass to store and load."""

    def __init__(self, driver: Driver, shape: Sequence[int], typestr: str = "|u1") -> None:
        self._driver = driver
        self.nbytes = int(np.prod(shape)) * np.dtype(typestr).itemsize
        address = ctypes.c_uint64()
        driver.cuMemAlloc(ctypes.byref(address), ctypes.c_size_t(self.nbytes))
        self.address: int = address.value
        self._shape = tuple(shape)
        self._type = typestr
        self.strides: Optional[Sequence[int]] = None

    @property
    def __cuda_array_interface__(self) -> Dict[str, Any]:
        return {
            "version": 3,
            "shape": self._shape,
            "strides": self.strides,
            "typestr": self._type,
            "data": (self.address, False),
        }

    def upload(self, data: np.ndarray, stream: Stream) -> None:
        packed = np.ascontiguousarray(data)
        assert packed.nbytes == self.nbytes
        copy(self._driver, self.address, packed.ctypes.data, self.nbytes, stream)
        stream.synchronize()

    def download(self, stream: Stream) -> np.ndarray:
        home = np.empty(self._shape, dtype=self._type)
        copy(self._driver, home.ctypes.data, self.address, self.nbytes, stream)
        stream.synchronize()
        return home

    def free(self) -> None:
        self._driver.cuMemFree(ctypes.c_uint64(self.address))


def fetch(driver: Driver, address: int, n: int, stream: Stream) -> np.ndarray:
    """n bytes that the GPU reaches, behind what is in the stream."""
    home = np.empty(n, dtype=np.uint8)
    copy(driver, home.ctypes.data, address, n, stream)
    stream.synchronize()
    return home
