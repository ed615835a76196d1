"""MobileOne: several branches of each kernel in training, one convolution then (arXiv 2206.04040)."""

from __future__ import annotations

from torch import Tensor, nn

from models.blocks.activation import Activation, make_activation
from models.blocks.conv import Conv, batch_norm
from models.blocks.merging import become, check_middle, folded, merged, of_norm, silence
from models.blocks.taking import Take
from models.registry import register, scaled

BRANCHES = 4  # k of MobileOne-S0; larger variants have one


@register(scaled)
class MobileOneConv(nn.Module):
    """`act(n Convs + 1x1 Conv + BatchNorm)`: unit and stem of MobileOne (Vasu et al. 2022, figure 3).

    (B, c1, H, W) -> (B, c2, H', W') as a k x k Conv of stride s with g groups. `n` k x k Convs side by side
    (the paper's k), a 1x1 one unless k is 1 (the paper's scale branch), and a BatchNorm where c1 = c2 and
    s = 1; none has an activation of its own. `fuse` leaves one biased convolution. As the stem: k = 3, s = 2.

    Deviation from the paper: the model's activation instead of ReLU.
    """

    def __init__(
        self,
        c1: int,
        c2: int,
        k: int = 3,
        s: int = 1,
        g: int = 1,
        n: int = BRANCHES,
        act: Activation = True,
    ) -> None:
        super().__init__()
        check_middle("MobileOneConv", k, least=1)
        if not isinstance(n, int) or isinstance(n, bool) or n < 1:
            raise ValueError(f"MobileOneConv needs n >= 1 branches, got {n!r}")
        self.branches: nn.ModuleList | None = nn.ModuleList(
            Conv(c1, c2, k, s, g=g, act=False) for _ in range(n)
        )
        self.scale: Conv | None = Conv(c1, c2, 1, s, g=g, act=False) if k > 1 else None
        self.skip = batch_norm(c1) if c1 == c2 and s == 1 else None
        self.act = make_activation(act)
        self.conv: nn.Conv2d | None = None  # the only one, once it is fused

    def forward(self, x: Tensor) -> Tensor:
        if self.branches is None:
            assert self.conv is not None
            return self.act(self.conv(x))
        y = sum((branch(x) for branch in list(self.branches)[1:]), self.branches[0](x))
        y = y if self.scale is None else y + self.scale(x)
        return self.act(y if self.skip is None else y + self.skip(x))

    def fuse(self) -> None:
        """Leave one biased convolution, for inference. A second call changes nothing."""
        if self.branches is None:
            return
        first, *others = self.branches
        assert isinstance(first, Conv)
        parts = [folded(unit) for unit in (*others, self.scale) if unit is not None]
        if self.skip is not None:
            parts.append(of_norm(self.skip, first.conv.weight))
        self.conv = become(first, merged(folded(first), parts))
        self.branches, self.scale, self.skip = None, None, None

    def adopt(self, other: nn.Module, take: Take) -> None:
        """A Conv's kernel and norm in the first branch; the other branches add nothing at first."""
        if not isinstance(other, Conv) or self.branches is None:
            take.alike(self, other)
            return
        first, *others = self.branches
        take.unit(first, other)
        if take.has(first.conv.weight):  # type: ignore[arg-type, union-attr]
            silence(take, (*(branch.bn for branch in others), self.scale and self.scale.bn, self.skip))  # type: ignore[arg-type]


@register(scaled)
class MobileOneBlock(nn.Module):
    """MobileOne's block (arXiv 2206.04040, figure 3): a depthwise k x k unit, then a 1x1 unit.

    (B, c1, H, W) -> (B, c2, ceil(H / s), ceil(W / s)). Both are `MobileOneConv` of `n` branches, each with
    its activation.

    Deviations from the paper: see `MobileOneConv`; squeeze-excite, which only its largest variant has, is a
    layer of its own here.
    """

    def __init__(self, c1: int, c2: int, k: int = 3, s: int = 1, n: int = BRANCHES) -> None:
        super().__init__()
        self.depthwise = MobileOneConv(c1, c1, k, s, g=c1, n=n)
        self.pointwise = MobileOneConv(c1, c2, 1, n=n)

    def forward(self, x: Tensor) -> Tensor:
        return self.pointwise(self.depthwise(x))
