"""PyTorch weights in another runtime: `--runtime` of detect.py and val.py."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import platformdirs
import pytest
import torch

import detect
import val
from models.exporting import kept
from models.exporting.kept import for_runtime, kept_network
from models.runtimes import kept as places
from models.runtimes.config import InferenceConfig
from models.runtimes.kept import networks
from models.runtimes.opening import load_backend
from models.weights import load_model
from tests.layouts import small
from tests.models.exporting.weights import lively, write_weights
from utils.errors import UserError

pytest.importorskip("onnx")
PACKAGES = {"onnx": "onnxruntime", "openvino": "openvino"}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path.parent / f"{tmp_path.name}-cache"
    monkeypatch.setattr(platformdirs, "user_cache_dir", lambda *_, **__: str(folder))
    return folder / "networks"


def sealed(network: Path) -> None:
    network.parent.mkdir(parents=True, exist_ok=True)
    network.touch()
    (network.parent / places.SEAL).write_text(places.seal_of(network), encoding="ascii")


@pytest.mark.parametrize("runtime", ["onnx", pytest.param("openvino", marks=pytest.mark.slow)])
def test_a_network_is_written_once(
    runtime: str, weights: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip(PACKAGES[runtime])
    first = kept_network(weights, runtime)
    assert first.is_relative_to(cache)
    assert [file.name for file in weights.parent.iterdir()] == [weights.name]
    backend, model = load_backend(first), load_model(weights)
    assert backend.any_shape
    for size in ((64, 96), (128, 32)):
        image = torch.rand(2, 3, *size)
        with torch.inference_mode():
            torch.testing.assert_close(backend(image), model(image)[0], rtol=1e-4, atol=1e-3)
    monkeypatch.setattr(kept, "make", lambda *_: pytest.fail("written again"))
    assert kept_network(weights, runtime) == first
    copy = weights.with_name("ähnlich 2.pt")
    shutil.copy(weights, copy)
    assert kept_network(copy, runtime) == first  # by what is in them


def test_other_weights_code_or_machine_are_another_network(
    weights: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxruntime")
    made = []

    def write(weights: Path, digest: str, runtime: str, target: Path) -> None:
        made.append(target)
        sealed(target)

    monkeypatch.setattr(kept, "_write", write)
    kept_network(weights, "onnx")
    kept_network(weights, "onnx")
    assert len(made) == 1
    with monkeypatch.context() as patch:
        patch.setattr(places, "instruction_set", lambda: "other")
        kept_network(weights, "onnx")
    with monkeypatch.context() as patch:
        patch.setattr(places, "version_of", lambda name: "9.9")
        kept_network(weights, "onnx")
    with weights.open("ab") as file:
        file.write(b" ")
    kept_network(weights, "onnx")
    assert len({target.parent for target in made}) == len(made) == 4


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["onnx", "openvino"])
def test_a_damaged_one_is_made_again(runtime: str, weights: Path) -> None:
    pytest.importorskip(PACKAGES[runtime])
    network = kept_network(weights, runtime)
    before = places.seal_of(network)
    file = next(network.glob("*.bin")) if network.is_dir() else network
    for damage in (lambda: file.write_bytes(file.read_bytes()[:-100]), file.unlink):
        damage()
        assert not places.is_whole(network)
        assert kept_network(weights, runtime) == network
        assert places.is_whole(network)
    (network.parent / places.SEAL).unlink()  # of one that was killed while writing
    kept_network(weights, runtime)
    assert len(places.seal_of(network)) == len(before) == 64


def test_weights_that_change_meanwhile_are_not_taken_for_what_they_were(
    weights: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxruntime")
    before = weights.read_bytes()
    other = write_weights(weights.with_name("other.pt"), lively(small("yolov5n"))).read_bytes()
    load = kept.load_unchanged

    def replaced(path: Path) -> object:
        path.write_bytes(other)
        return load(path)

    with monkeypatch.context() as patch:
        patch.setattr(kept, "load_unchanged", replaced)
        with pytest.raises(UserError, match="was written to while it was read; start again"):
            kept_network(weights, "onnx")
    weights.write_bytes(before)
    image = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        found, expected = load_backend(kept_network(weights, "onnx"))(image), load_model(weights)(image)[0]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-3)


def test_those_that_were_used_longest_ago_go(
    weights: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxruntime")
    monkeypatch.setattr(kept, "MOST_KEPT", 2)
    monkeypatch.setattr(kept, "_write", lambda weights, digest, runtime, target: sealed(target))
    for number, name in enumerate("abc"):
        sealed(cache / name / "network.onnx")
        (cache / f"{name}.lock").touch()
        os.utime(cache / name, (number, number))
    target = kept_network(weights, "onnx")
    assert {file.name for file in networks().iterdir() if file.is_dir()} == {"c", target.parent.name}
    assert {file.stem for file in networks().glob("*.lock")} == {"c", target.parent.name}


@pytest.mark.parametrize("runtime", list(PACKAGES))
def test_detect_finds_the_same(
    runtime: str, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip(PACKAGES[runtime])
    found = []
    for name in ("torch", runtime):
        flags = ("--imgsz", "96", "--conf-thres", "0.5", "--nosave", "--save-txt", "--name", name)
        detect.main(
            ["--weights", str(weights), "--runtime", name, "--project", str(tmp_path / "runs"), *flags]
        )
        labels = tmp_path / "runs" / name / "labels"
        found.append(
            {file.name: sorted(file.read_text(encoding="utf-8").splitlines()) for file in labels.iterdir()}
        )
    assert found[0] == found[1]
    assert any(found[0].values())
    library = {"onnx": "ONNX Runtime", "openvino": "OpenVINO"}[runtime]
    assert f"with {weights} ({library}, cpu)" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("runtime", list(PACKAGES))
def test_val_measures_the_same(runtime: str, weights: Path, tiny_data: Path, tmp_path: Path) -> None:
    pytest.importorskip(PACKAGES[runtime])
    reports = []
    for name in ("torch", runtime):
        flags = ("--data", str(tiny_data), "--imgsz", "64", "--noplots", "--single-cls", "--name", name)
        val.main(["--weights", str(weights), "--runtime", name, "--project", str(tmp_path / "runs"), *flags])
        reports.append(json.loads((tmp_path / "runs" / name / "metrics.json").read_text(encoding="utf-8")))
    assert reports[0]["images"] == reports[1]["images"] == 4
    assert reports[0]["mAP50_95"] == pytest.approx(reports[1]["mAP50_95"], abs=5e-4)


def test_what_cannot_be(weights: Path, tmp_path: Path, cache: Path) -> None:
    onnx = tmp_path / "best.onnx"
    onnx.touch()
    with pytest.raises(UserError, match="--runtime openvino is for PyTorch weights"):
        for_runtime(onnx, "openvino")
    config = InferenceConfig(weights=(str(weights),), runtime="onnx")
    with pytest.raises(UserError, match="--runtime onnx runs on the CPU; leave it out, or --device cuda"):
        config.open_weights(torch.device("cuda"), "data/digits.yaml")
    with pytest.raises(UserError, match="--dnn and --runtime onnx exclude each other"):
        detect.main(["--weights", str(weights), "--runtime", "onnx", "--dnn", "--nosave", "--imgsz", "64"])
    with pytest.raises(UserError, match="--augment needs PyTorch; leave out --runtime onnx"):
        detect.main(
            ["--weights", str(weights), "--runtime", "onnx", "--augment", "--nosave", "--imgsz", "64"]
        )
    cache.parent.write_text("in the way", encoding="utf-8")
    with pytest.raises(UserError, match="cannot be kept for onnx in the cache folder"):
        kept_network(weights, "onnx")
