from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from training.anchors import best_possible_recall, check_anchors, kmeans_anchors

COCO = np.array(
    [[10, 13], [16, 30], [33, 23], [30, 61], [62, 45], [59, 119], [116, 90], [156, 198], [373, 326]],
    dtype=float,
)
STRIDES = (8.0, 16.0, 32.0)


def head(anchors: np.ndarray = COCO, strides: tuple[float, ...] = STRIDES) -> Any:
    stride = torch.tensor(strides)
    cells = torch.tensor(anchors, dtype=torch.float32).reshape(len(strides), -1, 2) / stride.view(-1, 1, 1)
    return SimpleNamespace(anchors=cells, stride=stride)


def tiny_labels(count: int = 400) -> np.ndarray:
    """Sizes around 5 px, too small for the anchors of COCO."""
    return np.random.default_rng(0).lognormal(np.log(4), 0.5, (count, 2))


def test_recall_by_hand():
    anchors = np.array([[10.0, 10.0]])
    # ratios: 3.9 < 4; 4.1; height 10 / 2.4 = 4.17; equal
    sizes = np.array([[39, 10], [41, 10], [10, 2.4], [10, 10]], dtype=float)
    assert best_possible_recall(sizes, anchors, thr=4.0) == 0.5
    assert best_possible_recall(sizes, np.array([[10.0, 10.0], [40.0, 10.0], [10.0, 3.0]])) == 1.0
    assert best_possible_recall(np.zeros((0, 2)), anchors) == 0.0


def naive_recall(sizes: np.ndarray, anchors: np.ndarray, thr: float) -> float:
    matched = 0
    for w, h in sizes:
        matched += any(max(w / a, a / w, h / b, b / h) < thr for a, b in anchors)
    return matched / len(sizes)


@pytest.mark.parametrize("thr", [2.0, 4.0])
def test_recall_against_a_loop(thr):
    sizes = np.random.default_rng(1).lognormal(3, 1.2, (300, 2))
    assert best_possible_recall(sizes, COCO, thr) == pytest.approx(naive_recall(sizes, COCO, thr))


def test_kmeans_finds_the_clusters():
    draw = np.random.default_rng(0)
    centres = np.array([[10.0, 20.0], [50.0, 30.0], [100.0, 200.0]])
    sizes = np.concatenate([c * draw.uniform(0.95, 1.05, (80, 2)) for c in centres])
    np.testing.assert_allclose(kmeans_anchors(sizes, 3, rng=np.random.default_rng(0)), centres, rtol=0.05)


def test_kmeans_repeats_from_a_seed_and_sorts_by_area():
    sizes = np.random.default_rng(2).lognormal(3, 1, (200, 2))
    first, second = (
        kmeans_anchors(sizes, 9, generations=100, rng=np.random.default_rng(5)) for _ in range(2)
    )
    assert np.array_equal(first, second)
    assert (np.diff(first.prod(axis=1)) >= 0).all()


def test_mutation_improves_recall_with_a_tight_ratio():
    sizes = np.random.default_rng(3).lognormal(3, 1, (300, 2))
    plain = kmeans_anchors(sizes, 6, 2.0, generations=0, rng=np.random.default_rng(0))
    evolved = kmeans_anchors(sizes, 6, 2.0, generations=500, rng=np.random.default_rng(0))
    assert best_possible_recall(sizes, evolved, 2.0) > best_possible_recall(sizes, plain, 2.0)


def test_kmeans_of_equal_labels():
    anchors = kmeans_anchors(np.full((50, 2), 24.0), 9)
    np.testing.assert_allclose(anchors, 24.0, rtol=0.5)
    assert best_possible_recall(np.full((50, 2), 24.0), anchors) == 1.0


@pytest.mark.parametrize("sizes", [np.zeros((0, 2)), np.full((8, 2), 50.0), np.full((100, 2), 1.5)])
def test_kmeans_of_too_few_labels(sizes):
    found = int((sizes > 2).any(axis=1).sum())
    with pytest.raises(ValueError, match=f"9 anchors need at least 9 labels with .* found {found}"):
        kmeans_anchors(sizes, 9)


def test_good_anchors_are_left_alone():
    detect = head()
    before = detect.anchors.clone()
    report = check_anchors(detect, np.random.default_rng(0).uniform(20, 75, (200, 2)))
    assert not report.changed and "a good fit" in str(report)
    assert torch.equal(detect.anchors, before)


def test_bad_anchors_are_replaced_in_grid_units_by_ascending_area():
    detect = head()
    buffer = detect.anchors
    report = check_anchors(detect, tiny_labels(), 4.0, 640, generations=200)
    assert report.changed and report.recall_after > report.recall_before
    assert detect.anchors is buffer, "a registered buffer is changed in place"
    pixels = detect.anchors * torch.tensor(STRIDES).view(3, 1, 1)
    np.testing.assert_allclose(pixels.reshape(9, 2), report.anchors, rtol=1e-5)
    assert (np.diff(report.anchors.prod(axis=1)) >= 0).all()
    assert "->" in str(report) and "\n" not in str(report)


def test_new_anchors_follow_the_strides_of_the_head():
    detect = head(COCO[::-1].copy(), STRIDES[::-1])
    check_anchors(detect, tiny_labels(), generations=50)
    areas = (detect.anchors * detect.stride.view(3, 1, 1)).prod(dim=2)
    assert areas[0].min() >= areas[1].max() and areas[1].min() >= areas[2].max()


def test_checks_repeat_from_a_seed():
    reports = [check_anchors(head(), tiny_labels(), seed=seed, generations=50) for seed in (1, 1, 2)]
    assert np.array_equal(reports[0].anchors, reports[1].anchors)
    assert not np.array_equal(reports[0].anchors, reports[2].anchors)


def test_anchors_do_not_exceed_the_image():
    sizes = np.random.default_rng(0).uniform([1500, 5], [2500, 20], (200, 2))
    report = check_anchors(head(), sizes, 4.0, 640, generations=50)
    assert report.anchors.max() <= 640


@pytest.mark.parametrize(
    ("sizes", "reason"),
    [
        (np.zeros((0, 2)), "kept: there are no labels"),
        (np.zeros((5, 2)), "kept: there are no labels"),
        (np.full((4, 2), 2.2), "kept: 9 anchors need at least 9 labels"),
    ],
)
def test_labels_that_no_anchors_can_be_learnt_from(sizes, reason):
    detect = head()
    before = detect.anchors.clone()
    report = check_anchors(detect, sizes)
    assert not report.changed and reason in str(report)
    assert torch.equal(detect.anchors, before)


def test_anchors_are_kept_when_new_ones_are_not_better():
    # 2 % of the labels are unreachable thin lines; nothing can be found for them and the rest at once
    sizes = np.concatenate([np.full((90, 2), 100.0), np.full((10, 2), 1e-3)])
    report = check_anchors(head(), sizes, generations=20)
    assert not report.changed and "kept: the best new ones reach" in str(report)
