"""The training loop: one epoch."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.config import TrainConfig
from training.loggers.opening import Loggers
from training.optim import Schedule
from training.run_folder import RESULT_COLUMNS, TEACHER_COLUMN, RunFolder
from training.state import TrainingState
from training.teacher import Teacher
from utils.console import LOGGER, progress
from utils.data.batch import Batch
from utils.data.letterbox import round_up
from utils.data.loader import Loader
from utils.device import amp_dtype, autocast, memory_format
from utils.distributed import Process, any_process, mean_over_processes
from utils.errors import UserError
from utils.evaluation.evaluate import evaluate
from utils.interrupt import Stopped, StopRequest, on_cut_off
from utils.losses.detection import DetectionLoss
from utils.seeding import generator_for

MAX_GRADIENT_NORM = 10.0


class NonFiniteLoss(UserError):
    """The loss, or a weight, became infinite or not a number."""


@dataclass(frozen=True)
class Training:
    """A run that is set up: what stays as it is while it trains, and the state that moves.

    Attributes:
        val_loader: on the main process only.
        teacher: a trained detector to learn from beside the labels, when there is one.
        loggers: services that are told of the run, by the main process.
    """

    config: TrainConfig
    process: Process
    device: torch.device
    loader: Loader
    val_loader: Loader | None
    schedule: Schedule
    criterion: DetectionLoss
    run: RunFolder
    state: TrainingState
    teacher: Teacher | None = None
    loggers: Loggers = field(default_factory=Loggers)

    @property
    def columns(self) -> tuple[str, ...]:
        """What the numbers of a row of results are."""
        return RESULT_COLUMNS if self.teacher is None else (*RESULT_COLUMNS, TEACHER_COLUMN)

    @property
    def paused(self) -> bool:
        """Whether it has come to the epoch of `--pause`, and there is more to come."""
        return 0 < self.config.pause <= self.state.epoch and not self.state.finished


def train_one_epoch(
    training: Training,
    model: nn.Module,
    stop: StopRequest,
    on_batch: Callable[[int, Batch], None] | None = None,
) -> bool:
    """Train through the rest of the epoch `state.epoch`, from batch `state.batch` on.

    Args:
        training: its state is updated in place after each batch; its loader is already set to the epoch and
            its first batch.
        model: `state.model`, watched by the teacher where there is one, and wrapped for several processes
            where there are several.
        on_batch: called with the number of the batch and the batch itself, before it is used.

    Returns:
        True when the epoch is complete, False when a stop was requested before.

    Raises:
        NonFiniteLoss: before the weights take a step from such a loss.
    """
    model.train()
    for layer in training.state.model.model:
        if is_frozen(layer):
            layer.eval()  # its BatchNorm statistics stay as well
    state, schedule, loader, device = training.state, training.schedule, training.loader, training.device
    scale = training.process.world_size * (4.0 if training.config.quad else 1.0)
    visible, total = None if training.process.is_main else False, len(loader)
    title, complete = f"epoch {state.epoch}", False
    # several processes stop together, after a batch; the batch that one of them waits for has to come
    alone = training.process.world_size == 1
    source = stop.awaiting(loader) if alone else loader
    with (
        suppress(Stopped),
        progress(source, title, total=total, done=state.batch, visible=visible) as batches,
    ):
        for batch in batches:
            step = state.epoch * schedule.batches + state.batch
            schedule.apply(state.optimizer, step, state.epoch)
            if on_batch is not None:
                on_batch(step, batch)
            images = _to_model(batch.images, training)
            targets = batch.targets.to(device)
            with _saved_when_cut_off(training) if alone else nullcontext():
                loss, items = _loss(training, model, images, targets)
                broken, stopping = any_process([not math.isfinite(loss.item()), bool(stop.requested)], device)
                if broken:
                    raise NonFiniteLoss(
                        f"the loss became {loss.item()} in epoch {state.epoch}, batch {state.batch}"
                    )
                state.scaler.scale(loss * scale).backward()
            state.loss_sum += items
            state.batch += 1
            state.since_step += 1
            if state.since_step >= schedule.accumulation(step):
                _optimizer_step(state)
            batches.set_postfix_str(losses_line((state.loss_sum / state.batch).tolist()), refresh=False)
            if stopping:
                # every process resumes from what the main one saves
                state.loss_sum = mean_over_processes(state.loss_sum)
                break
        else:
            complete = True
    return complete


def validate_average(training: Training, stop: StopRequest) -> tuple[list[float], list[float], bool]:
    """P, R, mAP50, mAP50-95 and three losses of the averaged model, mAP50-95 of each class, and whether any
    detection is confident.

    Only the main process validates; the others keep what they know.

    Raises:
        Stopped: a stop was requested meanwhile.
    """
    loader, state = training.val_loader, training.state
    if loader is None:
        return [0.0] * 7, state.maps, True
    names, criterion = state.model.names, training.criterion
    with stop.raising():
        result = evaluate(state.ema.model, loader, training.device, names, criterion=criterion)
    return [*result.summary(), *result.losses], result.maps.tolist(), result.confident


def losses_line(losses: Sequence[float]) -> str:
    """The mean losses for one image, and the teacher's where there is one."""
    return " ".join(f"{name} {loss:.4f}" for name, loss in zip(("box", "obj", "cls", "teacher"), losses))


