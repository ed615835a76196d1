"""ncnn: a folder with `model.ncnn.param`, `model.ncnn.bin` and `metadata.yaml`, written by pnnx.

pnnx is a program of its own that reads a TorchScript file. It also writes Python and ONNX files beside its
result; they stay in a temporary folder and nothing in them is run.
"""

from __future__ import annotations

import re
from pathlib import Path
from subprocess import PIPE

from models.exporting.job import Job
from models.exporting.torchscript import save_trace
from models.runtimes.base import checksum
from models.runtimes.metadata import write_yaml
from utils.errors import UserError
from utils.files import temporary_folder
from utils.interrupt import run_child
from utils.optional import require

STEM = "model.ncnn"
FOREIGN = re.compile(r"[.:]")  # in the name of a layer: an operator that pnnx left as it was


def export(job: Job) -> None:
    """Convert the network for images of exactly the job's size, one at a time; `half` stores weights in fp16.

    Raises:
        UserError: pnnx is not installed or fails, or the network has operators that ncnn has not.
    """
    program = require("pnnx", "pnnx").EXEC_PATH
    with temporary_folder() as folder:
        # ncnn's maps have no batch axis, so one image is traced whatever the job's batch
        save_trace(job.network, job.image[:1].contiguous(), folder / "model.torchscript")
        sides = ",".join(str(side) for side in (1, *job.image.shape[1:]))
        flags = [f"inputshape=[{sides}]f32", f"fp16={int(job.config.half)}"]
        command = [program, "model.torchscript", *flags]
        result = run_child(command, cwd=folder, stdout=PIPE, stderr=PIPE, text=True)
        files = [folder / f"{STEM}.param", folder / f"{STEM}.bin"]
        if result.returncode or not all(file.is_file() for file in files):
            last = result.stderr.strip().rpartition("\n")[2][:200] or "no message"
            raise UserError(f"pnnx ends with status {result.returncode}: {last}")
        _check_layers(files[0])
        job.target.mkdir()
        for file in files:
            (job.target / file.name).write_bytes(file.read_bytes())
        own = {"batch": "1", "checksum": checksum(files)}  # ncnn itself notices little of a damage
    write_yaml(job.target, {**job.metadata, **own})


def _check_layers(param: Path) -> None:
    """Raise a UserError when a layer of the file is no ncnn layer."""
    lines = param.read_text(encoding="utf-8").splitlines()[2:]  # after the magic number and the counts
    foreign = sorted({kind for line in lines if FOREIGN.search(kind := line.split()[0])})
    if foreign:
        raise UserError(f"ncnn has no layer for {', '.join(foreign)}; use onnx or openvino for this network")
