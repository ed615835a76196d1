"""The network in the form that is written: one tensor of predictions, or the raw maps of the head."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from models.blocks.detect import Detect
from models.deploy import deploy
from models.folding.forms import Chooser, by_rule
from models.folding.head import FoldedHead
from models.folding.trace import Flow
from models.yolo import DetectionModel
from utils.errors import UserError


class Predictions(nn.Module):
    """(B, C, H, W) to the decoded (B, N, 5 + nc) alone, without the logits that `Detect` gives too."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images)[0]


def exported_network(
    model: DetectionModel,
    size: tuple[int, int] | None,
    *,
    folded: bool = True,
    raw: bool = False,
    choose: Chooser = by_rule,
) -> nn.Module:
    """What is written of a model, which is left alone; see `Job.network`.

    Args:
        size: (height, width) of all images, None for any.
        folded: by `deploy`; otherwise only BatchNorm is folded into the convolutions.
        raw: maps of the head instead of predictions, see `Flow`.
        choose: which of equal forms, see `deploy`.
    """
    if folded:
        network: nn.Module = deploy(model, size, raw=raw, choose=choose)
    else:
        network = copy.deepcopy(model).fuse()
        network = Flow(network, raw=True) if raw else network
    return (network if raw else Predictions(network)).eval().requires_grad_(False)


def halved(network: nn.Module, image: Tensor) -> tuple[nn.Module, Tensor]:
    """A copy with weights in fp16 and the image for it; decodes in fp32: beyond 512, fp16 counts half pixels.

    Predictions are fp32, raw maps fp16.

    Raises:
        UserError: a weight is beyond fp16.
    """
    network = copy.deepcopy(network)
    heads = [part for part in network.modules() if isinstance(part, (FoldedHead, Detect))]
    buffers = [dict(head.named_buffers(recurse=False)) for head in heads]
    exact = {id(buffer) for kept in buffers for buffer in kept.values()}
    for name, weight in (*network.named_parameters(), *network.named_buffers()):
        if not weight.numel() or not weight.is_floating_point() or id(weight) in exact:
            continue
        if (most := float(weight.detach().abs().max())) > torch.finfo(torch.float16).max:
            raise UserError(
                f"--half: '{name}' has weights up to {most:.3g}, beyond fp16; export without --half"
            )
    network.half()
    for head, kept in zip(heads, buffers):
        for name, buffer in kept.items():  # anchors and cells stay exact
            setattr(head, name, buffer)
        if isinstance(head, FoldedHead):
            head.register_forward_pre_hook(_in_single_precision)
        elif not isinstance(network, Flow):
            for conv in head.m:
                conv.register_forward_hook(lambda conv, inputs, output: output.float())
    return network, image.half()


def _in_single_precision(head: nn.Module, inputs: Any) -> Any:
    return tuple([level.float() for level in levels] for levels in inputs)
