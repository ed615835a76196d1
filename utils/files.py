"""Paths: finding what the user names, numbering run folders, and writing files that survive a crash."""

from __future__ import annotations

import contextlib
import difflib
import errno
import itertools
import os
import secrets
import shutil
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from utils.errors import UserError

MOST_BYTES = 100  # of a name made from a text; file systems take 255, numbers and suffixes are yet to come
ROOM = 1 << 16  # bytes: a disk with less is full
ROOT = Path(__file__).resolve().parents[1]


def expand(path: str | Path) -> Path:
    """`path` with a leading `~` or `~user` replaced by the home folder.

    Raises:
        UserError: there is no such user, or nobody knows the home folder.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise UserError(
            f"path '{path}': no such user's home is known; write the folder out, or ./~… for a name like that"
        ) from error


def safe_name(text: str) -> str:
    """A file name without suffix for a text: separators, wildcards and control characters become `_`."""
    marks = "".join(
        "_" if c in '/\\:*?"<>|' or unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") else c for c in text
    )
    return marks.encode()[:MOST_BYTES].decode(errors="ignore").strip(". ") or "_"


def find_file(name: str | Path, folders: Sequence[Path] = (), suffixes: Sequence[str] = ("",)) -> Path:
    """Find `name` as given (relative to the working directory), then in each of `folders`, with each suffix.

    Raises:
        UserError: nothing is there; the message proposes the nearest names of those folders.
    """
    wanted = expand(name)
    for folder in (Path(), *folders):
        for suffix in suffixes:
            candidate = folder / f"{wanted}{suffix}"
            if candidate.is_file():
                return candidate
    known = sorted({p.name for folder in folders if folder.is_dir() for p in folder.iterdir() if p.is_file()})
    near = difflib.get_close_matches(wanted.name, known, n=3, cutoff=0.6)
    hint = f"; did you mean {' or '.join(near)}?" if near else ""
    raise UserError(f"file '{name}' not found{hint}")


def from_root(path: str) -> Path:
    """A path as given when it exists, else the same below the repository (for defaults like data/images)."""
    given = expand(path)
    return given if given.exists() or given.is_absolute() or not (ROOT / given).exists() else ROOT / given


def increment_path(path: Path, exist_ok: bool = False) -> Path:
    """Create and return a fresh run folder: `path`, else `path2`, `path3`, …; `path` itself with `exist_ok`.

    Creating is the test for existence, so two runs that start together get two folders.

    Raises:
        UserError: the folder cannot be created.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if exist_ok:
            path.mkdir(exist_ok=True)
            return path
        for number in itertools.count(1):
            candidate = path if number == 1 else path.with_name(f"{path.name}{number}")
            with contextlib.suppress(FileExistsError):
                candidate.mkdir()
                break
        return candidate
    except OSError as error:
        raise UserError(
            f"cannot create run folder '{path}': {error.strerror}; choose a writable --project"
        ) from error


@contextlib.contextmanager
def atomic_write(path: Path, *, durable: bool = True) -> Iterator[BinaryIO]:
    """Yield a binary file that becomes `path` only when the block ends well.

    The bytes go to a temporary file in the same folder, are flushed to disk and then renamed over `path`, so
    that a crash, a full disk or a kill leaves either the old file or the new one, never a mixture. What can
    be made again need not be `durable`: it is not flushed, and a loss of power may damage it.

    Raises:
        OSError: the folder is not writable or the disk is full; `path` is untouched, nothing is left behind.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("xb") as file:
            yield file
            file.flush()
            if durable:
                os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(path)  # a write knows only its handle
        raise
    if durable:
        _sync_folder(path.parent)


def write_text(path: Path, text: str, *, durable: bool = True) -> None:
    """Put a text file in UTF-8 in its place, as `atomic_write` does; line ends stay as they are."""
    with atomic_write(path, durable=durable) as file:
        file.write(text.encode())


def is_full(folder: Path, needed: int = ROOM) -> bool:
    """Whether less than so many bytes can be written there. For writers that do not tell why they failed."""
    return shutil.disk_usage(folder).free < needed


def append(path: Path, content: bytes) -> None:
    """Add to the end of a file, all of it or nothing.

    Raises:
        OSError: the disk is full, or the file cannot be written.
    """
    with path.open("ab", buffering=0) as file:
        before = file.tell()
        try:
            if file.write(content) < len(content):  # what did not fit any more is no error to the system
                file.truncate(before)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            error.filename = str(path)
            raise


def _sync_folder(folder: Path) -> None:
    """Make a rename durable. Not every platform can open a folder; there the rename alone has to do."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
