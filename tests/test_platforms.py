"""Other systems, by construction: nothing needs POSIX to be imported, and workers can start by `spawn`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_architecture import MODULES
from tests.training_runs import ENVIRONMENT, ROOT

WITHOUT_POSIX = """
import importlib, os, signal, sys
import concurrent.futures.process, multiprocessing, subprocess, tempfile  # Python's own do what it takes
import cv2, filelock, matplotlib, numpy, pandas, PIL.Image, sklearn, torch, tqdm, yaml
for module in ("fcntl", "grp", "posix", "pty", "pwd", "resource", "readline", "syslog", "termios", "tty"):
    sys.modules[module] = None
for name in (
    "SIGALRM SIGCHLD SIGCONT SIGHUP SIGKILL SIGPIPE SIGQUIT SIGSTOP SIGTSTP SIGUSR1 SIGUSR2 alarm pause "
    "pthread_sigmask setitimer sigwait"
).split():
    delattr(signal, name)
for name in (
    "chown fork forkpty geteuid getgid getloadavg getpgid getpriority getuid killpg mkfifo nice openpty "
    "register_at_fork sched_getaffinity setpgid setsid statvfs sync sysconf uname wait wait3 wait4 waitid"
).split():
    delattr(os, name)
for name in sys.argv[1:]:
    importlib.import_module(name)
"""

SPAWNING = """
import multiprocessing, os, sys
multiprocessing.get_all_start_methods = lambda: ["spawn"]
os.cpu_count = lambda: 2
if __name__ == "__main__":
    import train, val, detect, utils.data.index, utils.data.workers
    utils.data.index.PROCESSES_FROM = 1
    data, project = sys.argv[1:]
    small = ["--imgsz", "64", "--workers", "2", "--project", project]
    assert utils.data.workers.context().get_start_method() == "spawn"
    epoch = ["--epochs", "1", "--cache", "ram", "--batch-size", "4"]
    train.main(["--data", data, "--name", "train", *epoch, *small])
    weights = ["--weights", f"{project}/train/weights/best.pt"]
    val.main(["--data", data, *weights, "--name", "val", *small])
    detect.main([*weights, "--source", str(data.replace("squares.yaml", "images/val")), "--imgsz", "64",
                 "--project", project, "--name", "detect"])
"""


@pytest.mark.skipif(sys.platform == "win32", reason="takes away what is not there")
def test_every_module_can_be_imported_without_posix() -> None:
    command = [sys.executable, "-c", WITHOUT_POSIX, *MODULES]
    ended = subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr[-2000:]


def test_main_paths_with_spawned_workers(tiny_data: Path, tmp_path: Path) -> None:
    """As on Windows: scanning, training, validation and detection, with the results of no workers."""
    script = tmp_path / "script.py"
    script.write_text(SPAWNING, encoding="utf-8")
    command = [sys.executable, str(script), str(tiny_data), str(tmp_path / "runs")]
    environment = {**ENVIRONMENT, "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr[-2000:]
    flags = ["--epochs", "1", "--batch-size", "4", "--imgsz", "64", "--workers", "0", "--name", "alone"]
    alone = [
        sys.executable,
        "train.py",
        "--data",
        str(tiny_data),
        *flags,
        "--project",
        str(tmp_path / "runs"),
    ]
    subprocess.run(alone, cwd=ROOT, env=ENVIRONMENT, check=True, capture_output=True)
    runs = tmp_path / "runs"
    assert (runs / "train" / "results.csv").read_bytes() == (runs / "alone" / "results.csv").read_bytes()
    assert (runs / "val" / "metrics.json").is_file()
    assert len(list((runs / "detect").glob("*.png"))) == 4
