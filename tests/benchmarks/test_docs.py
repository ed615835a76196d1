"""benchmark.py docs: what is stale is found and written, in a copy of the files with few models."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import benchmark
from benchmarks import docs
from benchmarks.lightening import kept
from utils.checkpoints.files import write_checkpoint
from utils.errors import UserError
from utils.files import ROOT

CLAIMS = """
- id: yolov5n
  source: a table
  recount: {model: yolov5n.yaml}
  numbers: [{quantity: parameters, published: 1.9 M}]
  why: its own table
"""
KEPT = """variant,data,imgsz,pictures,steps,seed,recipe,start,end,ceiling,teacher,student
yolov5n-gsconv,bccd,320,205,600,0,3,0.0100,0.6500,0.9150,0.5000,0.4800
yolov5n-gsconv,bccd,320,205,600,1,3,0.0100,0.6600,0.9150,0.5000,0.5000
yolov5n-rfb,coco256,640,2000,300,0,3,0.1000,0.6000,0.9600,0.3000,0.2000
"""
MODELS = ("yolov5n", "yolov5n-gsconv", "yolov5s-gsconv", "yolov5n-rfb", "v5lite-e", "yolov5m")


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The documentation with few models, up to date; the table of the ten official models is left out."""
    (tmp_path / "models").mkdir()
    for name in MODELS:
        shutil.copy(ROOT / "models" / f"{name}.yaml", tmp_path / "models")
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    shutil.copy(ROOT / "README.md", tmp_path)
    (tmp_path / "docs" / "lighten.csv").write_text(KEPT, encoding="utf-8")
    (tmp_path / "published.yaml").write_text(CLAIMS, encoding="utf-8")
    monkeypatch.setattr(docs, "ROOT", tmp_path)
    monkeypatch.delitem(docs.TABLES, "official models")
    monkeypatch.setattr(docs, "QUOTED", docs.QUOTED[:1])
    assert run() == 0
    return tmp_path


def run(*flags: str) -> int:
    """The exit status of the command."""
    try:
        benchmark.main(["docs", *flags])
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_writing_twice_changes_nothing(tree: Path) -> None:
    before = contents(tree)
    assert run() == run("--check") == 0
    assert contents(tree) == before


def test_the_table_of_models(tree: Path) -> None:
    _, table, _ = docs.split((tree / "README.md").read_text(encoding="utf-8"), "models", "README.md")
    assert table.splitlines()[2:] == [
        "| `yolov5n` | – | 1,872,157 | 4.468 | – | – | – |",
        # the mean of 0.48 / 0.5 and 0.5 / 0.5
        "| `yolov5n-gsconv` | the 4 neck convolutions → GSConv | 1,764,317 | 4.332 | 98.0% | 6,794,429 "
        "| 15.872 |",
        "| `yolov5n-rfb` | RFB in place of SPPF | 2,028,701 | 4.593 | – | – | – |",
        "| `v5lite-e` | ShuffleNetV2 backbone, narrow neck | 783,781 | 0.705 at 320 px | – | – | – |",
    ]


@pytest.mark.parametrize(
    ("file", "old", "new", "said"),
    [
        ("README.md", "1,764,317 | 4.332", "1,764,318 | 4.332", ": table models: - | `yolov5n-gsconv` |"),
        ("README.md", "GSConv | 1,", "GSConw | 1,", ": table models: - | `yolov5n-gsconv` |"),
        (
            "docs/counting.md",
            "# 15.754 GFLOPs",
            "# 15.755 GFLOPs",
            ": table six numbers: - python bench",
        ),
        ("docs/export.md", "| `best.onnx` | yes", "| `best.onnx` | –", ": table formats: - | `onnx` |"),
        ("docs/lighten.md", "| 96.0% |", "| 97.0% |", ": table kept: - | `yolov5n-gsconv` | bccd, 320 |"),
        ("docs/ledger.md", "1,872,157", "1,872,158", ": - | yolov5n | parameters | 1.9 M | 1,872,158"),
    ],
)
def test_a_changed_number_is_found(
    tree: Path, capsys: pytest.CaptureFixture[str], file: str, old: str, new: str, said: str
) -> None:
    path = tree / file
    right = path.read_text(encoding="utf-8")
    path.write_text(right.replace(old, new, 1), encoding="utf-8")
    before = contents(tree)
    capsys.readouterr()
    assert run("--check") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(file + said) and line.endswith("; python benchmark.py docs writes it")
    assert contents(tree) == before and before[path] != right.encode()
    assert run() == 0 and path.read_text(encoding="utf-8") == right


