"""Hyper-parameters from a yaml or a checkpoint, every value checked."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from utils.errors import UserError
from utils.hyperparameters import FIELDS, Hyperparameters
from utils.losses.composition import BoxLoss
from utils.losses.grammar import read
from utils.losses.scores import CLASS_WEIGHTS, ScoreLoss
from utils.reading import is_number, read_yaml

# hyper-parameters that name what a loss is made of (docs/losses.md); their canonical text is kept
NAMES: dict[str, Callable[[object], object]] = {
    "iou": BoxLoss,
    "obj_loss": ScoreLoss,
    "cls_loss": ScoreLoss,
    "class_weights": lambda text: read(text, CLASS_WEIGHTS, {}),
}


def load_hyperparameters(path: Path) -> Hyperparameters:
    """Read a hyper-parameter yaml; keys that the file leaves out keep their defaults.

    Raises:
        UserError: not a mapping, an unknown key, or a value that the key may not have.
    """
    content = read_yaml(path)
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected a mapping of hyper-parameters, found {type(content).__name__}")
    return Hyperparameters(
        **{str(key): checked(str(path), str(key), value) for key, value in content.items()}
    )


def checked(source: str, key: str, value: Any) -> Any:
    """`value` when the hyper-parameter `key` may have it; the name of a loss as its canonical text.

    Args:
        source: where it comes from, for the message.

    Raises:
        UserError: an unknown key, no number or out of its range, or no loss of that name.
    """
    if key not in FIELDS:
        near = difflib.get_close_matches(key, FIELDS, n=1)
        hint = f"; did you mean '{near[0]}'?" if near else f"; known keys: {', '.join(FIELDS)}"
        raise UserError(f"{source}: unknown hyper-parameter '{key}'{hint}")
    if key in NAMES:
        try:
            return str(NAMES[key](value))
        except ValueError as error:
            raise UserError(f"{source}: hyper-parameter '{key}': {error}") from error
    if key == "anchors" and value is None:
        return None
    if not is_number(value):
        hint = " (yaml writes exponents with a sign: 1.0e+2, 1.0e-2)" if "e" in str(value).lower() else ""
        raise UserError(f"{source}: hyper-parameter '{key}' must be a number, found {value!r}{hint}")
    low, high = FIELDS[key].metadata["low"], FIELDS[key].metadata["high"]
    if not low <= value <= high:
        allowed = f"between {low} and {high}" if high < math.inf else "0 or more"
        raise UserError(f"{source}: hyper-parameter '{key}' must be {allowed}, found {value}")
    return int(value) if key == "nominal_batch" else value
