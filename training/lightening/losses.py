"""How far a student is from its teacher: in its maps, and in what it says of each cell."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional as F

from utils.distributed import mean_over_processes

BOX, OBJECTNESS, CLASS = 20.0, 1.0, 0.5  # how much each part of `output_error` counts
DEAD = 1e-4  # a variance below which a map says nothing, so that no small error counts as a large one
SEEN = 1e-3  # of sureness, below which a cell's boxes and classes are not looked at: nearly all of them


def feature_error(own: Tensor, wanted: Tensor) -> Tensor:
    """Mean squared difference of two maps (B, C, H, W), of each channel over the variance of the wanted one,
    or over `DEAD` if that is less; 0 when equal.

    So a channel that says little, as it knows things that are in few pictures, counts as much as others.
    """
    its = wanted.float()
    mean = mean_over_processes(its.mean(dim=(0, 2, 3), keepdim=True))
    variance = mean_over_processes((its - mean).square().mean(dim=(0, 2, 3)))
    return ((own.float() - its).square().mean(dim=(0, 2, 3)) / variance.clamp(min=DEAD)).mean()


def output_error(own: Sequence[Tensor], wanted: Sequence[Tensor], *, everywhere: bool = True) -> Tensor:
    """What the student says against what the teacher says, summed over cells, for one image.

    Objectness is a soft target in every cell; boxes and classes count as much as the teacher is sure of a
    thing there, if that is `SEEN` at least.

    Args:
        own: logits (B, na, H, W, 5 + nc) of each level.
        wanted: the teacher's, of the same shape.
        everywhere: False lets objectness, too, count as much as the teacher is sure: of one that does not
            know all classes, that it sees nothing says nothing.
    """
    total = own[0].new_zeros(())
    for mine, its in zip(own, wanted, strict=True):
        objectness, wished = mine[..., 4].float(), its[..., 4].float()
        sure = wished.sigmoid()
        weight = None if everywhere else sure
        error = F.binary_cross_entropy_with_logits(objectness, sure, weight, reduction="sum")
        # its own entropy
        least = F.binary_cross_entropy_with_logits(wished, sure, weight, reduction="sum")
        total = total + OBJECTNESS * (error - least)

        seen = sure > SEEN
        mine, its, sure = mine[seen].float(), its[seen].float(), sure[seen]
        box = (mine[:, :4].sigmoid() - its[:, :4].sigmoid()).square().sum(dim=-1)
        total = total + BOX * (box * sure).sum()
        if mine.shape[-1] > 6:
            classes = its[:, 5:].sigmoid()
            error = F.binary_cross_entropy_with_logits(mine[:, 5:], classes, reduction="none")
            error = error - F.binary_cross_entropy_with_logits(its[:, 5:], classes, reduction="none")
            total = total + CLASS * (error.sum(dim=-1) * sure).sum()
    return total / len(own[0])
