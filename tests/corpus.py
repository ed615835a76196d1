"""Small files of every kind that is opened, made when they are wanted: what `tests/fuzz.py` mutates.

Each maker takes a folder to work in and gives the bytes of sound files.
"""

from __future__ import annotations

import dataclasses
import io
import json
import zipfile
from pathlib import Path
from tarfile import GNU_FORMAT, PAX_FORMAT, USTAR_FORMAT

import cv2
import numpy as np
import torch

from models.cfg import load_cfg
from models.exporting.yolov5 import model_node
from models.yolo import DetectionModel
from tests.models.runtimes.test_opening import write_onnx, write_torchscript
from tests.utils.checkpoints.checkpoint_files import content
from tests.utils.checkpoints.official_files import fake_of, save_fake
from tests.utils.data.shards.tars import ROW, picture, tar_of
from training.config import TrainConfig
from utils.checkpoints.files import write_checkpoint
from utils.checkpoints.pickling import torch_file
from utils.data.index import build_index
from utils.data.shards.listing import Listing, Row
from utils.files import ROOT
from utils.hyperparameters import Hyperparameters

NCNN = """7767517
5 6
Input            in0      0 1 in0 0=64 1=64 2=3
Convolution      conv_0   1 1 in0 1 0=8 1=3 11=3 12=1 13=2 14=1 2=1 3=2 4=1 5=1 6=216
Split            split_0  1 2 1 2 3
Swish            silu_0   1 1 2 4
BinaryOp         add_0    2 1 3 4 out0 0=0
"""
# a flag of the storage (0: float32), then 216 weights and 8 biases
NCNN_WEIGHTS = bytes(4) + np.linspace(-1, 1, 224, dtype="<f4").tobytes()


def checkpoints(folder: Path) -> list[bytes]:
    """Our own, and an official one of a whole, tiny network."""
    write_checkpoint(folder / "own.pt", content())
    cfg = {
        "nc": 2, "depth_multiple": 0.33, "width_multiple": 0.25, "anchors": [[10, 13, 16, 30]],
        "backbone": [[-1, 1, "Conv", [32, 3, 2]]], "head": [[[0], 1, "Detect", ["nc", "anchors"]]],
    }  # fmt: skip
    model = DetectionModel(cfg)
    extra = {"yaml": cfg, "names": ["a", "b"], "nc": 2, "stride": model.stride}
    root = fake_of(model.model)
    whole = fake_of(model, **extra)
    whole._modules["model"] = root
    save_fake(folder / "official.pt", {"model": whole, "epoch": -1})
    legacy = io.BytesIO()
    torch.save({"a": torch.ones(2)}, legacy, _use_new_zipfile_serialization=False)
    return [*((folder / name).read_bytes() for name in ("own.pt", "official.pt")), legacy.getvalue()]


def pickles(folder: Path) -> list[bytes]:
    """The pickles of those, for a mutation that no checksum finds."""
    found = []
    for data in checkpoints(folder)[:2]:
        with zipfile.ZipFile(io.BytesIO(data)) as file:
            found += [file.read(name) for name in file.namelist() if name.endswith("data.pkl")]
    return found


def safetensors(folder: Path) -> list[bytes]:
    write_checkpoint(folder / "own.safetensors", content())
    return [(folder / "own.safetensors").read_bytes()]


def onnx(folder: Path) -> list[bytes]:
    names = json.dumps({"0": "a", "1": "b", "2": "c"})
    return [write_onnx(folder / "toy.onnx", names=names, stride="32", imgsz="[64, 64]").read_bytes()]


def torchscript(folder: Path) -> list[bytes]:
    path = write_torchscript(folder / "toy.torchscript", names={"0": "a"}, stride=32, shape=[1, 3, 64, 64])
    return [path.read_bytes()]


def openvino(folder: Path) -> list[bytes]:
    import openvino as ov

    write_onnx(folder / "toy.onnx")
    ov.save_model(ov.convert_model(str(folder / "toy.onnx")), str(folder / "toy.xml"), compress_to_fp16=False)
    return [(folder / "toy.xml").read_bytes()]


def ncnn(folder: Path) -> list[bytes]:
    return [NCNN.encode()]


def metadata(folder: Path) -> list[bytes]:
    return [
        b"names: {0: a, 1: b}\nstride: '32'\nimgsz: '[64, 64]'\nbatch: '1'\n",
        b"names: \"{0: 'per son', 1: 'b'}\"\nstride: 32\nshape: [1, 3, 64, 64]\ndynamic: 'false'\n",
    ]


