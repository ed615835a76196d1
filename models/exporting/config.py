"""What is exported and how: the flags of export.py, and what they rule out."""

from __future__ import annotations

from dataclasses import dataclass

from models.runtimes.base import MOST_THREADS
from utils.errors import UserError
from utils.flags import DATA_HELP, IMGSZ, SHARE, SIDE, CommandConfig, at_least, between, flag, one_of

KINDS_OF_CPU = ("avx2", "avx512", "other")  # those of data/forms/cpu.yaml, and any other
# flags of YOLOv5 that ask for something that is not made here, and what there is instead
REFUSED_FLAGS = {
    "keras": "TensorFlow formats are not written; use --include litert",
    "mlmodel": "use --include coreml, which writes an .mlpackage",
    "optimize": "was for PyTorch Mobile, which has ended; use --include executorch",
    "per_tensor": "weights are quantised per channel, which costs less accuracy; leave it out",
}


@dataclass(frozen=True)
class ExportConfig(CommandConfig):
    """Flags of export.py."""

    topics = {
        "what is written": ("weights", "include", "imgsz", "batch_size", "dynamic", "raw", "half"),
        "suppression inside the file": (
            "nms", "agnostic_nms", "topk_per_class", "topk_all", "iou_thres", "conf_thres",
        ),
        "eight bits": ("int8", "data", "force"),
        "folding and forms": ("no_deploy", "tune", "cpu", "threads"),
        "converters": ("opset", "simplify", "workspace", "cache", "verbose", "web_runtime"),
        "for YOLOv5's sake": ("device", "inplace", "keras", "optimize", "per_tensor", "mlmodel"),
    }  # fmt: skip

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
    # the exporter that follows a trace writes opsets up to 20
    opset: int = flag(17, "ONNX opset, 12 to 20; OpenCV reads 12", rule=between(12, 20))
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
        "formats: torchscript, onnx, openvino, ncnn, executorch, litert, coreml, tensorrt, yolov5, web",
    )
    raw: bool = flag(False, "the maps of the head, (B, na * (5 + nc), h, w) a level, without decoding")
    tune: bool = flag(False, "time equal forms of the network on this machine first, up to 90 s a format")
    cpu: str = flag(
        "",
        f"kind of CPU that the files are for, {', '.join(KINDS_OF_CPU)}; default: this one's",
        rule=one_of(("", *KINDS_OF_CPU)),
    )
    threads: int | None = flag(
        None, "with --tune: threads that will run it; default: one a core", rule=between(1, MOST_THREADS)
    )
    no_deploy: bool = flag(False, "fold only BatchNorm; without it, see models/deploy.py")
    web_runtime: str = flag(
        "",
        "for web: your copy of npm's onnxruntime-web, archive or folder; default: the archive in this folder",
    )
    force: bool = flag(False, "with --int8: keep the file even if it has lost accuracy")

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, advice in REFUSED_FLAGS.items():
            if getattr(self, name):
                raise UserError(f"--{name.replace('_', '-')}: {advice}")
        if len(self.weights) > 1:
            raise UserError(f"--weights: one file at a time, found {len(self.weights)}")
        if len(self.imgsz) > 2:
            raise UserError(f"--imgsz takes one side, or height and width; found {len(self.imgsz)} numbers")
        if self.web_runtime and "web" not in map(str.lower, self.include):
            raise UserError("--web-runtime is for --include web")
        if self.raw and self.nms:
            raise UserError("--nms needs decoded boxes and --raw leaves them out; use one of them")
        if self.cpu and self.no_deploy:
            raise UserError("--cpu says in which forms a network is folded; leave it out, or --no-deploy")
        if self.tune and self.cpu:
            raise UserError("--tune measures on this machine; leave out --cpu")
        if self.threads and not self.tune:
            raise UserError("--threads is for --tune; detect.py and val.py have one of their own")
        if self.int8 and self.half:
            raise UserError("--int8 and --half exclude each other")
        if self.int8 and (self.raw or self.nms):
            raise UserError("--int8 measures accuracy from decoded boxes; leave out --raw and --nms")
        if self.int8 and self.imgsz[0] != self.imgsz[-1]:
            raise UserError(f"--int8 validates on squares; give one side to --imgsz, found {self.imgsz}")
