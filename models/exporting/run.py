"""From a weights file to verified files beside it."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from models.exporting.describe import example, metadata
from models.exporting.formats import FORMATS, Format, formats_named
from models.exporting.int8 import FORMATS as INT8_FORMATS
from models.exporting.int8 import quantised
from models.exporting.job import OUTPUT_NAME, Job
from models.exporting.network import exported_network
from models.exporting.nms import Suppression, WithSuppression
from models.exporting.onnx import OPSETS
from models.exporting.place import free_place, publish, temporary_folder
from models.exporting.verify import HALF_TOLERANCE, TOLERANCE, Expectation
from models.runtimes.base import first_line
from models.weights import load_model
from models.yolo import DetectionModel
from utils.console import LOGGER
from utils.data.letterbox import rounded_size
from utils.data.spec import load_data_spec
from utils.errors import UserError
from utils.optional import check_installed


@dataclass(frozen=True)
class Options:
    """What is exported.

    Attributes:
        include: names of formats.
        size: (height, width) in pixels, rounded up to multiples of the stride.
        batch: images per call.
        folded: `deploy` the network first.
        suppression: of `--nms`, None without.
        data, int8, force: for quantisation.
        verbose: for the command of TensorRT.
    """

    include: tuple[str, ...]
    size: tuple[int, int] = (640, 640)
    batch: int = 1
    folded: bool = True
    raw: bool = False
    suppression: Suppression | None = None
    dynamic: bool = False
    half: bool = False
    opset: int = 17
    simplify: bool = False
    int8: bool = False
    data: str = ""
    force: bool = False
    verbose: bool = False


@dataclass(frozen=True)
class Artefact:
    """A file or folder that was written and verified.

    Attributes:
        shape: (B, 3, H, W) of the images.
        difference: largest difference to PyTorch, a share of the range; None where the format cannot run.
            With `--int8`, before weights and activations were rounded.
        accuracy: with `--int8`, what that costs.
    """

    form: Format
    path: Path
    shape: tuple[int, int, int, int]
    seconds: float
    difference: float | None
    accuracy: str = ""

    def __str__(self) -> str:
        compared = "cannot be run here, not compared"
        if self.difference is not None:
            compared = f"largest difference to PyTorch {self.difference:.1e} of the range"
        if self.accuracy:
            compared = self.accuracy
        return f"{self.form.name}: {self.path}, {self.megabytes:.1f} MB, {self.seconds:.1f} s, {compared}"

    @property
    def megabytes(self) -> float:
        files = self.path.rglob("*") if self.path.is_dir() else (self.path,)
        return sum(file.stat().st_size for file in files if file.is_file()) / 1e6


def export(weights: Path, options: Options) -> list[Artefact]:
    """Write the network of a weights file in each format that is asked for, beside the file.

    A format is written to a temporary folder and takes its place only when what it computes has been compared
    with PyTorch; until then an older file of the same name stays as it is.

    Raises:
        UserError: a wish that cannot be met, a missing package, or a result that differs. What was finished
            before stays.
    """
    formats = formats_named(options.include)
    check(options, formats)
    for form in formats:
        for package in form.needs:
            check_installed(*package)
    if weights.suffix.lower() not in (".pt", ".safetensors"):
        raise UserError(f"'{weights}' is no PyTorch file; export starts from .pt or .safetensors weights")
    named = weights.with_name(f"{weights.stem}_int8{weights.suffix}") if options.int8 else weights
    places = {form.name: free_place(named, form) for form in formats}
    model = load_model(weights)
    if model.yaml["ch"] != 3:
        raise UserError(f"'{weights}' takes images of {model.yaml['ch']} channels; 3 can be exported")
    model.requires_grad_(False)
    height, width = (rounded_size(side, model.multiple, least=1) for side in options.size)
    size = height, width
    described = metadata(weights, model, size, batch=options.batch, dynamic=options.dynamic)
    network = network_of(model, options, size)
    done: dict[Path, Artefact] = {}
    for form in formats:
        place = places[form.name]
        if place not in done:  # onnx and tensorrt share a file
            job = Job(
                network=network,
                image=example(size, options.batch),
                target=place,
                metadata=described,
                dynamic=options.dynamic,
                half=options.half,
                opset=options.opset,
                simplify=options.simplify,
                nms=options.suppression is not None,
                outputs=output_names(model, options),
            )
            done[place] = make(job, form, expectation(model, options), options)
            LOGGER.info(str(done[place]))
    return [dataclasses.replace(done[places[form.name]], form=form) for form in formats]


def make(job: Job, form: Format, expected: Expectation, options: Options) -> Artefact:
    """Write one format to a temporary place, verify it, and move it to the job's target."""
    start = time.perf_counter()
    accuracy = ""
    with temporary_folder(job.target.parent) as folder:
        written = folder / job.target.name
        try:
            form.exporter(dataclasses.replace(job, target=written))
            difference = verify(job, form, written, expected) if form.compared else None
            if options.int8:
                plain, written = written, folder / "int8" / job.target.name
                written.parent.mkdir()
                accuracy = quantised(plain, written, options.data, job.image.shape[-1], force=options.force)
        except UserError as error:
            raise UserError(f"{form.name}: {error}") from error
        except OSError:
            raise
        except Exception as error:  # converters raise classes of their own for a layer that they do not know
            LOGGER.debug("traceback", exc_info=True)
            raise UserError(f"{form.name} cannot express this network: {first_line(error)}") from error
        publish(written, job.target)
    batch, channels, height, width = job.image.shape
    return Artefact(
        form,
        job.target,
        (batch, channels, height, width),
        time.perf_counter() - start,
        difference,
        accuracy,
    )


