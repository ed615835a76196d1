"""Several processes and nodes that train together: stopped, killed, started again."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.training_runs import (
    ENVIRONMENT,
    PAIR,
    ROOT,
    SMALL,
    TWO,
    assert_same_run,
    assert_same_running_mean,
    hyp_with,
    rows,
    start,
    torchrun,
    wait_until,
)
from utils.distributed import OWN_STORE

Arguments = tuple[str, ...]


@pytest.fixture
def arguments(tiny_data: Path, tmp_path: Path) -> Arguments:
    return ("--data", str(tiny_data), "--project", str(tmp_path), *SMALL)


@pytest.mark.slow
@pytest.mark.parametrize(("to_all", "iou"), [(True, "WIoU"), (False, "CIoU")])
def test_two_processes_stopped_in_the_middle_of_an_epoch_resume_exactly(
    arguments: Arguments, tmp_path: Path, to_all: bool, iou: str
) -> None:
    # 6 batches an epoch
    flags = (*arguments, "--batch-size", "2", "--epochs", "6", "--hyp", str(hyp_with(iou, tmp_path)))
    whole = torchrun(*flags, "--name", "whole")
    assert whole.returncode == 0, whole.stderr
    process = start(*flags, "--name", "stopped", command=PAIR)
    last = tmp_path / "stopped" / "weights" / "last.pt"
    wait_until(last.is_file, process)
    if to_all:  # torchrun passes it on
        process.terminate()
    else:
        os.kill(children(process)[-1], signal.SIGTERM)
    assert process.wait() != 0
    state = torch.load(last, weights_only=True)["resume"]
    assert state["epoch"] < 6
    assert state["batch"] > 0
    resumed = torchrun("--resume", str(last))
    assert resumed.returncode == 0, resumed.stderr
    assert_same_run(tmp_path / "whole", tmp_path / "stopped")
    if iou == "WIoU":
        # a resume hands the main process's mean to both: had they differed, the runs would have, too
        assert_same_running_mean(tmp_path / "whole", tmp_path / "stopped")


@pytest.mark.slow
def test_the_main_process_fits_weights_of_another_layout_for_all(
    arguments: Arguments, tmp_path: Path
) -> None:
    known = torchrun(*arguments, "--batch-size", "2", "--epochs", "1", "--cfg", "yolov5n.yaml")
    assert known.returncode == 0, known.stderr
    weights = ("--weights", str(tmp_path / "exp" / "weights" / "best.pt"), "--cfg", "yolov5n-slimneck.yaml")
    done = torchrun(*arguments, *weights, "--batch-size", "2", "--epochs", "1", "--name", "fitted")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("are fitted to the maps that they read now") == 1


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_the_death_of_a_process_ends_the_other(arguments: Arguments, tmp_path: Path, rank: int) -> None:
    flags = (*PAIR, *arguments, "--batch-size", "2", "--epochs", "500")
    process = subprocess.Popen(flags, cwd=ROOT, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT)
    while not (tmp_path / "exp" / "weights" / "last.pt").is_file():
        assert process.poll() is None
        time.sleep(0.05)
    os.kill(children(process)[rank - 2], signal.SIGKILL)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "error: another process of this run has ended" in said


def children(process: subprocess.Popen[Any]) -> list[int]:
    path = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    return [int(child) for child in path.read_text(encoding="utf-8").split()]


@pytest.fixture
def own_store(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ENVIRONMENT, OWN_STORE, "1")


@pytest.mark.slow
@pytest.mark.usefixtures("own_store")
@pytest.mark.skipif(sys.platform != "linux", reason="finds processes in /proc")
def test_torchrun_starts_a_run_again_that_lost_a_process(arguments: Arguments, tmp_path: Path) -> None:
    flags = (*arguments, "--batch-size", "2", "--epochs", "6")
    assert torchrun(*flags, "--name", "whole").returncode == 0
    elastic = (*PAIR[:-1], "--max-restarts", "1", PAIR[-1])
    process = start(*flags, "--name", "killed", command=elastic)
    results = tmp_path / "killed" / "results.csv"
    wait_until(lambda: results.is_file() and len(rows(results)) >= 2, process)
    os.kill(children(process)[-1], signal.SIGKILL)
    assert process.wait() == 0
    assert_same_run(tmp_path / "whole", tmp_path / "killed")
    assert {path.name for path in tmp_path.iterdir() if path.is_dir()} == {"whole", "killed"}


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.mark.slow
@pytest.mark.usefixtures("own_store")
@pytest.mark.skipif(sys.platform != "linux", reason="finds processes in /proc")
def test_two_nodes_of_which_one_is_lost_and_comes_back(arguments: Arguments, tmp_path: Path) -> None:
    """Two agents of torchrun that meet at an address, a process each; the second dies with its process."""
    flags = (*arguments, "--batch-size", "2", "--epochs", "6")
    assert torchrun(*flags, "--name", "whole").returncode == 0
    meeting = ("--rdzv-backend", "c10d", "--rdzv-endpoint", f"127.0.0.1:{free_port()}", "--rdzv-id", "job")
    node = (*TWO[:3], "--nnodes", "2", "--nproc_per_node", "1", "--max-restarts", "3", *meeting, "train.py")
    first = start(*flags, "--name", "nodes", command=node)
    time.sleep(2)  # whoever comes first keeps the address
    second = start(*flags, "--name", "nodes", command=node)
    try:
        results = tmp_path / "nodes" / "results.csv"
        wait_until(lambda: results.is_file() and len(rows(results)) >= 2, first)
        lost = children(second)
        second.kill()
        for process in lost:
            os.kill(process, signal.SIGKILL)
        second.wait()
        second = start(*flags, "--name", "nodes", command=node)
        assert (first.wait(240), second.wait(240)) == (0, 0)
    finally:
        for agent in (first, second):
            agent.terminate()
    assert_same_run(tmp_path / "whole", tmp_path / "nodes")
    assert {path.name for path in tmp_path.iterdir() if path.is_dir()} == {"whole", "nodes"}
