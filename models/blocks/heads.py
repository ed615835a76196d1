"""Heads that look at boxes and classes apart: `DecoupledDetect` and `SharedDetect`.

Both are a `Detect`, whose convolutions `m` stay, and add to its logits what two branches say:

    logits = m(x) + (box(box branch of x) | cls(class branch of x))

`box` gives x, y, w, h and objectness of every anchor, `cls` its classes. In place of a Detect they begin as
that one, exactly: `m` is taken over, `box` and `cls` are 0, and learn at once. All else is Detect's: layout
of the output, anchors, loss, decoding.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models.blocks.activation import make_activation
from models.blocks.conv import Conv
from models.blocks.detect import Anchors, Detect, detects
from models.blocks.taking import Take
from models.registry import Row, Wiring, register

BOX = 5  # x, y, w, h, objectness
WIDTH = 256  # of the branches at width 1, as in both papers
PER_GROUP = 16  # channels that a GroupNorm has together


def _branching(row: Row) -> Wiring:
    """As Detect's rule; a third argument is the width of the branches, which is scaled."""
    if len(row.args) not in (2, 3):
        raise ValueError(f"takes the arguments [nc, anchors, width], got {len(row.args)} of them")
    width = row.argument(2, WIDTH)
    if width < 1:
        raise ValueError(f"needs branches of a width >= 1, got {width}")
    plain = detects(Row(row.channels, row.args[:2], row.number, row.scale))
    return Wiring((*plain.args, row.scale(width)), plain.c2, joins=True)


class Branches(nn.Module):
    """What the convolutions of `BranchedDetect.apart` read: maps (B, c, H, W) to (B, c + 2 * width, H, W).

    The map itself, the box branch, the class branch, one beside the other.
    """

    def __init__(
        self, stems: Sequence[nn.Module], boxes: Sequence[nn.Module], classes: Sequence[nn.Module]
    ) -> None:
        super().__init__()
        self.stems, self.boxes, self.classes = map(nn.ModuleList, (stems, boxes, classes))

    def forward(self, x: Sequence[Tensor]) -> list[Tensor]:
        found = []
        for features, stem, box, cls in zip(x, self.stems, self.boxes, self.classes):
            begun = stem(features)
            found.append(torch.cat((features, box(begun), cls(begun)), dim=1))
        return found


class BranchedDetect(Detect):
    """A Detect with a box branch and a class branch beside its own convolutions.

    Args:
        nc, anchors, ch: as Detect has them.
        width: channels of the branches.
        boxes, classes: the branches, maps (B, width, H, W) to the same shape: one per level, or one for all.
        scaled: whether boxes and objectness have a learned factor per level.
    """

    def __init__(
        self,
        nc: int,
        anchors: Anchors,
        ch: Sequence[int],
        width: int,
        boxes: Sequence[nn.Module],
        classes: Sequence[nn.Module],
        scaled: bool = False,
    ) -> None:
        super().__init__(nc, anchors, ch)
        self.stems = nn.ModuleList(Conv(c, width) for c in ch)
        self.boxes, self.classes = nn.ModuleList(boxes), nn.ModuleList(classes)
        self.box = nn.ModuleList(nn.Conv2d(width, self.na * BOX, 1, bias=False) for _ in boxes)
        self.cls = nn.ModuleList(nn.Conv2d(width, self.na * nc, 1, bias=False) for _ in classes)
        self.scales = nn.Parameter(torch.ones(len(ch))) if scaled else None

    def at(self, parts: nn.ModuleList, level: int) -> nn.Module:
        """The part of a level, which may be that of all levels."""
        return parts[min(level, len(parts) - 1)]

    def maps(self, x: Sequence[Tensor]) -> list[Tensor]:
        """(B, na * no, H, W) of logits per level, anchor by anchor."""
        found = []
        for level, (features, own) in enumerate(zip(x, super().maps(x))):
            begun = self.stems[level](features)
            box = self.at(self.box, level)(self.at(self.boxes, level)(begun))
            cls = self.at(self.cls, level)(self.at(self.classes, level)(begun))
            box = box if self.scales is None else box * self.scales[level]
            both = torch.cat((box.unflatten(1, (self.na, BOX)), cls.unflatten(1, (self.na, self.nc))), dim=2)
            found.append(own + both.flatten(1, 2))
        return found

    def apart(self) -> tuple[nn.Module, Detect]:
        """The branches, and a Detect that reads them beside the maps; they share this head's weights."""
        levels = range(self.nl)
        boxes, classes = ([self.at(parts, i) for i in levels] for parts in (self.boxes, self.classes))
        kernels = [self._kernel(level) for level in levels]
        with torch.device("meta"):
            plain = Detect(self.nc, self.anchor_pixels, [kernel.shape[1] for kernel in kernels])
        plain.anchors, plain.stride = self.anchors, self.stride
        plain.pieces = (BOX - 1, 1, self.nc)  # other branches make the classes than the rest
        for own, conv, kernel in zip(self.m, plain.m, kernels):
            conv.weight, conv.bias = nn.Parameter(kernel, requires_grad=False), own.bias
        return Branches(list(self.stems), boxes, classes), plain.train(self.training)

    @torch.no_grad()
    def _kernel(self, level: int) -> Tensor:
        """(na * no, c + 2 * width, 1, 1): of the map, the box branch and the class branch."""
        weights = (self.at(parts, level).get_parameter("weight") for parts in (self.box, self.cls))
        box, cls = (weight.unflatten(0, (self.na, -1)) for weight in weights)
        box = box if self.scales is None else box * self.scales[level]
        rows = torch.cat((torch.cat((box, 0 * box), dim=2), torch.cat((0 * cls, cls), dim=2)), dim=1)
        return torch.cat((self.m[level].get_parameter("weight"), rows.flatten(0, 1)), dim=1)

    def adopt(self, other: nn.Module, take: Take) -> None:
        """A Detect's convolutions and anchors; the branches add nothing at first."""
        if not isinstance(other, Detect):
            return
        own = {name for name, _ in (*self.m.named_parameters(prefix="m"), ("anchors", None))}
        found = {name: tensor for name, tensor in other.state_dict().items() if name in own}
        take.named([*self.named_parameters(), ("anchors", self.anchors)], found)
        if all(take.has(conv.get_parameter("weight")) for conv in self.m):
            for weight in (*self.box.parameters(), *self.cls.parameters()):
                take(weight, torch.zeros_like(weight))


