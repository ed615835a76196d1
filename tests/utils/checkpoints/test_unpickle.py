"""The interpreter on single pickles: what it accepts, and that hostile ones run nothing."""

from __future__ import annotations

import builtins
import collections
import contextlib
import copyreg
import os
import pickle
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from utils.checkpoints.unpickle import (
    MAX_KEY_BITS,
    MAX_PICKLE_BYTES,
    MEMORY_AT_LEAST,
    MEMORY_PER_BYTE,
    Global,
    Node,
    RefusedError,
    Storage,
    read_pickle,
)


class Calls:
    """Pickles as a call of `function` with `arguments`."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.pair = (function, arguments)

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.pair


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_plain_values_round_trip(protocol: int) -> None:
    value = {
        "none": None, "flags": [True, False],
        "numbers": (0, 255, 65535, -1, 2**31, -(2**70), 1.5, float("inf")),
        "text": "größe", "raw": b"\x00\xff", "nested": [[], {}, (), [(1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)]],
        "long": list(range(3000)), 7: "integer key",
    }  # fmt: skip
    if protocol == 2:
        del value["raw"]  # protocol 2 has no bytes: it writes a call of _codecs.encode
    assert read_pickle(pickle.dumps(value, protocol)) == value


def test_sets_and_shared_parts() -> None:
    shared = [1]
    assert read_pickle(pickle.dumps({1, 2}, 4)) == {1, 2}
    assert read_pickle(pickle.dumps(frozenset({3}), 4)) == frozenset({3})
    first, second = read_pickle(pickle.dumps([shared, shared], 2))
    assert first is second


def test_objects_become_nodes() -> None:
    node = read_pickle(pickle.dumps(collections.OrderedDict(a=1), 2))
    assert isinstance(node, Node)
    assert (node.name, node.args, node.items) == ("collections.OrderedDict", (), {"a": 1})
    scalar = read_pickle(pickle.dumps(np.float64(2.5), 2))
    assert scalar.name in ("numpy._core.multiarray.scalar", "numpy.core.multiarray.scalar")
    assert scalar.args[0].name == "numpy.dtype"
    old_set = read_pickle(b"\x80\x02c__builtin__\nset\n]\x85R.")  # as Python 2 names it
    assert (old_set.name, old_set.args) == ("builtins.set", ([],))


def test_storage_reference() -> None:
    # PROTO 2, MARK, 'storage', torch.HalfStorage, '7', 'cpu', 54, TUPLE, BINPERSID, STOP
    text = b"".join(b"X" + struct.pack("<I", len(t)) + t for t in (b"7", b"cpu"))
    data = b"\x80\x02(X\x07\0\0\0storagectorch\nHalfStorage\n" + text + b"K\x36tQ."
    assert read_pickle(data) == Storage("HalfStorage", "7", 54)
    with pytest.raises(RefusedError, match="no tensor storage"):
        read_pickle(b"\x80\x02K\x01\x85Q.")


def canary_calls(canary: Path) -> dict[str, tuple[Any, str]]:
    """Objects whose unpickling would create the file `canary`, and the global that must be named."""
    touch = f"open({str(canary)!r}, 'w').close()"
    return {
        "os.system": (Calls(os.system, f"touch {canary}"), "posix.system"),
        "eval": (Calls(builtins.eval, touch), "builtins.eval"),
        "exec": (Calls(builtins.exec, touch), "builtins.exec"),
        "open": (Calls(builtins.open, str(canary), "w"), "io.open"),
        "import": (Calls(builtins.__import__, "antigravity"), "builtins.__import__"),
        "getattr": (Calls(builtins.getattr, Calls(builtins.__import__, "os"), "system"), "builtins.getattr"),
        "path method": (Calls(Path.touch, canary), "pathlib.Path.touch"),
        "partial": (Calls(__import__("functools").partial, os.mkdir, str(canary)), "functools.partial"),
        "compile": (Calls(builtins.compile, touch, "x", "exec"), "builtins.compile"),
        "nested": ({"model": [{"a": (Calls(os.system, f"touch {canary}"),)}]}, "posix.system"),
    }


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("kind", sorted(canary_calls(Path("x"))))
def test_hostile_calls_run_nothing(tmp_path: Path, kind: str, protocol: int) -> None:
    canary = tmp_path / "canary"
    thing, name = canary_calls(canary)[kind]
    data = pickle.dumps(thing, protocol).replace(b"__builtin__", b"builtins")
    with pytest.raises(RefusedError) as caught:
        read_pickle(data)
    # protocol 2 writes attributes of attributes as getattr calls
    assert name in str(caught.value) or "getattr" in str(caught.value)
    assert "global" in str(caught.value)
    assert not canary.exists()


def glob(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("torch", "load"), ("torch", "nn.Module.__init__"), ("torch.serialization", "load"),
        ("torch.hub", "load"),
        ("torch.nn.modules.conv", "Conv2d.__init__.__globals__"), ("torch.nn.modules", "os.system"),
        ("models.common", "os.system"), ("models.common", "torch.load"), ("models.yolo.x", "y"),
        ("torch.storage", "_load_from_bytes"), ("torch.jit", "load"), ("torch", "FloatStorage.from_file"),
        ("torch._utils", "_import_dotted_name"), ("numpy", "load"), ("numpy", "memmap"),
        ("numpy", "fromfile"), ("numpy.core.multiarray", "fromfile"), ("collections", "deque"),
        ("collections", "OrderedDict.fromkeys"),
        ("pathlib", "Path.unlink"), ("pathlib", "os"), ("builtins", "type"), ("__builtin__", "eval"),
        ("argparse", "FileType"), ("datetime", "sys"), ("_codecs", "decode"), ("codecs", "open"), ("", ""),
        ("copyreg", "_reconstructor"), ("torch._tensor", "_rebuild_from_type_v2"), ("torch torch", "Size"),
    ],
)  # fmt: skip
def test_globals_outside_the_list_are_named(module: str, name: str) -> None:
    for data in (
        b"\x80\x02" + glob(module, name) + b".",
        b"\x80\x04" + b"".join(b"\x8c" + bytes([len(t)]) + t.encode() for t in (module, name)) + b"\x93.",
    ):
        with pytest.raises(RefusedError) as caught:
            read_pickle(data)
        assert f"{module}.{name}" in str(caught.value)


def test_an_allowed_name_with_a_line_break_or_other_script_is_refused() -> None:
    for name in ("Size\n", "Sizе", "Size ", " Size"):
        raw = name.encode()
        data = b"\x80\x04\x8c\x05torch\x8c" + bytes([len(raw)]) + raw + b"\x93."
        with pytest.raises(RefusedError, match="refuses global") as caught:
            read_pickle(data)
        assert "\n" not in str(caught.value)


ORDERED = glob("collections", "OrderedDict")
TRICKS = {
    "call a module class, then call the result": b"\x80\x02" + glob("models.yolo", "Model") + b")R)R.",
    "call a number": b"\x80\x02K\x01)R.",
    "arguments that are no tuple": b"\x80\x02" + ORDERED + b"]R.",
    "state of a global": b"\x80\x02" + ORDERED + b"}b.",
    "state of a list": b"\x80\x02]}b.",
    "state twice": b"\x80\x02" + ORDERED + b")RK\x01bK\x02b.",
    "items of a global": b"\x80\x02" + glob("models.yolo", "Model") + b"K\x01K\x02s.",
    "items of a module": b"\x80\x02" + glob("models.yolo", "Model") + b")RK\x01K\x02s.",
    "append to a tuple": b"\x80\x02)K\x01a.",
    "append to a dict": b"\x80\x02}K\x01a.",
    "item of a list": b"\x80\x02]K\x00K\x01s.",
    "odd items": b"\x80\x02}(K\x01u.",
    "unhashable key": b"\x80\x02}]K\x01s.",
    "tuple key": b"\x80\x02})K\x01s.",
    "keywords": b"\x80\x04" + ORDERED + b")}K\x01K\x02s\x92.",
    "extension registry 1": b"\x80\x02\x82\x01.",
    "extension registry 2": b"\x80\x02\x83\x01\x00.",
    "extension registry 4": b"\x80\x02\x84\x01\x00\x00\x00.",
    "old instance": b"\x80\x02(ios\nsystem\n.",
    "old object": b"\x80\x02(" + ORDERED + b"o.",
    "text persistent id": b"\x80\x02Pstorage\n.",
    "text integer": b"\x80\x02I1\n.",
    "text long": b"\x80\x02L" + b"9" * 100_000 + b"L\n.",
    "out-of-band buffer": b"\x80\x05\x97.",
    "huge integer": b"\x80\x02\x8b" + struct.pack("<i", 100_000) + b"\x7f" * 100_000 + b".",
    "negative size": b"\x80\x02\x8b" + struct.pack("<i", -5) + b".",
    "text longer than the file": b"\x80\x02X\xff\xff\xff\x7fabc.",
    "bytes longer than the file": b"\x80\x04\x8e" + struct.pack("<Q", 1 << 60) + b"abc.",
    "bytearray longer than the file": b"\x80\x05\x96" + struct.pack("<Q", 1 << 40) + b"abc.",
    "text that is no UTF-8": b"\x80\x02X\x02\0\0\0\xff\xff.",
    "memo that was never put": b"\x80\x02h\x05.",
    "stack underflow": b"\x80\x02\x87.",
    "mark underflow": b"\x80\x02t.",
    "put from an empty stack": b"\x80\x02q\x00.",
    "two values": b"\x80\x02NN.",
    "open mark": b"\x80\x02N(.",
    "no value": b"\x80\x02.",
    "protocol 0": b"N.X",
    "protocol 9": b"\x80\x09N.",
    "no end": b"\x80\x02N",
    "nothing": b"",
    "unknown opcode": b"\x80\x02\xff.",
}


@pytest.mark.parametrize("trick", TRICKS)
def test_tricks_are_refused(trick: str) -> None:
    if trick == "protocol 0":
        assert read_pickle(b"N.") is None  # harmless: no protocol mark, same opcodes
        return
    with pytest.raises(RefusedError) as caught:
        read_pickle(TRICKS[trick])
    assert len(str(caught.value)) < 400


def test_extension_registry_is_not_consulted() -> None:
    copyreg.add_extension("os", "system", 0x7A)
    try:
        with pytest.raises(RefusedError, match="EXT1"):
            read_pickle(b"\x80\x02\x82\x7a(X\x04\0\0\0truetR.")
    finally:
        copyreg.remove_extension("os", "system", 0x7A)


def test_a_huge_memo_index_costs_nothing() -> None:
    # the C unpickler would grow a table of 2^32 entries here
    assert read_pickle(b"\x80\x02Nr\xff\xff\xff\x7f.") is None


def test_deep_nesting_and_cycles_are_read_without_recursion() -> None:
    deep = read_pickle(b"\x80\x02" + b"]" * 20_000 + b"a" * 19_999 + b".")
    assert isinstance(deep, list)
    del deep  # freeing must not overflow the C stack either
    # 20,000 calls inside one another: all the functions first, None, then tuple and call in turn
    nodes = read_pickle(b"\x80\x02" + ORDERED * 20_000 + b"N" + b"\x85R" * 20_000 + b".")
    assert isinstance(nodes, Node)
    del nodes
    cycle = read_pickle(b"\x80\x02]q\x00h\x00a.")
    assert cycle[0] is cycle


def test_calls_are_labels_even_with_odd_arguments() -> None:
    node = read_pickle(b"\x80\x02" + glob("torch._utils", "_rebuild_tensor_v2") + b"N\x85R.")
    assert node.name == "torch._utils._rebuild_tensor_v2"
    assert node.args == (None,)
    assert read_pickle(b"\x80\x02" + glob("models.yolo", "Model") + b".") == Global("models.yolo.Model")


def test_size_limit() -> None:
    with pytest.raises(RefusedError, match="bytes, more than"):
        read_pickle(b"\x80\x02" + b"N" * MAX_PICKLE_BYTES)


# What one to seven bytes make, again and again
SWELLING = {
    "empty sets": b"\x8f",
    "empty dicts": b"}",
    "empty lists": b"]",
    "empty tuples": b")",
    "marks": b"(",
    "memo": b"\x94",
    "references": b"h\0",
    "calls": b"h\0)R",
    "calls with items": b"h\0)RNNs",
    "lists of one": b"]Na",
    "dicts of one": b"}NNs",
    "sets of one": b"\x8f(N\x90",
    "tuples in tuples": b"\x85",
    "floats": b"G\0\0\0\0\0\0\0\0",
    "texts": b"\x8c\x02\xc4\x80",
    "texts of four bytes a letter": b"\x8c\x05\xf0\x9f\x98\x80a",
    "bytes": b"C\x01a",
}


@pytest.mark.parametrize("kind", SWELLING)
def test_memory_is_bounded_by_the_size_of_the_pickle(kind: str) -> None:
    """Refused or not: no pickle takes more than its size allows. (Two megabytes of empty sets took 465.)"""
    data = b"\x80\x04" + ORDERED + b"q\0" + SWELLING[kind] * (30_000 // len(SWELLING[kind])) + b"."
    tracemalloc.start()
    try:
        with contextlib.suppress(RefusedError):
            read_pickle(data)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < MEMORY_AT_LEAST + MEMORY_PER_BYTE * len(data)


def test_long_texts_and_numbers_take_what_they_are_long() -> None:
    wide = "\U0001f600" + "a" * 300_000  # four bytes a letter in memory, one in the file
    assert read_pickle(pickle.dumps([wide, b"x" * 300_000], 4)) == [wide, b"x" * 300_000]


def test_integers_of_one_hash_are_no_keys() -> None:
    """Multiples of 2^61 - 1 all have the hash 0: 300,000 of them as keys would take hours."""
    same = [n * (2**61 - 1) for n in range(2, 40)]
    assert len({hash(n) for n in same}) == 1
    for keys in (dict.fromkeys(same), set(same), frozenset(same)):
        with pytest.raises(RefusedError, match="bits as a key"):
            read_pickle(pickle.dumps(keys, 4))
    assert read_pickle(pickle.dumps({2**MAX_KEY_BITS - 1: 1, -(2**31): 2}, 2)) == {2**60 - 1: 1, -(2**31): 2}


def test_long_names_are_refused_and_not_shown_whole() -> None:
    with pytest.raises(RefusedError, match="refuses global") as caught:
        read_pickle(b"\x80\x02" + glob("models.common", "C" * 100_000) + b".")
    assert len(str(caught.value)) < 400
