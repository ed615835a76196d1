"""What came of a run: its best epoch, what its network costs, and how long its epochs took."""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.runs import Run, settings_of
from models.summary import layer_costs
from models.weights import transfer
from models.yolo import DetectionModel
from training.curves import RESULT_COLUMNS
from utils.checkpoints.files import read_checkpoint
from utils.counting.measure import count_parameters
from utils.data.letterbox import round_up
from utils.errors import UserError
from utils.evaluation.metrics import fitness
from utils.files import atomic_write

EPOCH_LINE = re.compile(r"epoch (\d+)/\d+ .* (\d+\.\d+) s")
RESUME_LINE = re.compile(r"resuming at epoch (\d+), batch ([1-9]\d*)")  # in the middle of an epoch
METRICS = RESULT_COLUMNS[4:8]  # precision, recall, mAP50, mAP50-95
REFERENCE_SIZE = 640  # pixels; published GFLOPs are counted at this side


@dataclass(frozen=True)
class Facts:
    """What is known of a run besides its results.

    Attributes:
        parameters: of the trained network, with the classes of the data, before fusing.
        gflops, gflops_640: 2 x multiply-adds of convolutions and matrix products of the fused network for one
            square image of the training size, and of 640 pixels, in 10^9.
        transferred: fraction (0..1) of the parameters taken over from the initial weights, None without any.
        torch, device, threads: version, name, and number of CPU threads.
    """

    parameters: int
    gflops: float
    gflops_640: float
    transferred: float | None
    torch: str
    device: str
    threads: int


@dataclass(frozen=True)
class Outcome:
    """A finished run.

    Attributes:
        cfg: the variant as it was named to train.py.
        epoch: the best one, by fitness; precision to map50_95 are of that epoch.
        seconds: of each epoch that was timed from its start to its end.
    """

    variant: str
    seed: int
    cfg: str
    epoch: int
    precision: float
    recall: float
    map50: float
    map50_95: float
    seconds: tuple[float, ...]
    facts: Facts


def record(run: Run, imgsz: int, weights: Mapping[str, Tensor] | None, device: torch.device) -> None:
    """Write down the facts about a run that has just ended well, which marks it as finished.

    Args:
        imgsz: training size in pixels.
        weights: the tensors that it started from.
    """
    trained = DetectionModel(read_checkpoint(run.files.best)["yaml"])
    share = None if weights is None else transfer(trained, weights).share
    parameters = count_parameters(trained)
    deployed = trained.eval().fuse()
    facts = Facts(
        parameters=parameters,
        gflops=_gflops(deployed, imgsz),
        gflops_640=_gflops(deployed, REFERENCE_SIZE),
        transferred=share,
        torch=torch.__version__,
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        threads=torch.get_num_threads(),
    )
    with atomic_write(run.facts) as file:
        file.write(json.dumps(asdict(facts), indent=2).encode() + b"\n")


def _gflops(model: DetectionModel, imgsz: int) -> float:
    size = round_up(imgsz, model.multiple, least=2)  # as train.py does
    return sum(cost.gflops for cost in layer_costs(model.model, model.layers, model.yaml["ch"], size))


def outcome_of(run: Run) -> Outcome:
    """What came of a finished run.

    Raises:
        UserError: its files are damaged.
    """
    rows = _results(run.files.results)
    log = run.log.read_text(encoding="utf-8", errors="replace") if run.log.is_file() else ""
    scores = [fitness(*row) for row in rows]
    best = scores.index(max(scores))  # the first of equals, as train.py has it
    precision, recall, map50, map50_95 = rows[best]
    return Outcome(
        variant=run.variant,
        seed=run.seed,
        cfg=str(settings_of(run).get("cfg", run.variant)),
        epoch=best,
        precision=precision,
        recall=recall,
        map50=map50,
        map50_95=map50_95,
        seconds=epoch_seconds(log),
        facts=_facts(run.facts),
    )


def epoch_seconds(log: str) -> tuple[float, ...]:
    """Seconds of each epoch by the lines of a log; an epoch that was interrupted in its middle has none.

    An epoch may be there twice when the process was killed before it had saved; the later one counts.
    """
    seconds: dict[int, float] = {}
    partial = -1
    for line in log.splitlines():
        if found := RESUME_LINE.match(line):
            partial = int(found[1])
        elif found := EPOCH_LINE.fullmatch(line):
            epoch = int(found[1])
            if epoch == partial:
                seconds.pop(epoch, None)
            else:
                seconds[epoch] = float(found[2])
            partial = -1
    return tuple(seconds[epoch] for epoch in sorted(seconds))


def _results(path: Path) -> list[list[float]]:
    """Precision, recall, mAP50 and mAP50-95 of every epoch."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = [[float(row[name]) for name in METRICS] for row in csv.DictReader(file)]
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise _damaged(path) from error
    if not rows or not all(math.isfinite(value) for row in rows for value in row):
        raise _damaged(path)
    return rows


def _facts(path: Path) -> Facts:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        return Facts(
            parameters=int(values["parameters"]),
            gflops=float(values["gflops"]),
            gflops_640=float(values["gflops_640"]),
            transferred=None if values["transferred"] is None else float(values["transferred"]),
            torch=str(values["torch"]),
            device=str(values["device"]),
            threads=int(values["threads"]),
        )
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise _damaged(path) from error


def _damaged(path: Path) -> UserError:
    return UserError(f"{path} is missing or damaged; remove the run's folder to train it again")
