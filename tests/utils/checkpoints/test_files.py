"""Checkpoint files as wholes: our own and official ones."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
import textwrap
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from tests.utils.checkpoints.checkpoint_files import assert_refused, content
from tests.utils.checkpoints.official_files import Stub, fake_detector, fake_module, save_fake, stub
from utils.checkpoints.files import inference_state, read_checkpoint, write_checkpoint
from utils.errors import UserError

REPOSITORY = Path(__file__).resolve().parents[3]


def same(a: Any, b: Any) -> bool:
    """Equal in type, value and bits; for tensors in dtype, shape and stride too."""
    if isinstance(a, torch.Tensor):
        meta = (a.dtype, a.shape, a.stride()) == (b.dtype, b.shape, b.stride())
        return meta and torch.equal(a.reshape(-1).view(torch.uint8), b.reshape(-1).view(torch.uint8))
    if isinstance(a, dict):
        return isinstance(b, dict) and list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and (a == b or a != a)


# --- our own files ---


def test_own_file_round_trips_bit_for_bit(tmp_path: Path) -> None:
    path, saved = tmp_path / "last.pt", content()
    state = saved["model"]
    state["model.0.bn.num_batches_tracked"] = state["model.0.bn.num_batches_tracked"].reshape(1)
    write_checkpoint(path, saved)
    read = read_checkpoint(path)
    assert (read.pop("format"), read.pop("version")) == ("lean5", 1)
    assert all(same(read[key], saved[key]) for key in saved)
    assert set(read) == set(saved)


def test_own_file_loads_with_weights_only(tmp_path: Path) -> None:
    path, saved = tmp_path / "last.pt", content()
    write_checkpoint(path, saved)
    loaded = torch.load(path, weights_only=True)
    assert loaded["names"] == {0: "cat", 1: "dog"}
    assert torch.equal(loaded["model"]["model.0.conv.weight"], saved["model"]["model.0.conv.weight"])
    assert loaded["resume"]["big"] == 2**127 + 1


def test_tied_tensors_stay_tied_and_views_do_not_drag_their_storage_along(tmp_path: Path) -> None:
    tied, large = torch.randn(10), torch.randn(100_000)
    write_checkpoint(tmp_path / "a.pt", content(model={"a": tied, "b": tied, "view": large[:3]}))
    assert (tmp_path / "a.pt").stat().st_size < 20_000
    state = read_checkpoint(tmp_path / "a.pt")["model"]
    assert state["a"].data_ptr() == state["b"].data_ptr()
    assert torch.equal(state["view"], large[:3])


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("train_args", {"device": torch.device("cpu")}, "'train_args.device' holds a torch.device"),
        ("best_fitness", np.float64(0.5), "'best_fitness' holds a numpy.float64"),
        ("resume", {"rng": [1, {"x": np.zeros(2)}]}, r"'resume.rng.1.x' holds a numpy.ndarray"),
        ("names", {(0,): "a"}, "'names' holds a dict with a key"),
        ("train_args", {"project": Path("runs")}, r"'train_args.project' holds a pathlib"),
        ("hyp", {1, 2}, "'hyp' holds a builtins.set"),
        ("model", {"w": torch.nn.Parameter(torch.ones(1))}, "'model.w' holds a torch.nn.parameter.Parameter"),
    ],
)
def test_only_plain_values_are_written(tmp_path: Path, key: str, value: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        write_checkpoint(tmp_path / "x.pt", content(**{key: value}))
    assert list(tmp_path.iterdir()) == []


def test_cyclic_content_is_not_written(tmp_path: Path) -> None:
    cycle: list[Any] = []
    cycle.append(cycle)
    with pytest.raises(TypeError, match="nested deeper"):
        write_checkpoint(tmp_path / "x.pt", content(hyp=cycle))


def test_inference_prefers_the_average() -> None:
    model, ema = {"w": torch.zeros(1)}, {"w": torch.ones(1)}
    assert inference_state({"model": model, "ema": ema}) is ema
    assert inference_state({"model": model, "ema": None}) is model


def test_full_disk_keeps_the_previous_file(tmp_path: Path) -> None:
    """The file size limit stands for a full disk; at every limit the write fails at another place."""
    path = tmp_path / "last.pt"
    write_checkpoint(path, content())
    before = path.read_bytes()
    script = textwrap.dedent("""
        import resource, sys, torch
        from utils.checkpoints.files import write_checkpoint
        for limit in (0, 1, 100, 5000, 70_000, 300_000):
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
            try:
                write_checkpoint(sys.argv[1], {"model": {str(i): torch.ones(10_000) for i in range(10)}})
                print("written")
            except OSError as error:
                print(error.errno)
    """)
    run = subprocess.run(
        [sys.executable, "-c", script, str(path)], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert run.stdout.split() == ["27"] * 6  # EFBIG each time
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_unwritable_folder(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        write_checkpoint(tmp_path / "absent" / "x.pt", content())


def test_newer_version_is_refused(tmp_path: Path) -> None:
    torch.save({**content(), "format": "lean5", "version": 2}, tmp_path / "x.pt")
    with pytest.raises(UserError, match="version 2; this software reads up to 1"):
        read_checkpoint(tmp_path / "x.pt")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": None}, "no weights"),
        ({"model": {"a": 1}}, "'model' is no state dict"),
        ({"names": ["cat"]}, "names are no mapping"),
        ({"names": {0: 1}}, "no mapping from class number"),
        ({"yaml": None}, "'yaml' is no mapping"),
    ],
)
def test_own_file_without_what_matters(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    torch.save({**content(**change), "format": "lean5", "version": 1}, tmp_path / "x.pt")
    with pytest.raises(UserError, match=message):
        read_checkpoint(tmp_path / "x.pt")


# --- safetensors ---


def test_safetensors_round_trip(tmp_path: Path) -> None:
    saved = content()
    saved["train_args"]["freeze"] = [0]  # JSON has no tuples
    write_checkpoint(tmp_path / "best.safetensors", saved)
    read = read_checkpoint(tmp_path / "best.safetensors")
    for key in (
        "yaml",
        "names",
        "nc",
        "stride",
        "anchors",
        "epoch",
        "best_fitness",
        "train_args",
        "hyp",
        "date",
    ):
        assert same(read[key], saved[key])
    assert set(read["model"]) == set(saved["model"])
    for name, tensor in read["model"].items():
        assert same(tensor, saved["model"][name].contiguous())
    assert read["ema"] is None


def test_broken_safetensors(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    write_checkpoint(path, content())
    data = path.read_bytes()
    deep = {"lean5": "[" * 100_000}
    foreign = {
        "no Lean5 metadata": safetensors.torch.save({"a": torch.ones(1)}),
        "does not describe": safetensors.torch.save({"a": torch.ones(1)}, {"lean5": json.dumps([1])}),
        "metadata does not": safetensors.torch.save({"a": torch.ones(1)}, deep),
        "truncated": data[:-1],
        "or damaged": b"",
        "damaged": struct.pack("<Q", 1 << 62) + data[8:],
    }
    for message, raw in foreign.items():
        path.write_bytes(raw)
        with pytest.raises(UserError, match=message):
            read_checkpoint(path)


# --- official files ---


def test_official_file(official_weights: Path) -> None:
    checkpoint = read_checkpoint(official_weights)
    state = checkpoint["model"]
    assert checkpoint["format"] == "yolov5"
    assert checkpoint["ema"] is None
    assert checkpoint["nc"] == 80
    assert checkpoint["names"][0] == "person"
    assert len(checkpoint["names"]) == 80
    assert checkpoint["stride"] == [8.0, 16.0, 32.0]
    assert checkpoint["anchors"][0] == [[10.0, 13.0], [16.0, 30.0], [33.0, 23.0]]
    assert checkpoint["epoch"] == -1
    assert checkpoint["best_fitness"] == pytest.approx(0.2676, abs=1e-4)  # 0.1 mAP50 + 0.9 mAP50-95
    assert checkpoint["yaml"]["head"][-1] == [[17, 20, 23], 1, "Detect", ["nc", "anchors"]]
    assert state["model.0.conv.weight"].shape == (16, 3, 6, 6)
    assert state["model.0.conv.weight"].dtype == torch.float16
    assert list(state)[:3] == ["model.0.conv.weight", "model.0.bn.weight", "model.0.bn.bias"]


def test_official_file_converts(official_weights: Path, tmp_path: Path) -> None:
    checkpoint = read_checkpoint(official_weights)
    for name in ("a.pt", "a.safetensors"):
        write_checkpoint(tmp_path / name, checkpoint)
        again = read_checkpoint(tmp_path / name)
        assert same(again["model"], {key: checkpoint["model"][key] for key in again["model"]})
        assert again["names"] == checkpoint["names"]


def test_unstripped_file_prefers_ema(tmp_path: Path) -> None:
    ema = fake_detector(names={0: "from ema"})
    root = {
        "model": fake_detector(), "ema": ema, "epoch": 4, "best_fitness": np.array([0.5]), "optimizer": {},
        "opt": {"project": Path("runs"), "imgsz": 64, "device": torch.device("cpu"), "size": torch.Size([1])},
        "date": "today",
    }  # fmt: skip
    checkpoint = read_checkpoint(save_fake(tmp_path / "last.pt", root))
    assert checkpoint["names"] == {0: "from ema"}
    assert checkpoint["epoch"] == 4
    assert checkpoint["best_fitness"] == 0.5
    assert checkpoint["train_args"] == {"project": "runs", "imgsz": 64, "device": "cpu", "size": [1]}
    assert torch.equal(inference_state(checkpoint)["0.weight"], torch.ones(2, 2).half())
    write_checkpoint(tmp_path / "plain.pt", checkpoint)


@pytest.mark.parametrize(
    ("root", "message"),
    [
        ({"model": fake_detector("SegmentationModel")}, "segmentation model"),
        ({"model": fake_detector("ClassificationModel")}, "classification model"),
        ({"model": fake_detector("Detect")}, "models.yolo.Detect, not a detection model"),
        ({"model": fake_detector(yaml=Stub)}, "no yaml attribute"),
        ({"model": fake_detector(names=5)}, "class names"),
        ({"model": fake_detector(nc="eighty")}, "'nc' is str"),
        (
            {"model": fake_detector(yaml={"nc": stub("models.common", "Conv")})},
            "'yaml.nc' holds <models.common.Conv>",
        ),
        ({"model": {"a": torch.ones(1)}}, "'model' is no model object"),
        ({"a": torch.ones(1), "b": torch.ones(2)}, "only a state dict of 2 tensors"),
        (OrderedDict(a=torch.ones(1)), "only a state dict of 1 tensors"),
        ({"epoch": 1}, "holds no model; its keys are epoch"),
        ({}, "holds no model"),
        ([1, 2], "holds list"),
        (3, "holds int"),
        (torch.ones(3), "no model object"),
        ({"model": stub("models.yolo", "Model")}, "without attributes"),
    ],
)
def test_what_is_no_detection_model(tmp_path: Path, root: Any, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        read_checkpoint(save_fake(tmp_path / "x.pt", root))
    assert str(caught.value).startswith(f"{tmp_path / 'x.pt'}: ")


def test_a_module_that_contains_itself(tmp_path: Path) -> None:
    model = fake_detector()
    model._modules["0"]._modules["again"] = model
    with pytest.raises(UserError, match="contains itself"):
        read_checkpoint(save_fake(tmp_path / "x.pt", {"model": model}))
    bomb: list[Any] = []
    for _ in range(40):
        bomb = [bomb] * 10  # 10^40 values when written out
    for value in (bomb, {"a": {"b": bomb}}):
        with pytest.raises(UserError, match="too large"):
            read_checkpoint(save_fake(tmp_path / "x.pt", {"model": fake_detector(yaml={"a": value})}))


def test_a_module_tree_that_is_huge_written_out(tmp_path: Path) -> None:
    module = fake_module("models.common", "Conv", {}, {})
    for _ in range(60):  # 2^60 modules, and not one tensor
        module = fake_module("models.common", "Conv", {}, {"a": module, "b": module})
    model = fake_detector()
    model._modules["0"] = module
    with pytest.raises(UserError, match="too large"):
        read_checkpoint(save_fake(tmp_path / "x.pt", {"model": model}))


def test_numpy_object_array_is_refused(tmp_path: Path) -> None:
    root = {"model": fake_detector(), "best_fitness": np.array([{}, None], dtype=object)}
    assert_refused(save_fake(tmp_path / "x.pt", root), "dtype 'O8'")
