"""Putting a run together: its model, frozen layers, batch, state, and the chances of its images."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from models.yolo import DetectionModel
from training.config import TrainConfig
from training.optim import Schedule
from training.setup import (
    build_model,
    build_state,
    freeze_layers,
    image_weights,
    label_sizes,
    open_training_data,
    total_batch_size,
)
from utils.checkpoints.files import write_checkpoint
from utils.data.loader import Loader
from utils.data.spec import load_data_spec
from utils.distributed import Process
from utils.errors import UserError
from utils.hyperparameters import Hyperparameters

CPU = torch.device("cpu")


@pytest.mark.parametrize("verbose", [False, True])
def test_transfer_is_reported_and_by_layer_on_request(
    tiny_data: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    verbose: bool,
) -> None:
    caplog.set_level(logging.INFO, "lean5")
    source = DetectionModel("yolov5n.yaml", nc=2)
    weights = tmp_path / "yolov5n.pt"
    description = {"ema": None, "yaml": source.yaml, "names": source.names, "nc": 2, "stride": [8, 16, 32]}
    written = {"date": "2026-01-02T03:04:05", "best_fitness": 0.5}
    write_checkpoint(weights, {"model": source.state_dict(), **description, **written})
    config = TrainConfig(weights=str(weights), cfg="yolov5n-gsconv.yaml", verbose=verbose)
    build_model(config, Hyperparameters(), load_data_spec(tiny_data), None)
    lines = "\n".join(caplog.messages).splitlines()
    # four Conv of 6 tensors became GSConv of 12: 349 - 4 * 6 + 4 * 12 = 373 tensors. The depthwise kernels of
    # these are not taken over, nor are the anchors
    assert lines[0].startswith(f"{weights}: 368 of 373 tensors taken over, 9")
    assert "of the parameters" in lines[0]
    assert "; saved 2026-01-02 03:04, fitness 0.500 " in lines[0]
    if not verbose:
        assert len(lines) == 1
        return
    layers = [line.split()[:5] for line in lines[1:]]
    assert layers[0] == ["layer", "block", "tensors", "parameters", "taken"]
    assert ["0", "Conv", "6", "of", "6"] in layers and ["10", "GSConv", "11", "of", "12"] in layers
    assert "nothing that fits: model.10.cv2.conv.weight" in lines
    assert lines[-1] == "left as it is: model.24.anchors"


def labelled(classes: np.ndarray, offsets: np.ndarray) -> Any:
    """What counts here of an index: the class of each label, and which labels belong to each image."""
    return SimpleNamespace(boxes=classes[:, None], offsets=offsets)


def test_rare_and_badly_detected_classes_weigh_more() -> None:
    # labels of images 0: classes 0, 0; 1: class 1; 2: none
    weights = image_weights(labelled(np.array([0.0, 0, 1]), np.array([0, 2, 3, 3])), [0.5, 0.0])
    # class 0: (1 - 0.5)^2 / 2 labels = 0.125; class 1: (1 - 0)^2 / 1 label = 1
    # images: 0.125 + 0.125 = 0.25; 1; none: the smallest of the others, 0.25; sum 1.5
    assert weights == pytest.approx([0.25 / 1.5, 1 / 1.5, 0.25 / 1.5])


def test_perfect_classes_or_no_labels_leave_equal_chances() -> None:
    perfect = image_weights(labelled(np.array([0.0, 0, 1]), np.array([0, 2, 3])), [1.0, 1.0])
    assert perfect == pytest.approx([0.5, 0.5])
    empty = image_weights(labelled(np.array([]), np.array([0, 0, 0, 0])), [0.0])
    assert empty == pytest.approx([1 / 3] * 3)


def test_label_sizes_are_those_on_the_letterboxed_image() -> None:
    # image 0: 200 high, 400 wide, so 640 px for 400: 320 x 640; image 1: 100 x 50 -> 640 x 320; image 2: none
    index: Any = SimpleNamespace(
        shapes=np.array([[200, 400], [100, 50], [9, 9]], np.int32),
        boxes=np.array([[0, 0.5, 0.5, 0.5, 0.25], [1, 0.5, 0.5, 1, 1], [0, 0, 0, 0.25, 0.5]], np.float32),
        offsets=np.array([0, 2, 3, 3]),
    )
    assert label_sizes(index, 640).tolist() == [[320, 80], [640, 320], [80, 320]]


class Layers(torch.nn.Module):
    """What freezing knows of a model: layers, of which the last one may have no weights."""

    def __init__(self, count: int, *last: torch.nn.Module) -> None:
        super().__init__()
        self.model = torch.nn.ModuleList([*(torch.nn.Linear(1, 1) for _ in range(count)), *last])

    def trained(self) -> list[int]:
        return [n for n, layer in enumerate(self.model) if any(p.requires_grad for p in layer.parameters())]


@pytest.mark.parametrize(
    ("layers", "trained", "said"),
    [
        ((0,), [0, 1, 2, 3], None),
        ((3,), [3], "frozen layers: 0, 1, 2"),
        ((0, 2), [1, 3], "frozen layers: 0, 2"),
        ((3, 3), [0, 1, 2], "frozen layers: 3, 3"),
    ],
)
def test_layers_are_frozen_by_their_number_or_one_by_one(
    layers: tuple[int, ...], trained: list[int], said: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "lean5")
    model: Any = Layers(4)
    freeze_layers(model, layers)
    assert model.trained() == trained
    assert caplog.messages == ([said] if said else [])


@pytest.mark.parametrize(
    ("layers", "complaint"),
    [
        ((6,), "--freeze 6: the model has layers 0 to 4"),
        ((1, 5), "--freeze 1 5: the model has layers 0 to 4"),
        ((0, -1), "--freeze 0 -1: the model has layers 0 to 4"),
        ((5,), "--freeze 5 leaves nothing to train; 0 to 3 may be frozen"),
        ((4,), "--freeze 4 leaves nothing to train"),  # the last layer has no weights
        ((0, 1, 2, 3), "--freeze 0 1 2 3 leaves nothing to train"),
    ],
)
def test_layers_that_cannot_be_frozen(layers: tuple[int, ...], complaint: str) -> None:
    model: Any = Layers(4, torch.nn.Identity())
    with pytest.raises(UserError, match=complaint):
        freeze_layers(model, layers)


def test_the_batch_is_that_of_all_processes(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "lean5")
    model: Any = SimpleNamespace(multiple=32, channels=3)
    assert total_batch_size(TrainConfig(batch_size=12), model, Process(), CPU) == 12
    assert total_batch_size(TrainConfig(batch_size=12), model, Process(1, 4), CPU) == 12
    with pytest.raises(UserError, match="--batch-size 12 must be a multiple of the 5 processes"):
        total_batch_size(TrainConfig(batch_size=12), model, Process(1, 5), CPU)
    with pytest.raises(UserError, match="--batch-size -1 works in one process"):
        total_batch_size(TrainConfig(batch_size=-1), model, Process(0, 2), CPU)
    assert total_batch_size(TrainConfig(batch_size=-1), model, Process(), CPU) == 16
    assert caplog.messages == ["--batch-size -1 needs a CUDA device, found cpu: using 16"]


def opened(tiny_data: Path, process: Process, **flags: Any) -> tuple[Loader, Loader | None]:
    """The loaders of a run at 100 px, of a model whose sides are multiples of 32."""
    model: Any = SimpleNamespace(multiple=32, channels=3)
    config = TrainConfig(**{"imgsz": 100, "batch_size": 4, "workers": 0, **flags})
    return open_training_data(config, Hyperparameters(), load_data_spec(tiny_data), model, process)


def test_training_images_are_shuffled_and_shared_and_validation_is_done_by_one(tiny_data: Path) -> None:
    first, val = opened(tiny_data, Process(0, 2))
    second, none = opened(tiny_data, Process(1, 2))
    assert none is None and val is not None
    assert (len(first), len(second)) == (3, 3)  # 12 images, two a batch and process
    seen: list[list[str]] = []
    for loader in (first, second):
        loader.set_epoch(0)
        seen.append([Path(path).stem for batch in loader for path in batch.paths])
    assert sorted(map(int, seen[0] + seen[1])) == list(range(12))
    assert sorted(map(int, seen[0])) != [int(image) for image in seen[0]], "in a random order"
    (batch,) = list(val)
    assert [Path(path).stem for path in batch.paths] == ["0", "1", "2", "3"]  # twice as many a batch
    # 100 px rounded up to 128, square; and for validation half a stride more: 128 / 32 + 0.5, rounded up
    assert (first.dataset.size, val.dataset.size) == (128, 128)
    assert tuple(batch.images.shape[2:]) == (160, 160)


def test_the_seed_decides_what_training_sees(tiny_data: Path) -> None:
    def images(seed: int) -> torch.Tensor:
        loader, _ = opened(tiny_data, Process(), seed=seed)
        loader.set_epoch(0)
        return next(iter(loader)).images

    assert torch.equal(images(1), images(1))
    assert not torch.equal(images(1), images(2))


def state_of(
    tiny_data: Path, config: TrainConfig, anchors: float | None, checkpoint: dict[str, Any] | None = None
) -> tuple[Any, DetectionModel]:
    """The state of a run of the labels of `tiny_data` and a model of so many anchors."""
    hyp = Hyperparameters(anchors=anchors, momentum=0.8)
    model, _ = build_model(config, hyp, load_data_spec(tiny_data), None)
    loader, _ = opened(tiny_data, Process())
    schedule = Schedule(hyp, epochs=2, batches=3, batch_size=128)
    return build_state(config, model, loader, schedule, Process(0, 3), CPU, checkpoint), model


@pytest.mark.parametrize("keep", [False, True])
def test_a_new_state_has_anchors_that_fit_unless_they_are_to_stay(
    tiny_data: Path, caplog: pytest.LogCaptureFixture, keep: bool
) -> None:
    caplog.set_level(logging.INFO, "lean5")
    config = TrainConfig(noautoanchor=keep, epochs=2, optimizer="AdamW")
    state, model = state_of(tiny_data, config, 2.0)
    assert model.head.anchors.shape == (3, 2, 2)
    said = [message for message in caplog.messages if "anchors: best possible recall" in message]
    assert len(said) == (0 if keep else 1)
    assert (state.processes, state.maps, state.loss_sum.tolist()) == (3, [0, 0], [0, 0, 0])
    assert state.train_args["epochs"] == 2
    assert isinstance(state.optimizer, torch.optim.AdamW)
    # 0.0005 for 64 images a step, of which there are 128
    assert [group["weight_decay"] for group in state.optimizer.param_groups] == [0, 0.001, 0]
    assert not state.scaler.is_enabled()


@pytest.mark.parametrize(
    ("finished", "said"),
    [(False, "resuming at epoch 1, batch 2"), (True, "the run is finished, nothing is left to train")],
)
def test_a_resumed_state_says_where_it_goes_on_and_leaves_anchors_alone(
    tiny_data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, finished: bool, said: str
) -> None:
    state, _ = state_of(tiny_data, TrainConfig(noautoanchor=True), None)
    state.epoch, state.batch, state.finished = 1, 2, finished
    state.save(tmp_path / "last.pt")
    caplog.set_level(logging.INFO, "lean5")
    content = torch.load(tmp_path / "last.pt", weights_only=True)
    resumed, _ = state_of(tiny_data, TrainConfig(), None, content)
    assert (resumed.epoch, resumed.batch) == (1, 2)
    assert [message for message in caplog.messages if "anchors" in message] == []
    assert caplog.messages[-1].startswith(said)


def test_anchors_of_weights_are_taken_over_unless_others_are_named(tiny_data: Path, tmp_path: Path) -> None:
    spec = load_data_spec(tiny_data)
    source = DetectionModel("yolov5n.yaml", nc=2)
    source.head.anchors += 1
    weights = tmp_path / "yolov5n.pt"
    description = {"ema": None, "yaml": source.yaml, "names": source.names, "nc": 2, "stride": [8, 16, 32]}
    write_checkpoint(weights, {"model": source.state_dict(), **description})

    def anchors(cfg: str, number: float | None) -> torch.Tensor:
        config = TrainConfig(weights=str(weights), cfg=cfg)
        model, _ = build_model(config, Hyperparameters(anchors=number), spec, None)
        assert model.names == {0: "blue", 1: "green"}
        assert torch.equal(model.model[0].conv.weight, source.model[0].conv.weight)
        return model.head.anchors

    plain = DetectionModel("yolov5n.yaml", nc=2).head.anchors
    assert torch.equal(anchors("", None), source.head.anchors)
    assert torch.equal(anchors("yolov5n.yaml", None), plain)
    squares = anchors("", 3.2)  # a number of anchors, rounded
    assert squares.shape == (3, 3, 2) and torch.equal(squares[..., 0], squares[..., 1])


def test_a_run_is_not_resumed_with_other_classes(tiny_data: Path) -> None:
    spec = load_data_spec(tiny_data)
    content = {"yaml": DetectionModel("yolov5n.yaml", nc=2).yaml, "names": {0: "blue", 1: "red"}}
    with pytest.raises(UserError) as error:
        build_model(TrainConfig(data="squares.yaml"), Hyperparameters(), spec, content)
    assert str(error.value).startswith(
        "--resume: squares.yaml has 2 classes, ['blue', 'green']; the run was started with 2 classes, "
        "['blue', 'red']; "
    )
    model, _ = build_model(
        TrainConfig(), Hyperparameters(), spec, content | {"names": {0: "blue", 1: "green"}}
    )
    assert (model.nc, model.names) == (2, {0: "blue", 1: "green"})


def test_flags_of_the_data_reach_it(tiny_data: Path, tmp_path: Path) -> None:
    one, _ = opened(tiny_data, Process(), single_cls=True)
    both, _ = opened(tiny_data, Process())
    assert set(one.dataset.index.boxes[:, 0]) == {0} and set(both.dataset.index.boxes[:, 0]) == {0, 1}
    quad, val = opened(tiny_data, Process(), quad=True)
    quad.set_epoch(0)
    assert next(iter(quad)).images.shape == (1, 3, 256, 256)  # four of 128 x 128
    assert val is not None and next(iter(val)).images.shape[0] == 4
    val = opened(tiny_data, Process(), batch_size=1)[1]
    assert val is not None and [len(batch.images) for batch in val] == [2, 2]  # twice as many
    assert opened(tiny_data, Process(), rect=True)[0].dataset.rect
    assert [loader and loader.dataset.augment for loader in opened(tiny_data, Process())] == [True, False]


def test_label_faults_are_fatal_when_asked_for(tmp_path: Path) -> None:
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    cv2.imwrite(str(tmp_path / "images" / "a.png"), np.zeros((32, 32, 3), np.uint8))
    (tmp_path / "labels" / "a.txt").write_text("0 .5 .5 .5 .5\n0 half .5 .5 .5\n", encoding="utf-8")
    yaml = tmp_path / "one.yaml"
    yaml.write_text(f"path: {tmp_path}\ntrain: images\nval: images\nnames: [a]\n", encoding="utf-8")
    assert len(opened(yaml, Process(), batch_size=1)[0].dataset.index.boxes) == 1
    with pytest.raises(UserError):
        opened(yaml, Process(), batch_size=1, strict=True)


def test_a_model_is_built_with_its_layers_frozen(tiny_data: Path) -> None:
    model, _ = build_model(TrainConfig(freeze=(2,)), Hyperparameters(), load_data_spec(tiny_data), None)
    trained = [any(p.requires_grad for p in layer.parameters()) for layer in model.model]
    assert trained[:4] == [False, False, True, True]
