"""What models cost: parameters, operations, memory access, peak memory and depth, side by side.

    python benchmark.py complexity yolov5n.yaml yolov5n-gsconv.yaml
    python benchmark.py complexity --weights best.pt --convention bn --per-layer
    python benchmark.py complexity yolov5s.yaml --nc 1 --imgsz 416 --json

Everything is counted on tensors without data. `docs/counting.md` explains the conventions and the columns.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from models.summary import LayerCost, layer_costs
from models.weights import find_weights, load_model
from models.yolo import DetectionModel
from utils.console import LOGGER
from utils.counting.conventions import EXPLAINED, KINDS_OF, Convention
from utils.counting.measure import count_parameters, meta_copy, thop_flops
from utils.counting.meter import Cost, in_sequence
from utils.errors import UserError
from utils.flags import IMGSZ, SIDE, CommandConfig, flag

CHECKPOINTS = (".pt", ".safetensors")
TITLES = ("parameters", "GFLOPs", "thop", "read MB", "written MB", "peak MB", "depth")


@dataclass(frozen=True)
class Config(CommandConfig):
    """Count parameters, operations, memory access, peak memory and depth of models."""

    models: tuple[str, ...] = flag(
        (), "model yamls or checkpoints (.pt, .safetensors)", "models", nargs="*", metavar="MODEL"
    )
    cfg: tuple[str, ...] = flag((), "model yamls, by name or path, after those above")
    weights: tuple[str, ...] = flag((), "checkpoints, after the yamls; the layout of each is counted")
    imgsz: int = flag(640, "image side in pixels", *IMGSZ, rule=SIDE)
    nc: int | None = flag(None, "number of classes instead of the model's own")
    fused: bool = flag(False, "fold BatchNorms into convolutions first (the default of conv)")
    unfused: bool = flag(False, "count BatchNorms as layers (the default of bn, all and thop)")
    convention: Literal["conv", "bn", "all", "thop"] = flag(
        "conv", "what counts as an operation, see docs/counting.md"
    )
    per_layer: bool = flag(False, "also one line per layer")
    json: bool = flag(False, "print exact numbers as json and nothing else")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.fused and self.unfused:
            raise ValueError("--fused and --unfused exclude each other")
        if not self.names:
            raise ValueError("name at least one model, such as yolov5n.yaml or best.pt")

    @property
    def names(self) -> tuple[str, ...]:
        """Every model that is asked for, in the order of the table."""
        return (*self.models, *self.cfg, *self.weights)

    @property
    def fuse(self) -> bool:
        """Whether BatchNorms are folded: what the flags say, else what the convention is quoted for."""
        return self.fused or (self.convention == "conv" and not self.unfused)


@dataclass(frozen=True)
class Count:
    """What one model costs, for one RGB image in float32.

    Attributes:
        name: as the user wrote it, without folders.
        parameters: of the form that was counted; folding a BatchNorm turns its four values a channel (two of
            them parameters) into a bias.
        thop_package: what the thop package itself says, None when it is not installed.
    """

    name: str
    nc: int
    parameters: int
    cost: Cost
    layers: tuple[LayerCost, ...]
    thop_package: int | None


def run(config: Config) -> None:
    """Print the table, or the json, of all models that the flags name."""
    counts = [count(name, config.imgsz, nc=config.nc, fuse=config.fuse) for name in config.names]
    for item in counts:
        operators = () if config.convention == "thop" else item.cost.unknown
        missing = [*operators, *item.cost.unknown_to_thop]
        if missing:
            LOGGER.warning(f"{item.name}: not counted, for want of a rule: {', '.join(missing)}")
    print(_as_json(counts, config) if config.json else _as_text(counts, config))


def count(name: str, imgsz: int = 640, *, nc: int | None = None, fuse: bool = True) -> Count:
    """Count the model of a yaml or a checkpoint, without running it.

    Args:
        name: yaml by name or path, or `.pt` or `.safetensors`, of which only the layout matters.
        imgsz: side of the square image in pixels.
        nc: number of classes instead of the model's own.
        fuse: fold BatchNorms first.

    Raises:
        UserError: no such model, a faulty one, or an image side that does not suit its strides.
    """
    model = build(name, nc).eval()
    try:
        model.measure_strides(Path(name).name)
    except UserError as error:  # it could be built: a block looks at the values that pass through it
        raise UserError(f"cannot be counted without running it: {error}") from error
    stride = model.multiple
    if imgsz % stride:
        low = imgsz // stride * stride
        near = f"{low} or {low + stride}" if low else str(stride)
        raise UserError(f"--imgsz {imgsz}: {name} takes multiples of its stride {stride}; use {near}")
    if fuse:
        model.fuse()
    layers = layer_costs(model.model, model.layers, model.yaml["ch"], imgsz)
    image = torch.empty(1, model.yaml["ch"], imgsz, imgsz, device="meta")
    return Count(
        name=Path(name).name,
        nc=model.nc,
        parameters=count_parameters(model),
        cost=in_sequence([layer.cost for layer in layers]),
        layers=tuple(layers),
        thop_package=thop_flops(model, image),
    )


def build(name: str, nc: int | None = None) -> DetectionModel:
    """The model on meta tensors, unfused. Raises `UserError` as `DetectionModel` and `load_model` do."""
    described = load_model(find_weights(name)).yaml if Path(name).suffix in CHECKPOINTS else name
    try:
        with torch.device("meta"):
            return DetectionModel(described, nc=nc)
    except (UserError, RuntimeError):
        # a constructor may need the values of its weights; a fault of the description shows up again here
        return meta_copy(DetectionModel(described, nc=nc))


# ---- output ----


def _as_json(counts: Sequence[Count], config: Config) -> str:
    records = []
    for item in counts:
        record: dict[str, Any] = {
            "model": item.name,
            "nc": item.nc,
            "imgsz": config.imgsz,
            "convention": config.convention,
            "fused": config.fuse,
            "parameters": item.parameters,
            **_exact(item.cost, config.convention),
            "thop_package": item.thop_package,
            "unknown_operators": list(item.cost.unknown),
            "unknown_to_thop": list(item.cost.unknown_to_thop),
        }
        if len(counts) > 1:
            record["ratios"] = dict(zip(_exact_names(), _ratios(item, counts[0], config.convention)))
        if config.per_layer:
            record["layers"] = [_layer_record(layer, config.convention) for layer in item.layers]
        records.append(record)
    return json.dumps(records, indent=2)


def _exact(cost: Cost, convention: Convention) -> dict[str, Any]:
    return {
        "flops": cost.flops(convention),
        "operations": dict(cost.operations),
        "thop": cost.thop,
        "bytes_read": cost.bytes_read,
        "bytes_written": cost.bytes_written,
        "peak_bytes": cost.peak_bytes,
        "depth": cost.depth,
        "kernels": cost.kernels,
    }


def _layer_record(item: LayerCost, convention: Convention) -> dict[str, Any]:
    layer = item.layer
    return {
        "index": layer.index,
        "from": layer.written,
        "number": layer.number,
        "module": layer.name,
        "arguments": [str(argument) for argument in layer.args],
        "parameters": item.parameters,
        **_exact(item.cost, convention),
    }


def _exact_names() -> tuple[str, ...]:
    return ("parameters", "flops", "thop", "bytes_read", "bytes_written", "peak_bytes", "depth")


def _numbers(parameters: int, cost: Cost, convention: Convention) -> tuple[int, ...]:
    memory = (cost.bytes_read, cost.bytes_written, cost.peak_bytes)
    return (parameters, cost.flops(convention), cost.thop, *memory, cost.depth)


def _ratios(item: Count, base: Count, convention: Convention) -> list[float | None]:
    """Each number over that of the first model; None where that is zero."""
    ours, theirs = (_numbers(c.parameters, c.cost, convention) for c in (item, base))
    return [round(a / b, 6) if b else None for a, b in zip(ours, theirs)]


def _as_text(counts: Sequence[Count], config: Config) -> str:
    width = max(len(item.name) for item in counts)
    head = f"{'model':<{width}} {'nc':>4} {'form':>7} {_columns(TITLES)}"
    form = "fused" if config.fuse else "unfused"
    lines = [head]
    for item in counts:
        numbers = _scaled(_numbers(item.parameters, item.cost, config.convention))
        lines.append(f"{item.name:<{width}} {item.nc:>4} {form:>7} {_columns(numbers)}")
    for item in counts[1:]:
        ratios = _ratios(item, counts[0], config.convention)
        shown = ["-" if ratio is None else f"x {ratio:.3f}" for ratio in ratios]
        lines.append(f"{item.name:<{width}} {'':>4} {'':>7} {_columns(shown)}")
    lines += _notes(counts, config)
    if config.per_layer:
        for item in counts:
            lines += ["", f"{item.name}:", *_layer_lines(item, config.convention)]
    return "\n".join(lines)


def _columns(values: Sequence[str]) -> str:
    return " ".join(f"{value:>{width}}" for value, width in zip(values, (11, 9, 9, 9, 10, 9, 7)))


def _scaled(numbers: Sequence[int]) -> list[str]:
    parameters, flops, thop, read, written, peak, depth = numbers
    memory = [f"{size / 1e6:.1f}" for size in (read, written, peak)]
    return [f"{parameters:,}", f"{flops / 1e9:.3f}", f"{thop / 1e9:.3f}", *memory, str(depth)]


def _notes(counts: Sequence[Count], config: Config) -> list[str]:
    """What the numbers mean, what makes them up, and whether the thop package agrees."""
    side = config.imgsz
    lines = [
        f"{config.convention}: {EXPLAINED[config.convention]}",
        f"of one {side} x {side} image in float32; MB are 10^6 bytes",
    ]
    if config.convention in ("bn", "all"):
        for item in counts:
            found = {kind: item.cost.operations[kind] for kind in KINDS_OF[config.convention]}
            parts = [f"{kind} {number / 1e9:.3f}" for kind, number in found.items() if number]
            lines.append(f"{item.name}: {' + '.join(parts)}")
    if any(item.thop_package is None for item in counts):
        return [*lines, "thop: by its rules; to check with the package itself, pip install thop"]
    unlike = [item for item in counts if item.thop_package != item.cost.thop]
    for item in unlike:
        lines.append(f"thop: the package itself counts {(item.thop_package or 0) / 1e9:.3f} for {item.name}")
    return lines if unlike else [*lines, "thop: by its rules; the package itself agrees"]


def _layer_lines(item: Count, convention: Convention) -> list[str]:
    lines = [f"{'layer':>5} {'from':>16} {'n':>3} {_columns(TITLES)}  {'module':<18} arguments"]
    for row in item.layers:
        layer = row.layer
        numbers = _columns(_scaled(_numbers(row.parameters, row.cost, convention)))
        place = f"{layer.index:>5} {layer.written!s:>16} {layer.number:>3}"
        lines.append(f"{place} {numbers}  {layer.name:<18} {', '.join(map(str, layer.args))}")
    return lines
