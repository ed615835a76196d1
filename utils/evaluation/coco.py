"""Detections in COCO's json format, and COCO's own way of scoring them."""

from __future__ import annotations

import json
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

    def add(self, result: ImageResult) -> None:
        """Add one image."""
        path, (height, width) = Path(result.path), result.shape
        name: int | str = int(path.stem) if path.stem.isascii() and path.stem.isdecimal() else path.stem
        self.images.append({"id": name, "file_name": path.name, "height": height, "width": width})
        number = len(self.images)  # stands for the id in the rows until they are written

        def row(cls: float, box: list[float]) -> dict[str, Any]:
            return {"image_id": number, "category_id": self.ids[int(cls)], "bbox": box}

        boxes = _corner_boxes(result.detections[:, :4])
        for (*_, confidence, cls), box in zip(result.detections.tolist(), boxes):
            self.predictions.append({**row(cls, box), "score": round(confidence, 5)})
        for (cls, *_), box in zip(result.labels.tolist(), _corner_boxes(result.labels[:, 1:])):
            place = len(self.annotations) + 1
            self.annotations.append({"id": place, **row(cls, box), "area": box[2] * box[3], "iscrowd": 0})

    def write(self, folder: Path) -> None:
        """Write both files."""
        truth = self._truth(self.images, self._named(self.annotations))
        for name, content in (("predictions.json", self._named(self.predictions)), ("labels.json", truth)):
            with atomic_write(folder / name) as file:
                file.write(json.dumps(content).encode())

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
        # by number: the evaluator takes no text for an id, and two images may have one name
        images = [{**image, "id": number} for number, image in enumerate(self.images, start=1)]
        truth = COCO(self._truth(images, [row.copy() for row in self.annotations]))
        detections = truth.loadRes([row.copy() for row in self.predictions])
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

    def _truth(self, images: list[dict[str, Any]], annotations: list[dict[str, Any]]) -> dict[str, Any]:
        return {"images": images, "annotations": annotations, "categories": self.categories}

    def _named(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Copies of rows with the id of their image."""
        return [{**row, "image_id": self.images[row["image_id"] - 1]["id"]} for row in rows]


def _corner_boxes(boxes: Tensor) -> list[list[float]]:
    """(n, 4) xyxy -> rows of x, y of the top-left corner, w, h; pixels to three decimals."""
    rows = xyxy_to_xywh(boxes)
    rows[:, :2] -= rows[:, 2:] / 2
    return [[round(value, 3) for value in row] for row in rows.tolist()]
