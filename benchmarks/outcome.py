"""What came of runs: best epoch, cost of the network, seconds of the epochs; and variants side by side."""

from __future__ import annotations

import copy
import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from benchmarks.runs import Run, damaged, settings_of
from models.summary import layer_costs
from models.transfer import inherit
from models.yolo import DetectionModel
from training.run_folder import RESULT_COLUMNS
from utils.checkpoints.files import read_checkpoint
from utils.counting.measure import count_parameters
from utils.data.letterbox import round_up
from utils.evaluation.metrics import fitness
from utils.files import write_text

if TYPE_CHECKING:
    import pandas as pd

EPOCH_LINE = re.compile(r"epoch (\d+)/\d+ .* (\d+\.\d+) s")
RESUME_LINE = re.compile(r"resuming at epoch (\d+), batch ([1-9]\d*)")  # in the middle of an epoch
METRICS = dict(zip(("precision", "recall", "map50", "map50_95"), RESULT_COLUMNS[4:8]))
CONFIDENCE = 0.95  # of the statement that a difference is more than the choice of the seeds
REFERENCE_SIZE = 640  # pixels; published GFLOPs are counted at this side
# what is known of a run besides its results
FACTS: dict[str, Callable[[Any], Any]] = {
    "parameters": int,  # of the trained network, with the classes of the data, before fusing
    # 2 x multiply-adds of convolutions and matrix products of the fused network for one square image of the
    # training size, and of 640 pixels, in 10^9
    "gflops": float,
    "gflops_640": float,
    # fraction (0..1) of the parameters taken over from the initial weights, NaN without any
    "transferred": lambda share: math.nan if share is None else float(share),
    "torch": str,
    "device": str,
    "threads": int,  # of the CPU
}


def record(run: Run, imgsz: int, weights: DetectionModel | None, device: torch.device) -> None:
    """Write down the facts about a run that has just ended well, which marks it as finished.

    Args:
        imgsz: training size in pixels.
        weights: the network whose weights it started from.
    """
    write_text(run.facts, json.dumps(measured(run, imgsz, weights, device), indent=2) + "\n")


def measured(run: Run, imgsz: int, weights: DetectionModel | None, device: torch.device) -> dict[str, Any]:
    """The `FACTS` about a run, as `record` writes them."""
    trained = DetectionModel(read_checkpoint(run.files.best)["yaml"])
    parameters = count_parameters(trained)
    share = None if weights is None else inherit(copy.deepcopy(trained), weights).share
    deployed = trained.eval().fuse()
    return {
        "parameters": parameters,
        "gflops": _gflops(deployed, imgsz),
        "gflops_640": _gflops(deployed, REFERENCE_SIZE),
        "transferred": share,
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "threads": torch.get_num_threads(),
    }


def _gflops(model: DetectionModel, imgsz: int) -> float:
    size = round_up(imgsz, model.multiple, least=2)  # as train.py does
    return sum(cost.gflops for cost in layer_costs(model.model, model.layers, model.yaml["ch"], size))


def outcome_of(run: Run) -> dict[str, Any]:
    """What came of a finished run.

    The keys: variant, seed, cfg (as it was named to train.py), epoch (the best one by fitness) with its
    `METRICS`, seconds (of each epoch that was timed from its start to its end), and `FACTS`.

    Raises:
        UserError: files of the run are damaged.
    """
    scores = scores_of(run)
    best = max(range(len(scores)), key=lambda epoch: fitness(*scores[epoch]))  # the first of equals
    return {
        "variant": run.variant,
        "seed": run.seed,
        "cfg": str(settings_of(run).get("cfg", run.variant)),
        "epoch": best,
        **dict(zip(METRICS, scores[best])),
        "seconds": seconds_of(run),
        **facts_of(run),
    }


def seconds_of(run: Run) -> list[float]:
    """Of each epoch that was timed from its start to its end."""
    log = run.log.read_text(encoding="utf-8", errors="replace") if run.log.is_file() else ""
    return epoch_seconds(log)


