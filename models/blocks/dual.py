"""DualConv (arXiv 2202.07481): a grouped 3x3 and a 1x1 convolution side by side, summed."""

from __future__ import annotations

from torch import Tensor, nn

from models.blocks.conv import Conv
from models.blocks.csp import Bottleneck, C3Shell
from models.blocks.taking import Take, fitting_kernel, linear_part
from models.registry import register, scaled, stacked


@register(scaled)
class DualConv(nn.Module):
    """`gc(x) + pwc(x)`: a 3x3 convolution in `g` groups plus a 1x1 over all channels, neither with bias.

    (B, c1, H, W) -> (B, c2, ceil(H / s), ceil(W / s)); c1 and c2 are multiples of g.
    """

    def __init__(self, c1: int, c2: int, s: int = 1, g: int = 4) -> None:
        super().__init__()
        for name, channels in (("c1", c1), ("c2", c2)):
            if g < 1 or channels % g:
                raise ValueError(
                    f"DualConv has g = {g} groups: {name} must be a multiple of it, got {channels}"
                )
        self.gc = nn.Conv2d(c1, c2, kernel_size=3, stride=s, padding=1, groups=g, bias=False)
        self.pwc = nn.Conv2d(c1, c2, kernel_size=1, stride=s, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.gc(x) + self.pwc(x)

    def adopt(self, other: nn.Module, take: Take) -> None:
        """Of a 3x3 Conv the whole kernels of each group, and the middle of all others; its slope at zero."""
        kernel = linear_part(other)
        if kernel is None or kernel.shape[2:] != (3, 3):
            return
        grouped = fitting_kernel(kernel, self.gc)
        if grouped is not None:
            take(self.gc.weight, grouped)
            middle = kernel[:, :, 1:2, 1:2].clone()
            rows, columns = (n // self.gc.groups for n in middle.shape[:2])
            for g in range(self.gc.groups):
                middle[g * rows : (g + 1) * rows, g * columns : (g + 1) * columns] = 0
            take(self.pwc.weight, middle)


class DualBottleneck(nn.Module):
    """1x1 Conv, then DualConv without BN or activation; plus the input when `shortcut`."""

    def __init__(self, channels: int, shortcut: bool, g: int) -> None:
        super().__init__()
        self.cv1 = Conv(channels, channels)
        self.cv2 = DualConv(channels, channels, g=g)
        self.add = shortcut

    def forward(self, x: Tensor) -> Tensor:
        y = self.cv2(self.cv1(x))
        return x + y if self.add else y

    def adopt(self, other: nn.Module, take: Take) -> None:
        take.alike(self, other)
        if isinstance(other, Bottleneck):
            take.module(self.cv2, other.cv2)


@register(stacked)
class C3Dual(C3Shell):
    """C3 whose n bottlenecks have a DualConv with `g` groups in place of their 3x3 Conv."""

    def __init__(
        self, c1: int, c2: int, n: int = 1, shortcut: bool = True, g: int = 4, e: float = 0.5
    ) -> None:
        hidden = int(c2 * e)
        bottlenecks = (DualBottleneck(hidden, shortcut, g) for _ in range(n))
        super().__init__(c1, c2, hidden, nn.Sequential(*bottlenecks))
