"""An equivalent network with less to do, by exact algebra and without training: `deploy(model)`."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from models.folding.checked import fold
from models.folding.forms import Chooser, Site, by_rule
from models.folding.head import FoldedHead
from models.folding.trace import Flow
from models.yolo import PROBE, DetectionModel

USUAL = (640, 640)  # (height, width)


class DeployedModel(nn.Module):
    """What `deploy` returns: input and output are those of the `DetectionModel` in evaluation mode.

    Attributes:
        network: the folded network, an `fx.GraphModule`; `print(model.network.code)` shows it.
        names, nc, yaml, stride: as those of the `DetectionModel`.
        size: (height, width) of the images, None for any multiples of the stride.
        rules: what was folded, and how often.
        sites: where there was a choice of equal forms, and the names of these; see `models.folding.forms`.
    """

    stride: Tensor

    def __init__(
        self,
        network: nn.Module,
        model: DetectionModel,
        size: tuple[int, int] | None,
        rules: dict[str, int],
        sites: dict[Site, tuple[str, ...]],
    ) -> None:
        super().__init__()
        self.network, self.rules, self.sites = network, rules, sites
        self.names, self.nc, self.yaml, self.size = dict(model.names), model.nc, model.yaml, size
        self.register_buffer("stride", model.stride.clone(), persistent=False)

    def forward(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        """(B, ch, H, W) float RGB 0–1 to predictions (B, N, no) and logits per level; see `Detect`.

        Raises:
            ValueError: images of another size than the model was deployed for.
        """
        if self.size and not torch.jit.is_tracing() and tuple(images.shape[2:]) != self.size:
            raise ValueError(f"deployed for images of {self.size}, got {tuple(images.shape[2:])}")
        return self.network(images)


@torch.no_grad()
def deploy(
    model: DetectionModel,
    size: tuple[int, int] | None = None,
    *,
    raw: bool = False,
    choose: Chooser = by_rule,
) -> DeployedModel:
    """An inference model that equals `model` in evaluation mode; the model itself is left alone.

    Everything that can be said of the result by algebra is done beforehand: see `models.folding.rules`. A
    block needs no description; what the rules do not know stays as it is. The weights are folded in double
    precision and rounded once.

    Args:
        size: (height, width) of all images, multiples of the stride, to have the head's cells as constants.
        raw: end at the head's convolutions, see `Flow`; the result then gives their maps.
        choose: which of equal forms each site takes, for images of `size`; of `USUAL` when these may be any.

    Raises:
        ValueError: a size that is no multiple of the stride.
    """
    stride = model.multiple
    if size is not None and any(side % stride or side < stride for side in size):
        raise ValueError(
            f"cannot deploy for images of {size}: sides must be multiples of the stride {stride}"
        )
    weight = next(model.parameters())
    plain = copy.deepcopy(model).to("cpu", torch.float64).eval()
    height, width = size or USUAL
    network, rules, sites = fold(
        Flow(plain.fuse(), raw), (1, plain.yaml["ch"], PROBE, PROBE), choose, (height / PROBE, width / PROBE)
    )
    for part in network.modules():
        if size is not None and isinstance(part, FoldedHead):
            part.fix(size)
    deployed = DeployedModel(network, model, size, rules, sites)
    return deployed.to(weight.device, weight.dtype).eval().requires_grad_(False)
