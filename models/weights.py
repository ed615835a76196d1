"""From checkpoint files to models: load, transfer, find; and a command that converts.

    python -m models.weights yolov5s.pt yolov5s.safetensors

writes the weights of an official file into one that can hold no code.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from models.cfg import validate_cfg
from models.parse import multiples, parse_model
from models.stem import for_channels
from models.yolo import DetectionModel
from utils.checkpoints.files import inference_state, read_checkpoint, write_checkpoint
from utils.console import LOGGER
from utils.errors import UserError, run_command
from utils.files import find_file

RUNS = Path("runs/train")
OFFICIAL_RELEASES = "https://github.com/ultralytics/yolov5/releases"
OFFICIAL_NAME = re.compile(r"yolov5[nsmlx]6?(\.pt)?")
# tensors that no forward pass needs: anchors in pixels (files before v6.0), operation counts of thop,
# the unused convolutions of VoVGSCSP
LEFTOVER = re.compile(r"(^|\.)(anchor_grid|total_ops|total_params)$|\.res\.")

State = Mapping[str, Tensor]


def load_model(path: str | Path, device: str | torch.device = "cpu", fuse: bool = False) -> DetectionModel:
    """The detector in a checkpoint: float32, eval mode, names and strides set. Prefers the EMA.

    Args:
        path: official or own `.pt`, or `.safetensors`.
        fuse: fold BatchNorms into their convolutions, for faster inference.

    Raises:
        UserError: an unusable file, or weights that do not fit its yaml; the message names the tensor.
    """
    checkpoint = read_checkpoint(path)
    state = inference_state(checkpoint)
    model = _described_model(checkpoint, state, path)
    if _is_fused(state) and not _is_fused(model.state_dict()):
        model.fuse()
    model.load_state_dict(_fitting(state, model.state_dict(), path))
    broken = next((name for name, t in model.state_dict().items() if not torch.isfinite(t).all()), None)
    if broken is not None:
        raise UserError(
            f"{path}: tensor '{broken}' holds infinite or undefined values; the weights are unusable"
        )
    model.names = {index: checkpoint["names"].get(index, f"class{index}") for index in range(model.nc)}
    model = model.to(device).eval()
    return model.fuse() if fuse else model


class Counts(NamedTuple):
    """Tensors taken over, buffers such as running means among them, and parameters (values), of how many."""

    tensors: int
    all_tensors: int
    parameters: int
    all_parameters: int

    @property
    def share(self) -> float:
        """Fraction (0..1) of the parameters. Running means, counters and anchors are none."""
        return self.parameters / max(self.all_parameters, 1)


@dataclass(frozen=True)
class TransferReport:
    """What `transfer` took over.

    Attributes:
        layers: by index and block, in the order of the model; those without tensors are left out.
        kept: by the name of each tensor that kept its initial value, the reason.
        remade: what was done to kernels over an image of other channels; empty when there were none.
    """

    layers: dict[tuple[int, str], Counts]
    kept: dict[str, str]
    remade: str = ""

    @property
    def total(self) -> Counts:
        """The sum over all layers."""
        return Counts(*map(sum, zip(*self.layers.values())))

    @property
    def share(self) -> float:
        """Fraction (0..1) of the model's parameters that were copied."""
        return self.total.share

    def __str__(self) -> str:
        total = self.total
        return (
            f"{total.tensors} of {total.all_tensors} tensors taken over, {total.share:.1%} of the parameters "
            f"({total.parameters:,} of {total.all_parameters:,}){self.remade and '; '}{self.remade}"
        )

    def table(self) -> str:
        """A line a layer: index, block, tensors and parameters taken over of those there, and the share."""
        lines = [f"{'layer':>5}  {'block':<16} {'tensors':>9} {'parameters taken over':>24} {'share':>7}"]
        for (index, block), counts in [*self.layers.items(), (("", "all"), self.total)]:
            tensors = f"{counts.tensors} of {counts.all_tensors}"
            parameters = f"{counts.parameters:,} of {counts.all_parameters:,}"
            lines.append(f"{index:>5}  {block:<16} {tensors:>9} {parameters:>24} {counts.share:>7.1%}")
        return "\n".join(lines)

    def details(self) -> list[str]:
        """One line for each tensor that kept its initial value, with the reason."""
        return [f"{reason}: {name}" for name, reason in self.kept.items()]


@torch.no_grad()
def transfer(model: DetectionModel, source: State, exclude: Sequence[str] = ("anchor",)) -> TransferReport:
    """Copy into `model`, in place, every tensor of `source` whose name and shape match.

    Kernels over an image of other channels are made for those of the model: see `models/stem.py`.

    Args:
        source: a state dict in any floating dtype; values are converted to the model's.
        exclude: parts of names that are left alone; by default the anchors, which belong to a yaml.
    """
    layers, kept = {}, {}
    source, remade = for_channels(model, source)
    for layer, module in zip(model.layers, model.model, strict=True):
        parameters = dict(module.named_parameters())
        counts = []
        for own, tensor in module.state_dict().items():
            name = f"model.{layer.index}.{own}"
            reason = _misfit(name, tensor, source.get(name), exclude)
            if reason:
                kept[name] = reason
            else:
                tensor.copy_(source[name])
            size = tensor.numel() if own in parameters else 0
            counts.append((not reason, 1, 0 if reason else size, size))
        if counts:
            layers[layer.index, layer.name] = Counts(*map(sum, zip(*counts)))
    return TransferReport(layers, kept, remade)


