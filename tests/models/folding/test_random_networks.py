"""Folding of networks that nobody designed: whatever is composed of known operations means the same after."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from models.blocks.reshape import shuffle_channels
from models.folding.checked import fold

Step = Callable[[list[Tensor]], Tensor]


class RandomNet(nn.Module):
    """A random acyclic network on maps of 16 channels: each step reads earlier maps and makes one more."""

    def __init__(self, seed: int, steps: int = 14) -> None:
        super().__init__()
        draw = random.Random(seed)
        self.layers = nn.ModuleList()
        self.plan = [self._step(draw, made + 1) for made in range(steps)]
        self.last = nn.Conv2d(16 * 3, 8, 1)

    def _step(self, draw: random.Random, made: int) -> tuple[str, list[int], int]:
        kind = draw.choice(
            [
                "dense",
                "grouped",
                "depthwise",
                "shuffle",
                "act",
                "norm",
                "pool",
                "add",
                "mul",
                "cat",
                "swap",
                "part",
                "up",
            ]
        )
        sources = [draw.randrange(max(0, made - 4), made) for _ in range(2)]
        number = len(self.layers)
        layer: dict[str, Callable[[], nn.Module]] = {
            "dense": lambda: nn.Conv2d(16, 16, draw.choice([1, 3]), padding="same"),
            "grouped": lambda: nn.Conv2d(16, 16, 3, padding=1, groups=draw.choice([2, 4, 8])),
            "depthwise": lambda: nn.Conv2d(16, 16, 3, padding=1, groups=16),
            "act": nn.SiLU,
            "norm": lambda: nn.BatchNorm2d(16),
            "pool": lambda: nn.MaxPool2d(3, 1, 1),
            "up": lambda: nn.Sequential(nn.AvgPool2d(2), nn.Upsample(scale_factor=2), nn.Conv2d(16, 16, 1)),
            "cat": lambda: nn.Conv2d(32, 16, 1),
            "part": lambda: nn.Conv2d(4, 4, 3, padding=1),
        }.get(kind, nn.Identity)
        made_layer = layer()
        if isinstance(made_layer, nn.Conv2d) and made_layer.padding == "same":
            made_layer.padding = tuple(k // 2 for k in made_layer.kernel_size)
        self.layers.append(made_layer)
        return kind, sources, number

    def forward(self, x: Tensor) -> Tensor:
        maps = [x]
        for kind, (a, b), number in self.plan:
            layer, first, second = self.layers[number], maps[a], maps[b]
            if kind == "shuffle":
                maps.append(shuffle_channels(first, 4 if number % 2 else 2))
            elif kind == "add":
                maps.append(first + second)
            elif kind == "mul":
                maps.append(first * second)
            elif kind == "cat":
                maps.append(layer(torch.cat((first, second), dim=1)))
            elif kind == "swap":
                left, right = first.chunk(2, dim=1)
                maps.append(torch.cat((right, left), dim=1))
            elif kind == "part":
                maps.append(torch.cat((layer(first[:, :4]), first[:, 4:]), dim=1))
            else:
                maps.append(layer(first))
        return self.last(torch.cat(maps[-3:], dim=1))


@pytest.mark.parametrize(
    "seed", [*range(60), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(60, 600))]
)
@torch.no_grad()
def test_random_networks_mean_the_same(seed: int) -> None:
    torch.manual_seed(seed)
    net = RandomNet(seed).double().eval()
    for part in net.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.normal_(part.running_mean)  # type: ignore[arg-type]
            nn.init.uniform_(part.running_var, 0.5, 2)  # type: ignore[arg-type]
    network, *_ = fold(net, (1, 16, 8, 8))
    for shape in ((1, 16, 8, 8), (3, 16, 6, 10)):
        x = torch.randn(shape, dtype=torch.float64)
        expected = net(x)
        torch.testing.assert_close(network(x), expected, rtol=1e-8, atol=1e-8 * float(expected.abs().max()))
