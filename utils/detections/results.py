"""What a detector found on a few pictures, in the forms that users of YOLOv5's hub models know."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from utils.boxes import normalize, xyxy_to_xywh
from utils.detections.annotate import Style, annotate, crop
from utils.detections.saving import NamesApart, crop_path, write_image
from utils.detections.window import display_missing
from utils.errors import UserError
from utils.files import increment_path

STAGES = ("pre-process", "inference", "NMS")
SHOWN = 3  # pictures in `repr`
RUNS = Path("runs/detect/exp")  # in the working directory
CORNER_COLUMNS = ["xmin", "ymin", "xmax", "ymax", "confidence", "class", "name"]
CENTRE_COLUMNS = ["xcenter", "ycenter", "width", "height", "confidence", "class", "name"]


def count_classes(classes: Sequence[float], names: Mapping[int, str]) -> str:
    """What a picture shows, as in `2 persons, 1 bus`; `no detections` when it is empty."""
    return name_counts(Counter(int(c) for c in classes), names)


def name_counts(counts: Mapping[int, int], names: Mapping[int, str]) -> str:
    """The same from the number of each class."""
    parts = [f"{count} {plural(names[c]) if count > 1 else names[c]}" for c, count in sorted(counts.items())]
    return ", ".join(parts) or "no detections"


def plural(name: str) -> str:
    """Several objects of a class: `persons`, `buses`; but `Platelets`, a name in the plural, stays."""
    end = name.lower()
    if end.endswith(("ss", "us", "x", "ch", "sh")):
        return f"{name}es"
    return name if end.endswith("s") else f"{name}s"


def speed_line(milliseconds: Iterable[float], shape: tuple[int, ...]) -> str:
    """How long each stage took for one picture; `shape` is that of the network's input."""
    speeds = ", ".join(f"{ms:.1f}ms {stage}" for ms, stage in zip(milliseconds, STAGES))
    return f"Speed: {speeds} per image at shape {shape}"


