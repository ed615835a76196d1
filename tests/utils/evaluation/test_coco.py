"""COCO json files: ids, numbers of classes, boxes, and the score by COCO's own rules."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch

from utils.evaluation.coco import CocoJson
from utils.evaluation.evaluate import ImageResult

BOX = [10.0, 20.0, 40.0, 60.0]  # xyxy; as x, y, w, h: 10, 20, 30, 40


def result(path: str, found: list[list[float]], label: float = 0.0) -> ImageResult:
    """One image of 100 x 200 pixels with a label at BOX."""
    detections = torch.tensor(found).reshape(-1, 6)
    return ImageResult(path, (100, 200), detections, torch.tensor([[label, *BOX]]))


def hit(confidence: float = 0.9, category: float = 0.0) -> list[list[float]]:
    return [[*BOX, confidence, category]]


def gathered(*results: ImageResult, names: dict[int, str] | None = None) -> CocoJson:
    coco = CocoJson(names or {0: "cat", 1: "dog"})
    for each in results:
        coco.add(each)
    return coco


def scores(line: str) -> tuple[float, float]:
    """mAP50 and mAP50-95 of the line that `check` gives."""
    match = re.search(r"mAP50 (\S+), mAP50-95 (\S+)", line)
    assert match, line
    return float(match[1]), float(match[2])


def test_files(tmp_path: Path) -> None:
    gathered(result("a/000042.jpg", hit(0.123456)), result("b/dog.png", [])).write(tmp_path)
    assert json.loads((tmp_path / "predictions.json").read_text(encoding="utf-8")) == [
        {"image_id": 42, "category_id": 0, "bbox": [10.0, 20.0, 30.0, 40.0], "score": 0.12346}
    ]
    truth = json.loads((tmp_path / "labels.json").read_text(encoding="utf-8"))
    assert truth["images"] == [
        {"id": 42, "file_name": "000042.jpg", "height": 100, "width": 200},
        {"id": "dog", "file_name": "dog.png", "height": 100, "width": 200},
    ]
    assert [row["image_id"] for row in truth["annotations"]] == [42, "dog"]
    assert truth["annotations"][0]["area"] == 1200  # 30 * 40
    assert truth["categories"] == [{"id": 0, "name": "cat"}, {"id": 1, "name": "dog"}]


def test_only_ascii_digits_make_a_number(tmp_path: Path) -> None:
    coco = gathered(*(result(f"{stem}.jpg", []) for stem in ("7", "\u00b2", "\u0663", "-1", "1e3")))
    assert [image["id"] for image in coco.images] == [7, "\u00b2", "\u0663", "-1", "1e3"]


def test_coco_classes_have_coco_numbers() -> None:
    names = {index: str(index) for index in range(80)} | {0: "person", 79: "toothbrush"}
    coco = gathered(result("1.jpg", hit(category=79.0), label=11.0), names=names)
    assert coco.predictions[0]["category_id"] == 90
    assert coco.annotations[0]["category_id"] == 13  # the 12th of 80, since 12 is not used


def test_check_says_when_there_is_nothing(tmp_path: Path) -> None:
    assert "no detections" in gathered(result("1.jpg", [])).check(tmp_path)


@pytest.mark.parametrize("paths", [("1.jpg", "2.jpg"), ("cat.jpg", "dog.jpg"), ("1.jpg", "dog.jpg")])
def test_check_scores_numbers_and_text_alike(tmp_path: Path, paths: tuple[str, str]) -> None:
    pytest.importorskip("faster_coco_eval")
    first, second = paths
    coco = gathered(result(first, hit()), result(second, hit()))
    before = json.dumps([coco.images, coco.annotations, coco.categories, coco.predictions])
    line = coco.check(tmp_path)
    assert scores(line) == (1.0, 1.0)
    assert "share" not in line
    assert (
        json.dumps([coco.images, coco.annotations, coco.categories, coco.predictions]) == before
    )  # the numbers are copies' only
    # found in one of two images: recall reaches 50 of the 101 points from 0 to 1, plus the one at 0
    assert scores(gathered(result(first, []), result(second, hit())).check(tmp_path)) == pytest.approx(
        (51 / 101, 51 / 101), abs=1e-4
    )


def test_equal_names_in_two_folders_are_two_images(tmp_path: Path) -> None:
    """Were they one, the two detections in the second would match the labels of both."""
    pytest.importorskip("faster_coco_eval")
    line = gathered(result("a/1.jpg", []), result("b/1.jpg", hit(0.9) + hit(0.8))).check(tmp_path)
    assert scores(line) == pytest.approx((51 / 101, 51 / 101), abs=1e-4)
    assert f"1 images share an id with another in {tmp_path}" in line
