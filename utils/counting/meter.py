"""Following a forward pass operator by operator: operations, memory access, peak memory and depth."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook
from torch.utils._python_dispatch import TorchDispatchMode

from utils.counting.conventions import KINDS, KINDS_OF, Convention, Kind
from utils.counting.operators import flat, makes_only, operations, operator_name, written_operands
from utils.counting.thop import thop_multiply_adds

if TYPE_CHECKING:
    from torch._ops import OpOverload  # the class of all operators has no public name

# in-place operators whose target is written and not read, in whole or only where the source goes
OVERWRITING = {"copy", "fill", "zero", "uniform", "normal", "bernoulli", "random", "exponential"}
SCATTERING = {"index_put", "index_copy", "scatter"}
# operators that read no more of their first operand than they return
GATHERING = {"index", "_unsafe_index", "index_select", "gather", "take", "embedding"}


@dataclass
class Cost:
    """What one forward pass takes.

    Attributes:
        operations: floating-point operations by kind; `flops` adds up those of a convention. Products with
            weights that a layer declares to be always zero (`structural_zeros`) are left out.
        thop: operations by the rules of the thop package, two for each of its multiply-adds.
        bytes_read, bytes_written: memory access, summed over operators. Each operator stands by itself and
            nothing stays in a cache between two of them: it reads every operand once, weights included, and
            writes its result. In place it reads and writes its target. Views (split, reshape, transpose)
            count nothing until something copies them. For a 1 x 1 convolution without bias this is the
            h w (c1 + c2) + c1 c2 of ShuffleNetV2 (arXiv 1807.11164, section 2), times 4 bytes.
        peak_bytes: most bytes alive at once in tensors that the pass takes or makes, the input among them,
            weights not; a view is part of the tensor that it shows.
        depth: convolutions and matrix products on the longest path from input to output, the two of
            attention included; parallel branches count once.
        kernels: operators that make or change a tensor; views are none.
        unknown: operators without a rule, which `operations` lacks.
        unknown_to_thop: layers for which thop has a rule and this module does not, which `thop` lacks.
    """

    operations: dict[Kind, int] = field(default_factory=lambda: dict.fromkeys(KINDS, 0))
    thop: int = 0
    bytes_read: int = 0
    bytes_written: int = 0
    peak_bytes: int = 0
    depth: int = 0
    kernels: int = 0
    unknown: tuple[str, ...] = ()
    unknown_to_thop: tuple[str, ...] = ()

    def flops(self, convention: Convention = "conv") -> int:
        """Operations by one of the conventions that `docs/counting.md` explains."""
        if convention == "thop":
            return self.thop
        return sum(self.operations[kind] for kind in KINDS_OF[convention])


def in_sequence(costs: Sequence[Cost]) -> Cost:
    """The cost of a pass from those of its sections, in order (`Meter.take`)."""
    return Cost(
        operations={kind: sum(cost.operations[kind] for cost in costs) for kind in KINDS},
        thop=sum(cost.thop for cost in costs),
        bytes_read=sum(cost.bytes_read for cost in costs),
        bytes_written=sum(cost.bytes_written for cost in costs),
        peak_bytes=max((cost.peak_bytes for cost in costs), default=0),
        depth=costs[-1].depth if costs else 0,
        kernels=sum(cost.kernels for cost in costs),
        unknown=_distinct(name for cost in costs for name in cost.unknown),
        unknown_to_thop=_distinct(name for cost in costs for name in cost.unknown_to_thop),
    )


class Meter(TorchDispatchMode):
    """Measures what runs inside `with meter:`, which may be entered again for the next section of a pass.

    It sees every operator below autograd, and hooks every layer for thop's rules. Tensors are known by their
    storage: a view shares it, and a weak reference tells when it is released.
    """

    def __init__(self) -> None:
        super().__init__()
        self._sizes: dict[int, int] = {}  # bytes of what the pass takes or makes and still holds
        self._depths: dict[int, int] = {}  # of what depends on the input
        self._alive = 0
        self._cost = Cost()  # of this section

    def __enter__(self) -> Meter:
        self._hook = register_module_forward_hook(self._see_layer)
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._hook.remove()

    def follow(self, inputs: Any) -> None:
        """Take the tensors in `inputs` for the input of the pass; those that the pass has made are known."""
        for tensor in _tensors(inputs):
            self._hold(tensor)
            self._depths.setdefault(_key(tensor), 0)

    def take(self, output: Any) -> Cost:
        """The cost since the last call; `output` is what the pass, or this section of it, returns."""
        cost, self._cost = self._cost, Cost(peak_bytes=self._alive)
        cost.depth = max((self._depths.get(_key(tensor), 0) for tensor in _tensors(output)), default=0)
        return cost

    def _see_layer(self, layer: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        """Runs after every layer, those inside of others included."""
        counted = thop_multiply_adds(layer, inputs, output)
        if counted is None:
            names = (*self._cost.unknown_to_thop, f"nn.{type(layer).__name__}")
            self._cost.unknown_to_thop = _distinct(names)
        self._cost.thop += 2 * (counted or 0)
        zeros = getattr(layer, "structural_zeros", 0)
        if zeros:
            self._cost.operations["products"] -= 2 * zeros * output.numel() // output.shape[1]

    def __torch_dispatch__(
        self, func: OpOverload, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        composed = _composition(func)
        if composed is None:
            out = func(*args, **kwargs)
            self._record(func, args, kwargs, out)
            return out
        super().__enter__()  # its parts are seen in turn
        try:
            return composed(*args, **kwargs)
        finally:
            super().__exit__(None, None, None)

    def _record(self, func: OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any], out: Any) -> None:
        name = operator_name(func)
        operands = _tensors([*args, *kwargs.values()])
        held = {_key(tensor) for tensor in operands}
        targets = _tensors(written_operands(func, args, kwargs))
        made = [tensor for tensor in _results(name, out) if _key(tensor) not in held]
        if not made and not targets:
            return  # a view, or numbers only
        self._cost.kernels += "empty" not in name
        found = operations(func, args, kwargs, out)
        if found is None:
            self._cost.unknown = _distinct((*self._cost.unknown, str(func.overloadpacket)))
        for kind, number in (found or {}).items():
            self._cost.operations[kind] += number
        self._move(name, operands, targets, made)
        for tensor in made:
            self._hold(tensor)
        self._deepen([*made, *targets], held, step=bool(found and found.get("products")))

    def _move(self, name: str, operands: list[Tensor], targets: list[Tensor], made: list[Tensor]) -> None:
        """Add the bytes that one operator reads and writes."""
        if "empty" in name:
            return
        read = {} if makes_only(name, operands) else {id(tensor): _size(tensor) for tensor in operands}
        written = sum(_size(tensor) for tensor in [*made, *targets])
        if targets and name in OVERWRITING | SCATTERING:
            for target in targets:
                read.pop(id(target), None)
        if targets and name in SCATTERING:
            written = _size(operands[-1])
        if name in GATHERING and made:
            source = id(operands[0])
            read[source] = min(read[source], written)
        self._cost.bytes_read += sum(read.values())
        self._cost.bytes_written += written

    def _hold(self, tensor: Tensor) -> None:
        storage, key = tensor.untyped_storage(), _key(tensor)
        if key not in self._sizes:
            self._sizes[key] = storage.nbytes()
            self._alive += storage.nbytes()
            self._cost.peak_bytes = max(self._cost.peak_bytes, self._alive)
            weakref.finalize(storage, self._release, key).atexit = False

    def _release(self, key: int) -> None:
        self._alive -= self._sizes.pop(key)
        self._depths.pop(key, None)

    def _deepen(self, results: list[Tensor], sources: set[int], step: bool) -> None:
        """Results of the input are as deep as their deepest source, one more after a product.

        What is computed from weights alone (a kernel put together for the call) is no part of the path.
        """
        depths = [self._depths[key] for key in sources if key in self._depths]
        if depths:
            for tensor in results:
                if _key(tensor) in self._sizes:
                    self._depths[_key(tensor)] = max(self._depths.get(_key(tensor), 0), max(depths) + step)


@functools.cache
def _composition(func: OpOverload) -> Callable[..., Any] | None:
    """How an operator that is made of others is run; None for any other. These come in inference mode only.

    The public `decompose` prefers implementations in Python, in which upsampling becomes indexing.
    """
    key = torch._C.DispatchKey.CompositeImplicitAutograd
    if torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), key):
        return functools.partial(func._op_dk, key)
    return None


def _distinct(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(names))


def _key(tensor: Tensor) -> int:
    """What tells a storage from every other; the public `data_ptr` is 0 for all tensors without data."""
    return tensor.untyped_storage()._cdata


def _tensors(value: Any) -> list[Tensor]:
    return [leaf for leaf in flat(value) if isinstance(leaf, Tensor)]


def _results(name: str, out: Any) -> list[Tensor]:
    """The tensors that an operator returns, without those that only a backward pass needs.

    These are the indices of max-pooling and the statistics of a normalisation.
    """
    return _tensors(out)[: 1 if "max_pool" in name or "norm" in name else None]


def _size(tensor: Tensor) -> int:
    """Bytes of the tensor's values; one that is expanded along an axis has them once."""
    values = tensor.element_size()
    for size, stride in zip(tensor.shape, tensor.stride()):
        values *= size if stride or not size else 1
    return min(values, tensor.untyped_storage().nbytes())