def epoch_seconds(log: str) -> list[float]:
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
    return [seconds[epoch] for epoch in sorted(seconds)]


def scores_of(run: Run) -> list[list[float]]:
    """`METRICS` of every epoch."""
    import pandas as pd

    path = run.files.results
    try:
        table = pd.read_csv(path, dtype=str, index_col=False, keep_default_na=False)[list(METRICS.values())]
        scores: np.ndarray = table.to_numpy(dtype=float)
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise damaged(path) from error
    if not len(scores) or not np.isfinite(scores).all():
        raise damaged(path)
    found: list[list[float]] = scores.tolist()
    return found


def facts_of(run: Run) -> dict[str, Any]:
    """`FACTS` of a finished run."""
    try:
        values = json.loads(run.facts.read_text(encoding="utf-8"))
        return {name: kind(values[name]) for name, kind in FACTS.items()}
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise damaged(run.facts) from error


@dataclass(frozen=True)
class Comparison:
    """Variants compared with one of them.

    Attributes:
        variants: a row each, by falling mAP50-95: `variant`; `runs`, a number, and their `seeds`; the means
            `map50` and `map50_95` with their sample standard deviations `map50_sd` and `map50_95_sd` (NaN of
            one run); `difference` of map50_95 to the baseline's; `seconds`, the median over all epochs of all
            runs (NaN when none was timed); of the first run what `outcome_of` says of the network.
        baseline: the row of the one that the others are compared with.
        sd: standard deviation of mAP50-95 over seeds, pooled over the variants of n > 1 runs:
            sqrt(sum (n - 1) sd^2 / sum (n - 1)). NaN when there are none.
        freedom: the degrees of freedom of `sd`.
    """

    variants: list[Any]
    baseline: Any
    sd: float
    freedom: int

    @classmethod
    def of(cls, outcomes: pd.DataFrame, baseline: str) -> Comparison:
        """Put rows of `outcome_of` together by variant; `baseline` is the name of one."""
        groups = outcomes.sort_values(["variant", "seed"]).groupby("variant")
        table = groups.agg(
            runs=("seed", "size"), seeds=("seed", tuple), map50=("map50", "mean"), map50_sd=("map50", "std"),
            map50_95=("map50_95", "mean"), map50_95_sd=("map50_95", "std"),
        )  # fmt: skip
        table = table.join(groups[["cfg", "parameters", "gflops", "gflops_640", "transferred"]].first())
        table["difference"] = table["map50_95"] - table["map50_95"][baseline]
        seconds = outcomes.set_index("variant")["seconds"].explode().astype(float)
        table["seconds"] = seconds.groupby("variant").median()
        weights = table["runs"] - 1
        freedom, squares = int(weights.sum()), (weights * table["map50_95_sd"] ** 2).sum()
        table = table.sort_values("map50_95", ascending=False, kind="stable").reset_index()
        rows = list(table.itertuples())
        own = next(row for row in rows if row.variant == baseline)
        return cls(rows, own, math.sqrt(squares / freedom) if freedom else math.nan, freedom)

    def limit(self, a: int, b: int) -> float:
        """The difference between means over `a` and over `b` runs that chance exceeds one time in twenty.

        Half the width of Student's confidence interval, for the sd is itself an estimate.
        """
        from scipy.special import stdtrit  # a dependency of scikit-learn; costs most of a second

        quantile = float(stdtrit(self.freedom, (1 + CONFIDENCE) / 2))
        return quantile * self.sd * math.sqrt(1 / a + 1 / b)

    def told(self, verdict: str) -> list[str]:
        """Names of the variants "above", "below" or "within" what chance explains beside the baseline."""
        found: dict[str, list[str]] = {"above": [], "below": [], "within": []}
        for row in self.variants:
            if row is not self.baseline:
                limit = self.limit(row.runs, self.baseline.runs)
                within = abs(row.difference) <= limit
                found["within" if within else "above" if row.difference > 0 else "below"].append(row.variant)
        return found[verdict]
