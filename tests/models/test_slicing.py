"""Tiles of pictures, and what becomes one object when they are put together."""

from __future__ import annotations

from itertools import count, pairwise

import numpy as np
import pytest
import torch

from models.detector import Detector, Prepared
from models.slicing import BATCH, Tiling, cut_off, detect_in_tiles, merge
from tests.detectors import detector

WHOLE, LEFT, RIGHT = (0, 0, 180, 100), (0, 0, 100, 100), (80, 0, 180, 100)


@pytest.mark.parametrize("shape", [(100, 100), (101, 640), (480, 641), (1500, 2000), (3000, 50)])
@pytest.mark.parametrize("overlap", [0.0, 0.2, 0.9])
def test_tiles_cover_the_picture_and_share_what_was_asked_for(shape: tuple[int, int], overlap: float) -> None:
    height, width = shape
    tiles = Tiling(128, overlap).windows(shape)
    seen = np.zeros(shape, bool)
    for left, top, right, bottom in tiles:
        assert left >= 0 and top >= 0 and right <= width and bottom <= height
        assert (right - left, bottom - top) == (min(width, 128), min(height, 128))
        seen[top:bottom, left:right] = True
    assert seen.all() and len(set(tiles)) == len(tiles)
    for axis in (0, 1):
        starts = sorted({tile[axis] for tile in tiles})
        assert all(after - before <= 128 - int(128 * overlap) + 1 for before, after in pairwise(starts))


def test_a_picture_no_larger_than_a_tile_is_one() -> None:
    assert Tiling(640).windows((480, 640)) == [(0, 0, 640, 480)]
    # 1500 - 640 = 860 in steps of at most 512: two, of 430
    assert [top for _, top, _, _ in Tiling(640).windows((1500, 640))] == [0, 430, 860]


def rows(*values: tuple[float, ...]) -> torch.Tensor:
    """Boxes x1, y1, x2, y2, confidence, class."""
    return torch.tensor(values, dtype=torch.float32).reshape(-1, 6)


def together(*found: torch.Tensor, agnostic: bool = False, max_det: int = 9) -> list[list[float]]:
    views = (WHOLE, LEFT, RIGHT)
    return merge(found, views, 0.45, agnostic=agnostic, max_det=max_det).tolist()


def test_what_ends_at_an_inner_edge_is_cut_off() -> None:
    found = rows(
        (0, 0, 50, 50, 1, 0), (50, 20, 99.5, 60, 1, 0), (50, 20, 98, 60, 1, 0), (50, 50, 60, 100, 1, 0)
    )
    assert cut_off(found, LEFT, WHOLE).tolist() == [
        False,
        True,
        False,
        False,
    ]  # the others end at the picture's
    assert not cut_off(found, WHOLE, WHOLE).any()


def test_how_near_an_edge_is_goes_by_the_sides_of_the_tile() -> None:
    # the tile (80, 20, 180, 70), 100 x 50, of a larger picture: 1 pixel across, half a pixel down
    found = rows(
        (80.9, 30, 100, 40, 1, 0),
        (81.1, 30, 100, 40, 1, 0),
        (90, 20.4, 99, 40, 1, 0),
        (90, 20.9, 99, 40, 1, 0),
    )
    assert cut_off(found, (80, 20, 180, 70), (0, 0, 300, 200)).tolist() == [True, False, True, False]


