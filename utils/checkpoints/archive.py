"""The zip container of `torch.save`: members are checked first, tensors are read from them by hand."""

from __future__ import annotations

import math
import os
import struct
import zipfile
from collections.abc import Iterable
from typing import Any, BinaryIO

import torch

from utils.checkpoints.unpickle import MAX_PICKLE_BYTES, Node, RefusedError, Storage

LARGEST = 1 << 40  # a size, stride, offset or number of elements
MAX_MEMBERS = 40_000
MAX_DIRECTORY = (
    8 << 20
)  # bytes of a zip's directory, which zipfile turns into objects before anyone can count
TENSORS = frozenset({"torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2"})
PARAMETERS = frozenset({"torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state"})
REBUILT_TENSORS = TENSORS | PARAMETERS
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
# what zipfile raises on damaged input: its own class and any of these (overflow, unknown method, bad name …)
_ZIP_ERRORS = (
    *(zipfile.BadZipFile, struct.error, EOFError, OSError),
    *(ValueError, ArithmeticError, RuntimeError, LookupError),
)


class TorchArchive:
    """A checkpoint file: its pickle as bytes, and tensors on demand, while the file is open.

    Attributes:
        pickled: bytes of its pickle.

    Raises:
        RefusedError: not a zip that `torch.save` could have written, or a damaged one.
    """

    def __init__(self, file: BinaryIO) -> None:
        reader = _DirectoryReader(file)
        try:
            self._zip = zipfile.ZipFile(reader)
        except RefusedError:
            raise
        except _ZIP_ERRORS as error:
            raise RefusedError("truncated or damaged: its zip directory cannot be read") from error
        reader.complete = True
        self._members = _checked_members(self._zip.infolist(), os.fstat(file.fileno()).st_size)
        self._folder = _folder(self._members)
        self._storages: dict[str, tuple[Storage, torch.Tensor]] = {}
        self.pickled = self._members[f"{self._folder}data.pkl"].file_size

    def read_pickle_bytes(self) -> bytes:
        """The pickle that describes the checkpoint."""
        if f"{self._folder}byteorder" in self._members and self._read("byteorder").strip() != b"little":
            raise RefusedError("written on a big-endian machine; save it again on a little-endian one")
        if self.pickled > MAX_PICKLE_BYTES:
            raise RefusedError(
                f"its pickle has {self.pickled} bytes, more than the {MAX_PICKLE_BYTES} of any model"
            )
        return self._read("data.pkl")

    def tensor(self, node: Node) -> torch.Tensor:
        """Make the tensor that a `torch._utils._rebuild_*` node describes, on CPU, in its stored dtype.

        Raises:
            RefusedError: offset, size or stride reach outside the storage, would grow it, or use a value
                twice; or another tensor has that storage in another dtype.
        """
        tensor = node.args[0] if node.name in PARAMETERS and node.args else node
        match tensor:
            case Node(
                name=name, args=(Storage() as storage, int(offset), tuple(size), tuple(stride), *_)
            ) if name in TENSORS:
                _check_bounds(storage, offset, size, stride)
            case _:
                raise RefusedError(f"damaged: {node.name} with arguments that describe no tensor")
        if 0 in size:
            return torch.empty(size, dtype=DTYPES[storage.kind])
        return self._storage(storage).as_strided(size, stride, offset)

    def _storage(self, storage: Storage) -> torch.Tensor:
        """The flat tensor of a storage, read once and shared by all tensors that are views of it."""
        known, tensor = self._storages.get(storage.key, (storage, None))
        if known != storage:
            raise RefusedError(f"damaged: storage {storage.key!r} is described in two ways")
        if tensor is None:
            dtype, size = DTYPES[storage.kind], self._member(f"data/{storage.key}").file_size
            if size != storage.numel * dtype.itemsize:
                raise RefusedError(
                    f"damaged: storage {storage.key!r} has {size} bytes, its pickle says "
                    f"{storage.numel} elements of {dtype.itemsize}"
                )
            data = self._read(f"data/{storage.key}")
            if dtype == torch.bool and data.strip(b"\0\1"):
                raise RefusedError(f"damaged: storage {storage.key!r} holds values that are no booleans")
            tensor = torch.frombuffer(bytearray(data), dtype=dtype)
            self._storages[storage.key] = storage, tensor
        return tensor

    def _member(self, name: str) -> zipfile.ZipInfo:
        info = self._members.get(self._folder + name)
        if info is None:
            raise RefusedError(f"damaged: its member {name[:80]!r} is missing")
        return info

    def _read(self, name: str) -> bytes:
        info = self._member(name)
        try:
            return self._zip.read(info)
        except _ZIP_ERRORS as error:
            reason = str(error)[:80]
            raise RefusedError(f"damaged: its member {name[:80]!r} cannot be read ({reason})") from error


