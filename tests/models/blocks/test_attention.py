"""Attention that may be put anywhere: what it computes and costs, and that it begins as the identity."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.blocks.cbam import CBAM, GAM
from models.blocks.coordinate import EMA, CoordAtt
from models.blocks.gate import Gate
from models.blocks.lska import LSKA
from models.blocks.simam import SimAM
from models.blocks.squeeze import ECA, MLCA, SE, bins
from models.insertion import insertable
from models.registry import BLOCKS, Row
from tests.layouts import randomise_norms
from utils.counting.measure import count_parameters

# where a block cannot begin as the identity, how far it may be from it: SimAM has no weights
NEAR = {"SimAM": 1 / torch.tensor(0.75).sigmoid().item() - 1}


def made(name: str, c1: int = 64, *args: Any) -> nn.Module:
    """The block as a row makes it, with weights and statistics as after some training, in eval mode."""
    torch.manual_seed(0)
    block = BLOCKS[name].block(*BLOCKS[name].rule(Row((c1,), args, 1, scale=lambda c: c)).args)
    randomise_norms(block)
    return block.eval()


def maps(c1: int = 64, height: int = 7, width: int = 9) -> Tensor:
    return torch.randn(2, c1, height, width, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("block", "args", "parameters"),
    [
        (SE, (64,), 2 * 64 * 64 // 16),  # 2 c^2 / r
        (SE, (64, 4), 2 * 64 * 64 // 4),
        (ECA, (64,), 3),  # log2(64) / 2 + 1/2 = 3.5
        (ECA, (256,), 5),  # 4.5 is cut to 4, and the next odd number is 5
        (ECA, (256, 9), 9),
        (MLCA, (256,), 2 * 5),
        (CBAM, (64,), 2 * 64 * 64 // 16 + 2 * 49),
        (CBAM, (64, 8, 3), 2 * 64 * 64 // 8 + 2 * 9),
        # 1x1 to 8 channels, its norm, and two 1x1 back
        (CoordAtt, (64,), 64 * 8 + 8 + 2 * 8 + 2 * (8 * 64 + 64)),
        (CoordAtt, (512, 16), 512 * 32 + 32 + 2 * 32 + 2 * (32 * 512 + 512)),
        (SimAM, (64,), 0),
        (SimAM, (64, 1e-4, True), 1),
        (EMA, (64,), 10 * 8 * 8 + 4 * 8),  # groups of 8: 1x1 and 3x3 with bias, and a norm
        (EMA, (64, 32), 10 * 2 * 2 + 4 * 2),
        # linear layers 64 -> 16 -> 64; 7x7 the same way, with norms
        (GAM, (64,), 2 * 64 * 16 + 16 + 64 + 2 * 49 * 64 * 16 + 16 + 64 + 2 * 16 + 2 * 64),
        (LSKA, (64,), 64 * (4 * 3 + 4) + 64 * 64 + 64),  # k = 7: four strips of 3, each with a bias; 1x1
        (LSKA, (64, 23), 64 * (2 * 5 + 2 * 7 + 4) + 64 * 64 + 64),  # 2 * 3 - 1 = 5, 23 // 3 = 7
    ],
)  # fmt: skip
def test_parameters(block: type[nn.Module], args: tuple[Any, ...], parameters: int) -> None:
    assert count_parameters(block(*args)) == parameters


@pytest.mark.parametrize("name", insertable())
@torch.no_grad()
def test_it_keeps_the_shape_and_begins_as_the_identity(name: str) -> None:
    x = maps()
    block = made(name)
    before = block(x)
    assert before.shape == x.shape
    assert float((before - x).abs().max()) > 0.1  # so that the rest means something
    said = block.pass_through()  # type: ignore[operator]
    far = float(((block(x) - x) / x).abs().max())
    assert far <= NEAR.get(name, 1e-6)
    assert bool(said) == (name in NEAR)


@pytest.mark.parametrize(
    "name", [name for name in insertable() if next(made(name).parameters(), None) is not None]
)
def test_what_begins_as_the_identity_can_learn(name: str) -> None:
    """It gets nearer to what is wanted, and in the end all of its weights take part."""
    offsets = 2 * maps(height=1, width=1)
    block, x = made(name).train(), maps(height=4, width=5) + offsets
    block.pass_through()  # type: ignore[operator]
    wanted = x * (1 + 0.5 * offsets.tanh())
    parameters = dict(block.named_parameters())
    losses, moved = [], set()
    for _ in range(12):
        loss = F.mse_loss(block(x), wanted)
        losses.append(loss.item())
        slopes = torch.autograd.grad(loss, list(parameters.values()))
        for (key, parameter), slope in zip(parameters.items(), slopes):
            parameter.data -= 0.01 * slope.sign()
            moved |= {key} if slope.any() else set()
    assert losses[-1] < losses[0]
    assert moved == set(parameters)


@torch.no_grad()
def test_a_gate_is_the_sigmoid_until_it_is_opened() -> None:
    gate = Gate()
    assert gate(torch.tensor(0.0)).item() == 0.5
    gate.open()
    assert gate(torch.tensor(0.0)).item() == 1.0
    assert gate(torch.tensor(math.log(3))).item() == pytest.approx(1.5)  # sigmoid(ln 3) = 3/4
    gate.open(math.log(3))
    assert gate(torch.tensor(math.log(3))).item() == pytest.approx(1.0)
    assert not list(gate.parameters()) and set(gate.state_dict()) == {"gain"}


@torch.no_grad()
def test_se_weighs_channels_by_their_means() -> None:
    block = SE(2, ratio=1)
    block.fc1.weight.copy_(torch.eye(2).reshape(2, 2, 1, 1))
    block.fc2.weight.copy_(torch.tensor([[0.0, 1.0], [1.0, 0.0]]).reshape(2, 2, 1, 1))
    x = torch.tensor([[1.0, 3.0], [-4.0, 2.0]]).reshape(1, 2, 1, 2)
    # means 2 and -1; after ReLU 2 and 0; exchanged 0 and 2
    expected = torch.stack((x[0, 0] * 0.5, x[0, 1] * torch.tensor(2.0).sigmoid()))
    torch.testing.assert_close(block(x)[0], expected)


@torch.no_grad()
def test_eca_slides_along_the_channels() -> None:
    block = ECA(4, k=3)
    block.conv.weight.copy_(torch.tensor([[[1.0, 0.0, -1.0]]]))
    x = torch.tensor([1.0, 2.0, 4.0, 8.0]).reshape(1, 4, 1, 1)
    # the channel before less the one behind: 0 - 2, 1 - 4, 2 - 8, 4 - 0
    expected = x * torch.tensor([-2.0, -3.0, -6.0, 4.0]).sigmoid().reshape(1, 4, 1, 1)
    torch.testing.assert_close(block(x), expected)


@pytest.mark.parametrize(("size", "count"), [(10, 5), (7, 5), (3, 5), (5, 16), (1, 5), (20, 1)])
def test_bins_are_those_of_adaptive_pooling(size: int, count: int) -> None:
    x = torch.randn(1, 1, size)
    torch.testing.assert_close(x @ bins(size, count, x).T, F.adaptive_avg_pool1d(x, count))


@torch.no_grad()
def test_mlca_is_local() -> None:
    block = MLCA(4, cells=2, k=1)
    block.conv.weight.fill_(1.0)
    block.conv_local.weight.fill_(2.0)
    x = torch.zeros(1, 4, 4, 4)
    x[:, :, :2, :2] = 8.0
    # the cell at the top left has mean 8, the whole map 2
    gate = (torch.tensor(2.0).sigmoid() + torch.tensor(16.0).sigmoid()) / 2
    torch.testing.assert_close(block(x), x * gate)


@torch.no_grad()
def test_cbam_weighs_channels_then_pixels() -> None:
    block = CBAM(2, ratio=1, k=1)
    block.channel.fc1.weight.copy_(torch.eye(2).reshape(2, 2, 1, 1))
    block.channel.fc2.weight.copy_(torch.eye(2).reshape(2, 2, 1, 1))
    block.spatial.conv.weight.copy_(torch.tensor([2.0, -1.0]).reshape(1, 2, 1, 1))
    x = torch.tensor([[1.0, 3.0], [-4.0, 2.0]]).reshape(1, 2, 1, 2)
    # channels: relu(mean) + relu(max) = 2 + 3 and 0 + 2
    y = x * torch.tensor([5.0, 2.0]).sigmoid().reshape(1, 2, 1, 1)
    logits = 2 * y.mean(dim=1, keepdim=True) - y.amax(dim=1, keepdim=True)
    torch.testing.assert_close(block(x), y * logits.sigmoid())


@torch.no_grad()
def test_coordinate_attention_has_a_gate_for_every_row_and_column() -> None:
    block = CoordAtt(1).eval()
    for layer in (block.conv1, block.conv_h, block.conv_w):
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    block.conv1.weight[0] = block.conv_h.weight[:, 0] = 1.0
    block.conv_w.weight[:, 0] = -1.0
    x = torch.tensor([[1.0, 5.0], [4.0, 8.0]]).reshape(1, 1, 2, 2)
    scale = (1 + block.bn1.eps) ** -0.5  # of a norm that has seen nothing
    rows = F.hardswish(torch.tensor([3.0, 6.0]) * scale).sigmoid()
    columns = (-F.hardswish(torch.tensor([2.5, 6.5]) * scale)).sigmoid()
    torch.testing.assert_close(block(x)[0, 0], x[0, 0] * rows[:, None] * columns)


@torch.no_grad()
def test_ema_mixes_the_channels_of_one_branch_by_the_means_of_the_other() -> None:
    block, x = made("EMA", 8, 2), maps(8)
    part = x[:, 4:]  # the second of two groups, which share their weights
    rows, columns = (
        block.conv1x1(part.mean(dim=dim, keepdim=True)).sigmoid() for dim in (3, 2)
    )  # fmt: skip
    near, wide = block.gn(part * rows * columns), block.conv3x3(part)
    first, second = (torch.softmax(branch.mean(dim=(2, 3)), dim=1) for branch in (near, wide))
    logits = torch.einsum("bc,bchw->bhw", first, wide) + torch.einsum("bc,bchw->bhw", second, near)
    torch.testing.assert_close(block(x)[:, 4:], part * logits.sigmoid().unsqueeze(1))


@torch.no_grad()
def test_simam_weighs_what_differs_from_the_mean() -> None:
    x = torch.tensor([1.0, 1.0, 1.0, 5.0]).reshape(1, 1, 2, 2)
    # mean 2, squares 1, 1, 1, 9, variance 12 / 3 = 4: logits 1/16 + 1/2 and 9/16 + 1/2
    expected = x * torch.tensor([0.5625, 0.5625, 0.5625, 1.0625]).sigmoid().reshape(1, 1, 2, 2)
    torch.testing.assert_close(SimAM(1, e_lambda=1e-9)(x), expected)
    shared = SimAM(1, 1e-9, True)
    torch.testing.assert_close(shared(x), expected)
    shared.share.fill_(0.25)  # type: ignore[union-attr]
    torch.testing.assert_close(shared(x), x + 0.25 * (expected - x))


@torch.no_grad()
def test_gam_looks_at_every_pixel_and_its_surroundings() -> None:
    block, x = made("GAM", 8), maps(8)
    tokens = x.permute(0, 2, 3, 1)  # as in the paper: the MLP runs over the last axis
    first, _, second = block.channel
    hidden = F.linear(tokens, first.weight.flatten(1), first.bias).relu()
    logits = F.linear(hidden, second.weight.flatten(1), second.bias).permute(0, 3, 1, 2)
    y = x * logits.sigmoid()
    torch.testing.assert_close(block(x), y * block.spatial(y).sigmoid())


@pytest.mark.parametrize("k", [7, 11, 23, 35, 41, 53])
@torch.no_grad()
def test_lska_reaches_about_k_pixels(k: int) -> None:
    block = LSKA(1, k)
    for part in block.children():
        nn.init.ones_(part.weight)  # type: ignore[arg-type]
        nn.init.zeros_(part.bias)  # type: ignore[arg-type]
    x = torch.ones(1, 1, 61, 61)
    still = block(x)
    x[..., 30, 30] = 2
    rows = ((block(x) - still)[0, 0].abs() > 1e-4).any(dim=1).nonzero().flatten()
    d = 2 if k <= 11 else 3
    # 2 d - 1 pixels, and d more for every further point of the dilated strip
    assert rows[-1] - rows[0] + 1 == 2 * d - 1 + d * (k // d - 1)
    assert abs(int(rows[-1] - rows[0] + 1) - k) <= d


@pytest.mark.parametrize(
    ("name", "args", "complaint"),
    [
        ("SE", (65,), "SE: 64 channels squeezed by 65 leave none"),
        ("SE", (0,), "SE: the ratio .* must be an integer >= 1, got 0"),
        ("CBAM", (16, 4), "CBAM pads to keep the map's size: its kernel must be odd, 1 to 63, got 4"),
        ("CBAM", (7,), "CBAM: 7, .* in the place of the ratio .* write 16, 7, for a ratio 6 or 8"),
        ("ECA", (2,), "ECA pads to keep"),
        ("MLCA", (0,), "MLCA: the grid must have 1 to 63 cells"),
        ("EMA", (7,), "EMA: the number of groups must divide 64 channels, got 7"),
        ("SimAM", (0,), "SimAM: e_lambda must be a number > 0, got 0"),
        ("SimAM", (1e-4, 1), "SimAM: share must be true or false, got 1"),
        ("LSKA", (9,), "LSKA: k / 2, rounded down, must be odd and >= 3"),
        ("LSKA", (8,), "LSKA pads to keep"),
        ("CoordAtt", ("wide",), "CoordAtt: the ratio"),
    ],
)
def test_misuse_is_named(name: str, args: tuple[Any, ...], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        made(name, 64, *args)


@pytest.mark.parametrize(
    ("first", "args"), [(64, ()), (256, ()), (16, (16,)), (True, (True,)), (128, (128,))]
)
def test_channels_in_front_are_left_out(first: Any, args: tuple[Any, ...]) -> None:
    """Public yamls write them as they are at width 1: 256 at a quarter."""
    wiring = BLOCKS["SE"].rule(Row((64,), (first,), 1, scale=lambda c: c // 4))
    assert (wiring.args, wiring.c2) == ((64, *args), 64)
