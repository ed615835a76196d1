"""Every reader that `fuzz.py` feeds, and what it makes its files of."""

from __future__ import annotations

import contextlib
import io
import json
import math
import random
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from benchmarks.losses import load as load_losses
from models.cfg import load_cfg, validate_cfg
from models.insertion import insert
from models.runtimes.metadata import read_yaml as read_metadata
from models.runtimes.opening import load_backend
from models.yolo import DetectionModel
from tests import corpus, fuzz_trees
from tests.fuzz_changes import changed_json, changed_tree, changed_yaml, mutated
from tests.utils.data.shards.tars import read_listed_shard, read_shard
from training.config import TrainConfig
from training.evolve import load_trials
from training.hyp_yaml import load_hyperparameters
from training.resume import saved_hyp, with_saved
from utils.checkpoints.files import read_checkpoint
from utils.checkpoints.pickling import write_pickle
from utils.checkpoints.unpickle import Global, Node, RefusedError, read_pickle
from utils.data.images import image_shape, read_image
from utils.data.index import build_index
from utils.data.labels import parse_labels
from utils.data.sources import expand, read_file
from utils.data.spec import load_data_spec
from utils.errors import UserError
from utils.losses.composition import BoxLoss
from utils.losses.scores import ScoreLoss

Change = Callable[[bytes, list[bytes], random.Random], bytes]


def inside(change: Callable[[bytes, random.Random], bytes]) -> Change:
    """Change what stands in a file, and at times its bytes."""

    def changed(data: bytes, others: list[bytes], dice: random.Random) -> bytes:
        return mutated(data, others, dice) if dice.random() < 0.3 else change(data, dice)

    return changed


@dataclass(frozen=True)
class Target:
    """A kind of file.

    Attributes:
        seeds: makes sound files of it, as bytes.
        read: opens a file as the commands do.
        name: of the file, which tells the readers what it is.
        native: the parser is a library in another language.
        change: makes a case of a sound file.
    """

    seeds: Callable[[Path], list[bytes]]
    read: Callable[[Path], object]
    name: str
    native: bool = False
    change: Change = mutated


def packed(file: Path, pickled: bytes) -> bytes:
    """A checkpoint around another pickle, its storages as they were."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(file) as old, zipfile.ZipFile(buffer, "w") as new:
        for name in old.namelist():
            new.writestr(name, pickled if name.endswith("data.pkl") else old.read(name))
    return buffer.getvalue()


def read_a_pickle(path: Path, around: str = "own.pt") -> None:
    with contextlib.suppress(RefusedError):
        read_pickle(path.read_bytes())
    if path.stat().st_size:
        path.with_suffix(".pt").write_bytes(packed(path.parent / around, path.read_bytes()))
        read_checkpoint(path.with_suffix(".pt"))


def run_once(path: Path) -> None:
    """Open weights, and look at one picture."""
    backend = load_backend(path, threads=1)
    height, width = backend.shape or (64, 64)
    if height * width <= 1 << 16 and (backend.batch or 1) <= 4:
        with torch.inference_mode():
            backend(torch.zeros(backend.batch or 1, 3, height, width))


def read_openvino(path: Path) -> None:
    folder = path.parent / "toy_openvino_model"
    folder.mkdir(exist_ok=True)
    (folder / "toy.xml").write_bytes(path.read_bytes())
    (folder / "toy.bin").write_bytes((path.parent / "toy.bin").read_bytes())
    run_once(folder)


def read_ncnn(path: Path) -> None:
    folder = path.parent / "toy_ncnn_model"
    folder.mkdir(exist_ok=True)
    (folder / "toy.param").write_bytes(path.read_bytes())
    (folder / "toy.bin").write_bytes(corpus.NCNN_WEIGHTS)
    (folder / "metadata.yaml").write_text("imgsz: [64, 64]\n", encoding="utf-8")
    run_once(folder)


def read_metadata_file(path: Path) -> None:
    read_metadata(path.parent)


def read_model_yaml(path: Path) -> None:
    cfg = load_cfg(path)
    with torch.device("meta"):
        DetectionModel(cfg)


def read_list(path: Path) -> None:
    places = expand(str(path))
    build_index([path], {0: "a"}, cache=False)
    for place in places[:3]:
        if "://" not in place:
            list(read_file(place, 0, 1, 1))


def read_one_image(path: Path) -> None:
    shape = image_shape(path)
    with contextlib.suppress(UserError):
        found = read_image(path).shape[:2]
        if found != shape:
            raise AssertionError(f"image_shape gives {shape}, read_image {found}")


def read_video(path: Path) -> None:
    for _ in zip(range(20), read_file(str(path), 0, 1, 1)):
        pass


def read_index(path: Path) -> None:
    next(path.parent.glob("*.npz")).write_bytes(path.read_bytes())
    index = build_index([path.parent / "images"], {0: "a"})
    assert (len(index), len(index.boxes)) == (2, 2)
    assert [Path(name).name for name in index.paths()] == ["a.png", "b.png"]


def read_report_input(path: Path) -> None:
    from benchmarks.timings import read_latency

    read_latency(path)


def json_of(path: Path) -> object:
    """What is in a file of a case; a case that is no JSON is none of these targets'."""
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise UserError("no JSON") from error


