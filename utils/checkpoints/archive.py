"""The zip container of `torch.save`: members are checked first, tensors are read from them by hand."""

from __future__ import annotations

import math
import struct
import zipfile
import zlib
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from utils.checkpoints.unpickle import Node, RefusedError, Storage

MAX_MEMBERS = 100_000
REBUILT_PARAMETERS = frozenset(
    {"torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state"}
)
REBUILT_TENSORS = REBUILT_PARAMETERS | {"torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2"}
DTYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
# what zipfile raises on damaged input, beside its own class
_ZIP_ERRORS = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    ValueError,
    OverflowError,
    RuntimeError,
    NotImplementedError,
    KeyError,
    OSError,
)


class TorchArchive:
    """An open checkpoint file: its pickle as bytes, and tensors on demand. A context manager.

    Raises:
        RefusedError: not a zip that `torch.save` could have written, or a damaged one.
        OSError: the file cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self._size = path.stat().st_size
        self._file = path.open("rb")
        try:
            self._zip = zipfile.ZipFile(self._file)
            self._members = self._checked_members()
            self._prefix = self._find_prefix()
        except RefusedError:
            self._file.close()
            raise
        except _ZIP_ERRORS as error:
            self._file.close()
            raise RefusedError("truncated or damaged: its zip directory cannot be read") from error
        self._storages: dict[Storage, torch.Tensor] = {}

    def __enter__(self) -> TorchArchive:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def read_pickle_bytes(self) -> bytes:
        """The pickle that describes the checkpoint."""
        if f"{self._prefix}byteorder" in self._members and self._read("byteorder").strip() != b"little":
            raise RefusedError("written on a big-endian machine; save it again on a little-endian one")
        return self._read("data.pkl")

    def tensor(self, node: Node) -> torch.Tensor:
        """Make the tensor that a `torch._utils._rebuild_*` node describes, on CPU, in its stored dtype.

        Raises:
            RefusedError: offset, size or stride reach outside the storage, or would grow it.
        """
        if node.name in REBUILT_PARAMETERS:
            inner = node.args[0] if node.args else None
            if not isinstance(inner, Node) or inner.name not in REBUILT_TENSORS - REBUILT_PARAMETERS:
                raise RefusedError("damaged: a parameter without a tensor")
            node = inner
        match node.args:
            case (Storage() as storage, int(offset), tuple(size), tuple(stride), *_):
                self._check_bounds(storage, offset, size, stride)
            case _:
                raise RefusedError(f"damaged: {node.name} with arguments that describe no tensor")
        if 0 in size:
            return torch.empty(size, dtype=DTYPES[storage.kind])
        return self._storage(storage).as_strided(size, stride, offset)

    @staticmethod
    def _check_bounds(storage: Storage, offset: int, size: tuple[Any, ...], stride: tuple[Any, ...]) -> None:
        numbers = (offset, storage.numel, *size, *stride)
        if len(size) != len(stride) or len(size) > 16 or storage.kind not in DTYPES:
            raise RefusedError("damaged: a tensor with unequal numbers of sizes and strides")
        if any(type(number) is not int or not 0 <= number < 1 << 40 for number in numbers):
            raise RefusedError("damaged: a tensor with a size, stride or offset out of range")
        elements = math.prod(size)
        last = offset + sum((n - 1) * step for n, step in zip(size, stride))
        if elements and (elements > storage.numel or last >= storage.numel):
            raise RefusedError(
                f"damaged: a tensor of {'x'.join(map(str, size)) or 1} elements reaches outside its storage "
                f"of {storage.numel}"
            )

    def _storage(self, storage: Storage) -> torch.Tensor:
        """The flat tensor of a storage, read once and shared by all tensors that are views of it."""
        if storage not in self._storages:
            dtype = DTYPES[storage.kind]
            data = self._read(f"data/{storage.key}")
            if len(data) != storage.numel * dtype.itemsize:
                raise RefusedError(
                    f"damaged: storage {storage.key!r} has {len(data)} bytes, its pickle says "
                    f"{storage.numel} elements of {dtype.itemsize}"
                )
            if dtype == torch.bool and data.strip(b"\0\1"):
                raise RefusedError(f"damaged: storage {storage.key!r} holds values that are no booleans")
            self._storages[storage] = torch.frombuffer(bytearray(data), dtype=dtype)
        return self._storages[storage]

    def _read(self, name: str) -> bytes:
        info = self._members.get(self._prefix + name)
        if info is None:
            raise RefusedError(f"damaged: its member {name[:80]!r} is missing")
        try:
            return self._zip.read(info)
        except _ZIP_ERRORS as error:
            reason = str(error)[:80]
            raise RefusedError(f"damaged: its member {name[:80]!r} cannot be read ({reason})") from error

    def _checked_members(self) -> dict[str, zipfile.ZipInfo]:
        """All members by name. torch stores them as they are, so no member can be larger than the file."""
        infos = self._zip.infolist()
        members = {info.filename: info for info in infos}
        if len(infos) > MAX_MEMBERS:
            raise RefusedError(f"its zip has {len(infos)} members, more than {MAX_MEMBERS}")
        if any(name.count("/") == 1 and name.endswith("/constants.pkl") for name in members):
            raise RefusedError("is a TorchScript program, not a checkpoint; name it *.torchscript")
        if len(members) != len(infos):
            raise RefusedError("its zip has two members of the same name")
        if any(i.compress_type != zipfile.ZIP_STORED or i.compress_size != i.file_size for i in infos):
            raise RefusedError("its zip is compressed, which torch.save never does")
        if sum(info.file_size for info in infos) > self._size:
            raise RefusedError("its zip says that its members are larger than the file")
        return members

    def _find_prefix(self) -> str:
        """The folder that holds everything: `archive/`, or the name that the file had when it was written."""
        folders = [n.removesuffix("data.pkl") for n in self._members if n.endswith("/data.pkl")]
        folders = [folder for folder in folders if folder.count("/") == 1]
        if len(folders) != 1:
            raise RefusedError("a zip, but not one of torch.save: it needs exactly one data.pkl")
        return folders[0]
