"""Putting a run together: what it says of weights that were taken over, and `--image-weights`."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from models.yolo import DetectionModel
from training.config import TrainConfig
from training.setup import build_model, image_weights
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
    # four Conv of 6 tensors became GSConv of 12: 349 - 4 * 6 + 4 * 12 = 373 tensors. The depthwise kernels of
    # these are not taken over, nor are the anchors
    assert lines[0].startswith(f"{weights}: 368 of 373 tensors taken over, 9")
    assert "of the parameters" in lines[0]
    if not verbose:
        assert len(lines) == 1
        return
    layers = [line.split()[:5] for line in lines[1:]]
    assert layers[0] == ["layer", "block", "tensors", "parameters", "taken"]
    assert ["0", "Conv", "6", "of", "6"] in layers and ["10", "GSConv", "11", "of", "12"] in layers
    assert "nothing that fits: model.10.cv2.conv.weight" in lines
    assert lines[-1] == "left as it is: model.24.anchors"


def labelled(classes: np.ndarray, offsets: np.ndarray) -> Any:
    """What counts here of an index: the class of each label, and which labels belong to each image."""
    return SimpleNamespace(boxes=classes[:, None], offsets=offsets)


def test_rare_and_badly_detected_classes_weigh_more() -> None:
    # labels of images 0: classes 0, 0; 1: class 1; 2: none
    weights = image_weights(labelled(np.array([0.0, 0, 1]), np.array([0, 2, 3, 3])), [0.5, 0.0])
    # class 0: (1 - 0.5)^2 / 2 labels = 0.125; class 1: (1 - 0)^2 / 1 label = 1
    # images: 0.125 + 0.125 = 0.25; 1; none: the smallest of the others, 0.25; sum 1.5
    assert weights == pytest.approx([0.25 / 1.5, 1 / 1.5, 0.25 / 1.5])


def test_perfect_classes_or_no_labels_leave_equal_chances() -> None:
    perfect = image_weights(labelled(np.array([0.0, 0, 1]), np.array([0, 2, 3])), [1.0, 1.0])
    assert perfect == pytest.approx([0.5, 0.5])
    empty = image_weights(labelled(np.array([]), np.array([0, 0, 0, 0])), [0.0])
    assert empty == pytest.approx([1 / 3] * 3)
