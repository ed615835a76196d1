"""Eight-bit export: which images calibrate, what is refused, and the whole command."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml

import export
from models.exporting.int8 import Calibration, check_fall
from models.exporting.job import example
from models.runtimes.opening import load_backend
from tests.models.exporting.command import refusal
from tests.models.exporting.weights import NAMES, write_weights
from utils.data.spec import load_data_spec
from utils.errors import UserError
from utils.files import ROOT


@pytest.fixture(scope="module")
def three(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny data with the names of the classes that the weights know."""
    content = yaml.safe_load(tiny_data.read_text(encoding="utf-8"))
    root = tiny_data.parent
    splits = {split: str(root / content.get("path", "") / content[split]) for split in ("train", "val")}
    file = tmp_path_factory.mktemp("three") / "data.yaml"
    file.write_text(yaml.safe_dump({**splits, "names": NAMES}, allow_unicode=True), encoding="utf-8")
    return file


def test_calibration_repeats_and_has_whole_batches(three: Path) -> None:
    spec = load_data_spec(three)
    images = Calibration(spec, side=64, batch=3)
    first, second = list(images), list(images)
    assert len(images) == len(first) == len(images.dataset) // 3
    assert all(batch.shape == (3, 3, 64, 64) and batch.dtype == np.float32 for batch in first)
    assert 0 <= min(batch.min() for batch in first) < max(batch.max() for batch in first) <= 1
    assert all(np.array_equal(a, b) for a, b in zip(first, second))
    with pytest.raises(UserError, match="fewer than a batch"):
        Calibration(spec, side=64, batch=len(images.dataset) + 1)


def test_pictures_that_cannot_be_read_calibrate_nothing(
    tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(tiny_data.parent / "images" / "train", tmp_path / "images")
    shutil.copytree(tiny_data.parent / "labels" / "train", tmp_path / "labels")
    (tmp_path / "images" / "0.png").write_bytes(b"no image")
    file = tmp_path / "data.yaml"
    file.write_text(f"path: {tmp_path}\ntrain: images\nval: images\nnames: [a, b]\n", encoding="utf-8")
    images = Calibration(load_data_spec(file), side=64, batch=1)
    assert "calibration goes without some: 1 of 12 images could not be used: 0.png" in capsys.readouterr().err
    assert len(list(images)) == 11
    whole = bytearray((tmp_path / "images" / "1.png").read_bytes())
    whole[200:-60] = bytes(len(whole) - 260)
    (tmp_path / "images" / "1.png").write_bytes(whole)  # which the scan of heads would not see
    assert len(list(images)) == 10


@pytest.mark.parametrize(
    ("after", "force", "kept"), [(0.481, False, True), (0.479, False, False), (0.1, True, True)]
)
def test_a_fall_of_more_than_two_hundredths_is_refused(after: float, force: bool, kept: bool) -> None:
    if kept:  # 0.5 - 0.481 = 0.019; 0.5 - 0.479 = 0.021
        assert f"{after - 0.5:+.4f}" in check_fall(0.5, after, force=force)
    else:
        with pytest.raises(UserError, match=r"more than 0\.02 lost"):
            check_fall(0.5, after, force=force)


@pytest.mark.parametrize("form", ["onnx", pytest.param("openvino", marks=pytest.mark.slow)])
def test_the_command(tmp_path: Path, three: Path, form: str) -> None:
    pytest.importorskip("nncf")
    weights = write_weights(tmp_path / "a.pt")
    flags = ["--weights", str(weights), "--include", form, "--imgsz", "64", "--data", str(three)]
    export.main([*flags, "--int8"])
    made = sorted(path.name for path in tmp_path.iterdir())
    name = f"{weights.stem}_int8" + {"onnx": ".onnx", "openvino": "_openvino_model"}[form]
    assert made == sorted([weights.name, name])  # the fp32 form is not left behind
    rounded, plain = load_backend(tmp_path / name), load_backend(weights)
    assert rounded.names == plain.names
    image = example((64, 64), 1)
    expected, found = plain(image), rounded(image)
    assert (
        1e-6 < (found - expected).abs().max() / expected.abs().max() < 0.5
    )  # random weights amplify rounding
    written = (tmp_path / name / "a_int8.xml" if form == "openvino" else tmp_path / name).read_bytes()
    assert written.count({"onnx": b"QuantizeLinear", "openvino": b"FakeQuantize"}[form]) > 50


@pytest.mark.slow
def test_official_weights_keep_their_accuracy(
    official_weights: Path, linked_data: Path, tmp_path: Path
) -> None:
    pytest.importorskip("nncf")
    weights = tmp_path / "yolov5n.pt"
    weights.write_bytes(official_weights.read_bytes())
    names = yaml.safe_load((ROOT / "data" / "coco.yaml").read_text(encoding="utf-8"))["names"]
    places = {"path": str(linked_data / "coco256"), "train": "images/train2017", "val": "images/val2017"}
    (tmp_path / "coco256.yaml").write_text(yaml.safe_dump({**places, "names": names}), encoding="utf-8")
    flags = ["--include", "openvino", "--imgsz", "320", "--data", str(tmp_path / "coco256.yaml")]
    export.main(["--weights", str(weights), *flags, "--int8"])  # refuses a fall of more than 0.02
    assert (tmp_path / "yolov5n_int8_openvino_model").is_dir()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--include", "torchscript"], "it is for onnx, openvino"),
        (["--include", "onnx", "--half"], "exclude each other"),
        (["--include", "onnx", "--raw"], "decoded boxes"),
        (["--include", "onnx", "--imgsz", "64", "96"], "squares"),
        (["--include", "onnx", "--data", "nowhere.yaml"], "nowhere.yaml"),
    ],
)
def test_what_cannot_be_asked_for(
    tmp_path: Path, three: Path, flags: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("nncf")
    weights = write_weights(tmp_path / "a.pt")
    common = ["--weights", str(weights), "--data", str(three), "--imgsz", "64", "--int8"]
    assert words in refusal(capsys, *common, *flags)
    assert [path.name for path in tmp_path.iterdir()] == [weights.name]


def test_a_loss_is_not_measured_without_labels(
    tmp_path: Path, three: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("nncf")
    content = yaml.safe_load(three.read_text(encoding="utf-8"))
    shutil.copytree(content["val"], tmp_path / "images")
    data = tmp_path / "bare.yaml"
    data.write_text(yaml.safe_dump(content | {"val": str(tmp_path / "images")}), encoding="utf-8")
    flags = ["--weights", str(write_weights(tmp_path / "a.pt")), "--data", str(data), "--include", "onnx"]
    assert "no labels to use in val" in refusal(capsys, *flags, "--imgsz", "64", "--int8")
    assert not list(tmp_path.glob("*.onnx"))
