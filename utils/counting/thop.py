"""The counting rules of the thop package (0.1.1), for use without the package.

thop hooks layers and looks their exact class up in a table; a subclass, a function such as `torch.cat`, and
any other layer count nothing. Its unit is the multiply-add. Rules for recurrent layers are not repeated here.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

from torch import Tensor, nn

Rule = Callable[[Any, Tensor, Tensor], int]

RECURRENT = (nn.RNN, nn.GRU, nn.LSTM, nn.RNNCell, nn.GRUCell, nn.LSTMCell)
RESAMPLED = {"nearest": 1, "linear": 5, "bilinear": 11, "bicubic": 259}


def thop_multiply_adds(layer: nn.Module, inputs: tuple[Any, ...], output: Any) -> int | None:
    """What thop counts for one call of a layer; None for a recurrent one."""
    rule = RULES.get(type(layer))
    if rule is not None:
        return rule(layer, inputs[0], output)
    return None if type(layer) in RECURRENT else 0


def _convolution(layer: Any, x: Tensor, y: Tensor) -> int:
    """Also of transposed ones, whose outputs do not take that many; the bias counts nothing."""
    return y.numel() * (x.shape[1] // layer.groups) * prod(layer.weight.shape[2:])


def _normalisation(layer: Any, x: Tensor, y: Tensor) -> int:
    affine = getattr(layer, "affine", False) or getattr(layer, "elementwise_affine", False)
    return (4 if affine else 2) * x.numel()


def _adaptive_average(layer: Any, x: Tensor, y: Tensor) -> int:
    window = prod(inner / outer for inner, outer in zip(x.shape[2:], y.shape[2:]))
    return int((window + 1) * y.numel())


RULES: dict[type[nn.Module], Rule] = {
    **dict.fromkeys((nn.Conv1d, nn.Conv2d, nn.Conv3d), _convolution),
    **dict.fromkeys((nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d), _convolution),
    **dict.fromkeys((nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm), _normalisation),
    **dict.fromkeys((nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d, nn.LayerNorm), _normalisation),
    nn.PReLU: lambda layer, x, y: 0 if layer.training else x.numel(),
    nn.Softmax: lambda layer, x, y: x.numel() // x.shape[layer.dim] * (3 * x.shape[layer.dim] - 1),
    **dict.fromkeys((nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d), lambda layer, x, y: y.numel()),
    **dict.fromkeys((nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d), _adaptive_average),
    **dict.fromkeys(
        (nn.Upsample, nn.UpsamplingNearest2d, nn.UpsamplingBilinear2d),
        lambda layer, x, y: RESAMPLED.get(layer.mode, 0) * y.numel(),
    ),
    nn.Linear: lambda layer, x, y: layer.in_features * y.numel(),
}
