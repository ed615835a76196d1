"""Plain values: the only things that stand in a checkpoint, whether we write it or read it.

Plain is None, bool, int, float, str, tensors, and lists, tuples and dicts of them with str or int keys.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from utils.checkpoints.archive import REBUILT_TENSORS, TorchArchive
from utils.checkpoints.unpickle import Global, Node, RefusedError

MAX_DEPTH = 64
MAX_VALUES = 200_000
AT_LEAST = 1000  # values that any file may have
TENSOR, NUMBERS = 8, 8  # a tensor counts as so many values, and so many bytes or characters as one
MOST_PARTS = 100  # of a path
SCALARS = (type(None), bool, int, float, str)
NUMPY_CODES = frozenset({"f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1"})


def checked_plain(value: Any, key: str = "", depth: int = 0) -> Any:
    """Copy `value` when all of it is plain. Tensors come back detached, on CPU, without surplus storage.

    Raises:
        TypeError: something is not plain; the message names its key, as in `train_args.device`.
    """
    if type(value) in SCALARS:
        return value
    if depth > MAX_DEPTH:
        raise TypeError(f"checkpoint key '{key[:80]}…' is nested deeper than {MAX_DEPTH} levels")
    if type(value) is torch.Tensor:
        return _stored(value)

    def inner(item: Any, name: str | int) -> Any:
        return checked_plain(item, f"{key}.{name}" if key else str(name), depth + 1)

    if isinstance(value, dict):
        for name in value:
            if type(name) not in (str, int):
                raise TypeError(f"checkpoint key '{key}' holds a dict with a key {name!r}; use str or int")
        return {name: inner(item, name) for name, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(inner(item, index) for index, item in enumerate(value))
    raise TypeError(
        f"checkpoint key '{key}' holds a {type(value).__module__}.{type(value).__name__}; "
        "only tensors, numbers, text, lists, tuples and dicts can be saved"
    )


def _stored(tensor: torch.Tensor) -> torch.Tensor:
    """torch saves the whole storage under a view, so a view of a larger one is copied."""
    tensor = tensor.detach().cpu()
    partial = tensor.untyped_storage().nbytes() != tensor.numel() * tensor.element_size()
    return tensor.clone(memory_format=torch.contiguous_format) if partial else tensor


class PlainReader:
    """Turns the nodes of a checkpoint's pickle into plain values.

    A pickle may share one list many times over. What it expands to is bounded: by a value for each byte of
    the pickle, and by `MAX_VALUES`.
    """

    def __init__(self, archive: TorchArchive) -> None:
        self._archive = archive
        self._left = min(AT_LEAST + archive.pickled, MAX_VALUES)

    def read(self, value: Any, key: str, *, lenient: bool = False, depth: int = 0) -> Any:
        """The plain form of `value`, which stands at `key`.

        Args:
            lenient: describe an unknown object by its class name instead of refusing it, for training
                arguments, where a stray object does no harm.

        Raises:
            RefusedError: an object without a plain form, or a structure too deep, too large or cyclic.
        """
        self._spend(1, key)
        if depth > MAX_DEPTH:
            self._spend(MAX_VALUES, key)

        def inner(item: Any, name: object = "") -> Any:
            place = f"{key}.{str(name)[:100]}"[:200] if name != "" else key
            return self.read(item, place, lenient=lenient, depth=depth + 1)

        if type(value) in SCALARS or type(value) is bytes:
            return value
        if type(value) is dict:
            return {name: inner(item, name) for name, item in value.items()}
        if type(value) in (list, tuple, set, frozenset):
            return type(value)(inner(item) for item in value)
        match value:
            case Node(name="collections.OrderedDict", args=(), items=items):
                return inner(items)
            case Node(
                name="builtins.set" | "builtins.frozenset" | "torch.Size", args=([*members] | (*members,),)
            ):
                return inner(list(members))
            case Node(name="argparse.Namespace", args=(), state=dict() as attributes):
                return inner(attributes)
            case Node(name="torch.device", args=(str(kind), *_)):
                return kind
            case Node(name=name, args=parts) if name.startswith("pathlib.") and len(parts) <= MOST_PARTS:
                self._spend(sum(len(part) for part in parts if type(part) is str) // NUMBERS, key)
                return "/".join(part for part in parts if type(part) is str).replace("//", "/")
            case Node(name="_codecs.encode", args=(str(text), "latin1" | "latin-1")):
                self._spend(len(text) // NUMBERS, key)
                return _latin1(text)
            case Node(name=name) if name in REBUILT_TENSORS:
                self._spend(TENSOR, key)
                return self._archive.tensor(value)
            case Node(name=name) if name.startswith("numpy."):
                found, count = _numpy_value(value, inner)
                self._spend(count, key)
                return found.tolist()
        described = f"<{value.name}>" if isinstance(value, Node | Global) else f"<{type(value).__name__}>"
        if lenient and isinstance(value, Node | Global):
            return described
        raise RefusedError(f"'{key}' holds {described} where a plain value is needed")

    def _spend(self, values: int, key: str) -> None:
        self._left -= values
        if self._left < 0:
            raise RefusedError(f"'{key[:200]}' is nested too deeply, too large or contains itself")


def _latin1(text: str) -> bytes:
    """Bytes as protocol 2 writes them."""
    try:
        return text.encode("latin-1")
    except UnicodeEncodeError as error:
        raise RefusedError("damaged: bytes that are no bytes") from error


def _numpy_value(node: Node, read: Callable[[Any], Any]) -> tuple[np.ndarray, int]:
    """The numbers in a pickled numpy scalar or array, and how many; `read` makes bytes plain.

    Raises:
        RefusedError: another dtype (an object array would hold anything), or sizes that do not agree.
    """
    shape: tuple[Any, ...] = ()
    dtype = fortran = raw = None
    match node.name.rpartition(".")[2], node.args, node.state:
        case "scalar", (dtype, raw), _:
            pass
        case "_reconstruct", _, (_, tuple(shape), dtype, fortran, raw):
            pass
    match dtype:
        case Node(name="numpy.dtype", args=(str(code), *_), state=(_, "<" | "|" | "=" | ">" as endian, *_)):
            pass
        case _:
            raise RefusedError(f"damaged: {node.name} without a shape or a dtype of numbers")
    if code not in NUMPY_CODES:
        raise RefusedError(f"refuses a numpy array of dtype {code[:20]!r}; only numbers are read")
    kind, data = np.dtype(f"{endian}{code}"), read(raw)
    sized = len(shape) <= 8 and all(type(n) is int and 0 <= n < 1 << 31 for n in shape)
    small = type(data) is bytes and len(data) <= 1 << 20
    if not (sized and small) or math.prod(shape) * kind.itemsize != len(data):
        raise RefusedError("damaged: a numpy value whose shape and bytes do not agree")
    array = np.frombuffer(data, kind).reshape(shape, order="F" if fortran is True else "C")
    return array, array.size
