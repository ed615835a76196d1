"""Every rule of folding alone: the network means the same in double precision, and the rule did its work."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, fx, nn

from models.blocks.reshape import shuffle_channels
from models.folding.checked import fold


class Net(nn.Module):
    """Layers by name, and a forward pass that is given as a function of them and the input.

    It is here, where `shuffle_channels` is: torch.fx wraps functions in the globals of `forward` alone.
    """

    def __init__(self, flow: Callable[[Net, Tensor], Tensor], **layers: nn.Module) -> None:
        super().__init__()
        self.flow = flow
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, x: Tensor) -> Tensor:
        return self.flow(self, x)


def folded(net: nn.Module, channels: int = 8, side: int = 8) -> tuple[fx.GraphModule, dict[str, int]]:
    """The folded network, after a look at whether it means the same."""
    torch.manual_seed(0)
    net = net.double().eval()
    for part in net.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.normal_(part.running_mean)  # type: ignore[arg-type]
            nn.init.uniform_(part.running_var, 0.5, 2)  # type: ignore[arg-type]
            nn.init.normal_(part.weight)
            nn.init.normal_(part.bias)
    network, rules, _ = fold(net, (1, channels, side, side))
    for shape in ((1, channels, side, side), (3, channels, side + 4, side)):
        x = torch.randn(shape, dtype=torch.float64)
        torch.testing.assert_close(network(x), net(x), rtol=1e-9, atol=1e-9)
    assert isinstance(network, fx.GraphModule)
    return network, rules


def layers(network: nn.Module, kind: type) -> list[nn.Module]:
    return [part for part in network.modules() if type(part) is kind]


def functions(network: fx.GraphModule) -> list[str]:
    return [getattr(n.target, "__name__", str(n.target)) for n in network.graph.nodes if "call_f" in n.op]


def test_a_shuffle_goes_into_the_next_convolution() -> None:
    net = Net(lambda n, x: n.b(shuffle_channels(n.a(x), 4)), a=nn.Conv2d(8, 8, 1), b=nn.Conv2d(8, 4, 3))
    network, rules = folded(net)
    assert rules["channel permutations carried into weights"] == 1
    assert functions(network) == []
    # y[i * 4 + g] = x[g * 2 + i]: channels 0, 2, 4, 6, 1, 3, 5, 7
    expected = net.b.weight[:, torch.tensor([0, 2, 4, 6, 1, 3, 5, 7]).argsort()]
    assert torch.equal(network.conv1.weight, expected)


def test_a_shuffle_goes_through_depthwise_activation_pooling_and_upsampling() -> None:
    def flow(n: Net, x: Tensor) -> Tensor:
        x = n.act(n.depthwise(shuffle_channels(n.a(x), 2)))
        return n.b(n.up(n.pool(n.norm(x))))

    net = Net(
        flow,
        a=nn.Conv2d(8, 8, 1),
        depthwise=nn.Conv2d(8, 8, 3, padding=1, groups=8),
        act=nn.SiLU(),
        norm=nn.BatchNorm2d(8),
        pool=nn.MaxPool2d(3, 2, 1),
        up=nn.Upsample(scale_factor=2),
        b=nn.Conv2d(8, 4, 1),
    )
    network, _ = folded(net)
    assert functions(network) == []


def test_a_sum_takes_over_the_order_of_the_other_side() -> None:
    net = Net(
        lambda n, x: n.c(shuffle_channels(n.a(x), 2) + n.b(x)),
        a=nn.Conv2d(8, 8, 3, padding=1),
        b=nn.Conv2d(8, 8, 1),
        c=nn.Conv2d(8, 4, 1),
    )
    network, _ = folded(net)
    assert functions(network) == ["add"]


def test_two_rigid_orders_need_a_copy() -> None:
    network, rules = folded(Net(lambda n, x: n.a(x + shuffle_channels(x, 2)), a=nn.Conv2d(8, 8, 1)))
    assert rules["channels copied one by one"] == 1
    assert functions(network).count("index_select") == 1


def test_a_concatenation_becomes_a_sum_of_convolutions() -> None:
    net = Net(
        lambda n, x: n.c(torch.cat((n.a(x), n.b(x)), 1)),
        a=nn.Conv2d(8, 8, 1),
        b=nn.Conv2d(8, 16, 3, padding=1),
        c=nn.Conv2d(24, 4, 1),
    )
    network, _ = folded(net)
    assert functions(network) == ["add"]
    assert len(layers(network, nn.Conv2d)) == 4


def test_repeated_channels_are_read_once() -> None:
    net = Net(
        lambda n, x: n.b(torch.cat((x, n.a(x[:, :2]), x[:, 2:]), 1)),
        a=nn.Conv2d(2, 2, 1),
        b=nn.Conv2d(16, 4, 1),
    )
    network, rules = folded(net)
    assert rules["copies of channels read once"] == 6
    # the columns of x: its own, and for channels 2 to 7 those of the copy behind the two of a
    expected = net.b.weight[:, :8].clone()
    expected[:, 2:] += net.b.weight[:, 10:]
    widths = [conv.weight.shape[1] for conv in layers(network, nn.Conv2d)]
    assert sorted(widths) == [2, 2, 8]
    assert any(torch.equal(conv.weight, expected) for conv in layers(network, nn.Conv2d))


def test_slices_are_written_by_convolutions_of_their_own() -> None:
    def flow(n: Net, x: Tensor) -> Tensor:
        first, second = n.act(n.a(x)).chunk(2, 1)
        return n.c(torch.cat((first, second, n.b(second)), 1))

    net = Net(
        flow, a=nn.Conv2d(8, 16, 1), act=nn.SiLU(), b=nn.Conv2d(8, 8, 3, padding=1), c=nn.Conv2d(24, 8, 1)
    )
    network, rules = folded(net)
    assert rules["slices written apart"] == 1
    assert "getitem" not in functions(network)


@pytest.mark.parametrize(
    "piece",
    [
        lambda x: x[:, :, :8],  # all rows of the map that is traced, and not of a larger one
        lambda x: x.chunk(2, 2)[1],
        lambda x: x.split(8, 2)[0],
        lambda x: x[:2],
        lambda x: x[:, [1, 0], :, 7:8],
    ],
)
def test_a_slice_of_another_axis_stays(piece: Callable[[Tensor], Tensor]) -> None:
    network, _ = folded(Net(lambda n, x: piece(n.a(x)), a=nn.Conv2d(8, 8, 1)))
    assert len(layers(network, nn.Conv2d)) == 1 and len(network.graph.nodes) > 3


def test_channels_in_any_order_are_a_selection() -> None:
    net = Net(lambda n, x: n.b(n.a(x)[:, [3, 1, 1]]), a=nn.Conv2d(8, 4, 1), b=nn.Conv2d(3, 2, 1))
    network, rules = folded(net)
    assert functions(network) == [] and rules["copies of channels read once"] == 1


def test_a_pointwise_convolution_comes_before_upsampling() -> None:
    net = Net(
        lambda n, x: n.c(torch.cat((n.up(n.a(x)), n.b(n.up(x))), 1)),
        up=nn.Upsample(scale_factor=2),
        a=nn.Conv2d(8, 8, 1),
        b=nn.Conv2d(8, 8, 3, padding=1),
        c=nn.Conv2d(16, 4, 1),
    )
    network, _ = folded(net)
    order = [str(n.target) for n in network.graph.nodes if n.op == "call_module"]
    assert order.index("upsample1") > order.index("conv2")  # the 1x1 of c on a, then up


def test_parallel_convolutions_are_one() -> None:
    net = Net(
        lambda n, x: n.a(x) + n.b(x),
        a=nn.Conv2d(8, 4, 3, stride=2, padding=1, bias=False),
        b=nn.Conv2d(8, 4, 1, stride=2),
    )
    network, rules = folded(net)
    assert rules["parallel convolutions merged"] == 1
    (conv,) = layers(network, nn.Conv2d)
    expected = net.a.weight.clone()
    expected[:, :, 1, 1] += net.b.weight[:, :, 0, 0]
    assert torch.equal(conv.weight, expected)


@pytest.mark.parametrize(
    "b",
    [
        nn.Conv2d(8, 8, 1, padding=1, stride=2),  # looks at other pixels
        nn.Conv2d(8, 8, 3, dilation=2, padding=2),
        nn.Conv2d(8, 8, 2, padding=1),
    ],
)
def test_what_looks_at_other_pixels_is_not_merged(b: nn.Conv2d) -> None:
    a = nn.Conv2d(8, 8, 3, padding=1, stride=b.stride)
    crop = 8 if b.kernel_size != (2, 2) else 9
    pad = nn.ZeroPad2d((0, 1, 0, 1)) if crop == 9 else nn.Identity()
    size = nn.ZeroPad2d((0, 1, 0, 1)) if b.padding == (1, 1) and b.kernel_size == (1, 1) else nn.Identity()
    _, rules = folded(Net(lambda n, x: n.pad(n.size(n.a(x))) + n.b(x), a=a, b=b, pad=pad, size=size))
    assert "parallel convolutions merged" not in rules


def test_narrow_groups_get_wider() -> None:
    net = Net(lambda n, x: n.a(x), a=nn.Conv2d(32, 64, 3, padding=1, groups=16))
    network, rules = folded(net, channels=32)
    assert rules["narrow groups widened"] == 1
    (conv,) = layers(network, nn.Conv2d)
    assert conv.groups == 4  # 32 / 4 = 8 channels each
    assert int((conv.weight != 0).sum()) == net.a.weight.numel()


def test_batch_norm_behind_a_concatenation_goes_into_the_convolutions() -> None:
    net = Net(
        lambda n, x: n.act(n.norm(torch.cat((n.a(x), n.b(x)), 1))),
        a=nn.Conv2d(8, 4, 1),
        b=nn.Conv2d(8, 4, 3, padding=1, bias=False),
        norm=nn.BatchNorm2d(8),
        act=nn.ReLU(),
    )
    network, rules = folded(net)
    assert rules["scales and shifts folded into convolutions"] == 1
    assert len(layers(network, nn.Conv2d)) == 2 and not layers(network, nn.BatchNorm2d)


def test_batch_norm_that_others_look_behind_stays_a_scale() -> None:
    net = Net(lambda n, x: n.norm(n.a(x)) * n.a(x), a=nn.Conv2d(8, 8, 1), norm=nn.BatchNorm2d(8))
    folded(net)

    def twice(n: Net, x: Tensor) -> Tensor:
        y = n.a(x)
        return n.norm(y) + y

    network, rules = folded(Net(twice, a=nn.Conv2d(8, 8, 1), norm=nn.BatchNorm2d(8)))
    assert "scales and shifts folded into convolutions" not in rules
    assert [conv.groups for conv in layers(network, nn.Conv2d)] == [1, 8]


def test_numbers_are_scales() -> None:
    network, rules = folded(Net(lambda n, x: x + 0.1 * n.a(x), a=nn.Conv2d(8, 8, 1)))
    assert rules["scales and shifts folded into convolutions"] == 1
    assert functions(network) == ["add"]


def test_one_map_can_weigh_all_channels() -> None:
    network, _ = folded(Net(lambda n, x: n.gate(x) * n.a(x), gate=nn.Conv2d(8, 1, 1), a=nn.Conv2d(8, 8, 1)))
    assert functions(network) == ["mul"] and len(layers(network, nn.Conv2d)) == 2


def test_unknown_functions_stay_on_channels_in_their_order() -> None:
    net = Net(
        lambda n, x: n.b(shuffle_channels(n.a(x), 2).roll(1, 1).softmax(1)),
        a=nn.Conv2d(8, 8, 1),
        b=nn.Conv2d(8, 8, 1),
    )
    network, rules = folded(net)
    assert "channels copied one by one" not in rules  # the convolution writes the order that is wanted
    assert [n.target for n in network.graph.nodes if n.op == "call_method"] == ["roll", "softmax"]


class ByValue(nn.Module):
    """What it does depends on what it sees, so that it cannot be traced."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) if float(x.mean()) > 100 else x.flip(1)


def test_a_block_that_cannot_be_traced_stays_whole() -> None:
    net = Net(
        lambda n, x: n.b(n.own(shuffle_channels(n.a(x), 2))),
        a=nn.Conv2d(8, 8, 1),
        own=ByValue(),
        b=nn.Conv2d(8, 8, 1),
    )
    network, _ = folded(net)
    assert layers(network, ByValue)


def test_what_nothing_reads_is_gone() -> None:
    def flow(n: Net, x: Tensor) -> Tensor:
        n.unused(x)
        return n.a(x)

    network, _ = folded(Net(flow, a=nn.Conv2d(8, 8, 1), unused=nn.Conv2d(8, 8, 3)))
    assert len(layers(network, nn.Conv2d)) == 1
