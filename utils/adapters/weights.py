"""Leaving out of a checkpoint what only training needs."""

from __future__ import annotations

from pathlib import Path

from utils.checkpoints.files import inference_state, read_checkpoint, write_checkpoint


def strip_optimizer(f: str | Path = "best.pt", s: str | Path = "") -> None:
    """Write a checkpoint without optimizer and training state, in its place or as `s`; in our own format.

    Raises:
        UserError: no checkpoint.
    """
    content = read_checkpoint(f)
    kept = {key: value for key, value in content.items() if key not in ("format", "version", "resume")}
    kept |= {"model": inference_state(content), "ema": None, "optimizer": None, "epoch": -1}
    write_checkpoint(s or f, kept)
