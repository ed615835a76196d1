"""A disk that fills: it is told, no file is half there, an older one stays, nothing counts as saved."""

from __future__ import annotations

import errno
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch

import dataset
import detect
from models.exporting import formats, run
from tests.conftest import write_squares
from tests.models.exporting.weights import write_weights
from training.evolve import Trial, save_trials
from training.loggers.opening import open_loggers
from training.run_folder import RESULT_COLUMNS, RunFolder, write_results
from utils.data import label_cache
from utils.data.digits import generate_digits
from utils.data.frames import Frame
from utils.detections.annotate import Style
from utils.detections.results import Results
from utils.detections.saving import write_image
from utils.detections.writer import OutputOptions, OutputWriter
from utils.errors import FULL, UserError, run_command
from utils.evaluation.coco import CocoJson
from utils.evaluation.evaluate import ImageResult
from utils.evaluation.report import LabelFiles, plot_study
from utils.files import append, write_text
from utils.hyperparameters import Hyperparameters
from utils.plots.canvas import new_figure, save_figure
from utils.plots.labels import plot_labels

FullDisk = Callable[[int], AbstractContextManager[None]]
OLD = b"of an earlier run"
NOISE = np.random.default_rng(0).integers(0, 255, (96, 128, 3), dtype=np.uint8)
ROWS = np.array([[10.0, 20, 50, 60, 0.75, 1], [5, 5, 90, 90, 0.6, 0]], np.float32)
NAMES = {0: "cat", 1: "dog"}
RESULT = ImageResult("x/a.jpg", (96, 128), torch.from_numpy(ROWS), torch.zeros(0, 5))


def coco_json(path: Path) -> None:
    coco = CocoJson(NAMES)
    coco.add(RESULT)
    coco.write(path.parent)


def label_file(path: Path) -> None:
    LabelFiles(path.parent, ["x/a.jpg"], confidences=True).write(RESULT)


WRITERS: dict[str, Callable[[Path], object]] = {
    "picture.jpg": lambda path: write_image(path, NOISE),
    "picture.png": lambda path: write_image(path, NOISE),
    "figure.png": lambda path: save_figure(new_figure(2, 2), path),
    "labels.jpg": lambda path: plot_labels(np.zeros((0, 5)), NAMES, path),
    "study.csv": lambda path: plot_study(np.ones((3, 8)), path.parent),
    "a.txt": label_file,
    "predictions.json": coco_json,
    "results.csv": lambda path: write_results(path, [[0.0] * 14]),
    "opt.yaml": lambda path: RunFolder(path.parent).write_yaml(path.name, {"epochs": 3}),
    "evolve.csv": lambda path: save_trials(path.parent, [Trial((0.0,) * 7, Hyperparameters())]),
    "page.md": lambda path: write_text(path, "a page"),
}


@pytest.mark.parametrize("limit", [0, 5])
@pytest.mark.parametrize("name", WRITERS)
def test_a_file_is_there_as_it_was(name: str, limit: int, full_disk: FullDisk, tmp_path: Path) -> None:
    path = tmp_path / name
    write = partial(WRITERS[name], path)
    with full_disk(limit), pytest.raises(OSError) as caught:
        write()
    assert caught.value.errno in FULL and caught.value.filename is not None
    assert not list(tmp_path.iterdir())
    path.write_bytes(OLD)
    with full_disk(limit), pytest.raises(OSError):
        write()
    assert path.read_bytes() == OLD
    assert list(tmp_path.iterdir()) == [path]
    if name != "page.md":
        write()  # and with room it is written
        assert path.read_bytes() != OLD


