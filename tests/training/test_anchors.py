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


def test_ratios_count_below_a_pixel_too():
    small = np.array([[0.5, 0.5]])
    assert best_possible_recall(small, np.array([[2.5, 2.5]])) == 0.0  # a factor of 5
    assert best_possible_recall(small, np.array([[1.5, 1.5]])) == 1.0  # of 3


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


@pytest.mark.parametrize(
    ("size", "counts"),
    [
        ((50, 50), True),
        ((1.5, 1.5), False),
        ((2, 2), False),  # it takes a side above 2
        ((2.1, 0.5), True),  # one is enough
        ((50, 0), False),  # but nothing has no ratio
    ],
)
def test_labels_that_anchors_are_learnt_from(size, counts):
    sizes = np.concatenate([np.full((8, 2), 50.0), [size]])
    if counts:
        assert kmeans_anchors(sizes, 9, generations=1).shape == (9, 2)
        sizes = sizes[:8]
    with pytest.raises(ValueError, match=r"9 anchors need at least 9 labels with .* found 8"):
        kmeans_anchors(sizes, 9)
    with pytest.raises(ValueError, match="found 0"):
        kmeans_anchors(np.zeros((0, 2)), 9)


def test_of_many_labels_a_share_is_looked_at_none_of_them_twice(monkeypatch):
    monkeypatch.setattr("training.anchors.SEARCH_SAMPLE", 9)
    sizes = np.arange(3.0, 13)[:, None].repeat(2, 1)  # ten squares
    found = kmeans_anchors(sizes, 9, generations=0)
    assert {tuple(anchor) for anchor in np.round(found, 6).tolist()} < {(side, side) for side in range(3, 13)}
    assert len(np.unique(found.round(6), axis=0)) == 9


KINDS = np.array(
    [[8, 16], [9, 17], [10, 15], [3, 5], [40, 20], [44, 22], [38, 25], [90, 120], [95, 100]], dtype=float
)


def test_kmeans_by_hand():
    # the means of the first four, of the next three and of the last two
    found = kmeans_anchors(KINDS, 3, 2.0, generations=0, rng=np.random.default_rng(7))
    np.testing.assert_allclose(found, [[7.5, 13.25], [122 / 3, 67 / 3], [92.5, 110]])


def test_anchors_of_a_seed_are_the_same_everywhere():
    """Recorded, after forty mutations; and as a head takes them, where no anchor exceeds the image."""
    found = kmeans_anchors(KINDS, 3, 2.0, generations=40, rng=np.random.default_rng(7))
    expected = [[7.688225415, 18.197933972], [43.728558608, 22.333333333], [91.996835164, 107.343232]]
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    expected = [[7.563034884, 15.680120924], [42.124848528, 21.345360346], [64, 64]]
    for seed in ({}, {"seed": 0}):
        report = check_anchors(head(COCO[:3]), KINDS, 1.3, 64, generations=40, **seed)
        np.testing.assert_allclose(report.anchors, expected, rtol=1e-6)


def test_a_match_ends_at_a_factor_of_four_by_default():
    anchor = np.array([[10.0, 10.0]])
    assert best_possible_recall(np.array([[45.0, 10.0], [35.0, 10.0]]), anchor) == 0.5
    # 3 and 4.5 times the largest anchor; labels are varied by a tenth
    sizes = np.array([[373.0, 326.0]]) * [[3.0], [4.7]]
    assert check_anchors(head(), sizes).recall_before == 0.5


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
