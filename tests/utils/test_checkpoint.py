"""Checkpoint files as wholes: official, our own, damaged and hostile."""

from __future__ import annotations

import io
import json
import os
import pickle
import random
import struct
import subprocess
import sys
import textwrap
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from utils.checkpoint import inference_state, read_checkpoint, write_checkpoint
from utils.errors import UserError

REPOSITORY = Path(__file__).resolve().parents[2]


def content(**changes: Any) -> dict[str, Any]:
    """A small checkpoint with every kind of value."""
    torch.manual_seed(0)
    state = {
        "model.0.conv.weight": torch.randn(4, 3, 3, 3),
        "model.0.bn.num_batches_tracked": torch.tensor(7),
        "model.1.anchors": torch.tensor([float("nan"), float("inf"), -0.0]),
        "model.2.half": torch.randn(5).half(),
        "model.3.bfloat16": torch.randn(5).bfloat16(),
        "model.4.empty": torch.empty(0, 3),
        "model.5.mask": torch.tensor([True, False]),
        "model.6.channels_last": torch.randn(1, 4, 3, 3).to(memory_format=torch.channels_last),
    }
    values = {
        "model": state, "ema": None, "yaml": {"nc": 2, "backbone": [[-1, 1, "Conv", [4, 3]]]},
        "names": {0: "cat", 1: "dog"}, "nc": 2, "stride": [8.0], "anchors": [[[1.0, 2.0]]], "epoch": 3,
        "best_fitness": 0.25, "train_args": {"imgsz": 64, "freeze": (0,), "cfg": None}, "hyp": {"lr0": 0.01},
        "optimizer": {"state": {0: {"momentum_buffer": torch.ones(2)}}, "param_groups": [{"params": [0]}]},
        "date": "2024-01-01",
        "resume": {"rng": torch.get_rng_state(), "big": 2**127 + 1, "nan": float("nan")},
    }  # fmt: skip
    return {**values, **changes}


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
        from utils.checkpoint import write_checkpoint
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
        ({"names": ["cat"]}, "names are missing"),
        ({"names": {0: 1}}, "no mapping from class number"),
        ({"yaml": None}, "yaml, nc or names"),
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


@pytest.fixture(scope="module")
def official_bytes(official_weights: Path) -> bytes:
    return official_weights.read_bytes()


def test_official_file_converts(official_weights: Path, tmp_path: Path) -> None:
    checkpoint = read_checkpoint(official_weights)
    for name in ("a.pt", "a.safetensors"):
        write_checkpoint(tmp_path / name, checkpoint)
        again = read_checkpoint(tmp_path / name)
        assert same(again["model"], {key: checkpoint["model"][key] for key in again["model"]})
        assert again["names"] == checkpoint["names"]


class Stub:
    """Stands for a class of `module`, so that a file of that class can be written here."""


def stub(module: str, name: str, **attributes: Any) -> Any:
    kind = type(name, (Stub,), {"__module__": module, "__qualname__": name})
    instance = kind()
    instance.__dict__.update(attributes)
    return instance


def fake_module(
    module: str, name: str, tensors: dict[str, Any], children: dict[str, Any], **extra: Any
) -> Any:
    return stub(
        module,
        name,
        _parameters=OrderedDict(tensors),
        _buffers=OrderedDict(),
        _modules=OrderedDict(children),
        **extra,
    )


def fake_detector(name: str = "DetectionModel", **changes: Any) -> Any:
    conv = fake_module("models.common", "Conv", {"weight": torch.nn.Parameter(torch.ones(2, 2).half())}, {})
    extra = {"yaml": {"nc": 1}, "names": ["x"], "nc": 1, "stride": torch.tensor([8.0])} | changes
    return fake_module(
        "models.yolo", name, {}, {"0": conv}, **{k: v for k, v in extra.items() if v is not Stub}
    )


def save_fake(path: Path, root: Any) -> Path:
    """torch.save for objects whose classes exist nowhere: the pickler is told to believe in them."""

    class Pickler(pickle._Pickler):  # type: ignore[name-defined]
        def save_global(self, obj: Any, name: str | None = None) -> None:
            if isinstance(obj, type) and issubclass(obj, Stub):
                self.write(b"c" + f"{obj.__module__}\n{obj.__qualname__}\n".encode())
                self.memoize(obj)
            else:
                super().save_global(obj, name)

        dispatch = {**pickle._Pickler.dispatch, type: save_global}  # type: ignore[attr-defined]

    class Module:
        """What torch.save asks for of a pickle module."""

        __name__ = "pickle"

    Module.Pickler = Pickler  # type: ignore[attr-defined]
    torch.save(root, path, pickle_module=Module)
    return path


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


# --- damage and malice ---


def archive(path: Path, pickled: bytes, storages: dict[str, bytes] | None = None, **options: Any) -> Path:
    """A checkpoint zip around any pickle."""
    with zipfile.ZipFile(path, "w", **options) as file:
        file.writestr("archive/data.pkl", pickled)
        for key, data in (storages or {}).items():
            file.writestr(f"archive/data/{key}", data)
    return path