def model_yamls(folder: Path) -> list[bytes]:
    cfg = load_cfg("yolov5n-gsconv.yaml")
    rows = "\n".join(f"  - {json.dumps(row)}" for row in cfg["backbone"])
    head = "\n".join(f"  - {json.dumps(row)}" for row in cfg["head"])
    return [
        f"nc: 2\ndepth_multiple: 0.33\nwidth_multiple: 0.25\nanchors: {cfg['anchors']}\n"
        f"activation: nn.SiLU()\nbackbone:\n{rows}\nhead:\n{head}\n".encode()
    ]


def data_yamls(folder: Path) -> list[bytes]:
    return [
        b"path: set\ntrain: images/train\nval: [images/val, images/more]\nnames: [cat, dog]\nnc: 2\n",
        b"base: &b {train: a}\n<<: *b\nval: b.txt\nnames: {0: x, 1: 0x10, 2: 1e3, 3: 2001-12-14}\n",
    ]


def hyps(folder: Path) -> list[bytes]:
    return [b"lr0: 0.01\nlrf: 1.0e-2\nmomentum: .937\niou: CIoU\nanchors: 3\nmosaic: 1\nscale: 0.5\n"]


def labels(folder: Path) -> list[bytes]:
    rows = "0 0.5 0.5 0.2 0.25\n1 .1 .1 .1 .1\n0 0.1 0.1 0.4 0.1 0.3 0.6\n"
    return [rows.encode(), rows.encode("utf-16"), b"\xef\xbb\xbf0 0.5 0.5 1 1\r\n"]


def lists(folder: Path) -> list[bytes]:
    cv2.imwrite(str(folder / "a.png"), np.zeros((16, 16, 3), np.uint8))
    return [b"# pictures\na.png\n./a.png\nhttp://x/y.jpg\n*.png\n", b"list.txt\n~/a.png\n\n//\n"]


def images(folder: Path) -> list[bytes]:
    """One of each format, with and without EXIF."""
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)
    picture, exif = Image.fromarray(pixels), Image.Exif()
    exif[0x0112] = 6
    found = []
    for form in ("JPEG", "PNG", "BMP", "WEBP", "TIFF", "GIF", "PPM", "JPEG2000"):
        for extra in ({}, {"exif": exif}) if form in ("JPEG", "PNG", "WEBP", "TIFF") else ({},):
            buffer = io.BytesIO()
            picture.save(buffer, form, **extra)
            found.append(buffer.getvalue())
    for mode in ("P", "L", "I;16", "F", "CMYK", "RGBA", "1"):
        buffer = io.BytesIO()
        grey = picture.convert("L")
        (
            Image.fromarray(np.asarray(grey).astype(np.uint16)) if mode == "I;16" else picture.convert(mode)
        ).save(buffer, "TIFF")
        found.append(buffer.getvalue())
    return found


def videos(folder: Path) -> list[bytes]:
    found = []
    for name, code in (("a.avi", "MJPG"), ("a.mp4", "mp4v")):
        writer = cv2.VideoWriter(str(folder / name), cv2.VideoWriter_fourcc(*code), 10, (48, 32))
        for shade in range(5):
            writer.write(np.full((32, 48, 3), 50 * shade, np.uint8))
        writer.release()
        found.append((folder / name).read_bytes())
    return found


def indices(folder: Path) -> list[bytes]:
    """The cached index of two pictures, which stay in the folder."""
    (folder / "images").mkdir(exist_ok=True)
    (folder / "labels").mkdir(exist_ok=True)
    for name in "ab":
        cv2.imwrite(str(folder / "images" / f"{name}.png"), np.zeros((16, 16, 3), np.uint8))
        (folder / "labels" / f"{name}.txt").write_text("0 0.5 0.5 0.5 0.5\n", encoding="utf-8")
    build_index([folder / "images"], {0: "a"})
    return [next(folder.glob("*.npz")).read_bytes()]


def tars(folder: Path) -> list[bytes]:
    """Shards in the three forms of headers, with long names, and labels of both kinds."""
    shapes = {"shapes": [{"label": "a", "points": [[1, 1], [20, 20]], "shape_type": "rectangle"}]}
    members = {
        "a.png": picture(suffix=".png"), "a.txt": ROW, f"{'d' * 90}/b.jpg": picture(),
        f"{'d' * 90}/b.json": json.dumps(shapes).encode(),
    }  # fmt: skip
    return [tar_of(members, form) for form in (USTAR_FORMAT, GNU_FORMAT, PAX_FORMAT)]


