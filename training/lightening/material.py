"""What a lightening run looks at: its pictures, where they are kept, and what the teacher sees on them."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from models.yolo import DetectionModel
from training.lightening.config import LightenConfig
from training.lightening.measure import agreement, as_seen_by, held_loader
from training.lightening.pictures import Pictures, find_pictures, open_pictures, read_list
from training.run_folder import RunFolder
from utils.checkpoints.files import read_checkpoint
from utils.data.dataset import DetectionDataset
from utils.data.index import DatasetIndex
from utils.data.letterbox import rounded_size
from utils.data.loader import Loader
from utils.device import amp_dtype, resolved
from utils.distributed import Process, broadcast, once_per_machine
from utils.errors import UserError
from utils.hyperparameters import Hyperparameters

LARGEST_SIDE = 16384
LARGE = 512  # pixels; of pictures with such sides, and larger ones, parts are learnt from, too …
ROUND = 64  # … whose sides are multiples of this, as any network takes them


@dataclass(frozen=True)
class Material:
    """What runs of one teacher on the same pictures share.

    Attributes:
        seen: the pictures held out, with the teacher's confident boxes as labels; in the main process only.
        ceiling: agreement of the teacher itself with weights rounded to half precision.
    """

    pictures: Pictures
    seen: DatasetIndex | None
    ceiling: float


def look(
    config: LightenConfig, teacher: DetectionModel, pictures: Pictures, ceiling: float | None
) -> Material:
    """Find what the teacher sees; `ceiling`: when it need not be measured.

    Raises:
        UserError: it sees nothing.
    """
    imgsz = side_of(config, teacher)
    seen = as_seen_by(teacher, pictures.held, imgsz, config.batch_size, config.workers)
    if ceiling is None:
        rounded = copy.deepcopy(teacher).half().float()
        held = held_loader(teacher, seen, imgsz, config.batch_size, config.workers)
        ceiling = agreement(rounded, held, teacher.stride.device)[3]
    return Material(pictures, seen, ceiling)


def side_of(config: LightenConfig, teacher: DetectionModel) -> int:
    """Pixels of a picture's longer side."""
    return rounded_size(config.imgsz or 0, teacher.multiple)


def files_of(config: LightenConfig, run: RunFolder | None, folder: Callable[[], RunFolder]) -> list[str]:
    """Paths of the pictures: of a run that goes on those that it keeps, else what --source names.

    Args:
        folder: gives the folder of a new run, where frames of videos are kept.
    """
    if run is not None:
        return read_list(kept_list(run))
    return find_pictures(config.source, lambda: folder().root / "pictures", config.vid_stride)


def check_pictures(pictures: Pictures, fingerprint: str, run: RunFolder) -> None:
    """Raise a UserError when a run that goes on would learn from other pictures."""
    if pictures.fingerprint() != fingerprint:
        raise UserError(
            f"the pictures are not those that this run was started with; put back what {kept_list(run)} "
            "lists, or start anew"
        )


def open_material(
    config: LightenConfig, teacher: DetectionModel, files: list[str], ceiling: float | None, process: Process
) -> Material:
    """The pictures, and in the main process what the teacher sees on those held out; see `look`."""
    pictures = once_per_machine(lambda: open_pictures(files, config.seed), process)
    return look(config, teacher, pictures, ceiling) if process.is_main else Material(pictures, None, 0.0)


def kept_list(run: RunFolder) -> Path:
    """The file in the run folder that lists the pictures of the run."""
    return run.root / "pictures.list"


def settled(config: LightenConfig, teacher: Path, device: torch.device) -> LightenConfig:
    """The settings with what hangs on the teacher's file and the machine; a run, or a search, keeps them.

    Raises:
        UserError: a precision that the device has not.
    """
    amp = broadcast(resolved(config.amp, device))
    amp_dtype(amp, device)
    imgsz = config.imgsz or size_of(teacher)
    return dataclasses.replace(config, imgsz=imgsz, window=config.window or window_of(imgsz), amp=amp)


def size_of(path: Path) -> int:
    """The size in pixels that a network was trained at; 640 where its file does not say."""
    settings = read_checkpoint(path)["train_args"]
    size = settings.get("imgsz") if isinstance(settings, dict) else None
    return size if isinstance(size, int) and 1 <= size <= LARGEST_SIDE else 640


def window_side(config: LightenConfig, teacher: DetectionModel) -> int | None:
    """Pixels of a window's side; None where pictures are learnt from whole, as in runs of old."""
    if config.window is None or config.window >= (config.imgsz or 0):
        return None
    window = rounded_size(config.window, teacher.multiple, flag="--window")
    return window if window < side_of(config, teacher) else None


def window_of(imgsz: int) -> int:
    """The side of the parts of pictures that are learnt from; halves, about, take a quarter of the time."""
    return imgsz // 2 // ROUND * ROUND if imgsz >= LARGE else imgsz


def open_loader(
    config: LightenConfig, hyp: Hyperparameters, process: Process, pictures: Pictures, teacher: DetectionModel
) -> Loader:
    """Batches of the pictures that are learnt from: this process' share of each."""
    dataset = DetectionDataset(
        pictures.train,
        side_of(config, teacher),
        hyp=hyp,
        augment=True,
        batch_size=config.batch_size // process.world_size,
        seed=config.seed,
        channels=teacher.channels,
        window=window_side(config, teacher),
    )
    rank, world_size = process.rank, process.world_size
    return Loader(
        dataset, workers=config.workers, shuffle=True, seed=config.seed, rank=rank, world_size=world_size
    )
