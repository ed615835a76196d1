"""What a network that trains begins with, of the weights of another one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from models.yolo import DetectionModel
from tests.layouts import randomise_norms
from training import inheritance
from training.config import TrainConfig
from training.inheritance import Inherited, fit_inherited
from training.lightening import losses
from training.lightening.pair import Pair
from training.setup import build_model, open_training_data
from utils.checkpoints.files import write_checkpoint
from utils.data.loader import Loader
from utils.data.spec import load_data_spec
from utils.distributed import Process
from utils.errors import UserError
from utils.files import ROOT
from utils.hyperparameters import Hyperparameters


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a network whose maps vary, as those of a trained one do; it knows other classes."""
    torch.manual_seed(0)
    model = DetectionModel("yolov5n.yaml", nc=5)
    randomise_norms(model)
    path = tmp_path_factory.mktemp("weights") / "known.pt"
    content = {"yaml": model.yaml, "names": model.names, "nc": 5, "stride": [8, 16, 32], "ema": None}
    write_checkpoint(path, {"model": model.state_dict(), **content})
    return path


def begun(data: Path, config: TrainConfig) -> tuple[DetectionModel, Inherited, Loader]:
    torch.manual_seed(0)
    hyp, spec = Hyperparameters(), load_data_spec(data)
    model, inherited = build_model(config, hyp, spec, None)
    assert inherited is not None
    config = replace(config, batch_size=4, imgsz=64, workers=0)
    return model, inherited, open_training_data(config, hyp, spec, model, Process())[0]


def state(model: DetectionModel) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def distance(model: DetectionModel, inherited: Inherited, loader: Loader) -> float:
    """The mean error of maps at the ends of stages, of the source's variance, on pictures as they are."""
    pair = Pair(model.eval(), inherited.source, inherited.report)
    loader.set_epoch(1)
    images = next(iter(loader)).images / 255
    with torch.no_grad():
        errors = pair.errors(pair.lesson(images)[0], stages=False)[0]
    model.train()
    return float(torch.stack([*errors.values()]).mean())


@pytest.mark.parametrize("variant", ["slimneck", "csppc"])
def test_another_layout_is_fitted_to_what_the_weights_made(
    tiny_data: Path, weights: Path, variant: str
) -> None:
    config = TrainConfig(weights=str(weights), cfg=f"yolov5n-{variant}.yaml")
    model, inherited, loader = begun(tiny_data, config)
    before = distance(model, inherited, loader)
    fit_inherited(inherited, model, loader, Process())
    assert distance(model, inherited, loader) < 0.6 * before
    assert model.training


def test_the_main_process_waits_for_no_other(
    tiny_data: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others are at the broadcast behind it already."""
    config = TrainConfig(weights=str(weights), cfg="yolov5n-slimneck.yaml")
    model, inherited, loader = begun(tiny_data, config)
    monkeypatch.setattr(losses, "mean_over_processes", None)  # whoever calls it fails
    before = state(model)
    fit_inherited(inherited, model, loader, Process())
    assert any(value.ne(before[name]).any() for name, value in state(model).items())


def test_frozen_layers_stay_as_they_are(tiny_data: Path, weights: Path) -> None:
    config = TrainConfig(weights=str(weights), cfg="yolov5n-slimneck.yaml", freeze=(16,))
    model, inherited, loader = begun(tiny_data, config)
    before = state(model)
    fit_inherited(inherited, model, loader, Process())
    changed = {
        int(name.split(".")[1]) for name, value in state(model).items() if value.ne(before[name]).any()
    }
    assert changed and min(changed) >= 16


@pytest.mark.parametrize("insert", [(), ("CBAM after C3",)])
def test_what_makes_the_same_maps_is_left_alone(
    tiny_data: Path, weights: Path, insert: tuple[str, ...]
) -> None:
    config = TrainConfig(weights=str(weights), cfg="yolov5n.yaml", insert=insert)
    model, inherited, loader = begun(tiny_data, config)
    before = state(model)
    fit_inherited(inherited, model, loader, Process())
    assert all(torch.equal(value, before[name]) for name, value in state(model).items())


def test_the_same_layout_looks_at_no_picture(
    tiny_data: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, inherited, loader = begun(tiny_data, TrainConfig(weights=str(weights), cfg="yolov5n.yaml"))
    monkeypatch.setattr(inheritance, "first_images", None)  # whoever calls it fails
    before = state(model)
    fit_inherited(inherited, model, loader, Process())
    assert all(torch.equal(value, before[name]) for name, value in state(model).items())


def test_other_channels_of_the_picture_are_not_fitted(tiny_data: Path, weights: Path, tmp_path: Path) -> None:
    """What the source would make of them is not known."""
    plain = ROOT / "models" / "yolov5n-slimneck.yaml"
    grey = tmp_path / "grey.yaml"
    grey.write_text(plain.read_text(encoding="utf-8") + "\nch: 1\n", encoding="utf-8")
    model, inherited, loader = begun(tiny_data, TrainConfig(weights=str(weights), cfg=str(grey)))
    before = state(model)
    fit_inherited(inherited, model, loader, Process())
    assert all(torch.equal(value, before[name]) for name, value in state(model).items())


def test_a_picture_that_cannot_be_read_is_named(tiny_data: Path, weights: Path) -> None:
    config = TrainConfig(weights=str(weights), cfg="yolov5n-slimneck.yaml")
    model, inherited, loader = begun(tiny_data, config)
    path = Path(loader.dataset.index.paths()[0])
    content = path.read_bytes()
    try:
        path.write_bytes(content[:60])
        with pytest.raises(UserError, match=f"{path.name}.*start again"):
            fit_inherited(inherited, model, loader, Process())
    finally:
        path.write_bytes(content)
