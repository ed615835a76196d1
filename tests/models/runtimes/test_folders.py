"""Folders as weights, and the number of threads, in every runtime and in both commands."""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import pytest
import torch

import detect
import val
from models.exporting import ncnn, onnx, openvino, torchscript
from models.exporting.job import Exporter, example
from models.runtimes.base import Backend
from models.runtimes.opening import load_backend
from models.weights import load_model
from tests.models.exporting.jobs import SIZE, expectation, job_of, make_job, shares
from tests.models.exporting.weights import NAMES
from utils.data.sources import FileSource
from utils.data.spec import DataSpec
from utils.distributed import Process
from utils.errors import UserError
from utils.files import ROOT
from val import ValConfig

pytest.importorskip("openvino")
pytest.importorskip("onnxruntime")
SIDE = 160
FILES: dict[str, tuple[str, Exporter]] = {
    "torchscript": ("best.torchscript", torchscript.export),
    "onnx": ("best.onnx", onnx.export),
    "openvino": ("best_openvino_model", openvino.export),
    "ncnn": ("best_ncnn_model", ncnn.export),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("openvino") / "best_openvino_model"
    openvino.export(make_job(target))
    return target


def copied(folder: Path, place: Path) -> Path:
    (place / folder.name).mkdir()
    for file in folder.iterdir():
        (place / folder.name / file.name).write_bytes(file.read_bytes())
    return place / folder.name


def refusal(folder: Path) -> str:
    with pytest.raises(UserError) as caught:
        load_backend(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("threads", [None, 1, 2])
def test_openvino(folder: Path, threads: int | None) -> None:
    backend = load_backend(f"{folder}/", threads=threads)
    assert (backend.names, backend.stride, backend.shape, backend.batch) == (NAMES, 32, SIZE, 1)
    if threads:
        assert backend.compiled.get_property("INFERENCE_NUM_THREADS") == threads
    job = make_job(folder, batch=3)
    images = job.image.contiguous(memory_format=torch.channels_last)
    assert max(shares(backend(images), expectation(job))) < 1e-4


def test_openvino_with_free_shapes(tmp_path: Path) -> None:
    job = make_job(tmp_path / "best_openvino_model", dynamic=True)
    openvino.export(job)
    backend = load_backend(job.target)
    assert (backend.shape, backend.batch) == (None, None)
    for size, batch in ((SIZE, 1), ((128, 64), 3)):
        images = example(size, batch)
        with torch.inference_mode():
            expected = job.network(images)
        assert max(shares(backend(images), expected)) < 1e-4


def test_openvino_damaged(folder: Path, tmp_path: Path) -> None:
    broken = copied(folder, tmp_path)
    xml, weights = broken / "best.xml", broken / "best.bin"
    text, content = xml.read_text(encoding="utf-8"), weights.read_bytes()
    xml.write_text(text[: len(text) // 2], encoding="utf-8")
    assert "cannot be run by OpenVINO" in refusal(broken)
    xml.write_text(text, encoding="utf-8")
    weights.write_bytes(content[: len(content) // 2])
    assert "cannot be run by OpenVINO" in refusal(broken)
    weights.unlink()
    assert "best.xml without its best.bin" in refusal(broken)
    weights.write_bytes(content)
    (broken / "second.xml").write_text(text, encoding="utf-8")
    assert "2 .xml files (best.xml, second.xml)" in refusal(broken)
    for file in (xml, broken / "second.xml"):
        file.unlink()
    assert "no .xml file" in refusal(broken)


def test_openvino_metadata(folder: Path, tmp_path: Path) -> None:
    metadata = copied(folder, tmp_path) / "metadata.yaml"
    metadata.write_text("!!python/object/apply:os.system ['true']", encoding="utf-8")
    assert "metadata.yaml' is damaged" in refusal(metadata.parent)
    metadata.write_text("stride: zero\n", encoding="utf-8")
    assert "its stride must be a whole number from 1 to 1024, found 'zero'" in refusal(metadata.parent)
    metadata.unlink()  # like any file without names
    backend = load_backend(metadata.parent)
    assert (backend.names, backend.stride) == ({}, 32)


def test_openvino_leaves_signals_alone(folder: Path) -> None:
    """Two networks go in the order of their birth, then Ctrl-C comes; in a process that may crash."""
    script = f"""
import os, signal
from pathlib import Path
from models.runtimes.base import Backend
from models.runtimes.opening import load_backend
first, second = (load_backend(Path({str(folder)!r})) for _ in range(2))
del first
del second
try:
    os.kill(os.getpid(), signal.SIGINT)
except KeyboardInterrupt:
    print("interrupted")
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "interrupted\n")


@pytest.mark.parametrize(
    ("package", "name"), [("openvino", "best_openvino_model"), ("ncnn", "best_ncnn_model")]
)
def test_missing_packages(package: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / name).mkdir()
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=f"pip install {package}"):
        load_backend(tmp_path / name)


def test_files_and_folders_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not found"):
        load_backend(tmp_path / "best_openvino_model")
    (tmp_path / "best_ncnn_model").write_text("", encoding="utf-8")
    with pytest.raises(UserError, match="must be a folder"):
        load_backend(tmp_path / "best_ncnn_model")
    (tmp_path / "best.onnx").mkdir()
    with pytest.raises(UserError, match="must be a file"):
        load_backend(tmp_path / "best.onnx")


@pytest.mark.parametrize("threads", [0, -1, 5000])
def test_impossible_numbers_of_threads(folder: Path, threads: int) -> None:
    with pytest.raises(UserError, match="--threads must lie between 1 and 1024"):
        load_backend(folder, threads=threads)


@pytest.mark.parametrize("words", [["0"], ["-2"], ["many"]])
@pytest.mark.parametrize("command", [detect.main, val.main])
def test_commands_refuse_them_too(
    command: object, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        command(["--threads", *words])  # type: ignore[operator]
    error = capsys.readouterr().err
    assert caught.value.code == 2 and "--threads" in error and error.count("\n") == 1


def test_threads_of_torch_and_onnxruntime(tmp_path: Path) -> None:
    before = torch.get_num_threads()
    try:
        for name in ("torchscript", "onnx"):
            job = make_job(tmp_path / FILES[name][0])
            FILES[name][1](job)
            backend = load_backend(job.target, threads=2 if before == 1 else 1)
            assert max(shares(backend(job.image), expectation(job))) < 1e-4
            if name == "onnx":
                assert backend.session.get_session_options().intra_op_num_threads == torch.get_num_threads()
        assert torch.get_num_threads() != before
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(("name", "calls"), [("onnx", 2), ("openvino", 2), ("ncnn", 1), ("torchscript", 1)])
def test_calls_side_by_side(name: str, calls: int, tmp_path: Path) -> None:
    """Where they are possible each has its share of the threads, and gives what it gives alone."""
    pytest.importorskip({"onnx": "onnxruntime", "torchscript": "torch"}.get(name, name))
    file, export = FILES[name]
    job = make_job(tmp_path / file)
    export(job)
    before = torch.get_num_threads()
    try:
        backend = load_backend(job.target, threads=2, calls=2)
        assert backend.calls == calls
        if name == "onnx":
            assert backend.session.get_session_options().intra_op_num_threads == 1
        if name == "openvino":
            assert backend.compiled.get_property("NUM_STREAMS") == 2
            assert backend.compiled.get_property("INFERENCE_NUM_THREADS") == 2
        assert load_backend(job.target, threads=1).calls == 1
        assert load_backend([job.target, job.target], threads=2, calls=2).calls == calls
        if name == "onnx":
            own = load_backend(job.target, threads=5, calls=3).session.get_session_options()
            assert own.intra_op_num_threads == 3  # two beside the three that call
    finally:
        torch.set_num_threads(before)
    if calls > 1:
        images = [torch.rand(job.image.shape, generator=torch.Generator().manual_seed(n)) for n in range(16)]
        with ThreadPoolExecutor(calls) as pool:
            together = list(pool.map(backend, images))
        assert all(torch.equal(found, backend(image)) for found, image in zip(together, images))
        assert not torch.equal(together[0], together[1])


@pytest.mark.parametrize(
    ("live", "threads", "expected"),
    [(False, 3, 3), (False, 1, 1), (False, 64, detect.MOST_WORKERS), (True, 3, 1)],
)
def test_detect_calls_side_by_side_unless_frames_come_one_by_one(
    live: bool, threads: int, expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = make_job(tmp_path / "best.onnx")
    FILES["onnx"][1](job)
    opened = []

    def opening(*files: object, calls: int, **more: object) -> Backend:
        opened.append(calls)
        return load_backend(*files, calls=calls, **more)  # type: ignore[arg-type]

    monkeypatch.setattr("models.runtimes.choosing.load_backend", opening)
    monkeypatch.setattr(FileSource, "live", live)
    flags = ("--weights", str(job.target), "--threads", str(threads), "--nosave", "--imgsz", *map(str, SIZE))
    detect.main([*flags, "--source", str(ROOT / "data" / "images")])
    assert opened == [expected]


@pytest.mark.parametrize("name", ["openvino", "ncnn"])
def test_detect_finds_the_same_in_a_folder(
    name: str, official_weights: Path, shared: Path, tmp_path: Path
) -> None:
    pytest.importorskip(name)
    file, export = FILES[name]
    job = job_of(load_model(official_weights), tmp_path / file, (SIDE, SIDE))
    export(job)
    picture = tmp_path / "bus.png"
    cv2.imwrite(str(picture), cv2.resize(cv2.imread(str(shared / "data" / "bus.jpg")), (SIDE, SIDE)))
    found = []
    for weights, run in ((official_weights, "torch"), (job.target, name)):
        flags = ("--source", str(picture), "--imgsz", str(SIDE), "--save-txt", "--save-conf", "--nosave")
        place = ("--project", str(tmp_path), "--name", run, "--threads", "1")
        detect.main(["--weights", str(weights), *flags, *place])
        text = (tmp_path / run / "labels" / "bus.txt").read_text(encoding="utf-8")
        found.append(sorted([round(float(value), 2) for value in line.split()] for line in text.splitlines()))
    assert len(found[0]) >= 2
    assert torch.allclose(torch.tensor(found[0]), torch.tensor(found[1]), atol=0.011)


@pytest.mark.parametrize("name", ["openvino", "ncnn"])
def test_val_runs_a_folder(
    name: str, official_weights: Path, tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip(name)
    file, export = FILES[name]
    job = job_of(load_model(official_weights), tmp_path / file, (64, 64))
    export(job)
    flags = ("--data", str(tiny_data), "--project", str(tmp_path), "--noplots", "--single-cls")
    val.main(["--weights", str(job.target), *flags, "--batch-size", "3", "--threads", "1"])
    report = json.loads((tmp_path / "exp" / "metrics.json").read_text(encoding="utf-8"))
    assert report["images"] == 4


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_accuracy_on_photographs(
    name: str, official_weights: Path, linked_data: Path, tmp_path: Path
) -> None:
    """All runtimes score the same: within 0.001 of TorchScript, whose images are as square as theirs."""
    pytest.importorskip(name if name in ("openvino", "ncnn") else "torch")
    names = (Path(__file__).resolve().parents[3] / "data" / "coco.yaml").read_text(encoding="utf-8")
    data = tmp_path / "coco.yaml"
    root = linked_data / "coco256"
    kept = names[names.index("names:") :]
    data.write_text(f"path: {root}\ntrain: images/train2017\nval: images/val2017\n{kept}", encoding="utf-8")
    scores = []
    for form in ("torchscript", name):
        file, export = FILES[form]
        job = job_of(load_model(official_weights), tmp_path / file, (320, 320))
        if not job.target.exists():
            export(job)
        flags = ("--data", str(data), "--project", str(tmp_path), "--name", form, "--exist-ok", "--noplots")
        val.main(["--weights", str(job.target), *flags])
        scores.append(json.loads((tmp_path / form / "metrics.json").read_text(encoding="utf-8"))["mAP50_95"])
    assert scores[0] > 0.25
    assert scores[1] == pytest.approx(scores[0], abs=0.001)


@pytest.mark.parametrize("name", ["onnx", "openvino", "torchscript"])
def test_files_of_any_size_are_validated_as_pytorch_is(
    name: str, official_weights: Path, linked_data: Path, tmp_path: Path
) -> None:
    """In rectangles with the same padding, so that the scores are the same."""
    file, export = FILES[name]
    export(job_of(load_model(official_weights), tmp_path / file, dynamic=True))
    backends = load_backend(official_weights), load_backend(tmp_path / file)
    assert [backend.any_shape for backend in backends] == [True, True]
    config = ValConfig(imgsz=128, batch_size=2, workers=0)
    index = DataSpec(
        tmp_path, tmp_path, (), (linked_data / "bccd" / "images" / "val",), (), {0: "a", 1: "b", 2: "c"}
    )
    first, second = (next(iter(val.open_loader(config, b, index, tmp_path, Process()))) for b in backends)
    assert first.images.shape[2] != first.images.shape[3] and torch.equal(first.images, second.images)
    found = [backend(first.images[:1].float() / 255) for backend in backends]
    assert torch.allclose(*found, rtol=1e-3, atol=1e-2)
