"""lighten.py as a user runs it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

import detect
import lighten
import val
from models.weights import load_model
from models.yolo import DetectionModel
from tests.training_runs import rows, tensors
from training.lightening.config import LightenConfig
from training.lightening.material import window_of
from training.lightening.pair import Pair, Shares
from utils.checkpoints.files import read_checkpoint, write_checkpoint
from utils.device import resolved
from utils.errors import UserError
from utils.reading import read_yaml

SMALL = ("--imgsz", "64", "--batch-size", "4", "--device", "cpu", "--workers", "0")


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network that is sure of something everywhere; what, depends on the picture."""
    torch.manual_seed(0)
    model = DetectionModel("yolov5n.yaml", nc=2)
    for conv in model.head.m:
        with torch.no_grad():
            conv.bias.view(3, 7)[:, 4:] += 5.5
    path = tmp_path_factory.mktemp("teacher") / "teacher.pt"
    description = {"yaml": model.yaml, "nc": 2, "names": {0: "blue", 1: "green"}, "train_args": {"imgsz": 64}}
    write_checkpoint(path, {**description, "model": model.state_dict(), "ema": None})
    return path


@pytest.fixture
def arguments(teacher: Path, tiny_data: Path, tmp_path: Path) -> tuple[str, ...]:
    photographs = str(tiny_data.parent / "images" / "train")
    cfg = ("--cfg", "yolov5n-csppc-neck.yaml")
    return ("--weights", str(teacher), *cfg, "--source", photographs, "--project", str(tmp_path), *SMALL)