def test_what_is_added_to_a_file_is_added_whole(full_disk: FullDisk, tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    append(path, b"head\n")
    with full_disk(9), pytest.raises(OSError) as caught:  # four bytes more would fit
        append(path, b"first row\n")
    assert caught.value.errno in FULL and caught.value.filename == str(path)
    assert path.read_bytes() == b"head\n"
    append(path, b"row\n")
    assert path.read_bytes() == b"head\nrow\n"


def frame(number: int = 0, path: str = "x/clip.avi") -> Frame:
    return Frame(NOISE, path, "image" if path.endswith("png") else "video", 0, 1, number, 12, 10.0)


def writer(folder: Path, **options: bool) -> OutputWriter:
    return OutputWriter(folder, OutputOptions(**{"pictures": False, **options}), NAMES, Style(2))


@pytest.mark.parametrize("limit", [0, 1000, 5000])
def test_a_video(limit: int, full_disk: FullDisk, tmp_path: Path) -> None:
    """At each limit the writes fail at another place, and OpenCV says nothing of it."""
    (tmp_path / "clip.mp4").write_bytes(OLD)
    output = writer(tmp_path, pictures=True)
    with full_disk(limit), pytest.raises(OSError, match=r"clip\.mp4'( was not saved: 0 of 12 frames|$)"):
        for number in range(12):
            output.write(frame(number), ROWS)
        output.close()
    assert output.complete == 0
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("clip.mp4", OLD)]
    for number in range(12):
        output.write(frame(number), ROWS)
    output.close()
    assert output.complete == 12
    assert cv2.VideoCapture(str(tmp_path / "clip.mp4")).get(cv2.CAP_PROP_FRAME_COUNT) == 12


def test_a_video_on_a_disk_that_fills_ends_soon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = iter([1 << 30, 1 << 30, 1000])
    monkeypatch.setattr("shutil.disk_usage", lambda place: SimpleNamespace(free=next(free)))
    output = writer(tmp_path, pictures=True)
    with pytest.raises(OSError) as caught:
        for number in range(12):
            output.write(frame(number), ROWS)
    assert caught.value.errno == errno.ENOSPC and caught.value.filename == str(tmp_path / "clip.mp4")
    output.close()  # what is in it can be looked at
    assert output.complete == 3
    assert [p.name for p in tmp_path.iterdir()] == ["clip.mp4"]


def test_every_video_is_finished_also_after_one_that_fails(tmp_path: Path) -> None:
    output = writer(tmp_path, pictures=True)
    for index in range(3):
        output.write(Frame(NOISE, f"rtsp://host/{index}", "stream", index, 3), ROWS)
    broken = tmp_path / ".rtsp_host_1.partial.mp4"
    assert broken.exists()
    broken.unlink()
    with pytest.raises(OSError, match=r"rtsp_host_1\.mp4' was not saved"):
        output.close()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["rtsp_host_0.mp4", "rtsp_host_2.mp4"]
    assert output.complete == 2


@pytest.mark.parametrize(
    ("options", "left"),
    [
        ({"pictures": True}, []),
        ({"labels": True}, ["labels"]),
        ({"crops": True}, ["crops", "crops/dog"]),
        ({"table": True}, ["predictions.csv"]),
    ],
)
def test_what_detect_saves(
    options: dict[str, bool], left: list[str], full_disk: FullDisk, tmp_path: Path
) -> None:
    output = writer(tmp_path, **options)
    head = sum(p.stat().st_size for p in tmp_path.glob("*.csv"))
    with full_disk(head), pytest.raises(OSError) as caught:
        output.write(frame(path="x/a.png"), ROWS)
    assert caught.value.filename is not None
    assert (output.complete, output.label_files) == (0, 0)
    assert sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*")) == left
    if options.get("table"):
        assert (tmp_path / "predictions.csv").read_text(encoding="utf-8").count("\n") == 1


