"""Which device `--device` names, and in what precision it trains."""

from __future__ import annotations

import pytest
import torch

from utils.device import ISA_LIMITS, amp_dtype, autocast, images_at_once, resolved, select_device
from utils.errors import UserError


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)


@pytest.mark.parametrize(
    ("name", "place", "index"),
    [
        ("", 0, 0),
        ("", 1, 1),
        ("cuda", 0, 0),
        ("0", 0, 0),
        ("cuda:1", 0, 1),
        (" 1 ", 0, 1),
        ("0, 1", 1, 1),
        ("1,0", 0, 1),
    ],
)
@pytest.mark.usefixtures("two_gpus")
def test_cuda_devices(name: str, place: int, index: int) -> None:
    assert select_device(name, place, processes=2) == torch.device("cuda", index)


def test_without_cuda_the_cpu_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert {select_device(name) for name in ("", "cpu", " CPU ", "none")} == {torch.device("cpu")}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("warp", "--device warp: expected cpu, mps or CUDA numbers such as 0 or 0,1"),
        ("0,", "expected cpu"),
        ("-1", "expected cpu"),
        ("2", "CUDA devices of this machine: 0 to 1"),
        ("0,1", "one process drives one device; start several with torchrun --nproc_per_node 2 train.py"),
    ],
)
@pytest.mark.usefixtures("two_gpus")
def test_what_is_no_device(name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        select_device(name)


def test_precision() -> None:
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert (amp_dtype("auto", cpu), amp_dtype("off", cuda)) == (None, None)
    assert (amp_dtype("auto", cuda), amp_dtype("bf16", cpu)) == (torch.float16, torch.bfloat16)
    with pytest.raises(UserError, match="--amp fp16 needs a CUDA device, found cpu"):
        amp_dtype("fp16", cpu)


@pytest.mark.parametrize(
    ("known", "expected"),
    [
        ({"avx512_bf16": True}, "bf16"),
        ({"amx_bf16": True}, "bf16"),
        ({"avx512_f": True}, "off"),
        (None, "off"),
    ],
)
def test_learning_from_a_teacher_is_in_bf16_where_the_cpu_is_fast_in_it(
    known: dict[str, bool] | None, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    if known is not None:
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: known, raising=False)
    for limit in ISA_LIMITS:
        monkeypatch.delenv(limit, raising=False)
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert resolved("auto", cpu) == expected
    assert (resolved("off", cpu), resolved("bf16", cpu), resolved("auto", cuda)) == ("off", "bf16", "auto")
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "avx512_core_bf16")
    assert resolved("auto", cpu) == expected
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    assert resolved("auto", cpu) == "off"


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_autocast(dtype: torch.dtype | None) -> None:
    layer = torch.nn.Linear(2, 2)
    with autocast(torch.device("cpu"), dtype):
        assert layer(torch.ones(1, 2)).dtype == (dtype or torch.float32)


@pytest.mark.parametrize(
    ("threads", "height", "width", "count"),
    [(1, 640, 640, 1), (2, 640, 640, 2), (2, 320, 320, 8), (2, 1280, 1280, 1)],
)
def test_each_core_has_an_image_of_640_pixels_at_a_time(
    monkeypatch: pytest.MonkeyPatch, threads: int, height: int, width: int, count: int
) -> None:
    monkeypatch.setattr("torch.get_num_threads", lambda: threads)
    assert images_at_once(torch.device("cpu"), height, width) == count


def test_a_gpu_takes_whole_batches() -> None:
    assert images_at_once(torch.device("cuda"), 640, 640) is None
