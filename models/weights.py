"""From checkpoint files to models: load, transfer, find; and a command that converts.

    python -m models.weights yolov5s.pt yolov5s.safetensors

writes the weights of an official file into one that can hold no code.
"""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from models.cfg import validate_cfg
from models.parse import multiples, parse_model
from models.yolo import DetectionModel
from utils.checkpoints.files import inference_state, read_checkpoint, write_checkpoint
from utils.console import LOGGER
from utils.errors import UserError, run_command
from utils.files import find_file, newest

RUNS = Path("runs/train")
ELSEWHERE = "*/*/weights/best.pt"  # beside that folder, as of `make demo`
OFFICIAL_RELEASES = "https://github.com/ultralytics/yolov5/releases"
OFFICIAL_NAME = re.compile(r"yolov5[nsmlx]6?(\.pt)?")
DATE = re.compile(r"(\d{4}-\d\d-\d\d)[T ](\d\d:\d\d)", re.ASCII)
# tensors that no forward pass needs: anchors in pixels (files before v6.0), operation counts of thop,
# the unused convolutions of VoVGSCSP
LEFTOVER = re.compile(r"(^|\.)(anchor_grid|total_ops|total_params)$|\.res\.")

State = Mapping[str, Tensor]


class Misfit(UserError):
    """Weights of another form than their yaml makes, as of a network that was pruned."""


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
    model.origin = _origin(checkpoint)
    model = model.to(device).eval()
    return model.fuse() if fuse else model


def _origin(checkpoint: Mapping[str, Any]) -> str:
    """When a checkpoint was written and how good it was, as far as it says so."""
    date, fitness = DATE.match(str(checkpoint.get("date"))), checkpoint.get("best_fitness")
    parts = [f"saved {date[1]} {date[2]}"] if date else []
    if isinstance(fitness, float) and math.isfinite(fitness):
        parts.append(f"fitness {fitness:.3f} (0.1 mAP50 + 0.9 mAP50-95) in training")
    return ", ".join(parts)


def find_weights(name: str | Path = "", runs: Path = RUNS) -> Path:
    """The weights file that a user means: `name` itself, or the newest `best.pt` when it is empty.

    Raises:
        UserError: no such file; the message says how to get one. Nothing is ever downloaded.
    """
    if not str(name):
        found = sorted(runs.glob("*/weights/best.pt"), key=lambda path: path.stat().st_mtime)
        if not found:
            elsewhere = newest(runs.parent, ELSEWHERE)
            hint = (
                f"the newest elsewhere is {elsewhere}: --weights names it"
                if elsewhere
                else ("train a model first, or name a file with --weights")
            )
            raise UserError(f"no weights in {runs}; {hint}")
        return found[-1]
    path = Path(name)
    if path.exists():
        return path
    if OFFICIAL_NAME.fullmatch(path.name):
        raise UserError(
            f"weights '{name}' not found; nothing is downloaded: fetch the official file from "
            f"{OFFICIAL_RELEASES} and name that"
        )
    try:
        return find_file(name, (path.parent, runs))
    except UserError as error:
        made = newest(runs.parent, ELSEWHERE) if str(name) == "best.pt" else None  # as pages have it
        raise UserError(f"{error}; the newest one is {made}" if made else str(error)) from None


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
            raise Misfit(f"{path}: tensor '{name}' is missing, which its yaml asks for")
        if kept[name].shape != tensor.shape:
            shapes = f"has shape {tuple(kept[name].shape)}, its yaml makes {tuple(tensor.shape)}"
            raise Misfit(f"{path}: tensor '{name}' {shapes}; a pruned or altered model cannot be rebuilt")
    surplus = [name for name in kept if name not in wanted]
    if surplus:
        raise Misfit(
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
