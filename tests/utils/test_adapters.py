"""What scripts written around YOLOv5 import: arguments and results as its users know them."""

from __future__ import annotations

import importlib
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

import export
import utils.device
from models.common import AutoShape, DetectMultiBackend
from models.experimental import attempt_load
from models.weights import load_model
from tests.layouts import images, small
from tests.models.exporting.weights import lively, write_weights
from utils import general
from utils.checkpoints.files import read_checkpoint
from utils.dataloaders import IMG_FORMATS, VID_FORMATS, LoadImages, LoadStreams, letterbox
from utils.errors import UserError
from utils.plots import Annotator, colors, plot_one_box, save_one_box
from utils.torch_utils import select_device, smart_inference_mode, time_sync

PICTURE = np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    return write_weights(tmp_path / "best.pt", lively(small("yolov5n")))


@pytest.mark.parametrize(
    "module", ["general", "torch_utils", "dataloaders", "datasets", "augmentations", "plots"]
)
def test_all_that_is_promised_is_there(module: str) -> None:
    facade = importlib.import_module(f"utils.{module}")
    assert facade.__all__ and all(hasattr(facade, name) for name in facade.__all__)


def test_boxes_go_back_to_the_picture_in_place() -> None:
    # 200 x 100 fits into 100 x 100 at half its size, with 25 pixels above and below
    for kind in (torch.tensor, np.array):
        boxes: Any = kind([[10.0, 35.0, 50.0, 65.0, 0.9, 2.0]])
        assert general.scale_boxes((100, 100), boxes, (100, 200, 3)) is boxes
        assert boxes.tolist() == [[20, 20, 100, 80, pytest.approx(0.9), 2]]
        general.scale_coords((100, 100), boxes[:, :4], (10, 10, 3), ((0.5, 0.5), (0, 0)))
        assert boxes[0, :4].tolist() == [10, 10, 10, 10]  # twice as far, and clipped
        older = {
            "img1_shape": (100, 100),
            "coords": kind([[10.0, 35.0, 50.0, 65.0]]),
            "img0_shape": (100, 200),
        }
        assert general.scale_coords(**older) is older["coords"]
        assert older["coords"].tolist() == [[20, 20, 100, 80]]


def test_conversions_keep_what_stands_behind_the_box() -> None:
    rows = torch.tensor([[1.0, 2.0, 5.0, 10.0, 0.5, 7.0]])
    middle = general.xyxy2xywh(rows)
    assert middle.tolist() == [[3, 6, 4, 8, 0.5, 7]] and rows[0, 0] == 1
    assert torch.equal(general.xywh2xyxy(middle), rows)
    assert general.xyxy2xywh(rows.numpy()).tolist() == middle.tolist()


def test_suppression_takes_what_networks_give() -> None:
    # centre, size, objectness, two classes: the second box lies in the first, the third is another class
    prediction = torch.tensor(
        [[[50.0, 50, 20, 20, 0.9, 1, 0], [51.0, 50, 20, 20, 0.8, 1, 0], [50.0, 50, 20, 20, 0.7, 0, 1]]]
    )
    for given in (prediction, (prediction, []), [prediction]):
        (found,) = general.non_max_suppression(given, 0.25, 0.45)
        assert found.tolist() == [
            [40, 40, 60, 60, pytest.approx(0.9), 0], [40, 40, 60, 60, pytest.approx(0.7), 1],
        ]  # fmt: skip
    assert len(general.non_max_suppression(prediction, 0.25, 0.45, None, True)[0]) == 1
    assert general.non_max_suppression(prediction, 0.25, 0.45, [1])[0][:, 5].tolist() == [1]
    with pytest.raises(ValueError, match="segmentation"):
        general.non_max_suppression(prediction, nm=32)


def test_image_sizes() -> None:
    assert general.check_img_size(100) == 128
    assert general.check_img_size([100, 64], s=torch.tensor([8.0, 16.0, 32.0])) == [128, 64]  # type: ignore[arg-type]
    assert general.check_img_size(32, floor=64) == 64


def test_numbered_places(tmp_path: Path) -> None:
    place = tmp_path / "exp"
    assert general.increment_path(place) == place and not place.exists()
    assert general.increment_path(place, mkdir=True) == place and place.is_dir()
    assert general.increment_path(place) == tmp_path / "exp2"
    assert general.increment_path(place, sep="_") == tmp_path / "exp_2"
    assert general.increment_path(place, exist_ok=True) == place
    (tmp_path / "a.jpg").touch()
    assert general.increment_path(tmp_path / "a.jpg") == tmp_path / "a2.jpg"