def _misfit(name: str, tensor: Tensor, found: Tensor | None, exclude: Sequence[str]) -> str:
    """Why a tensor is not taken over; empty when it is."""
    if any(part in name for part in exclude):
        return "left as it is"
    if found is None:
        return "not in the weights"
    if found.shape != tensor.shape:
        return f"other shape {tuple(tensor.shape)}, in the weights {tuple(found.shape)}"
    return ""


def find_weights(name: str | Path = "", runs: Path = RUNS) -> Path:
    """The weights file that a user means: `name` itself, or the newest `best.pt` when it is empty.

    Raises:
        UserError: no such file; the message says how to get one. Nothing is ever downloaded.
    """
    if not str(name):
        found = sorted(runs.glob("*/weights/best.pt"), key=lambda path: path.stat().st_mtime)
        if not found:
            raise UserError(f"no weights in {runs}; train a model first, or name a file with --weights")
        return found[-1]
    path = Path(name)
    if path.exists():
        return path
    if OFFICIAL_NAME.fullmatch(path.name):
        raise UserError(
            f"weights '{name}' not found; nothing is downloaded: fetch the official file from "
            f"{OFFICIAL_RELEASES} and name it with --weights"
        )
    return find_file(name, (path.parent, runs))


def _described_model(checkpoint: dict[str, Any], state: State, path: str | Path) -> DetectionModel:
    """A model of the checkpoint's yaml with initial weights.

    A forged yaml may describe layers of any size, so it is first built without memory and compared with the
    file.
    """
    cfg = {"ch": 3, **checkpoint["yaml"], "nc": checkpoint["nc"]}
    try:
        validate_cfg(cfg, "its yaml")
        rows = cfg["backbone"] + cfg["head"]
        blocks = sum(max(1, row[1] * multiples(cfg, index)[0]) for index, row in enumerate(rows))
        if blocks > 1000 + len(state):
            raise UserError(f"its yaml describes {blocks:.0f} blocks for {len(state)} tensors")
        with torch.device("meta"):
            layers, _ = parse_model(cfg, cfg["ch"], "its yaml")
        described = sum(tensor.numel() for tensor in layers.state_dict().values())
        storages = {
            t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() // t.itemsize for t in state.values()
        }
        held = sum(storages.values())  # tensors may be views of one storage
        if described > 2 * held + 1_000_000:
            raise UserError(f"its yaml describes {described} values, it holds {held}")
        return DetectionModel(cfg)
    except (ValueError, TypeError, RuntimeError, OverflowError) as error:
        raise UserError(f"{path}: cannot rebuild its model: {' '.join(str(error).split())[:300]}") from error


def _is_fused(state: State) -> bool:
    """Whether there is no BatchNorm: all have been folded into their convolutions."""
    return not any(name.endswith("running_mean") for name in state)


def _fitting(state: State, wanted: State, path: str | Path) -> dict[str, Tensor]:
    """The tensors of `state` without leftovers, when they have exactly the names and shapes of `wanted`."""
    kept = {name: tensor for name, tensor in state.items() if name in wanted or not LEFTOVER.search(name)}
    dropped = [name for name in state if name not in kept]
    if any(".res." in name for name in dropped):
        LOGGER.warning(f"{path}: dropped the unused `res` convolutions of VoVGSCSP ({len(dropped)} tensors)")
    for name, tensor in wanted.items():
        if name not in kept:
            raise UserError(f"{path}: tensor '{name}' is missing, which its yaml asks for")
        if kept[name].shape != tensor.shape:
            shapes = f"has shape {tuple(kept[name].shape)}, its yaml makes {tuple(tensor.shape)}"
            raise UserError(f"{path}: tensor '{name}' {shapes}; a pruned or altered model cannot be rebuilt")
    surplus = [name for name in kept if name not in wanted]
    if surplus:
        raise UserError(
            f"{path}: tensor '{surplus[0]}' ({len(surplus)} in all) has no place in the model of its yaml"
        )
    return {name: kept[name] for name in wanted}


def main(argv: list[str] | None = None) -> None:
    """Convert a checkpoint into weights that can hold no code."""
    parser = argparse.ArgumentParser(description="convert a checkpoint into weights that can hold no code")
    parser.add_argument("source", type=Path, help="official or own .pt, or .safetensors")
    parser.add_argument("target", type=Path, help="new .pt or .safetensors file")
    parser.add_argument("--force", action="store_true", help="replace an existing target")
    flags = parser.parse_args(argv)
    if flags.target.suffix not in (".pt", ".safetensors"):
        raise UserError(f"'{flags.target}' must end in .pt or .safetensors")
    if flags.target.exists() and not flags.force:
        raise UserError(f"'{flags.target}' exists; --force replaces it")
    checkpoint = read_checkpoint(find_weights(flags.source))
    state = inference_state(checkpoint)
    drop = ("format", "version", "optimizer", "resume")
    kept = {key: value for key, value in checkpoint.items() if key not in drop}
    write_checkpoint(flags.target, {**kept, "model": state, "ema": None})
    print(f"{flags.target}: {len(state)} tensors, {len(checkpoint['names'])} classes")


if __name__ == "__main__":
    run_command(main)
