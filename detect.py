"""Find objects in pictures, videos and streams.

    python detect.py --weights best.pt --source pictures/          # also a glob, list.txt, video.mp4, a URL,
    python detect.py --weights best.onnx --source 0 --view-img     # a webcam number, rtsp://…, screen, -
    python detect.py --weights a.pt b.pt --source x.jpg --save-txt # an ensemble

Reading, inference and writing run in threads of their own, so that none waits for another without need.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from torch import Tensor

from models.backends import load_backend
from models.detector import Detector, Prepared
from models.weights import find_weights
from utils.annotate import Style
from utils.config import DetectConfig, parse_flags
from utils.data.frames import Frame, warn
from utils.data.sources import open_source
from utils.device import select_device
from utils.display import Window
from utils.errors import UserError, run_command
from utils.files import increment_path
from utils.output import OutputOptions, OutputWriter
from utils.pipeline import JobQueue, prefetch
from utils.runlog import DetectionLog

READ_AHEAD = 256 << 20  # bytes of decoded pictures that may wait for their letterbox
BATCHES_AHEAD = 8  # letterboxed batches that may wait for the network


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
    # Decoding begins while the weights are loaded. A live source is read when its frame is wanted.
    frames = source if source.live else prefetch(source, budget=READ_AHEAD, cost=_bytes)
    detector = build_detector(config)
    options = output_options(config)
    folder = increment_path(Path(config.project) / config.name, config.exist_ok) if options.anything else None
    style = Style(config.line_thickness, not config.hide_labels, not config.hide_conf)
    writer = OutputWriter(folder, options, detector.names, style) if folder else None
    window = Window(detector.names, style) if config.view_img else None
    log = DetectionLog(source, detector.names)
    try:
        with contextlib.closing(writer) if writer else contextlib.nullcontext(), JobQueue() as jobs:
            batches = letterboxed(frames, detector, size)
            for group, batch, seconds in batches if source.live else prefetch(batches, budget=BATCHES_AHEAD):
                found, times = detector.detect(batch, config.augment)
                rows = [whole_pixels(row) for row in found]
                log.add(group, rows, batch.size, (seconds + times[0], *times[1:]))
                for frame, row in zip(group, rows):
                    drawn = window.show(frame, row) if window else None
                    if writer:
                        jobs.submit(partial(writer.write, frame, row, drawn))
                if window and window.closed:
                    break
    finally:
        log.close(folder, writer.label_files if writer and options.labels else None)
    return folder


def letterboxed(
    frames: Iterable[list[Frame]], detector: Detector, size: tuple[int, int]
) -> Iterator[tuple[list[Frame], Prepared, float]]:
    """Frames with the batch made of them, and the seconds that making it took."""
    for group in frames:
        start = time.perf_counter()
        batch = detector.prepare([frame.image for frame in group], size)
        yield group, batch, time.perf_counter() - start


def whole_pixels(rows: Tensor) -> np.ndarray:
    """(n, 6) detections as an array, corners rounded to whole pixels as in YOLOv5's label files."""
    array = rows.cpu().numpy()
    array[:, :4] = array[:, :4].round()
    return array


def build_detector(config: DetectConfig) -> Detector:
    """The detector with its thresholds, on its device."""
    device = select_device(config.device)
    if config.half and device.type != "cuda":
        warn("--half needs a CUDA device; running in single precision")
    weights = [find_weights(name) for name in config.weights or ("",)]
    backend = load_backend(weights, device, dnn=config.dnn, half=config.half, data=config.data)
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
