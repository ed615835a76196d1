"""The training loss: which cells answer for which labels, and what their answers cost.

Shapes: B images, `nl` levels, `na` anchors a level, H x W cells of a level, `nc` classes, M labels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from utils.hyperparameters import Hyperparameters
from utils.losses.composition import BoxLoss, RunningMean
from utils.losses.overlaps import PairGeometry
from utils.losses.scores import ScoreLoss, Scores, class_weights

# Objectness weight per level: fine levels have many more cells, and most of them are background.
THREE_LEVELS_BALANCE: tuple[float, ...] = (4.0, 1.0, 0.4)
MANY_LEVELS_BALANCE = (4.0, 1.0, 0.25, 0.06, 0.02)

# Cells that may answer for a label: its own, then the ones left, above, right and below.
NEIGHBOURS = ((0.0, 0.0), (-1.0, 0.0), (0.0, -1.0), (1.0, 0.0), (0.0, 1.0))


@dataclass(frozen=True)
class Assignment:
    """The K positive cells of one level. A cell may occur more than once, for different labels."""

    cells: tuple[Tensor, Tensor, Tensor, Tensor]  # image, anchor, row, column: (K,) long each
    cls: Tensor  # (K,) long
    boxes: Tensor  # (K, 4) float32, label centre relative to the cell's corner, and its size; grid units
    priors: Tensor  # (K, 2) float32, the anchor's width and height, grid units

    def __len__(self) -> int:
        return len(self.cls)


def assign(targets: Tensor, anchors: Tensor, grid: tuple[int, int], anchor_t: float) -> Assignment:
    """Match labels to the anchors and cells of one level.

    A label and an anchor match when neither their widths nor their heights differ by a factor of `anchor_t`
    or more. A matched label belongs to the cell around its centre and to the nearest cell on each axis, if
    that is on the map.

    Args:
        targets: (M, 6) float: image, class, cx, cy, w, h as fractions of the image.
        anchors: (na, 2) float, width and height in grid units.
        grid: rows and columns of the level.
        anchor_t: the ratio at which a match ends, above 1.
    """
    size = targets.new_tensor([grid[1], grid[0]])
    ratio = targets[None, :, 4:] * size / anchors[:, None]  # (na, M, 2)
    anchor, label = (torch.maximum(ratio, 1 / ratio).amax(dim=2) < anchor_t).nonzero(as_tuple=True)

    centre = targets[label, 2:4] * size
    own = torch.minimum(centre.floor(), size - 1)  # a centre on the far border belongs to the last cell
    lean = centre - own - 0.5  # on which side of the cell's middle, per axis
    step = targets.new_tensor(NEIGHBOURS)[:, None]  # (5, 1, 2)
    on_map = ((own + step >= 0) & (own + step < size)).all(dim=2)
    accepted = ((step * lean).sum(dim=2) > 0) & on_map
    accepted[0] = True
    direction, match = accepted.nonzero(as_tuple=True)

    cell = own[match] + step[direction, 0]
    label, anchor = label[match], anchor[match]
    boxes = torch.cat((centre[match] - cell, targets[label, 4:] * size), dim=1)
    column, row = cell.long().unbind(1)
    image, cls = targets[label, :2].long().unbind(1)
    return Assignment((image, anchor, row, column), cls, boxes, anchors[anchor])


class DetectionLoss:
    """Box, objectness and class loss of a batch.

    Args:
        anchors: (nl, na, 2) float, width and height in grid units of each level.
        nc: number of classes; with one class there is no class loss.
        hyp: the box, objectness and class loss, gains (already scaled to the model), positive weights, focal
            exponent, class weights, label smoothing, anchor_t.
        strides: (nl,) pixels a grid unit of each level, in which NWD measures; others do without.
        class_counts: (nc,) labels of each class in the training data, which class weights are made of.
        running: the mean that WIoU compares with. It follows every batch, after the loss of that batch, and
            rests where gradients are off, as in validation. By default a new one.
        average: element-wise mean of a tensor over the processes that train together; by default one trains.

    Raises:
        ValueError: anchors of another shape, too many levels, an unknown loss, or one that needs the strides
            or the counts and has none.
    """

    def __init__(
        self,
        anchors: Tensor,
        nc: int,
        hyp: Hyperparameters,
        *,
        strides: Tensor | None = None,
        class_counts: Tensor | None = None,
        running: RunningMean | None = None,
        average: Callable[[Tensor], Tensor] = lambda tensor: tensor,
    ) -> None:
        if anchors.ndim != 3 or anchors.shape[2] != 2:
            raise ValueError(f"anchors must be (nl, na, 2), found {tuple(anchors.shape)}")
        self.anchors = anchors.detach().float()
        self.nc = nc
        self.hyp = hyp
        self.box_loss = BoxLoss(hyp.iou)
        self.objectness_loss = ScoreLoss(hyp.obj_loss, hyp.obj_pw, hyp.fl_gamma)
        self.class_loss = ScoreLoss(hyp.cls_loss, hyp.cls_pw, hyp.fl_gamma)
        self.class_weights = None
        if hyp.class_weights != "none":
            if class_counts is None:
                raise ValueError(f"class weights {hyp.class_weights!r} need the counts of the classes")
            self.class_weights = class_weights(hyp.class_weights, class_counts)
        self.pixels = [None] * len(anchors) if strides is None else strides.tolist()
        self.running = RunningMean() if running is None else running
        self.average = average
        self.balance = THREE_LEVELS_BALANCE if len(anchors) == 3 else MANY_LEVELS_BALANCE
        if len(self.balance) < len(anchors):
            raise ValueError(f"{len(anchors)} levels: there are weights for {len(self.balance)} at most")

    def __call__(self, predictions: Sequence[Tensor], targets: Tensor) -> tuple[Tensor, Tensor]:
        """Loss of a batch; computed in float32 whatever the precision of the predictions.

        Args:
            predictions: nl tensors (B, na, H, W, 5 + nc) of logits.
            targets: (M, 6) float: image, class, cx, cy, w, h as fractions of the image; M may be 0.

        Returns:
            The total, a scalar multiplied by B, and its parts (3,) box, objectness, class for one image,
            weighted by their gains, detached.

        Raises:
            ValueError: predictions that do not fit the anchors or `nc`.
        """
        self._check(predictions)
        device = predictions[0].device
        self.anchors = self.anchors.to(device)
        targets = targets.to(device, torch.float32)
        parts = torch.zeros(3, device=device)
        ious = []
        for level, (logits, weight) in enumerate(zip(predictions, self.balance)):
            box, objectness, cls, iou = self._level(level, logits, targets)
            parts = parts + torch.stack((box, objectness * weight, cls))
            ious.append(iou)
        parts = parts * parts.new_tensor((self.hyp.box, self.hyp.obj, self.hyp.cls))
        if self.box_loss.batches is not None and torch.is_grad_enabled():
            self.running.update(1 - torch.cat(ious), self.average, self.box_loss.batches)
        return parts.sum() * len(predictions[0]), parts.detach()

    def _level(self, level: int, logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Unweighted box, objectness and class loss of one level, and the (K,) IoUs of its pairs.

        Objectness is to state the overlap of the cell's box and label, without gradient and at least 0, by
        the measure of the box loss's base, whatever is done to it.
        """
        wanted = torch.zeros(logits.shape[:4], device=logits.device)
        box = cls = wanted.new_zeros(())
        iou = wanted.new_zeros(0)
        rows, columns = logits.shape[2:4]
        found = assign(targets, self.anchors[level], (rows, columns), self.hyp.anchor_t)
        objectness, answers = _ReadCells.apply(logits, found)  # (B, na, H, W), (K, 5 + nc)
        if len(found):
            centre = answers[:, :2].sigmoid() * 2 - 0.5
            size = (answers[:, 2:4].sigmoid() * 2).square() * found.priors
            boxes = torch.cat((centre, size), dim=1)
            pair = PairGeometry.of(boxes, found.boxes, (columns, rows), self.pixels[level])
            cost = self.box_loss(pair, self.running.value)
            box, iou, overlap = cost.loss.mean(), cost.iou, cost.overlap.clamp(min=0)
            _write_last(wanted, found, overlap)
            if self.nc > 1:
                cls = self._classes(answers[:, 5:], found.cls, overlap)
        return box, self.objectness_loss(Scores(objectness, wanted, wanted > 0, wanted)), cls, iou

    def _classes(self, logits: Tensor, cls: Tensor, overlap: Tensor) -> Tensor:
        """Class loss of (K, nc) logits of cells with (K,) classes and overlaps."""
        rest = self.hyp.label_smoothing / 2
        wanted = torch.full_like(logits, rest).scatter_(1, cls[:, None], 1 - rest)
        positive = torch.zeros_like(logits, dtype=torch.bool).scatter_(1, cls[:, None], True)
        weights = None
        if self.class_weights is not None:
            self.class_weights = self.class_weights.to(cls.device)
            weights = self.class_weights[cls][:, None]
        return self.class_loss(Scores(logits, wanted, positive, overlap[:, None] * positive), weights)

    def _check(self, predictions: Sequence[Tensor]) -> None:
        levels, per_level = self.anchors.shape[:2]
        if len(predictions) != levels:
            raise ValueError(f"expected predictions of {levels} levels, found {len(predictions)}")
        for level, logits in enumerate(predictions):
            if logits.ndim != 5 or logits.shape[1] != per_level or logits.shape[4] != 5 + self.nc:
                raise ValueError(
                    f"level {level}: expected logits (B, {per_level}, H, W, {5 + self.nc}), "
                    f"found {tuple(logits.shape)}"
                )


