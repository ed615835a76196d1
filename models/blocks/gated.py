"""Recursive gated convolution (HorNet, arXiv 2207.14284)."""

from __future__ import annotations

from torch import Tensor, nn

from models.blocks.conv import Conv
from models.blocks.gate import zero
from models.registry import keeping, register

ALPHA = 3.0


@register(keeping, example=(3,))
class GnConv(nn.Module):
    """`x + gnconv(x)`, high-order interactions between pixels (Rao et al. 2022, §3.1, equations 3.3 to 3.5).

    (B, c1, H, W) -> the same shape. With widths c_k = c1 / 2^(order - 1 - k): a 1x1 Conv makes p of c_0
    channels and q of all widths together; a depthwise k x k convolution filters q, which is divided by alpha;
    then `p_1 = p * q_0` and `p_(k + 1) = g_k(p_k) * q_k` with 1x1 convolutions g_k from c_(k - 1) to c_k
    channels; and a last 1x1 convolution mixes p_order. All but the first have biases.

    Deviations from the paper: the BatchNorm of the first Conv in place of the LayerNorm before the block,
    which folds; no layer scale and no MLP behind it; alpha, of which the paper gives no number, is 3.
    """

    def __init__(self, c1: int, order: int = 5, k: int = 7) -> None:
        super().__init__()
        if not isinstance(order, int) or isinstance(order, bool) or order < 1:
            raise ValueError(f"GnConv: the order must be an integer >= 1, got {order!r}")
        if c1 % 2 ** (order - 1):
            raise ValueError(
                f"GnConv of order {order} halves its channels {order - 1} times: they must be a multiple of "
                f"{2 ** (order - 1)}, got {c1}"
            )
        if not isinstance(k, int) or isinstance(k, bool) or k < 1 or k % 2 == 0:
            raise ValueError(f"GnConv pads to keep the map's size: its kernel must be odd, got {k!r}")
        self.widths = [c1 // 2 ** (order - 1 - place) for place in range(order)]
        self.proj_in = Conv(c1, self.widths[0] + sum(self.widths), act=False)
        self.dwconv = nn.Conv2d(
            sum(self.widths), sum(self.widths), k, padding=k // 2, groups=sum(self.widths)
        )
        self.pws = nn.ModuleList(nn.Conv2d(a, b, 1) for a, b in zip(self.widths, self.widths[1:]))
        self.proj_out = nn.Conv2d(c1, c1, 1)

    def forward(self, x: Tensor) -> Tensor:
        first, rest = self.proj_in(x).split((self.widths[0], sum(self.widths)), dim=1)
        filtered = (self.dwconv(rest) * (1 / ALPHA)).split(self.widths, dim=1)
        y = first * filtered[0]
        for place, mix in enumerate(self.pws, start=1):
            y = mix(y) * filtered[place]
        return x + self.proj_out(y)

    def pass_through(self) -> None:
        """Return the input until something better is learnt."""
        zero(self.proj_out)
