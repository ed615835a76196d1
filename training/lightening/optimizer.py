"""Muon for convolutions, AdamW for everything else, in one optimizer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW

MOMENTUM = 0.95
RELATIVE = 0.3  # root mean square of a step at rate 1, for a matrix of any shape and full rank
LEAST_SIDE = (
    16  # of a weight as a matrix; below, and for depthwise filters, there is nothing to make orthogonal
)
QUINTIC = (3.4445, -4.7750, 2.0315)  # a s + b s^3 + c s^5 brings singular values near 1 in few rounds
ROUNDS = 5


class MuonAdamW(AdamW):
    """AdamW, but the weights of convolutions take steps whose singular values are all about 1.

    A step that is the momentum made orthogonal moves every direction of a weight alike, where that of AdamW
    follows the few directions in which most gradients lie; a student that is short of steps gets further.
    Source: K. Jordan et al., "Muon: an optimizer for hidden layers in neural networks", 2024; the scale by
    sqrt(larger side) so that rates suit both: J. Liu et al., "Muon is scalable for LLM training", arXiv
    2502.16982. `torch.optim.Muon` takes matrices alone, and rounds them to bf16, which most CPUs are slow at.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._mark(True)

    @property
    def muon(self) -> bool:
        """Whether convolutions take orthogonal steps; not in a run that was begun with AdamW alone."""
        return bool(self.param_groups[0]["muon"])

    def _mark(self, muon: bool) -> None:
        """Note it where it is saved: the state of single weights begins anew with each phase."""
        for group in self.param_groups:
            group["muon"] = muon

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take a saved state over. One of AdamW, as runs had before there was Muon, stays one of AdamW."""
        super().load_state_dict(state_dict)
        self._mark(all(group.get("muon", "exp_avg" not in self._of_matrix()) for group in self.param_groups))

    def _of_matrix(self) -> Mapping[str, object]:
        """The state of some weight that Muon would move; empty before the first step."""
        weights = (weight for group in self.param_groups for weight in group["params"] if is_matrix(weight))
        return next((self.state[weight] for weight in weights if self.state.get(weight)), {})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step; `closure` is for interfaces of torch, and not called twice."""
        kept: list[tuple[nn.Parameter, Tensor]] = []
        for group in self.param_groups:
            for weight in group["params"]:
                if group["muon"] and weight.grad is not None and is_matrix(weight):
                    self._turn(weight, group["lr"], group["weight_decay"])
                    kept.append((weight, weight.grad))
                    weight.grad = None  # AdamW passes it by
        result = super().step(closure)
        for weight, gradient in kept:
            weight.grad = gradient
        return result

    def _turn(self, weight: nn.Parameter, rate: float, decay: float) -> None:
        assert weight.grad is not None
        gradient = weight.grad.flatten(1).float()
        state = self.state[weight]
        if "momentum" not in state:
            # AdamW expects every state that it loads to count steps
            state.update(step=torch.zeros(()), momentum=torch.zeros_like(gradient))
        state["step"] += 1
        momentum = state["momentum"].lerp_(gradient, 1 - MOMENTUM)
        ahead = gradient.lerp(momentum, MOMENTUM)
        step = orthogonal(ahead).mul_(RELATIVE * max(ahead.shape) ** 0.5)
        weight.mul_(1 - rate * decay).sub_(step.view(weight.shape), alpha=rate)


def is_matrix(weight: Tensor) -> bool:
    """Whether a weight is that of a convolution that mixes channels, and large enough."""
    return weight.ndim == 4 and weight.shape[1] > 1 and min(weight.shape[0], weight[0].numel()) >= LEAST_SIDE


def orthogonal(matrix: Tensor) -> Tensor:
    """A float matrix (m, n) with its singular values brought near 1, by rounds of Newton and Schulz."""
    wide = matrix.shape[0] <= matrix.shape[1]
    x = matrix if wide else matrix.T
    x = x / (x.norm() + 1e-7)
    a, b, c = QUINTIC
    for _ in range(ROUNDS):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x if wide else x.T
