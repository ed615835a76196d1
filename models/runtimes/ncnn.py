"""A folder that `export.py --include ncnn` wrote: a .param and a .bin file, and metadata.yaml."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from models.runtimes.base import Backend, checksum, the_pair
from models.runtimes.metadata import read_yaml
from utils import reading
from utils.errors import UserError
from utils.optional import require

MAGIC = "7767517"  # first line of a .param file
LARGEST = 1 << 20  # bytes of a .param file; yolov5x has 30 kB
KEYS, ARRAY = 32, 23300  # of the parameters of a layer
SPLITTING = ("Split", "Slice")  # the only layers that give several blobs
LARGEST_WINDOW, LARGEST_COUNT = 1024, 1 << 16  # sides, strides and margins in pixels; channels and groups
CHANNELS = (0, 7)
PADS = (4, 14, 15, 16, 18, 19, 20)  # margins; small negative ones ask ncnn to find them
# layers that move a window; parameter 6 of all but Pooling counts their weights
CONVOLUTIONS = ("Convolution", "ConvolutionDepthWise", "Deconvolution", "DeconvolutionDepthWise")
WEIGHTS = 6
# inputs and outputs of layers that rely on them
ENDS = {**{kind: {(1, 1)} for kind in (*CONVOLUTIONS, "Pooling", "Swish", "Sigmoid", "ReLU")},
        "BinaryOp": {(1, 1), (2, 1)}, "Input": {(0, 1)}, "MemoryData": {(0, 1)}}  # fmt: skip
# sizes reckoned from those of the input, as in 6="1,1,//(256,0n),0n"
RECKONING, SIZES = "Reshape", 6
_SIZE = r"(?:[1-9]\d{0,5}|0[whdcn])"  # no constant 0, by which ncnn would divide
_RECKONED = rf"(?:{_SIZE}|(?:\*|//)\({_SIZE},{_SIZE}\))"
RECKONED = re.compile(rf'{SIZES}="{_RECKONED}(?:,{_RECKONED}){{0,3}}"', re.ASCII)
HALF = ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic", "use_bf16_storage")


class NcnnBackend(Backend):
    """A network in ncnn on the CPU (optional package), one image at a time.

    Half precision is off, which ncnn would use where the CPU has it: pixel coordinates do not survive that.
    """

    library = "ncnn"

    def __init__(self, folder: Path, device: torch.device, half: bool, threads: int | None) -> None:
        super().__init__(device)
        ncnn = require("ncnn", "ncnn")
        param, weights = the_pair(folder, ".param")
        check_param(param, weights.stat().st_size)
        description = read_yaml(folder)
        if description.shape is None:
            raise UserError(f"'{folder}' has no image size: imgsz is missing in its metadata.yaml")
        if description.checksum and description.checksum != checksum((param, weights)):
            raise UserError(
                f"'{folder}' was changed after its export: {param.name} or {weights.name} is damaged"
            )
        self.configure(folder, description, (1, description.channels, *description.shape))
        net = ncnn.Net()
        net.opt.num_threads = threads or net.opt.num_threads
        for name in HALF:
            setattr(net.opt, name, False)
        if net.load_param(str(param)) or net.load_model(str(weights)):
            raise UserError(f"'{folder}' cannot be run by ncnn: {param.name} or {weights.name} is damaged")
        inputs, outputs = net.input_names(), net.output_names()
        if len(inputs) != 1 or not outputs:
            raise UserError(f"'{folder}' has {len(inputs)} inputs and {len(outputs)} outputs, not one each")
        self.net, self.matrix, self.ends = net, ncnn.Mat, (inputs[0], outputs[0])

    def run(self, images: Tensor) -> Sequence[Tensor]:
        array = np.ascontiguousarray(images[0].cpu().float().numpy())
        extractor = self.net.create_extractor()
        extractor.input(self.ends[0], self.matrix(array))
        status, output = extractor.extract(self.ends[1])
        if status:
            raise UserError(f"ncnn cannot run the network on an image of {self.shape}; export it again")
        return [torch.from_numpy(np.array(output, np.float32))[None]]  # a copy: the extractor owns the memory


def check_param(path: Path, weights: int) -> None:
    """Raise a UserError unless a .param file is whole and sane: ncnn may crash on one that is not, or hang.

    The first line is a magic number, the second counts layers and blobs, and each other line is a layer:
    type, name, numbers of inputs and outputs, their names, then parameters `key=value`. Words are values of
    Reshape alone, where they reckon sizes.

    Args:
        weights: bytes of the .bin file.
    """
    try:
        magic, counts, *rows = reading.read_bytes(path, LARGEST).decode("ascii").split("\n")
        layers, blobs = (int(count) for count in counts.split())
        rows = [row for row in rows if row.strip()]
        made: set[str] = set()
        for row in rows:
            kind, _, takes, gives, *rest = row.split()
            taken, given = int(takes), int(gives)
            names, parameters = rest[: taken + given], rest[taken + given :]
            if taken < 0 or given < 0 or len(names) != taken + given or not made.issuperset(names[:taken]):
                raise ValueError("a layer whose inputs no layer gives")
            if (given > 1 and kind not in SPLITTING) or (taken, given) not in ENDS.get(
                kind, {(taken, given)}
            ):
                raise ValueError(f"{kind} with {taken} inputs and {given} outputs")
            plain = [p for p in parameters if kind != RECKONING or taken != 1 or not RECKONED.fullmatch(p)]
            values = dict(map(_parameter, plain))
            if kind == "BinaryOp" and taken == 1 and values.get(1, [0.0]) == [0.0]:
                raise ValueError("a sum of one")
            _check_values(kind, values, weights)
            weights -= int(values.get(WEIGHTS, [0])[0]) if kind in CONVOLUTIONS else 0  # a byte each at least
            made.update(names[taken:])
        if magic.strip() != MAGIC or layers != len(rows) or blobs != len(made):
            raise ValueError("counts that differ")
    except ValueError as error:  # a wrong number of fields or no number where one must be, wrong characters
        raise UserError(f"'{path}' is damaged; export the network again") from error


def _parameter(text: str) -> tuple[int, list[float]]:
    """The key of a parameter, and its values: an array has its key counted down from -23300, and its length.

    Raises:
        ValueError: no such parameter.
    """
    key, equals, value = text.partition("=")
    number, values = int(key), [float(word) for word in value.split(",")]
    if number <= -ARRAY:
        number, length, *values = -ARRAY - number, *values
        if length != len(values):
            raise ValueError("an array of another length")
    elif len(values) != 1:
        raise ValueError("several values")
    if not equals or not 0 <= number < KEYS or not all(abs(value) < 1 << 31 for value in values):  # nor nan
        raise ValueError("a key or a value out of range")
    return number, values


def _check_values(kind: str, values: dict[int, list[float]], weights: int) -> None:
    """Raise a ValueError when the sizes of a layer would make ncnn take more than the file has."""
    if kind == "MemoryData":
        sizes = [value for key in (0, 1, 2, 11) for value in values.get(key, [0.0])]
        if min(sizes) < 0 or 4 * math.prod(max(size, 1) for size in sizes) > weights:
            raise ValueError("more values than there are weights")
    if kind not in (*CONVOLUTIONS, "Pooling"):
        return
    for key, numbers in values.items():
        most = LARGEST_COUNT if key in CHANNELS else LARGEST_WINDOW
        if key == WEIGHTS and kind in CONVOLUTIONS:
            most = weights
        least = -LARGEST_WINDOW if key in PADS else 0
        if not all(least <= number <= most for number in numbers):
            raise ValueError(f"{kind} with {key}={numbers}")
    steps = [number for key in (1, 2, 3, 11, 12, 13) for number in values.get(key, [1.0])]
    if kind in CONVOLUTIONS and min(steps) < 1:
        raise ValueError("a kernel, dilation or stride of zero")
