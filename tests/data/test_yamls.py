"""The files in data/: hyper-parameters equal the recorded sets; data yamls are complete."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import yaml

from training.hyp_yaml import load_hyperparameters
from utils.checkpoints.files import read_checkpoint
from utils.data.spec import load_data_spec
from utils.hyperparameters import Hyperparameters

DATA = Path(__file__).resolve().parents[2] / "data"
HYPS = ("scratch-low", "scratch-med", "scratch-high", "no-augmentation", "Objects365", "VOC")
CLASSES = {"coco": 80, "coco128": 80, "coco256": 80, "VOC": 20, "VisDrone": 10, "SODA10M": 6, "bccd": 3}


@pytest.mark.parametrize("name", HYPS)
def test_hyperparameters_equal_the_recorded_sets(name: str, golden: Path) -> None:
    recorded = json.loads((golden / "hyps.json").read_text(encoding="utf-8"))
    assert set(recorded) == {f"hyp.{hyp}" for hyp in HYPS}
    wanted = recorded[f"hyp.{name}"]
    file = DATA / "hyps" / f"hyp.{name}.yaml"
    assert yaml.safe_load(file.read_text(encoding="utf-8")) == wanted
    loaded = dataclasses.asdict(load_hyperparameters(file))
    assert {key: loaded[key] for key in wanted} == wanted


def test_defaults_are_scratch_low() -> None:
    assert load_hyperparameters(DATA / "hyps" / "hyp.scratch-low.yaml") == Hyperparameters()


@pytest.mark.parametrize("name", CLASSES)
def test_data_yaml(name: str) -> None:
    text = (DATA / f"{name}.yaml").read_text(encoding="utf-8")
    content = yaml.safe_load(text)
    assert set(content) <= {"path", "train", "val", "test", "names"}
    assert "http" in text.split("\npath:")[0]  # a comment above says where the images are
    spec = load_data_spec(DATA / f"{name}.yaml", needed=())
    assert list(spec.names) == list(range(CLASSES[name]))
    assert len(set(spec.names.values())) == CLASSES[name]


def test_coco_classes_are_those_of_the_official_weights(official_weights: Path) -> None:
    names = read_checkpoint(official_weights)["names"]
    assert yaml.safe_load((DATA / "coco.yaml").read_text(encoding="utf-8"))["names"] == names
    assert yaml.safe_load((DATA / "coco128.yaml").read_text(encoding="utf-8"))["names"] == names
