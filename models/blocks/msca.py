"""Multi-scale convolutional attention (MSCA of SegNeXt, arXiv 2209.08575)."""

from __future__ import annotations

from torch import Tensor, nn

from models.registry import keeping, register

STRIPS = (7, 11, 21)


@register(keeping)
class MSCA(nn.Module):
    """`conv3(a + sum of strips(a)) * x` with `a = conv0(x)`. (B, dim, H, W) -> the same shape.

    `conv0` is a depthwise 5x5 convolution; each of the three strips is a depthwise 1 x k convolution and a k
    x 1 one after it, k = 7, 11, 21, which together reach k x k pixels at the cost of 2k weights; `conv3` is
    1x1 over all channels. All have a bias and keep the size; there is no BatchNorm, no activation and no
    sigmoid, as in the paper. The projections, shortcut and feed-forward layers that SegNeXt wraps around it
    are not part of it.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.conv0 = _depthwise(dim, 5, 5)
        self.conv0_1, self.conv0_2 = _strip(dim, STRIPS[0])
        self.conv1_1, self.conv1_2 = _strip(dim, STRIPS[1])
        self.conv2_1, self.conv2_2 = _strip(dim, STRIPS[2])
        self.conv3 = nn.Conv2d(dim, dim, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        near = self.conv0(x)
        scales = near + self.conv0_2(self.conv0_1(near))
        scales = scales + self.conv1_2(self.conv1_1(near))
        scales = scales + self.conv2_2(self.conv2_1(near))
        return self.conv3(scales) * x

    def pass_through(self) -> None:
        """Return the input until something better is learnt: a weight of 1 everywhere."""
        assert self.conv3.bias is not None
        nn.init.zeros_(self.conv3.weight)
        nn.init.ones_(self.conv3.bias)


def _depthwise(dim: int, height: int, width: int) -> nn.Conv2d:
    padding = (height // 2, width // 2)
    return nn.Conv2d(dim, dim, kernel_size=(height, width), padding=padding, groups=dim)


def _strip(dim: int, k: int) -> tuple[nn.Conv2d, nn.Conv2d]:
    return _depthwise(dim, 1, k), _depthwise(dim, k, 1)
