"""The commands that export.py prints can be run as they stand."""

from __future__ import annotations

from pathlib import Path

import pytest

from models.exporting.config import ExportConfig
from models.exporting.formats import FORMATS
from models.exporting.hints import hints, trained_on
from models.exporting.run import Artefact
from tests.layouts import small
from tests.models.exporting.weights import write_weights
from utils.checkpoints.files import read_checkpoint, write_checkpoint
from utils.flags import parse_flags


def lines(folder: Path, weights: Path, *flags: str, form: str = "onnx") -> list[str]:
    artefact = Artefact(FORMATS[form], folder / "best it.onnx", (1, 3, 64, 64), 0.0, 0.0)
    return hints([artefact], parse_flags(ExportConfig, flags), weights).splitlines()


def test_validation_names_the_data_of_the_training(tmp_path: Path) -> None:
    weights = write_weights(tmp_path / "best.pt", small("yolov5n"))
    content = {
        key: value for key, value in read_checkpoint(weights).items() if key not in ("format", "version")
    }
    file = f"'{tmp_path / 'best it.onnx'}'"
    for data, wanted in (("data/digits.yaml", "data/digits.yaml"), ("coco", "coco"), ("gone.yaml", "")):
        write_checkpoint(weights, content | {"train_args": {"data": data}})
        assert trained_on(weights) == wanted
        detect, *validate = lines(tmp_path, weights)
        assert detect == f"detect:   python detect.py --weights {file} --imgsz 64"
        expected = f"validate: python val.py --weights {file} --data {wanted} --imgsz 64"
        assert validate == ([expected] if wanted else [])
    assert "--data my.yaml" in lines(tmp_path, weights, "--data", "my.yaml")[-1]


@pytest.mark.parametrize("content", [None, {}, {"data": None}])
def test_weights_that_do_not_tell(tmp_path: Path, content: dict[str, str] | None) -> None:
    weights = write_weights(tmp_path / "best.pt", small("yolov5n"))
    kept = {key: value for key, value in read_checkpoint(weights).items() if key not in ("format", "version")}
    write_checkpoint(weights, kept | {"train_args": content})
    assert trained_on(weights) == "" and len(lines(tmp_path, weights)) == 1


def test_of_a_file_for_yolov5(tmp_path: Path) -> None:
    weights = write_weights(tmp_path / "best.pt", small("yolov5n"))
    (line,) = lines(tmp_path, weights, form="yolov5")
    assert line.startswith("YOLOv5:   python detect.py --weights ") and "checkout" in line