def refuse(path: Path, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        read_checkpoint(path)
    text = str(caught.value)
    assert text.startswith((f"{path}: ", f"checkpoint '{path}'"))
    assert len(text) < len(str(path)) + 400
    assert text.isprintable()


class Hostile:
    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (f"touch {self.canary}",)


def test_hostile_checkpoint_runs_nothing(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    torch.save({"model": Hostile(canary), "format": "lean5"}, tmp_path / "best.pt")
    refuse(tmp_path / "best.pt", r"refuses global 'posix.system'")
    archive(tmp_path / "own.pt", pickle.dumps({"format": "lean5", "version": 1, "model": Hostile(canary)}))
    refuse(tmp_path / "own.pt", r"refuses global 'posix.system'")
    assert not canary.exists()


def test_numpy_object_array_is_refused(tmp_path: Path) -> None:
    root = {"model": fake_detector(), "best_fitness": np.array([{}, None], dtype=object)}
    refuse(save_fake(tmp_path / "x.pt", root), "dtype 'O8'")


@pytest.mark.filterwarnings("ignore:.torch.jit:FutureWarning")
def test_files_that_are_no_checkpoints(tmp_path: Path, official_bytes: bytes) -> None:
    path = tmp_path / "x.pt"
    refuse(path, "not found")
    refuse(tmp_path, "is a folder")
    legacy = io.BytesIO()
    torch.save({"a": torch.ones(2)}, legacy, _use_new_zipfile_serialization=False)
    for data, message in [
        (b"", "is empty"),
        (b"\0" * 1000, "is not a checkpoint"),
        (b"\x89PNG\r\n\x1a\n", "is not a checkpoint"),
        (b"<!DOCTYPE html><html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1", "git lfs pull"),
        (legacy.getvalue(), "torch before 1.6"),
        (b"PK\x03\x04" + b"\0" * 50, "truncated or damaged"),
        (official_bytes[100:], "is not a checkpoint"),
    ]:
        path.write_bytes(data)
        refuse(path, message)
    torch.jit.save(torch.jit.script(torch.nn.ReLU()), path)
    refuse(path, "TorchScript program")


def test_strange_zips(tmp_path: Path) -> None:
    path, good = tmp_path / "x.pt", pickle.dumps({"format": "lean5"}, 2)
    refuse(archive(path, good, compression=zipfile.ZIP_DEFLATED), "compressed")
    with zipfile.ZipFile(path, "w") as file, pytest.warns(UserWarning, match="Duplicate"):
        file.writestr("archive/data.pkl", good)
        file.writestr("archive/data.pkl", good)
    refuse(path, "two members of the same name")
    for names in (("data.pkl",), ("a/b/data.pkl",), ("a/data.pkl", "b/data.pkl"), ("readme.txt",)):
        with zipfile.ZipFile(path, "w") as file:
            for name in names:
                file.writestr(name, good)
        refuse(path, "exactly one data.pkl")
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("a/data.pkl", good)
        file.writestr("a/byteorder", "big")
    refuse(path, "big-endian")
    # one stored megabyte that a forged directory lists a hundred times
    archive(path, good, {str(i): b"" for i in range(100)})
    data = bytearray(path.read_bytes())
    at = data.find(b"PK\x01\x02")
    while at >= 0:
        data[at + 20 : at + 28] = struct.pack("<II", 1 << 20, 1 << 20)
        at = data.find(b"PK\x01\x02", at + 4)
    path.write_bytes(data)
    refuse(path, "larger than the file|truncated or damaged")


def tensor_pickle(kind: str, key: str, numel: int, offset: Any, size: Any, stride: Any) -> bytes:
    """A checkpoint of our own format with one tensor of any geometry."""

    class Pickler(pickle.Pickler):
        def persistent_id(self, obj: Any) -> Any:
            return obj.value if isinstance(obj, Reference) else None

    class Reference:
        value = ("storage", getattr(torch, kind), key, "cpu", numel)

    class Tensor:
        def __reduce__(self) -> Any:
            return torch._utils._rebuild_tensor_v2, (Reference(), offset, size, stride, False, OrderedDict())

    root = {"format": "lean5", "version": 1, "model": {"w": Tensor()}, "yaml": {}, "nc": 0, "names": {}}
    buffer = io.BytesIO()
    Pickler(buffer, 2).dump(root)
    return buffer.getvalue()


def test_tensor_geometry_is_checked(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    storage = {"0": np.arange(6, dtype="<f4").tobytes()}
    good = archive(path, tensor_pickle("FloatStorage", "0", 6, 1, (2, 2), (2, 1)), storage)
    assert read_checkpoint(good)["model"]["w"].tolist() == [[1.0, 2.0], [3.0, 4.0]]
    cases: list[tuple[Any, Any, Any, str]] = [
        (0, (7,), (1,), "outside its storage"),
        (3, (2, 2), (2, 1), "outside its storage"),  # last element is 3 + 2 + 1 = 6, one too far
        (0, (2, 2), (5, 1), "outside its storage"),
        (0, (1 << 39, 1 << 39), (0, 0), "outside its storage"),  # strides of 0 would make it huge
        (0, (7,), (0,), "outside its storage"),
        (-1, (2,), (1,), "out of range"),
        (0, (-2,), (1,), "out of range"),
        (5, (2,), (-1,), "out of range"),
        (1 << 62, (1,), (1,), "out of range"),
        (0, (2, 2), (1,), "unequal numbers"),
        (0, (1,) * 100, (1,) * 100, "unequal numbers"),
        (0, (True,), (1,), "out of range"),
        (0, ("2",), (1,), "out of range"),
        (0, [2], [1], "describe no tensor"),
        (None, (2,), (1,), "describe no tensor"),
        (0, (0, 1 << 60), (1, 1), "out of range"),
    ]
    for offset, size, stride, message in cases:
        refuse(archive(path, tensor_pickle("FloatStorage", "0", 6, offset, size, stride), storage), message)
    for numel, message in [(5, "24 bytes"), (7, "24 bytes"), (1 << 50, "out of range"), (-6, "out of range")]:
        refuse(archive(path, tensor_pickle("FloatStorage", "0", numel, 0, (1,), (1,)), storage), message)
    for key in ("1", "../data.pkl", "", "a" * 1000):
        refuse(archive(path, tensor_pickle("FloatStorage", key, 6, 0, (1,), (1,)), storage), "is missing")
    bools = tensor_pickle("BoolStorage", "0", 2, 0, (2,), (1,))
    refuse(archive(path, bools, {"0": b"\1\2"}), "no booleans")


def test_truncation_at_many_places(tmp_path: Path, official_bytes: bytes) -> None:
    path = tmp_path / "cut.pt"
    size = len(official_bytes)
    for cut in [*range(1, 40), *range(100, size, size // 40), *range(size - 60, size)]:
        path.write_bytes(official_bytes[:cut])
        refuse(path, "truncated or damaged|not a checkpoint")


def read_or_refuse(path: Path) -> bool:
    try:
        read_checkpoint(path)
    except UserError as error:
        assert str(error).isprintable()
        return False
    return True


def test_flipped_bytes_give_a_checkpoint_or_one_line(tmp_path: Path) -> None:
    """Anywhere in a file: headers, directory, pickle, tensors (the checksum finds those)."""
    path = tmp_path / "x.pt"
    write_checkpoint(path, content())
    data = path.read_bytes()
    dice = random.Random(0)
    for _ in range(600):
        damaged = bytearray(data)
        for _ in range(dice.choice((1, 1, 2, 8))):
            damaged[dice.randrange(len(damaged))] = dice.randrange(256)
        path.write_bytes(damaged)
        read_or_refuse(path)


def test_flipped_bytes_of_the_pickle(tmp_path: Path, official_weights: Path) -> None:
    """The checksum made right again, so that the damage reaches the interpreter and what reads its result."""
    path = tmp_path / "x.pt"
    write_checkpoint(path, content())
    dice, outcomes = random.Random(1), set()
    with zipfile.ZipFile(path) as file:
        members = {name: file.read(name) for name in file.namelist()}
    (name,) = (name for name in members if name.endswith("data.pkl"))
    for _ in range(600):
        damaged = bytearray(members[name])
        for _ in range(dice.choice((1, 1, 2, 8))):
            damaged[dice.randrange(len(damaged))] = dice.randrange(256)
        with zipfile.ZipFile(path, "w") as file:
            for member, data in members.items():
                file.writestr(member, bytes(damaged) if member == name else data)
        outcomes.add(read_or_refuse(path))
    assert outcomes == {True, False}


def test_flipped_bytes_of_an_official_pickle(tmp_path: Path, official_weights: Path) -> None:
    path, dice = tmp_path / "x.pt", random.Random(2)
    with zipfile.ZipFile(official_weights) as file:
        members = {name: file.read(name) for name in file.namelist()}
    pickled = members["archive/data.pkl"]
    for _ in range(60):
        damaged = bytearray(pickled)
        for _ in range(dice.choice((1, 3, 30))):
            damaged[dice.randrange(len(damaged))] = dice.randrange(256)
        with zipfile.ZipFile(path, "w") as file:
            for member, data in members.items():
                file.writestr(member, bytes(damaged) if member == "archive/data.pkl" else data)
        read_or_refuse(path)


def test_flipped_bytes_of_safetensors(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    write_checkpoint(path, content())
    data, dice = path.read_bytes(), random.Random(3)
    for _ in range(300):
        damaged = bytearray(data)
        damaged[dice.randrange(len(damaged))] = dice.randrange(256)
        path.write_bytes(damaged)
        read_or_refuse(path)
