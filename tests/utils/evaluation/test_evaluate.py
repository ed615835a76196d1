from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor

from utils.data.dataset import DetectionDataset
from utils.data.index import build_index
from utils.data.loader import Loader
from utils.data.spec import load_data_spec
from utils.evaluation.evaluate import Evaluation, evaluate
from utils.evaluation.metrics import ConfusionMatrix, DetectionMetrics

LABELS = np.array([[0, 10, 10, 30, 30]], np.float32)


@pytest.mark.parametrize(
    ("confidences", "confident"), [([], False), ([0.01] * 50, False), ([0.01] * 50 + [0.3], True)]
)
def test_confident_is_an_epoch_with_one_detection_that_would_be_shown(
    confidences: list[float], confident: bool
) -> None:
    rows = np.array([[10, 10, 30, 30, c, 0] for c in confidences], np.float32).reshape(-1, 6)
    matrix = ConfusionMatrix(2)
    matrix.update(rows, LABELS)
    result = Evaluation(DetectionMetrics({0: "a", 1: "b"}).compute(), matrix, {}, [0.0] * 3, [])
    assert result.confident is confident


def finds_bright_cells(images: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Predictions (B, 64, 7), a box of 16 pixels at each cell of 8, as sure as it is bright; two levels."""
    cells = torch.nn.functional.avg_pool2d(images, 8)
    blue, green = cells[:, 2].flatten(1), cells[:, 1].flatten(1)
    y, x = (torch.stack(torch.meshgrid(torch.arange(8), torch.arange(8), indexing="ij")) * 8 + 4).flatten(1)
    boxes = torch.stack((x, y, torch.full_like(x, 16), torch.full_like(x, 16)), 1).expand(len(images), -1, -1)
    scores = torch.stack((torch.maximum(blue, green), blue, green), 2)
    return torch.cat((boxes, scores), 2), [cells, cells[:, :1]]


@pytest.mark.parametrize("at_once", [1, 3])
def test_parts_of_a_batch_give_what_the_batch_does(tiny_data: Path, at_once: int) -> None:
    spec = load_data_spec(str(tiny_data))
    dataset = DetectionDataset(build_index(spec.val, spec.names), 64, batch_size=4)
    loader = Loader(dataset, workers=0, shuffle=False)
    sizes: list[int] = []
    judged: list[Tensor] = []
    shown: list[list[Tensor]] = []

    def infer(images: Tensor) -> tuple[Tensor, list[Tensor]]:
        sizes.append(len(images))
        return finds_bright_cells(images)

    def criterion(logits: list[Tensor], targets: Tensor) -> tuple[Tensor, Tensor]:
        judged.append(torch.cat([level.flatten(1) for level in logits], 1))
        return targets.sum(), torch.ones(3)

    def run(at_once: int) -> Evaluation:
        return evaluate(
            infer,
            loader,
            torch.device("cpu"),
            spec.names,
            at_once=at_once,
            criterion=cast(Any, criterion),
            on_batch=lambda number, batch, found: shown.append(list(found)),
        )

    whole, parts = run(4), run(at_once)
    assert sizes == {1: [4, 1, 1, 1, 1], 3: [4, 3, 1]}[at_once]
    for result in (whole, parts):
        result.report.pop("speed_ms_per_image")
    assert whole.report == parts.report
    assert whole.report["recall"] > 0
    assert whole.losses == parts.losses == [1.0] * 3
    assert len(judged) == len(shown) == 2
    assert torch.equal(*judged)
    assert all(map(torch.equal, *shown))
