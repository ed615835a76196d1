"""Training hyper-parameters: one typed, frozen record, which `training/hyp_yaml.py` reads from a file.

Processes that load data have it too, and do without torch, which takes them seconds and 200 MB each.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, NamedTuple


class Evolution(NamedTuple):
    """How freely `--evolve` changes a value (1 = fully, 0 = not at all) and between which limits."""

    gain: float
    low: float
    high: float


def setting(
    default: Any, low: float = 0.0, high: float = math.inf, evolution: Evolution | None = None
) -> Any:
    """A field that may be between `low` and `high`."""
    metadata = {"low": low, "high": high, "evolution": evolution}
    return dataclasses.field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Hyperparameters:
    """Everything that shapes learning but not the model. Defaults are those of `hyp.scratch-low.yaml`."""

    # optimisation
    lr0: float = setting(0.01, evolution=Evolution(1, 1e-5, 0.1))  # initial learning rate
    lrf: float = setting(0.01, evolution=Evolution(1, 0.001, 1))  # final one, as a fraction of lr0
    momentum: float = setting(0.937, 0, 0.9999, Evolution(0.3, 0.5, 0.99))  # of SGD, or Adam's beta1
    weight_decay: float = setting(0.0005, evolution=Evolution(1, 0, 0.005))
    warmup_epochs: float = setting(3.0, evolution=Evolution(1, 0, 10))
    warmup_momentum: float = setting(0.8, 0, 0.9999, Evolution(0.5, 0, 0.95))
    warmup_bias_lr: float = setting(0.1, evolution=Evolution(1, 0, 0.3))
    nominal_batch: int = setting(64, 1, 100_000)  # gradients accumulate until about as many images are seen
    # loss
    iou: str = "CIoU"  # the box loss: a base, and what is done to it
    obj_loss: str = "BCE"  # what objectness costs
    cls_loss: str = "BCE"  # what classes cost
    class_weights: str = "none"  # how much the labels of rare and of frequent classes count
    box: float = setting(0.05, evolution=Evolution(1, 0.01, 0.5))
    cls: float = setting(0.5, evolution=Evolution(1, 0.05, 5))
    cls_pw: float = setting(1.0, evolution=Evolution(1, 0.25, 4))  # weight of positives in the class BCE
    obj: float = setting(1.0, evolution=Evolution(1, 0.05, 5))
    obj_pw: float = setting(1.0, evolution=Evolution(1, 0.25, 4))  # … in the objectness BCE
    iou_t: float = setting(0.20)  # kept for compatible files; the assignment uses anchor_t
    anchor_t: float = setting(4.0, 1.01, 100, Evolution(0.5, 2, 10))  # largest ratio of label to anchor side
    # anchors per level, instead of the model's; evolution leaves it, as a fraction would be another model
    anchors: float | None = setting(None, 1, 100, Evolution(0, 1, 100))
    fl_gamma: float = setting(0.0, evolution=Evolution(1, 0, 3))  # above 0, BCE becomes focal
    label_smoothing: float = setting(0.0, 0, 0.9999, Evolution(1, 0, 0.3))
    # augmentation
    hsv_h: float = setting(0.015, 0, 1, Evolution(1, 0, 0.2))
    hsv_s: float = setting(0.7, 0, 1, Evolution(1, 0, 1))
    hsv_v: float = setting(0.4, 0, 1, Evolution(1, 0, 1))
    degrees: float = setting(0.0, 0, 180, Evolution(1, 0, 90))
    translate: float = setting(0.1, 0, 1, Evolution(1, 0, 0.5))
    scale: float = setting(0.5, 0, 0.99, Evolution(1, 0, 0.95))
    shear: float = setting(0.0, 0, 89, Evolution(1, 0, 20))
    perspective: float = setting(0.0, 0, 0.01, Evolution(1, 0, 0.001))
    flipud: float = setting(0.0, 0, 1, Evolution(1, 0, 1))  # a probability, as those that follow
    fliplr: float = setting(0.5, 0, 1, Evolution(0.5, 0, 1))
    mosaic: float = setting(1.0, 0, 1, Evolution(1, 0, 1))
    mixup: float = setting(0.0, 0, 1, Evolution(1, 0, 1))
    copy_paste: float = setting(0.0, 0, 1, Evolution(1, 0, 1))

    def scaled(self, nl: int, nc: int, imgsz: int) -> Hyperparameters:
        """The same with loss gains scaled to `nl` detection levels, `nc` classes and `imgsz` pixels."""
        per_level = 3 / nl
        return dataclasses.replace(
            self,
            box=self.box * per_level,
            cls=self.cls * nc / 80 * per_level,
            obj=self.obj * (imgsz / 640) ** 2 * per_level,
        )


FIELDS = {field.name: field for field in dataclasses.fields(Hyperparameters)}
