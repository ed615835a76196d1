"""What every registered block must keep to. A new block is tested here without writing a test."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import models.blocks  # noqa: F401  # registers every block
from models.registry import BLOCKS, EXAMPLE_CHANNELS, Row, Wiring
from tests.layouts import randomise_norms

NAMES = sorted(BLOCKS)


def build(name: str) -> tuple[nn.Module, Wiring]:
    """The block as a yaml row with its example makes it, with lively BatchNorm statistics."""
    entry = BLOCKS[name]
    wiring = entry.rule(Row((EXAMPLE_CHANNELS,) * entry.levels, entry.example, 2, scale=lambda c: c))
    torch.manual_seed(0)
    module = entry.block(*wiring.args)
    randomise_norms(module)
    return module, wiring


def maps(name: str, batch: int, height: int = 16, width: int = 16) -> Any:
    """What the block takes: a map, or a list of them, finest first."""
    generator = torch.Generator().manual_seed(batch)
    levels = [
        torch.randn(batch, EXAMPLE_CHANNELS, height >> level, width >> level, generator=generator)
        for level in range(BLOCKS[name].levels)
    ]
    return levels if build(name)[1].joins else levels[0]


def tensors(y: Any) -> list[Tensor]:
    """Every tensor of an output or input: of a map, or of the nest that a head gives."""
    return [y] if isinstance(y, Tensor) else [tensor for part in y for tensor in tensors(part)]


def assert_close(found: Any, expected: Any, rtol: float, atol: float) -> None:
    for one, other in zip(tensors(found), tensors(expected), strict=True):
        torch.testing.assert_close(one, other, rtol=rtol, atol=atol)


@pytest.mark.parametrize("name", NAMES)
def test_output_has_the_declared_channels(name: str) -> None:
    module, wiring = build(name)
    y = module(maps(name, 2))
    assert all(len(tensor) == 2 and tensor.isfinite().all() for tensor in tensors(y))
    if isinstance(y, Tensor):
        assert y.shape[1] == wiring.c2


WEIGHTED = [name for name in NAMES if next(build(name)[0].parameters(), None) is not None]


@pytest.mark.parametrize("name", WEIGHTED)
def test_every_parameter_takes_part(name: str) -> None:
    module, _ = build(name)
    torch.stack([y.square().mean() for y in tensors(module(maps(name, 2)))]).sum().backward()
    idle = [key for key, value in module.named_parameters() if value.grad is None or not value.grad.any()]
    frozen = [key for key, value in module.named_parameters() if not value.requires_grad]
    assert idle == frozen
    assert not frozen or name == "VoVGSCSPPaper"  # it owns an unused convolution on purpose


@pytest.mark.parametrize("name", NAMES)
def test_channels_may_lie_last_as_training_has_them(name: str) -> None:
    module, _ = build(name)
    expected = module(maps(name, 2))
    again = build(name)[0].to(memory_format=torch.channels_last)  # torch refuses tensors of five dimensions
    assert_close(again(maps(name, 2)), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_images_of_a_batch_do_not_mix_in_eval(name: str) -> None:
    module, _ = build(name)
    module.eval()
    x = maps(name, 3)
    together = tensors(module(x))
    for index in range(3):
        one = [level[index : index + 1] for level in x] if isinstance(x, list) else x[index : index + 1]
        assert_close([y[index : index + 1] for y in together], module(one), rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore")  # tracing is deprecated, and torch's own layers draw warnings
@pytest.mark.parametrize("name", NAMES)
def test_a_trace_serves_other_batches_and_sizes(name: str) -> None:
    module, _ = build(name)
    module.eval()
    traced = torch.jit.trace(module, (maps(name, 1),), strict=False, check_trace=False)
    for x in (maps(name, 1), maps(name, 3), maps(name, 2, height=8, width=24)):
        assert_close(traced(x), module(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_input_is_left_alone(name: str) -> None:
    module, _ = build(name)
    x = maps(name, 2)
    module(x)
    assert all(torch.equal(one, other) for one, other in zip(tensors(x), tensors(maps(name, 2))))


@pytest.mark.parametrize("name", [name for name in NAMES if hasattr(BLOCKS[name].block, "fuse")])
def test_fusing_keeps_the_output_and_removes_batch_norm(name: str) -> None:
    module, _ = build(name)
    module.eval()
    before = module(maps(name, 2))
    for _ in range(2):  # a second call changes nothing
        module.fuse()  # type: ignore[operator]
        assert_close(module(maps(name, 2)), before, rtol=1e-5, atol=1e-5)
    assert not any(isinstance(part, nn.BatchNorm2d) for part in module.modules())