def test_a_new_variant_comes_into_the_table(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copy(ROOT / "models" / "yolov5n-dsconv.yaml", tree / "models")
    assert run("--check") == 1
    assert "README.md: table models: + | `yolov5n-dsconv` |" in capsys.readouterr().err
    assert run() == 0
    rows = (tree / "README.md").read_text(encoding="utf-8").splitlines()
    assert (
        "| `yolov5n-dsconv` | every 3x3 stride-2 Conv but layer 0 → depthwise-separable DSConv | 1,"
        in "".join(rows)
    )
    (tree / "models" / "yolov5n-dsconv.yaml").write_text("# No word of what it changes.\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"models/yolov5n-dsconv.yaml: begin it with '# Change: …'"):
        run()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("<!-- table: models -->\n", ""),
        ("<!-- table: models -->", "<!-- table: modles -->"),
        ("<!-- end -->", ""),
        ("<!-- table: models -->\n", "<!-- table: models -->\n<!-- table: models -->\n"),
        ("<!-- end -->", "<!-- end -->\n<!-- table: models -->\n<!-- end -->"),
        ("<!-- end -->", "<!-- table: other -->\n<!-- end -->"),
    ],
)
def test_broken_marks_are_one_error_and_nothing_is_written(tree: Path, old: str, new: str) -> None:
    path = tree / "README.md"
    path.write_text(path.read_text(encoding="utf-8").replace(old, new, 1), encoding="utf-8")
    before = contents(tree)
    for flags in ((), ("--check",)):
        with pytest.raises(
            UserError, match=r"^README\.md: the table must stand once between the lines '<!-- table: m"
        ):
            run(*flags)
    assert contents(tree) == before


def test_a_foreign_ledger_is_not_replaced(tree: Path) -> None:
    (tree / "docs" / "ledger.md").write_text("mine\n", encoding="utf-8")
    with pytest.raises(UserError, match="was not written by this command"):
        run()


@pytest.mark.slow
def test_the_documentation_of_the_project_is_up_to_date() -> None:
    assert run("--check") == 0


def finished_run(folder: Path, *, variant: str = "yolov5n-gsconv", seed: int = 0, **known: Any) -> Path:
    """What a run of lighten.py leaves, as far as it is noted."""
    (folder / "weights").mkdir(parents=True)
    facts = {"steps": 600, "end": 0.6, "true_map": 0.3, "teacher": 0.4, "recipe": 4} | known
    student = {"name": variant, "start": 0.1, "end": facts["end"], "true_map": facts["true_map"]}
    page = {
        "variants": [{"true_map": facts["teacher"]}, student],
        "data": "bccd.yaml",
        "imgsz": 320,
        "pictures": 205,
        "ceiling": 0.9,
    }
    (folder / "lighten.json").write_text(json.dumps(page), encoding="utf-8")
    course = "step,output_error,agreement/mAP_0.5:0.95\n200,0,0.3\n400,9,0.6\n"
    (folder / "results.csv").write_text(course, encoding="utf-8")
    content = {"model": {"a": torch.ones(1)}, "yaml": {}, "nc": 1, "names": {0: "a"}}
    lightened = {"steps": facts["steps"], "recipe": facts["recipe"]}
    write_checkpoint(
        folder / "weights" / "best.pt", content | {"lightened": lightened, "train_args": {"seed": seed}}
    )
    return folder


