"""Paths: finding what the user names, numbering run folders, and writing files that survive a crash."""

from __future__ import annotations

import contextlib
import difflib
import errno
import itertools
import os
import re
import secrets
import shutil
import tempfile
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import BinaryIO

from utils.errors import UserError
from utils.interrupt import on_cut_off

try:
    import fcntl
except ImportError:  # Windows, which removes and replaces no file that is open
    fcntl = None  # type: ignore[assignment]

MOST_BYTES = 100  # of a name made from a text; file systems take 255, numbers and suffixes are yet to come
ROOM = 1 << 16  # bytes: a disk with less is full
ROOT = Path(__file__).resolve().parents[1]
TEMPORARY = re.compile(r"\..+\.[0-9a-f]{8}\.lean5-tmp")  # what `atomic_write` writes to
OWNER = ".owner"  # in a temporary folder; locked by the process that works there

_swept: set[Path] = set()  # folders in which this process has looked for what others left


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


def user_cache() -> Path:
    """The folder in which this program may keep what can be made again, for this user; it need not be there.

    Raises:
        OSError: the system does not know where; XDG_CACHE_HOME, or LOCALAPPDATA on Windows, can say it.
    """
    import platformdirs

    try:
        return Path(platformdirs.user_cache_dir("lean5", appauthor=False))
    except RuntimeError as error:  # no home, as of a container's user whom nobody knows
        raise OSError(errno.ENOENT, "there is no home folder, and XDG_CACHE_HOME is not set", "~") from error


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
    stems: dict[str, list[str]] = {}
    for found in known:
        stems.setdefault(Path(found).stem, []).append(found)
    alike = [stems[stem] for stem in difflib.get_close_matches(wanted.stem, stems)]
    # of files whose names differ in the ending alone the one whose ending was asked for
    near = [next((one for one in some if Path(one).suffix == wanted.suffix), some[0]) for some in alike]
    hint = f"; did you mean {' or '.join(near)}?" if near else ""
    raise UserError(f"file '{name}' not found{hint}")


def newest(folder: Path, pattern: str) -> Path | None:
    """The file that was written to most recently, of those below a folder that match."""
    found = [path for path in folder.glob(pattern) if path.is_file()]
    return max(found, key=lambda path: path.stat().st_mtime, default=None)


def from_root(path: str) -> Path:
    """A path as given when it exists, else the same below the repository (for defaults like data/images)."""
    given = expand(path)
    return given if given.exists() or given.is_absolute() or not (ROOT / given).exists() else ROOT / given


def increment_path(path: Path, exist_ok: bool = False) -> Path:
    """Create and return a fresh run folder: `path`, else `path2`, `path3`, …; `path` itself with `exist_ok`.

    Creating is the test for existence, so two runs that start together get two folders. Temporary files that
    killed runs of that name have left go.

    Raises:
        UserError: the folder cannot be created.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for run in path.parent.iterdir():
            if re.fullmatch(rf"{re.escape(path.name)}\d*", run.name):
                sweep(run)
                sweep(run / "weights")
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
    be made again need not be `durable`: it is not flushed, and a loss of power may damage it. A temporary
    file that a kill has left goes when a process writes into that folder for the first time.

    Raises:
        OSError: the folder is not writable or the disk is full; `path` is untouched, nothing is left behind.
    """
    sweep(path.parent)
    writer = os.getpid()
    while True:
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.lean5-tmp")
        whole = made = False

        def finish() -> None:  # when the process is ended by force
            temporary.replace(path) if whole else temporary.unlink(missing_ok=True)  # noqa: B023 - of this round

        try:
            with on_cut_off(finish):  # before there is a file
                with temporary.open("xb") as file:
                    made = True
                    if not _claim(file):
                        continue
                    yield file
                    file.flush()
                    whole = True
                    if durable:
                        os.fsync(file.fileno())
                    if fcntl is not None:  # while it is locked
                        temporary.replace(path)
                if fcntl is None:
                    temporary.replace(path)
            break
        except BaseException as error:
            if os.getpid() != writer:
                raise  # of a fork; the file is its parent's
            if made:  # a file that was there is not ours to delete
                with contextlib.suppress(OSError):
                    temporary.unlink()
            if isinstance(error, OSError) and error.filename is None:
                error.filename = str(path)  # a write knows only its handle
            raise
    if durable:
        _sync_folder(path.parent)


@contextlib.contextmanager
def temporary_folder(parent: Path | None = None, prefix: str = "lean5-") -> Iterator[Path]:
    """A folder that is gone afterwards, in `parent` or where the system keeps such folders.

    Those of the same prefix whose owner was killed are removed first.

    Raises:
        OSError: nothing can be written there.
    """
    parent = parent or Path(tempfile.gettempdir())
    name = re.compile(re.escape(prefix) + "[0-9a-f]{16}")
    for entry in list(parent.iterdir()):
        if name.fullmatch(entry.name) and entry.is_dir():
            _remove_abandoned(entry / OWNER, partial(_remove_folder, entry))
    owner_process = os.getpid()
    while True:
        folder = parent / f"{prefix}{secrets.token_hex(8)}"
        remove = partial(_remove_folder, folder)
        try:
            folder.mkdir(mode=0o700)
            with on_cut_off(remove), (folder / OWNER).open("xb") as owner:
                if _claim(owner):
                    yield folder
                    return
        finally:
            if os.getpid() == owner_process:  # a fork that drops its copy of this generator comes here too
                remove()


@contextlib.contextmanager
def native_path(path: str | Path) -> Iterator[str]:
    """A path for a library that takes text: OpenCV ends the process at a name whose bytes are none.

    There it is that of a link, which leads to what is, or will be, at `path`.
    """
    try:
        str(path).encode()
    except UnicodeEncodeError:
        with temporary_folder(prefix="lean5-link-") as folder:
            link = folder / f"link{Path(path).suffix}".encode("ascii", "ignore").decode()
            link.symlink_to(Path(path).absolute())
            yield str(link)
    else:
        yield str(path)


def _remove_folder(folder: Path) -> None:
    """Remove a temporary folder, and by what it is known as one at the very end: what cannot be removed now
    is removed another time."""
    with contextlib.suppress(OSError):
        for entry in [entry for entry in folder.iterdir() if entry.name != OWNER]:
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()
        shutil.rmtree(folder)


def sweep(folder: Path) -> None:
    """Remove the temporary files of `atomic_write` whose owner was killed; once a process and folder."""
    if folder in _swept:
        return
    _swept.add(folder)
    with contextlib.suppress(OSError):
        for entry in os.scandir(folder):
            if TEMPORARY.fullmatch(entry.name):
                _remove_abandoned(Path(entry.path), partial(os.unlink, entry.path))


def _claim(file: BinaryIO) -> bool:
    """Lock a new file for as long as it is open; False when a sweep has taken it for abandoned before.

    Locks end with their process, whichever number it had and on whichever machine. Where a file system has
    none, nothing is ever swept.
    """
    if fcntl is not None:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:
            return True
    return os.fstat(file.fileno()).st_nlink > 0


def _remove_abandoned(file: Path, remove: Callable[[], object]) -> None:
    """Call `remove` unless the process that has claimed `file` lives."""
    with contextlib.suppress(OSError):
        if fcntl is None:
            if os.name == "nt":
                file.rename(file)  # refused while it is open
                remove()
            return
        with file.open("rb") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            remove()


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