class _DirectoryReader:
    """The file as zipfile needs it, which refuses to read a directory that is too large."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.seek, self.tell, self.seekable = file.seek, file.tell, file.seekable
        self.complete = False

    def read(self, size: int = -1) -> bytes:
        if size > MAX_DIRECTORY and not self.complete:
            raise RefusedError(f"its zip has a directory of {size} bytes, more than {MAX_DIRECTORY}")
        return self._file.read(size)


def _checked_members(infos: list[zipfile.ZipInfo], size: int) -> dict[str, zipfile.ZipInfo]:
    """All members by name. torch stores them as they are, so together they are smaller than the file."""
    members = {info.filename: info for info in infos}
    if len(infos) > MAX_MEMBERS:
        raise RefusedError(f"its zip has {len(infos)} members, more than {MAX_MEMBERS}")
    if any(name.count("/") == 1 and name.endswith("/constants.pkl") for name in members):
        raise RefusedError("is a TorchScript program, not a checkpoint; name it *.torchscript")
    if len(members) != len(infos):
        raise RefusedError("its zip has two members of the same name")
    if any(i.compress_type != zipfile.ZIP_STORED or i.compress_size != i.file_size for i in infos):
        raise RefusedError("its zip is compressed, which torch.save never does")
    if sum(info.file_size for info in infos) > size:
        raise RefusedError("its zip says that its members are larger than the file")
    return members


def _folder(names: Iterable[str]) -> str:
    """What the names of all members begin with: `archive/`, or the file's name when it was written."""
    folders = [n.removesuffix("data.pkl") for n in names if n.count("/") == 1 and n.endswith("/data.pkl")]
    if len(folders) != 1:
        raise RefusedError("a zip, but not one of torch.save: it needs exactly one data.pkl")
    return folders[0]


def _check_bounds(storage: Storage, offset: int, size: tuple[Any, ...], stride: tuple[Any, ...]) -> None:
    numbers = (offset, storage.numel, *size, *stride)
    if len(size) != len(stride) or len(size) > 16 or storage.kind not in DTYPES:
        raise RefusedError("damaged: a tensor with unequal numbers of sizes and strides")
    if any(type(number) is not int or not 0 <= number < LARGEST for number in numbers):
        raise RefusedError("damaged: a tensor with a size, stride or offset out of range")
    elements = math.prod(size)
    last = offset + sum((n - 1) * step for n, step in zip(size, stride))
    if elements and (elements > storage.numel or last >= storage.numel):
        raise RefusedError(
            f"damaged: a tensor of {'x'.join(map(str, size)) or 1} elements reaches outside its storage "
            f"of {storage.numel}"
        )
    taken = 1  # values that the smaller strides have reached; the next one must go beyond them
    for step, n in sorted((step, n) for step, n in zip(stride, size) if n > 1):
        if elements and step < taken:
            raise RefusedError("damaged: a tensor whose elements share memory")
        taken += (n - 1) * step
    if math.prod(max(n, 1) for n in size) >= LARGEST:  # torch multiplies the sizes of empty tensors, too
        raise RefusedError(f"damaged: a tensor of {'x'.join(map(str, size))} elements")
