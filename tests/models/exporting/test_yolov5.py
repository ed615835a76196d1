"""--include yolov5: the file is one of YOLOv5's, opens by its class names, and computes the same."""

from __future__ import annotations

import os
import pickletools
import subprocess
import sys
import zipfile
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from models.blocks.conv import Conv
from models.cfg import load_cfg
from models.exporting.config import ExportConfig
from models.exporting.job import Job
from models.exporting.yolov5 import BLOCKS, export
from models.registry import BLOCKS as REGISTERED
from models.weights import load_model
from models.yolo import DetectionModel
from tests.layouts import DISTINCT, OFFICIAL, images, randomise_norms, small
from tests.models.exporting import strangers_code
from tests.models.exporting.command import call, left, refusal
from tests.models.exporting.weights import lively, write_weights
from utils.checkpoints.archive import TorchArchive
from utils.checkpoints.unpickle import Node, read_pickle

# blocks that no official layout has, in one that nobody would train
RARE = {
    "nc": 3, "depth_multiple": 1.0, "width_multiple": 1.0, "anchors": 2,
    "backbone": [
        [-1, 1, "Focus", [16, 3]], [-1, 2, "BottleneckCSP", [16]],
        [-1, 2, "CrossConv", [16, 3, 1, 1, 1.0, True]],
        [-1, 1, "Contract", [2]], [-1, 1, "DWConv", [32, 3, 2]], [-1, 1, "MixConv2d", [32, [1, 3]]],
        [-1, 2, "C3x", [32]], [-1, 1, "Expand", [2]], [-1, 1, "DWConvTranspose2d", [8, 2, 2]],
        [-1, 1, "Conv", [32, 3, 2]], [-1, 1, "C3SPP", [32]], [-1, 1, "GhostBottleneck", [32, 3, 2]],
    ],
    "head": [[[10, 11], 1, "Detect", ["nc", "anchors"]]],
}  # fmt: skip
# what the official file has from its training; it is set anew by the next one
OF_TRAINING = {"models.yolo.Model": {"hyp", "class_weights"}}
# what torch 1.11 and newer ask of an Upsample
NEWER = {"torch.nn.modules.upsampling.Upsample": {"recompute_scale_factor"}}


def write(model: DetectionModel, target: Path, *, half: bool = False) -> Path:
    metadata = {"variant": "x", "source": "0" * 64}
    export(Job(model.eval(), torch.zeros(1), target, metadata, ExportConfig(half=half)))
    return target


