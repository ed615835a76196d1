"""Diverse branches that become one convolution for inference (DBB, arXiv 2103.13425)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.blocks.activation import Activation, make_activation
from models.blocks.conv import Conv, batch_norm, batch_norm_terms
from models.blocks.merging import Kernel, become, check_middle, folded, merged, silence
from models.blocks.taking import Take
from models.registry import register, scaled


@register(scaled)
class DiverseBranch(nn.Module):
    """`act(kxk + 1x1 + 1x1-kxk + 1x1-average)` (Ding et al. 2021, Diverse Branch Block, figure 1).

    (B, c1, H, W) -> (B, c2, H', W') as a k x k Conv of stride s. A BatchNorm follows every convolution and
    the average of k x k pixels; the inner 1x1 of the third branch keeps the channels and starts as the
    identity. `fuse` leaves one biased convolution: the paper's transforms I (BatchNorm), III (1x1, then k x
    k), V (average), VI (kernel sizes) and II (sum).

    Deviation: in the branches that begin with a 1x1 convolution the map is padded before it, not behind its
    BatchNorm with the value that this makes of zeros. In evaluation mode that is the same; in training the
    border counts in the statistics.
    """

    def __init__(self, c1: int, c2: int, k: int = 3, s: int = 1, g: int = 1, act: Activation = True) -> None:
        super().__init__()
        check_middle("DiverseBranch", k)
        for name, channels in (("c1", c1), ("c2", c2)):
            if not isinstance(g, int) or g < 1 or channels % g:
                raise ValueError(f"DiverseBranch: {name} must be a multiple of g = {g}, got {channels}")
        self.k, self.s = k, s
        self.main: Conv | None = Conv(c1, c2, k, s, g=g, act=False)
        self.point: Conv | None = Conv(c1, c2, 1, s, g=g, act=False)
        self.deep: nn.Sequential | None = nn.Sequential(
            Conv(c1, c1, g=g, act=False), Conv(c1, c2, k, s, p=0, g=g, act=False)
        )
        nn.init.dirac_(self.deep[0].get_parameter("conv.weight"), groups=g)
        self.average: nn.Sequential | None = nn.Sequential(
            Conv(c1, c2, g=g, act=False), nn.AvgPool2d(k, s), batch_norm(c2)
        )
        self.act = make_activation(act)
        self.conv: nn.Conv2d | None = None  # the only one, once it is fused

    def forward(self, x: Tensor) -> Tensor:
        if self.main is None or self.point is None or self.deep is None or self.average is None:
            assert self.conv is not None
            return self.act(self.conv(x))
        half = self.k // 2
        padded = F.pad(x, (half, half, half, half))
        return self.act(self.main(x) + self.point(x) + self.deep(padded) + self.average(padded))

    def fuse(self) -> None:
        """Leave one biased convolution, for inference. A second call changes nothing."""
        if self.main is None or self.point is None or self.deep is None or self.average is None:
            return
        first, then = (folded(unit) for unit in self.deep)
        deep = in_turn(first, then, self.main.conv.groups)
        point, shift = folded(self.average[0])
        scale, more = batch_norm_terms(self.average[2])  # type: ignore[arg-type]
        mean = point.expand(-1, -1, self.k, self.k) / self.k**2 * scale.reshape(-1, 1, 1, 1)
        parts = (folded(self.point), deep, (mean, shift * scale + more))
        self.conv = become(self.main, merged(folded(self.main), parts))
        self.main, self.point, self.deep, self.average = None, None, None, None

    def adopt(self, other: nn.Module, take: Take) -> None:
        """A Conv's kernel and norm in the k x k branch; the other branches add nothing at first."""
        if not isinstance(other, Conv) or self.main is None or self.point is None:
            take.alike(self, other)
            return
        take.unit(self.main, other)
        if take.has(self.main.conv.weight):
            assert self.deep is not None and self.average is not None
            silence(take, (self.point.bn, self.deep[1].bn, self.average[2]))  # type: ignore[arg-type]


def in_turn(first: Kernel, then: Kernel, groups: int) -> Kernel:
    """A 1x1 convolution (c, c / g, 1, 1) and a k x k one (c2, c / g, k, k) behind it as one; all with biases.

    In group g, `sum_m then[o, m] first[m, i]`; the bias of the first reaches all taps, as the map is padded
    before it.
    """
    (point, shift), (kernel, bias) = first, then
    c2, inner = kernel.shape[:2]
    inside = point.reshape(groups, inner, point.shape[1])  # g, m, i
    outside = kernel.reshape(groups, c2 // groups, inner, *kernel.shape[2:])
    made = torch.einsum("gomyx,gmi->goiyx", outside, inside).flatten(0, 1)
    constant = torch.einsum("gomyx,gm->go", outside, shift.reshape(groups, inner)).flatten()
    return made, bias + constant
