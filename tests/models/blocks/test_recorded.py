"""Lightweight blocks against recorded weights and outputs of their public definitions, `golden/blocks/`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from models import common

RECORDED: dict[str, Callable[[], nn.Module]] = {
    "CSPPC_c32_c32_n2": lambda: common.CSPPC(32, 32, 2),
    "DualConv_c16_c32_s1_g4": lambda: common.DualConv(16, 32, s=1, g=4),
    "DualConv_c16_c32_s2_g2": lambda: common.DualConv(16, 32, s=2, g=2),
    "GSBottleneckC_c16_c16_k1_s1": lambda: common.GSBottleneckC(16, 16, 1, 1),
    "GSBottleneck_c16_c16_e1.0": lambda: common.GSBottleneck(16, 16, e=1.0),
    "GSConv_c16_c32_k1_s1_noact": lambda: common.GSConv(16, 32, 1, 1, act=False),
    "GSConv_c16_c32_k3_s2": lambda: common.GSConv(16, 32, 3, 2),
    "GSConvns_c16_c32_k3_s2": lambda: common.GSConvns(16, 32, 3, 2),
    "HetConv_c16_c16_s2_p2": lambda: common.HetConv(16, 16, s=2, p=2),
    "HetConv_c16_c32_s1_p4": lambda: common.HetConv(16, 32, s=1, p=4),
    "PConv_c16_div4": lambda: common.PConv(16, 4),
    "ShuffleNetV2_c16_c32_s2": lambda: common.ShuffleNetV2(16, 32, 2),
    "ShuffleNetV2_c32_c32_s1": lambda: common.ShuffleNetV2(32, 32, 1),
    "VoVGSCSPC_c32_c32_n1": lambda: common.VoVGSCSPC(32, 32, 1),
    "VoVGSCSP_c32_c32_n2": lambda: common.VoVGSCSP(32, 32, 2),
}


def rounding(block: nn.Module) -> float:
    """What float32 may add to a value, relative to the largest: a sum of K products errs by about sqrt(K) *
    2^-24, and convolutions one after the other add up."""
    sizes = [part.weight[0].numel() for part in block.modules() if isinstance(part, nn.Conv2d)]
    return 2**-24 * sum(size**0.5 for size in sizes)


def test_every_recording_is_used(golden: Path) -> None:
    assert set(RECORDED) == {file.stem for file in (golden / "blocks").glob("*.npz")}


@pytest.mark.parametrize("name", RECORDED)
@torch.no_grad()
def test_recorded_outputs(golden: Path, name: str) -> None:
    record = np.load(golden / "blocks" / f"{name}.npz")
    weights = {
        key.removeprefix("param:"): torch.from_numpy(record[key])
        for key in record.files
        if key.startswith("param:") and not key.startswith("param:res.")  # the public class's unused conv
    }
    block = RECORDED[name]().eval()
    block.double()  # what is left is the rounding of the recording, which is the same on every CPU
    missing, unexpected = block.load_state_dict(weights, strict=False)
    assert not unexpected
    assert all(key.endswith("num_batches_tracked") for key in missing)
    y, recorded = block(torch.from_numpy(record["x"]).double()), torch.from_numpy(record["y"])
    assert float((y - recorded).abs().max()) <= rounding(block) * float(recorded.abs().max())