def test_runs_are_noted(tree: Path, tmp_path: Path) -> None:
    folder = finished_run(tmp_path / "0", seed=2)
    assert run("--lightened", str(folder)) == 0
    noted = (tree / "docs" / "lighten.csv").read_text(encoding="utf-8").splitlines()
    # what there was of gsconv is of an earlier recipe
    assert noted[1:] == [
        "yolov5n-gsconv,bccd,320,205,600,2,4,0.1000,0.6000,0.9000,0.4000,0.3000", KEPT.splitlines()[-1],
    ]  # fmt: skip
    page = (tree / "docs" / "lighten.md").read_text(encoding="utf-8")
    assert "| 75.0% |" in page and "share kept: too few runs." in page
    assert (tree / "docs" / "lighten-bccd.png").stat().st_size > 5000
    finished_run(tmp_path / "1", true_map=None)
    finished_run(tmp_path / "3", teacher=0.0)
    before = contents(tree)
    for name, said in (
        ("1", "had no --data"),
        ("3", "a mAP50-95 of 0"),
        ("2", "not the folder of a finished run"),
    ):
        with pytest.raises(UserError, match=said):
            docs.run(docs.Config(lightened=(str(tmp_path / name),)))
    assert contents(tree) == before


def test_rows_give_way_to_the_same_setting_and_a_later_recipe() -> None:
    row = dict(zip(kept.COLUMNS, ("a", "bccd", "320", "205", "600", "0", "4", *"12345"), strict=True))
    assert kept.replaces(row, row | {"end": "9"}) and kept.replaces(row, row | {"recipe": "0", "steps": "9"})
    others = (
        {"seed": "1"},
        {"steps": "300"},
        {"recipe": "5"},
        {"variant": "b"},
        {"data": "c", "recipe": "1"},
    )
    assert not any(kept.replaces(row, row | other) for other in others)


def test_the_longest_runs_by_the_latest_recipe_tell_what_is_kept(tree: Path, tmp_path: Path) -> None:
    facts = ((300, 0.1, 4), (600, 0.3, 4), (600, 0.36, 4), (300, 0.12, 4), (900, 0.14, 3))
    made = [
        finished_run(tmp_path / str(number), seed=number, steps=steps, true_map=true_map, recipe=recipe)
        for number, (steps, true_map, recipe) in enumerate(facts)
    ]
    kept.note([str(folder) for folder in made], tree)
    assert kept.shares(tree) == {"yolov5n-gsconv": pytest.approx((0.75 + 0.9) / 2)}
    assert kept.ranks(tree).endswith("too few runs.")  # one network, for longer and for less long


def test_networks_that_learnt_as_long_are_ranked(tree: Path, tmp_path: Path) -> None:
    ends = (
        (600, 0.1, 0.1),
        (600, 0.5, 0.3),
        (600, 0.6, 0.36),
        (600, 0.4, 0.12),
        (600, 0.3, 0.14),
        (300, 0.1, 0.4),
    )
    made = [
        finished_run(tmp_path / str(number), variant=f"v{number}", steps=steps, end=end, true_map=true_map)
        for number, (steps, end, true_map) in enumerate(ends)
    ]
    kept.note([str(folder) for folder in made], tree)
    # ranks of agreement 1 4 5 3 2, of shares 1 4 5 2 3: 1 - 6 * 2 / (5 * 24)
    assert kept.ranks(tree).endswith("share kept: 0.90 over 5 runs of 600 steps on bccd by recipe 4.")


def test_courses_are_named_by_what_differs() -> None:
    def course(variant: str, px: int, steps: int, end: float) -> tuple[kept.Row, kept.Course]:
        row = {
            "variant": variant,
            "imgsz": str(px),
            "pictures": "205",
            "steps": str(steps),
            "seed": "0",
            "recipe": "4",
        }
        return row, [(0.0, 0.0), (float(steps), end)]

    alike = [course("a", 320, 600, 0.5), course("b", 320, 600, 0.6)]
    assert [*kept.named(alike)] == ["b", "a"]
    assert [*kept.named([*alike, course("a", 640, 300, 0.7)])] == [
        "a, 640 px, 300 steps", "b, 320 px, 600 steps", "a, 320 px, 600 steps",
    ]  # fmt: skip
