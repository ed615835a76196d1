"""Receptive field block (RFB, arXiv 1711.07767): branches whose reach and dilation grow together."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.blocks.activation import Activation, make_activation
from models.blocks.conv import Conv
from models.registry import register, scaled

DILATIONS = (1, 3, 5)


@register(scaled)
class RFB(nn.Module):
    """`act(shortcut(x) + scale * joined(x))`. (B, c1, H, W) -> (B, c2, ceil(H / s), ceil(W / s)).

    `joined` is a 1x1 Conv without activation over the concatenation of three branches of c2 * e channels:

        1x1 Conv                     -> 3x3 Conv, dilation 1: reaches  3 pixels
        1x1 Conv, 3x3 Conv           -> 3x3 Conv, dilation 3: reaches  9
        1x1 Conv, 3x3 Conv, 3x3 Conv -> 3x3 Conv, dilation 5: reaches 15

    The two 3x3 Convs of the last stand for the paper's 5x5. The dilated Convs have no activation either, and
    carry the stride. The shortcut is the input itself, or a 1x1 Conv without activation when channels or size
    change.

    Deviations from the paper: no 1 x n and n x 1 pair in place of a 3x3; the model's activation instead of
    ReLU; and all branches have equally many channels, a quarter of c2 unless `e` says otherwise.
    """

    def __init__(
        self,
        c1: int,
        c2: int,
        s: int = 1,
        scale: float = 0.1,
        e: float = 0.25,
        act: Activation = True,
    ) -> None:
        super().__init__()
        hidden = int(c2 * e)
        if hidden < 1:
            raise ValueError(f"RFB: branches need c2 * e >= 1 channels, got c2 = {c2}, e = {e}")
        if scale == 0:
            raise ValueError("RFB: scale must not be 0, the branches would never reach the output")
        self.branches = nn.ModuleList(
            nn.Sequential(
                Conv(c1, hidden, act=act),
                *(Conv(hidden, hidden, k=3, act=act) for _ in range(extra)),
                Conv(hidden, hidden, k=3, s=s, d=d, act=False),
            )
            for extra, d in enumerate(DILATIONS)
        )
        self.cv = Conv(len(DILATIONS) * hidden, c2, act=False)
        keeps = c1 == c2 and s == 1
        self.shortcut: nn.Module = nn.Identity() if keeps else Conv(c1, c2, s=s, act=False)
        self.scale = scale
        self.act = make_activation(act)

    def forward(self, x: Tensor) -> Tensor:
        joined = self.cv(torch.cat([branch(x) for branch in self.branches], dim=1))
        return self.act(self.shortcut(x) + self.scale * joined)
