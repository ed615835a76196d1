"""What every registered block must keep to. A new block is tested here without writing a test."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import models.blocks  # noqa: F401  # registers every block
from models.registry import BLOCKS, Row, Wiring
from tests.layouts import randomise_norms

CHANNELS = 32
ARGUMENTS: dict[
    str, tuple[Any, ...]
] = {  # blocks whose arguments do not start with their output channels alone
    "Add": (),
    "Concat": (1,),
    "Contract": (2,),
    "DySample": (2,),
    "Expand": (2,),
    "MSCA": (),
    "nn.BatchNorm2d": (),
    "nn.InstanceNorm2d": (),
    "nn.Conv2d": (32, 3, 1, 1),
    "nn.ConvTranspose2d": (32, 2, 2),
    "DWConvTranspose2d": (32, 4, 2, 1),
    "InvertedResidual": (32, 48, 3, 1, True),
    "PConv": (4,),
    "SqueezeExcite": (8,),
}
NAMES = sorted(set(BLOCKS) - {"ASFF", "Detect"})  # they take several levels and have tests of their own


def build(name: str) -> tuple[nn.Module, Wiring]:
    """The block as a yaml row `[-1, 2, name, [32]]` makes it, with lively BatchNorm statistics."""
    block, rule = BLOCKS[name]
    wiring = rule(Row((CHANNELS,), ARGUMENTS.get(name, (CHANNELS,)), 2, scale=lambda c: c))
    torch.manual_seed(0)
    module = block(*wiring.args)
    randomise_norms(module)
    return module, wiring


def call(module: nn.Module, wiring: Wiring, x: Tensor) -> Tensor:
    return module([x] if wiring.joins else x)


def image(batch: int, height: int = 16, width: int = 16) -> Tensor:
    return torch.randn(batch, CHANNELS, height, width, generator=torch.Generator().manual_seed(batch))


@pytest.mark.parametrize("name", NAMES)
def test_output_has_the_declared_channels(name: str) -> None:
    module, wiring = build(name)
    y = call(module, wiring, image(2))
    assert y.shape[:2] == (2, wiring.c2)
    assert y.isfinite().all()


WEIGHTED = [name for name in NAMES if next(build(name)[0].parameters(), None) is not None]


@pytest.mark.parametrize("name", WEIGHTED)
def test_every_parameter_takes_part(name: str) -> None:
    module, wiring = build(name)
    call(module, wiring, image(2)).square().mean().backward()
    idle = [key for key, value in module.named_parameters() if value.grad is None or not value.grad.any()]
    frozen = [key for key, value in module.named_parameters() if not value.requires_grad]
    assert idle == frozen
    assert not frozen or name == "VoVGSCSPPaper"  # it owns an unused convolution on purpose


@pytest.mark.parametrize("name", NAMES)
def test_images_of_a_batch_do_not_mix_in_eval(name: str) -> None:
    module, wiring = build(name)
    module.eval()
    x = image(3)
    together = call(module, wiring, x)
    alone = torch.cat([call(module, wiring, one) for one in x.split(1)])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore")  # tracing is deprecated, and torch's own layers draw warnings
@pytest.mark.parametrize("name", NAMES)
def test_a_trace_serves_other_batches_and_sizes(name: str) -> None:
    module, wiring = build(name)
    module.eval()
    example = image(1)
    traced = torch.jit.trace(module, ([example],) if wiring.joins else example, check_trace=False)
    for x in (example, image(3), image(2, height=8, width=24)):
        torch.testing.assert_close(call(traced, wiring, x), call(module, wiring, x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_input_is_left_alone(name: str) -> None:
    module, wiring = build(name)
    x = image(2)
    call(module, wiring, x)
    assert torch.equal(x, image(2))


@pytest.mark.parametrize("name", [name for name in NAMES if hasattr(BLOCKS[name].block, "fuse")])
def test_fusing_keeps_the_output_and_removes_batch_norm(name: str) -> None:
    module, wiring = build(name)
    module.eval()
    before = call(module, wiring, image(2))
    for _ in range(2):  # a second call changes nothing
        module.fuse()  # type: ignore[operator]
        torch.testing.assert_close(call(module, wiring, image(2)), before, rtol=1e-5, atol=1e-5)
    assert not any(isinstance(part, nn.BatchNorm2d) for part in module.modules())
