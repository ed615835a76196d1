"""What a network that trains begins with, of the weights of another one."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import closing
from typing import Any, NamedTuple

import torch
from torch import Tensor

from models.transfer import TransferReport, inherit, transfer, with_batch_norms
from models.weights import Misfit, find_weights, load_model
from models.yolo import DetectionModel
from training.lightening.fitting import first_images, fit_readers, result_of_fit
from training.lightening.pair import Pair, Watched
from utils.checkpoints.files import inference_state
from utils.console import LOGGER
from utils.data.loader import Loader
from utils.device import memory_format
from utils.distributed import Process, broadcast

EQUAL = 1e-6  # of the variance of a map


class Inherited(NamedTuple):
    """The network whose weights were taken over, and what of them."""

    source: DetectionModel
    report: TransferReport


def take_over(
    model: DetectionModel, weights: str, checkpoint: dict[str, Any], exclude: Sequence[str]
) -> tuple[TransferReport, Inherited | None]:
    """Take weights over by structure; by name where the file's network, a pruned one, cannot be rebuilt."""
    try:
        with torch.random.fork_rng(devices=[]):  # its own initial weights are no part of this run
            source = load_model(find_weights(weights))
    except Misfit as error:
        LOGGER.warning(f"{error}; tensors of equal names and shapes are taken over")
        return transfer(model, inference_state(checkpoint), exclude=exclude), None
    report = inherit(model, source, exclude=exclude)
    return report, Inherited(source, report)


def fit_inherited(inherited: Inherited, model: DetectionModel, loader: Loader, process: Process) -> None:
    """Fit what was taken over into another layout to what it reads there, as the start of a lightening does.

    On pictures as they are trained on, in the main process for all. Frozen layers stay as they are; so does
    a model that makes of a picture what the source makes of it.

    Raises:
        UserError: a picture cannot be read.
    """
    source, device, started = inherited.source, model.stride.device, time.perf_counter()
    if source.channels != model.channels or model.multiple % source.multiple:
        if process.is_main:
            sees = f"pictures of {source.channels} channels whose sides are multiples of {source.multiple}"
            LOGGER.info(f"no layer is fitted: what the weights are of takes {sees}")
        return
    source = with_batch_norms(source).to(device).to(memory_format=memory_format(device))
    pair = Pair(model, source, inherited.report)
    if pair.shared >= len(model.layers) - 1:
        return
    if process.is_main:
        own = Loader(loader.dataset, workers=loader.workers, shuffle=True, seed=loader.seed)
        with closing(own):
            images = first_images(own, device)
        if not alike(pair, images):
            count = fit_readers(pair, images)
            hint = "; --nofit leaves them as they were" if count else ""
            LOGGER.info(f"{result_of_fit(count, time.perf_counter() - started)}{hint}")
    model.load_state_dict(broadcast(model.state_dict()))
    model.train()


@torch.no_grad()
def alike(pair: Pair, images: Sequence[Tensor]) -> bool:
    """Whether the student makes of pictures what the teacher makes of them, up to rounding."""
    wanted = pair.lesson(images[0])[0]
    found = Watched(pair.student.eval(), pair.cuts)(images[0])[1]
    maps = [(found[own], wanted[its]) for own, its in pair.cuts.items()]
    return bool(maps) and all(
        mine.shape == its.shape and (mine - its).square().mean() <= EQUAL * its.var() for mine, its in maps
    )
