"""Each flag of train.py does what its help says: runs of a second or two, compared by what they leave."""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import yaml

import train
from models.cfg import load_cfg
from training.config import TrainConfig
from training.setup import image_weights, open_training_data
from training.state import TrainingState
from utils.data.batch import Batch
from utils.data.image_cache import DiskStore, ImageStore, MemoryStore
from utils.data.loader import Loader
from utils.data.spec import load_data_spec
from utils.distributed import Process
from utils.errors import UserError
from utils.hyperparameters import Hyperparameters
from utils.losses.detection import DetectionLoss

Train = Callable[..., Path]


@pytest.fixture
def trained(tiny_data: Path, tmp_path: Path) -> Train:
    """Trains with the given flags and returns the run folder."""
    hyp = tmp_path / "hyp.yaml"
    # no warm-up, and a step of the optimizer after each batch
    hyp.write_text("lr0: 0.01\nlrf: 0.1\nwarmup_epochs: 0\nnominal_batch: 4\n", encoding="utf-8")

    def run(*flags: str, name: str = "exp", data: Path = tiny_data) -> Path:
        common = ("--imgsz", "64", "--batch-size", "4", "--device", "cpu", "--workers", "0", "--noplots")
        places = ("--data", str(data), "--project", str(tmp_path), "--name", name, "--hyp", str(hyp))
        train.main([*common, *places, *flags])
        return tmp_path / name

    return run


def column(run: Path, name: str) -> list[float]:
    with (run / "results.csv").open(encoding="utf-8") as file:
        return [float(row[name]) for row in csv.DictReader(file)]


def checkpoint(run: Path, name: str = "last") -> dict[str, Any]:
    return torch.load(run / "weights" / f"{name}.pt", weights_only=True)


def optimizer_state(run: Path) -> set[str]:
    return set().union(*(state.keys() for state in checkpoint(run)["optimizer"]["state"].values()))


def test_without_flags(trained: Train) -> None:
    run = trained("--epochs", "3")
    # linear from lr0 to lr0 * lrf over 3 epochs: 0.01 * (1 - 0.9 * e / 3)
    for group in range(3):
        assert column(run, f"x/lr{group}") == pytest.approx([0.01, 0.007, 0.004])
    assert optimizer_state(run) == {"momentum_buffer"}
    assert checkpoint(run, "best")["names"] == {0: "blue", 1: "green"}
    assert min(column(run, "val/obj_loss")) > 0
    assert min(column(run, "train/cls_loss")) > 0
    assert sorted(file.name for file in (run / "weights").iterdir()) == ["best.pt", "last.pt"]


def test_cosine_adam_single_class_noval_and_save_period(trained: Train) -> None:
    flags = ("--cos-lr", "--optimizer", "Adam", "--single-cls", "--noval", "--save-period", "2")
    run = trained("--epochs", "3", *flags)
    # 0.01 * (1 - 0.9 * (1 - cos(pi * e / 3)) / 2), where the cosines are 1, 0.5 and -0.5
    assert column(run, "x/lr0") == pytest.approx([0.01, 0.00775, 0.00325])
    assert {"exp_avg", "exp_avg_sq"} <= optimizer_state(run)
    assert checkpoint(run, "best")["names"] == {0: "item"}
    assert checkpoint(run, "best")["nc"] == 1
    assert column(run, "val/obj_loss")[:2] == [0, 0]
    assert column(run, "val/obj_loss")[2] > 0
    assert {file.name for file in (run / "weights").iterdir()} == {
        "best.pt", "last.pt", "epoch0.pt", "epoch2.pt"
    }  # fmt: skip


def test_cfg_and_hyp_choose_the_model_and_its_training(trained: Train) -> None:
    flags = ("--epochs", "1", "--cfg", "yolov5n-slimneck", "--hyp", "hyp.scratch-high.yaml")
    run = trained(*flags, "--optimizer", "AdamW")
    assert "VoVGSCSP" in str(checkpoint(run, "best")["yaml"])
    assert yaml.safe_load((run / "hyp.yaml").read_text(encoding="utf-8"))["mixup"] == 0.1
    assert min(column(run, "train/obj_loss")) > 0
    assert all(group["decoupled_weight_decay"] for group in checkpoint(run)["optimizer"]["param_groups"])


