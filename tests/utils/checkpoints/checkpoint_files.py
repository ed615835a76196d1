"""What the tests of checkpoint files share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from utils.checkpoints.files import read_checkpoint
from utils.errors import UserError


def content(**changes: Any) -> dict[str, Any]:
    """A small checkpoint with every kind of value."""
    torch.manual_seed(0)
    state = {
        "model.0.conv.weight": torch.randn(4, 3, 3, 3),
        "model.0.bn.num_batches_tracked": torch.tensor(7),
        "model.1.anchors": torch.tensor([float("nan"), float("inf"), -0.0]),
        "model.2.half": torch.randn(5).half(),
        "model.3.bfloat16": torch.randn(5).bfloat16(),
        "model.4.empty": torch.empty(0, 3),
        "model.5.mask": torch.tensor([True, False]),
        "model.6.channels_last": torch.randn(1, 4, 3, 3).to(memory_format=torch.channels_last),
    }
    values = {
        "model": state, "ema": None, "yaml": {"nc": 2, "backbone": [[-1, 1, "Conv", [4, 3]]]},
        "names": {0: "cat", 1: "dog"}, "nc": 2, "stride": [8.0], "anchors": [[[1.0, 2.0]]], "epoch": 3,
        "best_fitness": 0.25, "train_args": {"imgsz": 64, "freeze": (0,), "cfg": None}, "hyp": {"lr0": 0.01},
        "optimizer": {"state": {0: {"momentum_buffer": torch.ones(2)}}, "param_groups": [{"params": [0]}]},
        "date": "2024-01-01",
        "resume": {"rng": torch.get_rng_state(), "big": 2**127 + 1, "nan": float("nan")},
    }  # fmt: skip
    return {**values, **changes}


def assert_refused(path: Path, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        read_checkpoint(path)
    text = str(caught.value)
    assert text.startswith((f"{path}: ", f"checkpoint '{path}'"))
    assert len(text) < len(str(path)) + 400
    assert text.isprintable()
