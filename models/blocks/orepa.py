"""Online convolutional re-parameterisation (OREPA, arXiv 2204.00826): many branches, one convolution."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.blocks.activation import Activation
from models.blocks.conv import Conv, Size
from models.blocks.taking import Take, fitting_kernel
from models.registry import register, scaled

SCALES = (1.0, 0.5, 0.5, 0.5, 0.5)  # initial factor of each branch


class MergedConv2d(nn.Module):
    """Five linear branches on the same input, run as the one convolution that equals their sum.

    Every branch is a stack of convolutions without bias, BN or activation, times a learned factor per output
    channel, `scale[i]`. Such stacks are single convolutions whose kernels can be computed from the weights,
    whatever the image; zero padding commutes with them, since a 1x1 convolution without bias keeps zeros. In
    order:

        kxk          k x k
        expand       1x1 (`expand_1x1`, starts as the identity), then k x k (`expand_kxk`)
        average      1x1, then the mean of k x k pixels
        frequency    1x1, then per output channel one fixed k x k wave of the discrete cosine transform
        separable    depthwise k x k, then 1x1 (`pointwise`)

    `conv` gives kernel size, stride, padding, dilation and groups, and becomes the branch `kxk`.
    """

    frequency: Tensor

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        c2, inputs, height, width = conv.weight.shape
        c1 = conv.in_channels
        self.kxk = conv
        self.expand_1x1 = nn.Parameter(torch.empty(c1, inputs, 1, 1))
        self.expand_kxk = nn.Parameter(torch.empty(c2, inputs, height, width))
        self.average = nn.Parameter(torch.empty(c2, inputs, 1, 1))
        self.frequency_1x1 = nn.Parameter(torch.empty(c2, inputs, 1, 1))
        self.depthwise = nn.Parameter(torch.empty(c1, 1, height, width))
        self.pointwise = nn.Parameter(torch.empty(c2, inputs, 1, 1))
        self.scale = nn.Parameter(torch.tensor(SCALES).unsqueeze(1).repeat(1, c2))
        self.register_buffer("frequency", cosine_waves(c2, height, width), persistent=False)
        for weight in (self.expand_kxk, self.average, self.frequency_1x1, self.depthwise, self.pointwise):
            nn.init.kaiming_uniform_(weight, a=math.sqrt(5))  # as torch's convolutions do
        nn.init.dirac_(self.expand_1x1, groups=conv.groups)

    def forward(self, x: Tensor) -> Tensor:
        conv = self.kxk
        return F.conv2d(
            x,
            self.kernel(),
            stride=conv.stride,
            padding=conv.padding,
            dilation=conv.dilation,
            groups=conv.groups,
        )

    def kernel(self) -> Tensor:
        """(c2, c1 / g, kh, kw): the kernel that equals all branches together."""
        scale = self.scale.reshape(len(SCALES), -1, 1, 1, 1)
        _, _, height, width = self.kxk.weight.shape
        kernel = scale[0] * self.kxk.weight + scale[1] * self._expanded()
        kernel = kernel + scale[2] * self.average / (height * width)
        kernel = kernel + scale[3] * self.frequency_1x1 * self.frequency
        return kernel + scale[4] * self._separable()

    def _expanded(self) -> Tensor:
        """1x1 then k x k: input i of group g reaches output o over every middle channel m."""
        groups, shape = self.kxk.groups, self.expand_kxk.shape
        first = self.expand_1x1.reshape(groups, shape[1], shape[1])
        second = self.expand_kxk.reshape(groups, shape[0] // groups, shape[1], -1)
        return torch.einsum("gmi,gomk->goik", first, second).reshape(shape)

    def _separable(self) -> Tensor:
        """Depthwise k x k then 1x1: the wave of input i, weighed for output o."""
        groups, (c2, inputs, height, width) = self.kxk.groups, self.kxk.weight.shape
        first = self.depthwise.reshape(groups, 1, inputs, height, width)
        second = self.pointwise.reshape(groups, c2 // groups, inputs, 1, 1)
        return (first * second).reshape(c2, inputs, height, width)

    def squeezed(self) -> nn.Conv2d:
        """The branches as a plain convolution: `kxk` with the merged kernel. This module ends."""
        grad = self.kxk.weight.requires_grad
        self.kxk.weight = nn.Parameter(self.kernel().detach(), requires_grad=grad)
        return self.kxk


def cosine_waves(channels: int, height: int, width: int) -> Tensor:
    """(channels, 1, height, width): two-dimensional DCT-II waves, frequencies dealt to the channels in turn.

    Wave (u, v) is cos(pi u (y + 1/2) / height) * cos(pi v (x + 1/2) / width). The constant one, u = v = 0,
    is left out: that is the average branch.
    """
    y, x = (torch.arange(size) for size in (height, width))
    vertical = (y[:, None] * (y + 0.5) * math.pi / height).cos()  # (u, y)
    horizontal = (x[:, None] * (x + 0.5) * math.pi / width).cos()  # (v, x)
    waves = vertical[:, None, :, None] * horizontal[None, :, None, :]  # (u, v, y, x)
    varying = waves.flatten(0, 1)[1:]
    return varying[torch.arange(channels) % len(varying)].unsqueeze(1)


@register(scaled)
class OREPA(Conv):
    """Conv whose kernel is merged from five linear branches on every call: one convolution for all of them.

    (B, c1, H, W) -> (B, c2, H', W') with k, s, p, g, d and act as Conv has them. As in the paper, the
    branches have linear scaling in place of their BatchNorms (see `MergedConv2d`) and one BatchNorm follows
    their sum. `fuse` leaves a Conv: all branches and the BatchNorm in one biased convolution.

    Choices of this implementation: the 1x1 - k x k branch is c1 wide in the middle and starts with the
    identity; the depthwise branch has one filter per input channel; scaling starts at 1 for the k x k branch
    and 1/2 for the others; the frequency branch has no constant wave. Deviation from the paper: its forms for
    1x1 convolutions and for deep stems are not here, so k must be larger than 1x1.
    """

    def __init__(
        self,
        c1: int,
        c2: int,
        k: Size = 3,
        s: Size = 1,
        p: Size | None = None,
        g: int = 1,
        d: int = 1,
        act: Activation = True,
    ) -> None:
        for name, channels in (("c1", c1), ("c2", c2)):
            if g < 1 or channels % g:
                raise ValueError(f"OREPA has g = {g} groups: {name} must be a multiple of it, got {channels}")
        super().__init__(c1, c2, k, s, p=p, g=g, d=d, act=act)
        if self.conv.kernel_size == (1, 1):
            raise ValueError(f"OREPA merges kernels larger than 1x1, got k = {k}; use Conv there")
        self.conv = MergedConv2d(self.conv)  # type: ignore[assignment]  # stands where a convolution stood

    def adopt(self, other: nn.Module, take: Take) -> None:
        """A Conv's kernel as that of all branches together, and its norm. The branches keep what they begin
        with, and `kxk` makes up for it."""
        merged, source = self.conv, getattr(other, "conv", None)
        if not (
            isinstance(other, Conv) and isinstance(merged, MergedConv2d) and isinstance(source, nn.Conv2d)
        ):
            take.alike(self, other)
            return
        kernel = fitting_kernel(source.weight, merged.kxk, source.groups)
        if kernel is None or not isinstance(other.bn, nn.BatchNorm2d):
            return
        first = merged.scale[0].view(-1, 1, 1, 1)
        for tensor in merged.parameters():
            take(tensor, tensor)
        take(merged.kxk.weight, merged.kxk.weight + (kernel - merged.kernel()) / first)
        take.norm(self.bn, other.bn)

    def fuse(self) -> None:
        """Leave one biased convolution, for inference. A second call changes nothing."""
        if isinstance(self.conv, MergedConv2d):
            self.conv = self.conv.squeezed()
        super().fuse()
