"""Suppression inside the exported network, compared with that of detect.py."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from models.exporting.job import example
from models.runtimes.openvino import shared_core
from models.weights import load_model
from tests.models.exporting.command import call, session
from utils.nms import non_max_suppression

pytest.importorskip("onnx")


@pytest.mark.parametrize("agnostic", [False, True])
@pytest.mark.parametrize("kind", ["onnx", pytest.param("openvino", marks=pytest.mark.slow)])
def test_nms_inside(kind: str, agnostic: bool, spread_weights: Path) -> None:
    pytest.importorskip(kind)
    flags = ["--nms", "--iou-thres", "0.3", "--conf-thres", "0.3", "--topk-all", "20", "--dynamic"]
    call(
        spread_weights, "--include", kind, "--imgsz", "64", *flags, *(["--agnostic-nms"] if agnostic else [])
    )
    x = example((64, 96), 3)
    x[1] = torch.rand(3, 64, 96, generator=torch.Generator().manual_seed(0))
    if kind == "onnx":
        (rows,) = session(spread_weights).run(["output0"], {"images": x.numpy()})
    else:
        xml = str(spread_weights.parent / "best_openvino_model" / "best.xml")
        config = {"INFERENCE_PRECISION_HINT": "f32"}
        rows = np.array(shared_core().compile_model(xml, "CPU", config)({"images": x.numpy()})["output0"])
    with torch.inference_mode():
        expected = non_max_suppression(
            load_model(spread_weights)(x)[0], conf_thres=0.3, iou_thres=0.3, max_det=20, agnostic=agnostic
        )
    assert sum(map(len, expected)) >= 20 and np.all(np.diff(rows[:, 0]) >= 0)
    for index, wanted in enumerate(expected):
        found = rows[rows[:, 0] == index, 1:]
        assert found.shape == wanted.shape and np.all(np.diff(found[:, 4]) <= 0)
        assert np.abs(found - wanted.numpy()).max() < 1e-2


def test_nms_keeps_some_of_each_class(spread_weights: Path) -> None:
    call(
        spread_weights,
        "--include",
        "onnx",
        "--imgsz",
        "64",
        "--nms",
        "--conf-thres",
        "0.2",
        "--topk-per-class",
        "2",
    )
    (rows,) = session(spread_weights).run(None, {"images": example((64, 64), 1).numpy()})
    counts = np.bincount(rows[:, 6].astype(int), minlength=3)
    assert counts.max() == 2 and len(rows) == counts.sum()


def test_nms_without_a_detection(weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call(weights, "--include", "onnx", "--imgsz", "64", "--nms", "--conf-thres", "1")
    (rows,) = session(weights).run(None, {"images": example((64, 64), 1).numpy()})
    assert rows.shape == (0, 7)
    assert "no detection above --conf-thres 1" in capsys.readouterr().out
