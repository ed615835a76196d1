"""Flags of YOLOv5, of all its versions, that are not accepted here, and what there is in their place."""

from __future__ import annotations

ALIAS = "has another name here"
WANDB = "Weights & Biases is not used; results.csv and TensorBoard's files in the run folder have all values"
NDJSON = "results.csv in the run folder has a line an epoch, for programs"

# by their spelling; those that are accepted, with or without effect, stand in the commands' configurations
ELSEWHERE = {
    "--adam": f"{ALIAS}: --optimizer Adam",
    "--artifact_alias": WANDB,
    "--bbox_interval": WANDB,
    "--bucket": "nothing is uploaded; copy the run folder, for example with gsutil cp -r",
    "--entity": WANDB,
    "--linear-lr": "the learning rate decays linearly by default; leave it out",
    "--log-artifacts": WANDB,
    "--log-imgs": WANDB,
    "--ndjson-console": NDJSON,
    "--ndjson-file": NDJSON,
    "--notest": f"{ALIAS}: --noval",
    "--update": "weights are used as they are; `python -m models.weights old.pt new.pt` rewrites a file",
    "--upload_dataset": WANDB,
    "--visualize": "feature maps are not drawn; `python models/yolo.py --cfg NAME` lists layers and shapes",
}


def replacement(word: str) -> str:
    """What to use in place of a flag that stood on a command line, alone or as --flag=value; or nothing."""
    spelling = word.partition("=")[0]
    advice = ELSEWHERE.get(spelling)
    return f"{spelling}: {advice}" if advice else ""
