"""What is wrong with boxes: their size, shape and place, and boxes on top of each other."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from curation.findings.finding import LISTED, Example, Found, Grade
from curation.survey import Survey
from training.anchors import GOOD_RECALL, MIN_SIDE, best_possible_recall

ANCHOR_RATIO = 4.0  # of the sides of a box and its anchor: hyper-parameter anchor_t
SAME = 0.95  # IoU from which two boxes are one
WHOLE = 0.95  # share of both sides of the picture
SLIVER = 20.0  # ratio of sides
SMALL_SHARE = 0.1  # of all boxes, from which small ones are no exception
CORNER = 0.25  # share of the picture in which nearly all boxes lie
ENOUGH = 50  # boxes before anything is said about where they lie


def doubled(survey: Survey) -> Found:
    """Boxes of one class that lie on top of each other."""
    first, second, overlap = on_top(survey)
    chosen = survey.classes[first] == survey.classes[second]
    pairs = dict(zip(second[chosen].tolist(), overlap[chosen].tolist()))
    order = np.array(sorted(pairs, key=lambda box: -pairs[box]), int)
    return _examples(survey, order, lambda box: f"IoU {pairs[box]:.3f} with another {_name(survey, box)}")


def contradicting(survey: Survey) -> Found:
    """Boxes of two classes that lie on top of each other."""
    first, second, _ = on_top(survey)
    chosen = survey.classes[first] != survey.classes[second]
    pairs = dict(zip(second[chosen].tolist(), first[chosen].tolist()))
    return _examples(
        survey, np.array(sorted(pairs), int), lambda box: f"also labelled {_name(survey, pairs[box])}"
    )


def tiny(survey: Survey) -> Found:
    """Boxes that are nothing at the size of training."""
    sizes = survey.trained_sizes
    chosen = np.flatnonzero((sizes <= MIN_SIDE).any(axis=1))
    return _examples(survey, chosen[np.argsort(sizes[chosen].prod(axis=1))], _trained(survey))


def small(survey: Survey) -> Found:
    """Boxes smaller than a cell of the finest level."""
    cell = survey.geometry.strides[0]
    sizes = survey.trained_sizes
    chosen = np.flatnonzero((sizes < cell).all(axis=1) & (sizes > MIN_SIDE).all(axis=1))
    many = len(chosen) > SMALL_SHARE * max(len(sizes), 1)
    said = f"{_share(len(chosen), len(sizes))} are smaller than {cell:g} x {cell:g} px at {survey.imgsz} px"
    order = chosen[np.argsort(sizes[chosen].prod(axis=1), kind="stable")]
    return _examples(survey, order, _trained(survey), said, "warning" if many else None)


def huge(survey: Survey) -> Found:
    """Boxes that are the picture."""
    chosen = np.flatnonzero((survey.boxes[:, 3:] >= WHOLE).all(axis=1))
    return _examples(survey, chosen, lambda box: "the whole picture")


def slivers(survey: Survey) -> Found:
    """Boxes that are hardly more than a line."""
    sizes = survey.sizes
    ratio = sizes.max(axis=1, initial=0) / np.maximum(sizes.min(axis=1, initial=np.inf), 1e-9)
    chosen = np.flatnonzero(ratio > SLIVER)
    return _examples(
        survey, chosen[np.argsort(-ratio[chosen])], lambda box: f"sides as {ratio[box]:.0f} to 1"
    )


def anchors(survey: Survey) -> Found:
    """Boxes that match no anchor; nothing where the anchors fit as well as training asks."""
    recall = recall_of(survey)
    if recall > GOOD_RECALL or not len(survey.boxes):
        return Found()
    ratio = nearest_anchor(survey)[0]
    chosen = np.flatnonzero(ratio >= ANCHOR_RATIO)
    said = f"best possible recall {recall:.3f} at {survey.imgsz} px, above {GOOD_RECALL} is good"
    order = chosen[np.argsort(-ratio[chosen], kind="stable")]
    return _examples(survey, order, _trained(survey), said)


def one_corner(survey: Survey) -> Found:
    """Nearly all boxes in one part of the picture."""
    if len(survey.boxes) < ENOUGH:
        return Found()
    low, high = np.percentile(survey.boxes[:, 1:3], (1, 99), axis=0)
    share = float((high - low).prod())
    if share >= CORNER:
        return Found()
    said = (
        f"98 % of the centres lie between {low[0]:.2f} and {high[0]:.2f} across and between {low[1]:.2f} and "
        f"{high[1]:.2f} down, {100 * share:.0f} % of the picture"
    )
    return Found(len(survey.boxes), [], said)


def recall_of(survey: Survey) -> float:
    """Best possible recall of the network's anchors, 0–1."""
    return best_possible_recall(survey.trained_sizes, survey.geometry.anchors.reshape(-1, 2), ANCHOR_RATIO)


