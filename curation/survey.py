"""A whole data set at once: its splits one after the other, as flat arrays.

Pictures have numbers from 0 through all splits, in the order train, val, test, and so have boxes.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from curation.disagreement import Disagreement
from curation.fingerprints import Fingerprints, equal_to_earlier, nearest_earlier
from curation.opening import open_data
from models.cfg import load_cfg
from models.yolo import DetectionModel
from utils.boxes import xywh_to_xyxy
from utils.data.index import DatasetIndex, build_index
from utils.data.spec import SPLITS, DataSpec


@dataclass(frozen=True)
class Geometry:
    """What a network's head expects of boxes.

    Attributes:
        anchors: (levels, k, 2) widths and heights in pixels of the network's input.
        strides: (levels,) pixels of a cell of each level, ascending.
    """

    anchors: np.ndarray = field(default_factory=lambda: np.zeros((0, 0, 2)))
    strides: np.ndarray = field(default_factory=lambda: np.zeros(0))

    @classmethod
    def of(cls, model: DetectionModel) -> Geometry:
        strides = model.head.stride.detach().cpu().double().numpy()
        anchors = model.head.anchors.detach().cpu().double().numpy() * strides[:, None, None]
        order = np.argsort(strides, kind="stable")
        return cls(anchors[order], strides[order])

    @classmethod
    def of_cfg(cls, cfg: str) -> Geometry:
        """Of a model yaml. Raises `UserError` when there is none."""
        return cls.of(DetectionModel(load_cfg(cfg)))


@dataclass
class Survey:
    """A data set of N pictures with M boxes, and what is known of it.

    Attributes:
        spec: the data yaml.
        indices: what was scanned, by split.
        imgsz: side in pixels that pictures are trained at.
        geometry: of the network that will learn from it.
        prints: what the files hold and look like.
        network: where a trained network disagrees with the labels; None without one.
    """

    spec: DataSpec
    indices: dict[str, DatasetIndex]
    imgsz: int = 640
    geometry: Geometry = field(default_factory=Geometry)
    prints: Fingerprints = field(default_factory=Fingerprints)
    network: Disagreement | None = None

    @property
    def looks(self) -> np.ndarray | None:
        """(N, 32) uint8 perceptual hashes; None where nothing can make them."""
        return self.prints.looks

    @property
    def names(self) -> dict[int, str]:
        return self.spec.names

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(self.indices)

    def __len__(self) -> int:
        return len(self.shapes)

    @cached_property
    def starts(self) -> np.ndarray:
        """(splits + 1,) int: number of the first picture of each split, and the number of all."""
        return np.cumsum([0, *map(len, self.indices.values())])

    @cached_property
    def split_of(self) -> np.ndarray:
        """(N,) int: each picture's place in `splits`."""
        return np.repeat(np.arange(len(self.splits)), np.diff(self.starts))

    @cached_property
    def shapes(self) -> np.ndarray:
        """(N, 2) int32 height, width in pixels, upright."""
        return np.concatenate([index.shapes for index in self.indices.values()])

    @cached_property
    def boxes(self) -> np.ndarray:
        """(M, 5) float32 class, xc, yc, w, h in fractions of the picture."""
        return np.concatenate([index.boxes for index in self.indices.values()])

    @cached_property
    def per_picture(self) -> np.ndarray:
        """(N,) int: how many boxes each picture has."""
        return np.concatenate([np.diff(index.offsets) for index in self.indices.values()])

    @cached_property
    def picture_of(self) -> np.ndarray:
        """(M,) int: the picture of each box."""
        return np.repeat(np.arange(len(self)), self.per_picture)

    @cached_property
    def classes(self) -> np.ndarray:
        """(M,) int: class of each box."""
        return self.boxes[:, 0].astype(int)

    @cached_property
    def xyxy(self) -> np.ndarray:
        """(M, 4) float32 corners in pixels of the picture."""
        sides = self.shapes[self.picture_of][:, [1, 0, 1, 0]].astype(np.float32)
        return xywh_to_xyxy(self.boxes[:, 1:]) * sides

    @cached_property
    def sizes(self) -> np.ndarray:
        """(M, 2) float64 width and height in pixels of the picture."""
        return self.boxes[:, 3:].astype(np.float64) * self.shapes[self.picture_of][:, ::-1]

    @cached_property
    def trained_sizes(self) -> np.ndarray:
        """(M, 2) float64 width and height in pixels once the longer side of the picture is `imgsz`."""
        return self.sizes * (self.imgsz / self.shapes.max(axis=1))[self.picture_of][:, None]

    @cached_property
    def same_file(self) -> dict[int, int]:
        """Pictures that are named more than once, by any way that leads to them: number -> the first."""
        first: dict[str, int] = {}
        real = (os.path.normcase(os.path.realpath(self.path(number))) for number in range(len(self)))
        return {
            number: first[path]
            for number, path in enumerate(real)
            if first.setdefault(path, number) != number
        }

    @cached_property
    def same_content(self) -> dict[int, int]:
        """Files that hold the same bytes as an earlier one: number -> the first."""
        return {a: b for a, b in equal_to_earlier(self.prints.content) if a not in self.same_file}

    @cached_property
    def same_look(self) -> dict[int, tuple[int, int]]:
        """Pictures that look like an earlier one and are no copies: number -> (the nearest, bits apart)."""
        if self.looks is None:
            return {}
        distinct = self.prints.hashed.copy()
        distinct[[*self.same_file, *self.same_content]] = False
        pairs = nearest_earlier(self.looks, np.flatnonzero(distinct), self.split_of)
        return {picture: (other, bits) for picture, other, bits in pairs}

    def labels(self, picture: int) -> np.ndarray:
        """(n, 5) float32 class, xc, yc, w, h in fractions of the picture."""
        split = int(self.split_of[picture])
        return self.indices[self.splits[split]].labels(int(picture - self.starts[split]))

    def polygons(self, picture: int) -> list[np.ndarray]:
        """For each box of a picture its polygon, (k, 2) float32 x, y in shares of the picture; k may be 0."""
        split = int(self.split_of[picture])
        return self.indices[self.splits[split]].polygons(int(picture - self.starts[split]))

    def labelled(self, boxes: slice) -> np.ndarray:
        """(n, 5) class, x1, y1, x2, y2 in pixels of some boxes."""
        return np.concatenate([self.boxes[boxes, :1], self.xyxy[boxes]], axis=1)

    def path(self, picture: int) -> str:
        split = int(self.split_of[picture])
        return self.indices[self.splits[split]].path(int(picture - self.starts[split]))

    def split(self, picture: int) -> str:
        return self.splits[self.split_of[picture]]

    @cached_property
    def counts(self) -> np.ndarray:
        """(splits, classes) int: boxes of each class in each split."""
        flat = self.split_of[self.picture_of] * self.spec.nc + self.classes
        return np.bincount(flat, minlength=len(self.splits) * self.spec.nc).reshape(-1, self.spec.nc)


def open_splits(data: str, wanted: Iterable[str] = SPLITS) -> tuple[DataSpec, dict[str, DatasetIndex]]:
    """Scan the splits of a data set of any format; `test` may point to nothing when there are others.

    Raises:
        UserError: no such data, it has none of `wanted`, or a split without usable pictures.
    """
    spec = open_data(data, [split for split in wanted if split != "test"] or ["test"])
    there = [split for split in wanted if getattr(spec, split)]
    if len(there) > 1 and "test" in there and not all(source.exists() for source in spec.test):
        there.remove("test")
    return spec, {split: build_index(getattr(spec, split), spec.names) for split in there}
