"""Writing files for torch out of inert nodes: the way back from reading them."""

from __future__ import annotations

import io
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch

from utils.checkpoints.archive import TorchArchive
from utils.checkpoints.pickling import ALIGNMENT, torch_file, write_pickle
from utils.checkpoints.unpickle import Global, Node, Storage, read_pickle

PLAIN = {
    "none": None, "flags": [True, False],
    "numbers": (0, 1, 255, 256, 65535, -1, 2**31 - 1, 2**31, -(2**31), -(2**31) - 1, -(2**70), 2**200),
    "floats": (1.5, -0.0, 1e300, float("inf")),
    "text": "größe 🚲", "nested": [[], {}, (), [(1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)]],
    "long": list(range(3000)), 7: "integer key",
    "texts": [str(n % 400) for n in range(800)],  # more than 256 of them, each twice
}  # fmt: skip


def test_plain_values_are_read_back_by_python_and_by_us() -> None:
    data = write_pickle(PLAIN)
    assert pickle.loads(data) == PLAIN == read_pickle(data)


def test_objects_are_made_as_python_makes_them() -> None:
    data = write_pickle(
        [
            Node("collections.OrderedDict", (), items={"a": 1}),
            Node("builtins.set", ([1, 2],)),
            Global("io.BytesIO"),
        ]
    )
    assert pickle.loads(data) == [OrderedDict(a=1), {1, 2}, io.BytesIO]
    bare = pickle.loads(write_pickle(Node(f"{__name__}.Strict", (), {"given": 1})))
    assert vars(bare) == {"given": 1}


class Strict:
    """Its constructor is never called."""

    def __init__(self) -> None:
        raise AssertionError


def same(a: Any, b: Any) -> bool:
    if isinstance(a, Node) and isinstance(b, Node):
        parts = zip((a.name, a.args, a.state, a.items), (b.name, b.args, b.state, b.items))
        return all(same(left, right) for left, right in parts)
    if isinstance(a, dict) and isinstance(b, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and type(a) is type(b) and all(map(same, a, b))
    return type(a) is type(b) and bool(a == b)


def test_an_official_file_is_written_as_it_was_read(shared: Path) -> None:
    with (shared / "weights" / "yolov5n-v6.0.pt").open("rb") as file:
        original = TorchArchive(file).read_pickle_bytes()
    root = read_pickle(original)
    data = write_pickle(root)
    assert same(read_pickle(data), root) and len(data) < len(original)


@pytest.mark.parametrize(
    "tensor",
    [
        torch.rand(3, 4), torch.rand(3, 4).half(), torch.rand(2, 3).t(), torch.rand(10)[3:5], torch.tensor(7),
        torch.empty(0, 3), torch.tensor([True, False]), torch.arange(4, dtype=torch.uint8),
        torch.nn.Parameter(torch.rand(2), requires_grad=False), torch.nn.Parameter(torch.rand(2)),
    ],
)  # fmt: skip
def test_tensors_in_torch_and_by_us(tensor: torch.Tensor, tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    path.write_bytes(torch_file({"a": tensor, "b": tensor}))
    for mapped in (False, True):
        found = torch.load(path, weights_only=True, mmap=mapped)["a"]
        assert torch.equal(found, tensor) and found.dtype == tensor.dtype and type(found) is type(tensor)
        assert found.requires_grad == tensor.requires_grad
    with path.open("rb") as file:
        archive = TorchArchive(file)
        assert torch.equal(archive.tensor(read_pickle(archive.read_pickle_bytes())["b"]), tensor)


def test_tensors_can_be_mapped_into_memory(tmp_path: Path) -> None:
    (tmp_path / "x.pt").write_bytes(torch_file([torch.rand(n) for n in range(1, 6)]))
    with zipfile.ZipFile(tmp_path / "x.pt") as archive:
        data = (tmp_path / "x.pt").read_bytes()
        for info in archive.infolist():
            head = data[info.header_offset : info.header_offset + 30]
            begin = info.header_offset + 30 + int.from_bytes(head[26:28], "little")
            assert (begin + int.from_bytes(head[28:30], "little")) % ALIGNMENT == 0


@pytest.mark.parametrize("value", [b"raw", {1, 2}, object(), 1j, [Path()]])
def test_what_no_checkpoint_has_is_refused(value: Any) -> None:
    with pytest.raises(TypeError, match="no place"):
        write_pickle(value)


def test_a_storage_is_a_reference() -> None:
    storage = Storage("HalfStorage", "12", 34)
    assert read_pickle(write_pickle(storage)) == storage
