"""The networks among which `lighten.py` searches: which there are, what they cost, who meets a budget."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from benchmarks.latency import compare
from benchmarks.lightening.page import TEACHER, Variant, variant_of
from benchmarks.timings import Timing
from models.cfg import MULTIPLES
from models.yolo import DetectionModel
from training.lightening.config import LightenConfig
from training.lightening.setup import LITTLE, build_student
from utils.console import progress
from utils.errors import UserError
from utils.files import ROOT, safe_name

WIDTHS = ("0.875", "0.75", "0.625", "0.5")
SIZED = re.compile(r"yolov5[nsmlx](?![a-z0-9])")
GROUP = 6  # networks that are timed in turns with the teacher in one process
ROUNDS = 40
MEANING = {"faster": "of its time", "smaller": "of its parameters", "flops": "of its GFLOPs"}


@dataclass(frozen=True)
class Choice:
    """A network that the teacher could become.

    Attributes:
        cfg, width: as lighten.py takes them.
        variant: its costs.
    """

    cfg: str
    width: float
    variant: Variant

    @property
    def name(self) -> str:
        return self.variant.name

    def asked(self, config: LightenConfig) -> LightenConfig:
        return asked(config, self.cfg, self.width)


def asked(config: LightenConfig, cfg: str, width: float) -> LightenConfig:
    """The settings of a run for one network, without those of the search."""
    return replace(
        config, cfg=cfg, width=width, faster=None, smaller=None, flops=None, candidates=(), runtime=None,
        data="", verbose=False, resume=False,
    )  # fmt: skip


def named(config: LightenConfig, teacher: DetectionModel) -> dict[str, tuple[str, float]]:
    """Yaml and width by name: what --candidates names, or all of models/ and the teacher's own, narrower.

    A layout is taken in the size that has the teacher's multiples.
    """
    found: dict[str, tuple[str, float]] = {}
    for word in config.candidates or (*layouts(teacher), *WIDTHS):
        width = 0.0
        with contextlib.suppress(ValueError):
            width = float(word)
        if width and not 0.05 <= width < 1:
            raise UserError(f"--candidates {word}: a width lies between 0.05 and 1")
        cfg, width = ("", width) if width else (word, 1.0)
        name = asked(config, cfg, width).network
        if safe_name(name) in {safe_name(other) for other in (*found, TEACHER)}:
            raise UserError(f"--candidates {word}: there is another {name!r}; name each once, as no other")
        found[name] = cfg, width
    return found


def layouts(teacher: DetectionModel) -> list[str]:
    """The yamls of models/, each layout once: in the teacher's size, or in a size of its own."""
    depth, width = (teacher.yaml[f"{side}_multiple"] for side in ("depth", "width"))
    size = next((size for size, pair in MULTIPLES.items() if pair == (depth, width)), "n")
    files = sorted(file.name for file in (ROOT / "models").glob("*.yaml"))
    return list(dict.fromkeys(SIZED.sub(f"yolov5{size}", name) for name in files))


def candidates_for(
    config: LightenConfig, teacher: DetectionModel, imgsz: int
) -> tuple[list[Choice], list[tuple[str, str]]]:
    """Those that could be taught, the costliest first, and the names of the others, each with the reason.

    Raises:
        UserError: one that --candidates names cannot be taught.
    """
    found: list[Choice] = []
    left_out: list[tuple[str, str]] = []
    for name, (cfg, width) in progress(named(config, teacher).items(), "candidates", unit=" networks"):
        try:
            model, share = student_for(config, cfg, width, teacher)
            variant = variant_of(name, "candidate", model, imgsz)
        except UserError as error:
            if config.candidates:
                raise
            left_out.append((name, str(error)))
            continue
        if same_layers(model, teacher):
            left_out.append((name, "it is the teacher's own"))
        elif not config.candidates and (reason := unfit(model, teacher, cfg, share)):
            left_out.append((name, reason))
        else:
            found.append(Choice(cfg, width, variant))
    return sorted(found, key=lambda one: -one.variant.gflops), left_out


def student_for(
    config: LightenConfig, cfg: str, width: float, teacher: DetectionModel
) -> tuple[DetectionModel, float]:
    """A network as it begins to learn, and the share of its parameters that are the teacher's.

    Raises:
        UserError: a faulty yaml, or one that cannot stand for the teacher.
    """
    torch.manual_seed(config.seed)
    model, report = build_student(asked(config, cfg, width), teacher)
    return model.eval(), report.share


def unfit(model: DetectionModel, teacher: DetectionModel, cfg: str, share: float) -> str:
    """Why a network is no candidate unless it is named; empty when it is one. `cfg` is empty for a width."""
    multiples = ("depth_multiple", "width_multiple")
    if cfg and any(model.yaml[key] != teacher.yaml[key] for key in multiples):
        return "it is of another size"
    if share < LITTLE:
        return f"it begins with next to nothing of the teacher, {share:.1%} of its parameters"
    return ""


def same_layers(model: DetectionModel, teacher: DetectionModel) -> bool:
    rows = [[(layer.name, layer.number, layer.args) for layer in one.layers] for one in (model, teacher)]
    return rows[0] == rows[1]


def ratios(variant: Variant, teacher: Variant, budget: Mapping[str, float]) -> dict[str, float]:
    """What a network takes of the teacher's costs, by flag; of the time the median, where it is known."""
    known = {
        "faster": variant.ratio[1] if variant.ratio else None,
        "smaller": variant.parameters / teacher.parameters,
        "flops": variant.gflops / teacher.gflops,
    }
    return {name: value for name, value in known.items() if name in budget and value is not None}


def over(variant: Variant, teacher: Variant, budget: Mapping[str, float]) -> str:
    """By what a network exceeds the budget, as far as is known; empty when it meets it."""
    found = ratios(variant, teacher, budget)
    much = [f"{value:.3f} {MEANING[name]}" for name, value in found.items() if value > budget[name]]
    return f"over the budget: {' and '.join(much)}" if much else ""


def nothing_meets(variants: Sequence[Variant], teacher: Variant, budget: Mapping[str, float]) -> UserError:
    """The error that says which ratios there are."""
    best = []
    for name, most in budget.items():
        known = [
            (found[name], one.name) for one in variants if name in (found := ratios(one, teacher, budget))
        ]
        least = min(known, default=None)
        best.append(
            f"--{name} {most:g}: "
            + (f"{least[1]} takes {least[0]:.3f} {MEANING[name]}" if least else "not measured")
        )
    return UserError(
        f"none of {len(variants)} candidates meets the budget; the least are, for {'; for '.join(best)}; "
        "allow more, or name others with --candidates"
    )


def timed(
    candidates: Sequence[Choice], config: LightenConfig, teacher: DetectionModel, imgsz: int
) -> Iterator[dict[str, Timing]]:
    """Timings of some candidates at a time, and of the teacher with them, by name.

    Raises:
        UserError: the runtime fails.
    """
    for start in range(0, len(candidates), GROUP):
        networks = {TEACHER: teacher}
        for one in candidates[start : start + GROUP]:
            networks[one.name] = student_for(config, one.cfg, one.width, teacher)[0]
        yield {row.variant: row for row in compare(config.timed_in, networks, imgsz, ROUNDS)}
