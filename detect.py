"""Find objects in pictures, videos and streams.

    python detect.py --weights best.pt --source pictures/          # also a glob, list.txt, video.mp4, a URL,
    python detect.py --weights best.onnx --source 0 --view-img     # a webcam number, rtsp://…, screen, -
    python detect.py --weights a.pt b.pt --source x.jpg --save-txt # an ensemble
    python detect.py --weights best.pt --source street.mp4 --track --save-mot
    python detect.py --weights best.pt --source aerial.jpg --slice 640
    torchrun --nproc_per_node 2 detect.py --weights best.pt --source pictures/

Reading, inference and writing run in threads of their own, so that none waits for another without need.
"""

from __future__ import annotations

import collections
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
from utils.detections.sharing import Sharing, check_shareable
from utils.detections.tracking import PICTURES, Tracking
from utils.detections.window import Window
from utils.detections.writer import OutputOptions, OutputWriter, spare_sources
from utils.distributed import (
    Process,
    broadcast,
    join_group,
    leave_group,
    noticing_losses,
    this_process,
)
from utils.errors import UserError, run_command
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
    """Run the command with these arguments, or with those of the process.

    Raises:
        Incomplete: some of the files could not be read; the results of the others are there.
        UserError, OSError: as `run`.
    """
    config = parse_flags(DetectConfig, argv, about=__doc__)
    process = this_process()
    join_group(process, config.place(process))
    try:
        with noticing_losses("start again"):
            shortfall = run(config, process)
            leave_group(together=True)
    finally:
        leave_group()
    if shortfall and process.is_main:
        raise shortfall


def run(config: DetectConfig, process: Process) -> UserError | None:
    """Detect as configured, with other processes or alone; returns what could not be done.

    Raises:
        UserError: a source, weights or flag that cannot be used.
        OSError: an output cannot be written.
    """
    size, tiling = image_size(config), build_tiling(config)
    if process.world_size > 1:
        check_shareable(config.source, process.world_size, shown=config.view_img)
    source, sharing = open_source(config.source, vid_stride=config.vid_stride), None
    if process.world_size > 1 and isinstance(source, FileSource):
        sharing = Sharing(source, process)
    tracking = build_tracking(config, source)
    options = output_options(config)
    if config.exist_ok and isinstance(source, FileSource):
        spare_sources(Path(config.project) / config.name, options, source.places)
    style = Style(config.line_thickness, not config.hide_labels, not config.hide_conf)
    with contextlib.ExitStack() as stack:
        # Decoding begins while the weights are loaded. A live source is read when its frame is wanted.
        groups = iter(source) if source.live else Prefetch(source, budget=READ_AHEAD, cost=_bytes)
        stack.enter_context(contextlib.closing(groups))
        detector = build_detector(config, process, source)
        stack.enter_context(contextlib.closing(detector.backend))
        detect = partial(detect_on, detector, size, config.augment, tiling)
        found = (
            (detect(group) for group in groups)  # one after the other, each read when its turn comes
            if source.live
            else in_parallel(detect, groups, detector)
        )
        stack.enter_context(contextlib.closing(found))
        results = map(tracking.follow, found) if tracking else found
        folder = run_folder(config, process) if options.anything else None
        told = partial(used, config, detector)
        if sharing is None:
            log = DetectionLog(source, detector.names, detector.channels, told)
            writer = OutputWriter(folder, options, detector.names, style) if folder else None
            window = Window(detector.names, style) if config.view_img else None
            deliver(results, log, writer, window)
            return source.shortfall() if isinstance(source, Files) else None
        with sharing.writers(folder, options, detector.names, style) as (parts, writer):
            merged = sharing.merged(results, parts)
            if process.is_main:
                log = DetectionLog(source, detector.names, detector.channels, told)
                deliver(merged, log, writer, None)
            collections.deque(merged, maxlen=0)  # of the others nothing comes
    return sharing.shortfall()


def run_folder(config: DetectConfig, process: Process) -> Path:
    """The folder that the main process has made for the results of all."""
    place = Path(config.project) / config.name
    return broadcast(increment_path(place, config.exist_ok) if process.is_main else place)


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


def build_detector(config: DetectConfig, process: Process, source: Source) -> Detector:
    """The detector with its thresholds, on its device, for what this process sees of a source."""
    pictures = None if source.length is None else -(-source.length // process.world_size)
    images = None if config.slice else pictures  # a tile is a picture of its own
    calls = 1 if source.live else min(MOST_WORKERS, config.threads or torch.get_num_threads())
    calls = min(calls, images or calls)
    device = config.place(process)
    detector = Detector(config.open_weights(device, config.data, calls=calls, images=images))
    detector.conf, detector.iou, detector.max_det = config.conf_thres, config.iou_thres, config.max_det
    detector.agnostic, detector.classes = config.agnostic_nms, config.classes
    unknown = [c for c in config.classes or () if detector.names and c not in detector.names]
    if unknown:
        raise UserError(f"--classes {unknown[0]}: the network has classes 0 to {max(detector.names)}")
    if process.is_main:
        print(detector.backend.origin, flush=True)
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
