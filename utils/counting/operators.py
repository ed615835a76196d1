"""How many floating-point operations one torch operator takes, by kind; the rules of `docs/counting.md`.

Convolutions, matrix products and attention are counted by the formulas of `torch.utils.flop_counter`, two
operations for a multiplication and its addition. The rest is ours: one operation for every value that an
elementwise operator makes, whatever the function; for every value that a reduction or a pooling window reads;
for every product and sum of an interpolation.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import TYPE_CHECKING, Any, TypeAlias

from torch import Tensor

from utils.counting.conventions import Kind

if TYPE_CHECKING:
    from torch._ops import OpOverload  # the class of all operators has no public name

Operations: TypeAlias = dict[Kind, int]
Rule: TypeAlias = Callable[[Sequence[Any], Any], Operations]

# thop takes four multiply-adds for a normalised value (mean, deviation, scale, shift), two when there is no
# scale and shift; the logs of YOLOv5 print twice thop's figure
NORMALISED, NORMALISED_PLAIN = 8, 4

# operators that move, choose or make values without computing any
FREE = {
    *("cat", "stack", "clone", "copy", "_to_copy", "contiguous", "lift", "lift_fresh", "resize"),
    *("fill", "zero", "bernoulli", "uniform", "normal", "random", "exponential"),
    *("index", "_unsafe_index", "index_select", "gather", "take", "embedding", "masked_select", "nonzero"),
    *("index_put", "_unsafe_index_put", "index_copy", "index_fill", "scatter", "masked_scatter"),
    *("select_scatter", "slice_scatter", "diagonal_scatter", "tril", "triu"),
    *("roll", "flip", "rot90", "repeat", "repeat_interleave", "tile", "im2col", "constant_pad_nd"),
    *(f"{kind}_pad{n}d" for kind in ("reflection", "replication") for n in (1, 2, 3)),
    *("pixel_shuffle", "pixel_unshuffle", "channel_shuffle", "native_channel_shuffle"),
    *(f"{kind}{n}d" for kind in ("upsample_nearest", "_upsample_nearest_exact") for n in (1, 2, 3)),
}
# elementwise and reducing operators that torch does not tag as such
ELEMENTWISE = {
    "hardswish",
    "_prelu_kernel",
    "rsub",
    "glu",
    "floor_divide",
    "masked_fill",
    "log_sigmoid_forward",
}
REDUCTIONS = {
    *("cumsum", "cumprod", "median", "sort", "topk", "col2im", "renorm"),
    *("scatter_add", "scatter_reduce", "index_add", "index_reduce"),
}


def operations(
    func: OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any], out: Any
) -> Operations | None:
    """Operations of one call by kind; None when there is no rule for the operator."""
    name = operator_name(func)
    formula = _torch_formulas().get(func.overloadpacket)
    if formula is not None:
        return {"products": formula(*args, **kwargs, out_val=out), "biases": _biases(name, args, kwargs, out)}
    if name in RULES:
        return RULES[name](args, out)
    tags = {tag.name for tag in func.tags}
    if name in FREE or "view_copy" in tags or makes_only(name, args):
        return {}
    if "pointwise" in tags or name in ELEMENTWISE:
        return {"elementwise": first(out).numel()}
    if "reduction" in tags or name in REDUCTIONS:
        return {"reductions": max(value.numel() for value in flat(args) if isinstance(value, Tensor))}
    return None


def operator_name(func: OpOverload) -> str:
    """`silu` for `aten::silu` and `aten::silu_`; other libraries keep their prefix, as `torchvision::nms`."""
    name = _schema(func).name.removeprefix("aten::")
    return name.removesuffix("_") if _schema(func).is_mutable else name


def written_operands(func: OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Any]:
    """The operands that an operator changes."""
    declared = _schema(func).arguments
    given = dict(zip((argument.name for argument in declared), args)) | dict(kwargs)
    return [given.get(a.name) for a in declared if a.alias_info is not None and a.alias_info.is_write]


def _schema(func: OpOverload) -> Any:
    """An operator's declaration; torch tells nowhere else what an operator writes to."""
    return func._schema


def makes_only(name: str, args: Sequence[Any]) -> bool:
    """Whether an operator reads no values: arange, zeros, zeros_like and new_zeros."""
    from_shape = name.startswith("new_") or name.endswith("_like")
    return from_shape or not any(isinstance(value, Tensor) for value in flat(args))


def flat(value: Any) -> list[Any]:
    """The leaves of nested lists and tuples."""
    if isinstance(value, (list, tuple)):
        return [leaf for item in value for leaf in flat(item)]
    return [value]


def first(out: Any) -> Tensor:
    """The first tensor of an operator's result: the values, where statistics or indices come with them."""
    return next(value for value in flat(out) if isinstance(value, Tensor))


@functools.cache
def _torch_formulas() -> dict[Any, Callable[..., int]]:
    # a quarter of a second to import, which few commands need
    from torch.utils.flop_counter import flop_registry

    return flop_registry


