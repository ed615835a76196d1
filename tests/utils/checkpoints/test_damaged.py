"""Checkpoint files that are damaged or hostile: refused with one line, and nothing in them runs."""

from __future__ import annotations

import io
import json
import os
import pickle
import random
import struct
import tracemalloc
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.utils.checkpoints.checkpoint_files import assert_refused, content
from tests.utils.checkpoints.official_files import fake_module, save_fake
from utils.checkpoints.archive import TorchArchive
from utils.checkpoints.files import read_checkpoint, write_checkpoint
from utils.checkpoints.plain import PlainReader
from utils.checkpoints.unpickle import RefusedError, read_pickle
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
    assert_refused(tmp_path / "best.pt", r"refuses global 'posix.system'")
    archive(tmp_path / "own.pt", pickle.dumps({"format": "lean5", "version": 1, "model": Hostile(canary)}))
    assert_refused(tmp_path / "own.pt", r"refuses global 'posix.system'")
    assert not canary.exists()


@pytest.mark.filterwarnings("ignore:.torch.jit:FutureWarning")
def test_files_that_are_no_checkpoints(tmp_path: Path, official_bytes: bytes) -> None:
    path = tmp_path / "x.pt"
    assert_refused(path, "not found")
    assert_refused(tmp_path, "is a folder")
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
        assert_refused(path, message)
    torch.jit.save(torch.jit.script(torch.nn.ReLU()), path)
    assert_refused(path, "TorchScript program")


def test_strange_zips(tmp_path: Path) -> None:
    path, good = tmp_path / "x.pt", pickle.dumps({"format": "lean5"}, 2)
    assert_refused(archive(path, good, compression=zipfile.ZIP_DEFLATED), "compressed")
    with zipfile.ZipFile(path, "w") as file, pytest.warns(UserWarning, match="Duplicate"):
        file.writestr("archive/data.pkl", good)
        file.writestr("archive/data.pkl", good)
    assert_refused(path, "two members of the same name")
    for names in (("data.pkl",), ("a/b/data.pkl",), ("a/data.pkl", "b/data.pkl"), ("readme.txt",)):
        with zipfile.ZipFile(path, "w") as file:
            for name in names:
                file.writestr(name, good)
        assert_refused(path, "exactly one data.pkl")
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("a/data.pkl", good)
        file.writestr("a/byteorder", "big")
    assert_refused(path, "big-endian")
    # one stored megabyte that a forged directory lists a hundred times
    archive(path, good, {str(i): b"" for i in range(100)})
    data = bytearray(path.read_bytes())
    at = data.find(b"PK\x01\x02")
    while at >= 0:
        data[at + 20 : at + 28] = struct.pack("<II", 1 << 20, 1 << 20)
        at = data.find(b"PK\x01\x02", at + 4)
    path.write_bytes(data)
    assert_refused(path, "larger than the file|truncated or damaged")


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
        assert_refused(
            archive(path, tensor_pickle("FloatStorage", "0", 6, offset, size, stride), storage), message
        )
    for numel, message in [(5, "24 bytes"), (7, "24 bytes"), (1 << 50, "out of range"), (-6, "out of range")]:
        assert_refused(
            archive(path, tensor_pickle("FloatStorage", "0", numel, 0, (1,), (1,)), storage), message
        )
    for key in ("1", "../data.pkl", "", "a" * 1000):
        assert_refused(
            archive(path, tensor_pickle("FloatStorage", key, 6, 0, (1,), (1,)), storage), "is missing"
        )
    bools = tensor_pickle("BoolStorage", "0", 2, 0, (2,), (1,))
    assert_refused(archive(path, bools, {"0": b"\1\2"}), "no booleans")


