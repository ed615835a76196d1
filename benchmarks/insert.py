"""What blocks change at once when they are put into a trained network: nothing, where their form allows that.

    python benchmark.py insert --weights yolov5n.pt --data coco256.yaml
    python benchmark.py insert --weights yolov5n.pt --data coco256.yaml --at "before Detect" --blocks CBAM

Every block is put into the network by itself, the weights follow by structure, and nothing is trained.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.pages import markdown_table
from models.insertion import insert, insertable
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

LEARNT_SHARE = "SimAM(0.0001, true)"  # the form of a block without weights that can begin as the identity


@dataclass(frozen=True)
class Config(CommandConfig):
    """mAP of a trained network right after blocks were put into it."""

    weights: str = flag("", "the trained network", rule=not_empty)
    data: str = flag("data/digits.yaml", DATA_HELP)
    at: str = flag("after C3 in neck", "where, as in --insert", rule=not_empty)
    blocks: tuple[str, ...] = flag((), "blocks, as in 'EMA(8)'; default: all that may be put in")
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
    blocks = config.blocks or (*insertable(), LEARNT_SHARE)
    models = {block: with_block(teacher, f"{block} {config.at}") for block in blocks}
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
    LOGGER.info(f"{len(index)} images of {config.data} at {config.imgsz} px, blocks {config.at}")
    print(markdown_table([head, *rows], "lrrrrr"))


def with_block(teacher: DetectionModel, text: str) -> DetectionModel:
    """The network with a block put in, and the weights of the one without."""
    model = DetectionModel(insert(teacher.yaml, [text], "the network")[0])
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
