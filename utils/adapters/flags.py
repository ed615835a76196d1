"""Flags of YOLOv5, of all its versions, that are not accepted here, and what there is in their place."""

from __future__ import annotations

from collections.abc import Collection

UPLOADS = "neither data nor weights are uploaded"
ALIAS = "has another name here"
WANDB = "--loggers wandb tells Weights & Biases of a run; its variables say the rest"
NDJSON = "results.csv in the run folder has a line an epoch, for programs; --loggers mlflow tells a service"

# by their spelling; those that are accepted, with or without effect, stand in the commands' configurations
ELSEWHERE = {
    "--adam": f"{ALIAS}: --optimizer Adam",
    "--artifact_alias": f"{UPLOADS}; --loggers wandb tells Weights & Biases of a run",
    "--bbox_interval": f"{WANDB}, and pictures of the first batches go there as they are drawn",
    "--bucket": "nothing is uploaded; copy the run folder, for example with gsutil cp -r",
    "--dynamic-batch": f"{ALIAS}: --dynamic, which frees the sides too",
    "--entity": f"{WANDB}: WANDB_ENTITY=NAME python train.py --loggers wandb",
    "--global_rank": "processes learn their rank from torchrun --nproc_per_node N train.py; leave it out",
    "--grid": "files give decoded boxes without it; --raw leaves the maps of the head as they are",
    "--linear-lr": "the learning rate decays linearly by default; leave it out",
    "--log-artifacts": f"{UPLOADS}; --loggers wandb tells Weights & Biases of a run",
    "--log-imgs": f"{WANDB}, and pictures of the first batches go there as they are drawn",
    "--ndjson-console": NDJSON,
    "--ndjson-file": NDJSON,
    "--notest": f"{ALIAS}: --noval",
    "--output": f"{ALIAS}: --project FOLDER --name NAME",
    "--train": "files are for inference; --raw leaves the maps of the head as they are",
    "--update": "weights are used as they are; `python -m models.weights old.pt new.pt` rewrites a file",
    "--upload_dataset": f"{UPLOADS}; --loggers wandb tells Weights & Biases of the rest",
    "--visualize": "feature maps are not drawn; `python models/yolo.py --cfg NAME` lists layers and shapes",
}


# advice that means something only to commands with another flag
NEEDS = {"--output": "--project", "--grid": "--raw", "--train": "--raw", "--dynamic-batch": "--dynamic"}


def replacement(word: str, known: Collection[str]) -> str:
    """What to use in place of a flag that stood on a command line, alone or as --flag=value; or nothing.

    Args:
        known: the flags that the command has.
    """
    spelling = word.partition("=")[0]
    needed = NEEDS.get(spelling)
    advice = ELSEWHERE.get(spelling) if needed is None or needed in known else None
    return f"{spelling}: {advice}" if advice else ""