def _biases(name: str, args: Sequence[Any], kwargs: Mapping[str, Any], out: Any) -> int:
    """Additions of a bias: a convolution has it third, the products whose names say `add` have it first."""
    if "convolution" in name:
        return first(out).numel() if len(args) > 2 and args[2] is not None else 0
    return first(out).numel() if name in ("addmm", "baddbmm") and kwargs.get("beta", 1) != 0 else 0


# ---- rules for single operators ----


def _attention(args: Sequence[Any], out: Any) -> Operations:
    """The fused attention of CPUs, counted as that of GPUs: two matrix products."""
    from torch.utils.flop_counter import sdpa_flop_count

    return {"products": sdpa_flop_count(args[0].shape, args[1].shape, args[2].shape)}


def _deformable(args: Sequence[Any], out: Any) -> Operations:
    """`deform_conv2d(x, weight, offset, mask, bias, …, use_mask)`, arXiv 1703.06211: interpolates first."""
    x, weight, use_mask = args[0], args[1], args[-1]
    positions = out.numel() // out.shape[1]
    samples = positions * x.shape[1] * weight.shape[2] * weight.shape[3]
    return {
        "products": 2 * out.numel() * weight[0].numel(),
        "resampling": INTERPOLATED["bilinear"] * samples,
        "elementwise": samples if use_mask else 0,
        "biases": out.numel(),
    }


def _normalisation(args: Sequence[Any], out: Any) -> Operations:
    """Every normalisation has its scale among the two arguments after `x`, if any."""
    affine = any(isinstance(value, Tensor) for value in args[1:3])
    return {"normalisation": args[0].numel() * (NORMALISED if affine else NORMALISED_PLAIN)}


def _pooling(dimensions: int) -> Rule:
    def rule(args: Sequence[Any], out: Any) -> Operations:
        kernel = args[1] if isinstance(args[1], (list, tuple)) else [args[1]]
        window = prod(kernel) if len(kernel) == dimensions else kernel[0] ** dimensions
        return {"pooling": first(out).numel() * window}

    return rule


def _adaptive_pooling(dimensions: int) -> Rule:
    """Window i of n over a side of s values reaches from floor(i s / n) to ceil((i + 1) s / n)."""

    def rule(args: Sequence[Any], out: Any) -> Operations:
        sizes = zip(args[0].shape[-dimensions:], first(out).shape[-dimensions:])
        read = [sum(-(-(i + 1) * s // n) - i * s // n for i in range(n)) for s, n in sizes]
        return {"pooling": prod(args[0].shape[:-dimensions]) * prod(read)}

    return rule


# products and sums for one interpolated value; its weights depend on the place alone and are not counted
INTERPOLATED = {"linear": 3, "bilinear": 7, "trilinear": 15, "nearest": 0, "bicubic": 31}


def _resampling(method: str) -> Rule:
    return lambda args, out: {"resampling": INTERPOLATED[method] * out.numel()}


def _grid_sampling(*methods: str) -> Rule:
    """`grid_sampler(x, grid, mode, …)`: mode 0 is linear, 1 nearest, 2 cubic."""
    return lambda args, out: {"resampling": INTERPOLATED[methods[args[2]]] * out.numel()}


NORMS = (
    *("native_batch_norm", "_native_batch_norm_legit", "_native_batch_norm_legit_no_training"),
    *("cudnn_batch_norm", "_batch_norm_with_update", "_batch_norm_no_update"),
    *("native_layer_norm", "native_group_norm", "_fused_rms_norm"),
)
RULES: dict[str, Rule] = {
    # every value of the first factor is multiplied once
    **dict.fromkeys(("mv", "dot", "vdot"), lambda args, out: {"products": 2 * args[0].numel()}),
    "addmv": lambda args, out: {
        "products": 2 * args[1].numel(),
        "biases": out.numel(),
    },  # bias, matrix, vector
    "_scaled_dot_product_flash_attention_for_cpu": _attention,
    "torchvision::deform_conv2d": _deformable,
    **dict.fromkeys(NORMS, _normalisation),
    # exponential, sum and quotient
    **dict.fromkeys(
        ("_softmax", "_safe_softmax", "_log_softmax"), lambda args, out: {"elementwise": 3 * out.numel()}
    ),
    **{
        f"{name}{n}d{indices}": _pooling(n)
        for n in (1, 2, 3)
        for name, indices in (("avg_pool", ""), ("max_pool", ""), ("max_pool", "_with_indices"))
    },
    **{
        f"{name}{n}d": _adaptive_pooling(n)
        for n in (1, 2, 3)
        for name in ("adaptive_avg_pool", "_adaptive_avg_pool", "adaptive_max_pool")
    },
    **{
        f"upsample_{method}{n}d": _resampling(method)
        for n, method in ((1, "linear"), (2, "bilinear"), (3, "trilinear"), (2, "bicubic"))
    },
    "grid_sampler_2d": _grid_sampling("bilinear", "nearest", "bicubic"),
    "grid_sampler_3d": _grid_sampling("trilinear", "nearest"),
}
