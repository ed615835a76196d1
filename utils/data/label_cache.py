"""What a scan of images and labels found, kept in an .npz beside the labels while nothing changes."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from zipfile import ZIP_STORED, BadZipFile, ZipFile

import numpy as np

from utils.console import LOGGER
from utils.data.folders import is_writable
from utils.data.report import Fault
from utils.files import atomic_write, sweep

VERSION = 3  # raise it when the scan changes what it finds, so that older caches are not believed
MOST_BYTES = 4 << 30
# what else zipfile and numpy raise on damaged input
_ZIP_ERRORS = (struct.error, ArithmeticError, RuntimeError, LookupError, MemoryError, SyntaxError)
SUFFIX = ".lean5-index.npz"


def fingerprint(images: Sequence[str], labels: Sequence[str], classes: int | str) -> str:
    """A hash over name, size and modification time of every image and label file; another one: stale.

    Args:
        classes: how many there are, and whatever else the scan depends on.
    """
    digest = hashlib.blake2b(f"{VERSION} {classes}".encode(), digest_size=16)
    for pair in zip(images, labels):
        for path in pair:
            try:
                status = os.stat(path)  # noqa: PTH116
                state = f"{status.st_size} {status.st_mtime_ns}"
            except OSError:
                state = "absent"
            digest.update(os.fsencode(path) + b"\0" + state.encode() + b"\0")
    return digest.hexdigest()


def cache_file(sources: Sequence[Path], first_label: str) -> Path:
    """Beside the label folder of the first image; the name tells apart splits that share that folder."""
    folder = Path(first_label).parent
    which = hashlib.blake2b("\0".join(map(str, sources)).encode(), digest_size=4).hexdigest()
    return folder.parent / f"{folder.name}-{which}{SUFFIX}"


def save(file: Path, key: str, arrays: dict[str, Any], faults: Sequence[Fault]) -> None:
    """Keep what was found under the key of its files; a folder that cannot be written to costs a warning."""
    try:
        if not is_writable(file.parent):
            raise PermissionError(errno.EACCES, "folder is read-only")
        with atomic_write(file) as stream:
            np.savez(stream, **arrays, key=np.array(key), faults=np.array(json.dumps(faults)))
    except OSError as error:
        LOGGER.warning("label index not kept beside the labels: %s: %s", file.parent, error.strerror)


def load(file: Path, key: str, names: Sequence[str]) -> tuple[dict[str, np.ndarray], list[Fault]] | None:
    """The arrays `names` and the faults; None: no file, a damaged one, or something has changed.

    A data set can come with such a file, made by anyone, so `index.py` looks at what is in it.
    """
    sweep(file.parent)
    try:
        if file.stat().st_size > MOST_BYTES or not _stored(file):
            return None
        with np.load(file, allow_pickle=False) as archive:
            if str(archive["key"]) != key:
                return None
            rows = json.loads(str(archive["faults"]))
            faults = [Fault(str(kind), int(line), str(what), str(place)) for kind, line, what, place in rows]
            return {name: archive[name] for name in names}, faults
    except (
        *(OSError, ValueError, KeyError, EOFError, TypeError, RecursionError),
        *(BadZipFile, *_ZIP_ERRORS),
    ):
        return None


def _stored(file: Path) -> bool:
    """Whether the members of an .npz lie in it as they are, as they do in ours, and so cannot swell.

    An array whose header claims more values than there are is still refused by numpy, or by the system.
    """
    with ZipFile(file) as archive:
        members = archive.infolist()
        plain = all(member.compress_type == ZIP_STORED for member in members)
        return plain and sum(member.file_size for member in members) <= file.stat().st_size
