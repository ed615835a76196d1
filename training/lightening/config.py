"""What `lighten.py` can be told."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from models.insertion import INSERT_HELP
from training.config import RunConfig
from utils.flags import DATA_HELP, DEVICE_HELP, IMGSZ, SEED, SIDE, Added, at_least, between, flag, not_empty


@dataclass(frozen=True)
class LightenConfig(RunConfig):
    """Turn a trained detector into a lighter one, from photographs without labels."""

    free = ("data", "runtime")
    topics = {
        "the teacher and the student": ("weights", "cfg", "insert", "width"),
        "or a search for the student": ("faster", "smaller", "flops", "candidates", "runtime"),
        "what it learns from": ("source", "data", "imgsz", "window", "vid_stride", "hyp"),
        "how long": ("minutes", "steps", "batch_size", "measures"),
        "what runs it": ("device", "amp", "workers", "seed"),
        "the run": ("resume", "project", "name", "exist_ok", "verbose"),
    }

    weights: str = flag("", "the trained detector; default: the newest best.pt in runs/train")
    cfg: str = flag(
        "",
        "yaml of the lighter network (a name is also looked up in models/); with --width the teacher's own",
    )
    insert: tuple[str, ...] = flag((), INSERT_HELP, action=Added)
    width: float = flag(1.0, "that network at this fraction of its width", rule=between(0.05, 1.0))
    source: str = flag("", "photographs: a folder, glob, list file, image or video, as detect.py takes them")
    data: str = flag("", f"measure the true mAP of both at the end: {DATA_HELP}")
    faster: float | None = flag(
        None,
        "search for the network that keeps most at this fraction of the teacher's time in --runtime, at most",
        rule=between(0.05, 1.0),
    )
    smaller: float | None = flag(None, "the same at this fraction of its parameters", rule=between(0.05, 1.0))
    flops: float | None = flag(None, "the same at this fraction of its GFLOPs", rule=between(0.05, 1.0))
    candidates: tuple[str, ...] = flag(
        (),
        "yamls and widths to choose from; default: those of models/ of the teacher's size, and its own at "
        "0.875, 0.75, 0.625 and 0.5 of its width",
    )
    runtime: Literal["torch", "onnx", "openvino", "ncnn"] | None = flag(
        None, "measure how long networks take in this runtime on this machine's CPU; with --faster torch"
    )
    imgsz: int | None = flag(
        None, "size of the pictures in pixels; default: that of the teacher's training", *IMGSZ, rule=SIDE
    )
    window: int | None = flag(
        None,
        "in two of three batches learn from parts of the pictures, with sides of this many pixels, in the "
        "third from fewer whole ones; default: half of --imgsz from 512 on, all of it below",
        rule=SIDE,
    )
    minutes: float = flag(
        15.0, "time for learning, on this machine; see --steps", rule=between(0.001, 100_000)
    )
    steps: int | None = flag(None, "batches to learn from, instead of --minutes", rule=between(2, 10**9))
    measures: int = flag(10, "how often agreement is measured on the way", rule=at_least(2))
    batch_size: int = flag(16, "pictures a batch", rule=at_least(2))
    hyp: str = flag(
        "data/hyps/hyp.lighten.yaml", "yaml whose augmentations are used (also looked up in data/hyps/)"
    )
    vid_stride: int = flag(1, "use every this manieth frame of a video", rule=at_least(1))
    amp: Literal["auto", "off", "fp16", "bf16"] = flag(
        "auto",
        "mixed precision: auto is fp16 on CUDA, bf16 on CPUs that have instructions for it, off elsewhere",
    )
    resume: bool | str = flag(
        False, "continue the newest run, or the run of the given last.pt", nargs="?", const=True
    )
    device: str = flag("", DEVICE_HELP)
    workers: int = flag(8, "data loading processes (at most one a core)", rule=at_least(0))
    project: str = flag("runs/lighten", "folder that holds the run folders")
    name: str = flag("exp", "name of the run folder", rule=not_empty)
    exist_ok: bool = flag(False, "write into an existing run folder")
    seed: int = flag(0, "seed of everything random", rule=SEED)
    verbose: bool = flag(False, "report by layer and tensor what was taken over")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.searches and (self.cfg or self.width != 1 or self.insert):
            named = "--cfg" if self.cfg else "--insert" if self.insert else "--width"
            raise ValueError(
                f"{named} names the network, and --faster, --smaller and --flops search for one; name those "
                "to choose from with --candidates"
            )
        if self.candidates and not self.searches:
            raise ValueError("--candidates are chosen from by --faster, --smaller or --flops; give one")

    @property
    def budget(self) -> dict[str, float]:
        """The fractions of the teacher's costs that a search may take, by flag."""
        flags = {"faster": self.faster, "smaller": self.smaller, "flops": self.flops}
        return {name: most for name, most in flags.items() if most is not None}

    @property
    def searches(self) -> bool:
        """Whether the network is searched for."""
        return bool(self.budget)

    @property
    def timed_in(self) -> str:
        """The runtime in which latency is measured; empty where it is not."""
        return self.runtime or ("torch" if self.faster else "")

    @property
    def network(self) -> str:
        """The lighter network's name in tables."""
        name = Path(self.cfg).name.removesuffix(".yaml")
        width = "" if self.width == 1 else f"width {self.width:g}"
        return " ".join(filter(None, (name, width, *(f"+ {text}" for text in self.insert))))

    @property
    def student(self) -> str:
        """What the lighter network is, in words."""
        own = self.cfg or "the teacher's network"
        own = f"{own} with {', '.join(self.insert)}" if self.insert else own
        return own if self.width == 1 else f"{own} at {self.width:g} of its width"
