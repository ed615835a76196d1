"""The network in the form that is written: one tensor of predictions, or the raw maps of the head."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, fx, nn

from models.blocks.detect import Detect
from models.deploy import DeployedModel, deploy
from models.folding.head import FoldedHead
from models.parse import Layer, run_layers
from models.yolo import DetectionModel


class Predictions(nn.Module):
    """(B, 3, H, W) to the decoded (B, N, 5 + nc) alone, without the logits that `Detect` gives too."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images)[0]


class RawMaps(nn.Module):
    """(B, 3, H, W) to what the head's convolutions give, (B, na * (5 + nc), h, w) of logits per level.

    Channels are ordered anchor by anchor: x, y, w, h, objectness, classes.
    """

    def __init__(self, model: DetectionModel) -> None:
        super().__init__()
        self.model, self.layers = model.model, model.layers

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        def call(layer: Layer, module: nn.Module, x: list[Tensor] | Tensor) -> Tensor | tuple[Tensor, ...]:
            if isinstance(module, Detect):
                return tuple(conv(features) for conv, features in zip(module.m, x))
            return module(x)

        return run_layers(self.model, self.layers, images, call)


def exported_network(
    model: DetectionModel, size: tuple[int, int] | None, *, folded: bool = True, raw: bool = False
) -> nn.Module:
    """What is written of a model, which is left alone; see `Job.network`.

    Args:
        size: (height, width) of all images, None for any.
        folded: by `deploy`; otherwise only BatchNorm is folded into the convolutions.
        raw: maps instead of predictions.
    """
    if folded:
        deployed = deploy(model, size)
        return raw_of_deployed(deployed) if raw else Predictions(deployed)
    fused = copy.deepcopy(model).fuse().eval().requires_grad_(False)
    return RawMaps(fused) if raw else Predictions(fused)


def raw_of_deployed(deployed: DeployedModel) -> nn.Module:
    """A deployed network that ends before decoding; its head's convolutions are whole again."""
    network = copy.deepcopy(deployed.network)
    assert isinstance(network, fx.GraphModule)
    end = next(node for node in network.graph.nodes if node.op == "output")
    head = end.args[0]
    module = network.get_submodule(head.target)
    assert isinstance(module, FoldedHead)
    merge = _Merge(network, module)
    with network.graph.inserting_before(head):
        maps = tuple(merge(box, score) for box, score in zip(*head.args))
    end.args = (maps,)
    network.graph.eliminate_dead_code()
    network.delete_all_unused_submodules()
    network.recompile()
    return network.eval().requires_grad_(False)


class _Merge:
    """Two nodes of a graph, boxes (B, na * 4, h, w) and scores (B, na * (1 + nc), h, w), as one."""

    def __init__(self, network: fx.GraphModule, head: FoldedHead) -> None:
        self.network, self.graph = network, network.graph
        self.anchors, self.width = head.na, head.no

    def __call__(self, box: fx.Node, score: fx.Node) -> fx.Node:
        convs = self._module(box), self._module(score)
        if isinstance(convs[0], nn.Conv2d) and isinstance(convs[1], nn.Conv2d) and box.args == score.args:
            name = f"{box.target}_{score.target}"
            self.network.add_module(name, self._whole(*convs))  # type: ignore[arg-type]
            return self.graph.call_module(name, box.args)
        sums = box.op == score.op == "call_function" and box.target == score.target
        if sums and len(box.args) == 2 and all(isinstance(arg, fx.Node) for arg in (*box.args, *score.args)):
            parts = [self(b, s) for b, s in zip(box.args, score.args)]  # type: ignore[arg-type]
            return self.graph.call_function(box.target, tuple(parts))  # type: ignore[arg-type]
        return self.graph.call_function(interleaved, (box, score, self.anchors))

    def _module(self, node: fx.Node) -> nn.Module | None:
        return self.network.get_submodule(str(node.target)) if node.op == "call_module" else None

    def _whole(self, box: nn.Conv2d, score: nn.Conv2d) -> nn.Conv2d:
        """A convolution with the rows of both, anchor by anchor."""
        whole = copy.deepcopy(score)
        whole.out_channels = self.anchors * self.width
        whole.weight = nn.Parameter(self._rows(box.weight, score.weight), requires_grad=False)
        if box.bias is not None and score.bias is not None:
            whole.bias = nn.Parameter(self._rows(box.bias, score.bias), requires_grad=False)
        return whole

    def _rows(self, box: Tensor, score: Tensor) -> Tensor:
        parts = (t.reshape(self.anchors, -1, *t.shape[1:]) for t in (box, score))
        return torch.cat(tuple(parts), dim=1).flatten(0, 1).contiguous()


def interleaved(box: Tensor, score: Tensor, anchors: int) -> Tensor:
    """(B, na * 4, h, w) and (B, na * (1 + nc), h, w) to (B, na * (5 + nc), h, w), anchor by anchor."""
    parts: list[Tensor] = []
    for pair in zip(box.chunk(anchors, dim=1), score.chunk(anchors, dim=1)):
        parts += pair
    return torch.cat(parts, dim=1)


class ToFloat(nn.Module):
    """Half precision to single precision."""

    def forward(self, x: Tensor) -> Tensor:
        return x.float()


class WideHead(nn.Module):
    """A folded head that decodes in single precision whatever its inputs are."""

    def __init__(self, head: FoldedHead) -> None:
        super().__init__()
        self.head = head

    def forward(self, boxes: Sequence[Tensor], scores: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        return self.head([box.float() for box in boxes], [score.float() for score in scores])


def halved(network: nn.Module) -> nn.Module:
    """A copy with weights and input in fp16 that decodes in fp32: beyond 512, fp16 counts half pixels.

    Predictions are fp32, raw maps fp16.
    """
    network = copy.deepcopy(network)
    heads = [part for part in network.modules() if isinstance(part, (FoldedHead, Detect))]
    buffers = [dict(head.named_buffers(recurse=False)) for head in heads]
    network.half()
    for head, kept in zip(heads, buffers):
        for name, buffer in kept.items():  # anchors and cells stay exact
            setattr(head, name, buffer)
    for part in list(network.modules()):
        for name, child in list(part.named_children()):
            if isinstance(child, FoldedHead):
                setattr(part, name, WideHead(child))
            elif isinstance(child, Detect) and not isinstance(network, RawMaps):
                child.m = nn.ModuleList(nn.Sequential(conv, ToFloat()) for conv in child.m)
    return network