def as_pickled(value: object) -> object:
    """A value of JSON as one of a checkpoint: some lists are tuples, some mappings objects."""
    match value:
        case [str(name), *rest] if name.startswith("tuple"):
            return tuple(map(as_pickled, rest))
        case list():
            return [as_pickled(each) for each in value]
        case {"class": str(name), **rest} if name.replace(".", "").isidentifier():
            return Node(name, (), {key: as_pickled(each) for key, each in rest.items()})
        case {"global": str(name)} if name.replace(".", "").isidentifier():
            return Global(name)
        case dict():
            return {key: as_pickled(each) for key, each in value.items()}
        case _:
            return value


def same(one: object, other: object) -> bool:
    """Whether two values are equal to the last bit, and of one kind all through."""
    if type(one) is not type(other):
        return False
    match one:
        case float() if math.isnan(one):
            return math.isnan(other)  # type: ignore[arg-type]  # it is of the same type
        case list() | tuple():
            return len(one) == len(other) and all(map(same, one, other))  # type: ignore[arg-type, call-overload]
        case dict():
            return list(one) == list(other) and all(same(one[key], other[key]) for key in one)  # type: ignore
        case Node():
            return vars_of(one) == vars_of(other) or all(map(same, vars_of(one), vars_of(other)))
        case _:
            return one == other


def vars_of(node: object) -> list[object]:
    assert isinstance(node, Node)
    return [node.name, node.args, node.state, node.items]


def write_and_read(path: Path) -> None:
    """What is written as a pickle is read as it was, or refused by the one or the other."""
    value = as_pickled(json_of(path))
    try:
        written = write_pickle(value)
    except (TypeError, RecursionError):
        return
    with contextlib.suppress(RefusedError):
        found = read_pickle(written)
        if not same(value, found):
            raise AssertionError(f"{value!r:.300} became {found!r:.300}")


def read_words(path: Path) -> None:
    """The words of `--insert`: what they make of a network can be read, and is built once in a while."""
    words = path.read_bytes().decode("utf-8", "surrogateescape").split("\0")
    cfg = load_cfg("yolov5n.yaml")
    result, _ = insert(cfg, words, "yolov5n.yaml")
    validate_cfg(result, "the result")
    if len(path.read_bytes()) % 16 == 0:
        with torch.device("meta"):
            DetectionModel(result)


def read_loss(path: Path) -> None:
    """The name of a loss: its canonical text names the same."""
    text = path.read_bytes().decode("utf-8", "surrogateescape")
    for kind in (BoxLoss, ScoreLoss):
        try:
            found = str(kind(text))
        except ValueError as error:
            if "\n" in str(error) or len(str(error)) > 2000:
                raise AssertionError(
                    f"a message of {len(str(error))} letters, {str(error)[:90]!r}"
                ) from error
            continue
        if str(kind(found)) != found:
            raise AssertionError(f"{text!r} is {found!r}, and that is {kind(found)}")


