"""Parameters, the call without data, and whole networks. Their parts: test_meter.py, test_operators.py."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from models.blocks.hetero import HetConv
from models.summary import layer_costs
from tests.utils.counting.functions import meta, on_meta
from utils.counting.conventions import CONVENTIONS, EXPLAINED, KINDS_OF
from utils.counting.measure import call_on_meta, count_parameters, measure, meta_copy
from utils.counting.meter import Meter, in_sequence


def test_parameters() -> None:
    module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Linear(4, 2))
    assert count_parameters(module) == 8 * 3 * 9 + 8 + 4 * 2 + 2
    module[0].requires_grad_(False)
    assert count_parameters(module, trainable=True) == 10


def test_operations_of_convolutions() -> None:
    module = nn.Sequential(nn.Conv2d(4, 8, 3, padding=1, groups=2), nn.BatchNorm2d(8), nn.SiLU())
    # 10 * 10 outputs * 8 channels * (4 / 2) inputs * 9 taps, twice
    assert measure(module, meta(1, 4, 10, 10)).flops() == 2 * 100 * 8 * 2 * 9


def test_a_meta_call_computes_nothing_and_changes_nothing() -> None:
    norm = nn.BatchNorm2d(2).train()
    y = call_on_meta(norm, meta(4, 2, 3, 3))
    assert y.is_meta
    assert y.shape == (4, 2, 3, 3)
    assert norm.num_batches_tracked == 0
    assert norm.weight.device.type == "cpu"


def test_a_meta_copy_leaves_the_original_alone() -> None:
    module = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2), nn.BatchNorm1d(2))
    module[1].weight = module[0].weight
    module[0].bias.requires_grad_(False)
    copied = meta_copy(module)
    assert all(tensor.is_meta for tensor in copied.state_dict().values())
    assert not any(tensor.is_meta for tensor in module.state_dict().values())
    assert copied[0].weight is copied[1].weight
    assert not copied[0].bias.requires_grad and copied[0].weight.requires_grad


@pytest.mark.parametrize("name", ["yolov5n", "yolov5s-transformer", "yolov5n-csppc", "yolov5-bifpn"])
def test_products_are_those_of_torchs_own_counter(name: str) -> None:
    model, image = on_meta(name), meta(1, 3, 128, 128)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(image)
    assert measure(model, image).flops() == counter.get_total_flops()


def test_weights_that_are_always_zero_are_not_counted() -> None:
    # per output: 8 / 4 inputs with 3 x 3 kernels and 6 with 1 x 1; 16 outputs on 100 places, twice
    assert measure(HetConv(8, 16, p=4), meta(1, 8, 10, 10)).flops() == 2 * 100 * 16 * (2 * 9 + 6)


def test_a_convention_adds_up_its_kinds() -> None:
    module = nn.Sequential(nn.Conv2d(4, 8, 1), nn.BatchNorm2d(8), nn.SiLU()).eval()
    cost = measure(module, meta(1, 4, 10, 10))
    # 800 values: 4 products and sums, a bias, 8 of the norm, 1 of the activation
    assert [cost.flops(c) for c in CONVENTIONS] == [
        800 * 8, 800 * 16, 800 * 18, 800 * 2 * (4 + 4), 800 * 10
    ]  # fmt: skip
    assert set(EXPLAINED) == set(CONVENTIONS)
    assert set(KINDS_OF) == set(CONVENTIONS) - {"thop"}


# ---- whole networks ----


@pytest.mark.parametrize("name", ["yolov5n", "yolov5s-transformer", "yolov5n-csphet"])
@pytest.mark.parametrize("training", [False, True])
def test_layers_add_up_to_the_network(name: str, training: bool) -> None:
    model = on_meta(name).train(training)
    costs = [layer.cost for layer in layer_costs(model.model, model.layers, 3, 128)]
    assert in_sequence(costs) == measure(model, meta(1, 3, 128, 128))


def test_counting_in_inference_mode() -> None:
    model = on_meta("yolov5s-transformer")
    expected = measure(model, meta(1, 3, 64, 64))
    with torch.inference_mode():
        meter = Meter()
        image = meta(1, 3, 64, 64)
        meter.follow(image)
        with meter:
            output = model(image)
        found = meter.take(output)
    assert found.operations == expected.operations
    assert (found.depth, found.unknown) == (expected.depth, ())


def test_folding_leaves_the_products() -> None:
    model, image = on_meta("yolov5n-gsconv"), meta(1, 3, 128, 128)
    before = measure(model, image)
    after = measure(model.fuse(), image)
    assert before.flops("conv") == after.flops("conv") == after.flops("bn") < before.flops("bn")
    assert before.operations["elementwise"] == after.operations["elementwise"]
    assert after.bytes_written < before.bytes_written
    assert before.depth == after.depth
