"""Parameter and operation counts by hand."""

from __future__ import annotations

import torch
from torch import nn

from utils.complexity import call_on_meta, count_flops, count_parameters, thop_gflops


def test_parameters() -> None:
    module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Linear(4, 2))
    assert count_parameters(module) == 8 * 3 * 9 + 8 + 4 * 2 + 2
    module[0].requires_grad_(False)
    assert count_parameters(module, trainable=True) == 10


def test_operations_of_convolutions() -> None:
    module = nn.Sequential(nn.Conv2d(4, 8, 3, padding=1, groups=2), nn.BatchNorm2d(8), nn.SiLU())
    # 10 * 10 outputs * 8 channels * (4 / 2) inputs * 9 taps, twice
    assert count_flops(module, torch.empty(1, 4, 10, 10, device="meta")) == 2 * 100 * 8 * 2 * 9


def test_a_meta_call_computes_nothing_and_changes_nothing() -> None:
    norm = nn.BatchNorm2d(2).train()
    y = call_on_meta(norm, torch.empty(4, 2, 3, 3, device="meta"))
    assert y.is_meta
    assert y.shape == (4, 2, 3, 3)
    assert norm.num_batches_tracked == 0
    assert norm.weight.device.type == "cpu"


def test_thop_counts_batch_norm_too() -> None:
    module = nn.Sequential(nn.Conv2d(4, 8, 1, bias=False), nn.BatchNorm2d(8))
    counted = thop_gflops(module, torch.zeros(1, 4, 10, 10))
    # 100 * 8 * 4 multiply-adds, and thop takes 4 operations for each of 800 normalised values; times 2
    assert counted is None or counted == 2 * (3200 + 4 * 800) / 1e9
    assert not hasattr(module, "total_ops")
