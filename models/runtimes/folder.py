"""Folders that hold an exported network."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from utils.errors import UserError


def the_pair(folder: Path, suffix: str) -> tuple[Path, Path]:
    """The one file of a suffix in a folder, and the file with its weights, which ends in .bin.

    Raises:
        UserError: no such file, several of them, or no weights beside it.
    """
    found = sorted(file for file in folder.iterdir() if file.name.endswith(suffix) and file.is_file())
    if len(found) != 1:
        names = ", ".join(file.name for file in found[:3])
        there = f"{len(found)} {suffix} files ({names})" if found else f"no {suffix} file"
        raise UserError(f"'{folder}' must hold one {suffix} file with its .bin; it has {there}")
    weights = found[0].with_suffix(".bin")
    if not weights.is_file():
        raise UserError(f"'{folder}' has {found[0].name} without its {weights.name}; export it again")
    return found[0], weights


def checksum(files: Sequence[Path]) -> str:
    """The SHA-256 of the files' contents one after the other, in hexadecimal."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()
