"""Training from any format is training from YOLO text of the same boxes: equal results, to the last digit."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import train
from tests.training_runs import assert_same_run
from tests.utils.data.formats.instances import FORMATS, text

FLAGS = (
    "--cfg", "yolov5n.yaml", "--imgsz", "64", "--epochs", "1", "--batch-size", "2", "--workers", "0",
    "--device", "cpu", "--noplots", "--seed", "7",
)  # fmt: skip


def train_on(kind: str, root: Path) -> Path:
    """Train an epoch on the two pictures of a format, by a yaml that names their source; returns the run."""
    source = FORMATS[kind][0](root / kind / "set")
    yaml = text(root / kind / "data.yaml", f"train: {source}\nval: {source}\nnames: [cat, dog]\n")
    train.main(
        ["--data", str(yaml), *FLAGS, "--project", str(root / "runs"), "--name", kind.replace(" ", "-")]
    )
    return root / "runs" / kind.replace(" ", "-")


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run on YOLO text."""
    return train_on("yolo", tmp_path_factory.mktemp("reference"))


# of Open Images' table the picture without a box is not a part
OTHERS = [kind for kind in FORMATS if kind not in ("yolo", "open images")]


@pytest.mark.parametrize(
    "kind", [kind if kind == "coco" else pytest.param(kind, marks=pytest.mark.slow) for kind in OTHERS]
)
def test_results_do_not_depend_on_the_format(kind: str, reference: Path, tmp_path: Path) -> None:
    run = train_on(kind, tmp_path)
    assert_same_run(run, reference)
    shutil.rmtree(run)