def test_the_whole_course(
    arguments: tuple[str, ...], tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lighten.main([*arguments, "--steps", "12", "--data", str(tiny_data), "--runtime", "torch"])
    run_folder = tmp_path / "exp"
    said = capsys.readouterr().out
    table = rows(run_folder / "results.csv")
    assert [int(row["step"]) for row in table] == [1, 2, 3, 4, 6, 7, 8, 9, 10, 12]
    best = max(float(row["agreement/mAP_0.5:0.95"]) for row in table)
    assert f"{best:.3f} at its best, after " in said and "mAP50-95 on" in said
    content = read_checkpoint(run_folder / "weights" / "best.pt")
    known = content["lightened"]
    assert known["pictures"] == 12 and known["steps"] == 12
    # as it was decided when the run began: a resume on another machine keeps to it
    assert content["train_args"]["amp"] == resolved("auto", torch.device("cpu"))
    assert known["agreement"]["start"] < known["agreement"]["ceiling"] <= 1
    assert f"{known['agreement']['fitted']:.3f} after the fit" in said
    numbers = json.loads((run_folder / "lighten.json").read_text(encoding="utf-8"))
    its, own = numbers["variants"]
    assert (its["name"], own["name"]) == ("teacher", "yolov5n-csppc-neck")
    assert own["start"] == known["agreement"]["start"] and f"{own['end']:.3f}" == f"{best:.3f}"
    assert own["true_map"] is not None and own["milliseconds"][1] > 0 and its["ratio"] == [1, 1, 1]
    page = (run_folder / "lighten.html").read_text(encoding="utf-8")
    assert page.count("data:image/jpeg") == 2 * numbers["held"] and str(tmp_path) not in page
    # every other command takes the result
    weights = [
        "--weights",
        str(run_folder / "weights" / "best.pt"),
        "--imgsz",
        "64",
        "--project",
        str(tmp_path),
    ]
    val.main([*weights, "--data", str(tiny_data), "--noplots", "--name", "val"])
    detect.main([*weights, "--source", str(tiny_data.parent / "images" / "val"), "--name", "detect"])
    assert len(list((tmp_path / "detect").glob("*.png"))) == 4


def test_attention_is_put_into_the_lighter_network(
    arguments: tuple[str, ...], teacher: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # in float32: the teacher's maps are so faint that in bf16 no gradient is left of them
    lighten.main([*arguments, "--steps", "4", "--insert", "CBAM before Detect", "--amp", "off"])
    run_folder, said = tmp_path / "exp", capsys.readouterr().out
    assert "yolov5n-csppc-neck.yaml with CBAM before Detect begins with" in said
    numbers = json.loads((run_folder / "lighten.json").read_text(encoding="utf-8"))
    assert numbers["variants"][1]["name"] == "yolov5n-csppc-neck + CBAM before Detect"
    state = load_model(run_folder / "weights" / "last.pt").state_dict()
    shapes = {
        name: value.shape for name, value in DetectionModel(run_folder / "model.yaml").state_dict().items()
    }
    assert shapes == {name: value.shape for name, value in state.items()}
    # they begin with 0, and learn
    assert all(value.any() for name, value in state.items() if name.endswith("spatial.conv.weight"))
    with pytest.raises(ValueError, match="--insert names the network, and --faster"):
        LightenConfig(faster=0.9, insert=("SE in 2",))
    alone = ("--weights", str(teacher), "--source", str(tmp_path), "--insert", "SE in 2")
    with pytest.raises(UserError, match="--insert alone gives what the teacher gives"):
        lighten.main([*alone, "--device", "cpu"])


def test_layers_of_the_teacher_stay(arguments: tuple[str, ...], teacher: Path, tmp_path: Path) -> None:
    lighten.main([*arguments, "--steps", "4"])
    own, its = load_model(tmp_path / "exp" / "weights" / "last.pt"), load_model(teacher)
    assert own.names == its.names
    for index in range(13):  # backbone and the neck's first layers, whose weights and statistics rest
        for name, tensor in own.model[index].state_dict().items():
            assert torch.equal(tensor, its.model[index].state_dict()[name]), f"{index}.{name}"
    assert not torch.equal(own.model[13].cv1.conv.weight, its.model[13].cv1.conv.weight)


def test_windows_of_the_pictures(
    arguments: tuple[str, ...],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shapes = list[tuple[int, ...]]()
    lesson = Pair.lesson

    def noting(pair: Pair, images: torch.Tensor, shares: Shares | None = None) -> Any:
        shapes.append(tuple(images.shape[2:]))
        return lesson(pair, images, shares)

    modes = list[bool]()
    train = Pair.train

    def moding(pair: Pair, batch_statistics: bool) -> None:
        modes.append(batch_statistics)
        train(pair, batch_statistics)

    monkeypatch.setattr(Pair, "train", moding)
    monkeypatch.setattr(Pair, "lesson", noting)
    lighten.main([*arguments, "--steps", "5", "--imgsz", "128", "--window", "64"])
    # behind those of the fit; the last batch of an epoch has 2 pictures, with windows of half of a whole one
    assert shapes[-5:] == [(64, 64)] * 4 + [(128, 128)]
    assert len(modes) >= 5 and not any(modes)  # the student was fitted well
    assert "at 128 px, two of three in windows of 64 px, on cpu" in capsys.readouterr().out
    settings = read_yaml(tmp_path / "exp" / "opt.yaml")
    assert (settings["imgsz"], settings["window"]) == (128, 64)


def test_a_window_as_large_as_the_pictures_is_none(
    arguments: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where sizes are rounded up to the stride."""
    lighten.main([*arguments, "--steps", "2", "--imgsz", "90"])
    said = capsys.readouterr().out
    assert "at 96 px on cpu" in said and "--imgsz 90 is not a multiple" in said and "--window" not in said
    assert read_yaml(tmp_path / "exp" / "opt.yaml")["window"] == 90


@pytest.mark.parametrize(
    ("imgsz", "window"), [(320, 320), (480, 480), (512, 256), (640, 320), (672, 320), (1280, 640)]
)
def test_large_pictures_are_looked_at_in_windows(imgsz: int, window: int) -> None:
    assert window_of(imgsz) == window


def test_minutes_that_hold_few_steps_are_told(
    arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    lighten.main([*arguments, "--minutes", "0.002"])
    assert "warning: --minutes 0.002 holds" in capsys.readouterr().err


def test_a_narrower_network_of_the_same_blocks(
    arguments: tuple[str, ...], teacher: Path, tmp_path: Path
) -> None:
    lighten.main([*arguments, "--cfg", "", "--width", "0.5", "--steps", "2"])
    own = load_model(tmp_path / "exp" / "weights" / "last.pt")
    assert own.yaml["width_multiple"] == 0.125 and own.layers[9].channels == 128
    with pytest.raises(UserError, match="--cfg is missing"):
        lighten.main(["--weights", str(teacher), "--source", "photographs"])


def test_frames_of_a_video(teacher: Path, tmp_path: Path) -> None:
    video = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(video), cv2.VideoWriter.fourcc(*"MJPG"), 10, (64, 48))
    rng = np.random.default_rng(0)
    for _ in range(16):
        writer.write(rng.integers(0, 255, (48, 64, 3), dtype=np.uint8))
    writer.release()
    flags = [
        "--weights",
        str(teacher),
        "--cfg",
        "yolov5n-csppc-neck.yaml",
        "--project",
        str(tmp_path),
        *SMALL,
    ]
    lighten.main([*flags, "--source", str(video), "--vid-stride", "2", "--steps", "2"])
    frames = sorted((tmp_path / "exp" / "pictures").iterdir())
    assert len(frames) == 8 and frames[0].suffix == ".png"
    assert read_checkpoint(tmp_path / "exp" / "weights" / "last.pt")["lightened"]["pictures"] == 8


def broken(folder: Path, good: int) -> Path:
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(good):
        cv2.imwrite(str(folder / f"{number}.png"), rng.integers(0, 255, (48, 64, 3), dtype=np.uint8))
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff nothing")
    whole = cv2.imencode(".jpg", rng.integers(0, 255, (48, 64, 3), dtype=np.uint8))[1].tobytes()
    (folder / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "empty.png").touch()
    return folder


def test_pictures_that_cannot_be_read_are_named(
    arguments: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lighten.main([*arguments, "--steps", "2", "--source", str(broken(tmp_path / "some", 9))])
    said = capsys.readouterr().err
    assert "left out" in said and all(name in said for name in ("broken.jpg", "cut.jpg", "empty.png"))
    assert "9 different pictures are few" in said


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--cfg", ""], "--cfg is missing"),
        (["--source", ""], "--source is missing"),
        (["--cfg", "yolov5n.yaml"], "the teacher's own network"),
        (["--cfg", "yolov5n6.yaml"], "its head has other levels or anchors"),
        (["--source", "0"], "name files, not a stream"),
        (["--data", "nowhere.yaml"], "nowhere.yaml"),
    ],
)
def test_what_cannot_be_is_refused_before_a_folder_is_made(
    arguments: tuple[str, ...], tmp_path: Path, flags: list[str], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        lighten.main([*arguments, *flags])
    assert not (tmp_path / "exp").exists()


def test_blank_and_equal_pictures(arguments: tuple[str, ...], teacher: Path, tmp_path: Path) -> None:
    blank = tmp_path / "blank"
    blank.mkdir()
    for number in range(24):
        cv2.imwrite(str(blank / f"{number}.png"), np.zeros((64, 64, 3), np.uint8))
    with pytest.raises(UserError, match="all alike"):
        lighten.main([*arguments, "--source", str(blank)])
    model = load_model(teacher)
    for conv in model.head.m:
        with torch.no_grad():
            conv.bias.view(3, 7)[:, 4] = -20  # nothing anywhere
    blind = tmp_path / "blind.pt"
    write_checkpoint(blind, {**read_checkpoint(teacher), "model": model.state_dict()})
    with pytest.raises(UserError, match="the teacher sees nothing on the 2 pictures held out"):
        lighten.main([*arguments, "--weights", str(blind)])
    with pytest.raises(UserError, match="2 pictures can be read, at least 4 are needed"):
        lighten.main([*arguments, "--source", str(broken(tmp_path / "few", 2))])
    assert not (tmp_path / "exp").exists()


def test_nothing_depends_on_the_workers(
    arguments: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.lightening.course.FITTED_WELL", 2)  # nobody is: stages come first
    for workers in ("0", "1"):
        lighten.main([*arguments, "--steps", "3", "--name", workers, "--workers", workers])
        parts = rows(tmp_path / workers / "results.csv")
        assert [int(row["step"]) for row in parts] == [1, 1, 2]
    first, second = (tensors(tmp_path / name / "weights" / "last.pt") for name in ("0", "1"))
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())


def film(path: Path, frames: int, blank: bool = False) -> Path:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (64, 48))
    rng = np.random.default_rng(0)
    for _ in range(frames):
        writer.write(
            np.zeros((48, 64, 3), np.uint8) if blank else rng.integers(0, 255, (48, 64, 3), np.uint8)
        )
    writer.release()
    return path


def test_a_refused_run_leaves_no_folder(arguments: tuple[str, ...], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="all alike"):
        lighten.main([*arguments, "--source", str(film(tmp_path / "dark.avi", 8, blank=True))])
    assert not (tmp_path / "exp").exists()


def test_a_student_that_is_no_lighter_is_told(
    arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    lighten.main([*arguments, "--cfg", "yolov5s-csppc.yaml", "--steps", "2"])
    said = capsys.readouterr().err
    assert "yolov5s-csppc.yaml is not lighter" in said and "begins from scratch" in said


def test_a_fused_teacher_is_the_same_teacher(
    teacher: Path, arguments: tuple[str, ...], tmp_path: Path
) -> None:
    model = load_model(teacher, fuse=True)
    fused = tmp_path / "fused.pt"
    write_checkpoint(fused, {**read_checkpoint(teacher), "model": model.state_dict()})
    lighten.main([*arguments, "--weights", str(fused), "--steps", "2"])
    own, its = load_model(tmp_path / "exp" / "weights" / "last.pt"), load_model(teacher)
    image = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():  # layers 0 to 9 are the teacher's, and stay
        for layer in range(10):
            image, expected = own.model[layer](image), its.model[layer](image)
            torch.testing.assert_close(image, expected, rtol=1e-3, atol=1e-4)


def test_classes_are_compared_before_all_the_learning(
    arguments: tuple[str, ...], tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other.yaml"
    text = tiny_data.read_text(encoding="utf-8")
    other.write_text(text.replace("blue", "sky").replace("green", "grass"), encoding="utf-8")
    lighten.main([*arguments, "--steps", "2", "--data", str(other)])
    assert "they are compared by number" in capsys.readouterr().err
    other.write_text(text.replace("green", "green, red"), encoding="utf-8")
    with pytest.raises(UserError, match="the teacher knows 2 classes and"):
        lighten.main([*arguments, "--steps", "2", "--data", str(other)])
