"""Find objects in pictures, videos and streams.

    python detect.py --weights best.pt --source pictures/          # also a glob, list.txt, video.mp4, a URL,
    python detect.py --weights best.onnx --source 0 --view-img     # a webcam number, rtsp://…, screen, -
    python detect.py --weights a.pt b.pt --source x.jpg --save-txt # an ensemble
    python detect.py --weights best.pt --source street.mp4 --track --save-mot
    python detect.py --weights best.pt --source aerial.jpg --slice 640

Reading, inference and writing run in threads of their own, so that none waits for another without need.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from utils.interrupt import quiet_until_watched

if __name__ == "__main__":
    quiet_until_watched()

import torch

from models.detector import Detector
from models.runtimes.config import RUNTIME_HELP, InferenceConfig
from models.slicing import Tiling, detect_in_tiles
from utils.console import warn
from utils.data.frames import Frame, Source
from utils.data.sources import VIDEOS, Files, FileSource, open_source, suffix_of
from utils.detections.annotate import Style
from utils.detections.log import DetectedFrames, DetectionLog
from utils.detections.tracking import PICTURES, Tracking
from utils.detections.window import Window
from utils.detections.writer import OutputOptions, OutputWriter, spare_sources
from utils.device import select_device
from utils.errors import Incomplete, UserError, run_command
from utils.files import increment_path
from utils.flags import IMGSZ, SHARE, SIDE, at_least, between, flag, parse_flags
from utils.pipeline import JobQueue, Prefetch, ordered_map, thread_pool

READ_AHEAD = 256 << 20  # bytes of decoded pictures that may wait for the network
MOST_WORKERS = 4  # groups of pictures that are detected on side by side; each needs memory


@dataclass(frozen=True)
class DetectConfig(InferenceConfig):
    """Flags of detect.py."""

    topics = {
        "what is looked at, and with what": ("weights", "source", "data", "vid_stride"),
        "what counts as found": ("conf_thres", "iou_thres", "max_det", "classes", "agnostic_nms"),
        "how it is looked at": ("imgsz", "augment", "slice", "overlap", "track"),
        "what runs the network": ("device", "runtime", "half", "dnn", "threads"),
        "what is saved": (
            "nosave", "save_txt", "save_conf", "save_format", "save_csv", "save_crop", "save_mot",
            "project", "name", "exist_ok",
        ),
        "what it looks like": ("view_img", "line_thickness", "hide_labels", "hide_conf"),
    }  # fmt: skip

    runtime: Literal["torch", "onnx", "openvino", "auto"] = flag("auto", RUNTIME_HELP)
    source: str = flag(
        "data/images",
        "image, folder, glob, list file, video, webcam number, stream, YouTube page, screen, - for stdin",
    )
    data: str = flag("data/digits.yaml", "dataset yaml that names the classes when the weights do not")
    imgsz: tuple[int, ...] = flag(
        (640,), "image size in pixels: one side, or height and width", *IMGSZ, rule=SIDE
    )
    conf_thres: float = flag(0.25, "confidence threshold", rule=SHARE)
    iou_thres: float = flag(0.45, "IoU threshold of non-maximum suppression", rule=SHARE)
    max_det: int = flag(1000, "most detections an image", rule=at_least(1))
    view_img: bool = flag(False, "show the results in a window")
    save_format: Literal[0, 1] = flag(
        0, "boxes in label files: 0 is xc yc w h normalised, 1 is x1 y1 x2 y2 in pixels"
    )
    save_csv: bool = flag(False, "save detections in predictions.csv")
    save_crop: bool = flag(False, "save the detected objects as pictures")
    nosave: bool = flag(False, "save no annotated images or videos")
    classes: tuple[int, ...] | None = flag(None, "keep these classes only, for example --classes 0 2 3")
    agnostic_nms: bool = flag(False, "let boxes of different classes suppress each other")
    project: str = flag("runs/detect", "folder that holds the run folders")
    line_thickness: int = flag(3, "thickness of the boxes in pixels", rule=between(1, 100))
    hide_labels: bool = flag(False, "draw no labels")
    hide_conf: bool = flag(False, "draw no confidences")
    vid_stride: int = flag(1, "use every this manieth frame of a video", rule=at_least(1))
    slice: int | None = flag(
        None, "also look at overlapping tiles of so many pixels, for small objects in large pictures",
        rule=between(32, 16384),
    )  # fmt: skip
    overlap: float = flag(
        0.2, "share of a tile that its neighbour sees too; with --slice", rule=between(0, 0.9)
    )
    track: bool = flag(False, "follow objects through a video or stream and number them (ByteTrack)")
    save_mot: bool = flag(False, "save the tracks of each video in the MOT challenge's format; needs --track")


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command with these arguments, or with those of the process."""
    run(parse_flags(DetectConfig, argv, about=__doc__))


