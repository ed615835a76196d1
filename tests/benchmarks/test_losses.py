"""benchmark.py losses: how boxes converge, the whole command, its figures, and the page of losses."""

from __future__ import annotations

import json
import re
from pathlib import Path

import cv2
import pytest
import torch

import benchmark
from benchmarks import losses
from benchmarks.loss_figures import FAMILIES, priced, shifted, squeezed
from utils.errors import UserError
from utils.losses.composition import MODIFIERS, BoxLoss
from utils.losses.overlaps import BASES, PairGeometry
from utils.losses.scores import CLASS_WEIGHTS, SCORE_LOSSES

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "losses.md").read_text(encoding="utf-8")


def test_starts_are_every_combination() -> None:
    boxes, labels = losses.starts()
    assert len(boxes) == len({tuple(row) for row in torch.cat((boxes, labels), dim=1).tolist()}) == 3000
    assert torch.allclose(labels[:, 2] * labels[:, 3], torch.ones(3000))
    assert 0.2 < (PairGeometry.of(boxes, labels).iou == 0).double().mean() < 0.8


def test_a_step_by_hand() -> None:
    # a box of 1/2 x 1/2 inside a label of 1 x 1: IoU w h = 1/4, slope -1/2 by each side, none by the centre;
    # a step adds rate (2 - 1/4) / 2 = 7/8 rate to both sides
    box, label = torch.tensor([[10.0, 10.0, 0.5, 0.5]]), torch.tensor([[10.0, 10.0, 1.0, 1.0]])
    found = {descent.rate: descent.path for descent in losses.descents("IoU", box, label, steps=1)}
    for rate in losses.RATES:
        assert found[rate] == pytest.approx([1 / 4, (1 / 2 + 7 / 8 * rate) ** 2], abs=1e-5)


def test_what_is_said_of_a_descent() -> None:
    way = torch.tensor([[0.0, 0.5, 0.9], [0.3, 0.9, 0.95], [0.6, 0.95, 1.0]])
    found = losses.described("CIoU", 0.1, way, torch.tensor([True, False, False]))
    assert found.area == pytest.approx(way.mean().item())
    assert (found.iou, found.arrived) == (pytest.approx(0.85), pytest.approx(2 / 3))
    assert (found.apart, found.steps) == (0, 1)
    assert losses.described("CIoU", 0.1, way / 2, torch.tensor([True, False, False])).steps is None


def test_iou_leaves_alone_what_it_does_not_touch_and_diou_does_not() -> None:
    boxes, labels = (part[::50] for part in losses.starts())
    blind, seeing = (losses.best_descent(name, boxes, labels, steps=60) for name in ("IoU", "DIoU"))
    assert blind.apart == 0
    assert seeing.apart > 0
    assert seeing.area > blind.area


def test_the_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(losses, "SIZES", (1.0,))
    monkeypatch.setattr(losses, "ASPECTS", (0.5, 2.0))
    for name in [*FAMILIES][1:]:
        monkeypatch.delitem(FAMILIES, name)
    monkeypatch.setattr(losses.best_descent, "__defaults__", (20,))
    file = tmp_path / "losses.json"
    told = [
        "--iou",
        "CIoU",
        "IoU",
        "WIoU-v3(batches=10)",
        "--json",
        str(file),
        "--figures",
        str(tmp_path / "a"),
    ]
    benchmark.main(["losses", *told])
    printed = capsys.readouterr().out
    assert "WIoU-v3(alpha=1.9, delta=3, batches=10)" in printed
    record = json.loads(file.read_text(encoding="utf-8"))
    assert record["starts"] == 6 * 4 * 2 * 2
    assert record["command"][:3] == ["python", "benchmark.py", "losses"]
    found = losses.load(file)
    assert [d.area for d in found] == sorted((d.area for d in found), reverse=True)
    assert losses.rows(found)[1][1] in printed
    figures = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert figures == sorted(f"losses-{name}.png" for name in (*FAMILIES, "scores", "paths"))
    for path in (tmp_path / "a").iterdir():
        assert cv2.imread(str(path)).std() > 5  # something is drawn


def test_bad_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        benchmark.main(["losses", "--iou", "CIuO"])
    assert end.value.code == 2
    assert "--iou: 'CIuO', letter 1: unknown name 'CIuO'; did you mean 'CIoU'?" in capsys.readouterr().err
    (tmp_path / "a.json").write_text("[]", encoding="utf-8")
    with pytest.raises(UserError, match=r"a\.json is not what `benchmark.py losses --json` writes"):
        losses.load(tmp_path / "a.json")


def test_what_figures_show() -> None:
    x, boxes = squeezed(5)
    loss, gradient = priced("IoU", boxes)
    assert torch.allclose(loss, 1 - x, atol=1e-6)
    assert ((gradient > 0.99) & (gradient < 1.01)).all()  # by the height; the equal widths share a little
    x, boxes = shifted(9)
    loss, gradient = priced("IoU", boxes)
    assert torch.allclose(loss, 1 - ((1 - x) / (1 + x)).clamp(min=0), atol=1e-6)
    assert (gradient[x > 1] == 0).all()


def test_the_page_names_all_there_is_and_only_that() -> None:
    rows = {name for line in PAGE.splitlines() for name in re.findall(r"^\| `([\w-]+)` \|", line)}
    assert rows >= {*BASES, *MODIFIERS, *SCORE_LOSSES} - {"WIoU"}
    assert all(f"`{name}`" in PAGE or f"`{name}(" in PAGE for name in (*MODIFIERS, *CLASS_WEIGHTS))
    examples = re.findall(r"^\| `([^`]+)` \|", PAGE.partition("### Bases")[0], flags=re.MULTILINE)
    assert len(examples) >= 7
    for text in examples:
        BoxLoss(text)


def test_the_page_shows_every_figure() -> None:
    shown = re.findall(r"!\[[^]]+\]\((losses-[\w-]+\.png)\)", PAGE)
    assert sorted(shown) == sorted(f"losses-{name}.png" for name in (*FAMILIES, "scores", "paths"))
    assert all((ROOT / "docs" / name).stat().st_size < 120_000 for name in shown)


def test_the_ranking_of_the_page_has_every_base_and_modifier() -> None:
    ranked = {d.loss for d in losses.load(ROOT / "docs" / "losses.json")}
    assert ranked == {str(BoxLoss(name)) for name in losses.LOSSES}
