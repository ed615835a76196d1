"""How a block takes weights over from one that it replaces: `Take`, and the methods of blocks that use it.

A block that stands in for another one may have a method `adopt(other, take)`: it copies what its form can
hold, at the places where it belongs, by way of `take`. Without one, tensors of equal names and shapes are
copied. A block that may be inserted where there was none (`models/insertion.py`) has a method
`pass_through()`: it makes the block return its input; where its form does not allow that, it says what comes
out instead.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Channels: TypeAlias = slice | Sequence[int] | Tensor
ALL = slice(None)


@dataclass(frozen=True)
class Joined:
    """What a layer takes that joins maps, some of them as wide as those that the other layer joins.

    Attributes:
        own, its: how many channels the two take in all.
        shared: the channels of the maps that are as wide, of each.
    """

    own: int
    its: int
    shared: list[tuple[slice, slice]]

    def kernel(self, kernel: Tensor, columns: int) -> Tensor:
        """A kernel over what the other layer takes, over `columns` channels that the own one does; 0 for maps
        that are not as wide. Any other kernel stays as it is."""
        if kernel.ndim != 4 or (columns, kernel.shape[1]) != (self.own, self.its):
            return kernel
        wide = kernel.new_zeros(kernel.shape[0], columns, *kernel.shape[2:])
        for mine, theirs in self.shared:
            wide[:, mine] = kernel[:, theirs]
        return wide

    def share(self, columns: int) -> float:
        """Fraction (0..1) of so many columns that `kernel` fills."""
        filled = sum(mine.stop - mine.start for mine, _ in self.shared)
        return filled / self.own if columns == self.own else 1.0


class Take:
    """Copies tensors and remembers which ones were set.

    Args:
        keep: tensors that are not to be changed.
        joined: where the two layers join maps of other widths.
    """

    def __init__(self, keep: Sequence[Tensor] = (), joined: Joined | None = None) -> None:
        self._keep = {id(tensor) for tensor in keep}
        self._joined = joined
        self._taken: dict[int, float] = {}

    def has(self, tensor: Tensor) -> bool:
        """Whether a tensor has been set."""
        return id(tensor) in self._taken

    def share(self, tensor: Tensor) -> float:
        """Fraction (0..1) of a tensor that has been set."""
        return self._taken.get(id(tensor), 0.0)

    def reason(self, tensor: Tensor) -> str:
        """Why a tensor could not be set, where that was said beforehand."""
        return "left as it is" if id(tensor) in self._keep else ""

    def __call__(self, target: Tensor, source: Tensor, share: float = 1.0) -> None:
        """Copy `source` into `target`, a parameter or buffer of the same shape; `share` of it is known."""
        if target.shape != source.shape:
            raise ValueError(f"takes {tuple(source.shape)} into {tuple(target.shape)}")
        if id(target) not in self._keep:
            target.data.copy_(source)
            self._taken[id(target)] = share

    def module(self, own: nn.Module, other: nn.Module) -> None:
        """Let a block take over what it can of another one."""
        if isinstance(own, nn.Sequential) and isinstance(other, nn.Sequential):
            for mine, its in zip(own, other):
                self.module(mine, its)
            return
        adopt = getattr(own, "adopt", None)
        if type(own) is type(other) or not callable(adopt):
            self.alike(own, other)
        else:
            adopt(other, self)

    def alike(self, own: nn.Module, other: nn.Module) -> None:
        """Copy tensors of equal names and shapes."""
        self.named(tensors_of(own), dict(tensors_of(other)))

    def named(self, own: Sequence[tuple[str, Tensor]], found: Mapping[str, Tensor | None]) -> None:
        """Copy what is found under the same name, where its shape is the same."""
        for name, target in own:
            source = found.get(name)
            if source is None:
                continue
            fitting = self.columns(source, target.shape[1]) if target.ndim == 4 else source
            if fitting.shape == target.shape:
                self(target, fitting, self._share(fitting, source))

    def unit(self, own: nn.Module, other: nn.Module, rows: Channels = ALL, columns: Channels = ALL) -> None:
        """A Conv from another Conv: `rows` of its outputs, `columns` of its inputs.

        Left as it is where one of them has no BatchNorm, or kernels that do not fit.
        """
        conv, source = getattr(own, "conv", None), getattr(other, "conv", None)
        if isinstance(conv, nn.Conv2d) and isinstance(source, nn.Conv2d):
            dense = source.weight[rows][:, columns]
            kernel = fitting_kernel(self.columns(dense, conv.in_channels), conv, source.groups)
            if kernel is not None:
                self(conv.weight, kernel, self._share(kernel, dense))
                self.norm(own.bn, other.bn, rows)  # type: ignore[arg-type]

    def columns(self, kernel: Tensor, columns: int) -> Tensor:
        """A kernel with as many columns, where it stands behind a Concat of other widths; else itself."""
        return self._joined.kernel(kernel, columns) if self._joined else kernel

    def _share(self, own: Tensor, source: Tensor) -> float:
        changed = self._joined is not None and source.ndim == 4 and own.shape[1] != source.shape[1]
        return self._joined.share(own.shape[1]) if self._joined and changed else 1.0

    def norm(self, own: nn.Module, other: nn.Module, rows: Channels = ALL) -> None:
        """A BatchNorm from `rows` of another one."""
        if isinstance(own, nn.BatchNorm2d) and isinstance(other, nn.BatchNorm2d):
            for name, target in tensors_of(own):
                source = dict(tensors_of(other))[name]
                self(target, source[rows] if source.ndim else source)


def fitting_kernel(kernel: Tensor, conv: nn.Conv2d, groups: int = 1) -> Tensor | None:
    """A kernel (c2, c1 / groups, h, w) as `conv` can hold it: its groups, in a larger window; None where it
    cannot.

    Of a dense kernel, groups keep the blocks on the diagonal; one in groups fits as many groups.
    """
    rows, columns = conv.out_channels // conv.groups, conv.in_channels // conv.groups
    if kernel.shape[:2] != (conv.out_channels, conv.in_channels // groups) or groups not in (1, conv.groups):
        return None
    own = kernel
    if groups != conv.groups:
        blocks = kernel.reshape(conv.groups, rows, conv.groups, columns, *kernel.shape[2:])
        own = torch.stack([blocks[g, :, g] for g in range(conv.groups)]).flatten(0, 1)
    grow_y, grow_x = (conv.kernel_size[0] - kernel.shape[2]), (conv.kernel_size[1] - kernel.shape[3])
    if grow_y < 0 or grow_x < 0 or grow_y % 2 or grow_x % 2:
        return None
    return F.pad(own, (grow_x // 2, grow_x // 2, grow_y // 2, grow_y // 2))


def linear_part(unit: nn.Module) -> Tensor | None:
    """The kernel (c2, c1, h, w) that a Conv without bias, BatchNorm or activation has in place of another
    one.

    That one's kernel times its BatchNorm's scale, and times the slope that SiLU has at zero.
    """
    conv, bn = getattr(unit, "conv", None), getattr(unit, "bn", None)
    if not isinstance(conv, nn.Conv2d) or not isinstance(bn, nn.BatchNorm2d) or conv.groups != 1:
        return None
    assert bn.running_var is not None
    slope = 0.5 if isinstance(getattr(unit, "act", None), nn.SiLU) else 1.0
    scale = bn.weight * torch.rsqrt(bn.running_var + bn.eps) * slope
    return conv.weight * scale.reshape(-1, 1, 1, 1)


def depthwise_factors(kernel: Tensor) -> tuple[Tensor, Tensor]:
    """The depthwise (c1, 1, h, w) and pointwise (c2, c1, 1, 1) kernels whose product is nearest to a dense
    one.

    Per input channel the best approximation of rank 1 (Eckart and Young, 1936), scaled so that the depthwise
    kernel adds up to 1, which keeps a map that hardly varies as it is; where that would blow it up, to norm
    1.
    """
    c2, c1, height, width = kernel.shape
    per_input = kernel.permute(1, 0, 2, 3).reshape(c1, c2, height * width).double()
    left, strength, right = torch.linalg.svd(per_input, full_matrices=False)
    spatial, mix = right[:, 0], left[:, :, 0] * strength[:, :1]
    total = spatial.sum(dim=1, keepdim=True)
    scale = torch.where(total.abs() > 0.5, total, total.sign() + (total == 0))
    depthwise = (spatial / scale).reshape(c1, 1, height, width)
    pointwise = (mix * scale).T.reshape(c2, c1, 1, 1)
    return depthwise.to(kernel), pointwise.to(kernel)


def tensors_of(module: nn.Module) -> list[tuple[str, Tensor]]:
    """Names and tensors of a state dict, the very tensors."""
    buffers = set(module.state_dict()) - {name for name, _ in module.named_parameters()}
    return [*module.named_parameters(), *((n, b) for n, b in module.named_buffers() if n in buffers)]
