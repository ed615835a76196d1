"""Hyper-parameter files."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from training.hyp_yaml import NAMES, load_hyperparameters
from utils.errors import UserError
from utils.hyperparameters import Hyperparameters

HYPS = Path(__file__).resolve().parents[2] / "data" / "hyps"


def test_missing_keys_keep_their_defaults(tmp_path: Path) -> None:
    (tmp_path / "hyp.yaml").write_text("lr0: 0.1\nnominal_batch: 16\n", encoding="utf-8")
    hyp = load_hyperparameters(tmp_path / "hyp.yaml")
    assert (hyp.lr0, hyp.nominal_batch, hyp.momentum, hyp.iou) == (0.1, 16, 0.937, "CIoU")


@pytest.mark.parametrize(
    ("key", "text", "kept"),
    [
        ("iou", "SIoU", "SIoU"),
        ("iou", "Focal-EIoU", "Focal-EIoU(gamma=0.5)"),
        ("iou", "Focaler-SIoU(d=0.0, u=0.95)", "Focaler-SIoU(d=0, u=0.95)"),
        ("obj_loss", "VFL", "VFL(alpha=0.75, gamma=2)"),
        ("cls_loss", "Slide", "Slide"),
        ("class_weights", "effective", "effective(beta=0.999)"),
    ],
)
def test_names_of_losses_are_kept_with_every_number(tmp_path: Path, key: str, text: str, kept: str) -> None:
    (tmp_path / "hyp.yaml").write_text(f"{key}: {text}\n", encoding="utf-8")
    hyp = load_hyperparameters(tmp_path / "hyp.yaml").scaled(nl=4, nc=2, imgsz=64)
    assert getattr(hyp, key) == kept
    (tmp_path / "hyp.yaml").write_text(f"{key}: {kept}\n", encoding="utf-8")
    assert getattr(load_hyperparameters(tmp_path / "hyp.yaml"), key) == kept
    assert str(NAMES[key](getattr(Hyperparameters(), key))) == getattr(Hyperparameters(), key)


def test_the_files_name_what_losses_can_be(tmp_path: Path) -> None:
    for file in HYPS.glob("hyp.*.yaml"):
        if file.name not in ("hyp.digits.yaml", "hyp.lighten.yaml"):  # the one trains little, the other not
            lines = file.read_text(encoding="utf-8").splitlines()
            shown = [line[2:] for line in lines if line.startswith(tuple(f"# {key}: " for key in NAMES))]
            assert [line.partition(":")[0] for line in shown] == list(NAMES)
            (tmp_path / "hyp.yaml").write_text("\n".join(shown), encoding="utf-8")
            assert load_hyperparameters(tmp_path / "hyp.yaml") == Hyperparameters()


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
        ("iou: ciou", "hyper-parameter 'iou': 'ciou', letter 1: unknown name 'ciou'; did you mean 'CIoU'?"),
        ("iou: wiou", "did you mean 'WIoU'?"),
        ("iou: Focal-EIuO", "letter 7: unknown name 'EIuO'; did you mean 'EIoU'?"),
        ("iou: Inner-CIoU(ratio=9)", "ratio must lie between 0.1 and 3, found 9"),
        ("obj_loss: CIoU", "'obj_loss': 'CIoU', letter 1: unknown name 'CIoU'; there are BCE, Focal, QFL"),
        ("cls_loss: 1.5", "'cls_loss': expected a name such as BCE, Focal, QFL, VFL, found 1.5"),
        ("class_weights: true", "'class_weights': expected a name such as none, inverse, "),
        ("iou: MPD-IoU", "did you mean 'MPDIoU'?"),
        ("iou: 3", "'iou': expected a name such as IoU, GIoU, DIoU, CIoU, found 3"),
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