class _ReadCells(torch.autograd.Function):
    """Objectness of all cells and the whole answers of positive ones, in float32.

    With two ordinary indexings, autograd builds a full-size gradient for each and adds them; with 80 classes
    nearly all of that is zeros. This fills one gradient.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, found: Assignment) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(logits)
        ctx.cells = found.cells
        return logits[..., 4].float(), logits[ctx.cells].float()

    @staticmethod
    def backward(ctx: Any, objectness: Tensor, answers: Tensor) -> tuple[Tensor, None]:
        (logits,) = ctx.saved_tensors
        gradient = torch.zeros_like(logits)
        gradient[..., 4] = objectness.to(gradient.dtype)
        gradient.index_put_(ctx.cells, answers.to(gradient.dtype), accumulate=True)
        return gradient, None


def _write_last(target: Tensor, found: Assignment, values: Tensor) -> None:
    """Set `target` (B, na, H, W) at the positive cells; of several labels on one cell the last one counts.

    Plain indexed assignment leaves the winner to chance when it runs in parallel. Here all writes to a cell
    carry the value of its last label, so that training repeats bit for bit.
    """
    cell = torch.zeros_like(found.cls)  # its place among all cells, as target.view(-1) has them
    for place, count in zip(found.cells, target.shape):
        cell = cell * count + place
    order = torch.arange(len(cell), device=cell.device)
    last = order.new_zeros(target.numel()).scatter_reduce_(0, cell, order, "amax")
    target.view(-1)[cell] = values[last[cell]]
