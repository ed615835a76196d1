"""A `.pt` that YOLOv5's own code opens: its detect.py, val.py, export.py, train.py and torch.hub.

Such a file is a pickle of the network's module objects. It names their classes, and gives each the attributes
that it has there, so that it is written here without that code. What stands in it was read from the official
yolov5n of v6.0, which all later versions open too: `models.yolo.Model` around the layers, each of which knows
its place (`i`, `f`, `type`, `np`), the state of a `torch.nn.Module` of its time, and a head with its anchors
in cells (`anchors`) and in pixels (`anchor_grid`).
"""

from __future__ import annotations

import copy
import datetime
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from models.blocks.attention import C3TR, TransformerBlock, TransformerLayer
from models.blocks.conv import Conv, CrossConv, DWConv, DWConvTranspose2d, Focus, MixConv2d, batch_norm
from models.blocks.csp import C3, Bottleneck, BottleneckCSP, C3x
from models.blocks.detect import Detect
from models.blocks.ghost import C3Ghost, GhostBottleneck, GhostConv
from models.blocks.pool import C3SPP, SPP, SPPF
from models.blocks.reshape import Concat, Contract, Expand
from models.exporting.job import Job
from models.parse import Layer
from models.yolo import DetectionModel
from utils.checkpoints.archive import TorchArchive
from utils.checkpoints.pickling import torch_file
from utils.checkpoints.unpickle import Node, RefusedError, read_pickle
from utils.data.channels import COLOUR
from utils.errors import UserError

Attributes: TypeAlias = Callable[[Any], dict[str, Any]]
COMMON, EXPERIMENTAL, YOLO = "models.common", "models.experimental", "models.yolo"
SUFFIX = "_yolov5.pt"
MARK = "exported_from"  # the key of the weights' SHA-256, which no other file has
MODEL = f"{YOLO}.Model"  # the class in all versions; newer ones call it DetectionModel, too
# the settings of a module that are no attributes of its class: those of torch 1.9, which newer ones complete
HOOKS = (
    "_backward_hooks", "_forward_hooks", "_forward_pre_hooks", "_state_dict_hooks",
    "_load_state_dict_pre_hooks",
)  # fmt: skip
SLOTS = frozenset(vars(nn.Module()))


def _nothing(module: nn.Module) -> dict[str, Any]:
    return {}


def _own(*names: str) -> Attributes:
    return lambda module: {name: getattr(module, name) for name in names}


def _settings(module: nn.Module) -> dict[str, Any]:
    """All that a module of torch has been told."""
    return {name: value for name, value in vars(module).items() if name not in SLOTS}


def _transformer(module: TransformerBlock) -> dict[str, Any]:
    return {"conv": None, "c2": module.linear.out_features}


def _head(module: Detect) -> dict[str, Any]:
    grid = [torch.zeros(1) for _ in range(module.nl)]  # made when the size of the maps is known
    settings = {name: getattr(module, name) for name in ("nc", "no", "nl", "na")}
    return {**settings, "grid": grid, "inplace": True, "stride": module.stride.float()}


# where YOLOv5 has a block that computes the same from the same tensors, and what it has beside its tensors
BLOCKS: dict[type[nn.Module], tuple[str, Attributes]] = {
    Bottleneck: (COMMON, _own("add")),
    BottleneckCSP: (COMMON, _nothing),
    C3: (COMMON, _nothing),
    C3Ghost: (COMMON, _nothing),
    C3SPP: (COMMON, _nothing),
    C3TR: (COMMON, _nothing),
    C3x: (COMMON, _nothing),
    Concat: (COMMON, _own("d")),
    Contract: (COMMON, _own("gain")),
    Conv: (COMMON, _nothing),
    CrossConv: (COMMON, _own("add")),
    Detect: (YOLO, _head),
    DWConv: (COMMON, _nothing),
    DWConvTranspose2d: (COMMON, _settings),
    Expand: (COMMON, _own("gain")),
    Focus: (COMMON, _nothing),
    GhostBottleneck: (COMMON, _nothing),
    GhostConv: (COMMON, _nothing),
    MixConv2d: (EXPERIMENTAL, _nothing),
    SPP: (COMMON, _nothing),
    SPPF: (COMMON, _nothing),
    TransformerBlock: (COMMON, _transformer),
    TransformerLayer: (COMMON, _nothing),
}


def export(job: Job) -> None:
    """Write the network as one of YOLOv5's, in fp32, or in fp16 with `--half` as official files are.

    Raises:
        UserError: it has blocks that YOLOv5 lacks, or pictures of other channels.
    """
    model = job.network
    assert isinstance(model, DetectionModel)
    _check_known(model)
    dtype = torch.float16 if job.config.half else torch.float32
    content = {
        "epoch": -1,
        "best_fitness": None,
        "model": model_node(_unfolded(model), f"{job.metadata['variant']}.yaml", dtype),
        "ema": None,
        "updates": None,
        "optimizer": None,
        "wandb_id": None,
        "training_results": None,
        "date": datetime.datetime.now().isoformat(timespec="seconds"),
        MARK: job.metadata["source"],
    }
    job.target.write_bytes(torch_file(content))


