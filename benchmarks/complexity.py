"""What models cost: parameters, operations, memory access, peak memory and depth, side by side.

    python benchmark.py complexity yolov5n.yaml yolov5n-gsconv.yaml
    python benchmark.py complexity --weights best.pt --convention bn --per-layer
    python benchmark.py complexity yolov5s.yaml --nc 1 --imgsz 416 --json

Everything is counted on tensors without data. `docs/counting.md` explains the conventions and the columns.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from benchmarks.pages import console_table
from models.summary import layer_costs
from models.weights import find_weights, load_model
from models.yolo import DetectionModel
from utils.console import LOGGER
from utils.counting.conventions import EXPLAINED, KINDS_OF, Convention
from utils.counting.measure import count_parameters, meta_copy, thop_flops
from utils.counting.meter import Cost, in_sequence
from utils.errors import UserError
from utils.flags import IMGSZ, SIDE, CommandConfig, flag

CHECKPOINTS = (".pt", ".safetensors")
# columns of the table: the number's name in json, and how it is shown
COLUMNS: dict[str, tuple[str, Callable[[int], str]]] = {
    "parameters": ("parameters", "{:,}".format),
    "GFLOPs": ("flops", lambda number: f"{number / 1e9:.3f}"),
    "thop": ("thop", lambda number: f"{number / 1e9:.3f}"),
    "read MB": ("bytes_read", lambda number: f"{number / 1e6:.1f}"),
    "written MB": ("bytes_written", lambda number: f"{number / 1e6:.1f}"),
    "peak MB": ("peak_bytes", lambda number: f"{number / 1e6:.1f}"),
    "depth": ("depth", str),
}


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


def run(config: Config) -> None:
    """Print the table, or the json, of all models that the flags name."""
    found = records(config)
    for record in found:
        operators = () if config.convention == "thop" else record["unknown_operators"]
        if missing := [*operators, *record["unknown_to_thop"]]:
            LOGGER.warning(f"{record['model']}: not counted, for want of a rule: {', '.join(missing)}")
    print(json.dumps(found, indent=2) if config.json else as_text(found, config))


def count(
    name: str,
    imgsz: int = 640,
    *,
    nc: int | None = None,
    fuse: bool = True,
    convention: Convention = "conv",
    thop: bool = False,
) -> dict[str, Any]:
    """Count the model of a yaml or a checkpoint, without running it, for one RGB image in float32.

    Args:
        name: yaml by name or path, or `.pt` or `.safetensors`, of which only the layout matters.
        imgsz: side of the square image in pixels.
        nc: number of classes instead of the model's own.
        fuse: fold BatchNorms first; that turns the four values a channel of each (two of them parameters)
            into a bias.
        thop: also ask the thop package itself, which takes longer than the rest.

    Returns:
        A record as `--json` prints it, with its layers. `thop_package` is None when the package was not asked
        or is not installed.

    Raises:
        UserError: no such model, a faulty one, or an image side that does not suit its strides.
    """
    model = build(name, nc)
    try:
        model.measure_strides(Path(name).name)
    except UserError as error:  # it could be built: a block looks at the values that pass through it
        raise UserError(f"cannot be counted without running it: {error}") from error
    check_side(imgsz, name, model.multiple)
    if fuse:
        model.fuse()
    channels = model.yaml["ch"]
    layers = layer_costs(model.model, model.layers, channels, imgsz)
    image = torch.empty(1, channels, imgsz, imgsz, device="meta")
    cost = in_sequence([layer.cost for layer in layers])
    return {
        "model": Path(name).name,
        "nc": model.nc,
        "imgsz": imgsz,
        "convention": convention,
        "fused": fuse,
        **_numbers(count_parameters(model), cost, convention),
        "thop_package": thop_flops(model, image) if thop else None,
        "unknown_operators": list(cost.unknown),
        "unknown_to_thop": list(cost.unknown_to_thop),
        "layers": [
            {
                "index": row.layer.index,
                "from": row.layer.written,
                "number": row.layer.number,
                "module": row.layer.name,
                "arguments": [str(argument) for argument in row.layer.args],
                **_numbers(row.parameters, row.cost, convention),
            }
            for row in layers
        ],
    }


def _numbers(parameters: int, cost: Cost, convention: Convention) -> dict[str, Any]:
    """The numbers of a model or a layer by their names in json, which are those of `Cost`."""
    found = {name: value for name, value in vars(cost).items() if not name.startswith("unknown")}
    return {"parameters": parameters, "flops": cost.flops(convention), **found}


def build(name: str, nc: int | None = None) -> DetectionModel:
    """The model on meta tensors, unfused, in eval mode; raises `UserError` as `load_model` does."""
    described = load_model(find_weights(name)).yaml if Path(name).suffix in CHECKPOINTS else name
    try:
        with torch.device("meta"):
            return DetectionModel(described, nc=nc).eval()
    except (UserError, RuntimeError):
        # a constructor may need the values of its weights; a fault of the description shows up again here
        return meta_copy(DetectionModel(described, nc=nc).eval())


def check_side(imgsz: int, name: str, stride: int) -> None:
    """Refuse, with `UserError`, an image side in pixels that is no multiple of a model's stride."""
    if imgsz % stride:
        low = imgsz // stride * stride
        near = f"{low} or {low + stride}" if low else str(stride)
        raise UserError(f"--imgsz {imgsz}: {name} takes multiples of its stride {stride}; use {near}")


