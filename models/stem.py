"""Weights that were trained on pictures of other channels, made for those of a model.

A layer that reads the image adds up its channels, each times a kernel. When the picture that the weights know
can be made from the one that the model gets, as sums of its channels, the same sums over the kernels give the
same maps:

- colour from grey: all three are the grey value, so the kernels of the three are added;
- grey from colour: 0.299 red + 0.587 green + 0.114 blue, so the kernel is spread in these parts;
- a fourth channel that is new gets zeros; one that is gone is dropped, which changes what the layer gives.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from models.parse import IMAGE
from utils.data.channels import RED_FIRST

if TYPE_CHECKING:
    from models.yolo import DetectionModel

LUMA = (0.299, 0.587, 0.114)  # red, green, blue; as `utils/data/channels.py` makes a picture grey
DONE = {
    (1, 3): "its grey kernel spread over colours by their part in grey",
    (1, 4): "its grey kernel spread over colours by their part in grey, zeros for the fourth",
    (3, 1): "its kernels of three colours added, which is exact for grey pictures",
    (3, 4): "its kernels of three colours kept, zeros for the fourth",
    (4, 1): "its kernels of three colours added, the fourth dropped",
    (4, 3): "its kernels of three colours kept, the fourth dropped",
}


def mixing(known: int, given: int) -> Tensor:
    """(known, given) float64: how the channels that weights know come from those that the model is given."""
    if known == 1:
        row = torch.tensor([*LUMA, 0.0] if given > 1 else [1.0], dtype=torch.float64)
        return row[None, :given]
    if given == 1:
        return torch.tensor([[1.0]] * 3 + [[0.0]] * (known - 3), dtype=torch.float64)
    return torch.eye(known, given, dtype=torch.float64)


def for_channels(model: DetectionModel, source: Mapping[str, Tensor]) -> tuple[Mapping[str, Tensor], str]:
    """A state dict with kernels over the image for the channels of `model`, and what was done to them.

    The state dict itself, and an empty text, when none differ by channels of the image alone. Of a layer that
    reads the image all tensors must fit then: where something else differs, it is another layer.
    """
    remade, done = dict(source), ""
    for layer, module in zip(model.layers, model.model, strict=True):
        if IMAGE not in layer.sources:
            continue
        wanted = {f"model.{layer.index}.{own}": tensor for own, tensor in module.state_dict().items()}
        pairs = {name: (source[name], tensor) for name, tensor in wanted.items() if name in source}
        other = {name: pair for name, pair in pairs.items() if pair[0].shape != pair[1].shape}
        known = {_known_channels(*pair, model.channels) for pair in other.values()}
        if len(pairs) == len(wanted) and len(known) == 1 and known <= RED_FIRST.keys():
            (count,) = known
            mix = mixing(count, model.channels)
            remade |= {name: _mixed(found, mix) for name, (found, _) in other.items()}
            had = f"layer {layer.index} had {count} channels, not {model.channels}"
            done = f"{had}: {DONE[count, model.channels]}"
    return (remade, done) if done else (source, "")


def _known_channels(found: Tensor, wanted: Tensor, given: int) -> int:
    """Channels of the image that a kernel (c2, m * channels, k, k) knows; 0 where other sides differ."""
    if found.ndim != 4 or found.shape[0] != wanted.shape[0] or found.shape[2:] != wanted.shape[2:]:
        return 0
    times, rest = divmod(wanted.shape[1], given)  # `Focus` has four groups of them
    return 0 if rest or not times or found.shape[1] % times else found.shape[1] // times


def _mixed(kernel: Tensor, mix: Tensor) -> Tensor:
    """(c2, m * known, k, k) to (c2, m * given, k, k), computed in double precision."""
    groups = kernel.double().unflatten(1, (-1, len(mix)))  # (c2, m, known, k, k)
    return torch.einsum("omkhw,kg->omghw", groups, mix).flatten(1, 2).to(kernel.dtype)
