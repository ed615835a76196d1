"""What is wrong with a data set: a page, a JSON file, and a line for each finding.

    python dataset.py check --data bccd.yaml
    python dataset.py check --data bccd.yaml --imgsz 320 --cfg yolov5-p2.yaml --strict
    python dataset.py check --data bccd.yaml --weights runs/train/exp/weights/best.pt

Near duplicates need the package imagehash; without it they are not looked for, and that is said.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.pages import bare, check_page
from curation.disagreement import Disagreement, disagreements
from curation.findings.finding import Finding, survey_findings
from curation.findings.kinds import KINDS
from curation.fingerprints import PIP, fingerprints, hasher
from curation.page import MARK, write_findings
from curation.survey import Geometry, Survey, open_splits
from models.detector import Detector
from models.runtimes.base import Backend
from models.runtimes.opening import load_backend
from models.runtimes.pytorch import PyTorchBackend
from models.weights import find_weights
from utils.console import LOGGER, setup_console, warn
from utils.data.report import counted
from utils.data.spec import DataSpec
from utils.device import select_device
from utils.errors import Incomplete, UserError
from utils.files import increment_path, write_text
from utils.flags import DATA_HELP, DEVICE_HELP, IMGSZ, SIDE, CommandConfig, at_least, flag, not_empty


@dataclass(frozen=True)
class Config(CommandConfig):
    """Look for faults in a data set, and write what is found as a page."""

    data: str = flag("data/digits.yaml", DATA_HELP)
    weights: str = flag("", "a trained network, whose detections are compared with the labels")
    cfg: str = flag("yolov5n.yaml", "network whose anchors and strides count; with --weights, its own do")
    imgsz: int = flag(640, "image size of training in pixels", *IMGSZ, rule=SIDE)
    strict: bool = flag(False, "end with status 1 when there is an error among the findings")
    json: str = flag("", "a file for all findings, besides check.json in the run folder")
    device: str = flag("", DEVICE_HELP)
    batch_size: int = flag(8, "pictures that the network sees at once", rule=at_least(1))
    project: str = flag("runs/check", "folder that holds the run folders")
    name: str = flag("exp", "name of the run folder", rule=not_empty)
    exist_ok: bool = flag(False, "write into an existing run folder")


def run(config: Config) -> Path:
    """Check, print and write; returns the page.

    Raises:
        UserError: data or weights that cannot be used.
        Incomplete: with `--strict`, there is an error among the findings.
    """
    setup_console()
    if config.json:
        check_page(Path(config.json), MARK, "--json")
    imagehash = hasher()
    device = select_device(config.device) if config.weights else torch.device("cpu")
    with contextlib.ExitStack() as stack:
        backend = None
        if config.weights:
            backend = load_backend(find_weights(config.weights), device, data=config.data)
            stack.callback(backend.close)
        geometry = geometry_of(config, backend)
        survey = Survey(*open_splits(config.data), config.imgsz, geometry)
        paths = [survey.path(number) for number in range(len(survey))]
        if backend is not None:
            check_classes(config, backend, survey.spec)
        folder = increment_path(Path(config.project) / config.name, config.exist_ok)
        survey.prints = fingerprints(paths, imagehash)
        if backend is not None:
            survey.network = compare(config, backend, survey, paths)
    findings, sound, skipped = survey_findings(survey, KINDS)
    page = write_findings(folder, config, survey, findings, sound, skipped)
    if config.json:
        write_text(Path(config.json), page.with_name("check.json").read_text(encoding="utf-8"))
    tell(config, survey, findings, len(sound), page)
    if imagehash is None:
        LOGGER.info(f"near duplicates were not looked for: pip install {PIP}")
    errors = sum(finding.grade == "error" for finding in findings)
    if config.strict and errors:
        are = "is an error" if errors == 1 else "are errors"
        raise Incomplete(f"{errors} of {counted(len(findings), 'finding')} {are}, fatal with --strict")
    return page


def tell(config: Config, survey: Survey, findings: list[Finding], sound: int, page: Path) -> None:
    """A line for each finding, most serious first."""
    for finding in findings:
        LOGGER.info(finding.line())
    counts = f"{counted(len(survey), 'picture')} and {counted(len(survey.boxes), 'box')}"
    what = f"{counts} of {bare(config.data)}"
    with_weights = f", compared with {survey.network.title}" if survey.network else ""
    LOGGER.info(
        f"{what}{with_weights}: {counted(len(findings), 'finding')}, "
        f"nothing of {counted(sound, 'other kind')}; {page}"
    )


def geometry_of(config: Config, backend: Backend | None) -> Geometry:
    """Anchors and strides: of the weights where they tell, else of `--cfg`."""
    if isinstance(backend, PyTorchBackend):
        return Geometry.of(backend.model)
    return Geometry.of_cfg(config.cfg)


def check_classes(config: Config, backend: Backend, spec: DataSpec) -> None:
    """Raise a UserError when weights and data cannot mean the same classes."""
    if len(backend.names) != spec.nc:
        raise UserError(
            f"the weights know {counted(len(backend.names), 'class')} and {config.data} has {spec.nc}; "
            "use weights that were trained for it"
        )
    other = [number for number, name in spec.names.items() if backend.names[number] != name]
    if other:
        number = other[0]
        warn(
            f"class {number} is {backend.names[number]!r} for the weights and {spec.names[number]!r} in "
            f"{config.data}; numbers are compared, not names"
        )


def compare(config: Config, backend: Backend, survey: Survey, paths: list[str]) -> Disagreement:
    """What the network says of every picture, against the labels."""
    ends = survey.per_picture.cumsum()
    rows = [
        survey.labelled(slice(end - count, end))
        for end, count in zip(ends.tolist(), survey.per_picture.tolist())
    ]
    title = f"{bare(config.weights)} ({backend.library}, {backend.place})"
    return disagreements(Detector(backend), title, paths, rows, config.imgsz, config.batch_size)
