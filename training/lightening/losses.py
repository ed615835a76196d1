"""How far a student is from its teacher: in its maps, and in what it says of each cell."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional as F

from utils.distributed import mean_over_processes

BOX, OBJECTNESS, CLASS = 20.0, 1.0, 0.5  # how much each part of `output_error` counts


def feature_error(own: Tensor, wanted: Tensor) -> Tensor:
    """Mean squared difference of two maps (B, C, H, W) over the variance of the wanted one; 0 when equal."""
    its = wanted.float()
    variance = mean_over_processes((its - mean_over_processes(its.mean())).square().mean())
    return F.mse_loss(own.float(), its) / variance.clamp(min=1e-12)


def output_error(own: Sequence[Tensor], wanted: Sequence[Tensor], *, everywhere: bool = True) -> Tensor:
    """What the student says against what the teacher says, summed over cells, for one image.

    Objectness is a soft target in every cell; boxes and classes count as much as the teacher is sure of a
    thing there.

    Args:
        own: logits (B, na, H, W, 5 + nc) of each level.
        wanted: the teacher's, of the same shape.
        everywhere: False lets objectness, too, count as much as the teacher is sure: of one that does not
            know all classes, that it sees nothing says nothing.
    """
    total = own[0].new_zeros(())
    for mine, its in zip(own, wanted, strict=True):
        mine, its = mine.float(), its.float()
        sure = its[..., 4].sigmoid()
        weight = None if everywhere else sure
        objectness = F.binary_cross_entropy_with_logits(mine[..., 4], sure, weight, reduction="sum")
        # its own entropy
        least = F.binary_cross_entropy_with_logits(its[..., 4], sure, weight, reduction="sum")
        box = ((mine[..., :4].sigmoid() - its[..., :4].sigmoid()).square().sum(dim=-1) * sure).sum()
        total = total + OBJECTNESS * (objectness - least) + BOX * box
        if mine.shape[-1] > 6:
            classes = its[..., 5:].sigmoid()
            error = F.binary_cross_entropy_with_logits(mine[..., 5:], classes, reduction="none")
            error = error - F.binary_cross_entropy_with_logits(its[..., 5:], classes, reduction="none")
            total = total + CLASS * (error.sum(dim=-1) * sure).sum()
    return total / len(own[0])
