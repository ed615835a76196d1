"""Large separable kernel attention (LSKA, arXiv 2309.01439)."""

from __future__ import annotations

from torch import Tensor, nn

from models.blocks.squeeze import odd_kernel
from models.registry import keeping, register


@register(keeping)
class LSKA(nn.Module):
    """`conv1(strips(x)) * x`, strips that together reach k x k pixels. (B, c1, H, W) -> the same shape.

    With dilation d (2 up to k = 11, 3 beyond), depthwise and one after the other:

        conv0h, conv0v                   1 x n and n x 1 with n = 2 d - 1
        conv_spatial_h, conv_spatial_v   1 x m and m x 1 with m = floor(k / d), dilation d

    and `conv1` is 1x1 over all channels. All have a bias and keep the size; there is no activation and no
    sigmoid, as in the paper. The kernels of the paper are 7, 11, 23, 35, 41, 53. Its projections, GELU and
    shortcut around the attention are not part of it.
    """

    def __init__(self, c1: int, k: int = 7) -> None:
        super().__init__()
        d = 2 if odd_kernel("LSKA", k) <= 11 else 3
        near, far = 2 * d - 1, k // d
        if far < 3 or far % 2 == 0:
            raise ValueError(
                f"LSKA: k / {d}, rounded down, must be odd and >= 3, as for 7, 11, 23, 35; got {k}"
            )
        self.conv0h, self.conv0v = _strip(c1, near, 1)
        self.conv_spatial_h, self.conv_spatial_v = _strip(c1, far, d)
        self.conv1 = nn.Conv2d(c1, c1, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        near = self.conv0v(self.conv0h(x))
        return self.conv1(self.conv_spatial_v(self.conv_spatial_h(near))) * x

    def pass_through(self) -> None:
        """Return the input until something better is learnt: a weight of 1 everywhere."""
        assert self.conv1.bias is not None
        nn.init.zeros_(self.conv1.weight)
        nn.init.ones_(self.conv1.bias)


def _strip(c1: int, size: int, dilation: int) -> tuple[nn.Conv2d, nn.Conv2d]:
    reach = dilation * (size // 2)
    across = nn.Conv2d(c1, c1, (1, size), padding=(0, reach), dilation=dilation, groups=c1)
    down = nn.Conv2d(c1, c1, (size, 1), padding=(reach, 0), dilation=dilation, groups=c1)
    return across, down
