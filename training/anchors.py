"""Anchors that fit the labels: how well given ones do, and better ones by k-means and mutation.

A label and an anchor are compared by the larger of their two side ratios, each taken as a factor above 1. In
logarithms this ratio is a distance: `max(|log w - log w_a|, |log h - log h_a|)`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from models.blocks.detect import Detect

GOOD_RECALL = 0.98  # anchors that reach this are left alone
MIN_SIDE = 2.0  # labels with no side above this many pixels are not learnt from; no anchor is smaller
SEARCH_SAMPLE = 20_000  # labels that the search looks at; the comparison at the end takes all of them
KMEANS_ROUNDS = 30


@dataclass(frozen=True)
class AnchorReport:
    """What `check_anchors` found and did; `str()` of it is a line for the log."""

    recall_before: float  # best possible recall, 0–1
    recall_after: float  # the same with the anchors that the head has now
    anchors: np.ndarray  # (nl * na, 2) pixels, the anchors that the head has now
    changed: bool
    reason: str

    def __str__(self) -> str:
        text = f"anchors: best possible recall {self.recall_before:.3f}"
        if self.changed:
            text += f" -> {self.recall_after:.3f} with {np.round(self.anchors).astype(int).tolist()}"
        return f"{text}, {self.reason}"


def best_possible_recall(wh: np.ndarray, anchors: np.ndarray, thr: float = 4.0) -> float:
    """Share of labels that match at least one anchor; 0 without labels.

    Args:
        wh: (n, 2) widths and heights of labels.
        anchors: (k, 2), in the same unit.
        thr: the ratio of sides at which a match ends, above 1.
    """
    if not len(wh):
        return 0.0
    return float((_nearest(_log(wh), _log(anchors)) < math.log(thr)).mean())


def kmeans_anchors(
    wh: np.ndarray,
    n: int,
    thr: float = 4.0,
    generations: int = 1000,
    rng: np.random.Generator | None = None,
) -> np.ndarray:
    """Anchors for these label sizes: k-means, then random mutations that are kept when they fit better.

    Args:
        wh: (m, 2) label widths and heights in pixels.
        n: how many anchors.
        thr: the ratio of sides at which a match ends, above 1.
        generations: mutations to try.
        rng: makes the result repeatable; a fixed one by default.

    Returns:
        (n, 2) float64 pixels, by ascending area. Equal labels give equal anchors at first, which mutation
        may move apart.

    Raises:
        ValueError: fewer labels than anchors among those with a side above 2 pixels.
    """
    rng = rng or np.random.default_rng(0)
    wh = wh[(wh > MIN_SIDE).any(axis=1) & (wh > 0).all(axis=1)].astype(np.float64)
    if len(wh) < n:
        raise ValueError(f"{n} anchors need at least {n} labels with a side above 2 pixels, found {len(wh)}")
    if len(wh) > SEARCH_SAMPLE:
        wh = rng.choice(wh, SEARCH_SAMPLE, replace=False)
    scale = wh.std(axis=0)
    scale[scale < 1e-6] = 1.0  # all labels equally wide or high
    anchors = np.maximum(_kmeans(wh / scale, n, rng) * scale, MIN_SIDE)
    anchors = _mutate(anchors, _log(wh), thr, generations, rng)
    return anchors[np.argsort(anchors.prod(axis=1), kind="stable")]


def check_anchors(
    model_head: Detect,
    wh: np.ndarray,
    thr: float = 4.0,
    imgsz: int = 640,
    *,
    seed: int = 0,
    generations: int = 1000,
) -> AnchorReport:
    """Replace a head's anchors when they fit the labels badly and better ones are found.

    Label sizes are varied by up to 10 % first, as augmentation will do, so that no anchor sits on one size.

    Args:
        model_head: its `anchors` are replaced in place, small ones on the finest level.
        wh: (n, 2) label widths and heights in pixels, on images of the training size.
        thr: the ratio of sides at which a match ends, above 1 (hyper-parameter `anchor_t`).
        imgsz: training size in pixels; no anchor is larger.
        seed: equal seeds and labels give equal anchors.
        generations: mutations to try.
    """
    stride = model_head.stride.detach().cpu().double().reshape(-1, 1, 1)
    levels, per_level = model_head.anchors.shape[:2]
    current = (model_head.anchors.detach().cpu().double() * stride).numpy().reshape(-1, 2)
    rng = np.random.default_rng(seed)
    wh = np.asarray(wh, dtype=np.float64).reshape(-1, 2)
    wh = wh[(wh > 0).all(axis=1)]
    wh = wh * rng.uniform(0.9, 1.1, (len(wh), 1))
    before = best_possible_recall(wh, current, thr)

    def keep(reason: str) -> AnchorReport:
        return AnchorReport(before, before, current, changed=False, reason=reason)

    if not len(wh):
        return keep("kept: there are no labels")
    if before > GOOD_RECALL:
        return keep("a good fit")
    try:
        found = kmeans_anchors(wh, len(current), thr, generations, rng)
    except ValueError as error:
        return keep(f"kept: {error}")
    found = found.clip(max=imgsz)
    after = best_possible_recall(wh, found, thr)
    if after <= before:
        return keep(f"kept: the best new ones reach {after:.3f}")
    # Ascending anchors go to ascending strides, whichever level comes first in the head.
    by_level = np.empty((levels, per_level, 2))
    by_level[np.argsort(stride.flatten().numpy(), kind="stable")] = found.reshape(levels, per_level, 2)
    model_head.anchors.copy_(model_head.anchors.new_tensor(by_level) / stride.to(model_head.anchors))
    return AnchorReport(before, after, by_level.reshape(-1, 2), changed=True, reason="new anchors taken")


def _log(sizes: np.ndarray) -> np.ndarray:
    return np.log(np.maximum(np.asarray(sizes, dtype=np.float64), 1e-9))


def _nearest(log_wh: np.ndarray, log_anchors: np.ndarray) -> np.ndarray:
    """(n,) logarithm of the ratio between each label and its best anchor."""
    distance = np.full(len(log_wh), np.inf)
    width, height = np.ascontiguousarray(log_wh.T)
    for anchor_w, anchor_h in log_anchors:  # few anchors, many labels: no (n, k, 2) temporaries
        np.minimum(distance, np.maximum(np.abs(width - anchor_w), np.abs(height - anchor_h)), out=distance)
    return distance


def _fit(log_wh: np.ndarray, log_anchors: np.ndarray, thr: float) -> float:
    """What mutation maximises: the mean of 1 / ratio over labels, where a label without match counts 0."""
    distance = _nearest(log_wh, log_anchors)
    return float(np.where(distance < math.log(thr), np.exp(-distance), 0.0).mean())


def _mutate(
    anchors: np.ndarray, log_wh: np.ndarray, thr: float, generations: int, rng: np.random.Generator
) -> np.ndarray:
    """Random changes, kept when they fit better. Moving a few sides far finds more than nudging all."""
    best = _fit(log_wh, _log(anchors), thr)
    for _ in range(generations):
        factor = np.exp(rng.normal(0.0, 0.3 * rng.uniform(), anchors.shape))
        factor[rng.uniform(size=anchors.shape) > 0.3] = 1.0
        mutant = np.maximum(anchors * factor, MIN_SIDE)
        fit = _fit(log_wh, _log(mutant), thr)
        if fit > best:
            anchors, best = mutant, fit
    return anchors


def _kmeans(points: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """Lloyd's iteration from k-means++ seeds (Arthur and Vassilvitskii, 2007): (m, 2) -> (n, 2)."""
    centres = points[rng.integers(len(points))][None]
    while len(centres) < n:
        gap = _squared_distances(points, centres).min(axis=1)
        chance = gap / gap.sum() if gap.sum() > 0 else None  # None: all points are centres already
        centres = np.concatenate((centres, points[rng.choice(len(points), p=chance)][None]))
    for _ in range(KMEANS_ROUNDS):
        member = _squared_distances(points, centres).argmin(axis=1)
        count = np.bincount(member, minlength=n)
        sums = np.stack([np.bincount(member, points[:, axis], minlength=n) for axis in (0, 1)], axis=1)
        moved = np.where(count[:, None] > 0, sums / np.maximum(count, 1)[:, None], centres)
        if np.array_equal(moved, centres):
            break
        centres = moved
    return centres


def _squared_distances(points: np.ndarray, centres: np.ndarray) -> np.ndarray:
    return ((points[:, None] - centres) ** 2).sum(axis=2)
