"""What a signal does to a command: it ends at a safe point, by an exception or by force; nothing is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from utils import interrupt
from utils.interrupt import Stopped, StopRequest, on_cut_off, run_child

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")


def begin(program: str, *words: str | Path) -> subprocess.Popen[str]:
    """A command made of a program that has `main`; it is ready when it has printed a line."""
    begun = (
        "import os, signal, sys, threading, time\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # whoever runs the tests may ignore it
        "from pathlib import Path\nimport utils.interrupt\nfrom utils.errors import run_command\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", f"{begun}{program}\nrun_command(main)", *map(str, words)],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    return process


WAITS = "def main():\n print('ready', flush=True)\n time.sleep(60)"
FAILS = """
def main():
    print('ready', flush=True)
    try:
        time.sleep(60)
    except BaseException as error:  # as a native library may make of it
        raise RuntimeError('unknown C++ exception') from error
"""
SWALLOWS = """
def main():
    print('ready', flush=True)
    try:
        time.sleep(60)
    except BaseException:
        pass
"""
LOSES = """
class Last:
    def __del__(self):  # what it raises is only shown
        print('ready', flush=True)
        time.sleep(60)
def main():
    Last()
    time.sleep(60)
"""


@pytest.mark.parametrize("program", [WAITS, FAILS, SWALLOWS, LOSES])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_a_command(number: signal.Signals, program: str) -> None:
    process = begin(program)
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert (process.returncode, said) == (128 + number, "interrupted\n")


# a thread that the interpreter waits for when it ends
STUCK = """
from utils.files import atomic_write, temporary_folder
utils.interrupt.PATIENCE, utils.interrupt.CLEANING = 0.5, 30  # a disk may be busy
HELD = threading.Lock()
HELD.acquire()
threading.Thread(target=HELD.acquire).start()
def main():
    with temporary_folder(Path(sys.argv[1])) as folder, atomic_write(Path(sys.argv[1], 'half')) as file:
        file.write(b'x')
        print('ready', flush=True)
        HELD.acquire()
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_what_does_not_end_is_cut_off(number: signal.Signals, tmp_path: Path) -> None:
    (tmp_path / "half").write_text("before", encoding="utf-8")
    process = begin(STUCK, tmp_path)
    start = time.monotonic()
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert "cut off" in said.splitlines()[-1]
    assert time.monotonic() - start >= 0.5  # it had its time
    assert [path.name for path in tmp_path.iterdir()] == ["half"]
    assert (tmp_path / "half").read_text(encoding="utf-8") == "before"


NATIVE = """
import ctypes
from utils.files import atomic_write, temporary_folder
utils.interrupt.PATIENCE, utils.interrupt.CLEANING = 0.5, 30  # a disk may be busy
LIBC, MUTEX = ctypes.CDLL(None), ctypes.create_string_buffer(128)
def main():
    with temporary_folder(Path(sys.argv[1])) as folder, atomic_write(Path(sys.argv[1], 'half')) as file:
        file.write(b'x')
        LIBC.pthread_mutex_lock(MUTEX)
        print('ready', flush=True)
        LIBC.pthread_mutex_lock(MUTEX)  # does not return
"""


@pytest.mark.skipif(sys.platform != "linux", reason="locks a mutex of glibc")
def test_native_code_is_cut_off(tmp_path: Path) -> None:
    process = begin(NATIVE, tmp_path)
    time.sleep(0.5)  # it is there
    process.terminate()
    _, said = process.communicate(timeout=60)
    assert (process.returncode, "cut off" in said) == (143, True)
    assert list(tmp_path.iterdir()) == []


WRITES = """
from utils.files import atomic_write
utils.interrupt.PATIENCE, utils.interrupt.CLEANING = 0.5, 30  # a disk may be busy
def hang(handle):
    while True:  # deaf to the exception of the signal
        try:
            print('ready', flush=True)
            time.sleep(60)
        except BaseException:
            pass
def main():
    os.fsync = hang
    with atomic_write(Path(sys.argv[1], 'file')) as file:
        file.write(b'whole')
"""