def test_blocks_are_put_in_and_the_yaml_is_kept(trained: Train) -> None:
    """Of both uses of the flag."""
    flags = ("--insert", "SE after SPPF", "ECA in 2", "--insert", "SimAM before Detect")
    run = trained("--epochs", "1", *flags)
    kept = load_cfg(run / "model.yaml")
    rows = kept["backbone"] + kept["head"]
    assert [row[2] for row in rows].count("SimAM") == 3 and rows[3][2] == "ECA" and rows[11][2] == "SE"
    assert rows == checkpoint(run)["yaml"]["backbone"] + checkpoint(run)["yaml"]["head"]
    with pytest.raises(UserError, match=r"--insert 'SE after C4': yolov5n\.yaml has no layer 'C4'; did you"):
        trained("--epochs", "1", "--insert", "SE after C4")


def test_label_smoothing_changes_the_class_loss_only(trained: Train) -> None:
    flags = ("--epochs", "1", "--batch-size", "12")  # one batch: no step comes before its loss
    plain, smooth = trained(*flags, name="a"), trained(*flags, "--label-smoothing", "0.2", name="b")
    assert yaml.safe_load((plain / "hyp.yaml").read_text(encoding="utf-8"))["label_smoothing"] == 0
    assert yaml.safe_load((smooth / "hyp.yaml").read_text(encoding="utf-8"))["label_smoothing"] == 0.2
    assert column(plain, "train/obj_loss") == column(smooth, "train/obj_loss")
    assert column(plain, "train/cls_loss") != column(smooth, "train/cls_loss")


def test_iou_and_the_names_in_hyp_choose_the_losses(trained: Train, tmp_path: Path) -> None:
    hyp = tmp_path / "hyp.yaml"
    names = "obj_loss: QFL\ncls_loss: Slide\nclass_weights: inverse\niou: SIoU\n"
    hyp.write_text(hyp.read_text(encoding="utf-8") + names, encoding="utf-8")
    run = trained("--epochs", "1", "--iou", "NWD-WIoU-v3-Focaler-Inner-CIoU(ratio=0.8)")
    saved = yaml.safe_load((run / "hyp.yaml").read_text(encoding="utf-8"))
    numbers = "share=0.5, c=12.8, alpha=1.9, delta=3, batches=7000, d=0, u=0.95, ratio=0.8"
    assert saved["iou"] == f"NWD-WIoU-v3-Focaler-Inner-CIoU({numbers})"
    assert (saved["obj_loss"], saved["cls_loss"], saved["class_weights"]) == (
        "QFL(beta=2)",
        "Slide",
        "inverse",
    )
    assert checkpoint(run)["hyp"] == saved
    assert 0 < checkpoint(run)["resume"]["iou_loss"] < 1  # WIoU's mean has moved
    assert np.isfinite([column(run, f"train/{part}_loss") for part in ("box", "obj", "cls")]).all()
    last = run / "weights" / "last.pt"
    train.main(["--resume", str(last), "--noplots", "--device", "cpu", "--workers", "0"])
    assert checkpoint(run)["hyp"] == saved
    with pytest.raises(UserError, match="where iou is 'NWD-WIoU-v3-Focaler-Inner-CIoU"):
        train.main(["--resume", str(last), "--iou", "CIoU"])


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind",
    [
        "Inner-CIoU(ratio=0.75)",
        "Focaler-SIoU(d=0.0, u=0.95)",
        "Alpha-DIoU(alpha=3)",
        "NWD-Focal-EIoU(share=0.3)",
        "WIoU-v3-Inner-Shape-IoU(scale=1)",
    ],
)
def test_training_with_a_composition_stays_finite(trained: Train, kind: str) -> None:
    run = trained("--epochs", "2", "--iou", kind)
    losses = column(run, "train/box_loss") + column(run, "val/box_loss")
    assert np.isfinite(losses).all() and min(losses) > 0
    assert all(bool(tensor.isfinite().all()) for tensor in checkpoint(run, "best")["model"].values())