def listings(folder: Path) -> list[bytes]:
    """The listing of a shard, which stays in the folder."""
    content = tar_of({"a.png": picture(suffix=".png"), "a.txt": ROW})
    (folder / "x.tar").write_bytes(content)
    row = Row("a.png", 512, len(picture(suffix=".png")), 30, 40, ROW.decode())
    return [Listing(len(content), [row]).to_bytes()]


def latencies(folder: Path) -> list[bytes]:
    row = {
        "runtime": "onnx", "variant": "yolov5n", "form": "fused", "parameters": 3, "flops_ratio": 1.0,
        "memory_ratio": None, "milliseconds": [1, 2, 3], "ratio": [1, 1, 1], "verdict": "",
    }  # fmt: skip
    return [json.dumps({"machine": {"versions": {}, "cpu": "x"}, "timings": [row]}).encode()]


def losses(folder: Path) -> list[bytes]:
    """Names of losses, as `--iou` and `obj_loss` take them."""
    names = (
        "CIoU", "Inner-CIoU(ratio=0.75)", "WIoU-v3", "Focaler-SIoU(d=0.1, u=0.9)", "NWD", "Focal(gamma=1.5)",
        "Inner-Focaler-DIoU(ratio=1.2, d=0, u=.95)", "BCE", "QFL(beta=2)", "Alpha-GIoU(alpha=3e0)", "PIoU2",
        "WIoU-v2-Inner-Shape-IoU(scale=1, ratio=.7, gamma=1)", "NWD-CIoU(share=0.3, c=10)",
    )  # fmt: skip
    return [name.encode() for name in names]


def insertions(folder: Path) -> list[bytes]:
    """Words of `--insert`, several divided by a null byte."""
    words = (
        "CBAM after C3",
        "EMA(8) before Detect",
        "SE in 8\0SimAM after C3 in backbone",
        "ECA after 4\0CA(16) in 4",
    )
    return [word.encode() for word in words]


def values(folder: Path) -> list[bytes]:
    """Values of a checkpoint (`fuzz_targets.as_pickled`)."""
    nested = {
        "a": [1, 2.5, -3, None, True, "猫", ["tuple", 1, ["tuple"], "x", 300]],
        "b": {"c": 1 << 40, "d": ""},
    }
    node = {
        "class": "models.yolo.Model",
        "yaml": {"nc": 2},
        "_modules": {"class": "torch.nn.Conv2d", "k": [1]},
    }
    return [
        json.dumps(nested).encode(),
        json.dumps({"model": node, "g": {"global": "torch.float16"}}).encode(),
    ]


def yolov5_pickles(folder: Path) -> list[bytes]:
    """The pickle of a network as `export --include yolov5` writes it; the file stays in the folder."""
    cfg = {
        "nc": 2, "depth_multiple": 0.33, "width_multiple": 0.25, "anchors": [[10, 13, 16, 30]],
        "backbone": [[-1, 1, "Conv", [32, 3, 2]], [-1, 1, "C3", [32]], [-1, 1, "SPPF", [32, 5]]],
        "head": [[[2], 1, "Detect", ["nc", "anchors"]]],
    }  # fmt: skip
    content = {
        "epoch": -1,
        "model": model_node(DetectionModel(cfg).eval(), "x.yaml", torch.float16),
        "ema": None,
    }
    (folder / "yolov5.pt").write_bytes(torch_file(content))
    with zipfile.ZipFile(folder / "yolov5.pt") as file:
        return [file.read("archive/data.pkl")]


def saved(folder: Path) -> list[bytes]:
    """What a checkpoint keeps for `--resume`."""
    settings = dataclasses.asdict(TrainConfig(data="x.yaml"))
    return [json.dumps({"train_args": settings, "hyp": dataclasses.asdict(Hyperparameters())}).encode()]


def loss_rankings(folder: Path) -> list[bytes]:
    path = ROOT / "docs" / "losses.json"
    rows = json.loads(path.read_text(encoding="utf-8"))["losses"][:2]
    for row in rows:
        row["path"] = row["path"][:3]
    return [json.dumps({"losses": rows}).encode()]
