"""Attention to channels first and to places then: CBAM and GAM."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.blocks.conv import batch_norm
from models.blocks.gate import Gate, zero
from models.blocks.squeeze import hidden_channels, odd_kernel
from models.registry import keeping, register


class ChannelAttention(nn.Module):
    """`x * sigmoid(mlp(mean(x)) + mlp(max(x)))`: one MLP, without biases, for mean and maximum of the map."""

    def __init__(self, c1: int, ratio: int) -> None:
        super().__init__()
        hidden = hidden_channels("CBAM", c1, ratio)
        self.mean, self.max = nn.AdaptiveAvgPool2d(1), nn.AdaptiveMaxPool2d(1)
        self.fc1 = nn.Conv2d(c1, hidden, kernel_size=1, bias=False)
        self.act = nn.ReLU(inplace=True)
        self.fc2 = nn.Conv2d(hidden, c1, kernel_size=1, bias=False)
        self.gate = Gate()

    def forward(self, x: Tensor) -> Tensor:
        mean, largest = (self.fc2(self.act(self.fc1(pool(x)))) for pool in (self.mean, self.max))
        return x * self.gate(mean + largest)


class SpatialAttention(nn.Module):
    """`x * sigmoid(conv(mean | max))`, mean and maximum over the channels of each pixel; no bias."""

    def __init__(self, k: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 1, kernel_size=odd_kernel("CBAM", k), padding=k // 2, bias=False)
        self.gate = Gate()

    def forward(self, x: Tensor) -> Tensor:
        said = torch.cat((x.mean(dim=1, keepdim=True), x.amax(dim=1, keepdim=True)), dim=1)
        return x * self.gate(self.conv(said))


@register(keeping)
class CBAM(nn.Module):
    """Convolutional block attention (CBAM, arXiv 1807.06521): channels are weighed, then pixels.

    (B, c1, H, W) -> the same shape, 2 c1^2 / ratio + 2 k^2 weights. The gate of channels is an MLP on mean
    and maximum of the map, that of pixels a k x k convolution on mean and maximum of the channels.

    Deviation from the authors' code, not from the paper's equations: no BatchNorm before the second sigmoid,
    and no biases.
    """

    def __init__(self, c1: int, ratio: int = 16, k: int = 7) -> None:
        """
        Raises:
            ValueError: `ratio` is 3 or 7: in other trees, where CBAM has no ratio, that is the kernel.
        """
        super().__init__()
        if ratio in (3, 7):
            raise ValueError(
                f"CBAM: {ratio}, which other trees take for the kernel, stands in the place of the ratio of "
                f"channels; for a kernel of {ratio}x{ratio} write 16, {ratio}, "
                f"for a ratio {ratio - 1} or {ratio + 1}"
            )
        self.channel = ChannelAttention(c1, ratio)
        self.spatial = SpatialAttention(k)

    def forward(self, x: Tensor) -> Tensor:
        return self.spatial(self.channel(x))

    def pass_through(self) -> None:
        """Return the input until something better is learnt."""
        zero(self.channel.fc2, self.spatial.conv)
        self.channel.gate.open()
        self.spatial.gate.open()


@register(keeping)
class GAM(nn.Module):
    """Global attention (GAM, arXiv 2112.05561): an MLP for every pixel, then two 7x7 convolutions.

    Nothing is pooled: both gates have the shape of the map, (B, c1, H, W), as has the output.

        channel   sigmoid of a linear layer to c1 / ratio, ReLU, and a linear layer back, for every pixel
        spatial   sigmoid of a 7x7 convolution to c1 / ratio, BatchNorm, ReLU, 7x7 back, BatchNorm

    All have biases. The linear layers are written as the 1x1 convolutions that they are, in place of the
    paper's permutation of axes there and back. It is heavy: 98 c1^2 / ratio weights in the second part.
    """

    def __init__(self, c1: int, ratio: int = 4) -> None:
        super().__init__()
        hidden = hidden_channels("GAM", c1, ratio)
        self.channel = nn.Sequential(
            nn.Conv2d(c1, hidden, kernel_size=1), nn.ReLU(inplace=True), nn.Conv2d(hidden, c1, kernel_size=1)
        )
        self.spatial = nn.Sequential(
            nn.Conv2d(c1, hidden, kernel_size=7, padding=3),
            batch_norm(hidden),
            nn.ReLU(inplace=True),
            nn.Conv2d(hidden, c1, kernel_size=7, padding=3),
            batch_norm(c1),
        )
        self.channel_gate, self.spatial_gate = Gate(), Gate()

    def forward(self, x: Tensor) -> Tensor:
        x = x * self.channel_gate(self.channel(x))
        return x * self.spatial_gate(self.spatial(x))

    def pass_through(self) -> None:
        """Return the input until something better is learnt."""
        zero(self.channel[2], self.spatial[4])
        self.channel_gate.open()
        self.spatial_gate.open()
