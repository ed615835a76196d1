"""What a block takes over from the one that it replaces: where both can do the same, they do."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.blocks.conv import Conv
from models.blocks.csp import C3, Bottleneck
from models.blocks.dual import DualConv
from models.blocks.dysample import DySample
from models.blocks.ghost import GhostConv
from models.blocks.gsconv import GSBottleneck, GSConv, GSConvns, VoVGSCSP, VoVGSCSPC
from models.blocks.hetero import CSPHet, HetConv
from models.blocks.msca import MSCA
from models.blocks.orepa import OREPA
from models.blocks.partial import CSPPC
from models.blocks.separable import DSConv
from models.blocks.shufflenet import ShuffleNetV2
from models.blocks.taking import Take, depthwise_factors, fitting_kernel, linear_part


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def lived_in(block: nn.Module) -> nn.Module:
    """With BatchNorm statistics and factors as after some training, in eval mode."""
    for module in block.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor, low, high in (
                (module.weight, 0.5, 1.5), (module.bias, -0.5, 0.5),
                (module.running_mean, -0.5, 0.5), (module.running_var, 0.5, 1.5),
            ):  # fmt: skip
                nn.init.uniform_(tensor, low, high)  # type: ignore[arg-type]
    return block.eval()


def adopted(own: nn.Module, other: nn.Module) -> nn.Module:
    Take().module(own, other)
    return own.eval()


def maps(channels: int = 16) -> Tensor:
    return torch.randn(2, channels, 6, 7)


@pytest.mark.parametrize("g", [1, 4])
@torch.no_grad()
def test_orepa_gives_what_the_convolution_gave(g: int) -> None:
    """Its branches stay as they began; the k x k one makes up for their sum."""
    teacher = lived_in(Conv(16, 32, 3, 2, g=g))
    student = OREPA(16, 32, 3, 2, g=g)
    nn.init.uniform_(student.conv.scale, 0.5, 2)
    before = student.conv.expand_kxk.clone()
    adopted(student, teacher)
    x = maps()
    torch.testing.assert_close(student(x), teacher(x), rtol=1e-4, atol=1e-4)
    assert torch.equal(student.conv.expand_kxk, before) and before.any()


@torch.no_grad()
def test_orepa_leaves_a_kernel_that_it_cannot_hold() -> None:
    student = OREPA(16, 32, 3)
    before = student.conv.kxk.weight.clone()
    adopted(student, lived_in(Conv(16, 32, 5)))
    assert torch.equal(student.conv.kxk.weight, before)


@pytest.mark.parametrize("block", [GSConv, GhostConv])
@pytest.mark.parametrize(("k", "s"), [(1, 1), (3, 2)])
@torch.no_grad()
def test_the_dense_half_comes_out_where_it_came_out(block: type[GhostConv], k: int, s: int) -> None:
    teacher = lived_in(Conv(16, 32, k, s))
    student = adopted(block(16, 32, k, s), teacher)
    dense, cheap = student.places()
    assert sorted(dense + cheap) == list(range(32))
    x = maps()
    torch.testing.assert_close(student(x)[:, dense], teacher(x)[:, dense])
    assert torch.equal(student.cv2.bn.bias, teacher.bn.bias[cheap])


@torch.no_grad()
def test_a_learned_shuffle_begins_with_the_places() -> None:
    teacher = lived_in(Conv(16, 32))
    student = adopted(GSConvns(16, 32), teacher)
    dense, _ = student.places()
    x = maps()
    torch.testing.assert_close(student(x)[:, dense], teacher(x)[:, dense].relu())


@pytest.mark.parametrize(("block", "n"), [(VoVGSCSP, 2), (VoVGSCSPC, 1)])
@torch.no_grad()
def test_branches_that_are_joined_in_the_other_order(block: type[VoVGSCSP], n: int) -> None:
    teacher = lived_in(C3(16, 32, n, shortcut=False))
    student = adopted(block(16, 32, n), teacher)
    student.gsb = teacher.m  # with the same inside both are the same
    x = maps()
    torch.testing.assert_close(student(x), teacher(x))


@torch.no_grad()
def test_a_bottleneck_without_shortcut_gives_none() -> None:
    teacher = lived_in(Bottleneck(16, 16, shortcut=False, e=1.0))
    student = adopted(GSBottleneck(16, 16, e=1.0), teacher)
    x = maps()
    # what is left of the shortcut is the same at every pixel: its BatchNorm's shift
    shortcut = student.shortcut(x)
    torch.testing.assert_close(shortcut, shortcut[:1, :, :1, :1].expand_as(shortcut))
    first, _ = student.conv_lighting
    dense, _ = first.places()
    torch.testing.assert_close(first(x)[:, dense], teacher.cv1(x)[:, dense])


@pytest.mark.parametrize("n", [1, 3])
@torch.no_grad()
def test_pieces_stand_for_branches(n: int) -> None:
    """A C3 whose bottlenecks only pass on what they get is a CSPPC of pairs that do."""
    teacher = lived_in(C3(16, 32, n))
    for bottleneck in teacher.m:
        nn.init.zeros_(bottleneck.cv2.bn.weight)
        nn.init.zeros_(bottleneck.cv2.bn.bias)  # silu(0) = 0, and x + 0 = x
    student = adopted(CSPPC(16, 32, n), teacher)
    x = maps()
    torch.testing.assert_close(student(x), teacher(x))


@torch.no_grad()
def test_other_insides_keep_what_fits() -> None:
    teacher = lived_in(C3(16, 32, 2))
    student = adopted(CSPHet(16, 32, 2), teacher)
    x = maps()
    first, second = student.cv1(x).chunk(2, dim=1)
    torch.testing.assert_close(first, teacher.cv2(x))
    torch.testing.assert_close(second, teacher.cv1(x))
    # both HetConv of a pair: 1x1 kernels fit whole
    kernel = linear_part(teacher.m[0].cv1)
    torch.testing.assert_close(student.m[0][0](second), F.conv2d(second, kernel))


@torch.no_grad()
def test_dense_kernels_in_sets() -> None:
    x, layer = maps(), HetConv(16, 8, p=4)
    kernel = torch.randn(8, 16, 3, 3)
    layer.take_kernel(kernel, Take())
    expected = kernel.clone()
    for row in range(8):  # filter row sees inputs of its own set, row % 4, with 3x3, others with their middle
        for column in range(16):
            if column % 4 != row % 4:
                expected[row, column] = F.pad(kernel[row, column, 1:2, 1:2], (1, 1, 1, 1))
    torch.testing.assert_close(layer(x), F.conv2d(x, expected, padding=1), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_dense_kernels_in_groups_beside_a_middle() -> None:
    teacher = lived_in(Conv(16, 8, 3))
    student = adopted(DualConv(16, 8, g=4), teacher)
    expected = linear_part(teacher).clone()
    for row in range(8):  # two filters and four inputs a group
        for column in range(16):
            if row // 2 != column // 4:
                expected[row, column] = F.pad(expected[row, column, 1:2, 1:2], (1, 1, 1, 1))
    x = maps()
    torch.testing.assert_close(student(x), F.conv2d(x, expected, padding=1), rtol=1e-4, atol=1e-5)


def separable(rows: int, columns: int) -> Tensor:
    return torch.randn(rows, columns, 1, 1) * torch.rand(1, columns, 3, 3)


@torch.no_grad()
def test_separable_kernels_are_found() -> None:
    kernel = separable(8, 16)
    depthwise, pointwise = depthwise_factors(kernel)
    torch.testing.assert_close(pointwise * depthwise.transpose(0, 1), kernel, rtol=1e-4, atol=1e-5)
    # a map that does not vary is left as it is where its kernel adds up to more than half its norm
    torch.testing.assert_close(depthwise.sum(dim=(1, 2, 3)), torch.ones(16))
    zero = depthwise_factors(torch.zeros(8, 16, 3, 3))
    assert all(bool(torch.isfinite(part).all()) for part in zero)


@torch.no_grad()
def test_separable_blocks_take_them() -> None:
    teacher = lived_in(Conv(16, 8, 3, 2))
    teacher.conv.weight.copy_(separable(8, 16))
    student = adopted(DSConv(16, 8, 3, 2), teacher)
    x = maps()
    torch.testing.assert_close(student.bn2(student.conv2(student.conv1(x))), teacher.bn(teacher.conv(x)))
    shuffled = adopted(ShuffleNetV2(16, 8, 2), teacher)
    spatial, _, mix, norm, _ = shuffled.branch1
    spatial.bias.zero_()
    torch.testing.assert_close(norm(mix(spatial(x))), teacher.bn(teacher.conv(x))[:, ::2])


@torch.no_grad()
def test_an_inserted_block_returns_its_input() -> None:
    block = MSCA(16)
    block.pass_through()
    x = maps()
    assert torch.equal(block(x), x)


def test_kernels_that_do_not_fit() -> None:
    kernel = torch.randn(8, 16, 3, 3)
    assert fitting_kernel(kernel, nn.Conv2d(16, 8, 1)) is None  # a smaller window
    assert fitting_kernel(kernel, nn.Conv2d(8, 8, 3)) is None
    wide = fitting_kernel(kernel, nn.Conv2d(16, 8, 5))
    assert wide is not None and torch.equal(wide[:, :, 1:4, 1:4], kernel) and not wide[:, :, 0].any()
    own = fitting_kernel(kernel, nn.Conv2d(16, 8, 3, groups=4))
    assert own is not None and torch.equal(own[2:4], kernel[2:4, 4:8])  # the second group's diagonal block


def test_a_tensor_that_is_kept() -> None:
    own, other = nn.Conv2d(2, 2, 1), nn.Conv2d(2, 2, 1)
    before = own.weight.clone()
    take = Take(keep=[own.weight])
    take.module(own, other)
    assert torch.equal(own.weight, before) and torch.equal(own.bias, other.bias)  # type: ignore[arg-type]
    assert take.has(own.bias) and not take.has(own.weight)  # type: ignore[arg-type]
    assert take.reason(own.weight) == "left as it is" and not take.reason(own.bias)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"takes \(2, 2, 1, 1\) into \(2,\)"):
        take(own.bias, other.weight)  # type: ignore[arg-type]


@pytest.mark.parametrize(("scale", "dynamic"), [(2, False), (3, True)])
def test_dysample_in_place_of_upsample_gives_the_same(scale: int, dynamic: bool) -> None:
    own, other = DySample(8, scale, groups=2, dynamic=dynamic), nn.Upsample(None, scale, mode="nearest")
    take, x = Take(), torch.randn(2, 8, 5, 7)
    take.module(own, other)
    torch.testing.assert_close(own(x), other(x))
    assert take.has(own.offset.weight) and take.has(own.offset.bias)
    bilinear = DySample(8, scale, groups=2)
    before = bilinear.offset.weight.clone()
    Take().module(bilinear, nn.Upsample(None, scale, mode="bilinear"))
    assert torch.equal(bilinear.offset.weight, before)  # it is that already
