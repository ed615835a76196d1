"""The course that a student takes: stage by stage first, then the whole network.

Everything that a step depends on is a function of seed and step, or in the `TrainingState`; so a run that was
killed goes on bit for bit from its last checkpoint.
"""

from __future__ import annotations

import itertools
import math
import statistics
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from training.ema import ModelEma
from training.engine import MAX_GRADIENT_NORM, NonFiniteLoss
from training.lightening.losses import output_error
from training.lightening.optimizer import MuonAdamW
from training.lightening.pair import Pair, Shares
from training.state import TrainingState
from utils.console import progress
from utils.data.batch import Batch
from utils.data.loader import Loader
from utils.device import autocast, memory_format
from utils.distributed import any_process, average_gradients, mean_over_processes
from utils.interrupt import StopRequest
from utils.seeding import generator_for

RECIPE = (
    5  # goes up whenever the same settings learn otherwise than before; docs/lighten-choices.md lists them
)
STAGES, WHOLE = "stages", "whole"
STAGE_SHARE = 1 / 3  # of all steps
RATES = {STAGES: 3e-3, WHOLE: 2e-3}
FITTED_WELL = 0.25  # of what a student can agree at most
SHORT = 600  # steps, below which the rate of a student that was fitted well is less in proportion
OLD_PACE = 0.2  # layers that are the teacher's own learn at a fifth of the pace of new ones
MAP_WEIGHT = {STAGES: 1.0, WHOLE: 5.0}  # what the maps say holds for things that are in no picture, too
OUTPUT_WEIGHT = 0.1
SHAKEN = 0.3  # standard deviation of the logarithm of how much a channel of shared maps counts …
SHAKEN_PICTURES = 0.5  # … for so many of the pictures
SETTLE = 0.8  # of a phase; then BatchNorm rests, as after a fit, so that what is learnt is what will run
WARM = 20  # steps
FEW_STEPS = 100  # with fewer a student hardly begins
WEIGHT_DECAY = 1e-4
MEASURES = 10  # parts, after each of which the student is measured and saved
STAGE_MEASURES = 0.3  # of them
TRIALS = 5  # steps of each phase that are timed to make a plan of minutes


@dataclass(frozen=True)
class Part:
    """Steps `steps[0]` to `steps[1]` of one phase, after which the student is measured."""

    phase: str
    steps: tuple[int, int]
    length: int  # of the phase


