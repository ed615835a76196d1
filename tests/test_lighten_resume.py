"""lighten.py that is stopped, killed, resumed, or run by several processes."""

# ruff: noqa: F811 - fixtures, by the name that tests take them by

from __future__ import annotations

import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import lighten
from tests.test_lighten import arguments, broken, film, teacher  # noqa: F401 - two are fixtures
from tests.training_runs import PAIR, assert_same_run, rows, run, start, tensors, wait_until
from training.lightening import beginning, material, setup
from training.lightening.config import LightenConfig
from training.lightening.course import WEIGHT_DECAY, build_optimizer
from training.lightening.pair import Pair
from utils.checkpoints.files import read_checkpoint, write_checkpoint
from utils.distributed import Process
from utils.errors import UserError
from utils.files import ROOT
from utils.flags import parse_flags

COMMAND = (sys.executable, "lighten.py")


def stopped_after(parts: int, patch: pytest.MonkeyPatch) -> None:
    """Let SIGTERM come while the results of so many parts are saved."""

    def signalled(*args: Any) -> None:
        write(*args)
        if len(args[1]) == parts:
            os.kill(os.getpid(), signal.SIGTERM)

    write = setup.write_results
    patch.setattr(setup, "write_results", signalled)


# new blocks in the neck; a backbone of other widths, which is compared through adapters
@pytest.mark.parametrize(
    "cfg",
    [
        "yolov5n-csppc-neck.yaml",
        pytest.param("yolov5n-mobilenetv3-backbone.yaml", marks=pytest.mark.slow),
    ],
)
def test_killed_and_resumed_equals_uninterrupted(
    arguments: tuple[str, ...], cfg: str, tmp_path: Path
) -> None:
    flags = (*arguments, "--cfg", cfg, "--steps", "24")
    assert run(*flags, "--name", "whole", command=COMMAND).returncode == 0
    results = tmp_path / "broken" / "results.csv"
    last = tmp_path / "broken" / "weights" / "last.pt"
    begin, resume = (*flags, "--name", "broken"), ("--resume", str(last))
    # killed in the stages, then stopped while the whole network learns
    for words, number, parts in ((begin, signal.SIGKILL, 2), (resume, signal.SIGTERM, 5)):
        process = start(*words, command=COMMAND)
        wait_until(lambda: results.is_file() and len(rows(results)) >= parts, process)  # noqa: B023
        process.send_signal(number)
        assert process.wait(60) == (-signal.SIGKILL if number == signal.SIGKILL else 143)
    resumed = run(*resume, command=COMMAND)
    assert resumed.returncode == 0, resumed.stderr
    assert_same_run(tmp_path / "whole", tmp_path / "broken")


