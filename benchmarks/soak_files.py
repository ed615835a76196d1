"""What the soak works on: a small data set, pictures and videos of many formats; some are broken."""

from __future__ import annotations

import shutil
from pathlib import Path

import cv2
import numpy as np
import yaml

from models.cfg import FOLDERS, load_cfg
from utils.data.images import read_image
from utils.data.spec import load_data_spec
from utils.files import write_text

SIDE = 96
SUFFIXES = (".jpg", ".png", ".bmp", ".webp", ".tif")
WIDTH, DEPTH = 0.125, 0.1  # of the network, as shares of the full one
FRAMES = 12


def make_files(folder: Path, train: int = 12, val: int = 4) -> None:
    """Write `data.yaml`, `tiny.yaml` (a network) and `pictures/` into a folder that exists."""
    spec = load_data_spec("digits.yaml")
    for split, sources, count in (("train", spec.train, train), ("val", spec.val, val)):
        images = sorted(path for source in sources for path in Path(str(source)).glob("*.jpg"))[:count]
        _copy_split(folder, split, images)
    _break(folder / "images" / "train", folder / "labels" / "train")
    places = {"path": str(folder), "train": "images/train", "val": "images/val", "names": spec.names}
    write_text(folder / "data.yaml", yaml.safe_dump(places))
    network = load_cfg(FOLDERS[0] / "yolov5n.yaml")
    network.update(depth_multiple=DEPTH, width_multiple=WIDTH)
    write_text(folder / "tiny.yaml", yaml.safe_dump(network))
    _make_pictures(folder / "pictures", sorted((folder / "images" / "train").glob("0*")))


def _copy_split(folder: Path, split: str, images: list[Path]) -> None:
    for kind in ("images", "labels"):
        (folder / kind / split).mkdir(parents=True)
    for number, path in enumerate(images):
        picture = cv2.resize(read_image(str(path)), (SIDE, SIDE), interpolation=cv2.INTER_AREA)
        cv2.imwrite(str(folder / "images" / split / f"{number:02d}{SUFFIXES[number % 5]}"), picture)
        label = path.parents[2] / "labels" / path.parent.name / f"{path.stem}.txt"
        shutil.copy(label, folder / "labels" / split / f"{number:02d}.txt")


def _break(images: Path, labels: Path) -> None:
    """A picture that is cut off, an empty one, one that is none, and labels with faults."""
    whole = (images / "00.jpg").read_bytes()
    (images / "x_cut.jpg").write_bytes(whole[: len(whole) // 2])
    (images / "x_empty.png").write_bytes(b"")
    (images / "x_text.jpg").write_text("no picture", encoding="utf-8")
    (images / "x_odd.jpg").write_bytes(whole)
    (labels / "x_odd.txt").write_text("3 0.5 0.5 0.2 0.2\n99 0.5 0.5 0.1 0.1\n1 2 3\n", encoding="utf-8")


def _make_pictures(folder: Path, images: list[Path]) -> None:
    """Pictures, videos and a GIF; whole ones and broken ones."""
    from PIL import Image

    folder.mkdir()
    for path in images[:10]:
        shutil.copy(path, folder)
    frames = [read_image(str(images[number % len(images)])) for number in range(FRAMES)]
    for name, code in (("clip.avi", "MJPG"), ("clip.mp4", "mp4v")):
        video = cv2.VideoWriter(str(folder / name), cv2.VideoWriter.fourcc(*code), 10.0, (SIDE, SIDE))
        for frame in frames:
            video.write(frame)
        video.release()
    first, *others = (Image.fromarray(np.ascontiguousarray(frame[..., ::-1])) for frame in frames)
    first.save(folder / "moving.gif", save_all=True, append_images=others)
    for name in ("clip.avi", "00.jpg"):
        whole = (folder / name).read_bytes()
        (folder / f"cut_{name}").write_bytes(whole[: len(whole) * 2 // 3])
    (folder / "empty.png").write_bytes(b"")
