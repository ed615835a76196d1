"""A folder that `export.py --include ncnn` wrote: a .param and a .bin file, and metadata.yaml."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from models.runtimes.base import Backend, checksum, the_pair
from models.runtimes.metadata import read_yaml
from utils.errors import UserError
from utils.optional import require

MAGIC = "7767517"  # first line of a .param file
LARGEST = 1 << 20  # bytes of a .param file; yolov5x has 30 kB
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
        check_param(param)
        description = read_yaml(folder)
        if description.shape is None:
            raise UserError(f"'{folder}' has no image size: imgsz is missing in its metadata.yaml")
        if description.checksum and description.checksum != checksum((param, weights)):
            raise UserError(
                f"'{folder}' was changed after its export: {param.name} or {weights.name} is damaged"
            )
        self.configure(folder, description, (1, 3, *description.shape))
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


def check_param(path: Path) -> None:
    """Raise a UserError unless a .param file is whole: ncnn itself may crash on one that is not.

    The first line is a magic number, the second counts layers and blobs, and each other line is a layer:
    type, name, numbers of inputs and outputs, their names, then parameters `key=value`.
    """
    if path.stat().st_size > LARGEST:
        raise UserError(f"'{path}' is no ncnn network: it has {path.stat().st_size:,} bytes")
    try:
        magic, counts, *rows = path.read_text(encoding="ascii").split("\n")
        layers, blobs = (int(count) for count in counts.split())
        rows = [row for row in rows if row.strip()]
        made: set[str] = set()
        for row in rows:
            _, _, takes, gives, *rest = row.split()
            taken, given = int(takes), int(gives)
            names, parameters = rest[: taken + given], rest[taken + given :]
            whole = taken >= 0 and given >= 0 and len(names) == taken + given
            if not whole or not made.issuperset(names[:taken]) or not all("=" in p for p in parameters):
                raise ValueError("a layer whose inputs no layer gives")
            made.update(names[taken:])
        if magic.strip() != MAGIC or layers != len(rows) or blobs != len(made):
            raise ValueError("counts that differ")
    except ValueError as error:  # a wrong number of fields or no number where one must be, wrong characters
        raise UserError(f"'{path}' is damaged; export the network again") from error
