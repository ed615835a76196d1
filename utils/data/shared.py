"""Arrays that the processes of a machine see without copying them."""

from __future__ import annotations

import math
import mmap
import os
import sys
import tempfile
import weakref
from collections.abc import Callable
from multiprocessing.context import get_spawning_popen
from typing import Any, TypeAlias

import numpy as np

Maker: TypeAlias = Callable[[int], tuple[Any, mmap.mmap]]  # from a number of bytes: a handle, and the memory

if sys.platform == "win32":
    import _winapi
    import secrets
else:
    from multiprocessing import reduction


class SharedArray:
    """An array that other processes see: workers of this one, and those that train together with it.

    Its memory has no name that could be left over: it goes with the last process, however that ended. On
    Linux a small /dev/shm does not limit it, elsewhere on POSIX it is a temporary file.

    When it is pickled, a worker process that is being started takes the memory along. Any other process finds
    it while this one lives, on Linux and Windows; on other systems unpickling raises an OSError there.
    """

    def __init__(self, shape: tuple[int, ...], dtype: np.typing.DTypeLike) -> None:
        self._open(shape, dtype, _new_memory)

    def _open(self, shape: tuple[int, ...], dtype: np.typing.DTypeLike, memory: Maker) -> None:
        self.shape, self.dtype = shape, np.dtype(dtype)
        self._handle, self._memory = memory(max(math.prod(shape) * self.dtype.itemsize, 1))
        if sys.platform != "win32":
            weakref.finalize(self, os.close, self._handle)

    @classmethod
    def of(cls, array: np.ndarray) -> SharedArray:
        """A copy of an array."""
        shared = cls(array.shape, array.dtype)
        shared.view()[...] = array
        return shared

    def view(self) -> np.ndarray:
        """The array itself."""
        return np.frombuffer(self._memory, self.dtype, math.prod(self.shape)).reshape(self.shape)

    def __getstate__(self) -> dict[str, Any]:
        return {"shape": self.shape, "dtype": self.dtype, "address": _address(self._handle)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._open(state["shape"], state["dtype"], lambda size: _memory_at(state["address"], size))


if sys.platform == "win32":

    def _new_memory(size: int) -> tuple[str, mmap.mmap]:
        name = f"lean5-{secrets.token_hex(8)}"
        return name, mmap.mmap(-1, size, tagname=name)

    def _address(name: str) -> str:
        return name

    def _memory_at(name: str, size: int) -> tuple[str, mmap.mmap]:
        there = _winapi.OpenFileMapping(_winapi.FILE_MAP_READ, False, name)  # else mmap would make a new one
        try:
            return name, mmap.mmap(-1, size, tagname=name)
        finally:
            _winapi.CloseHandle(there)

else:

    def _new_memory(size: int) -> tuple[int, mmap.mmap]:
        if hasattr(os, "memfd_create"):
            handle = os.memfd_create("lean5")
        else:
            with tempfile.TemporaryFile() as file:
                handle = os.dup(file.fileno())
        os.ftruncate(handle, size)
        return handle, mmap.mmap(handle, size)

    def _address(handle: int) -> Any:
        """For a worker process, the file itself; for others, where it is and what tells it from others."""
        if get_spawning_popen() is not None:
            return reduction.DupFd(handle)
        return f"/proc/{os.getpid()}/fd/{handle}", _identity(handle)

    def _memory_at(address: Any, size: int) -> tuple[int, mmap.mmap]:
        if not isinstance(address, tuple):
            handle = address.detach()
        else:
            path, identity = address
            handle = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            if _identity(handle) != identity:  # a process of that number, but in another container
                os.close(handle)
                raise FileNotFoundError(f"{path} is another file")
        return handle, mmap.mmap(handle, size)

    def _identity(handle: int) -> tuple[int, int, int]:
        status = os.fstat(handle)
        return status.st_dev, status.st_ino, status.st_size
