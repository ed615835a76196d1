from __future__ import annotations

import numpy as np
import pytest

from utils.evaluation.evaluate import Evaluation
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