def test_truncation_at_many_places(tmp_path: Path, official_bytes: bytes) -> None:
    path = tmp_path / "cut.pt"
    size = len(official_bytes)
    for cut in [*range(1, 40), *range(100, size, size // 40), *range(size - 60, size)]:
        path.write_bytes(official_bytes[:cut])
        assert_refused(path, "truncated or damaged|not a checkpoint")


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


# ---- files that are small and want much ----


def plain_pickle(**values: Any) -> bytes:
    root = {"format": "lean5", "version": 1, "model": {}, "yaml": {}, "nc": 0, "names": {}} | values
    return pickle.dumps(root, 4)


def laughs(first: Any, levels: int, width: int = 10) -> Any:
    """A list of lists of lists, each of them the same one `width` times: width ** levels of `first`."""
    for _ in range(levels):
        first = [first] * width
    return first


SHARED: dict[str, Callable[[], Any]] = {
    "lists": lambda: laughs([], 9),
    "empty sets": lambda: laughs(set(), 5),
    "arrays": lambda: laughs(np.zeros(1 << 20, np.uint8), 4),
    "numbers of numpy": lambda: laughs(np.float64(1), 6),
    "bytes of protocol 2": lambda: laughs(LatinBytes("a" * 100_000), 4),
    "long paths": lambda: laughs(PathOf(("a" * 100_000,) * 50), 3),
    "paths of many parts": lambda: PathOf(("a" * 100_000,) * 1000),
    "long keys": lambda: laughs({"k" * 30_000: 1}, 5),
}


class LatinBytes:
    def __init__(self, text: str) -> None:
        self.text = text

    def __reduce__(self) -> Any:
        return __import__("_codecs").encode, (self.text, "latin1")


class PathOf:
    def __init__(self, parts: tuple[str, ...]) -> None:
        self.parts = parts

    def __reduce__(self) -> Any:
        return __import__("pathlib").PurePosixPath, self.parts


@pytest.mark.parametrize("kind", SHARED)
def test_shared_parts_do_not_multiply(tmp_path: Path, kind: str) -> None:
    """A billion laughs: what a pickle says once and uses ten thousand times is not copied each time."""
    path = archive(tmp_path / "x.pt", plain_pickle(resume=SHARED[kind]()))
    tracemalloc.start()
    try:
        assert_refused(path, "nested too deeply, too large|where a plain value is needed")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4 * (1 << 20) + 120 * path.stat().st_size


def test_shared_modules_do_not_multiply(tmp_path: Path) -> None:
    """Twenty levels of a module that holds the next one twice, with tensors and long names."""
    for children, tensors in ((2, {}), (1, {"w" * 100_000: torch.ones(1)})):
        module = fake_module("models.common", "Conv", tensors, {})
        for _ in range(20):
            module = fake_module("models.common", "C3", {}, {str(i): module for i in range(children)})
        root = fake_module("models.yolo", "Model", {}, {"m": module}, yaml={}, names=["a"], nc=1)
        assert_refused(save_fake(tmp_path / "x.pt", {"model": root}), "module tree is too deep, too large")


def test_one_storage_has_one_dtype(tmp_path: Path) -> None:
    """Read anew for each dtype, a file would take ten times its size."""
    pair = [
        tensor_pickle(kind, "0", n, 0, (1,), (1,)) for kind, n in (("FloatStorage", 6), ("IntStorage", 6))
    ]
    first, second = (
        data[2:-1].replace(b"X\x05\0\0\0model", b"X\x05\0\0\0" + name)
        for data, name in zip(pair, (b"model", b"modex"))
    )
    assert first and second
    path = archive(tmp_path / "x.pt", b"\x80\x02" + first + second + b"\x86.", {"0": bytes(24)})
    with path.open("rb") as file:
        container = TorchArchive(file)
        both = read_pickle(container.read_pickle_bytes())
        reader = PlainReader(container)
        with pytest.raises(RefusedError, match="described in two ways"):
            [reader.read(part, "part") for part in both]


def test_tensors_whose_elements_share_memory(tmp_path: Path) -> None:
    storage = {"0": bytes(36)}
    for size, stride in (
        ((2, 2), (1, 1)),
        ((3, 3), (2, 1)),
        ((2,), (0,)),
        ((2, 3), (0, 1)),
        ((2, 2, 2), (4, 1, 1)),
    ):
        data = tensor_pickle("FloatStorage", "0", 9, 0, size, stride)
        assert_refused(archive(tmp_path / "x.pt", data, storage), "share memory")
    for size, stride in (((3, 3), (1, 3)), ((1, 3), (0, 1)), ((2, 1, 2), (2, 99, 1)), ((2, 2), (4, 2))):
        data = tensor_pickle("FloatStorage", "0", 9, 0, size, stride)
        assert read_checkpoint(archive(tmp_path / "x.pt", data, storage))["model"]["w"].shape == size


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_other_kinds_of_tensors_are_refused(tmp_path: Path) -> None:
    """Sparse, quantised, nested, meta and complex ones, and those of subclasses: none is rebuilt."""
    path = tmp_path / "x.pt"
    dense = torch.eye(3)
    kinds = {
        "sparse coo": dense.to_sparse(),
        "sparse csr": dense.to_sparse_csr(),
        "meta": torch.empty(3, device="meta"),
        "complex": torch.zeros(3, dtype=torch.complex64),
        "float8": dense.to(torch.float8_e4m3fn),
        "quantised": torch.quantize_per_tensor(dense, 0.1, 0, torch.qint8),
        "conjugate": torch.zeros(3, dtype=torch.complex64).conj(),
    }
    for tensor in kinds.values():
        torch.save({"format": "lean5", "version": 1, "model": {"w": tensor}}, path)
        assert_refused(path, "refuses global|damaged")


def test_sizes_that_only_the_directory_tells(tmp_path: Path) -> None:
    """A member that claims terabytes, also in the fields of zip64, and a directory that claims gigabytes."""
    path = archive(tmp_path / "x.pt", plain_pickle(), {"0": bytes(64)})
    data = path.read_bytes()
    entry = data.rfind(b"PK\x01\x02")
    sizes = struct.pack("<II", 0xFFFFFFFF, 0xFFFFFFFF)
    extra = struct.pack("<HHQQ", 1, 16, 1 << 45, 1 << 45)
    end = data.rfind(b"PK\x05\x06")
    name = int.from_bytes(data[entry + 28 : entry + 30], "little")
    head = data[entry : entry + 20] + sizes + data[entry + 28 : entry + 30] + struct.pack("<H", len(extra))
    forged = head + data[entry + 32 : entry + 46 + name] + extra
    size, start = struct.unpack_from("<II", data, end + 12)
    tail = data[end : end + 12] + struct.pack("<II", size + len(extra), start) + data[end + 20 :]
    path.write_bytes(data[:entry] + forged + tail)
    assert_refused(path, "larger than the file")
    path.write_bytes(data[: end + 12] + struct.pack("<I", 1 << 30) + data[end + 16 :])
    assert_refused(path, "directory cannot be read|directory of")
    with zipfile.ZipFile(path, "w") as file:
        for number in range(300):
            file.writestr(f"{number:060000}", b"")
    assert_refused(path, "directory of 1")


def test_overlapping_members_bring_nothing(tmp_path: Path) -> None:
    """Many members that are one and the same place in the file, as the smallest zip bombs have them."""
    path = archive(tmp_path / "x.pt", plain_pickle(), {str(i): bytes(1000) for i in range(50)})
    data = bytearray(path.read_bytes())
    first = data.find(b"PK\x01\x02")
    places, at = [], first
    while at >= 0:
        places.append(at)
        at = data.find(b"PK\x01\x02", at + 4)
    for at in places[2:]:
        data[at + 42 : at + 46] = data[places[1] + 42 : places[1] + 46]
    path.write_bytes(data)
    assert_refused(path, "damaged")


# ---- safetensors ----


def safetensors_file(
    path: Path, header: bytes | dict[str, Any], data: bytes = b"", length: int | None = None
) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
    return path


def entry(dtype: str = "F32", shape: Any = (1,), offsets: Any = (0, 4)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def test_headers_of_safetensors(tmp_path: Path) -> None:
    """Lengths that overflow, a header of 100 MB, duplicate keys, wrong sizes, overlaps and holes."""
    path, four = tmp_path / "x.safetensors", bytes(4)
    lengths = (1 << 63, (1 << 64) - 1, 100 << 20, 0, 1, 3)
    for length in lengths:
        assert_refused(safetensors_file(path, {"w": entry()}, four, length), "header|damaged")
    with path.open("wb") as file:
        file.write(struct.pack("<Q", 99_000_000))
        file.truncate(100 << 20)
    assert_refused(path, "header would have 99000000 bytes")
    one = json.dumps(entry()).encode()
    twice = b'{"w":%b,"w":%b}' % (one, one)
    assert_refused(safetensors_file(path, twice, four), "two entries of the same name")
    twice = b'{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4],"shape":[2]}}'
    assert_refused(safetensors_file(path, twice, four), "two entries of the same name")
    for wrong in (
        entry(shape=(2,)), entry(shape=(1 << 62, 4)), entry(shape=(1 << 32, 1 << 32)), entry(shape=(-1,)),
        entry(shape=(0, 1 << 63)), entry(offsets=(0, 8)), entry(offsets=(4, 0)), entry(offsets=(0, 1 << 62)),
        entry(dtype="F8_E4M3", offsets=(0, 1)), entry(dtype="C64", offsets=(0, 8)), entry(dtype="x"),
        {"dtype": "F32"}, [], "w", None, entry() | {"shape": "1"},
    ):  # fmt: skip
        assert_refused(safetensors_file(path, {"w": wrong}, four), "damaged|dtype")
    assert_refused(
        safetensors_file(path, {"v": entry(), "w": entry()}, four), "damaged"
    )  # one over the other
    assert_refused(safetensors_file(path, {"v": entry(), "w": entry(offsets=(8, 12))}, bytes(12)), "damaged")
    for text in (b"[" * 100_000, b"[]", b"1" * 10_000, b'{"__metadata__":{"lean5":1}}', b"\xff\xfe", b'"w"'):
        assert_refused(safetensors_file(path, text), "damaged|no Lean5")


def test_metadata_of_safetensors_brings_no_further_keys(tmp_path: Path) -> None:
    description = {"yaml": {}, "names": [], "nc": 0, "resume": {"epoch": 1}, "optimizer": {}}
    header = {"__metadata__": {"lean5": json.dumps(description)}, "w": entry()}
    found = read_checkpoint(safetensors_file(tmp_path / "x.safetensors", header, bytes(4)))
    assert "resume" not in found and found["optimizer"] is None