@pytest.fixture
def outputs(monkeypatch: pytest.MonkeyPatch) -> list[tuple[torch.dtype, int]]:
    """Dtype and image size of what the network makes of each batch, in training."""
    seen: list[tuple[torch.dtype, int]] = []

    class Spy(DetectionLoss):
        def __call__(self, predictions: Any, targets: torch.Tensor) -> Any:
            if torch.is_grad_enabled():
                seen.append((predictions[0].dtype, predictions[0].shape[2] * 8))
            return super().__call__(predictions, targets)

    monkeypatch.setattr(train, "DetectionLoss", Spy)
    return seen


def test_full_precision_and_one_size_by_default(
    trained: Train, outputs: list[tuple[torch.dtype, int]]
) -> None:
    trained("--epochs", "1")
    assert outputs == [(torch.float32, 64)] * 3


def test_bf16_multi_scale_and_image_weights(
    trained: Train, outputs: list[tuple[torch.dtype, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[np.ndarray] = []
    original = Loader.set_weights

    def spy(self: Loader, weights: np.ndarray | None) -> None:
        assert weights is not None
        drawn.append(weights)
        original(self, weights)

    monkeypatch.setattr(Loader, "set_weights", spy)
    trained("--epochs", "2", "--amp", "bf16", "--multi-scale", "--image-weights")
    assert {dtype for dtype, _ in outputs} == {torch.bfloat16}
    sizes = {size for _, size in outputs}
    assert len(sizes) > 1
    assert sizes <= {32, 64, 96}
    assert [weights.shape for weights in drawn] == [(12,), (12,)]  # anew for each epoch


def test_nofit_leaves_what_another_layout_took_over(
    trained: Train, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = str(trained("--epochs", "1", "--cfg", "yolov5n.yaml", name="known") / "weights" / "best.pt")
    begun = ("--epochs", "1", "--weights", weights, "--cfg", "yolov5n-slimneck.yaml")
    fitted = checkpoint(trained(*begun, name="fitted"))["model"]
    assert "are fitted to the maps that they read now" in capsys.readouterr().out
    plain = checkpoint(trained(*begun, "--nofit", name="plain"))["model"]
    assert "are fitted" not in capsys.readouterr().out
    # behind the first layer that is another one
    name = "model.17.cv3.conv.weight"
    assert not torch.allclose(fitted[name], plain[name], atol=1e-3)


def test_noautoanchor_keeps_the_anchors(trained: Train, tmp_path: Path) -> None:
    data = write_images(tmp_path / "strips", (64, 64), "0.9 0.05")  # 58 x 3: 5.8 times an anchor of 10 x 13
    kept = checkpoint(trained("--epochs", "1", "--noautoanchor", name="a", data=data), "best")["anchors"]
    assert np.round(kept)[0].tolist() == [[10, 13], [16, 30], [33, 23]]
    found = checkpoint(trained("--epochs", "1", name="b", data=data), "best")["anchors"]
    ratios = np.array(found).reshape(9, 2)
    assert (ratios[:, 0] / ratios[:, 1]).max() > 8  # at least one is as flat as the labels


def test_nosave_writes_the_last_checkpoint_once_and_the_best_in_time(
    trained: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[int] = []
    original = TrainingState.save

    def spy(self: TrainingState, path: Path) -> None:
        written.append(self.epoch)
        original(self, path)

    monkeypatch.setattr(TrainingState, "save", spy)
    scores = iter([0.5, 0.4, 0.3])
    monkeypatch.setattr(train, "fitness", lambda *_: next(scores))
    run = trained("--epochs", "3", "--nosave", name="a")
    assert written == [3]
    assert checkpoint(run, "best")["best_fitness"] == 0.5
    best, last = checkpoint(run, "best")["model"], checkpoint(run)["ema"]
    assert not torch.equal(best["model.0.conv.weight"], last["model.0.conv.weight"].half())
    monkeypatch.setattr(train, "fitness", lambda *_: 0.0)
    run = trained("--epochs", "2", name="b")
    assert written == [3, 1, 2]
    assert checkpoint(run, "best")["best_fitness"] == 0


def test_noval_has_no_patience_to_lose(trained: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train, "fitness", lambda *_: 0.0)
    run = trained("--epochs", "4", "--noval", "--patience", "1")
    assert column(run, "epoch") == [0, 1, 2, 3]
    assert checkpoint(run, "best")["best_fitness"] == 0


# --- flags of the data ---


def write_images(root: Path, shape: tuple[int, int], box: str) -> Path:
    """A data yaml of 8 noise images of (height, width) with two boxes of "w h" each, also for validation."""
    rng = np.random.default_rng(0)
    for kind in ("images", "labels"):
        (root / kind).mkdir(parents=True)
    for number in range(8):
        cv2.imwrite(str(root / "images" / f"{number}.jpg"), rng.integers(0, 255, (*shape, 3), np.uint8))
        (root / "labels" / f"{number}.txt").write_text(
            f"0 0.5 0.4 {box}\n1 0.5 0.6 {box}\n", encoding="utf-8"
        )
    spec = root / "data.yaml"
    spec.write_text(f"path: {root}\ntrain: images\nval: images\nnames: [a, b]\n", encoding="utf-8")
    return spec


def opened(data: Path, **settings: Any) -> Loader:
    """The training data of a run, as train.py opens them for a model whose images are multiples of 32."""
    config = TrainConfig(data=str(data), imgsz=64, batch_size=4, workers=0, **settings)
    model: Any = SimpleNamespace(multiple=32, channels=3)
    spec = load_data_spec(config.data)
    return open_training_data(config, Hyperparameters(), spec, model, Process())[0]


def batches(loader: Loader) -> list[Batch]:
    loader.set_epoch(0)
    return list(loader)


def test_rect_and_quad_shape_the_batches(tmp_path: Path) -> None:
    data = write_images(tmp_path, (100, 220), "0.3 0.3")  # 64 px wide it is 29.1 high: 32 with the stride
    assert [tuple(batch.images.shape) for batch in batches(opened(data))] == [(4, 3, 64, 64)] * 2
    assert [tuple(batch.images.shape) for batch in batches(opened(data, rect=True))] == [(4, 3, 32, 64)] * 2
    assert [tuple(batch.images.shape) for batch in batches(opened(data, quad=True))] == [(1, 3, 128, 128)] * 2


def test_caches_change_no_batch(tmp_path: Path) -> None:
    data = write_images(tmp_path, (100, 220), "0.3 0.3")  # large enough to be decoded at half the size
    plain = opened(data)
    assert type(plain.dataset.store) is ImageStore
    for cache, kind in (("ram", MemoryStore), ("disk", DiskStore), ("disk", DiskStore)):
        cached = opened(data, cache=cache)
        assert type(cached.dataset.store) is kind
        for one, other in zip(batches(plain), batches(cached), strict=True):
            assert torch.equal(one.images, other.images)
            assert torch.equal(one.targets, other.targets)
    assert len(list((tmp_path / "images").glob("*.npy"))) >= 8  # the second time they were read from here


def test_weights_of_a_run_come_from_its_labels(tiny_data: Path) -> None:
    index = opened(tiny_data).dataset.index
    assert image_weights(index, [0.0, 0.0]) == pytest.approx(
        [1 / 12] * 12
    )  # one square of each class everywhere
    halved = dataclasses.replace(index, boxes=index.boxes.copy())
    halved.boxes[:2, 0] = 0  # two of class 0 in the first image: 13 and 11 labels
    weights = image_weights(halved, [0.0, 0.0])
    assert weights[0] / weights[1] == pytest.approx((2 / 13) / (1 / 13 + 1 / 11))
