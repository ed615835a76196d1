"""Checkpoint files that are damaged or hostile: refused with one line, and nothing in them runs."""

from __future__ import annotations

import io
import os
import pickle
import random
import struct
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.utils.checkpoints.checkpoint_files import content, refuse
from utils.checkpoints.files import read_checkpoint, write_checkpoint
from utils.errors import UserError


@pytest.fixture(scope="module")
def official_bytes(official_weights: Path) -> bytes:
    return official_weights.read_bytes()


def archive(path: Path, pickled: bytes, storages: dict[str, bytes] | None = None, **options: Any) -> Path:
    """A checkpoint zip around any pickle."""
    with zipfile.ZipFile(path, "w", **options) as file:
        file.writestr("archive/data.pkl", pickled)
        for key, data in (storages or {}).items():
            file.writestr(f"archive/data/{key}", data)
    return path


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
        (0, (0, 1 << 39, 1 << 39), (1, 1, 1), "a tensor of 0x549755813888x549755813888 elements"),
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
    dice, outcomes = random.Random(0), set()
    for _ in range(600):
        damaged = bytearray(data)
        for _ in range(dice.choice((1, 1, 2, 8))):
            damaged[dice.randrange(len(damaged))] = dice.randrange(256)
        path.write_bytes(damaged)
        outcomes.add(read_or_refuse(path))
    assert False in outcomes


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
    path, dice, outcomes = tmp_path / "x.pt", random.Random(2), set()
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
        outcomes.add(read_or_refuse(path))
    assert False in outcomes


def test_flipped_bytes_of_safetensors(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    write_checkpoint(path, content())
    data, dice, outcomes = path.read_bytes(), random.Random(3), set()
    for _ in range(300):
        damaged = bytearray(data)
        damaged[dice.randrange(len(damaged))] = dice.randrange(256)
        path.write_bytes(damaged)
        outcomes.add(read_or_refuse(path))
    assert False in outcomes
