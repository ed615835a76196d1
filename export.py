"""Write a trained network in the formats of other runtimes, each compared with PyTorch before it is kept.

python export.py --weights best.pt --include onnx openvino        # best.onnx, best_openvino_model/
python export.py --weights best.pt --include onnx --dynamic       # any batch, any multiples of the stride
python export.py --weights best.pt --include onnx --nms --topk-all 300
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from models.exporting.hints import hints
from models.exporting.nms import Suppression
from models.exporting.run import Options, export
from models.weights import find_weights
from utils.console import LOGGER, setup_console
from utils.device import select_device
from utils.errors import UserError, run_command
from utils.flags import DATA_HELP, IMGSZ, SHARE, SIDE, CommandConfig, at_least, between, flag, parse_flags

# flags of YOLOv5 that ask for something that is not made here, and what there is instead
REFUSED = {
    "keras": "TensorFlow formats are not written; use --include litert",
    "mlmodel": "use --include coreml, which writes an .mlpackage",
    "optimize": "was for PyTorch Mobile, which has ended; use --include executorch",
    "per_tensor": "weights are quantised per channel, which costs less accuracy; leave it out",
}


@dataclass(frozen=True)
class ExportConfig(CommandConfig):
    """Flags of export.py."""

    data: str = flag("data/digits.yaml", f"for --int8: {DATA_HELP}")
    weights: tuple[str, ...] = flag((), "PyTorch weights; default: the newest best.pt in runs/train")
    imgsz: tuple[int, ...] = flag(
        (640, 640), "image size in pixels: one side, or height and width", *IMGSZ, rule=SIDE
    )
    batch_size: int = flag(1, "images per call", rule=between(1, 1024))
    device: str = flag("cpu", "accepted for YOLOv5's sake; files are made on the CPU and run anywhere")
    half: bool = flag(False, "weights and input in fp16")
    inplace: bool = flag(False, "accepted for YOLOv5's sake; changes nothing")
    keras: bool = flag(False, "not written here; see --include litert")
    optimize: bool = flag(False, "not written here; see --include executorch")
    int8: bool = flag(False, "weights and activations in eight bits, calibrated on --data")
    per_tensor: bool = flag(False, "not written here: weights are quantised per channel")
    dynamic: bool = flag(False, "batch, height and width are free")
    cache: str = flag("", "timing cache in the trtexec command of tensorrt")
    simplify: bool = flag(False, "let onnxslim or onnxsim rewrite the ONNX graph")
    mlmodel: bool = flag(False, "not written here; see --include coreml")
    opset: int = flag(17, "ONNX opset, 12 to 20; OpenCV reads 12")
    verbose: bool = flag(False, "say more: tracebacks of converters, and --verbose for trtexec")
    workspace: int = flag(4, "memory in GB in the trtexec command of tensorrt", rule=at_least(1))
    nms: bool = flag(False, "non-maximum suppression inside the network (onnx, openvino, tensorrt)")
    agnostic_nms: bool = flag(False, "with --nms: boxes of different classes suppress each other")
    topk_per_class: int = flag(100, "with --nms: most detections of a class in an image", rule=at_least(1))
    topk_all: int = flag(100, "with --nms: most detections in an image", rule=at_least(1))
    iou_thres: float = flag(0.45, "with --nms: IoU threshold", rule=SHARE)
    conf_thres: float = flag(0.25, "with --nms: confidence threshold", rule=SHARE)
    include: tuple[str, ...] = flag(
        ("torchscript",),
        "formats: torchscript, onnx, openvino, ncnn, executorch, litert, coreml, tensorrt",
    )
    raw: bool = flag(False, "the maps of the head, (B, na * (5 + nc), h, w) a level, without decoding")
    no_deploy: bool = flag(False, "fold only BatchNorm; without it, see models/deploy.py")
    force: bool = flag(False, "with --int8: keep the file even if it has lost accuracy")


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