def verify(job: Job, form: Format, written: Path, expected: Expectation) -> float:
    """The largest difference to PyTorch on the example, and for a dynamic job also at another shape."""
    images = [job.image]
    if job.dynamic:
        batch, _, height, width = job.image.shape
        step = int(job.metadata["stride"])
        images.append(example((height + step, max(width - step, step)), batch + 1))
    return max(expected.difference(written, image) for image in images)


def check(options: Options, formats: Sequence[Format]) -> None:
    """Raise a UserError for wishes that exclude each other or that a format cannot meet."""
    if options.raw and options.suppression:
        raise UserError("--nms needs decoded boxes and --raw leaves them out; use one of them")
    if options.int8 and options.half:
        raise UserError("--int8 and --half exclude each other")
    if options.int8:
        check_int8(options, formats)
    if options.opset not in OPSETS:
        raise UserError(f"--opset must lie between {OPSETS[0]} and {OPSETS[-1]}, found {options.opset}")
    wishes = {"raw": options.raw, "nms": bool(options.suppression), "dynamic": options.dynamic,
              "half": options.half}  # fmt: skip
    for wish in (name for name, wanted in wishes.items() if wanted):
        for form in formats:
            if not getattr(form, wish):
                able = ", ".join(other.name for other in FORMATS.values() if getattr(other, wish))
                raise UserError(f"--{wish} is not for {form.name}; it is for {able}")


def check_int8(options: Options, formats: Sequence[Format]) -> None:
    """Raise a UserError for a wish that leaves no accuracy to measure, and for formats without integers."""
    if options.raw or options.suppression:
        raise UserError("--int8 measures accuracy from decoded boxes; leave out --raw and --nms")
    if options.size[0] != options.size[1]:
        raise UserError(f"--int8 validates on squares; give one side to --imgsz, found {options.size}")
    for form in formats:
        if form.name not in INT8_FORMATS:
            raise UserError(f"--int8 is not for {form.name}; it is for {', '.join(INT8_FORMATS)}")
    check_installed("nncf", "nncf")
    load_data_spec(options.data)  # a mistake in it shows before the work


def network_of(model: DetectionModel, options: Options, size: tuple[int, int]) -> nn.Module:
    """The network that is written; see `Job.network`."""
    fixed = None if options.dynamic else size
    network = exported_network(model, fixed, folded=options.folded, raw=options.raw)
    if options.suppression:
        network = WithSuppression(network, options.suppression)
    return network.eval()


def output_names(model: DetectionModel, options: Options) -> tuple[str, ...]:
    """`output0`, and with `--raw` output0, output1, … from the finest level on."""
    if not options.raw:
        return (OUTPUT_NAME,)
    return tuple(f"{OUTPUT_NAME[:-1]}{level}" for level in range(model.head.nl))


def expectation(model: DetectionModel, options: Options) -> Expectation:
    """What the files have to compute."""
    tolerance = HALF_TOLERANCE if options.half else TOLERANCE
    return Expectation(model, options.raw, options.suppression, tolerance)