def read_saved(path: Path) -> None:
    """The settings and hyper-parameters in a checkpoint that `--resume` continues with."""
    content = json_of(path)
    if isinstance(content, dict) and isinstance(content.get("train_args"), dict):
        with_saved(TrainConfig(), content["train_args"], path)
        saved_hyp(content.get("hyp"))


def trials(folder: Path) -> list[bytes]:
    from training.evolve import FIELDS, METRICS

    values = ["0.5"] * len(METRICS) + ["CIoU" if name == "iou" else "0.5" for name in FIELDS]
    return [(",".join([*METRICS, *FIELDS]) + "\n" + ",".join(values) + "\n").encode()]


TARGETS = {
    "checkpoint": Target(corpus.checkpoints, read_checkpoint, "x.pt"),
    "pickle": Target(corpus.pickles, read_a_pickle, "x.pkl"),
    "safetensors": Target(corpus.safetensors, read_checkpoint, "x.safetensors"),
    "onnx": Target(corpus.onnx, run_once, "x.onnx", native=True),
    "dnn": Target(corpus.onnx, lambda path: load_backend(path, dnn=True), "x.onnx", native=True),
    "torchscript": Target(corpus.torchscript, run_once, "x.torchscript", native=True),
    "openvino": Target(corpus.openvino, read_openvino, "x.xml", native=True),
    "ncnn": Target(corpus.ncnn, read_ncnn, "x.param", native=True),
    "metadata": Target(corpus.metadata, read_metadata_file, "metadata.yaml"),
    "model-yaml": Target(corpus.model_yamls, read_model_yaml, "x.yaml"),
    "data-yaml": Target(
        corpus.data_yamls, partial(load_data_spec, needed=()), "x.yaml", change=inside(changed_yaml)
    ),
    "hyp-yaml": Target(corpus.hyps, load_hyperparameters, "x.yaml", change=inside(changed_yaml)),
    "labels": Target(corpus.labels, lambda path: parse_labels(path.read_bytes(), 2), "x.txt"),
    "list": Target(corpus.lists, read_list, "list.txt"),
    "images": Target(corpus.images, read_one_image, "x.jpg", native=True),
    "video": Target(corpus.videos, read_video, "x.avi", native=True),
    "loss": Target(corpus.losses, read_loss, "x.txt"),
    "insert": Target(corpus.insertions, read_words, "x.txt"),
    "pickled": Target(corpus.values, write_and_read, "x.json", change=inside(changed_json)),
    "yolov5-pickle": Target(corpus.yolov5_pickles, partial(read_a_pickle, around="yolov5.pt"), "x.pkl"),
    "resume": Target(corpus.saved, read_saved, "x.json", change=inside(changed_json)),
    "losses-json": Target(corpus.loss_rankings, load_losses, "x.json", change=inside(changed_json)),
    **{
        name: Target(
            partial(fuzz_trees.packed, kinds=kinds), fuzz_trees.read_labels, "x.tree", change=changed_tree
        )
        for name, kinds in fuzz_trees.KINDS.items()
    },
    "foreign-yaml": Target(fuzz_trees.foreign, fuzz_trees.read_foreign, "x.tree", change=changed_tree),
    "convert": Target(fuzz_trees.every, fuzz_trees.read_converted, "x.tree", change=changed_tree),
    "split": Target(fuzz_trees.every, fuzz_trees.read_split, "x.tree", change=changed_tree),
    "page": Target(fuzz_trees.pages, fuzz_trees.read_page, "x.tree", change=changed_tree),
    "index": Target(corpus.indices, read_index, "x.bin"),
    "tar": Target(corpus.tars, read_shard, "x.tar"),
    "listing": Target(corpus.listings, read_listed_shard, "x.index.json"),
    "evolve-csv": Target(trials, load_trials, "evolve.csv"),
    "latency-json": Target(corpus.latencies, read_report_input, "latency.json"),
}
PYTHON = [name for name, target in TARGETS.items() if not target.native]