def content(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        found: dict[str, Any] = read_pickle(TorchArchive(file).read_pickle_bytes())
    return found


def modules(root: Node) -> list[Node]:
    return [root, *(node for child in root.state["_modules"].items.values() for node in modules(child))]


def attributes(path: Path) -> dict[str, set[str]]:
    """The attributes of modules, and the names of their tensors, by the modules' classes."""
    found: dict[str, set[str]] = defaultdict(set)
    for node in modules(content(path)["model"]):
        tensors = (f"{kind}.{n}" for kind in ("_parameters", "_buffers") for n in node.state[kind].items)
        found[node.name] |= {*node.state, *tensors}
    return found


def globals_of(path: Path) -> set[str]:
    """The names that `pickle` itself would look up."""
    with zipfile.ZipFile(path) as archive:
        data = archive.read(next(name for name in archive.namelist() if name.endswith("/data.pkl")))
    return {str(argument) for opcode, argument, _ in pickletools.genops(data) if opcode.name == "GLOBAL"}


def test_it_is_built_like_an_official_file(shared: Path, tmp_path: Path) -> None:
    official = shared / "weights" / "yolov5n-v6.0.pt"
    model = load_model(official)
    ours = write(model, tmp_path / "n_yolov5.pt", half=True)
    of_numpy = {name for name in globals_of(official) if name.startswith(("numpy", "_codecs"))}  # the fitness
    wide = {"torch DoubleStorage"}  # class_weights
    assert globals_of(official) - globals_of(ours) == of_numpy | wide
    assert globals_of(ours) <= globals_of(official)
    expected, found = attributes(official), attributes(ours)
    assert set(found) == set(expected)
    for name, names in expected.items():
        assert names - found[name] == OF_TRAINING.get(name, set()), name
        assert found[name] - names == NEWER.get(name, set()), name
    assert set(content(official)) <= set(content(ours))
    own, other = (content(path)["model"] for path in (ours, official))
    for key in ("save", "names", "nc", "inplace", "training"):
        assert own.state[key] == other.state[key]
    for a, b in zip(modules(own), modules(other), strict=True):
        assert a.name == b.name
        assert [a.state.get(key) for key in ("i", "f", "type", "np")] == [
            b.state.get(key) for key in ("i", "f", "type", "np")
        ]
    again = load_model(ours).state_dict()
    assert all(torch.equal(tensor, again[name]) for name, tensor in model.state_dict().items())


def test_every_block_of_yolov5_is_covered() -> None:
    layouts = [load_cfg(name) for name in OFFICIAL]
    used = {row[2] for layout in layouts for row in layout["backbone"] + layout["head"]}
    assert len(OFFICIAL) == 23
    assert {name for name in used if not name.startswith("nn.")} <= {kind.__name__ for kind in BLOCKS}
    rare = {row[2] for row in RARE["backbone"]}  # type: ignore[attr-defined]
    registered = {kind.__name__ for kind in BLOCKS} & set(REGISTERED)
    assert registered <= used | rare  # all of them run in the next test


def test_a_stranger_opens_it_and_computes_the_same(tmp_path: Path) -> None:
    """Every official layout, at one size each, in a process that knows classes of these names only."""
    script = strangers_code.write(tmp_path)
    expected = {}
    for name in (*(name for name in OFFICIAL if name in DISTINCT), "rare", "fused"):
        torch.manual_seed(0)
        model = small({"fused": "yolov5s-ghost"}.get(name, name)) if name != "rare" else DetectionModel(RARE)
        randomise_norms(model)
        lively(model)
        if name == "fused":
            model.fuse()
        x = images(model, 2)
        with torch.inference_mode():
            expected[name] = model(x)[0]
        torch.save(x, write(model, tmp_path / f"{name}_yolov5.pt").with_suffix(".images"))
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment.pop("PYTHONPATH", None)
    done = subprocess.run(
        [sys.executable, script, tmp_path], env=environment, cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    for name, output in expected.items():
        found = torch.load(tmp_path / f"{name}_yolov5.output")
        torch.testing.assert_close(found, output, rtol=1e-3, atol=1e-3)


def test_the_command_writes_it_beside_the_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = write_weights(tmp_path / "best.pt", lively(small("yolov5n")))
    before = weights.read_bytes()
    for flags in ((), ("--half",)):  # the second replaces the first
        call(weights, "--include", "yolov5", "--imgsz", "64", *flags)
        assert left(weights) == {"best_yolov5.pt"} and weights.read_bytes() == before
        assert "in a checkout of YOLOv5" in capsys.readouterr().out
        again = load_model(tmp_path / "best_yolov5.pt")
        exact = load_model(weights)
        assert again.names == exact.names
        for name, tensor in exact.state_dict().items():
            assert torch.equal(again.state_dict()[name], tensor.half().float() if flags else tensor)


def test_weights_of_that_name_are_not_replaced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = write_weights(tmp_path / "best.pt", small("yolov5n"))
    for precious in (weights.read_bytes(), b"something else"):
        (tmp_path / "best_yolov5.pt").write_bytes(precious)
        line = refusal(capsys, "--weights", str(weights), "--include", "yolov5")
        assert "in the way" in line and (tmp_path / "best_yolov5.pt").read_bytes() == precious


@pytest.mark.parametrize(
    ("make", "telling"),
    [
        (lambda: small("yolov5n-gsconv"), "YOLOv5 has no GSConv"),
        (lambda: DetectionModel("yolov5n.yaml", ch=1, nc=3), "three channels"),
    ],
    ids=["blocks", "channels"],
)
def test_what_yolov5_cannot_run_is_said(
    make: Callable[[], DetectionModel], telling: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = write_weights(tmp_path / "best.pt", make())
    assert telling in refusal(capsys, "--weights", str(weights), "--include", "yolov5", "--imgsz", "64")
    assert left(weights) == set()


def test_folded_norms_come_back_as_norms_that_change_nothing(tmp_path: Path) -> None:
    model = lively(small("yolov5n")).fuse()
    path = write(model, tmp_path / "a_yolov5.pt")
    again = load_model(path)
    assert isinstance(again.model[0], Conv) and isinstance(again.model[0].bn, torch.nn.BatchNorm2d)
    x = images(model, 1)
    with torch.inference_mode():
        torch.testing.assert_close(again(x)[0], model(x)[0], rtol=1e-4, atol=1e-3)
    assert isinstance(model.model[0].bn, torch.nn.Identity)  # the model itself is left alone
