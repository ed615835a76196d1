"""Networks for grey pictures and for pictures of four channels, in every command."""

from __future__ import annotations

import csv
import re
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml

import benchmark
import detect
import export
import hubconf
import train
import val
from models.cfg import load_cfg
from models.detector import Detector, prepare
from models.exporting.int8 import Calibration
from models.exporting.job import example
from models.runtimes.opening import load_backend
from models.weights import load_model
from models.yolo import DetectionModel
from tests.models.exporting.weights import lively, seeing, write_weights
from utils.checkpoints.files import write_checkpoint
from utils.data.images import read_image
from utils.data.spec import load_data_spec
from utils.errors import UserError

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::torch.jit.TracerWarning")
NAMES = {1: "grey", 4: "four"}
SMALL = ("--imgsz", "64", "--device", "cpu")


@pytest.fixture(scope="module", params=NAMES, ids=NAMES.values())
def channels(request: pytest.FixtureRequest) -> int:
    number: int = request.param
    return number


@pytest.fixture(scope="module")
def cfg(channels: int, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A narrow network as a user writes it: `ch` in its yaml."""
    content = load_cfg("yolov5n.yaml") | {"width_multiple": 0.125, "nc": 2, "ch": channels}
    path = tmp_path_factory.mktemp("cfg") / f"{NAMES[channels]}.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def data(channels: int, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Squares of two kinds that differ in grey, or in the fourth channel and in nothing else."""
    root = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for split, count in {"train": 8, "val": 4}.items():
        for kind in ("images", "labels"):
            (root / kind / split).mkdir(parents=True)
        for number in range(count):
            image = rng.integers(90, 130, (64, 64, channels), dtype=np.uint8)
            image[8:24, 8:24, -1], image[36:56, 30:50, -1] = 250, 5
            cv2.imwrite(str(root / f"images/{split}/{number}.png"), image)
            rows = "0 0.25 0.25 0.25 0.25\n1 0.625 0.71875 0.3125 0.3125\n"
            (root / f"labels/{split}/{number}.txt").write_text(rows, encoding="utf-8")
    file = root / "data.yaml"
    file.write_text(f"path: {root}\ntrain: images/train\nval: images/val\nnames: [a, b]\n", encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def weights(channels: int, cfg: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a network that finds things everywhere."""
    torch.manual_seed(0)
    model = DetectionModel(cfg)
    path = tmp_path_factory.mktemp("weights") / "best.pt"
    write_checkpoint(
        path,
        {"model": lively(model).state_dict(), "ema": None, "yaml": model.yaml, "names": {0: "a", 1: "b"},
         "nc": 2, "stride": model.stride.tolist()},
    )  # fmt: skip
    return path


def run_train(data: Path, project: Path, *flags: str | Path) -> Path:
    common = ("--data", data, "--project", project, "--batch-size", "4", "--epochs", "1", *SMALL)
    train.main([*map(str, (*common, *flags))])
    return project / "exp"


def test_training_and_validation(channels: int, cfg: Path, data: Path, tmp_path: Path) -> None:
    """With workers, plots, mosaics, a cache; then all of it again from the weights, without a yaml."""
    run = run_train(data, tmp_path, "--cfg", cfg, "--workers", "1", "--cache", "ram")
    saved = torch.load(run / "weights/best.pt", weights_only=True)
    assert saved["yaml"]["ch"] == channels
    picture = cv2.imread(str(run / "train_batch0.jpg"))
    assert picture.shape[2] == 3
    assert picture.std() > 5
    again = run_train(
        data, tmp_path / "b", "--weights", run / "weights/last.pt", "--quad", "--multi-scale", "--rect",
        "--cache", "disk", "--workers", "0", "--noplots",
    )  # fmt: skip
    assert load_model(again / "weights/best.pt").channels == channels
    val.main([
        "--weights", str(again / "weights/best.pt"), "--data", str(data), "--project", str(tmp_path),
        "--augment", "--name", "val", "--save-txt", *SMALL,
    ])  # fmt: skip
    assert (tmp_path / "val/val_batch0_pred.jpg").is_file()


def test_resuming_and_evolving(
    channels: int, cfg: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = run_train(data, tmp_path, "--cfg", cfg, "--workers", "0", "--noplots", "--epochs", "1")
    train.main(["--resume", str(run / "weights/last.pt"), "--noplots"])
    assert "the run is finished" in capsys.readouterr().out
    run_train(data, tmp_path / "e", "--cfg", cfg, "--workers", "0", "--evolve", "1")
    assert len((tmp_path / "e/exp/evolve.csv").read_text(encoding="utf-8").splitlines()) == 2


def test_weights_of_colour_pictures_are_taken_over(
    channels: int, cfg: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    colour = DetectionModel(load_cfg(cfg) | {"ch": 3})
    source = write_weights(tmp_path / "colour.pt", colour)
    run_train(
        data, tmp_path, "--cfg", cfg, "--weights", source, "--workers", "0", "--noplots", "--freeze", "1"
    )
    told = capsys.readouterr().out
    assert "100.0% of the parameters" in told
    assert f"layer 0 had 3 channels, not {channels}: its kernels of three colours" in told


@pytest.fixture
def sources(data: Path, tmp_path: Path) -> Path:
    """A picture of the network's channels, one in colour, and a video."""
    folder = tmp_path / "sources"
    folder.mkdir()
    shutil.copy(data.parent / "images/val/0.png", folder / "own.png")
    colour = np.random.default_rng(1).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    cv2.imwrite(str(folder / "colour.jpg"), colour)
    video = cv2.VideoWriter(str(folder / "film.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 5, (64, 48))
    for _ in range(2):
        video.write(colour)
    video.release()
    return folder


def test_detection(
    channels: int, weights: Path, sources: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    detect.main([
        "--weights", str(weights), "--source", str(sources), "--project", str(tmp_path), "--augment",
        "--save-crop", "--save-csv", "--save-txt", "--conf-thres", "0.1", "--max-det", "5", *SMALL,
    ])  # fmt: skip
    found = tmp_path / "exp"
    for name in ("own.png", "colour.jpg"):
        drawn, source = cv2.imread(str(found / name), -1), cv2.imread(str(sources / name))
        assert drawn.shape == source.shape  # in colour, whatever the network sees
        assert not np.array_equal(drawn, source)
    assert (found / "film.mp4").stat().st_size > 500
    assert list((found / "crops").rglob("*.jpg"))
    with (found / "predictions.csv").open(encoding="utf-8") as file:
        assert {row["Image Name"] for row in csv.DictReader(file)} == {"own.png", "colour.jpg", "film.avi"}
    told = capsys.readouterr()
    assert f"at shape (1, {channels}, " in told.out
    assert ("pictures without a fourth have 255 there" in told.out + told.err) == (channels == 4)


@torch.inference_mode()
def test_training_and_detection_read_a_picture_alike(
    channels: int, weights: Path, data: Path, sources: Path
) -> None:
    detector = Detector(load_backend(weights))
    detector.conf = 0.1
    for name in ("own.png", "colour.jpg"):
        path = sources / name
        image = read_image(path, channels)
        by_path = detector([str(path)], size=64)
        batch = prepare([image], 64, channels=channels)
        assert by_path.s == (1, channels, *batch.size)
        expected = detector.detect(batch)[0][0]
        assert torch.equal(by_path.xyxy[0], expected)
        # an array is RGB or RGBA; grey may be (H, W)
        array = image[..., 0] if channels == 1 else image[..., [2, 1, 0, 3]]
        assert torch.equal(detector([array], size=64).xyxy[0], expected)
        rendered = by_path.render()[0]
        assert rendered.shape == (*image.shape[:2], 3)


def test_batches_and_pictures_that_do_not_fit(channels: int, weights: Path) -> None:
    detector = Detector(load_backend(weights))
    assert detector(torch.rand(2, channels, 64, 64)).shape[::2] == (2, 5 + len(detector.names))
    with pytest.raises(UserError, match=rf"a batch must be \(B, {channels}, H, W\) float 0–1, found \(1, 3,"):
        detector(torch.rand(1, 3, 64, 64))


def test_hub(channels: int, weights: Path) -> None:
    model = hubconf.yolov5n(pretrained=False, channels=channels, classes=2, _verbose=False, device="cpu")
    assert isinstance(model, Detector) and model.channels == channels
    assert hubconf.custom(weights, _verbose=False, device="cpu").channels == channels
    with pytest.raises(UserError, match="ch is 12; pictures have 1 channel"):
        hubconf.yolov5n(pretrained=False, channels=12)


FORMS = {
    "torchscript": ("best.torchscript", ""), "onnx": ("best.onnx", "onnx"),
    "openvino": ("best_openvino_model", "openvino"), "ncnn": ("best_ncnn_model", "ncnn"),
    "executorch": ("best.pte", "executorch"), "litert": ("best.tflite", "litert_torch"),
    "coreml": ("best.mlpackage", "coremltools"),
}  # fmt: skip


QUICK = ("onnx", "ncnn")


@pytest.mark.parametrize(
    "form", [form if form in QUICK else pytest.param(form, marks=pytest.mark.slow) for form in FORMS]
)
def test_export_and_runtimes(channels: int, weights: Path, data: Path, tmp_path: Path, form: str) -> None:
    name, package = FORMS[form]
    if package:
        pytest.importorskip(package)
    shutil.copy(weights, tmp_path / "best.pt")
    export.main(["--weights", str(tmp_path / "best.pt"), "--imgsz", "64", "--opset", "12", "--include", form])
    assert (tmp_path / name).exists()
    if form in ("litert", "coreml"):
        return  # compared with PyTorch, or as far as that goes, when they were written
    x = example((64, 64), 1, channels)
    expected = load_backend(weights)(x)
    for dnn in (False, True) if form == "onnx" else (False,):
        backend = load_backend(tmp_path / name, dnn=dnn)
        assert backend.channels == channels
        torch.testing.assert_close(backend(x), expected, rtol=1e-3, atol=1e-2)
        with pytest.raises(UserError, match=rf"the weights take {channels} channels, got images of 3"):
            backend(torch.rand(1, 3, 64, 64))
    val.main([
        "--weights", str(tmp_path / name), "--data", str(data), "--project", str(tmp_path), "--name", "val",
        "--noplots", *SMALL,
    ])  # fmt: skip


def test_tensorrt_is_told_the_channels(
    channels: int, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("onnx")
    shutil.copy(weights, tmp_path / "best.pt")
    export.main(["--weights", str(tmp_path / "best.pt"), "--imgsz", "64", "--include", "engine", "--dynamic"])
    assert f"--minShapes=images:1x{channels}x64x64" in capsys.readouterr().out
    assert load_backend(tmp_path / "best.onnx").channels == channels


def test_calibration_sees_the_channels(channels: int, data: Path) -> None:
    batches = list(Calibration(load_data_spec(data), 64, 4, channels))
    assert [batch.shape for batch in batches] == [(4, channels, 64, 64)] * 2


@pytest.mark.slow
def test_eight_bits(channels: int, weights: Path, data: Path, tmp_path: Path) -> None:
    pytest.importorskip("nncf")
    shutil.copy(weights, tmp_path / "best.pt")
    export.main([
        "--weights", str(tmp_path / "best.pt"), "--imgsz", "64", "--include", "openvino", "--int8", "--force",
        "--data", str(data),
    ])  # fmt: skip
    assert load_backend(tmp_path / "best_int8_openvino_model").channels == channels


@pytest.mark.slow
def test_benchmarks(channels: int, cfg: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Side by side with a network for colour."""
    pytest.importorskip("onnxruntime")
    both = (
        "--cfg",
        "yolov5n",
        str(cfg),
        "--imgsz",
        "64",
        "--runs",
        "1",
        "--warmup",
        "0",
        "--runtimes",
        "onnx",
    )
    for command in ("latency", "profile"):
        benchmark.main([command, *both, "--runtimes", "onnx"])
    benchmark.main(["complexity", "yolov5n", str(cfg), "--imgsz", "64"])
    assert capsys.readouterr().out.count(cfg.stem) >= 3


def test_an_ensemble_sees_one_kind_of_picture(channels: int, weights: Path, tmp_path: Path) -> None:
    colour = DetectionModel("yolov5n.yaml", nc=2)
    colour.names = {0: "a", 1: "b"}
    path = write_weights(tmp_path / "colour.pt", seeing(lively(colour)))
    state = torch.load(path, weights_only=True)
    write_checkpoint(path, {**state, "names": colour.names})
    found = re.escape(str(sorted([3, channels])))
    with pytest.raises(UserError, match=f"ensemble need the same channels; found {found}"):
        load_backend([weights, path])


@pytest.mark.parametrize("value", ["2", "0", "12", "x", "3.5", "[1]"])
def test_other_numbers_end_with_one_line(value: str, tiny_data: Path, tmp_path: Path) -> None:
    path = tmp_path / "odd.yaml"
    text = yaml.safe_dump(load_cfg("yolov5n.yaml"))
    path.write_text(f"ch: {value}\n{text}", encoding="utf-8")
    with pytest.raises(
        UserError, match=r"^odd\.yaml: ch is .*; pictures have 1 channel \(grey\), 3 \(colour\)"
    ):
        train.main(["--cfg", str(path), "--data", str(tiny_data), "--project", str(tmp_path)])
    with pytest.raises(UserError, match=r"odd\.yaml: ch is "):
        benchmark.main(["complexity", str(path)])


def test_checkpoints_of_other_numbers_end_with_one_line(weights: Path, tmp_path: Path) -> None:
    state = torch.load(weights, weights_only=True)
    write_checkpoint(tmp_path / "odd.pt", {**state, "yaml": {**state["yaml"], "ch": 2}})
    with pytest.raises(
        UserError, match=r"odd\.pt: cannot rebuild its model: its yaml: ch is 2; pictures have"
    ):
        load_backend(tmp_path / "odd.pt")