def is_frozen(layer: nn.Module) -> bool:
    """Whether a layer has weights and none of them is trained."""
    weights = list(layer.parameters())
    return bool(weights) and not any(weight.requires_grad for weight in weights)


def _loss(training: Training, model: nn.Module, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """What a batch costs, and the parts of that for one image: as `DetectionLoss` has them, then the
    teacher's where there is one."""
    teacher = training.teacher
    with autocast(training.device, amp_dtype(training.config.amp, training.device)):
        predictions = model(images)
        lesson = None if teacher is None else teacher(images)
    if teacher is None or lesson is None:
        return training.criterion(predictions, targets)
    logits, maps = predictions
    loss, items = training.criterion(logits, targets)
    error = teacher.error(logits, maps, lesson)
    return loss + error * len(images), torch.cat((items, error.detach()[None]))


@contextmanager
def _saved_when_cut_off(training: Training) -> Iterator[None]:
    """Context of the computation of a batch, which may take longer than a signal has patience: then the state
    is saved as it was before the batch."""
    state, run, moving = training.state, training.run, threading.Lock()
    before = state.before_batch()

    def save() -> None:
        # whoever has the lock keeps it: either the weights move, or they are saved and the process ends
        if moving.acquire(blocking=False) and state.is_finite():
            state.save(run.last, before)
            LOGGER.info(f"stopped in a batch; continue with: python train.py --resume {run.last}")

    with on_cut_off(save):
        yield
        moving.acquire()
    state.gather(before)


def _optimizer_step(state: TrainingState) -> None:
    """Take a step with the gathered gradients, and let the average follow."""
    state.scaler.unscale_(state.optimizer)
    nn.utils.clip_grad_norm_(state.model.parameters(), MAX_GRADIENT_NORM)
    state.scaler.step(state.optimizer)
    state.scaler.update()
    state.optimizer.zero_grad()
    state.ema.update(state.model)
    state.since_step = 0


def _to_model(images: Tensor, training: Training) -> Tensor:
    """uint8 (B, C, H, W) -> float (B, C, H', W') in 0–1, resized when training is multi-scale."""
    layout = memory_format(training.device)
    pixels = images.to(training.device, non_blocking=True).to(torch.float32, memory_format=layout) / 255
    if not training.config.multi_scale:
        return pixels
    state, imgsz, stride = training.state, training.loader.dataset.size, training.state.model.multiple
    # two strides at the least: of a single value, which one image of one stride is, BatchNorm has no variance
    low, high = max(math.ceil(imgsz / 2 / stride), 2), imgsz * 3 // 2 // stride
    rng = generator_for(training.config.seed, state.epoch, state.batch)
    side = int(rng.integers(low, high, endpoint=True)) * stride
    factor = side / max(pixels.shape[2:])
    shape = [round_up(length * factor, stride) for length in pixels.shape[2:]]
    return F.interpolate(pixels, size=shape, mode="bilinear")
