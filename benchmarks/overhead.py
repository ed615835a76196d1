"""How much time a command takes beyond the network itself, as a ratio measured in one run.

    python benchmarks/overhead.py val   --weights yolov5n.pt --data coco128.yaml --imgsz 640
    python benchmarks/overhead.py train --weights yolov5n.pt --data coco128.yaml --imgsz 320
    python benchmarks/overhead.py train --weights yolov5n.pt --data coco128.yaml --imgsz 320 --cache ram
    python benchmarks/overhead.py help

`val` compares the whole `val.py` process with the bare forward passes of the same batches by the fused model;
`train` the second and later epochs of `train.py` with forward + backward + step on one fixed batch, as many
times as an epoch has batches; `help` compares `detect.py --help` with `import torch`. Both sides are measured
in turn, `--rounds` times, since other work on the machine comes and goes.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch

from models.weights import load_model
from training.optim import build_optimizer
from utils.data.dataset import DetectionDataset
from utils.data.index import build_index
from utils.data.loader import Loader
from utils.data.spec import load_data_spec
from utils.errors import run_command
from utils.files import ROOT, temporary_folder
from utils.hyperparameters import Hyperparameters
from utils.losses.detection import DetectionLoss

Clock = Callable[[], float]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("command", choices=list(PAIRS))
    parser.add_argument("--weights", default="yolov5n.pt")
    parser.add_argument("--data", default="digits.yaml")
    parser.add_argument("--imgsz", type=int, help="default: 640 for val, 320 for train")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--cache", nargs="?", const="ram")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    args.imgsz = args.imgsz or (640 if args.command == "val" else 320)
    command, bare = PAIRS[args.command](args)
    fixed = 2.5 if args.command == "val" else 0.0  # seconds that the process needs to begin
    ratios = []
    for number in range(1, args.rounds + 1):
        a, b = command(), bare()
        ratios.append((a - fixed) / b)
        print(f"round {number}: command {a:.2f} s, bare {b:.2f} s, ratio {a / b:.2f}", end="")
        print(f", ({a:.2f} - {fixed}) / bare = {ratios[-1]:.2f}" if fixed else "")
    print(f"ratio: median {np.median(ratios):.2f}, from {min(ratios):.2f} to {max(ratios):.2f}")


def timed(*command: str) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, *command], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def help_pair(args: argparse.Namespace) -> tuple[Clock, Clock]:
    return lambda: timed("detect.py", "--help"), lambda: timed("-c", "import torch")


def flags(args: argparse.Namespace, *names: str) -> list[str]:
    """Those of our own flags that the command has too."""
    return [word for name in names for word in (f"--{name.replace('_', '-')}", str(getattr(args, name)))]


def validation_pair(args: argparse.Namespace) -> tuple[Clock, Clock]:
    spec = load_data_spec(args.data)
    model = load_model(args.weights, fuse=True)
    index = build_index(spec.val, spec.names)
    dataset = DetectionDataset(index, args.imgsz, rect=True, batch_size=args.batch_size, stride=32, pad=0.5)
    loader = Loader(dataset, workers=0, shuffle=False)
    batches = [batch.images.float() / 255 for batch in loader]

    @torch.inference_mode()
    def bare() -> float:
        start = time.perf_counter()
        for batch in batches:
            model(batch)
        return time.perf_counter() - start

    def command() -> float:
        with temporary_folder() as folder:
            own = flags(args, "weights", "data", "imgsz", "batch_size")
            return timed("val.py", *own, "--project", str(folder))

    return command, bare


def training_pair(args: argparse.Namespace) -> tuple[Clock, Clock]:
    spec = load_data_spec(args.data)
    model = load_model(args.weights).train()
    hyp = Hyperparameters()
    scaled = hyp.scaled(nl=model.head.nl, nc=model.nc, imgsz=args.imgsz)
    criterion = DetectionLoss(model.head.anchors, model.nc, scaled)
    optimizer = build_optimizer(model, "SGD", hyp, hyp.weight_decay)
    index = build_index(spec.train, spec.names)
    dataset = DetectionDataset(index, args.imgsz, hyp=hyp, augment=True, batch_size=args.batch_size)
    loader = Loader(dataset, workers=0, shuffle=True)
    loader.set_epoch(0)
    batch = next(iter(loader))
    images = batch.images.float() / 255

    def bare() -> float:
        start = time.perf_counter()
        for _ in range(len(loader)):
            loss, _items = criterion(model(images), batch.targets)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        return time.perf_counter() - start

    def command() -> float:
        """Seconds of an epoch after the first, without its validation, as train.py reports them."""
        with temporary_folder() as folder:
            own = flags(args, "weights", "data", "imgsz", "batch_size", "workers")
            own += flags(args, "cache") if args.cache else []
            own += ["--epochs", str(args.epochs + 1), "--project", str(folder)]
            words = [sys.executable, "train.py", *own, "--noval", "--noplots", "--noautoanchor"]
            output = subprocess.run(words, cwd=ROOT, check=True, capture_output=True, text=True).stdout
        seconds = [float(s) for s in re.findall(r"^epoch \d+/.* ([\d.]+) s$", output, flags=re.M)]
        return float(np.median(seconds[1:-1]))  # the last one also validates

    return command, bare


PAIRS = {"val": validation_pair, "train": training_pair, "help": help_pair}


if __name__ == "__main__":
    run_command(main)