def plan(steps: int, *, stages: bool, measures: int = MEASURES) -> list[Part]:
    """The course of so many steps in all, part by part; `stages`: whether there are any to compare."""
    few = max(round(measures * STAGE_MEASURES), 1) if stages else 0
    first = round(steps * STAGE_SHARE) if stages else 0
    parts = []
    for phase, length, most in ((STAGES, first, few), (WHOLE, steps - first, measures - few)):
        rounds = min(most, length)
        if not length:
            continue
        ends = [length * i // rounds for i in range(rounds + 1)]
        parts += [Part(phase, (a, b), length) for a, b in itertools.pairwise(ends)]
    return parts


def pace(step: int, length: int) -> float:
    """Fraction of the rate at a step of a phase: a short warm-up, then a cosine to a fiftieth."""
    warm = min(1.0, (step + 1) / WARM)
    return warm * (0.02 + 0.98 * (1 + math.cos(math.pi * step / length)) / 2)


def build_optimizer(pair: Pair) -> MuonAdamW:
    """Over the student's own layers and the adapters; `pace` of each group says how fast it learns."""
    own = [(layer.index, module) for layer, module in zip(pair.student.layers, pair.student.model)]
    groups: dict[float, list[nn.Parameter]] = {1.0: list(pair.adapters.parameters()), OLD_PACE: []}
    for index, module in own[pair.shared :]:
        groups[1.0 if index in pair.new else OLD_PACE] += [p for p in module.parameters() if p.requires_grad]
    return MuonAdamW(
        [{"params": some, "pace": relative} for relative, some in groups.items() if some],
        lr=RATES[STAGES],
        weight_decay=WEIGHT_DECAY,
    )


def average_of(pair: Pair) -> ModelEma:
    """The averaged copy that is measured; it follows within some hundred steps."""
    return ModelEma(pair.student, decay=0.99, tau=30)


@dataclass
class Course:
    """A student on its way.

    Attributes:
        parts: the plan; `state.epoch` is the part under way, `state.batch` the steps of it that are done.
    """

    pair: Pair
    loader: Loader
    state: TrainingState
    parts: list[Part]
    device: torch.device
    dtype: torch.dtype | None

    @property
    def fitted(self) -> bool:
        """Whether least squares have brought the student so far that it begins to learn as a whole."""
        shares = self.state.lightened["agreement"]
        return bool(shares.get("fitted", -1.0) >= FITTED_WELL * shares["ceiling"])

    @property
    def has_stages(self) -> bool:
        """Whether there are stages to compare, and to be learnt."""
        return bool(self.pair.cuts) and not self.fitted

    def rate(self, part: Part) -> float:
        """The highest of a phase. Few steps at a high one would undo what the fit has made."""
        return RATES[part.phase] * (min(1.0, part.length / SHORT) if self.fitted else 1.0)

    def batch_statistics(self, part: Part, step: int) -> bool:
        """Whether BatchNorm of new layers goes by the batch; a fit has left it with what it would learn."""
        return not self.fitted and step < SETTLE * part.length

    def loss(self, batch: Batch, phase: str, shares: Shares | None = None) -> tuple[Tensor, Tensor]:
        """What there is to learn from a batch, and (3,) the mean stage error, output error and their sum.

        Args:
            shares: how much channels count, as `Pair.lesson` takes it.
        """
        images = batch.images.to(self.device, non_blocking=True)
        images = images.to(torch.float32, memory_format=memory_format(self.device)) / 255
        with autocast(self.device, self.dtype):
            maps, wanted = self.pair.lesson(images, shares)
            errors, logits = self.pair.errors(maps, stages=phase == STAGES)
        features = torch.stack([*errors.values(), images.new_zeros(())]).sum()
        outputs = features.new_zeros(()) if logits is None else output_error(logits, wanted)
        total = MAP_WEIGHT[phase] * features + OUTPUT_WEIGHT * outputs
        return total, torch.stack((features / max(len(errors), 1), outputs, total)).detach()

    def shares(self, count: int) -> Shares:
        """How much each channel counts for each of so many pictures: of every other picture on the average
        something else, by a factor of `SHAKEN` or so."""
        loader, state = self.loader, self.state
        rng = generator_for(loader.seed, state.epoch, state.batch, 7)
        everybody = count * loader.world_size
        moved = rng.random((everybody, 1)) < SHAKEN_PICTURES

        def draw(channels: int) -> Tensor:
            factors = np.exp(SHAKEN * moved * rng.standard_normal((everybody, channels)))
            mine = torch.from_numpy(factors[loader.rank :: loader.world_size].astype(np.float32))
            return mine[:, :, None, None].to(self.device)

        return draw

    def batches(self) -> Iterator[Batch]:
        """Batches from where the course stands, without an end."""
        done = (
            sum(b - a for a, b in (part.steps for part in self.parts[: self.state.epoch])) + self.state.batch
        )
        epoch, start = divmod(done, len(self.loader))
        while True:
            self.loader.set_epoch(epoch, start)
            yield from self.loader
            epoch, start = epoch + 1, 0

    def learn(self, batches: Iterator[Batch], stop: StopRequest) -> bool:
        """Take the rest of the part under way. False when a stop was requested before its end.

        Raises:
            NonFiniteLoss: before the weights take a step from such a loss.
            Stopped: a stop was requested while a batch was awaited.
        """
        state, part = self.state, self.parts[self.state.epoch]
        start, end = part.steps
        if start == state.batch == 0:  # a phase begins
            state.optimizer.state.clear()
            state.ema = average_of(self.pair)
        title = f"{part.phase} {end}/{part.length}"
        todo = range(start + state.batch, end)
        with progress(todo, title, total=end - start, done=state.batch, unit=" steps") as bar:
            for step in bar:
                self.pair.train(self.batch_statistics(part, step))
                for group in state.optimizer.param_groups:
                    group["lr"] = self.rate(part) * group["pace"] * pace(step, part.length)
                # several processes stop together; the batch that one of them waits for has to come
                with stop.raising() if self.state.processes == 1 else nullcontext():
                    batch = next(batches)
                loss, items = self.loss(batch, part.phase, self.shares(len(batch.images)))
                broken, stopping = any_process(
                    [not math.isfinite(loss.item()), bool(stop.requested)], self.device
                )
                if broken:
                    raise NonFiniteLoss(
                        f"the error became {loss.item()} in step {step} of phase '{part.phase}'"
                    )
                state.scaler.scale(loss).backward()
                state.scaler.unscale_(state.optimizer)
                own = [p for group in state.optimizer.param_groups for p in group["params"]]
                average_gradients(own)
                nn.utils.clip_grad_norm_(own, MAX_GRADIENT_NORM)
                state.scaler.step(state.optimizer)
                state.scaler.update()
                state.optimizer.zero_grad()
                state.ema.update(state.model)
                state.loss_sum += items
                state.batch += 1
                bar.set_postfix_str(f"stages {items[0]:.3f} outputs {items[1]:.2f}", refresh=False)
                if stopping and step + 1 < end:
                    state.loss_sum = mean_over_processes(state.loss_sum)
                    return False
        if end == part.length:  # a phase ends with its average
            state.model.load_state_dict(state.ema.model.state_dict())
        return True


def steps_in(minutes: float, pair: Pair, course: Course, *, stages: bool) -> int:
    """How many steps fit into so many minutes here, by timing some of each phase without learning.

    Workers make further batches meanwhile, as they will then.
    """
    times: dict[str, float] = {}
    batches, optimizer = course.batches(), course.state.optimizer
    pair.train(batch_statistics=False)
    for group in optimizer.param_groups:
        group["lr"] = 0.0  # which the course sets in every step
    for phase in (STAGES, WHOLE) if stages else (WHOLE,):
        trials = []
        for _ in range(1 + TRIALS):
            started = time.perf_counter()
            course.loss(next(batches), phase)[0].backward()
            optimizer.zero_grad(set_to_none=False)  # of adapters, too; a step that is not finite would stay
            optimizer.step()
            trials.append(time.perf_counter() - started)
        times[phase] = statistics.median(trials[1:])  # the first one takes longer; other programs come and go
    optimizer.zero_grad()
    optimizer.state.clear()
    step = STAGE_SHARE * times.get(STAGES, times[WHOLE]) + (1 - STAGE_SHARE) * times[WHOLE]
    return max(round(minutes * 60 * 0.9 / step), 2)  # a tenth is for measuring and saving
