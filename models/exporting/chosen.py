"""In which of equal forms a network is written for a runtime: as measured here, by us, or by rule."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from models.exporting.config import ExportConfig
from models.exporting.formats import Format
from models.folding.forms import Chooser, by_rule
from models.tuning.findings import is_measured, remember, remembered, usual
from models.tuning.machine import Machine, instruction_set
from models.tuning.tune import BUDGET, tune
from models.yolo import DetectionModel
from utils.console import LOGGER
from utils.errors import UserError

RUNTIMES = {"torchscript": "torch", "onnx": "onnx", "openvino": "openvino"}  # by format, those that are timed
UNTIMED = ("dynamic", "half", "int8", "no_deploy")  # flags of what is not timed


@dataclass(frozen=True)
class Choice:
    """Forms, and why these: a text for the file and its readers."""

    choose: Chooser
    why: str


def check_tunable(config: ExportConfig, formats: Sequence[Format]) -> None:
    """Raise a UserError when `--tune` is asked for what is not timed."""
    for form in formats:
        if form.name not in RUNTIMES:
            raise UserError(f"--tune is for {', '.join(RUNTIMES)}; leave it out for {form.name}")
    for flag in UNTIMED:
        if getattr(config, flag):
            name = flag.replace("_", "-")
            raise UserError(f"--tune times networks in single precision for one size; leave out --{name}")
    if config.batch_size > 1:
        raise UserError(f"--tune times one image a call; leave out --batch-size {config.batch_size}")


def chosen(model: DetectionModel, form: Format, size: tuple[int, int], config: ExportConfig) -> Choice:
    """The forms for a format; with `--tune` after measuring them."""
    runtime = RUNTIMES.get(form.name)
    if runtime is None:
        return Choice(by_rule, "by rule")
    kind = config.cpu or instruction_set()
    choose = usual(runtime, kind)
    if not config.tune:
        if is_measured(runtime, kind):
            return Choice(choose, f"as measured in {runtime} on {kind}")
        return Choice(choose, f"by rule, as nothing was measured in {runtime} on {kind}")
    machine = Machine.here(runtime, config.threads or os.cpu_count() or 1)
    LOGGER.info(
        f"{form.name}: timing equal forms in {machine}, {size[0]}x{size[1]} px, up to {BUDGET:g} s; "
        "what is timed is kept, also after Ctrl-C"
    )
    started = time.perf_counter()
    tuning = tune(
        model, runtime, size, machine.threads,
        usual=choose, known=remembered(machine), keep=partial(remember, machine),
    )  # fmt: skip
    LOGGER.info(f"{form.name}: {tuning}, found in {time.perf_counter() - started:.0f} s")
    forms = "".join(f"; {site}: {name}" for site, name in tuning.forms.items())
    return Choice(tuning.chooser, f"{tuning} ({machine}, {size[0]}x{size[1]} px){forms}")
