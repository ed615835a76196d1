"""ncnn: what pnnx writes, what runs, and what is refused."""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
import yaml
from torch import Tensor, nn

from models.exporting.ncnn import export
from models.insertion import insert, insertable
from models.runtimes.opening import load_backend
from models.weights import load_model
from models.yolo import DetectionModel
from tests.layouts import randomise_norms
from tests.models.exporting.jobs import SIZE, expectation, job_of, make_job, shares
from tests.models.exporting.weights import NAMES, lively
from utils.errors import UserError

pnnx = pytest.importorskip("pnnx")
pytest.importorskip("ncnn")

SHORT = {
    "nc": 3, "depth_multiple": 1.0, "width_multiple": 1.0, "anchors": 2,
    "backbone": [[-1, 1, "Conv", [32, 3, 8]]], "head": [[-1, 1, "Detect", ["nc", "anchors"]]],
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("ncnn") / "best_ncnn_model"
    export(make_job(target))
    return target


@pytest.fixture
def broken(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "best_ncnn_model"))


def refusal(folder: Path) -> str:
    with pytest.raises(UserError) as caught:
        load_backend(folder)
    assert "\n" not in str(caught.value) and "best_ncnn_model" in str(caught.value)
    return str(caught.value)


def test_the_folder_holds_no_program(folder: Path) -> None:
    assert {f.name for f in folder.iterdir()} == {"model.ncnn.param", "model.ncnn.bin", "metadata.yaml"}
    assert yaml.safe_load((folder / "metadata.yaml").read_text(encoding="utf-8"))["imgsz"] == "[64, 96]"
    assert [f.name for f in folder.parent.iterdir()] == [folder.name]  # side files went elsewhere


@pytest.mark.parametrize("threads", [None, 1, 2])
def test_predictions_equal_pytorch(folder: Path, threads: int | None) -> None:
    backend = load_backend(folder, threads=threads)
    assert (backend.names, backend.stride, backend.shape, backend.batch) == (NAMES, 32, SIZE, 1)
    job = make_job(folder, batch=3)  # a batch is run image by image
    expected = expectation(dataclasses.replace(job))
    layouts = (job.image, job.image.contiguous(memory_format=torch.channels_last))
    for images in layouts:
        assert max(shares(backend(images), expected)) < 1e-4


@pytest.mark.parametrize(
    "layout",
    [
        "yolov5n-slimneck",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("yolov5n-gsconv-all", "yolov5n-csppc", "v5lite-e")
        ),
    ],
)
def test_variants(layout: str, tmp_path: Path) -> None:
    job = make_job(tmp_path / "best_ncnn_model", layout)
    export(job)
    assert max(shares(load_backend(job.target)(job.image), expectation(job))) < 1e-4


@pytest.mark.parametrize(
    "block",
    [
        "ECA",  # ncnn reckons a shape
        *(pytest.param(n, marks=pytest.mark.slow) for n in insertable() if n not in ("ECA", "MLCA")),
    ],
)
def test_inserted_blocks(block: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = DetectionModel(insert(SHORT, [f"{block} after 0"], "x")[0]).eval()
    randomise_norms(model)
    job = job_of(lively(model), tmp_path / "best_ncnn_model")
    export(job)
    assert max(shares(load_backend(job.target)(job.image), expectation(job))) < 1e-4


def test_what_ncnn_lacks_is_named(tmp_path: Path) -> None:
    model = DetectionModel(insert(SHORT, ["MLCA after 0"], "x")[0]).eval()
    with pytest.raises(UserError, match=r"ncnn has no layer for Tensor\.type_as"):
        export(job_of(model, tmp_path / "best_ncnn_model"))


def test_half_precision_halves_the_file(folder: Path, tmp_path: Path) -> None:
    job = make_job(tmp_path / "best_ncnn_model", half=True)
    export(job)
    size, whole = ((f / "model.ncnn.bin").stat().st_size for f in (job.target, folder))
    assert size < 0.6 * whole
    assert max(shares(load_backend(job.target)(job.image), expectation(job))) < 2e-2


class Unknown(nn.Module):
    """An operator that ncnn has not."""

    def forward(self, images: Tensor) -> Tensor:
        return torch.special.bessel_j0(images.flatten(2))


def test_an_operator_without_a_layer_is_named(tmp_path: Path) -> None:
    job = dataclasses.replace(make_job(tmp_path / "best_ncnn_model"), network=Unknown())
    with pytest.raises(UserError, match=r"no layer for .*bessel_j0"):
        export(job)
    assert not job.target.exists()


def test_a_failing_converter_gives_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(command: list[str], **options: object) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, 3, "", "loading\nno memory\n")

    monkeypatch.setattr("models.exporting.ncnn.run_child", fails)
    with pytest.raises(UserError, match="status 3: no memory"):
        export(make_job(tmp_path / "best_ncnn_model"))