@pytest.mark.slow
@pytest.mark.parametrize(("amp", "rel"), [("off", 0.01), ("bf16", 0.05)])
def test_two_processes_learn_what_one_does(
    arguments: tuple[str, ...], tmp_path: Path, amp: str, rel: float, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = (*arguments, "--steps", "6", "--measures", "2", "--amp", amp)
    pair = run(*flags, "--name", "pair", command=(*PAIR[:-1], "lighten.py"))
    assert pair.returncode == 0, pair.stderr
    assert pair.stdout.count("whole 6/6") == 1
    lighten.main([*flags, "--name", "single"])
    said = capsys.readouterr().out
    for begins in ("14 convolutions that were taken over are fitted", "13 of 25 layers are the teacher's"):
        assert begins in pair.stdout and begins in said, begins
    both = [rows(tmp_path / name / "results.csv") for name in ("pair", "single")]
    for mine, its in zip(*both, strict=True):
        for column in ("stage_error", "output_error", "loss"):
            assert float(mine[column]) == pytest.approx(float(its[column]), rel=rel, abs=1e-3), column
    last = tmp_path / "pair" / "weights" / "last.pt"
    with pytest.raises(UserError, match="was trained by 2 processes"):
        lighten.main(["--resume", str(last)])
    with pytest.raises(UserError, match="--batch-size 3 must be a multiple of the 2 processes"):
        lighten.check_flags(parse_flags(LightenConfig, [*arguments, "--batch-size", "3"]), Process(0, 2))


@pytest.mark.slow
def test_a_run_of_old_goes_on_with_its_own_optimizer_and_says_so(
    arguments: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """One that was begun by AdamW alone, as all were before there was Muon."""

    def adamw(pair: Pair) -> torch.optim.AdamW:
        groups = build_optimizer(pair).param_groups
        return torch.optim.AdamW(
            [{"params": group["params"], "pace": group["pace"]} for group in groups],
            weight_decay=WEIGHT_DECAY,
        )

    flags = [*arguments, "--steps", "6", "--measures", "3"]
    with monkeypatch.context() as patch:
        patch.setattr(setup, "build_optimizer", adamw)
        patch.setattr(beginning, "RECIPE", 1)
        lighten.main([*flags, "--name", "whole"])
        stopped_after(2, patch)
        with pytest.raises(SystemExit):
            lighten.main([*flags, "--name", "stopped"])
    lighten.main(["--resume", str(tmp_path / "stopped" / "weights" / "last.pt")])
    said = capsys.readouterr().out
    assert "this run was begun with AdamW and goes on with it; new runs learn" in said
    assert "this run was begun by an earlier recipe; the rest of it follows the present one" in said
    left, right = (read_checkpoint(tmp_path / name / "weights" / "last.pt") for name in ("whole", "stopped"))
    assert all(torch.equal(tensor, right["ema"][name]) for name, tensor in left["ema"].items())


@pytest.mark.slow
def test_a_run_of_old_that_did_not_know_its_precision_keeps_to_full(
    arguments: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What "auto" was on a CPU before it could be bf16."""
    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        stopped_after(2, patch)
        lighten.main([*arguments, "--steps", "24", "--amp", "off"])
    last = tmp_path / "exp" / "weights" / "last.pt"
    content = read_checkpoint(last)
    content["train_args"]["amp"] = "auto"
    write_checkpoint(last, content)
    monkeypatch.setattr(material, "resolved", lambda amp, device: "bf16")
    lighten.main(["--resume", str(last)])
    assert read_checkpoint(last)["train_args"]["amp"] == "auto"


def test_a_signal_in_the_last_save_ends_the_run(
    arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped_after(10, monkeypatch)  # parts: all that there are
    with pytest.raises(SystemExit) as ended:
        lighten.main([*arguments, "--steps", "12"])
    assert ended.value.code == 128 + signal.SIGTERM


def test_resume_refuses_other_pictures(arguments: tuple[str, ...], tiny_data: Path, tmp_path: Path) -> None:
    source = broken(tmp_path / "photographs", 9)
    lighten.main([*arguments, "--steps", "2", "--source", str(source)])
    (source / "3.png").unlink()
    with pytest.raises(UserError, match="not those that this run was started with"):
        lighten.main(["--resume", str(tmp_path / "exp" / "weights" / "last.pt")])


def test_a_run_goes_on_without_its_video_and_by_its_yaml_as_it_was(
    arguments: tuple[str, ...], tmp_path: Path
) -> None:
    own, video = tmp_path / "own.yaml", film(tmp_path / "clip.avi", 8)
    shutil.copy(ROOT / "models" / "yolov5n-csppc-neck.yaml", own)
    flags = [*arguments, "--cfg", str(own), "--source", str(video), "--steps", "6"]
    lighten.main([*flags, "--name", "whole"])
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit):
        stopped_after(2, patch)
        lighten.main([*flags, "--name", "stopped"])
    video.unlink()
    own.write_text(own.read_text(encoding="utf-8") + "\nactivation: nn.ReLU()\n", encoding="utf-8")
    lighten.main(["--resume", str(tmp_path / "stopped" / "weights" / "last.pt")])
    whole, stopped = (tensors(tmp_path / name / "weights" / "best.pt") for name in ("whole", "stopped"))
    assert whole.keys() == stopped.keys()
    assert all(torch.equal(whole[name], stopped[name]) for name in whole)
    with_results = [rows(tmp_path / name / "results.csv") for name in ("whole", "stopped")]
    assert with_results[0] == with_results[1]
    assert read_checkpoint(tmp_path / "stopped" / "weights" / "best.pt")["yaml"].get("activation") is None


def test_a_run_that_only_gets_worse_keeps_what_the_fit_made(
    arguments: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(lighten, "agreement", lambda *_: [0.0] * 4)  # of each part; not after the fit
    stopped_after(3, monkeypatch)
    with pytest.raises(SystemExit):
        lighten.main([*arguments, "--steps", "12"])
    weights = tmp_path / "exp" / "weights"
    fitted = read_checkpoint(weights / "best.pt")
    lighten.main(["--resume", str(weights / "last.pt")])
    share = fitted["lightened"]["agreement"]["fitted"]
    assert share > 0 and f"{share:.3f} at its best, after the fit" in capsys.readouterr().out
    best, last = (read_checkpoint(weights / name)["model"] for name in ("best.pt", "last.pt"))
    assert all(torch.equal(tensor, best[name]) for name, tensor in fitted["model"].items())
    assert any(not torch.equal(tensor.half(), best[name]) for name, tensor in last.items() if tensor.ndim > 1)
