"""Each service by its own package: MLflow with its file store, TensorBoard, and the others without a network.

What a server would say to Weights & Biases, Comet and ClearML is not tested: there is none here.
"""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from tests.training_runs import ENVIRONMENT, ROOT
from training.loggers.logger import About, Logger
from training.loggers.mlflow import MLflow
from training.loggers.opening import SERVICES
from training.loggers.tensorboard import TensorBoard

# a run of two parts, as train.py tells of it; what each service calls it is printed
TWO_PARTS = """
import json, sys
from pathlib import Path
from training.loggers.opening import SERVICES
from training.loggers.logger import About
name, folder = sys.argv[1], Path(sys.argv[2])
opened = SERVICES[name].open
first = opened(About(folder, "cells", "exp"))
first.settings({"epochs": 2, "hyp.lr0": 0.01, "freeze": (0,), "teacher": None})
first.scalars({"train/box_loss": 0.5, "metrics/mAP_0.5:0.95": 0.25}, 0)
first.picture(folder / "labels.jpg", 0)
first.close("stopped")
second = opened(About(folder, "cells", "exp", known=first.key, epoch=1))
second.scalars({"train/box_loss": 0.4, "metrics/mAP_0.5:0.95": 0.375}, 1)
second.final({"best/mAP_0.5:0.95": 0.375, "best/epoch": 1})
second.close("finished")
print(json.dumps([first.key, second.key]), file=sys.stderr)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run folder with a picture: a red upper half, a black lower one."""
    run = tmp_path / "exp"
    run.mkdir()
    picture = np.zeros((32, 48, 3), np.uint8)
    picture[:16, :, 2] = 255
    cv2.imwrite(str(run / "labels.jpg"), picture)
    return run


def told(open_: Callable[[About], Logger], folder: Path) -> list[str]:
    """Two parts of a run; returns what the service calls each."""
    first = open_(About(folder, "cells", "exp"))
    first.settings({"epochs": 2, "hyp.lr0": 0.01, "freeze": (0,), "teacher": None})
    first.scalars({"train/box_loss": 0.5, "metrics/mAP_0.5:0.95": 0.25}, 0)
    first.picture(folder / "labels.jpg", 0)
    first.close("stopped")
    second = open_(About(folder, "cells", "exp", known=first.key, epoch=1))
    second.scalars({"train/box_loss": 0.4, "metrics/mAP_0.5:0.95": 0.375, "val/box_loss": float("nan")}, 1)
    second.final({"best/mAP_0.5:0.95": 0.375, "best/epoch": 1})
    second.close("finished")
    return [first.key, second.key]


def test_tensorboard(folder: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert told(TensorBoard, folder) == ["", ""]
    events = EventAccumulator(str(folder)).Reload()
    curve = [(point.step, point.value) for point in events.Scalars("metrics/mAP_0.5:0.95")]
    assert curve == [(0, 0.25), (1, 0.375)]
    image = events.Images("labels")[0]
    pixels = cv2.imdecode(np.frombuffer(image.encoded_image_string, np.uint8), cv2.IMREAD_COLOR)
    assert pixels is not None and pixels.shape == (32, 48, 3)
    assert pixels[4, 24, 2] > 240 and pixels[28].max() < 16  # red above, black below
    texts = [events.Tensors(f"{name}/text_summary")[0] for name in ("settings", "best weights")]
    assert b"| hyp.lr0 | 0.01 |" in texts[0].tensor_proto.string_val[0]
    assert b"| best/mAP_0.5:0.95 | 0.375 |" in texts[1].tensor_proto.string_val[0]


def test_mlflow_with_its_file_store(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow: Any = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (folder.parent / "store").as_uri())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME", raising=False)
    first, second = told(MLflow, folder)
    assert first == second != ""
    client = mlflow.MlflowClient()
    run = client.get_run(first)
    assert run.info.status == "FINISHED" and run.info.run_name == "exp"
    assert client.get_experiment(run.info.experiment_id).name == "cells"
    params = {"epochs": "2", "hyp.lr0": "0.01", "freeze": "(0,)", "teacher": "None"}
    assert run.data.params == params
    curve = client.get_metric_history(first, "metrics/mAP_0.5-0.95")
    assert [(point.step, point.value) for point in curve] == [(0, 0.25), (1, 0.375)]
    assert run.data.metrics["best/mAP_0.5-0.95"] == 0.375 and "val/box_loss" not in run.data.metrics
    assert [file.path for file in client.list_artifacts(first, "pictures")] == ["pictures/labels.jpg"]


def offline(name: str, folder: Path, **environment: str) -> tuple[list[str], str]:
    """A run of two parts in a process of its own; what the service calls them, and what was said."""
    pytest.importorskip(SERVICES[name].module)
    known = {k: v for k, v in ENVIRONMENT.items() if not k.startswith(("WANDB", "COMET", "CLEARML"))}
    command = [sys.executable, "-c", TWO_PARTS, name, str(folder)]
    ended = subprocess.run(
        command, cwd=ROOT, env=known | environment, capture_output=True, text=True, timeout=300
    )
    assert ended.returncode == 0, ended.stderr[-2000:]
    lines = [line for line in ended.stderr.splitlines() if line.startswith('["')]
    return json.loads(lines[-1]), ended.stdout + ended.stderr


@pytest.mark.slow
def test_wandb_offline(folder: Path) -> None:
    keys, _ = offline("wandb", folder, WANDB_MODE="offline")
    assert keys[0] == keys[1]
    parts = sorted((folder / "wandb").glob("offline-run-*"))
    assert len(parts) == 2 and all(part.name.endswith(keys[0]) for part in parts)
    assert all(next(part.glob("*.wandb")).stat().st_size > 500 for part in parts)
    assert len(list(folder.glob("wandb/offline-run-*/files/media/images/pictures/labels_*.jpg"))) == 1


@pytest.mark.slow
def test_comet_offline(folder: Path) -> None:
    keys, _ = offline("comet", folder, COMET_START_ONLINE="0", COMET_API_KEY="k" * 25)
    assert keys[0] == keys[1]
    texts = ""
    for file in folder.glob("*.zip"):
        with zipfile.ZipFile(file) as archive:
            assert file.name.startswith(keys[0])
            texts += archive.read("messages.json").decode()
    assert texts.count("metrics/mAP_0.5:0.95") == 2 and "0.375" in texts and "hyp.lr0" in texts


@pytest.mark.slow
def test_clearml_offline(folder: Path) -> None:
    environment = {"CLEARML_OFFLINE_MODE": "1", "CLEARML_CACHE_DIR": str(folder.parent / "cache")}
    keys, said = offline("clearml", folder, **environment)
    assert f"ClearML cannot go on with {keys[0]}, which was kept offline" in said
    told_ = [(folder.parent / "cache" / "offline" / key / "metrics.jsonl").read_text("utf-8") for key in keys]
    assert '"mAP_0.5:0.95"' in told_[0] and "0.25" in told_[0] and "0.375" in told_[1]
