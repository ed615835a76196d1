"""A sound little data set, and faults of every kind to plant into it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

COUNTS = {"train": 12, "val": 4}
HEIGHT, WIDTH = 120, 160
ROWS = ["0 0.2 0.3 0.2 0.3", "0 0.7 0.3 0.25 0.3", "1 0.25 0.75 0.3 0.25", "1 0.85 0.8 0.2 0.3"]


def blobs(seed: int) -> np.ndarray:
    """(H, W, 3) uint8: large patches of colour, which no other seed gives."""
    coarse = np.random.default_rng(seed).integers(0, 255, (6, 8, 3)).astype(np.uint8)
    return cv2.resize(coarse, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)


def jpeg(image: np.ndarray, quality: int = 95) -> bytes:
    return cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()


@dataclass
class Made:
    """A data set that is yet to be written: by `split/number` the bytes of a picture and its rows."""

    files: dict[str, bytes] = field(default_factory=dict)
    rows: dict[str, list[str] | None] = field(default_factory=dict)  # None: no label file
    names: list[str] = field(default_factory=lambda: ["cat", "dog"])
    splits: dict[str, str] = field(default_factory=lambda: {split: f"images/{split}" for split in COUNTS})

    @classmethod
    def sound(cls) -> Made:
        made = cls()
        for split, count in COUNTS.items():
            for number in range(count):
                made.files[f"{split}/{number}"] = jpeg(blobs(len(made.files)))
                made.rows[f"{split}/{number}"] = list(ROWS)
        return made

    def write(self, root: Path) -> Path:
        """Write it, and return its data yaml."""
        for place, data in self.files.items():
            image = root / "images" / f"{place}.jpg"
            image.parent.mkdir(parents=True, exist_ok=True)
            image.write_bytes(data)
        for place, rows in self.rows.items():
            label = root / "labels" / f"{place}.txt"
            label.parent.mkdir(parents=True, exist_ok=True)
            if rows is not None:
                label.write_text("".join(f"{row}\n" for row in rows), encoding="utf-8")
        splits = "".join(f"{split}: {place}\n" for split, place in self.splits.items())
        yaml = root / "planted.yaml"
        yaml.write_text(f"path: {root}\n{splits}names: {self.names}\n", encoding="utf-8")
        return yaml


def add(*rows: str, place: str = "train/0") -> Callable[[Made], None]:
    """Rows that are put into a label file."""

    def plant(made: Made) -> None:
        made.rows[place] = [*(made.rows[place] or []), *rows]

    return plant


def everywhere(*rows: str, split: str = "train") -> Callable[[Made], None]:
    """Rows that are put into all label files of a split."""

    def plant(made: Made) -> None:
        for number in range(COUNTS[split]):
            add(*rows, place=f"{split}/{number}")(made)

    return plant


def _no_labels_in_val(made: Made) -> None:
    made.rows.update({place: None for place in made.rows if place.startswith("val")})


def _no_val(made: Made) -> None:
    del made.splits["val"]


def _val_is_train(made: Made) -> None:
    made.splits["val"] = "images/train"


def _copy(place: str, of: str) -> Callable[[Made], None]:
    def plant(made: Made) -> None:
        made.files[place] = made.files[of]

    return plant


def _alike(place: str, number: int) -> Callable[[Made], None]:
    """As picture `number`, brighter, smaller and saved badly."""

    def plant(made: Made) -> None:
        image = cv2.convertScaleAbs(blobs(number), alpha=0.9, beta=20)
        made.files[place] = jpeg(cv2.resize(image, (WIDTH // 2, HEIGHT // 2)), 40)

    return plant


def _names(*names: str) -> Callable[[Made], None]:
    def plant(made: Made) -> None:
        made.names = list(names)

    return plant


def _third_class(train: int, val: int) -> Callable[[Made], None]:
    """So many labels of a class beside the other two."""

    def plant(made: Made) -> None:
        made.names.append("owl")
        for split, count in (("train", train), ("val", val)):
            for number in range(count):
                add(f"2 0.5 0.5 0.2 {0.2 + number / 1000}", place=f"{split}/{number % COUNTS[split]}")(made)

    return plant


def _uneven(made: Made) -> None:
    _third_class(1, 1)(made)
    add(*(f"0 {0.1 + n % 9 * 0.1:.1f} {0.1 + n // 9 * 0.1:.1f} 0.09 0.09" for n in range(45)))(made)


def _damaged(made: Made) -> None:
    """A PNG whose ends are sound."""
    data = cv2.imencode(".png", blobs(0))[1].tobytes()
    made.files["train/0"] = data[:500] + b"damaged" + data[507:]


def _listed_twice(made: Made) -> None:
    made.splits["train"] = "[images/train, images/train/0.jpg]"


def _one_corner(made: Made) -> None:
    for place in made.rows:
        values = [list(map(float, row.split())) for row in ROWS]
        made.rows[place] = [f"{int(c)} {x * 0.4} {y * 0.4} {w * 0.4} {h * 0.4}" for c, x, y, w, h in values]


def _unlabelled(made: Made) -> None:
    made.rows["val/3"] = None


# key of a kind -> what plants it, and how often it is then found
PLANTS: dict[str, tuple[Callable[[Made], None], int]] = {
    "nothing-to-learn": (_no_labels_in_val, 1),
    "missing-split": (_no_val, 1),
    "shared-files": (_val_is_train, 12),
    "copies-across": (_copy("val/2", "train/5"), 1),
    "alike-across": (_alike("val/0", 3), 1),
    "alike-names": (_names("traffic light", "Traffic_Light"), 1),
    "blank-names": (_names("cat", "dog "), 1),
    "absent-in-train": (_third_class(0, 2), 1),
    "absent-in-val": (_third_class(30, 0), 1),
    "rare-classes": (_third_class(3, 1), 1),
    "without-labels": (_names("cat", "dog", "owl"), 1),
    "class-balance": (_uneven, 1),
    "undecodable": (_damaged, 1),
    "unlabelled": (_unlabelled, 1),
    "copies-within": (_copy("train/11", "train/2"), 1),
    "listed-twice": (_listed_twice, 1),
    "alike-within": (_alike("train/9", 4), 1),
    "doubled": (add("0 0.2 0.3 0.2 0.295"), 1),  # of 0.3: IoU 0.983
    "contradicting": (add("1 0.2 0.3 0.2 0.295"), 1),
    # 320 x 9.6 px at 640 px; the anchors' widest match is 33 x 23: 9.7 times as wide. 12 of 76 labels
    "anchors": (everywhere("0 0.5 0.5 0.5 0.02"), 12),
    "tiny": (add("0 0.5 0.5 0.002 0.05"), 1),  # 1.3 px wide at 640 px
    "small": (add("0 0.5 0.5 0.01 0.01", "1 0.4 0.5 0.01 0.015"), 2),  # 6.4 x 4.8 and 6.4 x 7.2 px
    "huge": (add("0 0.5 0.5 1 1"), 1),
    "slivers": (add("0 0.5 0.5 0.6 0.03"), 1),  # 96 x 3.6 pixels of the picture: 27 to 1
    "one-corner": (_one_corner, 64),
    # what the scan of the labels meets
    "fault-class-out-of-range": (add("2 0.5 0.5 0.2 0.2"), 1),
    "fault-not-a-number": (add("cat 0.5 0.5 0.2 0.2"), 1),
    "fault-wrong-column-count": (add("0 0.5 0.5 0.2"), 1),
    "fault-out-of-bounds": (add("0 50 50 20 20"), 1),
    "fault-slightly-out-of-bounds": (add("0 0.9 0.5 0.3 0.3"), 1),
    "fault-duplicate-row": (add(ROWS[0]), 1),
    "fault-no-area": (add("0 0.5 0.5 0 0.2"), 1),
    "fault-label-without-image": (lambda made: made.files.pop("val/3") and None, 1),
}
