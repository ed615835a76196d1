"""The networks that `latency` and `profile` run: flags, forms, and the files that runtimes read."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.complexity import check_side
from models.exporting.formats import FORMATS, check_needs
from models.exporting.job import Job
from models.exporting.network import exported_network
from models.runtimes.base import MOST_THREADS
from models.runtimes.machine import PACKAGES, processor_name, version_of
from models.tuning.calls import RUNTIMES
from models.tuning.findings import tune_here, usual
from models.weights import find_weights, load_model
from models.yolo import DetectionModel
from utils.console import LOGGER
from utils.counting.measure import count_parameters, measure, meta_copy
from utils.counting.meter import Cost
from utils.errors import UserError
from utils.flags import IMGSZ, SIDE, CommandConfig, at_least, between, flag, one_of

PROFILED = ("onnx", "openvino")
# forms, and what follows the name of a network
FORMS = {"deployed": "", "rule": " (by rule)", "tuned": " (tuned)", "public": " (public)", "int8": " (INT8)"}


@dataclass(frozen=True)
class ModelsConfig(CommandConfig):
    """The flags of all commands that run networks."""

    cfg: tuple[str, ...] = flag((), "model yamls, by name or path; their weights are random")
    weights: tuple[str, ...] = flag((), "checkpoints (.pt, .safetensors), after the yamls")
    runtimes: tuple[str, ...] = flag(PROFILED, f"some of {', '.join(PROFILED)}", rule=one_of(PROFILED))
    imgsz: int = flag(640, "image side in pixels", *IMGSZ, rule=SIDE)
    threads: int = flag(2, "threads of each runtime", rule=between(1, MOST_THREADS))

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.cfg or self.weights):
            raise ValueError("name at least one model with --cfg or --weights")

    @property
    def forms(self) -> tuple[str, ...]:
        """Those of `FORMS` that are asked for."""
        return ("deployed",)


@dataclass(frozen=True)
class NetworkConfig(ModelsConfig):
    """Those of the ones that measure each network in turns with the others."""

    runs: int = flag(30, "measured rounds", rule=at_least(1))
    warmup: int = flag(5, "rounds before them", rule=at_least(0))
    public: bool = flag(False, "also the form without deploy(), only BatchNorm folded")
    output: str = flag("", "Markdown file for the tables")

    @property
    def forms(self) -> tuple[str, ...]:
        """Those of `FORMS` that are asked for."""
        return ("deployed", "public") if self.public else ("deployed",)


@dataclass(frozen=True)
class Candidate:
    """A network in one form, ready to be written.

    Attributes:
        flops: of the fused model, as published, whatever the form executes.
        cost: of this form, for the batch; None where nobody counts it.
    """

    variant: str
    form: str
    parameters: int
    flops: int
    cost: Cost | None
    network: nn.Module
    stride: int
    channels: int

    @property
    def name(self) -> str:
        """That of the model, and what `FORMS` says of its form."""
        return self.variant + FORMS[self.form]

    def write(self, form: str, image: Tensor, folder: Path, name: str) -> Path:
        """The file of a format, or the folder, of this name."""
        target = folder / f"{name}{FORMATS[form].suffix}"
        size = json.dumps(list(image.shape[2:]))
        metadata = {"names": "{}", "stride": str(self.stride), "imgsz": size}
        metadata |= {"channels": str(self.channels), "dynamic": "false"}
        FORMATS[form].exporter(Job(self.network, image, target, metadata))
        return target


def models_of(config: ModelsConfig) -> dict[str, DetectionModel]:
    """Every network by its name, in evaluation mode.

    Raises:
        UserError: unknown models, a side that is no multiple of a stride, or two networks of one name.
    """
    found: dict[str, DetectionModel] = {}
    for source in (*config.cfg, *config.weights):
        name = title_of(Path(source))
        shown = {name + FORMS[form] for form in config.forms}
        if doubles := sorted(shown & {other + FORMS[form] for other in found for form in config.forms}):
            raise UserError(f"'{doubles[0]}' is there twice; networks are told apart by their names")
        torch.manual_seed(0)
        model = load_model(find_weights(source)) if source in config.weights else DetectionModel(source)
        check_side(config.imgsz, name, model.multiple)
        found[name] = model.eval()
    return found


def candidates_of(
    models: Mapping[str, DetectionModel], runtime: str, config: NetworkConfig, batch: int = 1
) -> list[Candidate]:
    """Every network in every form that is asked for, as a runtime had better have it."""
    return [form for name, model in models.items() for form in in_forms(name, model, runtime, config, batch)]


def in_forms(
    name: str, model: DetectionModel, runtime: str, config: NetworkConfig, batch: int
) -> list[Candidate]:
    """A network, in evaluation mode, in those of `FORMS` that are asked for."""
    size = (config.imgsz, config.imgsz)
    image = torch.empty(batch, model.channels, *size, device="meta")
    fused = meta_copy(model).fuse()
    flops, parameters = measure(fused, image).flops("conv"), count_parameters(fused)
    choose = usual(runtime)
    folded = exported_network(model, size, choose=choose)
    found: list[Candidate] = []
    for form in config.forms:
        network = folded
        if form == "public":
            network = exported_network(model, size, folded=False)
        elif form == "rule":
            network = exported_network(model, size)
        elif form == "tuned":
            LOGGER.info(name)
            tuning = tune_here(model, runtime, size, config.threads, usual=choose)
            network = exported_network(model, size, choose=tuning.chooser)
        cost = None if form == "int8" else measure(network, image)
        wants = model.multiple, model.channels
        found.append(Candidate(name, form, parameters, flops, cost, network, *wants))
    return found


def title_of(source: Path) -> str:
    """The file's name; of `…/NAME-seed0/weights/best.pt`, as `benchmark.py train` writes it, NAME."""
    if source.parent.name == "weights" and source.parent.parent.name:
        return re.sub(r"-seed\d+$", "", source.parent.parent.name)
    return source.name.removesuffix(".yaml")


def check_packages(runtimes: Sequence[str], *, int8: bool = False) -> None:
    """Refuse early what would fail after minutes.

    Raises:
        UserError: a package that a runtime needs, or that writes what it reads, is not installed.
    """
    others = [runtime for runtime in runtimes if runtime != "torch"]
    more = [*(PACKAGES[runtime] for runtime in others), *(["nncf"] if int8 else [])]
    check_needs(*(FORMATS[RUNTIMES[runtime]] for runtime in others), more=more)


def describe_machine(runtimes: Sequence[str]) -> dict[str, Any]:
    """Where it is measured: `processor`, `cores`, and `versions` by runtime."""
    versions = {runtime: version_of(PACKAGES[runtime]) for runtime in runtimes}
    return {"processor": processor_name(), "cores": os.cpu_count() or 1, "versions": versions}
