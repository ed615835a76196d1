"""Checkpoint files: read without running anything in them, written so that a crash leaves the old one.

Formats, by content and suffix: official YOLOv5 `.pt`; our own `.pt`, plain values and tensors that also load
with `torch.load(path, weights_only=True)`; and `.safetensors`, weights with their description as JSON.
"""

from __future__ import annotations

import io
import json
import re
import struct
from pathlib import Path
from typing import Any, BinaryIO

import safetensors
import safetensors.torch
import torch

from utils.checkpoints.archive import REBUILT_TENSORS, TorchArchive
from utils.checkpoints.official import read_official
from utils.checkpoints.plain import PlainReader, checked_plain
from utils.checkpoints.unpickle import Node, RefusedError, read_pickle
from utils.errors import UserError
from utils.files import atomic_write

FORMAT, VERSION = "lean5", 1
# what describes the weights; goes into the metadata of a safetensors file
DESCRIPTION = (
    "yaml", "names", "nc", "stride", "anchors", "epoch", "best_fitness", "train_args", "hyp", "date",
)  # fmt: skip
MAX_HEADER = 4 << 20  # bytes of a safetensors header; yolov5x takes 0.1 MB
SAFE_DTYPES = ("F64", "F32", "F16", "BF16", "I64", "I32", "I16", "I8", "U8", "BOOL")
# what a file that is none begins with, and what to tell about it
OTHER_FILES = {
    rb"\Z": "is empty; the download or the copy failed",
    rb"\x80\x02|.*ustar": "written in the format of torch before 1.6, which is not read; load it with the "
    "software that wrote it and save it again with a current torch",
    rb"version https://git-lfs": "is a Git LFS pointer, not the file itself; run `git lfs pull`",
    rb"\s*<": "is a web page, not a checkpoint; the download went wrong",
    rb"": "is not a checkpoint; expected a YOLOv5 or Lean5 .pt, or a .safetensors file",
}


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint as plain values; nothing in the file is executed.

    Every key of `DESCRIPTION` is there (None when the file has none), and `format` ("lean5" or "yolov5"),
    `version`, `model` and `ema` (state dicts name -> tensor in the stored dtype, on CPU; one may be None),
    `optimizer`. Our own files bring their further keys, such as `resume`.

    Raises:
        UserError: missing, truncated, damaged, foreign or hostile file; the message says which.
        OSError: the file cannot be read.
    """
    path = Path(path)
    if not path.is_file():
        what = "is a folder; name a file in it" if path.is_dir() else "not found"
        raise UserError(f"checkpoint {str(path)!r} {what}")
    try:
        if path.suffix == ".safetensors":
            return _checked(_read_safetensors(path))
        with path.open("rb") as file:
            return _checked(_read_pt(file))
    except RefusedError as error:
        raise UserError(f"{path}: {error}") from error


def inference_state(checkpoint: dict[str, Any]) -> dict[str, torch.Tensor]:
    """The weights to predict with: the moving average when there is one, else the model."""
    return checkpoint["model"] if checkpoint["ema"] is None else checkpoint["ema"]


def write_checkpoint(path: str | Path, content: dict[str, Any]) -> None:
    """Write plain values and tensors to `path`, all of it or nothing; `format` and `version` are added.

    A `.safetensors` path takes the inference weights and their description only.

    Raises:
        TypeError: a value is not plain; the message names its key.
        OSError: the folder is not writable or the disk is full; an older file at `path` is untouched.
    """
    path = Path(path)
    plain = checked_plain({**content, "format": FORMAT, "version": VERSION})
    if path.suffix == ".safetensors":
        data = memoryview(_safetensors_bytes(plain))
    else:
        # in memory first: torch's zip writer is C++ and may end the process when a write to disk fails
        buffer = io.BytesIO()
        torch.save(plain, buffer)
        data = buffer.getbuffer()
    with atomic_write(path) as file:
        file.write(data)


def _read_pt(file: BinaryIO) -> dict[str, Any]:
    """A file of `torch.save`, told apart from others by its first bytes, for a message that helps."""
    head = file.read(64)
    if not head.startswith(b"PK\x03\x04"):
        kinds = (text for start, text in OTHER_FILES.items() if re.match(start, head, re.DOTALL))
        raise RefusedError(next(kinds))
    archive = TorchArchive(file)
    root = read_pickle(archive.read_pickle_bytes())
    if not isinstance(root, dict) or root.get("format") != FORMAT:
        _refuse_bare_state(root)
        return read_official(root, archive)
    version = root.get("version")
    if type(version) is not int or version > VERSION:
        raise RefusedError(f"has checkpoint version {version!r:.20}; this software reads up to {VERSION}")
    reader = PlainReader(archive)
    return {str(key): reader.read(value, str(key)) for key, value in root.items()}


def _refuse_bare_state(root: Any) -> None:
    """A state dict alone has no yaml to rebuild the model from."""
    values = root.items if isinstance(root, Node) else root
    if not isinstance(values, dict):
        raise RefusedError(f"holds {type(root).__name__}, not a checkpoint")
    if values and all(isinstance(v, Node) and v.name in REBUILT_TENSORS for v in values.values()):
        raise RefusedError(
            f"holds only a state dict of {len(values)} tensors, without the yaml that says how to rebuild "
            "the model; save a whole checkpoint"
        )


def _checked(content: dict[str, Any]) -> dict[str, Any]:
    """The content with every key present, after a look at the types that others rely on."""
    for key in (*DESCRIPTION, "model", "ema", "optimizer"):
        content.setdefault(key, None)
    for key in ("model", "ema"):
        state = content[key]
        if state is not None and not (
            type(state) is dict
            and all(type(k) is str and isinstance(v, torch.Tensor) for k, v in state.items())
        ):
            raise RefusedError(f"damaged: its '{key}' is no state dict")
    if not content["model"] and not content["ema"]:
        raise RefusedError("damaged: it holds no weights")
    if type(content["yaml"]) is not dict:
        raise RefusedError("damaged: its 'yaml' is no mapping")
    for key, value in (("nc", content["nc"]), ("epoch", content["epoch"])):
        if (key == "nc" or value is not None) and (type(value) is not int or abs(value) >= 1 << 31):
            raise RefusedError(f"its '{key}' is {type(value).__name__}, not an integer")
    names = content["names"]
    if type(names) is not dict or any(type(k) is not int or type(v) is not str for k, v in names.items()):
        raise RefusedError("its class names are no mapping from class number to text")
    return content


def _safetensors_bytes(content: dict[str, Any]) -> bytes:
    description = {key: content.get(key) for key in DESCRIPTION}
    description["names"] = list((content["names"] or {}).items())  # JSON has no integer keys
    # clones, because tensors in this format may not share memory
    state = {key: value.contiguous().clone() for key, value in inference_state(content).items()}
    return safetensors.torch.save(state, {"format": "pt", FORMAT: json.dumps(description)})


def _read_safetensors(path: Path) -> dict[str, Any]:
    try:
        _check_header(path)
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if FORMAT not in metadata:
                raise RefusedError("has no Lean5 metadata to rebuild the model from; convert the .pt instead")
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - it is no dict
        found = json.loads(metadata[FORMAT])
        description = {key: found.get(key) for key in DESCRIPTION}
        description["names"] = {int(key): name for key, name in description["names"]}
    except safetensors.SafetensorError as error:
        raise RefusedError(f"truncated or damaged: {' '.join(str(error).split())[:120]}") from error
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        if isinstance(error, RefusedError):
            raise
        raise RefusedError("damaged: its metadata does not describe a model") from error
    return {**description, "format": FORMAT, "version": VERSION, "model": state, "ema": None}


def _check_header(path: Path) -> None:
    """Refuse a safetensors file whose header is too long, or of two meanings, before the library reads it.

    The file begins with the length of a JSON text, (8 bytes, little-endian), which names each tensor's dtype,
    shape and place.
    """

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(pairs)) != len(pairs):
            raise RefusedError("damaged: its header has two entries of the same name")
        return dict(pairs)

    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8).ljust(8, b"\0"))
        if not 2 <= length <= min(MAX_HEADER, path.stat().st_size):
            raise RefusedError(f"truncated or damaged: its header would have {length} bytes")
        header = json.loads(file.read(length), object_pairs_hook=once)
    tensors = [value for key, value in header.items() if key != "__metadata__"]
    other = next((t["dtype"] for t in tensors if t["dtype"] not in SAFE_DTYPES), None)
    if other is not None:
        raise RefusedError(f"holds a tensor of dtype {str(other)[:20]!r}; known are {', '.join(SAFE_DTYPES)}")
