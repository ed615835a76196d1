"""Steps of MuonAdamW: orthogonal for convolutions, AdamW's for the rest."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.optim import AdamW

from training.lightening.optimizer import MOMENTUM, RELATIVE, MuonAdamW, is_matrix, orthogonal


def gradient_of(net: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for weight in net.parameters():
        weight.grad = torch.randn(weight.shape, generator=generator)


@pytest.mark.parametrize("shape", [(16, 16), (24, 200), (200, 24)])
def test_singular_values_come_near_one(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    found = orthogonal(matrix)
    assert found.shape == matrix.shape
    values = torch.linalg.svdvals(found)
    assert float(values.min()) > 0.3 and float(values.max()) < 1.3
    # directions stay: in those of the matrix it is nearly diagonal
    inside = u.T @ found @ v.T
    assert float((inside - torch.diag(inside.diag())).abs().max()) < 1e-3
    assert torch.equal(orthogonal(torch.zeros(shape)), torch.zeros(shape))


def test_a_matrix_is_a_convolution_that_mixes_channels() -> None:
    assert is_matrix(nn.Conv2d(16, 16, 1).weight)
    assert is_matrix(nn.Conv2d(8, 16, 3).weight)  # 72 columns
    assert not is_matrix(nn.Conv2d(32, 32, 5, groups=32).weight)
    assert not is_matrix(nn.Conv2d(32, 8, 1).weight)
    assert not is_matrix(nn.Linear(32, 32).weight)
    assert not is_matrix(nn.Conv2d(16, 16, 1).bias)  # type: ignore[arg-type]


def test_the_size_of_a_step() -> None:
    conv = nn.Conv2d(64, 64, 1, bias=False)
    before = conv.weight.detach().clone()
    optimizer = MuonAdamW(conv.parameters(), lr=0.01, weight_decay=0)
    gradient_of(conv, 0)
    optimizer.step()
    moved = (conv.weight.detach() - before).square().mean().sqrt()
    assert float(moved) == pytest.approx(0.01 * RELATIVE, rel=0.2)
    assert conv.weight.grad is not None  # whoever clips or averages afterwards finds it
    gradient_of(conv, 0)
    state = optimizer.state[conv.weight]["momentum"]
    expected = conv.weight.grad.flatten(1) * (1 - MOMENTUM)
    torch.testing.assert_close(state, expected)


def test_a_weight_decays() -> None:
    conv = nn.Conv2d(16, 16, 1, bias=False)
    before = conv.weight.detach().clone()
    conv.weight.grad = torch.zeros_like(conv.weight)
    MuonAdamW(conv.parameters(), lr=0.1, weight_decay=0.5).step()
    torch.testing.assert_close(conv.weight.detach(), before * (1 - 0.1 * 0.5))


def test_the_rest_is_adamw() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(16, 16, 1)
    )
    other = copy.deepcopy(net)
    ours = MuonAdamW(net.parameters(), lr=0.01, weight_decay=0.1)
    theirs = AdamW(other.parameters(), lr=0.01, weight_decay=0.1)
    for seed in range(3):
        for each, optimizer in ((net, ours), (other, theirs)):
            gradient_of(each, seed)
            optimizer.step()
    for name, weight in net.named_parameters():
        assert torch.equal(weight, dict(other.named_parameters())[name]) == (name != "3.weight"), name


def test_it_goes_on_from_its_state() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(16, 16, 3), nn.BatchNorm2d(16)).to(memory_format=torch.channels_last)
    other = copy.deepcopy(net)
    first = MuonAdamW(net.parameters(), lr=0.01)
    for seed in range(2):
        gradient_of(net, seed)
        first.step()
    other.load_state_dict(net.state_dict())
    second = MuonAdamW(other.parameters(), lr=0.01)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for each, optimizer in ((net, first), (other, second)):
        gradient_of(each, 2)
        optimizer.step()
    assert all(map(torch.equal, net.parameters(), other.parameters()))


def test_a_run_of_adamw_goes_on_with_it() -> None:
    """As runs were saved before there was Muon; also after a phase has cleared the state, and saved again."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(16, 16, 3), nn.BatchNorm2d(16))
    other = copy.deepcopy(net)
    theirs = AdamW([{"params": [*net.parameters()], "pace": 0.2}], lr=0.01, weight_decay=0.1)
    gradient_of(net, 0)
    theirs.step()
    other.load_state_dict(net.state_dict())
    ours = MuonAdamW([{"params": [*other.parameters()], "pace": 1.0}], lr=0.5)
    assert ours.muon
    ours.load_state_dict(copy.deepcopy(theirs.state_dict()))
    assert not ours.muon
    for seed in (1, 2):
        for each, optimizer in ((net, theirs), (other, ours)):
            gradient_of(each, seed)
            optimizer.step()
            optimizer.state.clear()
        assert all(map(torch.equal, net.parameters(), other.parameters()))
    again = MuonAdamW(other.parameters(), lr=0.01)
    again.load_state_dict(copy.deepcopy(ours.state_dict()))
    assert not again.muon


@pytest.mark.parametrize("steps", [0, 1])
def test_a_run_of_muon_that_does_not_say_so_stays_one(steps: int) -> None:
    conv = nn.Conv2d(16, 16, 3)
    before, after = MuonAdamW(conv.parameters(), lr=0.01), MuonAdamW(conv.parameters(), lr=0.01)
    for seed in range(steps):
        gradient_of(conv, seed)
        before.step()
    saved = before.state_dict()
    for group in saved["param_groups"]:
        del group["muon"]
    after.load_state_dict(saved)
    assert after.muon
