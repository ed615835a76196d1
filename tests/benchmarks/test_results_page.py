"""The page and its statistics, from runs written by hand: every number is computed in the comments."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import pandas as pd
import pytest
import yaml

import benchmark
from benchmarks.outcome import Comparison, epoch_seconds, outcome_of
from benchmarks.pages import bare, render, shell
from benchmarks.plots import apart
from benchmarks.runs import Run
from benchmarks.train import CSV_COLUMNS, Config
from training.config import TrainConfig
from training.run_folder import write_results
from utils.errors import UserError
from utils.files import ROOT
from utils.hyperparameters import Hyperparameters

DOCS = ROOT / "docs"
FACTS: dict[str, Any] = {
    "parameters": 1_000_000, "gflops": 1.0, "gflops_640": 4.0, "transferred": 0.9, "torch": "2.14.0",
    "device": "cpu", "threads": 2,
}  # fmt: skip


def write_run(
    folder: Path, variant: str, seed: int, map50_95: float, data: Path, facts: dict[str, Any]
) -> Run:
    """A finished run of two epochs, the first of which is the best, with an mAP50 of 0.3 more."""
    run = Run(variant, seed, folder / f"{variant}-seed{seed}")
    run.folder.mkdir(parents=True)
    settings = TrainConfig(
        cfg=variant, data=str(data), epochs=2, imgsz=320, seed=seed, patience=0, noplots=True
    )
    for name, values in (("opt.yaml", asdict(settings)), ("hyp.yaml", asdict(Hyperparameters()))):
        (run.folder / name).write_text(yaml.safe_dump(values), encoding="utf-8")
    # P 0.7, R 0.6; a better mAP50 in the second epoch does not make up for its mAP50-95
    best = [0.7, 0.6, map50_95 + 0.3, map50_95]
    last = [0.9, 0.9, map50_95 + 0.4, map50_95 - 0.1]
    write_results(run.files.results, [[0, 1, 1, 1, *best, *[1] * 6], [1, 1, 1, 1, *last, *[1] * 6]])
    run.log.write_text("epoch 0/1  box 0.1  10.0 s\nepoch 1/1  box 0.1  14.0 s\n", encoding="utf-8")
    run.facts.write_text(json.dumps(facts), encoding="utf-8")
    return run


SCORES = {
    # mean 0.52, sd sqrt((0.02^2 + 0 + 0.02^2) / 2) = 0.02
    "yolov5n": (0.50, 0.52, 0.54),
    # mean 0.42, sd sqrt((0.02^2 + 0.02^2) / 1) = 0.02828
    "yolov5n-gsconv": (0.40, 0.44),
    "yolov5n-slimneck": (0.50,),
    "v5lite-e": (0.70,),
}
# pooled sd sqrt((2 * 0.02^2 + 1 * 0.02828^2) / (2 + 1)) = sqrt(0.0016 / 3) = 0.023094, 3 degrees of freedom
POOLED = math.sqrt(0.0016 / 3)
STUDENT = 3.182446  # 97.5 % quantile of t with 3 degrees of freedom, from tables


@pytest.fixture
def page(tiny_data: Path, tmp_path: Path) -> str:
    """What the command writes about these runs, which are all finished."""
    for variant, scores in SCORES.items():
        facts = FACTS | {"gflops": 0.5, "parameters": 10} if "lite" in variant else FACTS
        for seed, score in enumerate(scores):
            write_run(tmp_path / "exp", variant, seed, score, tiny_data, facts)
    flags = ("--epochs", "2", "--imgsz", "320", "--project", str(tmp_path), "--workers", "0")
    benchmark.main(["train", "--data", str(tiny_data), "--variants", "yolov5n", *flags])
    return (tmp_path / "exp" / "results.md").read_text(encoding="utf-8")


def test_table_is_sorted_and_marked(page: str) -> None:
    lines = [line for line in page.splitlines() if line.startswith("| ")]
    assert lines[0].endswith(
        "| mAP50 | difference | parameters | GFLOPs at 320 | GFLOPs at 640 | taken over | s/epoch |"
    )
    most, rest = "1,000,000 | 1.000 | **4.000**", "90.0% | 12.0 |"  # the median of 10 and 14 s
    least = "**10** | **0.500** | **4.000**"
    assert lines[2:] == [
        # 0.70 - 0.52 = 0.18, and 0.18 / 0.023094 = 7.8
        f"| 1 | v5lite-e | 1 | **0.700 ± –** | **1.000 ± –** | +0.180 (+7.8 sd) | {least} | {rest}",
        f"| 2 | yolov5n (baseline) | 3 | 0.520 ± 0.020 | 0.820 ± 0.020 | – | {most} | {rest}",
        f"| 3 | yolov5n-slimneck | 1 | 0.500 ± – | 0.800 ± – | -0.020 (-0.9 sd) | {most} | {rest}",
        f"| 4 | yolov5n-gsconv | 2 | 0.420 ± 0.028 | 0.720 ± 0.028 | -0.100 (-4.3 sd) | {most} | {rest}",
    ]


def test_remarks_tell_noise_from_differences(page: str) -> None:
    assert (
        "2 of 4 variants have several seeds; the sd of their mAP50-95 runs from 0.0200 (yolov5n) to 0.0283 "
        "(yolov5n-gsconv), pooled 0.0231, with 3 degrees of freedom."
    ) in page
    # two runs: 3.182446 * 0.023094 * sqrt(1 + 1) = 0.1039
    assert "two runs differ by more than 0.1039 one time in twenty" in page
    # against three runs: 0.073496 * sqrt(1 + 1/3) = 0.0849, and 0.073496 * sqrt(1/2 + 1/3) = 0.0671
    assert (
        "Compared with yolov5n (3 seeds), a mean counts as different beyond 0.0849 (1 seed) and 0.0671 "
        "(2 seeds). Above yolov5n: v5lite-e. Below yolov5n: yolov5n-gsconv. Not told apart from yolov5n: "
        "yolov5n-slimneck. Of 3"
    ) in page
    assert "Of 3 equal variants, about 0.15 would be called different all the same." in page  # 3 * 0.05
    assert "the 4 images of the validation split with 8 labels" in page
    assert "Nothing follows for COCO" in page


def test_commands_lead_to_these_runs(page: str) -> None:
    block = page.split("```")[1].replace(" \\\n    ", " ").strip().splitlines()
    common = "--data squares.yaml --epochs 2 --imgsz 320 --workers 0 --project"
    assert [line.split(common)[0] for line in block] == [
        "python benchmark.py train --variants v5lite-e yolov5n-slimneck --seeds 0 ",
        "python benchmark.py train --variants yolov5n-gsconv --seeds 0 1 ",
        "python benchmark.py train --variants yolov5n --seeds 0 1 2 ",
    ]


def compared(scores: Mapping[str, Sequence[float]], baseline: str) -> Comparison:
    """Of runs with these mAP50-95 over the seeds, and as much mAP50."""
    runs = [
        {"variant": name, "seed": seed, "cfg": name, "map50": s, "map50_95": s, "seconds": [], **FACTS}
        for name, found in scores.items()
        for seed, s in enumerate(found)
    ]
    return Comparison.of(pd.DataFrame(runs), baseline)


def test_pooled_spread_and_limits() -> None:
    comparison = compared(SCORES, "yolov5n")
    assert [row.variant for row in comparison.variants] == [
        "v5lite-e", "yolov5n", "yolov5n-slimneck", "yolov5n-gsconv"
    ]  # fmt: skip
    assert (comparison.sd, comparison.freedom) == (pytest.approx(POOLED), 3)
    assert comparison.limit(1, 4) == pytest.approx(STUDENT * POOLED * math.sqrt(1.25), rel=1e-6)
    assert comparison.baseline.seeds == (0, 1, 2) and math.isnan(comparison.baseline.seconds)
    alone = compared({"a": [0.25], "b": [0.5]}, "a")
    assert math.isnan(alone.sd) and math.isnan(alone.baseline.map50_95_sd) and alone.freedom == 0


def test_identical_seeds_have_no_spread_to_divide_by() -> None:
    comparison = compared({"a": [0.0, 0.0], "b": [0.5]}, "a")
    assert (comparison.sd, comparison.freedom) == (0.0, 1)
    page = render("results.md.j2", comparison=comparison, **SETTING)
    assert "| 1 | b | 1 | **0.500 ± –** | **0.500 ± –** | +0.500 |" in page


SETTING: dict[str, Any] = {
    "config": Config(
        data="bccd.yaml", variants=("yolov5n",), weights="yolov5n.pt", epochs=20, imgsz=320, name="bccd"
    ),
    "machines": [SimpleNamespace(torch="2.14.1+cu130", device="cpu", threads=1)],
    "commands": [["python"]], "plot": "results-bccd.png", "images": 87, "labels": 1137,
    "notes": (DOCS / "results-bccd-notes.md").read_text(encoding="utf-8"),
}  # fmt: skip


def test_the_page_of_the_project_follows_from_its_table() -> None:
    """All but the commands and the seconds per epoch, whose median is over the epochs of all runs."""
    runs = pd.read_csv(DOCS / "results-bccd.csv")
    runs = runs.rename(columns={title: name for name, title in CSV_COLUMNS.items()})
    runs["cfg"], runs["seconds"] = runs["variant"], runs["seconds"].map(lambda seconds: [seconds])
    made = render("results.md.j2", comparison=Comparison.of(runs, "yolov5n"), **SETTING)
    written = (DOCS / "results-bccd.md").read_text(encoding="utf-8")

    def comparable(page: str) -> list[str]:
        lines = page.split("\n```\n")[-1].splitlines()
        return [line.rpartition("% |")[0] if line.startswith("| ") else line for line in lines]

    assert comparable(made) == comparable(written)
    assert len(comparable(made)) > 50


def test_one_seed_says_nothing_about_noise(tiny_data: Path, tmp_path: Path) -> None:
    write_run(tmp_path / "exp", "yolov5n", 0, 0.5, tiny_data, FACTS)
    flags = ("--epochs", "2", "--imgsz", "320", "--project", str(tmp_path))
    benchmark.main(["train", "--data", str(tiny_data), "--variants", "yolov5n", *flags])
    page = (tmp_path / "exp" / "results.md").read_text(encoding="utf-8")
    assert "no difference in the table can be told from chance" in page


def test_an_outcome_is_that_of_the_best_epoch(tiny_data: Path, tmp_path: Path) -> None:
    run = write_run(tmp_path, "a", 3, 0.5, tiny_data, FACTS)
    # fitness 0.1 * 0.8 + 0.9 * 0.5 = 0.53 in epoch 0, 0.1 * 0.9 + 0.9 * 0.4 = 0.45 in epoch 1
    assert outcome_of(run) == {
        "variant": "a", "seed": 3, "cfg": "a", "epoch": 0, "precision": 0.7, "recall": 0.6, "map50": 0.8,
        "map50_95": 0.5, "seconds": [10.0, 14.0], **FACTS,
    }  # fmt: skip
    write_results(run.files.results, [[0, *[0.5] * 13], [1, *[0.5] * 13]])
    assert outcome_of(run)["epoch"] == 0  # the first of equals
    run.log.unlink()
    assert outcome_of(run)["seconds"] == []


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("facts.json", "{}"),
        ("facts.json", '{"parameters": '),
        ("results.csv", "epoch\n0\n"),
        ("results.csv", ""),
        ("opt.yaml", "- 1\n"),
    ],
)
def test_damaged_files_are_named(tiny_data: Path, tmp_path: Path, name: str, text: str) -> None:
    run = write_run(tmp_path, "a", 0, 0.5, tiny_data, FACTS)
    (run.folder / name).write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=rf"{name} is missing or damaged; remove the run's folder"):
        outcome_of(run)


def test_seconds_are_those_of_whole_epochs() -> None:
    log = """$ python train.py
