"""benchmark.py train as a user runs it: same budget for all, nothing trained twice, nothing lost."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import benchmark
import train
from benchmarks.train import Config, alone_in
from tests.training_runs import ENVIRONMENT, ROOT, rows, wait_until
from utils.errors import UserError
from utils.flags import arguments, parse_flags

Arguments = tuple[str, ...]
SMALL = ("--imgsz", "64", "--batch-size", "4", "--device", "cpu", "--workers", "0")
VARIANTS = ("--variants", "yolov5n", "models/yolov5n-gsconv.yaml")
NAMES = ("yolov5n-seed0", "yolov5n-gsconv-seed0", "yolov5n-seed1", "yolov5n-gsconv-seed1")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("comparison")


@pytest.fixture(scope="module")
def command(tiny_data: Path, project: Path) -> Arguments:
    """Two variants and two seeds of one epoch; the text after them goes into the page."""
    notes = project / "notes.txt"
    notes.write_text("## Remarks\n\nAll *word for word*.\n", encoding="utf-8")
    place = ("--project", str(project), "--notes", str(notes))
    return (
        "train",
        "--data",
        str(tiny_data),
        *VARIANTS,
        *place,
        "--seeds",
        "0",
        "1",
        "--epochs",
        "1",
        *SMALL,
    )


def test_two_calls_do_not_share_a_folder(command: Arguments, project: Path, tmp_path: Path) -> None:
    with alone_in(tmp_path), pytest.raises(UserError, match="another call is at work there"):
        benchmark.main([*command, "--project", str(tmp_path.parent), "--name", tmp_path.name])
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]
    with alone_in(tmp_path):
        pass  # it is free again


@pytest.mark.parametrize("seed", [str(1 << 63), "-1"])
def test_seeds_beyond_the_range(command: Arguments, seed: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        benchmark.main([*command, "--seeds", seed])
    assert ended.value.code == 2
    assert "--seeds must lie between 0 and 9223372036854775807" in capsys.readouterr().err


@pytest.fixture(scope="module")
def trained(command: Arguments, project: Path) -> Path:
    """The folder of that comparison, whose first run was interrupted at first. Tests do not write to it."""
    config = parse_flags(Config, command[1:])
    variant, first = config.planned[0]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train.RunPictures, "training_batch", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(SystemExit):
            train.main(arguments(config.train_config(first, variant)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        benchmark.main(command)
    return project / "exp"


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_every_variant_is_trained_with_every_seed(trained: Path) -> None:
    finished = sorted((trained / name / "facts.json" for name in NAMES), key=lambda f: f.stat().st_mtime_ns)
    assert [facts.parent.name for facts in finished] == list(NAMES)  # seeds outside, variants inside
    for name in NAMES:
        assert len(rows(trained / name / "results.csv")) == 1
        assert not list((trained / name).glob("*.jpg"))
        assert torch.load(trained / name / "weights" / "last.pt", weights_only=True)["resume"]["finished"]
    assert (
        (trained / NAMES[1] / "log.txt")
        .read_text(encoding="utf-8")
        .startswith("$ python train.py --cfg models/yolov5n-gsconv.yaml --data ")
    )
    facts = json.loads((trained / NAMES[0] / "facts.json").read_text(encoding="utf-8"))
    # yolov5n of 80 classes has 1,872,157 parameters; two classes are 3 * 78 outputs fewer at 64, 128 and 256
    # channels: 234 * (448 + 3) = 105,534 (the bias is the 3)
    assert facts["parameters"] == 1_872_157 - 105_534
    assert facts["transferred"] is None
    assert facts["gflops_640"] == pytest.approx(100 * facts["gflops"])  # (640 / 64)^2


def test_an_interrupted_run_is_continued(trained: Path) -> None:
    log = (trained / NAMES[0] / "log.txt").read_text(encoding="utf-8").splitlines()
    assert log[0].startswith(f"$ python train.py --resume {trained / NAMES[0] / 'weights' / 'last.pt'}")
    assert "resuming at epoch 0, batch 1" in log


def test_page_and_table_show_the_runs(trained: Path) -> None:
    page = (trained / "results.md").read_text(encoding="utf-8")
    assert page.count("| yolov5n (baseline) | 2 |") == page.count("| yolov5n-gsconv | 2 |") == 1
    typed = page.replace(" \\\n    ", " ")
    assert "--variants yolov5n models/yolov5n-gsconv.yaml --seeds 0 1 --data squares.yaml --epochs 1" in typed
    assert "1 epoch from scratch, at 64 px in batches of 4" in page
    assert "the 4 images of the validation split with 8 labels" in page
    assert str(trained.parent) not in page and str(ROOT) not in page
    assert page.endswith("\n\n## Remarks\n\nAll *word for word*.\n")
    assert (trained / "results.png").read_bytes().startswith(b"\x89PNG")
    with (trained / "results.csv").open(encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    assert [(row["variant"], row["seed"]) for row in table] == [
        ("yolov5n", "0"), ("yolov5n", "1"), ("yolov5n-gsconv", "0"), ("yolov5n-gsconv", "1"),
    ]  # fmt: skip
    last = rows(trained / "yolov5n-seed1" / "results.csv")[0]
    assert table[1]["mAP50"] == f"{float(last['metrics/mAP_0.5']):.6g}"
    # the only epoch of the first run was not timed as a whole
    assert table[0]["seconds per epoch"] == "" and float(table[1]["seconds per epoch"]) > 0


def test_a_second_call_trains_nothing_and_writes_the_same(
    trained: Path, command: Arguments, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(trained)
    benchmark.main(command)
    assert capsys.readouterr().out.count("finished before") == 4
    assert contents(trained) == before


def test_earlier_variants_stay_in_the_table(trained: Path, command: Arguments, tmp_path: Path) -> None:
    page = tmp_path / "docs" / "page.md"
    one = (*command, "--variants", "yolov5n-gsconv", "--seeds", "1", "--output", str(page))
    benchmark.main(one)
    text = page.read_text(encoding="utf-8")
    assert "| yolov5n-gsconv (baseline) | 2 |" in text and "| yolov5n | 2 |" in text
    assert "![mAP50-95 against GFLOPs, numbered as in the table](page.png)" in text
    assert (page.parent / "page.png").is_file()
    assert "--output page.md" in text


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (("--epochs", "2"), "trained with --epochs 1, which is 2 now; .*another --name"),
        (("--imgsz", "96"), "trained with --imgsz 64, which is 96 now"),
        (
            ("--variants", "yolov5n-slimneck", "--optimizer", "Adam"),
            "with --optimizer SGD, which is Adam now",
        ),
        (("--hyp", "hyp.scratch-med.yaml"), "with hyper-parameter lrf 0.01, which is 0.1 now"),
    ],
)
def test_another_budget_is_refused(
    trained: Path, command: Arguments, flags: Arguments, complaint: str
) -> None:
    before = contents(trained)
    with pytest.raises(UserError, match=complaint):
        benchmark.main([*command, *flags])
    assert contents(trained) == before


def test_other_data_is_another_budget(trained: Path, command: Arguments, tmp_path: Path) -> None:
    copy = tmp_path / "copy.yaml"
    copy.write_bytes(Path(command[2]).read_bytes())
    with pytest.raises(UserError, match=r"trained with --data .*squares\.yaml, which is .*copy\.yaml now"):
        benchmark.main([*command, "--data", str(copy)])


def test_where_it_computes_is_no_budget(trained: Path, command: Arguments) -> None:
    before = contents(trained)
    # the same data, named in another way
    data = Path(command[2])
    benchmark.main([*command, "--workers", "1", "--data", str(data.parent / "images" / ".." / data.name)])
    changed = {path.name for path, content in contents(trained).items() if content != before.get(path)}
    assert changed == {"results.md"}  # which shows the command


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (("--variants", "yolov5n", "yolov5n-gsconf"), "yolov5n-gsconf' not found; did you mean .*gsconv"),
        (("--variants", "yolov5n", "models/yolov5n.yaml"), "share the name yolov5n; rename one"),
        (("--weights", "yolov5n.pt"), "yolov5n.pt' not found; nothing is downloaded"),
        (("--teacher", "yolov5n.pt"), "yolov5n.pt' not found; nothing is downloaded"),
        (("--hyp", "hyp.scratch-lo.yaml"), "did you mean hyp.scratch-low"),
        (("--data", "nowhere.yaml"), "nowhere.yaml"),
        (("--device", "7"), "CUDA devices"),
        (("--notes", "nowhere.txt"), "nowhere.txt"),
        (("--output", "README.md"), "README.md was not written by this command"),
    ],
)
def test_mistakes_are_refused_before_any_training(
    tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: Arguments, complaint: str
) -> None:
    (tmp_path / "README.md").write_text("# Precious\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=complaint):
        benchmark.main(["train", "--data", str(tiny_data), "--variants", "yolov5n", *SMALL, *flags])
    assert not list(tmp_path.rglob("*-seed0"))
    assert (tmp_path / "README.md").read_text(encoding="utf-8") == "# Precious\n"


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        ((), "--variants: name at least one"),
        (("--variants", "yolov5n", "--seeds", "-1"), "--seeds must lie between 0 and"),
        (("--variants", "yolov5n", "--output", "page.html"), "must end in .md"),
        (("--variants", "yolov5n", "--teacher-weight", "2"), "of no use without --teacher"),
        (("--variants", "yolov5n", "--batch-size", "-1"), "--batch-size must be at least 1, found -1"),
    ],
)
def test_wrong_flags_are_one_line_and_status_2(
    flags: Arguments, complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        benchmark.main(["train", *flags])
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and complaint in error and error.count("\n") == 1


@pytest.mark.slow
def test_a_stopped_comparison_goes_on_where_it_was(
    tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    # batches of 1, so that the signal comes in the middle of an epoch
    flags = ("train", "--data", str(tiny_data), "--variants", "yolov5n", "--project", str(tmp_path), *SMALL)
    flags = (*flags, "--batch-size", "1", "--epochs", "4")
    process = subprocess.Popen(
        [sys.executable, "benchmark.py", *flags], cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.PIPE
    )
    folder = tmp_path / "exp" / "yolov5n-seed0"
    last = folder / "weights" / "last.pt"
    wait_until(last.is_file, process)
    process.send_signal(signal.SIGTERM)
    output = process.communicate()[0].decode()
    assert process.returncode == 128 + signal.SIGTERM
    assert "yolov5n seed 0: stopped; the same command continues it" in output
    state = torch.load(last, weights_only=True)["resume"]  # written whole: the training process has ended
    assert not state["finished"] and state["batch"] > 0
    assert not (folder / "facts.json").exists() and not (tmp_path / "exp" / "results.md").exists()
    benchmark.main(flags)
    log = (folder / "log.txt").read_text(encoding="utf-8")
    assert f"resuming at epoch {state['epoch']}, batch {state['batch']}" in log
    assert [row["epoch"] for row in rows(folder / "results.csv")] == ["0", "1", "2", "3"]
    assert "| yolov5n (baseline) | 1 |" in (tmp_path / "exp" / "results.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_a_diverging_run_ends_the_comparison_with_its_error(tiny_data: Path, tmp_path: Path) -> None:
    flags = ("--data", str(tiny_data), "--project", str(tmp_path), *SMALL, "--epochs", "1")
    wild = tmp_path / "wild.yaml"
    wild.write_text("lr0: 1.0e+30\nwarmup_epochs: 0\nnominal_batch: 4\n", encoding="utf-8")
    result = subprocess.run(
        [sys.executable, "benchmark.py", "train", "--variants", "yolov5n", "--hyp", str(wild), *flags],
        cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True,
    )  # fmt: skip
    assert result.returncode == 2
    assert result.stderr.startswith("error: yolov5n seed 0: the loss became ")
    assert "log.txt" in result.stderr and result.stderr.count("\n") == 1
    # nothing was saved, so that the run may start anew with another budget
    benchmark.main(["train", "--variants", "yolov5n", *flags])
    assert (tmp_path / "exp" / "yolov5n-seed0" / "facts.json").is_file()
    assert "became" in (tmp_path / "exp" / "yolov5n-seed0" / "log.txt").read_text(encoding="utf-8")