def test_a_file_that_is_whole_takes_its_place_although_the_disk_hangs(tmp_path: Path) -> None:
    process = begin(WRITES, tmp_path)
    process.terminate()
    process.communicate(timeout=60)
    assert process.returncode == 143
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"file": b"whole"}


SAVES = """
from utils.files import atomic_write
from utils.interrupt import on_cut_off
utils.interrupt.PATIENCE, utils.interrupt.CLEANING = 0.5, 30  # a disk may be busy
BEGUN, HELD = threading.Event(), threading.Lock()
HELD.acquire()
def late():
    BEGUN.wait()
    with atomic_write(Path(sys.argv[1], 'late')) as file:
        file.write(b'x')
        time.sleep(60)
def save():
    BEGUN.set()
    time.sleep(1)  # the other one has its chance
    with atomic_write(Path(sys.argv[1], 'saved')) as file:
        file.write(b'whole')
def main():
    threading.Thread(target=late).start()
    with on_cut_off(save):
        while True:  # deaf to the exception of the signal
            try:
                print('ready', flush=True)
                HELD.acquire()
            except BaseException:
                pass
"""


def test_a_clean_up_writes_and_nobody_else_does(tmp_path: Path) -> None:
    process = begin(SAVES, tmp_path)
    process.terminate()
    process.communicate(timeout=60)
    assert process.returncode == 143
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"saved": b"whole"}


def test_a_signal_that_is_ignored_stays_so() -> None:
    process = begin(
        "signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "def main():\n print('ready', flush=True)\n time.sleep(0.5)"
    )
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 0


def test_a_child_ends_with_its_command(tmp_path: Path) -> None:
    """Its standard input closes, whatever ended the command; a signal ends the child itself."""
    program = """
from utils.interrupt import run_child
def main():
    child = "import os, sys; print(os.getpid(), flush=True); sys.stdin.read(); open(sys.argv[1], 'w')"
    print('ready', flush=True)
    run_child([sys.executable, '-c', child, sys.argv[1]])
"""
    for number, closed in ((signal.SIGKILL, True), (signal.SIGTERM, False)):
        process = begin(program, tmp_path / number.name)
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        process.send_signal(number)
        process.wait(60)
        deadline = time.monotonic() + 60
        while Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        assert not Path(f"/proc/{pid}").exists()
        assert (tmp_path / number.name).exists() == closed
        process.communicate()


def test_run_child_gives_what_the_child_says() -> None:
    ended = run_child([sys.executable, "-c", "print(1); exit(3)"], stdout=subprocess.PIPE, text=True)
    assert (ended.returncode, ended.stdout) == (3, "1\n")


def test_a_stop_request_ends_waiting_and_nothing_else() -> None:
    def slow() -> Iterator[int]:
        yield 1
        time.sleep(60)

    with StopRequest() as stop:
        items = stop.awaiting(slow())
        assert next(items) == 1
        timer = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGTERM))
        timer.start()
        with pytest.raises(Stopped):
            next(items)
        assert stop.exit_status == 143
        os.kill(os.getpid(), signal.SIGTERM)  # a further one changes nothing
        with pytest.raises(Stopped), stop.raising():
            pytest.fail("nothing begins any more")
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(1)


def test_a_run_under_nohup_outlives_its_terminal() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopRequest() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not stop.requested
    finally:
        signal.signal(signal.SIGHUP, before)


def test_an_exception_that_got_lost_is_raised_again() -> None:
    with StopRequest() as stop, pytest.raises(Stopped), stop.raising():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(1)
        except Stopped:
            pass  # as in a `__del__`


def test_clean_ups_are_called_while_they_are_due(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[str] = []
    monkeypatch.setattr(interrupt, "_clean_ups", {})  # those of this process are needed yet
    monkeypatch.setattr(interrupt, "_cleaner", 0)
    monkeypatch.setattr(interrupt.os, "write", lambda handle, text: called.append("told"))
    with (
        on_cut_off(lambda: called.append("folder")),
        on_cut_off(lambda: 1 / 0),
        on_cut_off(lambda: called.append("child")),
    ):
        interrupt._cut_off()
    interrupt._cut_off()
    assert called == ["child", "folder", "told", "told"]
