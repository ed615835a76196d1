"""OpenVINO: a folder with an .xml and a .bin file, and `metadata.yaml` beside them."""

from __future__ import annotations

from dataclasses import replace

from models.exporting import onnx
from models.exporting.job import Job
from models.runtimes.metadata import write_yaml
from utils.optional import require


def export(job: Job) -> None:
    """Convert the network by way of ONNX; with `half` the weights are stored in fp16, the input stays fp32.

    Raises:
        UserError: openvino or onnx is not installed.
    """
    openvino = require("openvino", "openvino")
    job.target.mkdir()
    # the folder is best_openvino_model, the files in it are best.xml and best.bin
    stem = job.target.name.removesuffix("_openvino_model")
    between = job.target / f"{stem}.onnx"
    onnx.export(replace(job, target=between, config=replace(job.config, half=False)))
    try:
        model = openvino.convert_model(str(between))
        openvino.save_model(model, str(job.target / f"{stem}.xml"), compress_to_fp16=job.config.half)
    finally:
        between.unlink()
    write_yaml(job.target, job.metadata)
