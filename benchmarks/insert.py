"""What blocks change at once when they are put into a trained network: nothing, where their form allows that.

    python benchmark.py insert --weights yolov5n.pt --data coco256.yaml
    python benchmark.py insert --weights yolov5n.pt --data coco256.yaml --at "before Detect" --blocks CBAM
    python benchmark.py insert --weights yolov5n.pt --data coco256.yaml --instead DCNv2 "C2f for C3"
    python benchmark.py insert --weights yolov5n.pt --data coco256.yaml --cfg yolov5n-decoupled

Every block is put into the network by itself, or in place of its 3x3 convolutions of stride 2, or of its
layers of a name; other networks take its place as a whole. The weights follow by structure, and nothing is
trained.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.pages import markdown_table
from models.cfg import load_cfg
from models.insertion import insert, insertable, plain_values
from models.summary import layer_costs
from models.transfer import inherit
from models.weights import find_weights, load_model
from models.yolo import DetectionModel
from utils.console import LOGGER, progress, setup_console
from utils.counting.measure import count_parameters
from utils.data.dataset import DetectionDataset
from utils.data.index import DatasetIndex, build_index
from utils.data.letterbox import rounded_size
from utils.data.loader import Loader
from utils.data.spec import load_data_spec
from utils.device import select_device
from utils.errors import UserError
from utils.evaluation.evaluate import evaluate
from utils.flags import DATA_HELP, DEVICE_HELP, IMGSZ, SIDE, CommandConfig, at_least, flag, not_empty

FOR = " for "
INSTEAD = re.compile(r"(?P<block>[\w.]+)(?:\((?P<args>[^()]*)\))?(?: for (?P<layer>[\w.]+))?")
LEARNT_SHARE = "SimAM(0.0001, true)"  # the form of a block without weights that can begin as the identity


@dataclass(frozen=True)
class Config(CommandConfig):
    """mAP of a trained network right after blocks were put into it."""

    weights: str = flag("", "the trained network", rule=not_empty)
    data: str = flag("data/digits.yaml", DATA_HELP)
    at: str = flag("after C3 in neck", "where, as in --insert", rule=not_empty)
    blocks: tuple[str, ...] = flag(
        (), "blocks, as in 'EMA(8)'; default: all that may be put in, unless --instead or --cfg is given"
    )
    instead: tuple[str, ...] = flag(
        (),
        "blocks in place of every 3x3 Conv of stride 2, as in DCNv2, or of others, 'C2f for C3'; arguments "
        "are those behind the channels: 'SPDConv(3)', 'CARAFE(2) for nn.Upsample'",
    )
    cfg: tuple[str, ...] = flag((), "model yamls that take the weights over, by name or path")
    imgsz: int = flag(640, "image size in pixels", *IMGSZ, rule=SIDE)
    batch_size: int = flag(16, "images at once", rule=at_least(1))
    workers: int = flag(8, "data loading processes (at most one a core)", rule=at_least(0))
    device: str = flag("", DEVICE_HELP)


def run(config: Config) -> None:
    """Measure, and print a table.

    Raises:
        UserError: weights and data that cannot mean the same classes, or words that are not understood.
    """
    setup_console()
    device = select_device(config.device)
    teacher = load_model(find_weights(config.weights), device)
    spec = load_data_spec(config.data, needed=("val",))
    if spec.nc != teacher.nc:
        raise UserError(f"{config.weights} knows {teacher.nc} classes and {config.data} has {spec.nc}")
    models = networks(config, teacher)
    index = build_index(spec.val, spec.names)
    loader = val_loader(config, teacher, index)
    images = next(iter(loader)).images[:4].to(device).float() / 255

    def row(name: str, model: DetectionModel) -> list[str]:
        model = model.to(device).eval()
        costs = layer_costs(model.model, model.layers, model.channels, config.imgsz)
        size = (f"{count_parameters(model):,}", f"{sum(layer.gflops for layer in costs):.3f}")
        far = difference(model, teacher, images)
        *_, map50, map_ = evaluate(model.fuse(), loader, device, spec.names).summary()
        return [name, *size, f"{far:.1e}" if far else "0", f"{map50:.4f}", f"{map_:.4f}"]

    head = ("block", "parameters", "GFLOPs", "difference", "mAP50", "mAP50-95")
    rows = [row("–", load_model(find_weights(config.weights), device))]
    rows += [row(f"`{name}`", model) for name, model in progress(models.items(), "blocks", unit=" networks")]
    place = "" if config.instead or config.cfg else f", blocks {config.at}"
    LOGGER.info(f"{len(index)} images of {config.data} at {config.imgsz} px{place}")
    print(markdown_table([head, *rows], "lrrrrr"))


def networks(config: Config, teacher: DetectionModel) -> dict[str, DetectionModel]:
    """The networks to measure, by the names of their rows in the table.

    Raises:
        UserError: words that are not understood, unknown blocks, or nothing whose place they could take.
    """
    blocks = config.blocks or (() if config.instead or config.cfg else (*insertable(), LEARNT_SHARE))
    made = {block: insert(teacher.yaml, [f"{block} {config.at}"], "the network")[0] for block in blocks}
    made |= {
        text if FOR in text else f"{text}{FOR}Conv": instead(teacher.yaml, text) for text in config.instead
    }
    made |= {Path(name).name.removesuffix(".yaml"): load_cfg(name) for name in config.cfg}
    return {name: with_weights(cfg, teacher) for name, cfg in made.items()}


def instead(cfg: dict[str, Any], text: str) -> dict[str, Any]:
    """A description with a block in place of every 3x3 Conv of stride 2, or of every layer of a name.

    Args:
        text: `BLOCK[(ARGUMENTS)] [for LAYER]`; without arguments the block has those of the layer.
    """
    found = INSTEAD.fullmatch(text)
    if found is None:
        raise UserError(
            f"--instead '{text}' is not understood; write it as in DCNv2 or 'CARAFE(2) for nn.Upsample'"
        )
    changed, count = dict(cfg), 0
    for part in ("backbone", "head"):
        rows = [list(row) for row in cfg[part]]
        for row in rows:
            if row[2] == (found["layer"] or "Conv") and (found["layer"] or row[3][1:] == [3, 2]):
                row[2], count = found["block"], count + 1
                if found["args"] is not None:
                    channels = [value for value in row[3][:1] if isinstance(value, int)]
                    row[3] = [*channels, *plain_values(found["args"], f"--instead '{text}'")]
        changed[part] = rows
    if not count:
        raise UserError(f"--instead {text}: the network has no {found['layer'] or '3x3 Conv of stride 2'}")
    return changed


def with_weights(cfg: dict[str, Any], teacher: DetectionModel) -> DetectionModel:
    """The network of a description, with what it can hold of another one's weights."""
    model = DetectionModel(cfg, ch=teacher.channels, nc=teacher.nc)
    inherit(model, teacher, exclude=())
    model.names = teacher.names
    return model


def val_loader(config: Config, model: DetectionModel, index: DatasetIndex) -> Loader:
    """Batches as val.py has them."""
    dataset = DetectionDataset(
        index,
        rounded_size(config.imgsz, model.multiple),
        rect=True,
        batch_size=config.batch_size,
        stride=model.multiple,
        channels=model.channels,
        pad=0.5,
    )
    return Loader(dataset, workers=config.workers, shuffle=False)


@torch.no_grad()
def difference(model: DetectionModel, teacher: DetectionModel, images: Tensor) -> float:
    """The largest difference between logits, as a share of the largest of their level."""
    pairs = zip(model(images)[1], teacher.eval()(images)[1], strict=True)
    return max(float((own - its).abs().max() / its.abs().max()) for own, its in pairs)
