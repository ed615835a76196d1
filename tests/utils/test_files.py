"""Paths and atomic writes."""

from __future__ import annotations

import errno
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from utils import files
from utils.errors import UserError
from utils.files import (
    ROOT,
    atomic_write,
    expand,
    find_file,
    from_root,
    increment_path,
    native_path,
    safe_name,
    temporary_folder,
    write_text,
)


def test_runs_are_numbered(tmp_path: Path) -> None:
    names = [increment_path(tmp_path / "exp").name for _ in range(3)]
    assert names == ["exp", "exp2", "exp3"]
    assert increment_path(tmp_path / "exp", exist_ok=True).name == "exp"


def test_folders_above_a_run_are_made(tmp_path: Path) -> None:
    for exist_ok in (False, True, True):
        run = increment_path(tmp_path / str(exist_ok) / "runs" / "exp", exist_ok)
        assert run == tmp_path / str(exist_ok) / "runs" / "exp" and run.is_dir()


def test_a_run_folder_below_a_file_is_a_users_error(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("", encoding="utf-8")
    with pytest.raises(UserError, match="cannot create run folder"):
        increment_path(tmp_path / "taken" / "exp")


def test_atomic_write_replaces_only_when_all_went_well(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(RuntimeError), atomic_write(path) as file:
        file.write(b"half of the n")
        raise RuntimeError
    assert path.read_bytes() == b"old"
    with atomic_write(path) as file:
        file.write(b"new")
    assert path.read_bytes() == b"new"
    write_text(path, "newer: ü\n")
    assert path.read_bytes() == "newer: ü\n".encode()
    assert [p.name for p in tmp_path.iterdir()] == ["file"]  # no temporary file is left


WRITER = """
import sys, time
from pathlib import Path
from utils.files import atomic_write, temporary_folder
place = Path(sys.argv[1])
with temporary_folder(place, ".export-") as folder, atomic_write(place / "file") as file:
    file.write(b"half")
    print("ready", flush=True)
    sys.stdin.readline()
"""


@contextmanager
def writer(place: Path) -> Iterator[subprocess.Popen[str]]:
    """A process in the middle of its work, with a temporary file and a temporary folder."""
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(place)], cwd=ROOT, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    with process:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        yield process


@pytest.mark.skipif(sys.platform == "win32", reason="kills by a signal")
def test_what_a_kill_left_goes_at_the_next_start_and_what_is_in_use_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = [tmp_path / ".export-thesis", tmp_path / ".notes.lean5-tmp", tmp_path / ".export-0123456789abcdef"]
    mine[0].mkdir()
    mine[1].touch()
    mine[2].mkdir()  # of a program that says nowhere whose it is
    with writer(tmp_path) as killed:
        killed.send_signal(signal.SIGKILL)
    left = set(tmp_path.iterdir()) - set(mine)
    assert len(left) == 2
    with writer(tmp_path) as alive:
        used = set(tmp_path.iterdir()) - {*mine, *left}
        assert len(used) == 2
        assert not left & set(tmp_path.iterdir())  # it has swept
        monkeypatch.setattr(files, "_swept", set())
        with atomic_write(tmp_path / "other") as file, temporary_folder(tmp_path, ".export-"):
            file.write(b"whole")
        assert used < set(tmp_path.iterdir())
        alive.communicate("\n")
    assert set(tmp_path.iterdir()) == {*mine, tmp_path / "file", tmp_path / "other"}
    assert (tmp_path / "file").read_bytes() == b"half"  # all that it wrote, and no more


def test_a_folder_that_cannot_be_removed_now_is_removed_another_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def busy(path: Path, **_: object) -> None:
        raise OSError(16, "Device or resource busy", str(path))

    with monkeypatch.context() as patch, temporary_folder(tmp_path, "x-") as folder:
        (folder / "mounted").mkdir()
        patch.setattr(files.shutil, "rmtree", busy)
    assert folder.exists()
    with temporary_folder(tmp_path, "x-"):
        assert not folder.exists()


def test_a_run_removes_what_killed_runs_of_its_name_left(tmp_path: Path) -> None:
    left = [tmp_path / place / ".last.pt.01234567.lean5-tmp" for place in ("exp/weights", "exp2", "other")]
    for file in left:
        file.parent.mkdir(parents=True)
        file.touch()
    assert increment_path(tmp_path / "exp") == tmp_path / "exp3"
    assert [file.exists() for file in left] == [False, False, True]


def test_a_sweep_that_is_quicker_than_its_owner_costs_a_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim, given = files._claim, [False, True, False, True]  # as if swept between the opening and the lock
    monkeypatch.setattr(files, "_claim", lambda file: given.pop(0) and claim(file))
    with atomic_write(tmp_path / "file") as file:
        file.write(b"whole")
    with temporary_folder(tmp_path, "x-") as folder:
        assert folder.is_dir() and not given
    assert (tmp_path / "file").read_bytes() == b"whole"


def test_atomic_write_leaves_a_file_alone_that_has_its_temporary_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("secrets.token_hex", lambda count: "0" * 2 * count)
    monkeypatch.setattr(files, "_swept", {tmp_path})  # the other one came after the sweep
    other = tmp_path / ".file.00000000.lean5-tmp"
    other.write_bytes(b"of another process")
    with pytest.raises(FileExistsError):
        write_text(tmp_path / "file", "ours")
    assert other.read_bytes() == b"of another process"
    assert [p.name for p in tmp_path.iterdir()] == [other.name]


@pytest.mark.skipif(os.name == "nt", reason="no umask")
def test_atomic_write_gives_the_rights_that_any_new_file_gets(tmp_path: Path) -> None:
    (tmp_path / "plain").write_bytes(b"")
    write_text(tmp_path / "atomic", "")
    assert (tmp_path / "atomic").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_an_error_while_writing_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with pytest.raises(OSError) as full, atomic_write(path):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert full.value.filename == str(path)
    with pytest.raises(OSError) as other, atomic_write(path):
        raise OSError(errno.EACCES, "Permission denied", "elsewhere")
    assert other.value.filename == "elsewhere"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("durable", [True, False])
def test_what_is_durable_is_flushed_before_and_after_it_is_renamed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, durable: bool
) -> None:
    path, synced = tmp_path / "file", []
    opened = {}
    real_open = os.open

    def note_folder(name: str | Path, *rest: int) -> int:
        opened[handle := real_open(name, *rest)] = Path(name)
        return handle

    monkeypatch.setattr("os.open", note_folder)

    def note_state(handle: int) -> None:
        folder = opened.get(handle)
        synced.append((folder, path.exists(), None if folder else os.fstat(handle).st_size))

    monkeypatch.setattr("os.fsync", note_state)
    with atomic_write(path, durable=durable) as file:
        file.write(b"new")
    assert path.read_bytes() == b"new"
    if os.name != "nt":  # folders cannot be opened there
        assert synced == ([(None, False, 3), (tmp_path, True, None)] if durable else [])
        for handle in opened:
            with pytest.raises(OSError):  # it was closed
                os.fstat(handle)


