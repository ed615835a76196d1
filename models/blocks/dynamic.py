"""Convolution whose kernel follows the picture (ODConv, arXiv 2209.07947)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.blocks.activation import Activation, make_activation
from models.blocks.conv import Conv, Size, batch_norm_terms
from models.blocks.gate import Gate
from models.blocks.taking import Take, fitting_kernel
from models.registry import register, scaled

LEAST = 16  # channels of the squeezed description, as in the paper
SPREAD = 0.1  # of the kernels around the one that was taken over, as a share of their initial values


@register(scaled)
class ODConv(nn.Module):
    """Omni-dimensional dynamic convolution (Li et al. 2022, equation 2): a Conv with attention to its kernel.

    (B, c1, H, W) -> (B, c2, H', W') with k, s, p, g, d and act as Conv has them. From the mean of the map,
    squeezed to max(c1 / ratio, 16) channels, come four gates: for the taps (k x k), the channels that go in
    (c1 / g), those that come out (c2), all with a sigmoid, and by softmax the shares of `n` kernels. The
    kernel of a picture is the sum of all, each times its share, times the three gates.

    In place of a Conv it begins as that one, but for rounding: gates are open, and the kernels lie around its
    own with that as their mean (were they equal, they would learn the same).

    What is traced (all exported files) is a product of matrices of the shifted map with the kernel, since few
    runtimes take a convolution whose kernel is computed. Deviations from the paper: no BatchNorm in the
    attention and no temperature in the softmax; as in the authors' code the kernels share the three gates.
    """

    def __init__(
        self,
        c1: int,
        c2: int,
        k: int = 3,
        s: int = 1,
        p: Size | None = None,
        g: int = 1,
        d: int = 1,
        act: Activation = True,
        n: int = 4,
        ratio: int = 16,
    ) -> None:
        super().__init__()
        for name, value in (("k", k), ("g", g), ("n", n), ("ratio", ratio)):
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"ODConv: {name} must be an integer >= 1, got {value!r}")
        for name, channels in (("c1", c1), ("c2", c2)):
            if channels % g:
                raise ValueError(f"ODConv: {name} must be a multiple of g = {g}, got {channels}")
        unit = Conv(c1, c2, k, s, p=p, g=g, d=d)
        like, self.bn, self.act = unit.conv, unit.bn, make_activation(act)
        self.c1, self.c2, self.k, self.groups = c1, c2, k, g
        self.stride, self.padding, self.dilation = (
            _square(name, value)
            for name, value in (("s", like.stride), ("p", like.padding), ("d", like.dilation))
        )
        # (n * c2, c1 / g, k, k): four dimensions, as layouts of memory and optimisers know them
        self.kernels = nn.Parameter(torch.cat([_initial(like.weight) for _ in range(n)]))
        self.bias: nn.Parameter | None = None  # of the BatchNorm, once it is fused
        hidden = max(c1 // ratio, LEAST)
        self.squeeze = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(c1, hidden, 1), nn.ReLU(inplace=True))
        self.inputs = nn.Linear(hidden, c1 // g)
        self.outputs = nn.Linear(hidden, c2)
        self.taps = nn.Linear(hidden, k * k) if k > 1 else None
        self.shares = nn.Linear(hidden, n) if n > 1 else None
        self.gate = Gate()

    def forward(self, x: Tensor) -> Tensor:
        matrix = self.matrix(x)
        if not isinstance(x, Tensor) or torch.jit.is_tracing():
            y = self._product(x, matrix)
        else:
            batch, _, height, width = x.shape
            y = F.conv2d(
                x.reshape(1, -1, height, width),  # a picture is a group
                self.kernel(matrix).flatten(0, 1),
                stride=self.stride,
                padding=self.padding,
                dilation=self.dilation,
                groups=batch * self.groups,
            )
            y = y.reshape(batch, self.c2, y.shape[2], y.shape[3])
        y = y if self.bias is None else y + self.bias.reshape(-1, 1, 1)
        return self.act(self.bn(y))

    def matrix(self, x: Tensor) -> Tensor:
        """(B, c2, k^2 * c1 / g): the kernel of each picture, tap by tap."""
        said = self.squeeze(x).flatten(1)
        apart = self.kernels.unflatten(0, (-1, self.c2))
        laid = apart.flatten(3).transpose(2, 3).flatten(1)  # (n, c2 * k^2 * c1 / g)
        mixed = laid if self.shares is None else self.shares(said).softmax(dim=1) @ laid
        columns = self.gate(self.inputs(said)).unsqueeze(1)  # (B, 1, c1 / g)
        if self.taps is not None:
            columns = (self.gate(self.taps(said)).unsqueeze(2) * columns).flatten(1).unsqueeze(1)
        rows = self.gate(self.outputs(said)).unsqueeze(2)  # (B, c2, 1)
        return mixed.unflatten(1, (self.c2, -1)) * rows * columns

    def kernel(self, matrix: Tensor) -> Tensor:
        """(B, c2, c1 / g, k, k) of `matrix`."""
        return matrix.unflatten(2, (self.k, self.k, -1)).permute(0, 1, 4, 2, 3)

    def _product(self, x: Tensor, matrix: Tensor) -> Tensor:
        """The convolution as a product of matrices, with the shifted map for every tap."""
        reach = self.dilation * (self.k - 1)
        padded = F.pad(x, (self.padding,) * 4) if self.padding else x
        starts = range(0, reach + 1, self.dilation)
        window = [slice(start, start - reach or None, self.stride) for start in starts]
        moved = [padded[:, :, down, right] for down in window for right in window]
        height, width = moved[0].shape[2], moved[0].shape[3]
        rows, columns = self.c2 // self.groups, self.k**2 * self.c1 // self.groups
        if self.groups > 1:  # (B * g, c1 / g, H', W') each
            moved = [part.reshape(-1, self.c1 // self.groups, height, width) for part in moved]
            matrix = matrix.reshape(-1, rows, columns)
        stacked = torch.cat(moved, dim=1).reshape(-1, columns, height * width)
        return (matrix @ stacked).reshape(-1, self.c2, height, width)

    @torch.no_grad()
    def fuse(self) -> None:
        """Fold BatchNorm into the kernels, for inference. A second call changes nothing."""
        if isinstance(self.bn, nn.BatchNorm2d):
            scale, shift = batch_norm_terms(self.bn)
            scale = scale.repeat(len(self.kernels) // self.c2)
            kernels = self.kernels.double() * scale.reshape(-1, 1, 1, 1)
            grad = self.kernels.requires_grad
            self.bias = nn.Parameter(shift.to(self.kernels), requires_grad=grad)
            self.kernels = nn.Parameter(kernels.to(self.kernels), requires_grad=grad)
            self.bn = nn.Identity()

    def adopt(self, other: nn.Module, take: Take) -> None:
        """A Conv's kernel as the mean of all, and its norm; gates that are open."""
        if not isinstance(other, Conv):
            take.alike(self, other)
            return
        with torch.device("meta"):
            like = nn.Conv2d(self.c1, self.c2, self.k, groups=self.groups)
        kernel = fitting_kernel(other.conv.weight, like, other.conv.groups)
        if kernel is None or not isinstance(other.bn, nn.BatchNorm2d):
            return
        apart = self.kernels.unflatten(0, (-1, self.c2))
        around = SPREAD * (apart - apart.mean(dim=0))
        take(self.kernels, (kernel + around).flatten(0, 1))
        take.norm(self.bn, other.bn)
        for head in (self.inputs, self.outputs, self.taps, self.shares):
            for tensor in head.parameters() if head is not None else ():
                take(tensor, torch.zeros_like(tensor))
        take(self.gate.gain, torch.full_like(self.gate.gain, 2.0))


def _square(name: str, value: int | str | tuple[int, ...]) -> int:
    """The one number of a setting that is the same for both sides."""
    both = (value,) if isinstance(value, int) else tuple(value)
    if len(set(both)) != 1 or not isinstance(both[0], int):
        raise ValueError(f"ODConv: {name} must be the same for rows and columns, got {value}")
    return both[0]


def _initial(like: Tensor) -> Tensor:
    """New values for a kernel of this shape, as torch gives them."""
    return nn.init.kaiming_uniform_(torch.empty_like(like), a=5**0.5)
