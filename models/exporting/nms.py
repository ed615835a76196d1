"""Non-maximum suppression inside the exported network, by ONNX's own operator."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from utils.boxes import xywh_to_xyxy
from utils.nms import nms_kernel


@dataclass(frozen=True)
class Suppression:
    """What is kept. The thresholds mean what they mean in `utils.nms.non_max_suppression`.

    Attributes:
        most: detections kept per image, most confident first.
        most_per_class: detections of one class kept per image; without effect when agnostic.
    """

    conf_thres: float = 0.25
    iou_thres: float = 0.45
    most: int = 100
    most_per_class: int = 100
    agnostic: bool = False


class WithSuppression(nn.Module):
    """A network of predictions (B, N, 5 + nc), followed by suppression as in detect.py: a box has one class.

    Output: (n, 7) float32, n detections of all images: image index in the batch, x1, y1, x2, y2 in pixels of
    the network's input, confidence, class. Images in order, most confident first.
    """

    def __init__(self, network: nn.Module, rule: Suppression) -> None:
        super().__init__()
        self.network, self.rule = network, rule

    def forward(self, images: Tensor) -> Tensor:
        predictions = self.network(images).float()
        boxes = xywh_to_xyxy(predictions[..., :4])
        confidence, category = (predictions[..., 5:] * predictions[..., 4:5]).max(dim=2)  # (B, N) each
        chosen = self._choose(boxes, confidence, category, predictions.shape[2] - 5)
        image, index = chosen[:, 0], chosen[:, 2]
        rows = torch.cat(
            (
                image[:, None].to(boxes.dtype),
                boxes[image, index],
                confidence[image, index][:, None],
                category[image, index][:, None].to(boxes.dtype),
            ),
            dim=1,
        )
        return self._first(rows, images.shape[0])

    def _choose(self, boxes: Tensor, confidence: Tensor, category: Tensor, classes: int) -> Tensor:
        """(m, 3) int64: image, class (0 when agnostic), and index of each box that survives."""
        rule = self.rule
        if rule.agnostic:
            scores, most = confidence[:, None], rule.most
        else:
            own = category[:, None] == torch.arange(classes, device=category.device)[:, None]  # (B, nc, N)
            scores, most = confidence[:, None] * own.to(confidence.dtype), min(rule.most_per_class, rule.most)
        return _NonMaxSuppression.apply(boxes, scores, most, rule.iou_thres, rule.conf_thres)

    def _first(self, rows: Tensor, batch: int) -> Tensor:
        """The `most` most confident rows of each image, images in order.

        TopK is the only sort that all ONNX versions have, and how it orders equal values is not the same in
        all runtimes; so the second sort is by image and place together, which no two rows share.
        """
        count = rows.shape[0]
        rows = rows[rows[:, 5].topk(count).indices]
        place = torch.arange(count, device=rows.device)
        rows = rows[(-(rows[:, 0].long() * count + place)).topk(count).indices]
        own = (rows[:, :1] == torch.arange(batch, device=rows.device)).float()  # (n, B)
        rank = (own.cumsum(dim=0) * own).sum(dim=1)  # from 1, within the image
        return rows[(rank <= self.rule.most).nonzero()[:, 0]]


class _NonMaxSuppression(torch.autograd.Function):
    """The operator NonMaxSuppression of ONNX; in PyTorch the same from torchvision's kernel."""

    @staticmethod
    def forward(
        ctx: Any, boxes: Tensor, scores: Tensor, most: int, iou_thres: float, conf_thres: float
    ) -> Tensor:
        """(B, N, 4) xyxy and (B, C, N) scores to (m, 3) int64 image, class, index."""
        found = [boxes.new_zeros(0, 3, dtype=torch.long)]
        for image in range(boxes.shape[0]):
            for category in range(scores.shape[1]):
                (candidates,) = (scores[image, category] > conf_thres).nonzero(as_tuple=True)
                kept = nms_kernel()(boxes[image, candidates], scores[image, category, candidates], iou_thres)
                index = candidates[kept[:most]]
                place = index.new_tensor([image, category]).expand(len(index), 2)
                found.append(torch.cat((place, index[:, None]), dim=1))
        return torch.cat(found)

    @staticmethod
    def symbolic(g: Any, boxes: Any, scores: Any, most: int, iou_thres: float, conf_thres: float) -> Any:
        limits = (
            g.op("Constant", value_t=torch.tensor([most])),
            g.op("Constant", value_t=torch.tensor([iou_thres])),
            g.op("Constant", value_t=torch.tensor([conf_thres])),
        )
        return g.op("NonMaxSuppression", boxes, scores, *limits)
