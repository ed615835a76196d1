"""The GSConv family against recorded outputs of the public definitions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from models.blocks.gsconv import (
    GSBottleneck,
    GSBottleneckC,
    GSConv,
    GSConvns,
    VoVGSCSP,
    VoVGSCSPC,
    deinterleave,
)

RECORDED: dict[str, Callable[[], nn.Module]] = {
    "GSConv_c16_c32_k1_s1_noact": lambda: GSConv(16, 32, 1, 1, act=False),
    "GSConv_c16_c32_k3_s2": lambda: GSConv(16, 32, 3, 2),
    "GSConvns_c16_c32_k3_s2": lambda: GSConvns(16, 32, 3, 2),
    "GSBottleneck_c16_c16_e1.0": lambda: GSBottleneck(16, 16, e=1.0),
    "GSBottleneckC_c16_c16_k1_s1": lambda: GSBottleneckC(16, 16, 1, 1),
    "VoVGSCSP_c32_c32_n2": lambda: VoVGSCSP(32, 32, 2),
    "VoVGSCSPC_c32_c32_n1": lambda: VoVGSCSPC(32, 32, 1),
}


@pytest.mark.parametrize("name", RECORDED)
def test_recorded_outputs(golden: Path, name: str) -> None:
    record = np.load(golden / "blocks" / f"{name}.npz")
    weights = {
        key.removeprefix("param:"): torch.from_numpy(record[key])
        for key in record.files
        if key.startswith("param:") and not key.startswith("param:res.")  # the public class's unused conv
    }
    block = RECORDED[name]().eval()
    missing, unexpected = block.load_state_dict(weights, strict=False)
    assert not unexpected
    assert all(key.endswith("num_batches_tracked") for key in missing)
    with torch.no_grad():
        y = block(torch.from_numpy(record["x"]))
    torch.testing.assert_close(y, torch.from_numpy(record["y"]), rtol=0, atol=1e-5)


def test_even_channels_come_first() -> None:
    x = torch.arange(6.0).reshape(1, 6, 1, 1).expand(2, 6, 3, 1)
    assert deinterleave(x)[1, :, 2, 0].tolist() == [0, 2, 4, 1, 3, 5]


def test_output_channels_must_be_even() -> None:
    with pytest.raises(ValueError, match="c2 must be even, got 5"):
        GSConv(4, 5)


def test_native_shuffle_is_rectified_and_honours_stride() -> None:
    y = GSConvns(8, 16, 3, 2)(torch.randn(2, 8, 8, 8))
    assert y.shape == (2, 16, 4, 4)
    assert y.min() >= 0


def test_bottleneck_stride_reaches_both_branches() -> None:
    x = torch.randn(2, 8, 8, 8)
    assert GSBottleneck(8, 16, s=2)(x).shape == (2, 16, 4, 4)
    assert GSBottleneckC(8, 16, s=2)(x).shape == (2, 16, 4, 4)


def test_slim_stack_has_no_unused_convolution() -> None:
    assert not [key for key in VoVGSCSP(16, 16).state_dict() if key.startswith("res")]