def test_files_are_found_and_not_downloaded() -> None:
    assert general.check_file("data/coco.yaml").endswith("coco.yaml") and general.check_file("") == ""
    with pytest.raises(UserError, match="coco"):
        general.check_file("coko.yaml")
    assert general.check_file("coco.yaml", suffix=".yaml") == general.check_file(
        "coco.yaml", (".yaml", ".yml")
    )
    assert general.check_file("", ".pt") == ""
    for wanted, told in ((".pt", r"\.pt"), ((".pt", ".onnx"), r"\.pt or \.onnx")):
        with pytest.raises(UserError, match=rf"^file 'data/coco\.yaml' must end in {told}$"):
            general.check_file("data/coco.yaml", wanted)


def test_clocks_and_modes() -> None:
    profile = general.Profile()
    for _ in range(2):
        with profile:
            time.sleep(0.002)
    assert profile.t > profile.dt > 0.001
    assert profile(lambda: 3)() == 3
    assert abs(time_sync() - time.time()) < 5
    assert smart_inference_mode()(lambda: torch.ones(1, requires_grad=True) * 2)().requires_grad is False
    assert select_device("cpu", batch_size=4) == select_device(torch.device("cpu")) == torch.device("cpu")


def test_scripts_see_what_they_tell_the_logger(capsys: pytest.CaptureFixture[str]) -> None:
    general.LOGGER.info("a")
    general.set_logging(verbose=False)
    general.LOGGER.info("b")
    general.set_logging()
    general.print_args({"weights": "best.pt", "half": False})
    assert capsys.readouterr().out == "a\nweights=best.pt, half=False\n"


def test_coloured_text() -> None:
    assert general.colorstr("a") == "\033[34m\033[1ma\033[0m"
    assert general.colorstr("red", "underline", "a") == "\033[31m\033[4ma\033[0m"


