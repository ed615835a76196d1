"""One check of everything on a GPU, in at most four minutes, for a machine that one has for a short while.

    python benchmark.py gpu                                              # the embedded digits
    python benchmark.py gpu --weights yolov5n.pt --data coco128.yaml     # validate these weights instead
    python benchmark.py gpu --device cpu --batches 1 2 --imgsz 64 --train-imgsz 64 --epochs 1   # a rehearsal

Nothing but PyTorch with CUDA and what `requirements.txt` names is needed; what is not installed is left out
and said. Each check stands for itself: what fails is told at the end, and the others run.
"""

from __future__ import annotations

import datetime
import json
import os
import shlex
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch

from benchmarks.gpu.checks import CHECKS, Row
from benchmarks.gpu.measuring import LeftOut, Setting
from benchmarks.pages import check_page, command_line, console_table, mark_of, render
from models.runtimes.machine import processor_name
from models.weights import find_weights
from utils.console import LOGGER, setup_console
from utils.data.spec import load_data_spec
from utils.device import select_device
from utils.errors import Incomplete, UserError
from utils.files import temporary_folder, write_text
from utils.flags import DATA_HELP, DEVICE_HELP, SIDE, CommandConfig, at_least, flag, not_empty, one_of

TEMPLATE = "gpu.md.j2"
MARK = "benchmark.py gpu"  # in the JSON file


@dataclass(frozen=True)
class Config(CommandConfig):
    """Check everything on a GPU."""

    checks: tuple[str, ...] = flag(tuple(CHECKS), f"some of {', '.join(CHECKS)}", rule=one_of(CHECKS))
    cfg: str = flag("yolov5n.yaml", "model yaml of what is timed and trained", rule=not_empty)
    weights: str = flag("", "weights to validate and to detect with; default: those of the first training")
    data: str = flag("digits.yaml", f"{DATA_HELP} of these weights")
    train_data: str = flag("digits.yaml", "dataset yaml of the trainings", rule=not_empty)
    device: str = flag("", DEVICE_HELP)
    batches: tuple[int, ...] = flag((1, 16, 64, 256), "images a batch of what is timed", rule=at_least(1))
    imgsz: int = flag(640, "side in pixels of what is timed by itself", rule=SIDE)
    epochs: int = flag(8, "epochs of each training on the digits", rule=at_least(1))
    train_imgsz: int = flag(192, "side in pixels of these trainings, and of validation", rule=SIDE)
    workers: int = flag(8, "data loading processes of these trainings", rule=at_least(0))
    seconds: float = flag(240.0, "no check is begun any more after this long", rule=at_least(1))
    json: str = flag("", "file for the figures")
    output: str = flag("", "Markdown file for the tables")


@dataclass
class Outcome:
    """What came of a check.

    Attributes:
        state: empty when it ended well, else why it was left out or what failed.
    """

    name: str
    about: str
    rows: list[Row] = field(default_factory=list)
    seconds: float = 0.0
    state: str = ""
    failed: bool = False


def run(config: Config) -> None:
    """Run the checks and write what they found.

    Raises:
        UserError: no such device, weights or data, or a page that somebody else wrote.
        Incomplete: a check failed.
    """
    setup_console()
    started = time.monotonic()
    device = select_device(config.device)
    if config.output:
        check_page(Path(config.output), mark_of(TEMPLATE), "--output")
    if config.json:
        check_page(Path(config.json), MARK, "--json")
    given = Path(find_weights(config.weights)) if config.weights else None
    spec = load_data_spec(config.data)
    with temporary_folder(prefix="gpu-") as folder:
        at = Setting(
            device=device,
            cfg=config.cfg,
            train_data=config.train_data,
            spec=spec,
            val_imgsz=config.imgsz if given else config.train_imgsz,
            batches=tuple(sorted(config.batches)),
            imgsz=config.imgsz,
            epochs=config.epochs,
            train_imgsz=config.train_imgsz,
            workers=config.workers,
            folder=folder,
            deadline=started + config.seconds,
            trained=given,
        )
        outcomes = [carried_out(name, at) for name in CHECKS if name in config.checks]
    record = {
        "written_by": MARK,
        "command": shlex.join(command_line("gpu", config)),
        "date": datetime.date.today().isoformat(),
        "machine": described(device),
        "is_gpu": device.type == "cuda",
        "seconds": round(time.monotonic() - started, 1),
        "checks": [asdict(outcome) for outcome in outcomes],
    }
    if config.json:
        write_text(Path(config.json), json.dumps(record, indent=1) + "\n")
    if config.output:
        write_text(Path(config.output), page(record))
    if failed := [f"{outcome.name} ({outcome.state})" for outcome in outcomes if outcome.failed]:
        raise Incomplete(f"{len(failed)} of {len(outcomes)} checks failed: {'; '.join(failed)}")
    left_out = [outcome.name for outcome in outcomes if outcome.state]
    without = f", without {', '.join(left_out)}" if left_out else ""
    LOGGER.info(f"{len(outcomes) - len(left_out)} checks in {record['seconds']} s on {device}{without}")


def carried_out(name: str, at: Setting) -> Outcome:
    """Run one check and show what it found; it may fail in any way, for the others matter too."""
    outcome = Outcome(name, (CHECKS[name].__doc__ or "").strip())
    with measured(outcome):
        if at.left <= 0:
            raise LeftOut("no time was left")
        for row in CHECKS[name](at):
            outcome.rows.append(row)
    if at.cuda:
        torch.cuda.empty_cache()
    print(
        f"\n{name}: {outcome.about} {outcome.seconds:.1f} s" + (f"; {outcome.state}" if outcome.state else "")
    )
    if outcome.rows:
        print(console_table(table(outcome.rows), "l" * len(outcome.rows[0])), flush=True)
    return outcome


@contextmanager
def measured(outcome: Outcome) -> Iterator[None]:
    """Context of a check, whose end is written down whatever it is."""
    started = time.perf_counter()
    try:
        yield
    except LeftOut as reason:
        outcome.state = f"left out: {reason}"
    except UserError as error:
        outcome.state, outcome.failed = str(error), True
    except Exception as error:  # noqa: BLE001  # a library's own: it belongs on the page
        lines = str(error).strip().splitlines() or [""]
        outcome.state, outcome.failed = f"{type(error).__name__}: {lines[0]}", True
    finally:
        outcome.seconds = round(time.perf_counter() - started, 1)


def table(rows: list[Row]) -> list[list[str]]:
    """Rows with the titles on top."""
    return [list(rows[0]), *(list(row.values()) for row in rows)]


def page(record: dict[str, object]) -> str:
    """The tables as Markdown, with the command and the machine."""
    shown = {"command": shlex.split(str(record["command"]))}
    return render(TEMPLATE, **record | shown, table=table)


def described(device: torch.device) -> str:
    """Device, driver side and versions, in one line."""
    cpu = f"{processor_name()}, {os.cpu_count()} cores, torch {torch.__version__}"
    if device.type != "cuda":
        return cpu
    card = torch.cuda.get_device_properties(device)
    memory = f"{card.total_memory / 2**30:.0f} GiB"
    cudnn = f"cuDNN {torch.backends.cudnn.version()}"
    return f"{card.name} ({memory}), CUDA {torch.version.cuda}, {cudnn}; {cpu}"
