"""Detections in COCO's json format, and COCO's own way of scoring them."""

from __future__ import annotations

import json
from itertools import chain, repeat
from pathlib import Path
from typing import Any

from torch import Tensor

from utils.boxes import xyxy_to_xywh
from utils.evaluation.evaluate import ImageResult
from utils.files import atomic_write

# COCO numbers its 80 classes up to 90; these numbers are not used
GAPS = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}
COCO_IDS = [number for number in range(1, 91) if number not in GAPS]


class CocoJson:
    """Gathers detections and labels of a validation pass.

    Files:
        predictions.json: list of image_id, category_id, bbox (x, y, w, h in pixels, top-left corner), score.
        labels.json: the labels that they were compared with, as a COCO data set.

    The id of an image is its file name: as a number where it is one, as in COCO, else as text.
    """

    def __init__(self, names: dict[int, str]) -> None:
        is_coco = len(names) == 80 and names[0] == "person" and names[79] == "toothbrush"
        self.ids = COCO_IDS if is_coco else list(range(len(names)))
        self.categories = [{"id": self.ids[index], "name": name} for index, name in names.items()]
        self.images: list[dict[str, Any]] = []
        self.annotations: list[dict[str, Any]] = []
        self.predictions: list[dict[str, Any]] = []
        self.counts: list[tuple[int, int]] = []  # of each image: predictions, annotations

    def add(self, result: ImageResult) -> None:
        """Add one image."""
        stem = Path(result.path).stem
        image_id = int(stem) if stem.isascii() and stem.isdecimal() else stem
        self.counts.append((len(result.detections), len(result.labels)))
        height, width = result.shape
        self.images.append(
            {"id": image_id, "file_name": Path(result.path).name, "height": height, "width": width}
        )
        for row, box in zip(result.detections.tolist(), _corner_boxes(result.detections[:, :4])):
            self.predictions.append(
                {
                    "image_id": image_id,
                    "category_id": self.ids[int(row[5])],
                    "bbox": box,
                    "score": round(row[4], 5),
                }
            )
        for row, box in zip(result.labels.tolist(), _corner_boxes(result.labels[:, 1:])):
            self.annotations.append(
                {
                    "id": len(self.annotations) + 1,
                    "image_id": image_id,
                    "category_id": self.ids[int(row[0])],
                    "bbox": box,
                    "area": box[2] * box[3],
                    "iscrowd": 0,
                }
            )

    def write(self, folder: Path) -> None:
        """Write both files."""
        for name, content in (("predictions.json", self.predictions), ("labels.json", self.ground_truth)):
            with atomic_write(folder / name) as file:
                file.write(json.dumps(content).encode())

    @property
    def ground_truth(self) -> dict[str, Any]:
        return {"images": self.images, "annotations": self.annotations, "categories": self.categories}

    def check(self, folder: Path) -> str:
        """One line: what faster-coco-eval makes of these detections and labels, or why it cannot say.

        Args:
            folder: where `write` put the files, to name those whose ids are ambiguous.
        """
        if not self.predictions:
            return "COCO check: no detections"
        try:
            from faster_coco_eval import COCO, COCOeval_faster
        except ImportError:
            return "COCO check skipped: pip install faster-coco-eval"
        truth = COCO(self._numbered_truth())
        detections = truth.loadRes(_numbered(self.predictions, [counts[0] for counts in self.counts]))
        scores = COCOeval_faster(truth, detections, "bbox")
        scores.evaluate()
        scores.accumulate()
        scores.summarize()
        line = f"COCO check by faster-coco-eval: mAP50 {scores.stats[1]:.4f}, mAP50-95 {scores.stats[0]:.4f}"
        shared = len(self.images) - len({image["id"] for image in self.images})
        if shared:
            line += (
                f" ({shared} images share an id with another in {folder}: equal names in different folders)"
            )
        return line

    def _numbered_truth(self) -> dict[str, Any]:
        """`ground_truth` with images numbered from 1: the evaluator takes no text for an id."""
        return {
            **self.ground_truth,
            "images": [{**image, "id": number} for number, image in enumerate(self.images, start=1)],
            "annotations": _numbered(self.annotations, [counts[1] for counts in self.counts]),
        }


def _numbered(rows: list[dict[str, Any]], counts: list[int]) -> list[dict[str, Any]]:
    """Copies of rows whose `image_id` is the place of their image, from 1; `counts` has the rows of each."""
    numbers = chain.from_iterable(repeat(place, count) for place, count in enumerate(counts, start=1))
    return [{**row, "image_id": number} for row, number in zip(rows, numbers, strict=True)]


def _corner_boxes(boxes: Tensor) -> list[list[float]]:
    """(n, 4) xyxy -> rows of x, y of the top-left corner, w, h; pixels to three decimals."""
    rows = xyxy_to_xywh(boxes)
    rows[:, :2] -= rows[:, 2:] / 2
    return [[round(value, 3) for value in row] for row in rows.tolist()]
