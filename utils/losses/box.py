"""The box loss: what a predicted box costs beside its label, for each choice of the hyper-parameter `iou`.

Most choices are 1 - overlap for an overlap measure (IoU, CIoU, …) of `utils.boxes.iou`. Two weight such a
loss pair by pair, so that some qualities of answers teach more than others.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from utils.boxes import EPS, IOU_KINDS, PairGeometry, iou

FOCAL_GAMMA = 0.5  # Focal-EIoU
FOCUS_ALPHA, FOCUS_DELTA = 1.9, 3.0  # WIoU v3
# The authors of WIoU advise 1 - 0.05^(1 / tn), where tn > 7000 is the number of batches after which the start
# of the running mean shall count for 5 %.
MEAN_MOMENTUM = 1 - 0.05 ** (1 / 7000)


@dataclass
class RunningMean:
    """Running mean of the IoU loss, 1 - IoU, over the matched pairs of training: WIoU's measure of quality.

    It starts at 1, as the paper has it: then poor boxes learn most while most boxes are poor, and it is slow
    to change that. In a run of much less than 7000 batches it therefore stays near 1. It is part of the
    training state.
    """

    value: float = 1.0

    def update(self, losses: Tensor, average: Callable[[Tensor], Tensor]) -> None:
        """Move towards the mean of a batch; a batch without pairs moves nothing.

        Args:
            losses: (K,) 1 - IoU of this process's pairs, without gradient; K may be 0.
            average: element-wise mean of a tensor over the processes that train together. It is called once
                on each of them, so that all hold the same value, that of all their pairs.
        """
        total = torch.stack((losses.sum(), losses.new_tensor(len(losses))))
        loss_sum, pairs = average(total).tolist()
        if pairs:
            self.value += MEAN_MOMENTUM * (loss_sum / pairs - self.value)


def _focal_eiou(pair: PairGeometry, mean: float) -> tuple[Tensor, Tensor]:
    """IoU^0.5 times the EIoU loss (Zhang et al., arXiv:2101.08158): good boxes teach most.

    The weight carries no gradient: it is there to weight pairs. As a factor that is learned it would reward
    less overlap where IoU is small, as IoU^0.5 (1 - IoU) rises up to 1/3, and its slope is infinite at 0. A
    box that does not touch its label weighs nothing and does not learn.
    """
    overlap = IOU_KINDS["EIoU"](pair)
    weight = pair.iou.detach() ** FOCAL_GAMMA
    return weight * (1 - overlap), overlap


def _wiou(pair: PairGeometry, mean: float) -> tuple[Tensor, Tensor]:
    """Wise-IoU version 3 (Tong et al., arXiv:2301.10051): pairs of ordinary quality teach most.

    Version 1 is the IoU loss times a distance attention, e to the squared centre distance over the squared
    hull diagonal. Version 3 multiplies it by b / (delta alpha^(b - delta)), where b is the pair's IoU loss
    over the running mean. As in the paper, the hull diagonal carries no gradient, which would hinder
    convergence (a larger hull costs less), and neither does the focusing factor.
    """
    loss = 1 - pair.iou
    diagonal = (pair.hull_w.square() + pair.hull_h.square() + EPS).detach()
    attention = torch.exp((pair.dx.square() + pair.dy.square()) / diagonal)
    outlier = loss.detach() / mean
    focus = outlier / (FOCUS_DELTA * FOCUS_ALPHA ** (outlier - FOCUS_DELTA))
    return focus * attention * loss, pair.iou


# Losses other than 1 - overlap: of a pair and the running mean, the loss and the overlap that it weights.
WEIGHTED: dict[str, Callable[[PairGeometry, float], tuple[Tensor, Tensor]]] = {
    "Focal-EIoU": _focal_eiou,
    "WIoU": _wiou,
}


def box_loss(
    kind: str, boxes: Tensor, labels: Tensor, image: tuple[float, float], mean: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Loss of predicted boxes beside their labels, pair by pair.

    Args:
        kind: one of `IOU_KINDS` or `WEIGHTED`.
        boxes: (K, 4) float, xywh in any unit.
        labels: the same.
        image: width and height of the image in that unit.
        mean: of the IoU loss in training so far (`RunningMean`), above 0; only WIoU looks at it.

    Returns:
        The loss, (K,), and the overlap, (K,) at most 1, without gradient: the measure where the loss is
        1 - measure, and the one that is weighted elsewhere, EIoU for Focal-EIoU and IoU for WIoU.

    Raises:
        ValueError: an unknown kind.
    """
    if kind in WEIGHTED:
        loss, overlap = WEIGHTED[kind](PairGeometry.of(boxes, labels), mean)
    else:
        overlap = iou(boxes, labels, kind, image=image)
        loss = 1 - overlap
    return loss, overlap.detach()
