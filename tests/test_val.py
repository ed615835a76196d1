"""val.py against recorded results on real photographs, and its outputs."""

from __future__ import annotations

import json
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

import val
from models.exporting import run as exporting
from models.exporting.quiet import quiet
from tests.detectors import detector
from tests.models.exporting.weights import write_weights
from tests.training_runs import TWO, run
from utils.errors import Incomplete, UserError


@pytest.fixture(scope="session")
def coco_yaml(linked_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """128 COCO photographs with the 80 class names of data/coco.yaml."""
    names = (Path(__file__).resolve().parents[1] / "data" / "coco.yaml").read_text(encoding="utf-8")
    folder = tmp_path_factory.mktemp("coco")
    path = folder / "coco256.yaml"
    kept = names[names.index("names:") :]
    root = linked_data / "coco256"
    path.write_text(f"path: {root}\ntrain: images/train2017\nval: images/val2017\n{kept}", encoding="utf-8")
    return path


@pytest.mark.parametrize(("imgsz", "map50", "map50_95"), [(640, 0.506, 0.336), (320, 0.455, 0.296)])
def test_official_weights_reach_the_recorded_accuracy(
    golden: Path,
    official_weights: Path,
    coco_yaml: Path,
    linked_data: Path,
    tmp_path: Path,
    imgsz: int,
    map50: float,
    map50_95: float,
) -> None:
    # which of the images of equal shape share a batch, and with it a padding, is as it was when recorded
    folder = linked_data / "coco256" / "images" / "val2017"
    order = (Path(__file__).parent / "recorded" / "val128_order.txt").read_text(encoding="utf-8").split()
    images = tmp_path / "images.txt"
    images.write_text("".join(f"{folder / name}\n" for name in order), encoding="utf-8")
    text = coco_yaml.read_text(encoding="utf-8").replace("val: images/val2017", f"val: {images}")
    ordered = tmp_path / "ordered.yaml"
    ordered.write_text(text, encoding="utf-8")
    flags = ("--imgsz", str(imgsz), "--batch-size", "16", "--project", str(tmp_path), "--noplots")
    val.main(["--weights", str(official_weights), "--data", str(ordered), *flags])
    report = json.loads((tmp_path / "exp" / "metrics.json").read_text(encoding="utf-8"))
    assert report["images"] == 128
    assert report["mAP50"] == pytest.approx(map50, abs=0.002)
    assert report["mAP50_95"] == pytest.approx(map50_95, abs=0.002)
    recorded = json.loads((golden / "val_val128.json").read_text(encoding="utf-8"))["rows"][str(imgsz)]
    for name, row in recorded.items():
        if name != "all":
            assert report["classes"][name]["mAP50"] == pytest.approx(row["mAP50"], abs=0.01), name
            assert report["classes"][name]["labels"] == row["instances"], name


@pytest.mark.slow
def test_every_runtime_is_as_accurate_as_pytorch(
    official_weights: Path, coco_yaml: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """128 photographs in the same rectangles; "auto" compares with PyTorch on the first, then moves."""
    for package in ("onnx", "onnxruntime", "openvino"):
        pytest.importorskip(package)
    monkeypatch.setattr("platformdirs.user_cache_dir", lambda *_, **__: str(tmp_path / "cache"))
    monkeypatch.setattr("models.runtimes.choosing.written", lambda _: None)  # nothing is taken unseen
    flags = ["--weights", str(official_weights), "--data", str(coco_yaml), "--batch-size", "16", "--noplots"]
    found = {}
    for runtime in ("torch", "onnx", "openvino", "auto"):
        val.main([*flags, "--project", str(tmp_path), "--name", runtime, "--runtime", runtime])
        found[runtime] = json.loads((tmp_path / runtime / "metrics.json").read_text(encoding="utf-8"))
    for runtime, report in found.items():
        for score in ("mAP50", "mAP50_95"):
            assert report[score] == pytest.approx(found["torch"][score], abs=0.0005), (runtime, score)


def test_labels_as_detections_are_perfect(
    official_weights: Path, coco_yaml: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With --save-hybrid the labels enter suppression as certain predictions, so every label is found."""
    flags = ("--imgsz", "64", "--project", str(tmp_path), "--noplots", "--save-hybrid")
    val.main(["--weights", str(official_weights), "--data", str(coco_yaml), *flags])
    report = json.loads((tmp_path / "exp" / "metrics.json").read_text(encoding="utf-8"))
    assert report["mAP50"] > 0.95
    assert "--save-hybrid counts the labels among the detections" in capsys.readouterr().err


def test_threads_that_start_after_an_evaluation_have_the_threads_of_before(
    official_weights: Path, tiny_data: Path, tmp_path: Path
) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        flags = ("--imgsz", "64", "--project", str(tmp_path), "--noplots", "--single-cls")
        val.main(["--weights", str(official_weights), "--data", str(tiny_data), *flags])
        with ThreadPoolExecutor(1) as later:
            assert later.submit(torch.get_num_threads).result() == 3
    finally:
        torch.set_num_threads(before)


def test_outputs(
    official_weights: Path, coco_yaml: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ("--imgsz", "320", "--batch-size", "16", "--project", str(tmp_path))
    saves = ("--save-txt", "--save-conf", "--save-json", "--verbose")
    val.main(["--weights", str(official_weights), "--data", str(coco_yaml), *flags, *saves])
    folder = tmp_path / "exp"
    console = capsys.readouterr().out
    assert "mAP50-95" in console
    assert "bicycle" in console
    for name in ("P_curve", "R_curve", "F1_curve", "PR_curve", "confusion_matrix"):
        assert (folder / f"{name}.png").stat().st_size > 5000
    for number in range(3):
        assert (folder / f"val_batch{number}_labels.jpg").is_file()
        assert (folder / f"val_batch{number}_pred.jpg").is_file()
    report = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    assert set(report["speed_ms_per_image"]) == {"pre-process", "inference", "NMS"}
    labels = sorted((folder / "labels").glob("*.txt"))
    rows = np.loadtxt(labels[0], ndmin=2)
    assert rows.shape[1] == 6
    assert ((rows[:, 1:] >= 0) & (rows[:, 1:] <= 1)).all()
    predictions = json.loads((folder / "predictions.json").read_text(encoding="utf-8"))
    assert {"image_id", "category_id", "bbox", "score"} == set(predictions[0])
    assert max(p["category_id"] for p in predictions) > 80  # COCO's own numbers, up to 90
    if "skipped" not in console:  # faster-coco-eval is installed
        checked = float(console.split("mAP50-95 ")[-1].split()[0])
        # it counts areas and caps at 100 detections a little differently
        assert checked == pytest.approx(report["mAP50_95"], abs=0.015)


def test_two_processes_measure_what_one_does(dense_data: Path, tmp_path: Path) -> None:
    """The same numbers to the last digit, the same files, and an image that nobody can read, told once."""
    data = tmp_path / "data"
    shutil.copytree(dense_data.parent, data)
    yaml = data / "squares.yaml"
    yaml.write_text(f"path: {data}\ntrain: images/val\nval: images/train\nnames: [a, b]\n", encoding="utf-8")
    weights = write_weights(tmp_path / "best.pt", detector("a", "b"))
    damaged = data / "images" / "train" / "7.png"
    content = bytearray(damaged.read_bytes())
    content[len(content) // 3] ^= 0xFF  # its head is whole, so that the scan takes it
    damaged.write_bytes(content)
    flags = ("--weights", str(weights), "--data", str(yaml), "--imgsz", "128", "--batch-size", "4")
    saves = ("--save-json", "--save-txt", "--project", str(tmp_path), "--workers", "0")
    reports = {}
    for name, start in (("one", (sys.executable,)), ("two", TWO)):
        done = run(*flags, *saves, "--name", name, command=(*start, "val.py"))
        assert done.returncode == 1, done.stderr
        assert (done.stdout + done.stderr).count("7.png") == 1
        assert done.stdout.count("mAP50-95\n") == 1
        reports[name] = json.loads((tmp_path / name / "metrics.json").read_text(encoding="utf-8"))
        assert set(reports[name].pop("speed_ms_per_image")) == {"pre-process", "inference", "NMS"}
    assert reports["one"]["images"] == 31 and reports["one"]["labels"] == 31 * 12
    assert reports["two"] == reports["one"]
    one, two = tmp_path / "one", tmp_path / "two"
    for file in ("predictions.json", "labels.json"):
        assert (one / file).read_bytes() == (two / file).read_bytes()
    labels = sorted(path.name for path in (one / "labels").iterdir())
    assert sorted(path.name for path in (two / "labels").iterdir()) == labels
    assert all((one / "labels" / n).read_bytes() == (two / "labels" / n).read_bytes() for n in labels)
    assert {path.name for path in one.iterdir()} == {path.name for path in two.iterdir()}


def test_bad_input_is_a_users_error(official_weights: Path, tiny_data: Path, tmp_path: Path) -> None:
    common = ["--weights", str(official_weights), "--project", str(tmp_path), "--imgsz", "64"]
    with pytest.raises(UserError, match=r"the weights know 80 classes and .*squares.yaml has 2"):
        val.main([*common, "--data", str(tiny_data)])
    with pytest.raises(UserError, match="key 'test' is missing"):
        val.main([*common, "--data", str(tiny_data), "--task", "test", "--single-cls"])
    with pytest.raises(UserError, match=r"nowhere\.pt"):
        val.main(["--weights", "nowhere.pt", "--data", str(tiny_data)])


def test_images_of_one_name_have_label_files_of_their_own(
    official_weights: Path, tiny_data: Path, tmp_path: Path
) -> None:
    shutil.copytree(tiny_data.parent, tmp_path / "data")
    for kind in ("images", "labels"):
        shutil.copytree(tmp_path / "data" / kind / "val", tmp_path / "data" / kind / "other")
    count = len(list((tmp_path / "data/images/val").iterdir()))
    data = tmp_path / "data.yaml"
    data.write_text(
        f"path: {tmp_path / 'data'}\ntrain: images/train\nval: [images/val, images/other]\nnames: [a, b]\n",
        encoding="utf-8",
    )
    flags = ("--imgsz", "64", "--project", str(tmp_path), "--noplots", "--save-txt", "--single-cls")
    val.main(["--weights", str(official_weights), "--data", str(data), *flags])
    found = {path.stem for path in (tmp_path / "exp" / "labels").iterdir()}
    assert found == {f"{number}{end}" for number in range(count) for end in ("", "_2")}


def broken_data(tiny_data: Path, folder: Path) -> Path:
    """Of four validation images, one whose head cannot be read and one that is damaged further on."""
    shutil.copytree(tiny_data.parent, folder / "data")
    images = folder / "data" / "images" / "val"
    (images / "0.png").write_bytes(b"no image")
    whole = bytearray((images / "2.png").read_bytes())
    whole[200:-60] = bytes(len(whole) - 260)  # what a scan of heads and tails does not see
    (images / "2.png").write_bytes(whole)
    data = folder / "data" / "squares.yaml"
    text = data.read_text(encoding="utf-8")
    data.write_text(text.replace(str(tiny_data.parent), str(folder / "data")), encoding="utf-8")
    return data


def test_images_that_cannot_be_read_are_counted(
    official_weights: Path, tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = broken_data(tiny_data, tmp_path)
    flags = ("--imgsz", "64", "--project", str(tmp_path), "--single-cls", "--save-txt", "--batch-size", "3")
    with pytest.raises(Incomplete, match=r"^2 of 4 images could not be used: 0\.png, 2\.png; the "):
        val.main(["--weights", str(official_weights), "--data", str(data), *flags])
    *_, last = capsys.readouterr().out.splitlines()
    assert last == (
        f"2 of 4 images of val in {data} at 64 px with {official_weights} (PyTorch, cpu); "
        f"results in {tmp_path / 'exp'}"
    )
    report = json.loads((tmp_path / "exp" / "metrics.json").read_text(encoding="utf-8"))
    assert (report["images"], report["labels"]) == (2, 4)
    assert {path.name for path in (tmp_path / "exp" / "labels").iterdir()} == {"1.txt", "3.txt"}


def test_weights_that_take_one_size(
    official_weights: Path, tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also in OpenCV, which would run them at any and find nothing."""
    pytest.importorskip("onnx")
    weights = write_weights(tmp_path / "best.pt")
    with quiet():
        exporting.export(weights, exporting.ExportConfig(include=("onnx",), imgsz=(64,)))
    flags = ("--data", str(tiny_data), "--project", str(tmp_path), "--noplots", "--single-cls")
    scores = []
    for dnn in ((), ("--dnn",)):
        capsys.readouterr()
        val.main(["--weights", str(weights.with_suffix(".onnx")), *flags, "--imgsz", "96", *dnn])
        told = capsys.readouterr()
        assert "exported for images of 64x64 and are run at that size, not at 96x96" in told.err
        assert f"at 64 px with {weights.with_suffix('.onnx')} ({'OpenCV DNN' if dnn else 'ONNX'}" in told.out
        newest = max(tmp_path.glob("exp*"), key=lambda folder: folder.stat().st_mtime_ns)
        scores.append(json.loads((newest / "metrics.json").read_text(encoding="utf-8"))["mAP50"])
    assert scores[0] == pytest.approx(scores[1], abs=1e-4)
    with pytest.raises(UserError, match=r"--task study needs weights that take any size"):
        val.main(["--weights", str(weights.with_suffix(".onnx")), *flags, "--task", "study"])


def test_names_of_another_network_are_refused(tiny_data: Path, tmp_path: Path) -> None:
    """A file without class names takes those of --data, whatever it was trained for."""
    script = torch.jit.trace(torch.nn.Sequential(torch.nn.Conv2d(3, 9, 32, 32), torch.nn.Flatten(2)),
                             torch.zeros(1, 3, 64, 64))  # fmt: skip

    class Rows(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = script

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.inner(images).transpose(1, 2)

    path = tmp_path / "foreign.torchscript"
    torch.jit.save(torch.jit.trace(Rows(), torch.zeros(1, 3, 64, 64)), str(path))
    flags = ("--data", str(tiny_data), "--project", str(tmp_path), "--imgsz", "64")
    with pytest.raises(UserError, match="the weights give 4 classes, and 2 have names"):
        val.main(["--weights", str(path), *flags])
