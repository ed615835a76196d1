"""Write a trained network in the formats of other runtimes, each compared with PyTorch before it is kept.

python export.py --weights best.pt --include onnx openvino        # best.onnx, best_openvino_model/
python export.py --weights best.pt --include onnx --dynamic       # any batch, any multiples of the stride
python export.py --weights best.pt --include onnx --nms --topk-all 300
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from models.exporting.hints import hints
from models.exporting.nms import Suppression
from models.exporting.run import Options, export
from models.weights import find_weights
from utils.config import ExportConfig, parse_flags
from utils.device import select_device
from utils.errors import UserError, run_command
from utils.logger import LOGGER, setup_console

# flags of YOLOv5 that ask for something that is not made here, and what there is instead
REFUSED = {
    "keras": "TensorFlow formats are not written; use --include litert",
    "mlmodel": "use --include coreml, which writes an .mlpackage",
    "optimize": "was for PyTorch Mobile, which has ended; use --include executorch",
    "per_tensor": "weights are quantised per channel, which costs less accuracy; leave it out",
}


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command with these arguments, or with those of the process."""
    config = parse_flags(ExportConfig, argv)
    setup_console()
    if config.verbose:
        LOGGER.setLevel(logging.DEBUG)
    options = options_of(config)
    weights = find_weights(config.weights[0] if config.weights else "")
    artefacts = export(weights, options)
    LOGGER.info(hints(artefacts, options, cache=config.cache, workspace=config.workspace))


def options_of(config: ExportConfig) -> Options:
    """What the flags ask for.

    Raises:
        UserError: a flag that is not for this export.
    """
    for name, advice in REFUSED.items():
        if getattr(config, name):
            raise UserError(f"--{name.replace('_', '-')}: {advice}")
    if len(config.weights) > 1:
        raise UserError(f"--weights: one file at a time, found {len(config.weights)}")
    if len(config.imgsz) > 2:
        raise UserError(f"--imgsz takes one side, or height and width; found {len(config.imgsz)} numbers")
    if config.inplace:
        LOGGER.info("--inplace changes nothing: the head writes nothing in place")
    if select_device(config.device).type != "cpu":
        LOGGER.info(f"--device {config.device}: files are made on the CPU; they run on any device")
    suppression = Suppression(
        conf_thres=config.conf_thres,
        iou_thres=config.iou_thres,
        most=config.topk_all,
        most_per_class=config.topk_per_class,
        agnostic=config.agnostic_nms,
    )
    return Options(
        include=config.include,
        size=(config.imgsz[0], config.imgsz[-1]),
        batch=config.batch_size,
        folded=not config.no_deploy,
        raw=config.raw,
        suppression=suppression if config.nms else None,
        dynamic=config.dynamic,
        half=config.half,
        opset=config.opset,
        simplify=config.simplify,
        int8=config.int8,
        data=config.data,
        force=config.force,
        verbose=config.verbose,
    )


if __name__ == "__main__":
    run_command(main)