def is_written_here(path: Path) -> bool:
    """Whether `export` wrote a file, so that another export may replace it."""
    try:
        with path.open("rb") as file:
            content = read_pickle(TorchArchive(file).read_pickle_bytes())
    except RefusedError:
        return False
    return isinstance(content, dict) and MARK in content


def model_node(model: DetectionModel, yaml_file: str, dtype: torch.dtype) -> Node:
    """The whole network as an object of YOLOv5's; floating point numbers of tensors in `dtype`."""
    layers = {}
    for layer, module in zip(model.layers, model.model):
        place = {
            "i": layer.index,
            "f": layer.written,
            "type": _class_name(module[0] if isinstance(module, nn.Sequential) else module),
            "np": sum(parameter.numel() for parameter in module.parameters()),
        }
        layers[str(layer.index)] = _node(module, dtype, place)
    attributes = {
        "yaml_file": yaml_file,
        "yaml": model.yaml,
        "save": sorted({source for layer in model.layers for source in _waiting(layer)}),
        "names": [model.names[index] for index in range(model.nc)],
        "inplace": True,
        "stride": model.stride.float(),
        "nc": model.nc,
    }
    inside = Node("torch.nn.modules.container.Sequential", (), _state({}, {}, layers))
    return Node(MODEL, (), _state({}, {}, {"model": inside}) | attributes)


def _waiting(layer: Layer) -> list[int]:
    """The layers whose output has to be kept for a layer: all that it reads but the one before it."""
    written = layer.written if isinstance(layer.written, list) else [layer.written]
    return [source for source, name in zip(layer.sources, written) if name != -1]


def _node(module: nn.Module, dtype: torch.dtype, place: dict[str, Any]) -> Node:
    """A module with all that is in it; `place` are further attributes."""

    def cast(tensor: Tensor | None) -> Tensor | None:
        if tensor is None or not tensor.is_floating_point():
            return tensor
        return tensor.detach().to(dtype)

    held = {name: cast(parameter) for name, parameter in module._parameters.items()}
    parameters = {n: t if t is None else nn.Parameter(t, requires_grad=False) for n, t in held.items()}
    stored = {n: t for n, t in module._buffers.items() if n not in module._non_persistent_buffers_set}
    if isinstance(module, Detect):
        pixels = module.anchors * module.stride.view(-1, 1, 1)
        stored["anchor_grid"] = pixels.view(module.nl, 1, module.na, 1, 1, 2)
    buffers = {name: cast(buffer) for name, buffer in stored.items()}
    children = {name: _node(child, dtype, {}) for name, child in module.named_children()}
    attributes = BLOCKS[type(module)][1] if type(module) in BLOCKS else _settings
    return Node(_class_name(module), (), _state(parameters, buffers, children) | attributes(module) | place)


def _state(parameters: dict[str, Any], buffers: dict[str, Any], children: dict[str, Node]) -> dict[str, Any]:
    """The attributes that every `torch.nn.Module` has."""

    def ordered(items: dict[str, Any]) -> Node:
        return Node("collections.OrderedDict", (), items=items)

    return {
        "training": False,
        "_parameters": ordered(parameters),
        "_buffers": ordered(buffers),
        "_non_persistent_buffers_set": Node("builtins.set", ([],)),
        "_is_full_backward_hook": None,
        **{name: ordered({}) for name in HOOKS},
        "_modules": ordered(dict(children)),
    }


def _class_name(module: nn.Module) -> str:
    kind = type(module)
    return f"{BLOCKS[kind][0] if kind in BLOCKS else kind.__module__}.{kind.__name__}"


def _is_known(module: nn.Module) -> bool:
    return type(module) in BLOCKS or type(module).__module__.startswith("torch.nn.modules.")


def _check_known(model: DetectionModel) -> None:
    foreign = {
        layer.name: None
        for layer, module in zip(model.layers, model.model)
        if not all(map(_is_known, module.modules()))
    }
    if foreign:
        raise UserError(
            f"YOLOv5 has no {', '.join(foreign)}, so its code cannot open this network; its detect.py and "
            "val.py run an .onnx file: --include onnx"
        )
    if model.channels != COLOUR:
        raise UserError(
            f"YOLOv5's commands read pictures of three channels; the network has {model.channels}"
        )


def _unfolded(model: DetectionModel) -> DetectionModel:
    """The model itself, or a copy with BatchNorms that change nothing where they have been folded.

    YOLOv5 folds them when it opens a file, and fails where there are none.
    """
    if not any(isinstance(part, Conv) and isinstance(part.bn, nn.Identity) for part in model.modules()):
        return model
    model = copy.deepcopy(model)
    for part in model.modules():
        if isinstance(part, Conv) and isinstance(part.bn, nn.Identity):
            norm = batch_norm(part.conv.out_channels)
            assert norm.running_var is not None
            norm.running_var.fill_(1 - norm.eps)
            if part.conv.bias is not None:
                norm.bias = nn.Parameter(part.conv.bias.detach(), requires_grad=False)
                part.conv.bias = None
            part.bn = norm.eval()
    return model