def test_seconds_of_all_views_are_added_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that ticks once a look: 1 s to prepare each group of views, 1 s to merge a picture."""
    look, ticks = Detector(detector("a")), count()
    monkeypatch.setattr(look, "clock", lambda: float(next(ticks)))
    together: list[int] = []  # views that went through the network at once

    def detect(batch: Prepared, augment: bool) -> tuple[list[torch.Tensor], tuple[float, float, float]]:
        together.append(len(batch.images))
        return [rows() for _ in batch.images], (0.25, 8.0, 0.5)

    monkeypatch.setattr(look, "detect", detect)
    image = np.zeros((64, 96, 3), np.uint8)
    # (96 - 24) / 19 and (64 - 24) / 19: 5 x 4 tiles
    for tiling, views in ((Tiling(96), [1]), (Tiling(64), [1, 2]), (Tiling(24), [1, 8, 8, 4])):
        together.clear()
        _, _, seconds = detect_in_tiles(look, [image] * 3, (64, 64), tiling)
        assert together == 3 * views
        assert seconds == (3 * len(views) * 1.25, 3 * len(views) * 8.0, 3 * (len(views) * 0.5 + 1))


NOTHING = rows()


@pytest.mark.parametrize(
    ("found", "kept"),
    [
        # seen whole by both tiles: one of them stays, the more confident one
        (
            (NOTHING, rows((82, 20, 96, 40, 0.5, 0)), rows((82, 20, 95, 40, 0.75, 0))),
            [(82, 20, 95, 40, 0.75, 0)],
        ),
        # 20 of 60 pixels in the left tile, at its edge, and more confident there: the whole object stays
        (
            (NOTHING, rows((85, 20, 100, 60, 0.75, 0)), rows((85, 20, 145, 60, 0.5, 0))),
            [(85, 20, 145, 60, 0.5, 0)],
        ),
        # cut in both tiles, whole in the whole picture
        (
            (
                rows((50, 20, 150, 60, 0.5, 0)),
                rows((50, 20, 100, 60, 0.75, 0)),
                rows((80, 20, 150, 60, 0.7, 0)),
            ),
            [(50, 20, 150, 60, 0.5, 0)],
        ),
        # a small object in front of a large one of its class, with an edge of its own, stays
        (
            (rows((50, 20, 150, 90, 0.75, 0)), rows((60, 30, 70, 40, 0.5, 0)), NOTHING),
            [(50, 20, 150, 90, 0.75, 0), (60, 30, 70, 40, 0.5, 0)],
        ),
        # another class does not cover
        (
            (rows((50, 20, 150, 60, 0.75, 1)), rows((50, 20, 100, 60, 0.5, 0)), NOTHING),
            [(50, 20, 150, 60, 0.75, 1), (50, 20, 100, 60, 0.5, 0)],
        ),
        # two boxes of one view are two objects for its network
        (
            (NOTHING, rows((40, 20, 100, 60, 0.75, 0), (80, 20, 100, 60, 0.5, 0)), NOTHING),
            [(40, 20, 100, 60, 0.75, 0), (80, 20, 100, 60, 0.5, 0)],
        ),
    ],
)
def test_merging(found: tuple[torch.Tensor, ...], kept: list[tuple[float, ...]]) -> None:
    assert together(*found) == [list(row) for row in kept]


def test_classes_do_not_matter_when_agnostic_and_max_det_counts_at_the_end() -> None:
    found = rows((50, 20, 150, 60, 0.75, 1)), rows((50, 20, 100, 60, 0.5, 0)), rows((80, 80, 90, 90, 0.25, 0))
    assert [row[4] for row in together(*found, agnostic=True)] == [0.75, 0.25]
    assert [row[4] for row in together(*found, max_det=1)] == [0.75]


def test_tiles_of_a_detector_are_its_detections_on_crops() -> None:
    torch.manual_seed(0)
    look = Detector(detector("a", "b"))
    look.conf, look.max_det = 0.2, 50
    image = np.random.default_rng(0).integers(0, 256, (96, 160, 3), dtype=np.uint8)
    (found,), seen, seconds = detect_in_tiles(look, [image], (64, 64), Tiling(64, 0.25))
    assert seen == (64, 64) and all(value > 0 for value in seconds) and 0 < len(found) <= 50
    assert (found[:, 4].diff() <= 0).all() and found[:, :4].min() >= 0
    assert found[:, 2].max() <= 160 and found[:, 3].max() <= 96
    candidates = []
    for left, top, right, bottom in [(0, 0, 160, 96), *Tiling(64, 0.25).windows((96, 160))]:
        (part,), _ = look.detect(look.prepare([image[top:bottom, left:right]], (64, 64)))
        candidates.append(part + torch.tensor([left, top, left, top, 0, 0]))
    distance = (found[:, None] - torch.cat(candidates)[None]).abs().amax(dim=2).amin(dim=1)
    assert distance.max() < 1e-2  # a batch may add up in another order
    assert len(Tiling(64, 0.25).windows((96, 160))) <= BATCH


def test_a_small_picture_is_looked_at_once() -> None:
    look = Detector(detector("a"))
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    (found,), _, _ = detect_in_tiles(look, [image], (64, 64), Tiling(64))
    (alone,), _ = look.detect(look.prepare([image], (64, 64)))
    assert torch.equal(found, alone)
