"""Hyper-parameter files."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from utils.errors import UserError
from utils.hyperparameters import BOX_LOSSES, Hyperparameters, load_hyperparameters

HYPS = Path(__file__).resolve().parents[2] / "data" / "hyps"


def test_missing_keys_keep_their_defaults(tmp_path: Path) -> None:
    (tmp_path / "hyp.yaml").write_text("lr0: 0.1\nnominal_batch: 16\n", encoding="utf-8")
    hyp = load_hyperparameters(tmp_path / "hyp.yaml")
    assert (hyp.lr0, hyp.nominal_batch, hyp.momentum, hyp.iou) == (0.1, 16, 0.937, "CIoU")


@pytest.mark.parametrize("kind", BOX_LOSSES)
def test_every_box_loss_is_a_choice(tmp_path: Path, kind: str) -> None:
    (tmp_path / "hyp.yaml").write_text(f"iou: {kind}\n", encoding="utf-8")
    hyp = load_hyperparameters(tmp_path / "hyp.yaml")
    assert hyp.iou == hyp.scaled(nl=4, nc=2, imgsz=64).iou == kind


def test_the_files_name_every_box_loss() -> None:
    for file in HYPS.glob("hyp.*.yaml"):
        line = next(
            (line for line in file.read_text(encoding="utf-8").splitlines() if line.startswith("# iou:")),
            None,
        )
        if file.name not in ("hyp.digits.yaml", "hyp.lighten.yaml"):  # the one trains little, the other not
            assert line is not None
            assert set(BOX_LOSSES) <= set(line.replace(",", " ").split())


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("lr: 0.1", "unknown hyper-parameter 'lr'; did you mean 'lr"),
        ("lr0: fast", "'lr0' must be a number, found 'fast'"),
        ("lr0: .inf", "'lr0' must be a number, found inf"),
        ("lr0: true", "must be a number"),
        ("scale: -1", "'scale' must be between 0 and 0.99, found -1"),
        ("lr0: -1", "'lr0' must be 0 or more, found -1"),
        ("mixup: 7", "'mixup' must be between 0 and 1, found 7"),
        ("nominal_batch: 0.5", "'nominal_batch' must be between 1"),
        ("lr0: 1.0e10", "yaml writes exponents with a sign"),
        ("iou: ciou", "'iou' must be one of IoU, GIoU, "),
        ("iou: ciou", "found 'ciou'; did you mean 'CIoU'?"),
        ("iou: wiou", "did you mean 'WIoU'?"),
        ("iou: focal_eiou", "did you mean 'Focal-EIoU'?"),
        ("iou: MPD-IoU", "did you mean 'MPDIoU'?"),
        (
            "iou: 3",
            "'iou' must be one of IoU, GIoU, DIoU, CIoU, EIoU, SIoU, MPDIoU, Focal-EIoU, WIoU, found 3",
        ),
        ("iou:", "found None"),
        ("iou: [CIoU]", "found ['CIoU']"),
        ("- 1", "expected a mapping of hyper-parameters, found list"),
        ("a: [", "not valid yaml"),
    ],
)
def test_bad_files_name_the_key(tmp_path: Path, text: str, complaint: str) -> None:
    (tmp_path / "hyp.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(UserError) as error:
        load_hyperparameters(tmp_path / "hyp.yaml")
    assert complaint in str(error.value)
    assert "hyp.yaml" in str(error.value)


def test_gains_scale_with_levels_classes_and_size() -> None:
    hyp = Hyperparameters(box=0.05, cls=0.5, obj=1.0).scaled(nl=4, nc=40, imgsz=320)
    # 3/4 for four levels; cls also 40/80; obj also (320/640)^2
    assert math.isclose(hyp.box, 0.0375)
    assert math.isclose(hyp.cls, 0.1875)
    assert math.isclose(hyp.obj, 0.1875)