def run(config: DetectConfig) -> Path | None:
    """Detect as configured; returns the run folder, or None when nothing was to be saved.

    Raises:
        UserError: a source, weights or flag that cannot be used.
        OSError: an output cannot be written.
        Incomplete: some of the files could not be read; the results of the others are there.
    """
    size, tiling = image_size(config), build_tiling(config)
    source = open_source(config.source, vid_stride=config.vid_stride)
    tracking = build_tracking(config, source)
    options, place = output_options(config), Path(config.project) / config.name
    if config.exist_ok and isinstance(source, FileSource):
        spare_sources(place, options, source.places)
    style = Style(config.line_thickness, not config.hide_labels, not config.hide_conf)
    # Decoding begins while the weights are loaded. A live source is read when its frame is wanted.
    with contextlib.closing(
        iter(source) if source.live else Prefetch(source, budget=READ_AHEAD, cost=_bytes)
    ) as groups:
        pictures = None if config.slice else source.length  # a tile is a picture of its own
        detector = build_detector(config, 1 if source.live else MOST_WORKERS, pictures)
        folder = increment_path(place, config.exist_ok) if options.anything else None
        writer = OutputWriter(folder, options, detector.names, style) if folder else None
        window = Window(detector.names, style) if config.view_img else None
        detect = partial(detect_on, detector, size, config.augment, tiling)
        results = (
            (detect(group) for group in groups)  # one after the other, each read when its turn comes
            if source.live
            else in_parallel(detect, groups, detector)
        )
        with contextlib.closing(results), contextlib.closing(detector.backend):
            log = DetectionLog(source, detector.names, detector.channels, partial(used, config, detector))
            deliver(map(tracking.follow, results) if tracking else results, log, writer, window)
    if isinstance(source, Files) and source.faults:
        raise Incomplete(f"{source.faults} of {source.files} files could not be read, or not to their end")
    return folder


def used(config: DetectConfig, detector: Detector) -> str:
    """Of what pictures are, and with what they are looked at."""
    return f"of {config.source} with {detector.backend.title}"


def deliver(
    results: Iterable[DetectedFrames], log: DetectionLog, writer: OutputWriter | None, window: Window | None
) -> None:
    """Report, show and save what is found, as it is found; writing has a thread of its own."""
    try:
        with contextlib.closing(writer) if writer else contextlib.nullcontext(), JobQueue() as jobs:
            for found in results:
                log.add(found)
                for frame, rows in zip(found.frames, found.detections):
                    drawn = window.show(frame, rows) if window else None
                    if writer:
                        jobs.submit(partial(writer.write, frame, rows, drawn))
                if window and window.closed:
                    break
    finally:
        log.close(writer)


def detect_on(
    detector: Detector, size: tuple[int, int], augment: bool, tiling: Tiling | None, frames: list[Frame]
) -> DetectedFrames:
    """Detect on frames; corners are rounded to whole pixels, as in YOLOv5's label files."""
    images = [frame.image for frame in frames]
    if tiling is not None:
        found, seen, seconds = detect_in_tiles(detector, images, size, tiling, augment)
    else:
        start = time.perf_counter()
        batch = detector.prepare(images, size)
        prepared = time.perf_counter() - start
        found, (converted, inference, suppression) = detector.detect(batch, augment)
        seen, seconds = batch.size, (prepared + converted, inference, suppression)
    rows = [row.cpu().numpy() for row in found]
    for row in rows:
        row[:, :4] = row[:, :4].round()
    return DetectedFrames(frames, rows, seen, seconds)


def in_parallel(
    detect: Callable[[list[Frame]], DetectedFrames], groups: Iterable[list[Frame]], detector: Detector
) -> Generator[DetectedFrames, None, None]:
    """`map(detect, groups)` in an order of work that keeps all cores busy.

    A runtime splits each layer over the cores and waits for the slowest share; with reading and writing
    beside it that wait is long. Several images at a time, each on its own core, do not wait for each other.
    """
    cores = torch.get_num_threads()
    calls = detector.backend.calls if detector.device.type == "cpu" else 1
    shares = min(cores, calls, MOST_WORKERS)
    threads = partial(torch.set_num_threads, cores // shares)
    try:
        with thread_pool(shares, threads) as pool:
            yield from ordered_map(pool, detect, groups, depth=2 * shares)
    finally:
        torch.set_num_threads(cores)


def build_detector(config: DetectConfig, calls: int = 1, images: int | None = None) -> Detector:
    """The detector with its thresholds, on its device.

    Args:
        calls: how many threads will call it at once, at most.
        images: that it will see, where that is known.
    """
    calls = min(calls, config.threads or torch.get_num_threads(), images or calls)
    device = select_device(config.device)
    if config.half and device.type != "cuda":
        warn("--half needs a CUDA device; running in single precision")
    detector = Detector(config.open_weights(device, config.data, calls=calls, images=images))
    detector.conf, detector.iou, detector.max_det = config.conf_thres, config.iou_thres, config.max_det
    detector.agnostic, detector.classes = config.agnostic_nms, config.classes
    unknown = [c for c in config.classes or () if detector.names and c not in detector.names]
    if unknown:
        raise UserError(f"--classes {unknown[0]}: the network has classes 0 to {max(detector.names)}")
    config.tell_size(detector.backend, image_size(config))
    if any(side % detector.stride for side in image_size(config)):
        warn(f"--imgsz is rounded up to a multiple of the network's stride {detector.stride}")
    return detector


def build_tiling(config: DetectConfig) -> Tiling | None:
    """The tiles that --slice asks for."""
    if config.slice is None:
        if "overlap" in config.typed:
            raise UserError("--overlap is that of the tiles of --slice; add --slice, for example --slice 640")
        return None
    return Tiling(config.slice, config.overlap)


def build_tracking(config: DetectConfig, source: Source) -> Tracking | None:
    """What numbers the objects of `source`, when --track asks for it.

    Raises:
        UserError: flags that need each other, a source of pictures, or no package for it.
    """
    if config.save_mot and not config.track:
        raise UserError("--save-mot saves what --track finds; add --track")
    if not config.track:
        return None
    for place in source.places if isinstance(source, FileSource) else ():
        if suffix_of(place) not in VIDEOS:
            raise UserError(PICTURES.format(place))
    return Tracking()


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
        tracks=config.track,
        mot=config.save_mot,
    )


def _bytes(group: list[Frame]) -> int:
    return sum(frame.image.nbytes for frame in group)


if __name__ == "__main__":
    run_command(main)
