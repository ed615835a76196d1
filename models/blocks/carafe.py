"""Up-sampling by content-aware reassembly (CARAFE, arXiv 1905.02188)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.blocks.squeeze import odd_kernel
from models.blocks.taking import Take
from models.registry import keeping, register

LARGEST_SCALE = 16
NEAREST = 8.0  # logit of the middle, in place of a nearest-neighbour Upsample


@register(keeping)
class CARAFE(nn.Module):
    """Each fine pixel is a mixture of k_up x k_up coarse ones. (B, c1, H, W) -> (B, c1, scale * H, scale *
    W).

    The mixtures come from the map: a 1x1 convolution to `c_mid` channels, a k_enc x k_enc convolution to
    k_up^2 * scale^2, and softmax over the k_up^2 pixels around the coarse one, for each of the scale^2 fine
    ones. All channels share them. Outside the map there are zeros. Both convolutions have biases; as in the
    paper, nothing stands between them.

    In place of a nearest-neighbour Upsample, the middle pixel has 99 % of every mixture at first (k_up = 5):
    a softmax is never one pixel alone, and hardly learns where it nearly is.
    """

    def __init__(self, c1: int, scale: int = 2, k_up: int = 5, k_enc: int = 3, c_mid: int = 64) -> None:
        super().__init__()
        for name, value in (("scale", scale), ("c_mid", c_mid)):
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"CARAFE: {name} must be an integer >= 1, got {value!r}")
        if scale > LARGEST_SCALE:
            raise ValueError(
                f"CARAFE: scale must be at most {LARGEST_SCALE}, got {scale}; channels are not written"
            )
        self.factor, self.k_up = scale, odd_kernel("CARAFE", k_up)
        self.compress = nn.Conv2d(c1, c_mid, kernel_size=1)
        padding = odd_kernel("CARAFE", k_enc) // 2
        self.encode = nn.Conv2d(c_mid, scale**2 * k_up**2, kernel_size=k_enc, padding=padding)

    def forward(self, x: Tensor) -> Tensor:
        batch, _, height, width = x.shape
        logits = self.encode(self.compress(x))
        shares = logits.reshape(batch, self.k_up**2, self.factor**2, height, width).softmax(dim=1)
        reach = self.k_up // 2
        padded = F.pad(x, (reach, reach, reach, reach))
        fine = []
        for place in range(self.k_up**2):
            down, right = divmod(place, self.k_up)
            moved = padded[:, :, down : down + height, right : right + width]
            fine.append(moved.unsqueeze(2) * shares[:, place].unsqueeze(1))  # (B, C, scale^2, H, W)
        return F.pixel_shuffle(sum(fine[1:], fine[0]).flatten(1, 2), self.factor)

    def adopt(self, other: nn.Module, take: Take) -> None:
        """Nearly the pixel that a nearest-neighbour Upsample gives."""
        if not isinstance(other, nn.Upsample) or other.mode != "nearest" or other.scale_factor != self.factor:
            return
        logits = torch.zeros(self.k_up**2, self.factor**2)
        logits[self.k_up**2 // 2] = NEAREST
        assert self.encode.bias is not None
        take(self.encode.weight, torch.zeros_like(self.encode.weight))
        take(self.encode.bias, logits.flatten())