def test_other_sizes_are_refused(folder: Path) -> None:
    with pytest.raises(UserError, match=r"take images of \(64, 96\), got \(64, 64\)"):
        load_backend(folder)(torch.zeros(1, 3, 64, 64))


def test_incomplete_folders(broken: Path, tmp_path: Path) -> None:
    (broken / "other.param").write_text("7767517\n", encoding="utf-8")
    assert "2 .param files (model.ncnn.param, other.param)" in refusal(broken)
    (broken / "other.param").unlink()
    (broken / "model.ncnn.bin").unlink()
    assert "model.ncnn.param without its model.ncnn.bin" in refusal(broken)
    (broken / "model.ncnn.param").unlink()
    assert "no .param file" in refusal(broken)


def test_damaged_files(broken: Path) -> None:
    weights = broken / "model.ncnn.bin"
    weights.write_bytes(weights.read_bytes()[:-8])
    assert "was changed after its export" in refusal(broken)
    metadata = broken / "metadata.yaml"
    values = yaml.safe_load(metadata.read_text(encoding="utf-8"))
    metadata.write_text(
        yaml.safe_dump(values | {"checksum": ""}), encoding="utf-8"
    )  # as other programs write it
    assert "model.ncnn.bin is damaged" in refusal(broken)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("7767517", "7767518"),  # the magic number
        ("Convolution ", "Convolution"),  # a missing column
        ("in0", "in1 0"),  # a number where a name should be
        ("0=85", "085"),  # no parameter
        ("Sigmoid", "Sigmöid"),
    ],
)
def test_damaged_description(broken: Path, old: str, new: str) -> None:
    param = broken / "model.ncnn.param"
    text = param.read_text(encoding="utf-8")
    changed = text.replace(old, new, 1) if old in text else text.replace("0=", "", 1)
    assert changed != text
    param.write_text(changed, encoding="utf-8")
    assert "model.ncnn.param" in refusal(broken)
    param.write_text(text[: len(text) // 2], encoding="utf-8")
    assert "model.ncnn.param" in refusal(broken)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("names: [a, b", "metadata.yaml' is damaged"),
        ("- 1\n- 2\n", "expected keys and values, found list"),
        ("stride: '32'\n", "imgsz is missing"),
        ("imgsz: '[64]'\n", "imgsz must be 2 whole numbers"),
        ("imgsz: '[64, -96]'\n", "imgsz must be 2 whole numbers from 1 to 16384"),
        ("imgsz: [64, 96]\nstride: 0.5\n", "stride must be a whole number"),
        ("imgsz: [64, 96]\nnames: \"__import__('os').system('true')\"\n", "class names are damaged"),
        ("imgsz: !!python/object/apply:os.system ['true']\n", "metadata.yaml' is damaged"),
    ],
)
def test_damaged_metadata(broken: Path, content: str, words: str) -> None:
    (broken / "metadata.yaml").write_text(content, encoding="utf-8")
    assert words in refusal(broken)


def test_whole_network_of_the_official_weights(official_weights: Path, tmp_path: Path) -> None:
    job = job_of(load_model(official_weights), tmp_path / "best_ncnn_model", (160, 128))
    export(job)
    assert max(shares(load_backend(job.target)(job.image), expectation(job))) < 1e-4
