"""A command of ours with a clock at each of its stages; `benchmark.py commands` starts it.

    python -m benchmarks.stages SECONDS.json BEGUN val --weights yolov5n.pt …

BEGUN is when that was, in seconds since 1970. Every stage has the time that threads spent in its functions,
those of another stage inside them not counted twice; stages run side by side, so that their sum may be above
the whole.
"""

from __future__ import annotations

import importlib
import inspect
import json
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import wraps
from pathlib import Path
from typing import Any

from utils.errors import run_command

# of each stage the functions, and methods after a colon
STAGES = {
    "decode": ("utils.data.images.read_image", "utils.data.sources.read_file"),
    "letterbox": ("utils.data.letterbox.letterbox", "utils.data.channels.stacked"),
    "network": (
        "models.runtimes.pytorch:PyTorchBackend.forward", "models.runtimes.base:Backend.forward",
        "models.runtimes.handover:Handover.forward",
    ),
    "NMS": ("utils.nms.non_max_suppression",),
    "matching": (
        "utils.evaluation.metrics:DetectionMetrics.update", "utils.evaluation.metrics:ConfusionMatrix.update",
        "utils.evaluation.metrics:DetectionMetrics.compute",
    ),
    "drawing": ("utils.detections.annotate.annotate",),
    "writing": (
        "utils.detections.saving.write_image", "utils.files.write_text", "utils.files.append",
        "utils.detections.writer:VideoFile.write", "utils.detections.writer:VideoFile.close",
    ),
    "plots": (
        "utils.plots.pictures:RunPictures.validation_batch", "utils.evaluation.report.report_validation",
    ),
}  # fmt: skip
# what is called when weights and data are open, and work begins
BEGINS = {"val": "utils.evaluation.evaluate.evaluate", "detect": "detect.deliver"}


class Clocks:
    """Seconds of each stage, over all threads."""

    def __init__(self, begun: float) -> None:
        self.begun = begun
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._own = threading.local()
        self._lock = threading.Lock()

    def of(self, stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function with a clock, unless the thread is inside a stage already."""

        def clocked(call: Callable[..., Any], *given: Any, **named: Any) -> Any:
            if getattr(self._own, "inside", False):
                return call(*given, **named)
            self._own.inside, start = True, time.perf_counter()
            try:
                return call(*given, **named)
            finally:
                self._own.inside, spent = False, time.perf_counter() - start
                with self._lock:
                    self.seconds[stage] += spent

        @wraps(function)
        def generated(*given: Any, **named: Any) -> Iterator[Any]:
            items, end = function(*given, **named), object()
            while (item := clocked(next, items, end)) is not end:
                yield item

        @wraps(function)
        def called(*given: Any, **named: Any) -> Any:
            return clocked(function, *given, **named)

        return generated if inspect.isgeneratorfunction(function) else called

    def begins(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, with a note of how long it took to come to its first call."""

        @wraps(function)
        def noted(*given: Any, **named: Any) -> Any:
            self.seconds.setdefault("start", time.time() - self.begun)
            return function(*given, **named)

        return noted


def replace(name: str, around: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
    """Put something around a function wherever a module knows it, or around a method."""
    module, colon, method = name.partition(":")
    if colon:
        kind, attribute = method.split(".")
        owner = getattr(importlib.import_module(module), kind)
        setattr(owner, attribute, around(getattr(owner, attribute)))
        return
    place, _, attribute = name.rpartition(".")
    function = getattr(importlib.import_module(place), attribute)
    wrapped = around(function)
    for known in list(sys.modules.values()):
        for own, value in list(getattr(known, "__dict__", {}).items()):
            if value is function:
                setattr(known, own, wrapped)


def main() -> None:
    """Run the command, then write the seconds."""
    target, begun, command, *flags = sys.argv[1:]
    module, clocks = importlib.import_module(command), Clocks(float(begun))
    for stage, names in STAGES.items():
        for name in names:
            replace(name, lambda function, stage=stage: clocks.of(stage, function))  # type: ignore[misc]
    replace(BEGINS[command], clocks.begins)
    module.main(flags)
    clocks.seconds["whole"] = time.time() - clocks.begun
    Path(target).write_text(json.dumps(clocks.seconds), encoding="utf-8")


if __name__ == "__main__":
    run_command(main)
