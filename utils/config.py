"""What each command can be told: one frozen dataclass a command, from which its flags are generated.

A field becomes a flag of the same name (`batch_size` -> `--batch-size`) with the field's type and default.
Names, types and defaults are YOLOv5's, so that command lines carry over.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn, TypeVar

from utils.files import ROOT, expand

ConfigType = TypeVar("ConfigType", bound="CommandConfig")

LARGEST_IMAGE = 16384  # pixels a side; a batch of one such image takes 3 GB


def flag(default: object, help: str, *names: str, **argparse_options: object) -> Any:
    """A dataclass field that is a command-line flag.

    Args:
        default: value without the flag.
        help: one line for `--help`.
        names: spellings, when they are not just `--field-name`; the field's own name makes it positional.
        argparse_options: passed to `ArgumentParser.add_argument` in place of what the type implies.
    """
    return dataclasses.field(
        default=default, metadata={"help": help, "names": names, "options": argparse_options}
    )


class CommandConfig:
    """Base of the command configurations; holds what all of them check."""

    def __post_init__(self) -> None:
        for name, low in (
            ("epochs", 1),
            ("patience", 0),
            ("workers", 0),
            ("max_det", 1),
            ("vid_stride", 1),
            ("seed", 0),
            ("topk_all", 1),
            ("topk_per_class", 1),
            ("workspace", 1),
            ("threads", 1),
        ):
            value = getattr(self, name, low)
            if value is not None and value < low:
                raise ValueError(f"--{name.replace('_', '-')} must be at least {low}, found {value}")
        if getattr(self, "seed", 0) >= 2**63:
            raise ValueError("--seed must be below 2^63")
        if not getattr(self, "name", "exp"):
            raise ValueError("--name must not be empty")
        for name in ("conf_thres", "iou_thres", "label_smoothing"):
            value = getattr(self, name, 0.0)
            if not 0.0 <= value <= 1.0:
                raise ValueError(f"--{name.replace('_', '-')} must lie between 0 and 1, found {value}")
        sizes = getattr(self, "imgsz", 1)
        for size in sizes if isinstance(sizes, tuple) else (sizes,):
            if size < 1:
                raise ValueError(f"--imgsz must be positive, found {size}")
            if size > LARGEST_IMAGE:
                raise ValueError(f"--imgsz must be at most {LARGEST_IMAGE}, found {size}")
        thickness = getattr(self, "line_thickness", 1)
        if not 1 <= thickness <= 100:
            raise ValueError(f"--line-thickness must lie between 1 and 100, found {thickness}")
        if getattr(self, "image_weights", False) and getattr(self, "rect", False):
            raise ValueError(
                "--image-weights and --rect exclude each other: rectangular batches have a fixed order"
            )
        batch_size = getattr(self, "batch_size", 1)
        if batch_size < 1 and not (batch_size == -1 and isinstance(self, TrainConfig)):
            raise ValueError(f"--batch-size must be positive, found {batch_size}")


IMGSZ = ("--imgsz", "--img", "--img-size")
DEVICE_HELP = "cpu, mps, or CUDA devices such as 0 or 0,1 (default: CUDA when there is any, else cpu)"
THREADS_HELP = "CPU threads of inference (default: the runtime's own choice)"
DATA_HELP = "dataset yaml (a name is also looked up in data/)"


@dataclass(frozen=True)
class TrainConfig(CommandConfig):
    """Flags of train.py."""

    weights: str = flag("", "initial weights; empty trains from scratch")
    cfg: str = flag(
        "", "model yaml (a name is also looked up in models/); default: that of --weights, or yolov5n"
    )
    data: str = flag("data/digits.yaml", DATA_HELP)
    hyp: str = flag("data/hyps/hyp.scratch-low.yaml", "hyper-parameter yaml (also looked up in data/hyps/)")
    epochs: int = flag(100, "number of epochs")
    batch_size: int = flag(16, "total batch size over all devices, -1 for the largest that fits the GPU")
    imgsz: int = flag(640, "training and validation image size in pixels", *IMGSZ)
    rect: bool = flag(False, "rectangular batches, images sorted by shape")
    resume: bool | str = flag(
        False, "continue the newest run, or the run of the given last.pt", nargs="?", const=True
    )
    nosave: bool = flag(False, "write last.pt at the end only")
    noval: bool = flag(False, "validate after the last epoch only")
    noautoanchor: bool = flag(False, "keep the anchors of the model")
    noplots: bool = flag(False, "draw nothing")
    evolve: int | None = flag(None, "evolve hyper-parameters for this many generations", nargs="?", const=300)
    evolve_population: str = flag(
        "data/hyps", "folder of hyper-parameter yamls to start from", "--evolve_population"
    )
    resume_evolve: str | None = flag(
        None, "evolve.csv of an earlier evolution to continue", "--resume_evolve"
    )
    cache: Literal["ram", "disk"] | None = flag(
        None, "keep decoded images in ram or on disk", nargs="?", const="ram"
    )
    image_weights: bool = flag(False, "draw images of weak classes more often")
    device: str = flag("", DEVICE_HELP)
    multi_scale: bool = flag(False, "vary the image size by ±50 %% from batch to batch")
    single_cls: bool = flag(False, "train as if there were one class")
    optimizer: Literal["SGD", "Adam", "AdamW"] = flag("SGD", "optimizer")
    sync_bn: bool = flag(False, "synchronise batch norm over processes (CUDA with torchrun)")
    workers: int = flag(8, "data loading processes per training process (at most one a core)")
    project: str = flag("runs/train", "folder that holds the run folders")
    name: str = flag("exp", "name of the run folder")
    exist_ok: bool = flag(False, "write into an existing run folder")
    quad: bool = flag(False, "glue four images of a batch to one of twice the size")
    cos_lr: bool = flag(False, "cosine instead of linear decay of the learning rate")
    label_smoothing: float = flag(0.0, "label smoothing epsilon")
    patience: int = flag(100, "stop after this many epochs without improvement; 0 never stops")
    freeze: tuple[int, ...] = flag((0,), "freeze this many layers from the first, or these layers")
    save_period: int = flag(-1, "also keep a checkpoint every this many epochs")
    seed: int = flag(0, "seed of everything random")
    local_rank: int = flag(-1, "set by torchrun, not by hand", "--local_rank")
    amp: Literal["auto", "off", "fp16", "bf16"] = flag(
        "auto", "mixed precision: auto is fp16 on CUDA, off elsewhere"
    )
    strict: bool = flag(False, "treat label faults as errors")
    verbose: bool = flag(False, "report by layer and tensor what was taken over from --weights")


@dataclass(frozen=True)
class ValConfig(CommandConfig):
    """Flags of val.py."""

    data: str = flag("data/digits.yaml", DATA_HELP)
    weights: tuple[str, ...] = flag(
        (), "weights, several for an ensemble; default: the newest best.pt in runs/train"
    )
    batch_size: int = flag(32, "batch size")
    imgsz: int = flag(640, "image size in pixels", *IMGSZ)
    conf_thres: float = flag(0.001, "confidence threshold")
    iou_thres: float = flag(0.6, "IoU threshold of non-maximum suppression")
    max_det: int = flag(300, "most detections an image")
    task: Literal["train", "val", "test", "speed", "study"] = flag(
        "val", "split to validate on, or speed, or study (accuracy against image size)"
    )
    device: str = flag("", DEVICE_HELP)
    workers: int = flag(8, "data loading threads (at most one a core)")
    single_cls: bool = flag(False, "treat all classes as one")
    augment: bool = flag(False, "test-time augmentation")
    verbose: bool = flag(False, "print every class whatever their number")
    save_txt: bool = flag(False, "save detections as label files")
    save_hybrid: bool = flag(False, "save labels merged with detections")
    save_conf: bool = flag(False, "add the confidence to the label files")
    save_json: bool = flag(False, "save detections in COCO's json format")
    project: str = flag("runs/val", "folder that holds the run folders")
    name: str = flag("exp", "name of the run folder")
    exist_ok: bool = flag(False, "write into an existing run folder")
    half: bool = flag(False, "half precision (CUDA)")
    dnn: bool = flag(False, "run ONNX files with OpenCV DNN")
    threads: int | None = flag(None, THREADS_HELP)
    noplots: bool = flag(False, "draw nothing")
    strict: bool = flag(False, "treat label faults as errors")


@dataclass(frozen=True)
class DetectConfig(CommandConfig):
    """Flags of detect.py."""

    weights: tuple[str, ...] = flag(
        (), "weights, several for an ensemble; default: the newest best.pt in runs/train"
    )
    source: str = flag(
        "data/images",
        "image, folder, glob, list file, video, webcam number, rtsp/http stream, screen, - for stdin",
    )
    data: str = flag("data/digits.yaml", "dataset yaml that names the classes when the weights do not")
    imgsz: tuple[int, ...] = flag((640,), "image size in pixels: one side, or height and width", *IMGSZ)
    conf_thres: float = flag(0.25, "confidence threshold")
    iou_thres: float = flag(0.45, "IoU threshold of non-maximum suppression")
    max_det: int = flag(1000, "most detections an image")
    device: str = flag("", DEVICE_HELP)
    view_img: bool = flag(False, "show the results in a window")
    save_txt: bool = flag(False, "save detections as label files")
    save_format: Literal[0, 1] = flag(
        0, "boxes in label files: 0 is xc yc w h normalised, 1 is x1 y1 x2 y2 in pixels"
    )
    save_csv: bool = flag(False, "save detections in predictions.csv")
    save_conf: bool = flag(False, "add the confidence to the label files")
    save_crop: bool = flag(False, "save the detected objects as pictures")
    nosave: bool = flag(False, "save no annotated images or videos")
    classes: tuple[int, ...] | None = flag(None, "keep these classes only, for example --classes 0 2 3")
    agnostic_nms: bool = flag(False, "let boxes of different classes suppress each other")
    augment: bool = flag(False, "test-time augmentation")
    project: str = flag("runs/detect", "folder that holds the run folders")
    name: str = flag("exp", "name of the run folder")
    exist_ok: bool = flag(False, "write into an existing run folder")
    line_thickness: int = flag(3, "thickness of the boxes in pixels")
    hide_labels: bool = flag(False, "draw no labels")
    hide_conf: bool = flag(False, "draw no confidences")
    half: bool = flag(False, "half precision (CUDA)")
    dnn: bool = flag(False, "run ONNX files with OpenCV DNN")
    threads: int | None = flag(None, THREADS_HELP)
    vid_stride: int = flag(1, "use every this manieth frame of a video")


@dataclass(frozen=True)
class ExportConfig(CommandConfig):
    """Flags of export.py."""

    data: str = flag("data/digits.yaml", f"for --int8: {DATA_HELP}")
    weights: tuple[str, ...] = flag((), "PyTorch weights; default: the newest best.pt in runs/train")
    imgsz: tuple[int, ...] = flag((640, 640), "image size in pixels: one side, or height and width", *IMGSZ)
    batch_size: int = flag(1, "images per call")
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
    workspace: int = flag(4, "memory in GB in the trtexec command of tensorrt")
    nms: bool = flag(False, "non-maximum suppression inside the network (onnx, openvino, tensorrt)")
    agnostic_nms: bool = flag(False, "with --nms: boxes of different classes suppress each other")
    topk_per_class: int = flag(100, "with --nms: most detections of a class in an image")
    topk_all: int = flag(100, "with --nms: most detections in an image")
    iou_thres: float = flag(0.45, "with --nms: IoU threshold")
    conf_thres: float = flag(0.25, "with --nms: confidence threshold")
    include: tuple[str, ...] = flag(
        ("torchscript",),
        "formats: torchscript, onnx, openvino, ncnn, executorch, litert, coreml, tensorrt",
    )
    raw: bool = flag(False, "the maps of the head, (B, na * (5 + nc), h, w) a level, without decoding")
    no_deploy: bool = flag(False, "fold only BatchNorm; without it, see models/deploy.py")
    force: bool = flag(False, "with --int8: keep the file even if it has lost accuracy")


def parse_flags(
    config: type[ConfigType], argv: Sequence[str] | None = None, command: str | None = None
) -> ConfigType:
    """The configuration that a command line asks for; `None` reads that of the process.

    Flags may be abbreviated as long as they stay unambiguous. A wrong flag or value ends the process with one
    line and status 2, `--help` with status 0.

    Args:
        command: its name in messages; `None` for that of the script.
    """
    parser = build_parser(config)
    parser.prog = command or parser.prog
    values = vars(parser.parse_intermixed_args(argv))
    lists = {name: tuple(value) for name, value in values.items() if isinstance(value, list)}
    try:
        return config(**{**values, **lists})
    except ValueError as error:
        parser.error(str(error))


def of_saved(config: type[ConfigType], values: Mapping[str, Any]) -> ConfigType:
    """A configuration from values that were saved, with every value checked against its type.

    Raises:
        ValueError: an unknown name, or a value that the flag could not have.
    """
    types = typing.get_type_hints(config)
    for name, value in values.items():
        if name not in types:
            raise ValueError(f"unknown setting '{name}'")
        if not _fits(value, types[name]):
            raise ValueError(f"setting '{name}' cannot be {value!r}")
    return config(**values)


def _fits(value: object, annotation: Any) -> bool:
    """Whether a value is of an annotated type; True is no integer, and 1 is a float."""
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Literal:
        return value in inner and type(value) in {type(choice) for choice in inner}
    if origin is tuple:
        return isinstance(value, tuple) and all(_fits(item, inner[0]) for item in value)
    if inner:  # A | B
        return any(_fits(value, alternative) for alternative in inner)
    if annotation is float:
        return type(value) in (int, float)
    return type(value) is annotation


def build_parser(config: type[CommandConfig]) -> argparse.ArgumentParser:
    """The argument parser of a configuration class."""
    parser = _OneLineParser(
        description=config.__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    types = typing.get_type_hints(config)
    for field in dataclasses.fields(config):  # type: ignore[arg-type]  # every subclass is a dataclass
        names = field.metadata["names"] or (f"--{field.name.replace('_', '-')}",)
        options = {
            **_options_of_type(types[field.name]),
            **field.metadata["options"],
            "default": field.default,
            "help": field.metadata["help"],
        }
        if names != (field.name,):  # a positional argument has its name for destination
            options["dest"] = field.name
        parser.add_argument(*names, **options)
    return parser


def _options_of_type(annotation: Any) -> dict[str, Any]:
    """argparse options for a field's type: `bool` is a switch, `tuple[T, ...]` takes several values."""
    alternatives = [t for t in typing.get_args(annotation) or (annotation,) if t is not type(None)]
    if annotation is bool:
        return {"action": "store_true"}
    first = alternatives[0]
    if typing.get_origin(annotation) is Literal:
        return {"type": type(first), "choices": list(alternatives)}
    if typing.get_origin(first) is Literal:  # Literal[…] | None
        return _options_of_type(first)
    if typing.get_origin(annotation) is tuple:
        return {"type": first, "nargs": "+"}
    if typing.get_origin(first) is tuple:  # tuple[T, ...] | None
        return {"type": typing.get_args(first)[0], "nargs": "+"}
    return {"type": str if str in alternatives else first}


class _OneLineParser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line instead of the usage: what is wrong and where to read more."""
        print(f"error: {message} (see {self.prog} --help)", file=sys.stderr)
        sys.exit(2)


def from_root(path: str) -> Path:
    """A path as given when it exists, else the same below the repository (for defaults like data/images)."""
    given = expand(path)
    return given if given.exists() or given.is_absolute() or not (ROOT / given).exists() else ROOT / given
