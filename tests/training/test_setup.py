"""Putting a run together: what it says about weights that were taken over."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from models.yolo import DetectionModel
from training.config import TrainConfig
from training.setup import build_model
from utils.checkpoints.files import write_checkpoint
from utils.data.spec import load_data_spec
from utils.hyperparameters import Hyperparameters


@pytest.mark.parametrize("verbose", [False, True])
def test_transfer_is_reported_and_by_layer_on_request(
    tiny_data: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    verbose: bool,
) -> None:
    caplog.set_level(logging.INFO, "lean5")
    source = DetectionModel("yolov5n.yaml", nc=2)
    weights = tmp_path / "yolov5n.pt"
    description = {"ema": None, "yaml": source.yaml, "names": source.names, "nc": 2, "stride": [8, 16, 32]}
    write_checkpoint(weights, {"model": source.state_dict(), **description})
    config = TrainConfig(weights=str(weights), cfg="yolov5n-gsconv.yaml", verbose=verbose)
    build_model(config, Hyperparameters(), load_data_spec(tiny_data), None)
    lines = "\n".join(caplog.messages).splitlines()
    # four Conv of 6 tensors became GSConv of 12, none of which fits: 349 - 4 * 6 + 4 * 12 = 373 tensors, of
    # which 48 are not taken over, nor are the anchors
    assert lines[0].startswith(f"{weights}: 324 of 373 tensors taken over, 9")
    assert "of the parameters" in lines[0]
    if not verbose:
        assert len(lines) == 1
        return
    layers = [line.split()[:5] for line in lines[1:]]
    assert layers[0] == ["layer", "block", "tensors", "parameters", "taken"]
    assert ["0", "Conv", "6", "of", "6"] in layers and ["10", "GSConv", "0", "of", "12"] in layers
    assert "not in the weights: model.10.cv1.conv.weight" in lines
    assert lines[-1] == "left as it is: model.24.anchors"