def test_images_and_videos(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), PICTURE)
    video = cv2.VideoWriter(str(tmp_path / "b.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 5, (60, 40))
    for _ in range(3):
        video.write(PICTURE)
    video.release()
    loader, seen = LoadImages(tmp_path, img_size=64, stride=32), []
    assert len(loader) == loader.nf == 2
    assert loader.video_flag == [False, True] and [Path(file).name for file in loader.files] == [
        "a.png",
        "b.avi",
    ]
    for path, im, im0, capture, text in loader:
        seen.append((loader.mode, loader.count, loader.frame, text))
        assert im.shape == (3, 64, 64) and im.dtype == np.uint8 and im.flags.c_contiguous
        assert im0.shape == (40, 60, 3) and Path(path).exists()
        if capture is None:
            assert (im0 == PICTURE).all()
            boxed = letterbox(im0, 64, stride=32)[0]
            assert (im == boxed[..., ::-1].transpose(2, 0, 1)).all()
        else:
            values = [
                capture.get(p) for p in (cv2.CAP_PROP_FPS, cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_COUNT)
            ]
            assert values == [5, 60, 3] and capture.get(cv2.CAP_PROP_GAIN) == 0
    assert seen[0] == ("image", 1, 1, f"image 1/2 {tmp_path / 'a.png'}: ")
    assert seen[3] == ("video", 1, 3, f"video 2/2 (3/3) {tmp_path / 'b.avi'}: ")
    several = LoadImages([tmp_path / "a.png", str(tmp_path / "*.png")], transforms=lambda image: image.mean())
    assert [im for _, im, *_ in several] == [PICTURE.mean()] * 2
    assert "jpg" in IMG_FORMATS and "mp4" in VID_FORMATS


def test_streams(tmp_path: Path) -> None:
    video = cv2.VideoWriter(str(tmp_path / "b.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 5, (60, 40))
    video.write(PICTURE)
    video.release()
    (tmp_path / "list.streams").write_text(f"{tmp_path / 'b.avi'}\n" * 2, encoding="utf-8")
    loader = LoadStreams(str(tmp_path / "list.streams"), img_size=64)
    sources, im, im0s, capture, text = next(iter(loader))
    assert len(loader) == 2 and set(sources) == {str(tmp_path / "b.avi")}
    assert im.shape == (len(sources), 3, 64, 64) and len(im0s) == len(sources)
    assert capture is None and text == "" and loader.mode == "stream"
    (tmp_path / "list.streams").write_text("", encoding="utf-8")
    with pytest.raises(UserError, match="empty"):
        LoadStreams(str(tmp_path / "list.streams"))


def test_letterbox() -> None:
    im, ratio, pad = letterbox(PICTURE, (64, 64), auto=False)
    assert im.shape == (64, 64, 3) and ratio == pytest.approx((64 / 60, 64 / 60)) and pad == (0, 10.5)
    assert letterbox(PICTURE, 64, auto=True, stride=16)[0].shape == (48, 64, 3)
    for settings in ({"color": (0, 0, 0)}, {"scaleFill": True}):
        with pytest.raises(ValueError, match="114"):
            letterbox(PICTURE, **settings)  # type: ignore[arg-type]


def test_drawing() -> None:
    blank = np.zeros((100, 100, 3), np.uint8)
    annotator = Annotator(blank, line_width=1)
    annotator.box_label(torch.tensor([20.0, 40.0, 60.0, 80.0]), "", color=(1, 2, 3))
    assert annotator.result() is blank
    assert blank[40, 30].tolist() == [1, 2, 3] and blank[60, 40].tolist() == [0, 0, 0]
    annotator.box_label([20, 40, 60, 80], "cat", color=(200, 200, 200))
    assert (blank[:40] > 0).any()  # the label stands above
    plot_one_box([5, 50, 10, 60], blank, label="x", color=(9, 9, 9), line_thickness=1)
    assert blank[55, 5].tolist() == [9, 9, 9]
    assert colors(0, bgr=True) == colors(0)[::-1] and colors(torch.tensor(3.0)) == colors(23)


def test_crops(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "crop.jpg"
    box = torch.tensor([[20.0, 10.0, 40.0, 20.0]])
    tight = {"gain": 1.0, "pad": 0}
    piece = save_one_box(box, PICTURE, file=file, BGR=True, **tight)  # type: ignore[arg-type]
    assert (piece == PICTURE[10:20, 20:40]).all()
    assert (save_one_box(box, PICTURE, save=False, **tight) == piece[..., ::-1]).all()  # type: ignore[arg-type]
    assert save_one_box(box, PICTURE, save=False, square=True, **tight).shape == (20, 20, 3)  # type: ignore[arg-type]
    save_one_box(box, PICTURE, file=file, BGR=True)
    assert {path.name for path in file.parent.iterdir()} == {"crop.jpg", "crop2.jpg"}


FLAGS = (
    "jit", "onnx", "xml", "engine", "coreml", "saved_model", "pb", "tflite", "edgetpu", "tfjs", "paddle",
    "dnn", "triton", "nhwc",
)  # fmt: skip


def running(backend: DetectMultiBackend) -> set[str]:
    """The flags of formats and layouts that are set; all of them are there."""
    values = {name: getattr(backend, name) for name in FLAGS}
    assert {type(value) for value in values.values()} == {bool}
    return {name for name, value in values.items() if value}


def test_files_say_what_runs_them(weights: Path) -> None:
    export.main(
        ["--weights", str(weights), "--include", "torchscript", "onnx", "--opset", "12", "--imgsz", "64"]
    )
    onnx = weights.with_suffix(".onnx")
    for flag, backend in (
        ("jit", DetectMultiBackend(weights.with_suffix(".torchscript"))),
        ("onnx", DetectMultiBackend(onnx)),
        ("dnn", DetectMultiBackend(onnx, dnn=True)),
    ):
        assert running(backend) == {flag} and backend.pt is False
        assert not hasattr(backend, "model")


@pytest.mark.parametrize("fast", [False, True])
def test_networks(weights: Path, fast: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(utils.device, "cpu_is_fast_in_bf16", lambda: fast)
    exact = load_model(weights)
    x = images(exact, 2)
    with torch.inference_mode():
        expected = exact(x)[0]
        model = attempt_load(str(weights), device="cpu")
        assert int(model.stride.max()) == 32 and model.names == exact.names
        torch.testing.assert_close(model(x, augment=False)[0], expected, rtol=1e-3, atol=1e-3)
        pair = attempt_load([weights, weights], map_location="cpu", fuse=False)
        assert pair(x)[0].shape == (2, 2 * expected.shape[1], expected.shape[2])
        assert int(pair.stride.max()) == 32
        backend = DetectMultiBackend(weights, device=torch.device("cpu"), dnn=False, data=None, fp16=True)
        backend.warmup(imgsz=(1, 3, 64, 64))
        assert (backend.stride, backend.names, backend.pt) == (32, exact.names, True)
        assert backend.model.names == exact.names and next(backend.model.parameters()).dtype == torch.float32
        assert running(backend) == set() and backend.fp16 is False
        torch.testing.assert_close(backend(x, augment=False, visualize=False), expected, rtol=1e-3, atol=1e-3)
        shaped = AutoShape(backend)
        assert shaped.model.names == exact.names and len(shaped([PICTURE], size=64)) == 1
        assert torch.equal(shaped(x), backend(x))


def test_a_checkpoint_without_its_training(weights: Path, tmp_path: Path) -> None:
    before = read_checkpoint(weights)
    general.strip_optimizer(weights, tmp_path / "slim.pt")
    general.strip_optimizer(str(weights))
    for file in (weights, tmp_path / "slim.pt"):
        after = read_checkpoint(file)
        assert after["optimizer"] is None and after["epoch"] == -1 and after["names"] == before["names"]
        assert all(torch.equal(after["model"][name], tensor) for name, tensor in before["model"].items())


def test_importing_does_nothing(tmp_path: Path) -> None:
    program = (
        "import utils.general, utils.dataloaders, utils.plots, models.common, models.experimental; print(1)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=general.ROOT, capture_output=True, text=True, timeout=300
    )
    assert (done.stdout, done.stderr) == ("1\n", "")