def test_defaults_are_found_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert from_root("data/images") == ROOT / "data" / "images"
    assert from_root("nowhere/at/all") == Path("nowhere/at/all")
    assert from_root(str(tmp_path / "absolute")) == tmp_path / "absolute"
    (tmp_path / "data" / "images").mkdir(parents=True)
    assert from_root("data/images") == Path("data/images")  # what lies here comes first
    assert (ROOT / "utils" / "files.py").is_file()


def test_find_file_looks_here_first_and_then_in_each_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b" / "folder.yaml").mkdir(parents=True)
    for name in ("b/x.yaml", "b/x", "a/x.yaml"):
        (tmp_path / name).write_text("", encoding="utf-8")
    monkeypatch.chdir(tmp_path / "a")
    folders = [tmp_path / "b", tmp_path / "missing"]
    assert find_file("x.yaml", folders) == Path("x.yaml")
    assert find_file("x", folders, ("", ".yaml")) == Path("x.yaml")
    assert find_file("x", folders) == tmp_path / "b" / "x"
    assert find_file(tmp_path / "a" / "x.yaml") == tmp_path / "a" / "x.yaml"
    with pytest.raises(UserError) as error:
        find_file("folder.yam", folders)  # a folder is proposed to nobody
    assert str(error.value) == "file 'folder.yam' not found"


