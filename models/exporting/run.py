"""From a weights file to verified files beside it."""

from __future__ import annotations

import dataclasses
import errno
import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from models.exporting.chosen import check_tunable, chosen
from models.exporting.config import ExportConfig
from models.exporting.formats import Format, formats_of
from models.exporting.int8 import quantised
from models.exporting.job import Job, example, metadata
from models.exporting.network import exported_network
from models.exporting.nms import WithSuppression
from models.exporting.place import free_place, publish, temporary_folder
from models.exporting.verify import difference
from models.runtimes.base import checksum, first_line
from models.weights import load_model
from models.yolo import DetectionModel
from utils.console import LOGGER, warn
from utils.data.index import build_index
from utils.data.letterbox import rounded_size
from utils.data.spec import load_data_spec
from utils.errors import UserError
from utils.files import is_full


@dataclass(frozen=True)
class Artefact:
    """A file or folder that was written and verified.

    Attributes:
        shape: (B, C, H, W) of the images.
        difference: largest difference to PyTorch, a share of the range; None where the format cannot run.
            With `--int8`, before weights and activations were rounded.
        accuracy: with `--int8`, what that costs.
    """

    form: Format
    path: Path
    shape: tuple[int, ...]
    seconds: float
    difference: float | None
    accuracy: str = ""

    def __str__(self) -> str:
        compared = "cannot be run here, not compared"
        if self.difference is not None:
            compared = f"largest difference to PyTorch {self.difference:.1e} of the range"
        if self.accuracy:
            compared = self.accuracy
        files = self.path.rglob("*") if self.path.is_dir() else (self.path,)
        megabytes = sum(file.stat().st_size for file in files if file.is_file()) / 1e6
        return f"{self.form.name}: {self.path}, {megabytes:.1f} MB, {self.seconds:.1f} s, {compared}"


def export(weights: Path, config: ExportConfig) -> tuple[list[Artefact], list[UserError]]:
    """Write the network of a weights file in each format that is asked for, beside the file.

    A format is written to a temporary folder and takes its place only when what it computes has been compared
    with PyTorch; until then an older file of the same name stays as it is.

    Returns:
        What was written, and why the rest was not.

    Raises:
        UserError: a flag that a format does not know, a missing package; the only format that was asked for
            cannot be written, or gives a result that differs.
        OSError: the disk is full, or nothing can be written there.
    """
    formats = formats_of(config)
    if config.tune:
        check_tunable(config, formats)
    if config.int8:
        spec = load_data_spec(config.data)  # a mistake in it shows before the work
        report = build_index(spec.val, spec.names).report  # by these the loss is measured
        report.check_usable("val")
        if missing := report.shortfall():
            warn(f"--int8: the loss is measured without some: {missing}")
    if weights.suffix.lower() not in (".pt", ".safetensors"):
        raise UserError(f"'{weights}' is no PyTorch file; export starts from .pt or .safetensors weights")
    places = [free_place(weights, form, config.int8) for form in formats]
    model, source = load_unchanged(weights)
    model.requires_grad_(False)
    sides = {side: rounded_size(side, model.multiple, least=1) for side in config.imgsz}  # told once each
    size = sides[config.imgsz[0]], sides[config.imgsz[-1]]
    job = Job(
        network=model,
        image=example(size, config.batch_size, model.channels),
        target=weights,
        metadata=metadata(source, model, size, config),
        config=config,
        levels=model.head.nl if config.raw else 1,
    )
    done: dict[Path, Artefact] = {}
    failed: dict[Path, UserError] = {}
    for form, place in zip(formats, places):
        if place not in done and place not in failed:  # onnx and tensorrt share a file
            try:
                formed = in_its_forms(job, form, place, model, size)
                done[place] = make(formed, form, model)
                if "forms" in formed.metadata and not config.tune:  # which has told already
                    LOGGER.info(f"{form.name}: equal forms of layers chosen {formed.metadata['forms']}")
                LOGGER.info(str(done[place]))
            except UserError as error:
                if len(formats) == 1:
                    raise
                failed[place] = error
    written = [(form, place) for form, place in zip(formats, places) if place in done]
    return [dataclasses.replace(done[place], form=form) for form, place in written], list(failed.values())


def in_its_forms(job: Job, form: Format, place: Path, model: DetectionModel, size: tuple[int, int]) -> Job:
    """The job of one format: the model as that format's runtime had better have it."""
    config = job.config
    if not form.rewritten:
        return dataclasses.replace(job, target=place)
    choice = chosen(model, form, size, config)
    fixed = None if config.dynamic else size
    network = exported_network(
        model, fixed, folded=not config.no_deploy, raw=config.raw, choose=choice.choose
    )
    network = WithSuppression(network, config).eval() if config.nms else network
    told = {} if config.no_deploy else {"forms": choice.why}
    return dataclasses.replace(job, network=network, target=place, metadata=job.metadata | told)


def load_unchanged(weights: Path) -> tuple[DetectionModel, str]:
    """The model of a file, and the SHA-256 of the file that it is from.

    Raises:
        UserError: unusable weights, or somebody wrote to the file meanwhile, as a training does.
    """
    before = checksum([weights])
    model = load_model(weights)
    if checksum([weights]) != before:
        raise UserError(f"'{weights}' was written to while it was read; export it again")
    if model.origin:
        LOGGER.info(f"{weights}: {model.origin}")
    return model, before


def make(job: Job, form: Format, model: DetectionModel) -> Artefact:
    """Write one format to a temporary place, verify it, and move it to the job's target."""
    start, config, accuracy = time.perf_counter(), job.config, ""
    with temporary_folder(job.target.parent) as folder:
        written = folder / job.target.name
        try:
            form.exporter(dataclasses.replace(job, target=written))
            worst = verify(job, written, model) if form.compared else None
            if config.int8:
                plain, written = written, folder / "int8" / job.target.name
                written.parent.mkdir()
                accuracy = quantised(plain, written, config.data, job.image.shape[-1], force=config.force)
        except OSError as error:
            error.filename = error.filename or str(job.target)
            raise
        except Exception as error:  # converters raise classes of their own, which derive from it alone
            LOGGER.debug("traceback", exc_info=True)
            needed = sum(weight.nbytes for weight in job.network.state_dict().values())
            for place in (folder, Path(tempfile.gettempdir())):
                if is_full(place, needed):  # few of them say so
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(place)) from error
            if isinstance(error, UserError):
                raise UserError(f"{form.name}: {error}") from error
            raise UserError(f"{form.name} cannot express this network: {first_line(error)}") from error
        publish(written, job.target)
    seconds = time.perf_counter() - start
    return Artefact(form, job.target, tuple(job.image.shape), seconds, worst, accuracy)


def verify(job: Job, written: Path, model: DetectionModel) -> float:
    """The largest difference to PyTorch on the example, and for a dynamic job also at another shape."""
    images = [job.image]
    if job.config.dynamic:
        batch, _, height, width = job.image.shape
        step = model.multiple
        images.append(example((height + step, max(width - step, step)), batch + 1, model.channels))
    return max(difference(written, image, model, job.config) for image in images)