@register(_branching, example=(3, 2, 32), levels=3)
class DecoupledDetect(BranchedDetect):
    """YOLOX's head (Ge et al. 2021, arXiv 2107.08430, §2.1, figure 2) beside Detect's; inputs and outputs are
    Detect's.

    Per level a 1x1 Conv to `width` channels, then two branches of two 3x3 Convs each. In a yaml:
    `[[17, 20, 23], 1, DecoupledDetect, [nc, anchors, 256]]`; 256, the paper's, is the default.

    Deviations from the paper: the 1x1 convolutions on the maps themselves, which make it begin as a trained
    Detect; anchors, and Detect's loss.
    """

    def __init__(self, nc: int, anchors: Anchors, ch: Sequence[int], width: int = WIDTH) -> None:
        def branches() -> list[nn.Module]:
            return [nn.Sequential(Conv(width, width, k=3), Conv(width, width, k=3)) for _ in ch]

        super().__init__(nc, anchors, ch, width, branches(), branches())


@register(_branching, example=(3, 2, 32), levels=3)
class SharedDetect(BranchedDetect):
    """FCOS's head, one for all levels (Tian et al. 2019, arXiv 1904.01355, §3.2, figure 2) beside Detect's.

    Inputs and outputs are Detect's. Per level a 1x1 Conv to `width` channels; then, the same for all levels,
    two branches of two 3x3 convolutions, each with GroupNorm (arXiv 1803.08494, 16 channels a group) and
    activation, whose statistics are a picture's own and so fit every level; and the convolutions that read
    the branches. Boxes and objectness are multiplied by a number that each level learns, FCOS's s_i. In a
    yaml: `[[17, 20, 23], 1, SharedDetect, [nc, anchors, 256]]`; 256, the paper's, is the default.

    Deviations from the paper: two convolutions a branch and not four; the 1x1 convolutions on the maps
    themselves, level by level, which make it begin as a trained Detect; anchors and objectness in place of
    distances and centre-ness, and Detect's loss.
    """

    def __init__(self, nc: int, anchors: Anchors, ch: Sequence[int], width: int = WIDTH) -> None:
        super().__init__(nc, anchors, ch, width, [_normalised(width)], [_normalised(width)], scaled=True)


def _normalised(width: int) -> nn.Sequential:
    groups = width // math.gcd(width, PER_GROUP)
    layers: list[nn.Module] = []
    for _ in range(2):
        conv = nn.Conv2d(width, width, 3, padding=1, bias=False)
        layers += [conv, nn.GroupNorm(groups, width), make_activation(True)]
    return nn.Sequential(*layers)
