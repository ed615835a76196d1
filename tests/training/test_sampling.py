"""Weights of images for `--image-weights`."""

from __future__ import annotations

import numpy as np
import pytest

from training.sampling import image_weights


def test_rare_and_badly_detected_classes_weigh_more() -> None:
    # labels of images 0: classes 0, 0; 1: class 1; 2: none
    weights = image_weights(np.array([0.0, 0, 1]), np.array([0, 2, 3, 3]), np.array([0.5, 0.0]))
    # class 0: (1 - 0.5)^2 / 2 labels = 0.125; class 1: (1 - 0)^2 / 1 label = 1
    # images: 0.125 + 0.125 = 0.25; 1; none: the smallest of the others, 0.25; sum 1.5
    assert weights == pytest.approx([0.25 / 1.5, 1 / 1.5, 0.25 / 1.5])


def test_perfect_classes_or_no_labels_leave_equal_chances() -> None:
    perfect = image_weights(np.array([0.0, 0, 1]), np.array([0, 2, 3]), np.array([1.0, 1.0]))
    assert perfect == pytest.approx([0.5, 0.5])
    empty = image_weights(np.array([]), np.array([0, 0, 0, 0]), np.array([0.0]))
    assert empty == pytest.approx([1 / 3] * 3)
