"""In which of equal forms a network is written for a runtime: as measured here, by us, or by rule."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from models.exporting.config import ExportConfig
from models.exporting.formats import Format
from models.folding.forms import Chooser, by_rule
from models.runtimes.machine import Machine, instruction_set
from models.tuning.findings import is_measured, tune_here, usual
from models.yolo import DetectionModel
from utils.errors import UserError

TIMED_IN = {"torchscript": "torch", "onnx": "onnx", "openvino": "openvino"}  # by format, those that are timed
UNTIMED = ("dynamic", "half", "int8", "no_deploy")  # flags of what is not timed


@dataclass(frozen=True)
class Choice:
    """Forms, and why these: a text for the file and its readers."""

    choose: Chooser
    why: str


def check_tunable(config: ExportConfig, formats: Sequence[Format]) -> None:
    """Raise a UserError when `--tune` is asked for what is not timed."""
    for form in formats:
        if form.name not in TIMED_IN:
            raise UserError(f"--tune is for {', '.join(TIMED_IN)}; leave it out for {form.name}")
    for flag in UNTIMED:
        if getattr(config, flag):
            name = flag.replace("_", "-")
            raise UserError(f"--tune times networks in single precision for one size; leave out --{name}")
    if config.batch_size > 1:
        raise UserError(f"--tune times one image a call; leave out --batch-size {config.batch_size}")


def chosen(model: DetectionModel, form: Format, size: tuple[int, int], config: ExportConfig) -> Choice:
    """The forms for a format; with `--tune` after measuring them."""
    runtime = TIMED_IN.get(form.name)
    if runtime is None:
        return Choice(by_rule, "by rule")
    kind = config.cpu or instruction_set()
    choose = usual(runtime, kind)
    if not config.tune:
        if is_measured(runtime, kind):
            return Choice(choose, f"as measured in {runtime} on {kind}")
        return Choice(choose, f"by rule, as nothing was measured in {runtime} on {kind}")
    threads = config.threads or os.cpu_count() or 1
    tuning = tune_here(model, runtime, size, threads, usual=choose)
    forms = "".join(f"; {site}: {name}" for site, name in tuning.forms.items())
    where = f"{Machine.here(runtime, threads)}, {size[0]}x{size[1]} px"
    return Choice(tuning.chooser, f"{tuning} ({where}){forms}")