@dataclass(repr=False)
class Results:
    """Detections on a list of pictures.

    Attributes:
        ims: the pictures, (H, W, 3) uint8 RGB.
        pred: per picture (n, 6) float: x1, y1, x2, y2 in pixels of the picture, confidence, class.
        names: class index to class name.
        files: a file name for each picture.
        times: seconds that pre-processing, inference and NMS took, for all pictures together.
        s: shape (B, C, H, W) of what the network saw.
    """

    ims: list[np.ndarray]
    pred: list[Tensor]
    names: dict[int, str]
    files: list[str]
    times: tuple[float, float, float] = (0.0, 0.0, 0.0)
    s: tuple[int, ...] = ()

    @property
    def imgs(self) -> list[np.ndarray]:
        """`ims` under its older name."""
        return self.ims

    @property
    def n(self) -> int:
        """Number of pictures."""
        return len(self.pred)

    @property
    def t(self) -> tuple[float, ...]:
        """Milliseconds a picture of pre-processing, inference and NMS."""
        return tuple(seconds / max(self.n, 1) * 1e3 for seconds in self.times)

    @property
    def xyxy(self) -> list[Tensor]:
        """Per picture (n, 6): x1, y1, x2, y2 in pixels, confidence, class."""
        return self.pred

    @property
    def xywh(self) -> list[Tensor]:
        """Per picture (n, 6): centre x, centre y, width, height in pixels, confidence, class."""
        return [torch.cat((xyxy_to_xywh(p[:, :4]), p[:, 4:]), dim=1) for p in self.pred]

    @property
    def xyxyn(self) -> list[Tensor]:
        """As `xyxy`, in fractions of the picture's width and height."""
        return self._normalized(self.xyxy)

    @property
    def xywhn(self) -> list[Tensor]:
        """As `xywh`, in fractions of the picture's width and height."""
        return self._normalized(self.xywh)

    def _normalized(self, rows: list[Tensor]) -> list[Tensor]:
        return [
            torch.cat((normalize(r[:, :4], image.shape[:2]), r[:, 4:]), dim=1)
            for r, image in zip(rows, self.ims)
        ]

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: int) -> Results:
        """The results of one picture."""
        ims, pred, files = [self.ims[index]], [self.pred[index]], [self.files[index]]
        before, network, after = (seconds / self.n for seconds in self.times)
        return replace(self, ims=ims, pred=pred, files=files, times=(before, network, after))

    def __iter__(self) -> Iterator[Results]:
        return (self[index] for index in range(self.n))

    def tolist(self) -> list[Results]:
        """One `Results` a picture."""
        return list(self)

    def pandas(self) -> SimpleNamespace:
        """Tables with the fields xyxy, xyxyn, xywh, xywhn: per picture a DataFrame, one row a detection."""
        import pandas  # takes a third of a second, which most programs need not pay

        def tables(rows: list[Tensor], columns: list[str]) -> list[Any]:
            lists = [[[*r[:5], int(r[5]), self.names[int(r[5])]] for r in row.tolist()] for row in rows]
            return [pandas.DataFrame(entries, columns=columns) for entries in lists]

        return SimpleNamespace(
            xyxy=tables(self.xyxy, CORNER_COLUMNS),
            xyxyn=tables(self.xyxyn, CORNER_COLUMNS),
            xywh=tables(self.xywh, CENTRE_COLUMNS),
            xywhn=tables(self.xywhn, CENTRE_COLUMNS),
        )

    def __repr__(self) -> str:
        shown = [count_classes(rows[:, 5].tolist(), self.names) for rows in self.pred[:SHOWN]]
        rest = ["…"] if self.n > SHOWN else []
        return f"<Results of {self.n} image{'s' if self.n != 1 else ''}: {'; '.join(shown + rest)}>"

    def __str__(self) -> str:
        lines = []
        for index, (image, rows) in enumerate(zip(self.ims, self.pred)):
            found = count_classes(rows[:, 5].tolist(), self.names)
            lines.append(f"image {index + 1}/{self.n}: {image.shape[0]}x{image.shape[1]} {found}")
        return "\n".join([*lines, speed_line(self.t, self.s)])

    def print(self) -> None:
        """Print what each picture shows, and the speed."""
        print(self)

    def render(self, labels: bool = True) -> list[np.ndarray]:
        """Draw the boxes into `ims` and return them (RGB)."""
        for index, (image, rows) in enumerate(zip(self.ims, self.pred)):
            canvas = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
            annotate(canvas, rows.cpu().numpy(), self.names, Style(labels=labels))
            self.ims[index] = cv2.cvtColor(canvas, cv2.COLOR_BGR2RGB)
        return self.ims

    def show(self, labels: bool = True) -> None:
        """Open each annotated picture in the system's viewer.

        Raises:
            UserError: there is no screen.
        """
        from PIL import Image  # only needed here

        if reason := display_missing(viewer=True):
            raise UserError(f"show() needs a screen, and {reason}; use save() or render()")
        for image in self._drawn(labels):
            Image.fromarray(image).show()

    def save(self, labels: bool = True, save_dir: str | Path = RUNS, exist_ok: bool = False) -> Path:
        """Save the annotated pictures as JPEG and return the folder, which gets a number when it exists.

        Raises:
            UserError: the folder cannot be created.
            OSError: a picture cannot be written.
        """
        folder = increment_path(Path(save_dir), exist_ok)
        for image, stem in zip(self._drawn(labels), self._stems()):
            write_image(folder / f"{stem}.jpg", image[..., ::-1])
        print(f"Saved {self.n} image{'s' if self.n != 1 else ''} to {folder}")
        return folder

    def crop(
        self, save: bool = True, save_dir: str | Path = RUNS, exist_ok: bool = False
    ) -> list[dict[str, Any]]:
        """Cut the detections out: dicts with box (x1, y1, x2, y2), conf, cls, label and im (RGB).

        `save` writes them to `save_dir/crops/<class name>/`.
        """
        folder = increment_path(Path(save_dir), exist_ok) if save else None
        crops: list[dict[str, Any]] = []
        taken: set[Path] = set()
        for image, rows, stem in zip(self.ims, self.pred, self._stems()):
            for place, (*box, confidence, cls) in enumerate(rows.tolist()):
                name, piece = self.names[int(cls)], crop(image, box)
                label = f"{name} {confidence:.2f}"
                crops.append({"box": box, "conf": confidence, "cls": int(cls), "label": label, "im": piece})
                if folder is not None:
                    write_image(crop_path(folder, name, stem, place, taken), piece[..., ::-1])
        if folder is not None:
            print(f"Saved {len(crops)} crops to {folder / 'crops'}")
        return crops

    def _drawn(self, labels: bool) -> list[np.ndarray]:
        """Annotated copies, so that showing and saving do not change the pictures."""
        return replace(self, ims=list(self.ims)).render(labels)

    def _stems(self) -> list[str]:
        """`files` without suffix, made unique: pictures of the same name come from different folders."""
        names = NamesApart()
        return [names.take(Path(file).stem) for file in self.files]
