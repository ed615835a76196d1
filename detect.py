"""Find objects in pictures, videos and streams.

    python detect.py --weights best.pt --source pictures/          # also a glob, list.txt, video.mp4, a URL,
    python detect.py --weights best.onnx --source 0 --view-img     # a webcam number, rtsp://…, screen, -
    python detect.py --weights a.pt b.pt --source x.jpg --save-txt # an ensemble

Reading, inference and writing run in threads of their own, so that none waits for another without need.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from models.backends import load_backend
from models.detector import Detector
from models.weights import find_weights
from utils.annotate import Style
from utils.config import DetectConfig, parse_flags
from utils.data.frames import Frame, warn
from utils.data.sources import FileSource, open_source
from utils.device import select_device
from utils.display import Window
from utils.errors import UserError, run_command
from utils.files import increment_path
from utils.output import OutputOptions, OutputWriter, spare_sources
from utils.pipeline import JobQueue, Prefetch, ordered_map
from utils.runlog import DetectionLog

READ_AHEAD = 256 << 20  # bytes of decoded pictures that may wait for the network
MOST_WORKERS = 4  # pictures that are looked at side by side; each needs memory


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command with these arguments, or with those of the process."""
    run(parse_flags(DetectConfig, argv))


def run(config: DetectConfig) -> Path | None:
    """Detect as configured; returns the run folder, or None when nothing was to be saved.

    Raises:
        UserError: a source, weights or flag that cannot be used.
        OSError: an output cannot be written.
    """
    size = image_size(config)
    source = open_source(config.source, vid_stride=config.vid_stride)
    options, place = output_options(config), Path(config.project) / config.name
    if config.exist_ok and isinstance(source, FileSource):
        spare_sources(place, options, source.files)
    style = Style(config.line_thickness, not config.hide_labels, not config.hide_conf)
    # Decoding begins while the weights are loaded. A live source is read when its frame is wanted.
    with contextlib.closing(
        iter(source) if source.live else Prefetch(source, budget=READ_AHEAD, cost=_bytes)
    ) as groups:
        detector = build_detector(config)
        folder = increment_path(place, config.exist_ok) if options.anything else None
        writer = OutputWriter(folder, options, detector.names, style) if folder else None
        window = Window(detector.names, style) if config.view_img else None
        look = partial(look_at, detector, size, config.augment)
        looks = in_turn(look, groups) if source.live else in_parallel(look, groups, detector)
        with contextlib.closing(looks):
            deliver(looks, DetectionLog(source, detector.names), writer, window)
    return folder


def deliver(
    looks: Iterable[Look], log: DetectionLog, writer: OutputWriter | None, window: Window | None
) -> None:
    """Report, show and save what is found, as it is found; writing has a thread of its own."""
    try:
        with contextlib.closing(writer) if writer else contextlib.nullcontext(), JobQueue() as jobs:
            for frames, rows, seen, seconds in looks:
                log.add(frames, rows, seen, seconds)
                for frame, row in zip(frames, rows):
                    drawn = window.show(frame, row) if window else None
                    if writer:
                        jobs.submit(partial(writer.write, frame, row, drawn))
                if window and window.closed:
                    break
    finally:
        labels = writer.label_files if writer and writer.options.labels else None
        log.close(writer.folder if writer else None, labels)


class Look(NamedTuple):
    """What was found on frames that were looked at together."""

    frames: list[Frame]
    rows: list[np.ndarray]  # per frame (n, 6): x1, y1, x2, y2 in whole pixels, confidence, class
    size: tuple[int, int]  # (height, width) that the network saw
    seconds: tuple[float, float, float]  # of pre-processing, inference and NMS


def look_at(detector: Detector, size: tuple[int, int], augment: bool, frames: list[Frame]) -> Look:
    """Detect on frames; corners are rounded to whole pixels, as in YOLOv5's label files."""
    start = time.perf_counter()
    batch = detector.prepare([frame.image for frame in frames], size)
    prepared = time.perf_counter() - start
    found, (converted, inference, suppression) = detector.detect(batch, augment)
    rows = [row.cpu().numpy() for row in found]
    for row in rows:
        row[:, :4] = row[:, :4].round()
    return Look(frames, rows, batch.size, (prepared + converted, inference, suppression))


def in_turn(
    look: Callable[[list[Frame]], Look], groups: Iterable[list[Frame]]
) -> Generator[Look, None, None]:
    """One group after the other, each read when the one before it is done."""
    yield from map(look, groups)


def in_parallel(
    look: Callable[[list[Frame]], Look], groups: Iterable[list[Frame]], detector: Detector
) -> Generator[Look, None, None]:
    """`map(look, groups)` in an order of work that keeps all cores busy.

    PyTorch splits each layer over the cores and waits for the slowest share; with reading and writing beside
    it that wait is long. Several images at a time, each on its own core, do not wait for each other.
    """
    cores = torch.get_num_threads()
    shares = min(cores, MOST_WORKERS) if detector.backend.pt and detector.device.type == "cpu" else 1
    threads = partial(torch.set_num_threads, cores // shares)
    try:
        yield from ordered_map(look, groups, workers=shares, initializer=threads)
    finally:
        torch.set_num_threads(cores)


def build_detector(config: DetectConfig) -> Detector:
    """The detector with its thresholds, on its device."""
    device = select_device(config.device)
    if config.half and device.type != "cuda":
        warn("--half needs a CUDA device; running in single precision")
    weights = [find_weights(name) for name in config.weights or ("",)]
    backend = load_backend(
        weights, device, dnn=config.dnn, half=config.half, data=config.data, threads=config.threads
    )
    detector = Detector(backend)
    detector.conf, detector.iou, detector.max_det = config.conf_thres, config.iou_thres, config.max_det
    detector.agnostic, detector.classes = config.agnostic_nms, config.classes
    unknown = [c for c in config.classes or () if detector.names and c not in detector.names]
    if unknown:
        raise UserError(f"--classes {unknown[0]}: the network has classes 0 to {max(detector.names)}")
    if any(side % detector.stride for side in image_size(config)):
        warn(f"--imgsz is rounded up to a multiple of the network's stride {detector.stride}")
    return detector


def image_size(config: DetectConfig) -> tuple[int, int]:
    """(height, width) that --imgsz asks for."""
    if len(config.imgsz) > 2:
        raise UserError(f"--imgsz takes one side, or height and width; found {len(config.imgsz)} numbers")
    return config.imgsz[0], config.imgsz[-1]


def output_options(config: DetectConfig) -> OutputOptions:
    """What the --save flags ask for."""
    return OutputOptions(
        pictures=not config.nosave,
        labels=config.save_txt,
        corners=config.save_format == 1,
        confidences=config.save_conf,
        table=config.save_csv,
        crops=config.save_crop,
    )


def _bytes(group: list[Frame]) -> int:
    return sum(frame.image.nbytes for frame in group)


if __name__ == "__main__":
    run_command(main)