def test_detect_says_how_much_is_saved(
    full_disk: FullDisk, official_weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for number, side in enumerate((16, 24, 400)):
        cv2.imwrite(str(pictures / f"{number}.png"), np.resize(NOISE, (side, side, 3)))
    flags = ("--weights", str(official_weights), "--imgsz", "64", "--project", str(tmp_path / "runs"))
    with full_disk(100_000), pytest.raises(OSError, match=r"2\.png") as caught:
        detect.main([*flags, "--source", str(pictures)])
    assert caught.value.errno == errno.EFBIG
    assert f"Results of 2 of 3 images saved to {tmp_path / 'runs' / 'exp'}\n" in capsys.readouterr().out
    assert sorted(p.name for p in (tmp_path / "runs" / "exp").iterdir()) == ["0.png", "1.png"]


def test_results_of_the_hub(full_disk: FullDisk, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = Results([NOISE], [torch.from_numpy(ROWS)], NAMES, ["a.jpg"], (0, 0, 0), (1, 3, 96, 128))
    with full_disk(50):
        with pytest.raises(OSError, match=r"a\.jpg"):
            results.save(save_dir=tmp_path / "one")
        with pytest.raises(OSError, match=r"a\.jpg"):
            results.crop(save_dir=tmp_path / "two")
    assert "Saved" not in capsys.readouterr().out
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]


@pytest.mark.parametrize("form", ["torchscript", "onnx"])
@pytest.mark.parametrize("limit", [0, 20_000])
def test_exports(form: str, limit: int, full_disk: FullDisk, tmp_path: Path) -> None:
    """torch's writer of TorchScript files would end the process."""
    if form == "onnx":
        pytest.importorskip("onnx")
    weights = write_weights(tmp_path / "best.pt")
    target = tmp_path / f"best{formats.FORMATS[form].suffix}"
    target.write_bytes(OLD)
    with full_disk(limit), pytest.raises(OSError) as caught:
        run.export(weights, run.ExportConfig(include=(form,), imgsz=(64,)))
    assert caught.value.errno in FULL and caught.value.filename
    assert target.read_bytes() == OLD
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([target.name, weights.name])


def test_an_exporter_that_does_not_say_why_it_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenVINO says `basic_ios::clear: iostream error`, pnnx nothing, and a half file cannot be run."""

    def fail(job: object) -> None:
        monkeypatch.setattr("shutil.disk_usage", lambda place: SimpleNamespace(free=0))
        raise RuntimeError("basic_ios::clear: iostream error")

    form = formats.Format("torchscript", ".torchscript", fail, (), formats.TRACED)
    monkeypatch.setitem(formats.FORMATS, "torchscript", form)
    with pytest.raises(OSError) as caught:
        run.export(write_weights(tmp_path / "best.pt"), run.ExportConfig(imgsz=(64,)))
    assert caught.value.errno == errno.ENOSPC


# its own thread cries out, too
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_curves_of_tensorboard(
    full_disk: FullDisk, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("tensorboard")
    with full_disk(200), open_loggers(["tensorboard"], tmp_path, tmp_path) as loggers:
        for epoch in range(300):
            loggers.epoch(RESULT_COLUMNS, [float(epoch)] * 14)
    said = "warning: TensorBoard is told no more of this run: File too large; results.csv has all figures\n"
    assert capsys.readouterr().err == said


def test_what_is_kept_to_save_time_costs_a_warning(
    full_disk: FullDisk, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "labels").mkdir()
    file = tmp_path / "labels-0.npz"
    with full_disk(100):
        label_cache.save(file, "key", {"boxes": np.zeros((100, 5))}, [])
    assert "label index not kept" in caplog.text
    assert not file.exists()


def test_a_data_set_that_is_generated_is_there_whole_or_not(full_disk: FullDisk, tmp_path: Path) -> None:
    with full_disk(2000), pytest.raises(UserError, match=r"cannot write the digits data set"):
        generate_digits(tmp_path / "digits")
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]


@pytest.mark.usefixtures("unwatched")
def test_a_copy_names_the_file_that_has_no_room(
    full_disk: FullDisk, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not the picture that is copied, of which Python speaks first."""
    data = write_squares(tmp_path, {"train": 2, "val": 2}, 64, 2, (20, 20))
    out, argv = tmp_path / "out", ("convert", "--data", str(data), "--pictures", "copy", "--out")
    with full_disk(10), pytest.raises(SystemExit) as ended:
        run_command(lambda: dataset.main([*argv, str(out)]))
    told = capsys.readouterr().err.splitlines()[-1]
    assert ended.value.code == 2 and "/made/images/train/0.png: File too large; free some space" in told
    assert not out.exists() and not list(tmp_path.glob(".lean5*"))
