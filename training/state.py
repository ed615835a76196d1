"""Everything that changes while a model trains, in one place, to be saved and restored exactly."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from models.yolo import DetectionModel
from training.ema import ModelEma
from utils.checkpoints.files import FORMAT, VERSION, write_checkpoint
from utils.errors import UserError
from utils.hyperparameters import Hyperparameters
from utils.losses.composition import RunningMean


@dataclass
class BestEpoch:
    """The best epoch so far, and since when nothing as good has come (`--patience`).

    An epoch that equals the best one restarts the waiting but does not replace it; so a slow start, where
    every epoch scores zero, does not count as waiting.
    """

    fitness: float = -1.0
    epoch: int = -1
    latest: int = -1

    def update(self, epoch: int, fitness: float) -> None:
        """Take note of a validated epoch."""
        if fitness >= self.fitness:
            self.latest = epoch
        if fitness > self.fitness:
            self.fitness, self.epoch = fitness, epoch

    def waiting(self, epoch: int) -> int:
        """Epochs up to `epoch` since one was as good as the best."""
        return epoch - self.latest


@dataclass(frozen=True)
class BeforeBatch:
    """What a batch changes before the weights take a step, as it was before.

    Attributes:
        buffers: of the model, by name: the statistics of BatchNorm.
        gradients: of earlier batches, by the name of the parameter, that wait for the step.
        iou_loss: the running mean.
    """

    buffers: dict[str, Tensor]
    gradients: dict[str, Tensor]
    iou_loss: float


@dataclass
class TrainingState:
    """A training run at one moment.

    Attributes:
        epoch: the epoch under way, or about to start.
        batch: batches of that epoch that are done.
        processes: how many train together.
        since_step: batches whose gradients wait in `.grad` for the next optimizer step.
        loss_sum: (3,) sums of the box, objectness and class loss over the batches done in this epoch; with a
            teacher (4,), its error is the last.
        iou_loss: running mean of the IoU loss, which a `DetectionLoss` moves; only WIoU makes use of it.
        results: one row of `results.csv` for each finished epoch.
        maps: mAP50-95 of each class at the last validation, for `--image-weights`.
        finished: all epochs are done, or patience has run out.
        lightened: of a network that was taught by another one, by which and how; plain values.
        aside: what learns along with the model and is no part of the result.
    """

    model: DetectionModel
    ema: ModelEma[DetectionModel]
    optimizer: Optimizer
    scaler: torch.amp.GradScaler
    hyp: Hyperparameters
    train_args: dict[str, Any]
    epoch: int = 0
    batch: int = 0
    since_step: int = 0
    processes: int = 1
    best: BestEpoch = field(default_factory=lambda: BestEpoch())
    loss_sum: Tensor = field(default_factory=lambda: torch.zeros(3))
    iou_loss: RunningMean = field(default_factory=RunningMean)
    results: list[list[float]] = field(default_factory=list)
    maps: list[float] = field(default_factory=list)
    finished: bool = False
    lightened: dict[str, Any] = field(default_factory=dict)
    aside: nn.Module = field(default_factory=nn.ModuleDict)

    COUNTERS: ClassVar = (
        "epoch", "batch", "since_step", "processes", "results", "maps", "finished"
    )  # fmt: skip

    def is_finite(self) -> bool:
        """Whether every weight of the model is a finite number, and of its average, in half precision too."""
        average = [t.half() for t in self.ema.model.state_dict().values() if t.dtype.is_floating_point]
        tensors = [*self.model.state_dict().values(), *average]
        return all(bool(torch.isfinite(t).all()) for t in tensors if t.dtype.is_floating_point)

    def before_batch(self) -> BeforeBatch:
        """What has to be kept so that the state can be saved while a batch is computed.

        Gradients begin anew; `gather` adds the earlier ones, to the same bits as if they had been there.
        """
        model = self.model
        gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        for parameter in model.parameters():
            parameter.grad = None
        buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
        return BeforeBatch(buffers, gradients, self.iou_loss.value)

    def gather(self, before: BeforeBatch) -> None:
        """Add the gradients of earlier batches to those of the batch that is done."""
        for name, parameter in self.model.named_parameters():
            if (earlier := before.gradients.get(name)) is not None:
                parameter.grad = earlier if parameter.grad is None else earlier.add_(parameter.grad)

    def save(self, path: Path, before: BeforeBatch | None = None) -> None:
        """Write all that `restore` needs; while a batch is computed, as it was `before`."""
        weights = self.model.state_dict()
        pending = {n: p.grad for n, p in self.model.named_parameters() if p.grad is not None}
        mean = self.iou_loss.value
        if before is not None:
            weights |= {name: buffer for name, buffer in before.buffers.items() if name in weights}
            pending, mean = before.gradients, before.iou_loss
        resume = {
            **{name: getattr(self, name) for name in self.COUNTERS},
            "best": asdict(self.best),
            "loss_sum": self.loss_sum,
            "iou_loss": mean,
            "aside": self.aside.state_dict(),
            "ema_updates": self.ema.updates,
            "scaler": self.scaler.state_dict(),
            "gradients": pending if self.since_step else {},
            "rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        }
        content = {
            **self._description(),
            "model": weights,
            "ema": self.ema.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "resume": resume,
        }
        write_checkpoint(path, content)

    def save_weights(self, path: Path) -> None:
        """Write the averaged weights in half precision, for use and not for resuming."""
        half = {
            name: tensor.half() if tensor.dtype.is_floating_point else tensor
            for name, tensor in self.ema.model.state_dict().items()
        }
        write_checkpoint(path, {**self._description(), "model": half, "ema": None})

    def restore(self, content: Mapping[str, Any]) -> None:
        """Continue from the content of a file that `save` wrote, with a model and optimizer of that form.

        Raises:
            UserError: the content is incomplete or of another form.
        """
        try:
            self._restore(content, content["resume"])
        except (KeyError, TypeError, AttributeError, ValueError, RuntimeError) as error:
            raise UserError(f"the training state of this checkpoint is damaged: {error}") from error

    def _restore(self, content: Mapping[str, Any], resume: Mapping[str, Any]) -> None:
        self.model.load_state_dict(content["model"])
        self.ema.model.load_state_dict(content["ema"])
        if type(resume["ema_updates"]) is not int:
            raise TypeError(f"'ema_updates' is {resume['ema_updates']!r}")
        self.ema.updates = resume["ema_updates"]
        self.optimizer.load_state_dict(content["optimizer"])
        self.scaler.load_state_dict(resume["scaler"])
        for name in self.COUNTERS:
            if type(resume[name]) is not type(getattr(self, name)):
                raise TypeError(f"'{name}' is {resume[name]!r}")
            setattr(self, name, resume[name])
        self.best = BestEpoch(**resume["best"])
        self.loss_sum = resume["loss_sum"].to(self.loss_sum.device)
        self.lightened = dict(content.get("lightened") or {})
        self.aside.load_state_dict(resume.get("aside", {}))
        # files that are older than the choice of box losses have none
        mean = resume.get("iou_loss", self.iou_loss.value)
        if type(mean) is not float or not 0 < mean < float("inf"):
            raise ValueError(f"'iou_loss' is {mean!r}")
        self.iou_loss.value = mean
        for name, parameter in self.model.named_parameters():
            gradient = resume["gradients"].get(name)
            parameter.grad = None if gradient is None else gradient.to(parameter)
        torch.set_rng_state(resume["rng"])
        if torch.cuda.is_available() and len(resume["cuda_rng"]) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all(resume["cuda_rng"])

    def _description(self) -> dict[str, Any]:
        model = self.ema.model
        return {
            "format": FORMAT,
            "version": VERSION,
            "yaml": model.yaml,
            "names": model.names,
            "nc": model.nc,
            "stride": model.stride.tolist(),
            "anchors": (model.head.anchors * model.stride.view(-1, 1, 1).to(model.head.anchors)).tolist(),
            "epoch": self.epoch,
            "best_fitness": self.best.fitness,
            "train_args": self.train_args,
            "hyp": asdict(self.hyp),
            **({"lightened": self.lightened} if self.lightened else {}),
            "date": datetime.datetime.now().isoformat(timespec="seconds"),
        }
