"""`benchmark.py insert`: a table in which a block that begins as the identity changes nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import benchmark
from benchmarks.insert import instead
from models.yolo import DetectionModel
from tests.models.exporting.weights import lively
from utils.checkpoints.files import write_checkpoint
from utils.errors import UserError


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    model = lively(DetectionModel("yolov5n.yaml", nc=2))
    content = {"yaml": model.yaml, "nc": 2, "names": {0: "blue", 1: "green"}, "ema": None}
    write_checkpoint(tmp_path / "a.pt", {**content, "model": model.state_dict()})
    return tmp_path / "a.pt"


def test_the_identity_changes_nothing(
    weights: Path, tiny_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ("--weights", str(weights), "--data", str(tiny_data), "--imgsz", "64", "--workers", "0")
    benchmark.main(["insert", *flags, "--device", "cpu", "--blocks", "ECA", "SimAM", "--at", "before Detect"])
    table = [line.split("|")[1:-1] for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    rows = {name: rest for name, *rest in ([cell.strip() for cell in line] for line in table)}
    before, eca, simam = rows["–"], rows["`ECA`"], rows["`SimAM`"]
    # of 64, 128 and 256 channels: (6 + 1) / 2 = 3.5, (7 + 1) / 2 = 4 and (8 + 1) / 2 = 4.5
    assert int(eca[0].replace(",", "")) - int(before[0].replace(",", "")) == 3 + 5 + 5
    assert float(before[2]) == 0 and float(eca[2]) < 1e-6 < float(simam[2])
    assert eca[3:] == before[3:]
    with pytest.raises(UserError, match="--insert 'SE after C4': the network has no layer 'C4'"):
        benchmark.main(["insert", *flags, "--blocks", "SE", "--at", "after C4"])


def test_what_takes_a_place_begins_as_what_stood_there(
    weights: Path, tiny_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ("--weights", str(weights), "--data", str(tiny_data), "--imgsz", "64", "--workers", "0")
    others = ("--instead", "DiverseBranch", "--cfg", "yolov5n-sharedhead.yaml")
    benchmark.main(["insert", *flags, "--device", "cpu", *others])
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| `")]
    table = {
        name: rest for name, *rest in ([cell.strip() for cell in line.split("|")[1:-1]] for line in lines)
    }
    assert set(table) == {"`DiverseBranch for Conv`", "`yolov5n-sharedhead`"}
    assert all(float(row[2]) < 1e-5 for row in table.values())
    with pytest.raises(UserError, match=r"layer 1: unknown block 'DCNv3'; did you mean 'DCNv2'\?"):
        benchmark.main(["insert", *flags, "--instead", "DCNv3"])


def test_layers_of_a_name_are_replaced_with_their_arguments_or_others() -> None:
    rows = [
        [-1, 1, "Conv", [8, 3, 2]],
        [-1, 2, "C3", [8, False]],
        [-1, 1, "nn.Upsample", ["None", 2, "nearest"]],
    ]
    cfg = {"backbone": rows, "head": [[-1, 1, "C3", [8]]]}
    changed = instead(cfg, "C2f for C3")
    assert changed["backbone"][1] == [-1, 2, "C2f", [8, False]] and changed["head"] == [[-1, 1, "C2f", [8]]]
    assert instead(cfg, "CARAFE(2, 5) for nn.Upsample")["backbone"][2] == [-1, 1, "CARAFE", [2, 5]]
    assert instead(cfg, "ADown()")["backbone"][0] == [-1, 1, "ADown", [8]]
    assert instead(cfg, "SPDConv(3)")["backbone"] == [[-1, 1, "SPDConv", [8, 3]], *rows[1:]]
    for text, complaint in (
        ("C2f for SPPF", "the network has no SPPF"),
        ("C2f over C3", "is not understood"),
        ("C2f([]) for C3", "must be plain values"),
    ):
        with pytest.raises(UserError, match=complaint):
            instead(cfg, text)


def test_there_must_be_a_convolution_to_stand_for() -> None:
    with pytest.raises(UserError, match="--instead ODConv: the network has no 3x3 Conv of stride 2"):
        instead({"backbone": [[-1, 1, "Conv", [8, 3, 1]]], "head": []}, "ODConv")
