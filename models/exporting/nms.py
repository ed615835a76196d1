"""Non-maximum suppression inside the exported network, by ONNX's own operator."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from models.exporting.config import ExportConfig
from utils.boxes import xywh_to_xyxy
from utils.nms import nms_kernel


class WithSuppression(nn.Module):
    """A network of predictions (B, N, 5 + nc), followed by suppression as in detect.py: a box has one class.

    Output: (n, 7) float32, n detections of all images: image index in the batch, x1, y1, x2, y2 in pixels of
    the network's input, confidence, class. Images in order, most confident first. The thresholds of `config`
    mean what they mean in `utils.nms.non_max_suppression`; `topk_per_class` has no effect when agnostic.
    """

    def __init__(self, network: nn.Module, config: ExportConfig) -> None:
        super().__init__()
        self.network, self.config = network, config

    def forward(self, images: Tensor) -> Tensor:
        predictions = self.network(images).float()
        boxes = xywh_to_xyxy(predictions[..., :4])
        confidence, class_id = (predictions[..., 5:] * predictions[..., 4:5]).max(dim=2)  # (B, N) each
        chosen = self._choose(boxes, confidence, class_id, predictions.shape[2] - 5)
        image, index = chosen[:, 0], chosen[:, 2]
        rows = torch.cat(
            (
                image[:, None].to(boxes.dtype),
                boxes[image, index],
                confidence[image, index][:, None],
                class_id[image, index][:, None].to(boxes.dtype),
            ),
            dim=1,
        )
        return self._first(rows, images.shape[0])

    def _choose(self, boxes: Tensor, confidence: Tensor, class_id: Tensor, classes: int) -> Tensor:
        """(m, 3) int64: image, class (0 when agnostic), and index of each box that survives."""
        scores, most = confidence[:, None], self.config.topk_all
        if not self.config.agnostic_nms:
            own = class_id[:, None] == torch.arange(classes, device=class_id.device)[:, None]  # (B, nc, N)
            scores, most = scores * own.to(scores.dtype), min(self.config.topk_per_class, most)
        iou_thres, conf_thres = self.config.iou_thres, self.config.conf_thres
        return _NonMaxSuppression.apply(boxes, scores, most, iou_thres, conf_thres)

    def _first(self, rows: Tensor, batch: int) -> Tensor:
        """The `topk_all` most confident rows of each image, images in order.

        TopK is the only sort that all ONNX versions have, and how it orders equal values is not the same in
        all runtimes; so the second sort is by image and place together, which no two rows share.
        """
        count = rows.shape[0]
        rows = rows[rows[:, 5].topk(count).indices]
        place = torch.arange(count, device=rows.device)
        rows = rows[(-(rows[:, 0].long() * count + place)).topk(count).indices]
        own = (rows[:, :1] == torch.arange(batch, device=rows.device)).float()  # (n, B)
        rank = (own.cumsum(dim=0) * own).sum(dim=1)  # from 1, within the image
        return rows[(rank <= self.config.topk_all).nonzero()[:, 0]]


class _NonMaxSuppression(torch.autograd.Function):
    """The operator NonMaxSuppression of ONNX; in PyTorch the same from torchvision's kernel."""

    @staticmethod
    def forward(
        ctx: Any, boxes: Tensor, scores: Tensor, most: int, iou_thres: float, conf_thres: float
    ) -> Tensor:
        """(B, N, 4) xyxy and (B, C, N) scores to (m, 3) int64 image, class, index."""
        found = [boxes.new_zeros(0, 3, dtype=torch.long)]
        for image in range(boxes.shape[0]):
            for class_id in range(scores.shape[1]):
                (candidates,) = (scores[image, class_id] > conf_thres).nonzero(as_tuple=True)
                kept = nms_kernel()(boxes[image, candidates], scores[image, class_id, candidates], iou_thres)
                index = candidates[kept[:most]]
                place = index.new_tensor([image, class_id]).expand(len(index), 2)
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