def records(config: Config, *, thop: bool = True) -> list[dict[str, Any]]:
    """What the flags ask for of every model that they name; of several, with ratios to the first one."""
    flags: dict[str, Any] = {"nc": config.nc, "fuse": config.fuse, "convention": config.convention}
    found: list[dict[str, Any]] = []
    for name in config.names:
        record = count(name, config.imgsz, **flags, thop=thop)
        layers = record.pop("layers")
        found.append(record)
        if len(config.names) > 1:
            record["ratios"] = {
                key: round(record[key] / base, 6) if (base := found[0][key]) else None
                for key, _ in COLUMNS.values()
            }
        if config.per_layer:
            record["layers"] = layers
    return found


def as_text(found: Sequence[Mapping[str, Any]], config: Config) -> str:
    """The table, what the numbers mean, and with `--per-layer` a table for each model."""
    numbers = "r" * len(COLUMNS)
    rows = [["model", "nc", "form", *COLUMNS]]
    form = "fused" if config.fuse else "unfused"
    rows += [[record["model"], str(record["nc"]), form, *shown(record).values()] for record in found]
    rows += [[record["model"], "", "", *shown_ratios(record).values()] for record in found[1:]]
    parts = [console_table(rows, f"lrr{numbers}"), *_notes(found, config)]
    for record in found if config.per_layer else ():
        rows = [["layer", "from", "n", *COLUMNS, "module", "arguments"]]
        for row in record["layers"]:
            place = [str(row[key]) for key in ("index", "from", "number")]
            rows.append([*place, *shown(row).values(), row["module"], ", ".join(row["arguments"])])
        parts += ["", f"{record['model']}:", console_table(rows, f"rrr{numbers}ll")]
    return "\n".join(parts)


def shown(record: Mapping[str, Any]) -> dict[str, str]:
    """The cells of a model or a layer by column."""
    return {title: form(record[key]) for title, (key, form) in COLUMNS.items()}


def shown_ratios(record: Mapping[str, Any]) -> dict[str, str]:
    ratios = {title: record["ratios"][key] for title, (key, _) in COLUMNS.items()}
    return {title: "-" if ratio is None else f"x {ratio:.3f}" for title, ratio in ratios.items()}


def shown_operations(record: Mapping[str, Any]) -> dict[str, str]:
    """GFLOPs by kind, those that the convention counts and the model has."""
    kinds = KINDS_OF.get(record["convention"], ())
    found = {kind: record["operations"][kind] for kind in kinds}
    return {kind: f"{number / 1e9:.3f}" for kind, number in found.items() if number}


def _notes(found: Sequence[Mapping[str, Any]], config: Config) -> list[str]:
    """What the numbers mean, what makes them up, and whether the thop package agrees."""
    lines = [
        f"{config.convention}: {EXPLAINED[config.convention]}",
        f"of one {config.imgsz} x {config.imgsz} image in float32; MB are 10^6 bytes",
    ]
    if config.convention in ("bn", "all"):
        for record in found:
            parts = (f"{kind} {gflops}" for kind, gflops in shown_operations(record).items())
            lines.append(f"{record['model']}: {' + '.join(parts)}")
    if any(record["thop_package"] is None for record in found):
        return [*lines, "thop: by its rules; to check with the package itself, pip install thop"]
    unlike = [
        f"thop: the package itself counts {record['thop_package'] / 1e9:.3f} for {record['model']}"
        for record in found
        if record["thop_package"] != record["thop"]
    ]
    return [*lines, *(unlike or ["thop: by its rules; the package itself agrees"])]
