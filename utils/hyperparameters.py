"""Training hyper-parameters: one typed, frozen record, read from a yaml in `data/hyps/`."""

from __future__ import annotations

import dataclasses
import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from utils.errors import UserError

# the measures of `utils.boxes.IOU_KINDS`, then the losses of `utils.losses.box.WEIGHTED`
BOX_LOSSES = ("IoU", "GIoU", "DIoU", "CIoU", "EIoU", "SIoU", "MPDIoU", "Focal-EIoU", "WIoU")


@dataclass(frozen=True)
class Hyperparameters:
    """Everything that shapes learning but not the model. Defaults are those of `hyp.scratch-low.yaml`."""

    # optimisation
    lr0: float = 0.01  # initial learning rate
    lrf: float = 0.01  # final learning rate, as a fraction of lr0
    momentum: float = 0.937  # SGD momentum, or Adam's beta1
    weight_decay: float = 0.0005
    warmup_epochs: float = 3.0
    warmup_momentum: float = 0.8
    warmup_bias_lr: float = 0.1
    nominal_batch: int = 64  # gradients accumulate until about this many images have been seen
    # loss
    iou: str = "CIoU"  # what the box loss is made of, one of BOX_LOSSES
    box: float = 0.05
    cls: float = 0.5
    cls_pw: float = 1.0  # weight of positives in the class BCE
    obj: float = 1.0
    obj_pw: float = 1.0  # weight of positives in the objectness BCE
    iou_t: float = 0.20  # kept for compatible files; the assignment uses anchor_t
    anchor_t: float = 4.0  # largest ratio between the sides of a label and of its anchor
    anchors: float | None = None  # anchors per level; replaces those of the model yaml
    fl_gamma: float = 0.0  # focal loss exponent, 0 = plain BCE
    label_smoothing: float = 0.0
    # augmentation
    hsv_h: float = 0.015
    hsv_s: float = 0.7
    hsv_v: float = 0.4
    degrees: float = 0.0
    translate: float = 0.1
    scale: float = 0.5
    shear: float = 0.0
    perspective: float = 0.0
    flipud: float = 0.0
    fliplr: float = 0.5
    mosaic: float = 1.0
    mixup: float = 0.0
    copy_paste: float = 0.0

    def scaled(self, nl: int, nc: int, imgsz: int) -> Hyperparameters:
        """The same with loss gains scaled to `nl` detection levels, `nc` classes and `imgsz` pixels."""
        per_level = 3 / nl
        return dataclasses.replace(
            self,
            box=self.box * per_level,
            cls=self.cls * nc / 80 * per_level,
            obj=self.obj * (imgsz / 640) ** 2 * per_level,
        )


CHOICES = {"iou": BOX_LOSSES}  # the others are numbers
PROBABILITIES = ("flipud", "fliplr", "mosaic", "mixup", "copy_paste")
# (lowest, highest) value of the others that have one besides 0
LIMITS = {
    **dict.fromkeys(PROBABILITIES, (0.0, 1.0)),
    "momentum": (0.0, 0.9999),
    "warmup_momentum": (0.0, 0.9999),
    "nominal_batch": (1, 100_000),
    "label_smoothing": (0.0, 0.9999),
    "anchor_t": (1.01, 100.0),
    "anchors": (1, 100),
    "hsv_h": (0.0, 1.0),
    "hsv_s": (0.0, 1.0),
    "hsv_v": (0.0, 1.0),
    "degrees": (0.0, 180.0),
    "translate": (0.0, 1.0),
    "scale": (0.0, 0.99),
    "shear": (0.0, 89.0),
    "perspective": (0.0, 0.01),
}
FIELDS = {field.name: field for field in dataclasses.fields(Hyperparameters)}


def load_hyperparameters(path: Path) -> Hyperparameters:
    """Read a hyper-parameter yaml; keys that the file leaves out keep their defaults.

    Raises:
        UserError: not a mapping, an unknown key, or a value that the key may not have.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"{path}: not valid yaml: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected a mapping of hyper-parameters, found {type(content).__name__}")
    return Hyperparameters(
        **{str(key): checked(str(path), str(key), value) for key, value in content.items()}
    )


def checked(source: str, key: str, value: Any) -> Any:
    """`value` when the hyper-parameter `key` may have it.

    Args:
        source: where it comes from, for the message.

    Raises:
        UserError: an unknown key, no number or out of its range, or none of the choices.
    """
    if key not in FIELDS:
        near = difflib.get_close_matches(key, FIELDS, n=1)
        hint = f"; did you mean '{near[0]}'?" if near else f"; known keys: {', '.join(FIELDS)}"
        raise UserError(f"{source}: unknown hyper-parameter '{key}'{hint}")
    if key in CHOICES:
        return _chosen(source, key, value)
    if key == "anchors" and value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < float("inf"):
        hint = " (yaml writes exponents with a sign: 1.0e+2, 1.0e-2)" if "e" in str(value).lower() else ""
        raise UserError(f"{source}: hyper-parameter '{key}' must be a number, found {value!r}{hint}")
    low, high = LIMITS.get(key, (0.0, float("inf")))
    if not low <= value <= high:
        allowed = f"between {low} and {high}" if high < float("inf") else "0 or more"
        raise UserError(f"{source}: hyper-parameter '{key}' must be {allowed}, found {value}")
    return int(value) if key == "nominal_batch" else value


def _chosen(source: str, key: str, value: Any) -> str:
    known = {choice.lower(): choice for choice in CHOICES[key]}
    if value in known.values():
        return value
    near = difflib.get_close_matches(str(value).lower(), known, n=1)
    hint = f"; did you mean '{known[near[0]]}'?" if near else ""
    raise UserError(
        f"{source}: hyper-parameter '{key}' must be one of {', '.join(CHOICES[key])}, found {value!r}{hint}"
    )