def nearest_anchor(survey: Survey) -> tuple[np.ndarray, np.ndarray]:
    """(M,) ratio of sides to the best anchor, and (M,) int the level that it is on."""
    sizes = np.log(np.maximum(survey.trained_sizes, 1e-9))
    best, level = np.full(len(sizes), np.inf), np.zeros(len(sizes), int)
    for number, row in enumerate(np.log(survey.geometry.anchors)):
        for anchor in row:
            distance = np.abs(sizes - anchor).max(axis=1, initial=0)
            closer = distance < best
            best[closer], level[closer] = distance[closer], number
    return np.exp(best), level


def on_top(survey: Survey, least: float = SAME) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pairs of boxes of one picture that overlap by more than `least`.

    Of boxes in the order of their left edges, one that overlaps so much begins within a share of `1 - least`
    of the other's width, so that few have to be compared, however many there are.

    Returns:
        (P,) int, (P,) int numbers of boxes, the first smaller, and (P,) their IoU.
    """
    xyxy, picture = survey.xyxy.astype(np.float64), survey.picture_of
    order = np.lexsort((xyxy[:, 0], picture))
    xyxy, picture = xyxy[order], picture[order]
    reach = xyxy[:, 0] + (1 - least) * (xyxy[:, 2] - xyxy[:, 0])
    pairs: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    at, shift = np.arange(len(order)), 0
    while len(at):
        shift += 1
        at = at[at + shift < len(order)]
        other = at + shift
        near = (picture[at] == picture[other]) & (xyxy[other, 0] <= reach[at])
        at, other = at[near], other[near]
        overlap = _paired_iou(xyxy[at], xyxy[other])
        same = overlap > least
        pairs.append((order[at[same]], order[other[same]], overlap[same]))
    ends = [np.concatenate(part) for part in zip(*pairs)] if pairs else [np.zeros(0, int)] * 3
    return np.minimum(ends[0], ends[1]), np.maximum(ends[0], ends[1]), ends[2]


def _paired_iou(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """(n, 4) and (n, 4) xyxy -> (n,)."""
    shared = (np.minimum(one[:, 2:], other[:, 2:]) - np.maximum(one[:, :2], other[:, :2])).clip(0)
    inner = shared.prod(axis=1)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(axis=1) for boxes in (one, other)]
    return inner / np.maximum(areas[0] + areas[1] - inner, 1e-12)


def _trained(survey: Survey) -> Callable[[int], str]:
    def detail(box: int) -> str:
        width, height = survey.trained_sizes[box]
        return f"{width:.1f} x {height:.1f} px at {survey.imgsz} px"

    return detail


def _name(survey: Survey, box: int) -> str:
    return survey.names[int(survey.boxes[box, 0])]


def _share(part: int, whole: int) -> str:
    return f"{100 * part / max(whole, 1):.1f} % of the boxes"


def _examples(
    survey: Survey,
    chosen: np.ndarray,
    detail: Callable[[int], str],
    said: str = "",
    grade: Grade | None = None,
) -> Found:
    """The boxes `chosen`, the worst first."""
    examples = []
    for box in chosen[:LISTED].tolist():
        picture = int(survey.picture_of[box])
        left, top, right, bottom = (float(edge) for edge in survey.xyxy[box])
        place = survey.path(picture), survey.split(picture)
        examples.append(Example(*place, (left, top, right, bottom), _name(survey, box), detail(box)))
    return Found(len(chosen), examples, said, grade)
