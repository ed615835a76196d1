"""What an ONNX file says of its input and of itself, read without ONNX Runtime and without its weights.

OpenCV's DNN tells neither. The file is a protocol buffer: fields of a number and a value one after the
other, where a message is a value of fields (https://protobuf.dev/programming-guides/encoding). Nothing is
run, and weights are passed over.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from utils.errors import UserError

Span: TypeAlias = tuple[int, int]  # where a value of several bytes begins and ends
# numbers of fields in onnx.proto
GRAPH, PROPERTIES = 7, 14  # of a model
INITIALIZERS, INPUTS = 5, 11  # of a graph
TENSOR_NAME = 8
NAME, TYPE = 1, 2  # of an input
TENSOR_TYPE, ELEMENT, SHAPE, SIDE, SIDE_VALUE = 1, 1, 2, 1, 1
KEY, VALUE = 1, 2  # of a property
FLOAT, FLOAT16 = 1, 10  # elements
MOST_DIGITS, TAG_DIGITS = 10, 5  # bytes of a number, and of one that begins a field
MOST_FIELDS = 1 << 29  # of more, protobuf's own reader would drop the upper bits and see another field
LONGEST_TEXT = 1 << 20  # bytes
VARINT, EIGHT_BYTES, BYTES, FOUR_BYTES = 0, 1, 2, 5  # how values are stored
# where a tensor can stand in an ONNX file: by message, the numbers of the fields that hold others
MESSAGES: dict[str, dict[int, str]] = {
    "Model": {7: "Graph", 20: "Training", 25: "Function"},
    "Training": {1: "Graph", 2: "Graph"},
    "Graph": {1: "Node", 5: "Tensor", 15: "Sparse"},
    "Function": {7: "Node", 11: "Attribute"},
    "Node": {5: "Attribute"},
    "Attribute": {5: "Tensor", 6: "Graph", 10: "Tensor", 11: "Graph", 22: "Sparse", 23: "Sparse"},
    "Sparse": {1: "Tensor", 2: "Tensor"},
    "Tensor": {},
}
EXTERNAL = {13, 14}  # fields of a tensor: the file that has its values, and that it is another one
DEEPEST = 100  # messages inside one another, as protobuf has it


@dataclass(frozen=True)
class OnnxInput:
    """The only input of a network, and the metadata of its file.

    Attributes:
        sides: of the images, None where any goes.
        element: `FLOAT` or `FLOAT16`, or what else the images are made of.
    """

    sides: list[int | None]
    element: int
    metadata: Mapping[str, str]


def read_input(path: Path) -> OnnxInput:
    """Read an ONNX file.

    Raises:
        UserError: no ONNX file, a damaged one, or one with several inputs.
        OSError: it cannot be read.
    """
    inputs: dict[bytes, tuple[int, list[int | None]]] = {}
    constants: set[bytes] = set()
    metadata: dict[str, str] = {}
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            for graph in _parts(data, (0, len(data)), GRAPH):
                constants |= {_text(data, t, TENSOR_NAME) for t in _parts(data, graph, INITIALIZERS)}
                inputs |= {_text(data, i, NAME): _image_type(data, i) for i in _parts(data, graph, INPUTS)}
            for pair in _parts(data, (0, len(data)), PROPERTIES):
                key, value = (_text(data, pair, number).decode() for number in (KEY, VALUE))
                metadata[key] = value
    except (ValueError, IndexError) as error:
        raise UserError(f"'{path}' is not an ONNX file, or it is damaged") from error
    images = [kind for name, kind in inputs.items() if name not in constants]  # old files list weights, too
    if len(images) != 1:
        raise UserError(f"'{path}' has {len(images)} inputs, not one for images")
    return OnnxInput(images[0][1], images[0][0], metadata)


def check_whole(path: Path) -> None:
    """Raise a UserError when an ONNX file takes weights from other files, or is no protocol buffer.

    The names of those files stand in it. OpenCV opens any of them, `../../etc/passwd` too, as older versions
    of ONNX Runtime did. No file that is exported here has such names.
    """
    damaged = UserError(f"'{path}' is not an ONNX file: its messages are damaged")
    if not path.stat().st_size:
        raise damaged
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        # without this key no tensor has a file; looking for it takes a fiftieth of the walk
        waiting = [("Model", (0, len(data)), 0)] if data.find(b"location") >= 0 else []
        try:
            while waiting:
                kind, message, depth = waiting.pop()
                if depth > DEEPEST:
                    raise damaged
                for field, value in _fields(data, message):
                    if kind == "Tensor" and field in EXTERNAL and (field == 13 or value != 0):
                        raise UserError(f"'{path}' takes weights from other files; save it as one file")
                    if field in MESSAGES[kind] and isinstance(value, tuple):
                        waiting.append((MESSAGES[kind][field], value, depth + 1))
        except (ValueError, IndexError) as error:
            raise error if isinstance(error, UserError) else damaged from error


def _image_type(data: mmap.mmap, entry: Span) -> tuple[int, list[int | None]]:
    """Element and sides of an input."""
    element, sides = 0, []
    for kind in _parts(data, entry, TYPE):
        for tensor in _parts(data, kind, TENSOR_TYPE):
            element = next((v for n, v in _fields(data, tensor) if n == ELEMENT and isinstance(v, int)), 0)
            for shape in _parts(data, tensor, SHAPE):
                for side in _parts(data, shape, SIDE):
                    values = (v for n, v in _fields(data, side) if n == SIDE_VALUE and isinstance(v, int))
                    sides.append(next(values, 0) or None)
    return element, sides


def _parts(data: mmap.mmap, message: Span, number: int) -> Iterator[Span]:
    """Where the values of a field lie that have several bytes."""
    return (value for found, value in _fields(data, message) if found == number and isinstance(value, tuple))


def _text(data: mmap.mmap, message: Span, number: int) -> bytes:
    """The text of a field, empty when it is absent."""
    start, end = next(_parts(data, message, number), (0, 0))
    if end - start > LONGEST_TEXT:
        raise ValueError("a text of that length")
    return data[start:end]


def _fields(data: mmap.mmap, message: Span) -> Iterator[tuple[int, int | Span]]:
    """Every field of a message: its number and its value, of one with several bytes the place.

    Raises:
        ValueError, IndexError: that is no message.
    """
    at, end = message
    while at < end:
        tag, at = _number(data, at, TAG_DIGITS)
        value: int | Span
        if tag & 7 == VARINT:
            value, at = _number(data, at)
        else:
            length = {EIGHT_BYTES: 8, FOUR_BYTES: 4}.get(tag & 7)
            if tag & 7 == BYTES:
                length, at = _number(data, at)
            if length is None or at + length > end or not 0 < tag >> 3 < MOST_FIELDS:
                raise ValueError("no field")
            value, at = (at, at + length), at + length
        yield tag >> 3, value


def _number(data: mmap.mmap, at: int, digits: int = MOST_DIGITS) -> tuple[int, int]:
    """A number of seven bits a byte, the lowest first, and where it ends."""
    value = 0
    for place in range(digits):
        byte = data[at + place]
        value |= (byte & 127) << 7 * place
        if byte < 128:
            return value, at + place + 1
    raise ValueError("a number of that length")
