"""Files that `torch.load` opens, made of inert nodes: the way back from `unpickle.py` and `archive.py`.

A file of whole modules names classes. `torch.save` can only write those that it can import; here a class is
a `Global`, a text, so that a file for somebody else's code is written without that code.
"""

from __future__ import annotations

import io
import struct
import sys
import zipfile
from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

from utils.checkpoints.archive import DTYPES
from utils.checkpoints.unpickle import Global, Node, Storage

PROTOCOL = 2  # of every file of torch
ALIGNMENT = 64  # bytes; torch lays tensors at multiples of it, so that they can be mapped into memory
PADDING = 0x4246  # the extra field of a zip's entry that torch pads with
EPOCH = (1980, 1, 1, 0, 0, 0)  # of all entries, as torch writes them
FOLDER = "archive"
SHORT = {1: b"\x85", 2: b"\x86", 3: b"\x87"}  # TUPLE1, TUPLE2, TUPLE3
KINDS = {dtype: kind for kind, dtype in DTYPES.items()}


def torch_file(root: Any) -> memoryview:
    """The bytes of a file whose content is `root`: plain values, `Node`, `Global`, tensors and parameters.

    Every tensor gets a storage of its own.

    Raises:
        TypeError: a value that no checkpoint has.
    """
    pickler = _Pickler()
    pickler.write(root)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        _add(archive, buffer, "data.pkl", pickler.pickle())
        _add(archive, buffer, "byteorder", sys.byteorder.encode())
        for key, tensor in enumerate(pickler.tensors):
            _add(archive, buffer, f"data/{key}", tensor.numpy().tobytes())
        _add(archive, buffer, "version", b"3\n")
    return buffer.getbuffer()


def write_pickle(root: Any) -> bytes:
    """The pickle that `read_pickle` reads as `root`, of plain values, `Node`, `Global` and `Storage`.

    Raises:
        TypeError: as `torch_file`.
    """
    pickler = _Pickler()
    pickler.write(root)
    return pickler.pickle()


class _Pickler:
    """Writes values as opcodes; `tensors` are those that it met, flat, by the keys of their storages."""

    def __init__(self) -> None:
        self.out = bytearray(b"\x80" + bytes([PROTOCOL]))
        self.memo: dict[Any, int] = {}
        self.tensors: list[Tensor] = []

    def pickle(self) -> bytes:
        return bytes(self.out + b".")

    def write(self, value: Any) -> None:
        match value:
            case Tensor():
                self.write(self.rebuilt(value))
            case Node():
                self.write_node(value)
            case Global() | str():
                self.write_text(value)
            case Storage(kind=kind, key=key, numel=numel):
                self.write(("storage", Global(f"torch.{kind}"), key, "cpu", numel))
                self.out += b"Q"  # BINPERSID
            case None | True | False:
                self.out += {None: b"N", True: b"\x88", False: b"\x89"}[value]
            case int():
                self.write_int(value)
            case float():
                self.out += b"G" + struct.pack(">d", value)  # BINFLOAT
            case tuple():
                self.write_tuple(value)
            case list():
                self.out += b"]("  # EMPTY_LIST, MARK
                self.write_all(value)
                self.out += b"e"  # APPENDS
            case dict():
                self.out += b"}"  # EMPTY_DICT
                self.write_items(value)
            case _:
                raise TypeError(f"a {type(value).__name__} has no place in a checkpoint")

    def write_all(self, values: Iterable[Any]) -> None:
        for value in values:
            self.write(value)

    def write_items(self, items: dict[Any, Any]) -> None:
        if items:
            self.out += b"("  # MARK
            self.write_all(part for item in items.items() for part in item)
            self.out += b"u"  # SETITEMS

    def write_tuple(self, values: tuple[Any, ...]) -> None:
        if not values:
            self.out += b")"  # EMPTY_TUPLE
        elif end := SHORT.get(len(values)):
            self.write_all(values)
            self.out += end
        else:
            self.out += b"("  # MARK
            self.write_all(values)
            self.out += b"t"  # TUPLE

    def write_node(self, node: Node) -> None:
        """An object whose state is given is made without a call of its constructor, as Python does it."""
        self.write(Global(node.name))
        self.write(node.args)
        whole = node.state is not None and not node.args
        self.out += b"\x81" if whole else b"R"  # NEWOBJ, REDUCE
        self.write_items(node.items)
        if node.state is not None:
            self.write(node.state)
            self.out += b"b"  # BUILD

    def write_text(self, value: Global | str) -> None:
        """Names and texts are written once, then remembered."""
        if (place := self.memo.get(value)) is not None:
            self.out += b"h" + bytes([place]) if place < 256 else b"j" + struct.pack("<I", place)
            return
        if isinstance(value, Global):
            module, _, name = value.name.rpartition(".")
            module = "__builtin__" if module == "builtins" else module  # its name in protocol 2
            self.out += f"c{module}\n{name}\n".encode()  # GLOBAL
        else:
            text = value.encode("utf-8", "surrogatepass")
            self.out += b"X" + struct.pack("<I", len(text)) + text  # BINUNICODE
        place = self.memo[value] = len(self.memo)
        self.out += b"q" + bytes([place]) if place < 256 else b"r" + struct.pack("<I", place)

    def write_int(self, value: int) -> None:
        if 0 <= value < 256:
            self.out += b"K" + bytes([value])  # BININT1
        elif -(1 << 31) <= value < 1 << 31:
            self.out += b"J" + struct.pack("<i", value)  # BININT
        else:
            data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
            self.out += b"\x8a" + bytes([len(data)]) + data  # LONG1

    def rebuilt(self, tensor: Tensor) -> Node:
        """What makes a tensor again, with the storage that it lies in from now on."""
        values = tensor.detach().cpu().contiguous()
        storage = Storage(KINDS[values.dtype], str(len(self.tensors)), values.numel())
        self.tensors.append(values)
        hooks = Node("collections.OrderedDict", ())
        place = (storage, 0, tuple(values.shape), tuple(values.stride()))
        node = Node("torch._utils._rebuild_tensor_v2", (*place, False, hooks))
        if isinstance(tensor, nn.Parameter):
            return Node("torch._utils._rebuild_parameter", (node, tensor.requires_grad, hooks))
        return node


def _add(archive: zipfile.ZipFile, buffer: io.BytesIO, name: str, data: bytes) -> None:
    """Add an entry whose data begin at a multiple of `ALIGNMENT`."""
    info = zipfile.ZipInfo(f"{FOLDER}/{name}", EPOCH)
    start = buffer.tell() + 30 + len(info.filename) + 4  # an entry's head, its name, the head of its padding
    missing = -start % ALIGNMENT
    info.extra = struct.pack("<HH", PADDING, missing) + b"Z" * missing
    archive.writestr(info, data)
