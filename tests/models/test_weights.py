"""Checkpoints become models: parity with recorded outputs, transfer, and words for what does not fit."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from models import weights
from models.weights import find_weights, load_model
from models.yolo import DetectionModel
from utils.checkpoints.files import read_checkpoint, write_checkpoint
from utils.errors import UserError


def checkpoint_of(detector: DetectionModel, /, **changes: Any) -> dict[str, Any]:
    values = {
        "model": detector.state_dict(), "ema": None, "yaml": detector.yaml, "names": detector.names,
        "nc": detector.nc, "stride": detector.stride.tolist(),
    }  # fmt: skip
    return {**values, **changes}


@pytest.fixture(scope="module")
def tiny() -> DetectionModel:
    torch.manual_seed(0)
    return DetectionModel("yolov5n.yaml", nc=2)


@pytest.fixture(scope="module")
def official(official_weights: Path) -> DetectionModel:
    return load_model(official_weights)


@pytest.mark.parametrize("fuse", [False, True])
def test_official_weights_give_the_recorded_output(official_weights: Path, golden: Path, fuse: bool) -> None:
    model = load_model(official_weights, fuse=fuse)
    recorded = np.load(golden / "forward_yolov5n.npz")
    with torch.inference_mode():
        output = model(torch.from_numpy(recorded["x"]))[0].numpy()
    assert output.shape == recorded["y"].shape == (1, 6300, 85)
    # pixels up to 320 and probabilities; folding BatchNorm reorders float32 sums
    np.testing.assert_allclose(output, recorded["y"], rtol=1e-4, atol=1e-3 if fuse else 1e-4)


def test_loaded_model_is_ready(official: DetectionModel) -> None:
    assert not official.training
    assert official.stride.tolist() == [8.0, 16.0, 32.0]
    assert official.names[0] == "person" and len(official.names) == official.nc == 80
    assert {parameter.dtype for parameter in official.parameters()} == {torch.float32}


def test_converted_files_load_the_same(
    official: DetectionModel, official_weights: Path, tmp_path: Path
) -> None:
    for name in ("a.pt", "a.safetensors"):
        weights.main([str(official_weights), str(tmp_path / name)])
        state = load_model(tmp_path / name).state_dict()
        assert all(torch.equal(state[key], tensor) for key, tensor in official.state_dict().items())
    assert torch.load(tmp_path / "a.pt", weights_only=True)["nc"] == 80


def test_conversion_refuses_to_overwrite(official_weights: Path, tmp_path: Path) -> None:
    target = tmp_path / "a.safetensors"
    target.write_bytes(b"precious")
    with pytest.raises(UserError, match="--force"):
        weights.main([str(official_weights), str(target)])
    assert target.read_bytes() == b"precious"
    weights.main([str(official_weights), str(target), "--force"])
    assert read_checkpoint(target)["nc"] == 80
    with pytest.raises(UserError, match=r"must end in \.pt or \.safetensors"):
        weights.main([str(official_weights), str(tmp_path / "a.bin")])


def test_own_checkpoint_prefers_ema_and_keeps_names(tiny: DetectionModel, tmp_path: Path) -> None:
    ema = {name: torch.full_like(tensor, 0.5) for name, tensor in tiny.state_dict().items()}
    write_checkpoint(tmp_path / "last.pt", checkpoint_of(tiny, ema=ema, names={0: "cat"}))
    model = load_model(tmp_path / "last.pt")
    assert model.names == {0: "cat", 1: "class1"}
    assert all(bool((tensor == 0.5).all()) for tensor in model.parameters())


def test_half_precision_and_fused_files(tiny: DetectionModel, tmp_path: Path) -> None:
    half = {k: v.half() if v.is_floating_point() else v for k, v in tiny.state_dict().items()}
    write_checkpoint(tmp_path / "half.pt", checkpoint_of(tiny, model=half))
    model = load_model(tmp_path / "half.pt")
    image = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        expected = model(image)[0]
        fused = load_model(tmp_path / "half.pt", fuse=True)
        write_checkpoint(tmp_path / "fused.pt", checkpoint_of(tiny, model=fused.state_dict()))
        again = load_model(tmp_path / "fused.pt", fuse=True)
        assert torch.equal(again(image)[0], fused(image)[0])
        torch.testing.assert_close(again(image)[0], expected, rtol=1e-3, atol=1e-2)


def test_leftovers_of_old_files_are_dropped(
    tiny: DetectionModel, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    extra = {"model.24.anchor_grid": torch.ones(3, 1, 3, 1, 1, 2), "model.0.total_ops": torch.ones(1)}
    write_checkpoint(tmp_path / "old.pt", checkpoint_of(tiny, model={**tiny.state_dict(), **extra}))
    load_model(tmp_path / "old.pt")
    assert not caplog.records
    model = DetectionModel("yolov5n-slimneck.yaml", nc=2)
    unused = {f"model.13.res.{name}": torch.ones(1) for name in ("conv.weight", "bn.weight")}
    state = {**model.state_dict(), **unused}
    write_checkpoint(tmp_path / "slim.pt", checkpoint_of(model, model=state))
    load_model(tmp_path / "slim.pt")
    # pytest may listen at the logger and at the root, and then hears everything twice
    assert list(dict.fromkeys(caplog.messages)) == [
        f"{tmp_path / 'slim.pt'}: dropped the unused `res` convolutions of VoVGSCSP (2 tensors)"
    ]


def test_misfits_name_the_tensor(tiny: DetectionModel, tmp_path: Path) -> None:
    path, state = tmp_path / "x.pt", tiny.state_dict()
    name = "model.3.conv.weight"
    smaller = {**state, name: state[name][1:]}
    missing = {key: tensor for key, tensor in state.items() if key != name}
    cases = [
        ({"model": smaller}, rf"x\.pt: tensor '{name}' has shape \(63, .*its yaml makes \(64, .*pruned"),
        ({"model": missing}, rf"tensor '{name}' is missing"),
        (
            {"model": {**state, "model.99.weight": torch.ones(1)}},
            r"'model\.99\.weight' \(1 in all\) has no place",
        ),
        ({"nc": 3}, r"tensor 'model\.24\.m\.0\.weight' has shape \(21, .*makes \(24, "),  # 3 * (5 + nc)
    ]
    for changes, message in cases:
        write_checkpoint(path, checkpoint_of(tiny, **changes))
        with pytest.raises(UserError, match=message):
            load_model(path)


def test_a_yaml_that_cannot_be_or_is_absurd(tiny: DetectionModel, tmp_path: Path) -> None:
    path, cfg = tmp_path / "x.pt", tiny.yaml
    rest = cfg["backbone"][1:]
    cases = [
        ({**cfg, "backbone": [[-1, 1, "Warp", [64]], *rest]}, "unknown block 'Warp'"),
        ({**cfg, "width_multiple": 90.0}, "describes [0-9]+ values, it holds"),
        ({**cfg, "backbone": [[-1, 1, "Conv", [10**9, 10**4]], *rest]}, "cannot rebuild its model"),
        ({**cfg, "backbone": [[-1, 1000, "Conv", [64]]] * 20 + rest}, "blocks for"),
        (
            {
                **cfg,
                "backbone": [[-1, 1000, "Conv", [64]]] * 20 + rest,
                "depth_multiple": 0.001,
                "fixed_backbone": True,
            },
            "blocks for",
        ),
        ({"backbone": []}, "cannot rebuild its model"),
        ({**cfg, "head": "eval('1')"}, "cannot rebuild its model"),
    ]
    for described, message in cases:
        write_checkpoint(path, checkpoint_of(tiny, yaml=described))
        with pytest.raises(UserError, match=message) as caught:
            load_model(path)
        assert str(caught.value).startswith(f"{path}: ")


# --- finding ---


def test_newest_best_is_the_default(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="train a model first, or name a file with --weights"):
        find_weights("", tmp_path / "runs" / "train")
    for age, run in enumerate(("exp3", "exp", "exp2")):
        file = tmp_path / run / "weights" / "best.pt"
        file.parent.mkdir(parents=True)
        file.touch()
        os.utime(file, (1000 - age, 1000 - age))
    assert find_weights("", tmp_path) == tmp_path / "exp3" / "weights" / "best.pt"


def test_weights_of_other_runs_are_named(tmp_path: Path) -> None:
    runs, file = tmp_path / "runs" / "train", tmp_path / "runs" / "demo" / "train" / "weights" / "best.pt"
    file.parent.mkdir(parents=True)
    with pytest.raises(UserError, match=r"file 'best\.pt' not found$"):
        find_weights("best.pt", runs)
    file.touch()
    with pytest.raises(
        UserError, match=rf"the newest elsewhere is {re.escape(str(file))}: --weights names it"
    ):
        find_weights("", runs)
    with pytest.raises(UserError, match=rf"'best\.pt' not found; the newest one is {re.escape(str(file))}"):
        find_weights("best.pt", runs)


def test_named_weights(tmp_path: Path) -> None:
    file = tmp_path / "mine.pt"
    file.touch()
    assert find_weights(file) == file
    for name in ("yolov5n.pt", "yolov5x6.pt", "yolov5s", str(tmp_path / "yolov5l.pt")):
        with pytest.raises(
            UserError, match=r"nothing is downloaded.*github\.com/ultralytics/yolov5/releases"
        ):
            find_weights(name)
    with pytest.raises(UserError, match=r"mien\.pt' not found; did you mean mine\.pt"):
        find_weights(tmp_path / "mien.pt")