epoch 0/3  box 0.1 obj 0.1 cls 0.1  9.0 s
epoch 1/3  box 0.1 obj 0.1 cls 0.1  P 0.1 R 0.1 mAP50 0.100 mAP50-95 0.100  11.5 s
$ python train.py --resume last.pt
resuming at epoch 2, batch 5
epoch 2/3  box 0.1 obj 0.1 cls 0.1  2.0 s
epoch 3/3  box 0.1 obj 0.1 cls 0.1  10.0 s
$ python train.py --resume last.pt
resuming at epoch 3, batch 0
epoch 3/3  box 0.1 obj 0.1 cls 0.1  12.0 s
"""
    # epoch 2 was interrupted, epoch 3 trained again as a whole
    assert epoch_seconds(log) == [9.0, 11.5, 12.0]
    assert statistics.median(epoch_seconds(log)) == 11.5


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        ("/home/me/bccd.yaml", "bccd.yaml"),
        ("~/weights/yolov5n.pt", "yolov5n.pt"),
        (r"C:\data\bccd.yaml", "bccd.yaml"),
        ("data/bccd.yaml", "data/bccd.yaml"),
        ("yolov5n", "yolov5n"),
        ("", ""),
    ],
)
def test_pages_name_no_folders_of_a_machine(path: str, shown: str) -> None:
    assert bare(path) == shown


def test_long_commands_are_continued() -> None:
    words = ["python", "--variants", *[f"yolov5n-variant{n}" for n in range(8)], "--name", "a b"]
    assert shell(words).splitlines() == [
        "python --variants yolov5n-variant0 yolov5n-variant1 yolov5n-variant2 yolov5n-variant3 \\",
        "    yolov5n-variant4 yolov5n-variant5 yolov5n-variant6 yolov5n-variant7 \\",
        "    --name 'a b'",  # a flag stays with its value
    ]
    assert shell(["python", "train.py"]) == "python train.py"


def test_names_do_not_overlap() -> None:
    moved = apart([0.5, 0.49, 0.1, 0.51], gap=0.05)
    assert sorted(moved) == pytest.approx([0.1, 0.41, 0.46, 0.51])
    assert [moved[index] for index in (2, 1, 0, 3)] == sorted(moved)  # in the old order
    assert sorted(apart([0.01] * 3, gap=0.05)) == pytest.approx([0.0, 0.05, 0.1])  # not below the axis
    assert max(apart([1.2, 0.5], gap=0.05)) == 1.0


def test_plot_is_as_wide_as_a_page(page: str, tmp_path: Path) -> None:
    image = cv2.imread(str(tmp_path / "exp" / "results.png"))
    assert image is not None and 900 <= image.shape[1] <= 1000
