"""Where exported files go, and how they get there whole or not at all."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from models.exporting import web
from models.exporting.formats import Format
from models.exporting.yolov5 import SUFFIX, is_written_here
from utils import files
from utils.errors import UserError

EXPORTED = (".yaml", ".xml", ".bin", ".param")  # what the folders of exports hold


def free_place(weights: Path, form: Format, int8: bool) -> Path:
    """Where a format goes: beside the weights, under their name; best.pt -> best.onnx, best_int8.onnx.

    Raises:
        UserError: something is there that no export has made.
    """
    place = weights.with_name(f"{weights.stem}{'_int8' if int8 else ''}{form.suffix}")
    if place.is_symlink() or not place.exists():
        return place
    if place.is_dir() != form.is_folder or not _is_export(place):
        raise UserError(f"'{place}' is in the way and was made by no export; move it elsewhere")
    return place


def _is_export(place: Path) -> bool:
    """Whether something may be replaced: a file, and a folder that holds an export's files and no others."""
    if place.is_file():  # only a .pt may hold what cannot be made again
        return not place.name.endswith(SUFFIX) or is_written_here(place)
    if place.suffix == ".mlpackage":
        return (place / "Manifest.json").is_file()
    if place.name.endswith(web.SUFFIX):
        return web.is_written_here(place)
    files = list(place.iterdir())
    described = any(file.name == "metadata.yaml" for file in files)
    return described and all(file.is_file() and file.suffix in EXPORTED for file in files)


@contextlib.contextmanager
def temporary_folder(parent: Path) -> Iterator[Path]:
    """A folder that is gone afterwards, in `parent`, so that moving a file out of it is a rename.

    Raises:
        UserError: nothing can be written there.
    """
    with contextlib.ExitStack() as stack:
        try:
            folder = stack.enter_context(files.temporary_folder(parent, ".export-"))
        except OSError as error:
            raise UserError(
                f"cannot write beside the weights in '{parent}': {error.strerror}; copy them to a folder of "
                "yours"
            ) from error
        yield folder


def publish(written: Path, place: Path) -> None:
    """Move a verified file or folder to its place. A file that is there is replaced in one step, a folder is
    first moved aside and comes back when that fails."""
    for file in written.rglob("*") if written.is_dir() else (written,):
        if file.is_file():
            with file.open("rb+") as handle:
                os.fsync(handle.fileno())
    if not place.is_dir():
        written.replace(place)
        return
    aside = written.with_name("replaced")
    place.replace(aside)
    try:
        written.replace(place)
    except BaseException:  # Ctrl-C, too, must not cost the older one
        aside.replace(place)
        raise
