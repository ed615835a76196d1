"""Flags that the soak draws for a command, from those that it has."""

from __future__ import annotations

import dataclasses
import random
import typing
from collections.abc import Sequence
from typing import Literal

from detect import DetectConfig
from models.exporting.config import ExportConfig
from training.config import TrainConfig
from utils.flags import CommandConfig, option
from val import ValConfig

# how often a flag is drawn, and the values of those that are no switch and no choice
SWITCH, CHOICE = 0.12, 0.25
VALUES: dict[type[CommandConfig], dict[str, Sequence[str]]] = {
    TrainConfig: {"workers": "012", "seed": "17", "label_smoothing": ["0.1"], "freeze": ["2", "0 3"],
                  "save_period": "1", "patience": "1"},
    ValConfig: {"task": ["val", "train", "speed"], "workers": "012", "conf_thres": ["0.1"], "threads": "1",
                "batch_size": "13"},
    DetectConfig: {"vid_stride": "13", "threads": "1", "conf_thres": ["0.01"], "line_thickness": "1",
                   "slice": ["48"]},
    ExportConfig: {"opset": ["12", "17"], "batch_size": "2"},
}  # fmt: skip
# flags that the soak gives itself, or that ask for what is not there: a window, a GPU, minutes of calibration
OWN = {
    "weights", "cfg", "data", "hyp", "epochs", "imgsz", "resume", "evolve", "device", "project", "name",
    "exist_ok", "source", "include", "view_img", "int8", "half", "dnn", "keras", "optimize", "per_tensor",
    "mlmodel", "force", "augment",
}  # fmt: skip


def random_flags(config: type[CommandConfig], rng: random.Random) -> list[str]:
    """Some of a command's own flags, with values that they can have."""
    words: list[str] = []
    types = typing.get_type_hints(config)
    for one in dataclasses.fields(config):  # type: ignore[arg-type]  # every subclass is a dataclass
        kind, values = types[one.name], VALUES[config].get(one.name)
        if one.name in OWN and values is None:
            continue
        choices = [inner for inner in (kind, *typing.get_args(kind)) if typing.get_origin(inner) is Literal]
        if values is not None and rng.random() < CHOICE:
            words += [option(one), *rng.choice(values).split()]
        elif values is None and kind is bool and rng.random() < SWITCH:
            words.append(option(one))
        elif values is None and choices and rng.random() < CHOICE:
            words += [option(one), str(rng.choice(typing.get_args(choices[0])))]
    return words