def test_find_file_proposes_near_names(tmp_path: Path) -> None:
    (tmp_path / "yolov5n.yaml").write_text("", encoding="utf-8")
    assert find_file("yolov5n", [tmp_path], ("", ".yaml")) == tmp_path / "yolov5n.yaml"
    with pytest.raises(UserError, match=r"'yolo5n.yaml' not found; did you mean yolov5n.yaml\?"):
        find_file("yolo5n.yaml", [tmp_path])
    for ending in ("csv", "onnx", "pt", "yaml"):
        (tmp_path / f"best.{ending}").write_text("", encoding="utf-8")
    for wrong, right in (("bset.pt", "best.pt"), ("best.onxn", "best.csv"), ("bset.onnx", "best.onnx")):
        with pytest.raises(UserError, match=rf"did you mean {re.escape(right)}\?"):
            find_file(wrong, [tmp_path])
    with pytest.raises(UserError, match=r"'mydata\.yaml' not found$"):  # endings alone are not alike
        find_file("mydata.yaml", [tmp_path])


def test_a_home_of_nobody_is_a_users_error() -> None:
    assert expand("~/x") == Path.home() / "x"
    with pytest.raises(UserError, match=r"path '~no-such-user/x'") as caught:
        expand("~no-such-user/x")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("tie/bow", "tie_bow"),
        ("a\0b\nc\x1bd\u2028e", "a_b_c_d_e"),
        (" .. ", "_"),
        ("é" * 60, "é" * 50),  # two bytes each
        ("x" + "é" * 60, "x" + "é" * 49),  # no half of a character
        ("lone \ud800", "lone _"),
    ],
)
def test_safe_names(text: str, name: str) -> None:
    assert safe_name(text) == name


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_fork_that_ends_leaves_its_parents_files(tmp_path: Path) -> None:
    """As a child of `multiprocessing` does it: what its parent holds is dropped there, also generators."""
    program = """
import os, sys
from contextlib import ExitStack
from pathlib import Path
from utils.files import atomic_write, temporary_folder
place, stack = Path(sys.argv[1]), ExitStack()
folder = stack.enter_context(temporary_folder(place))
stack.enter_context(atomic_write(place / "file")).write(b"whole")
if (child := os.fork()) == 0:
    del stack
    os._exit(0)
os.waitpid(child, 0)
assert folder.is_dir()
stack.close()
"""
    ended = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], cwd=ROOT, capture_output=True, encoding="utf-8"
    )
    assert ended.returncode == 0, ended.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_link_in_a_temporary_folder_goes_without_what_it_leads_to(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "a").touch()
    with temporary_folder(tmp_path) as folder:
        (folder / "link").symlink_to(outside, target_is_directory=True)
        (folder / "inner").mkdir()
    assert not folder.exists() and (outside / "a").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="file names are text there")
@pytest.mark.parametrize("name", ["a.avi", "\u732b \U0001f600.avi", "\udcff b.avi", "\udcff\udcfe.\udcfd"])
def test_paths_for_native_libraries_are_text(name: str, tmp_path: Path) -> None:
    """Whether the file is there already or is yet to be made."""
    for path in (tmp_path / name, tmp_path / "\udcff" / name):
        path.parent.mkdir(exist_ok=True)
        with native_path(path) as given:
            assert given.encode() and (given == str(path)) == ("\udcff" not in str(path))
            Path(given).write_bytes(b"new")
            with native_path(path) as again:
                assert Path(again).read_bytes() == b"new"
        assert path.read_bytes() == b"new" and not Path(given).is_symlink()
