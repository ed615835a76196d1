"""Metadata beside an artefact that cannot hold its own: `metadata.yaml`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import yaml


def metadata_text(metadata: Mapping[str, str]) -> str:
    """`Job.metadata` as a yaml of plain texts; `yaml.safe_load` reads it back."""
    return yaml.safe_dump(dict(metadata), allow_unicode=True, sort_keys=False)


def write_metadata(path: Path, metadata: Mapping[str, str]) -> None:
    """Write `metadata_text` to a file."""
    path.write_text(metadata_text(metadata), encoding="utf-8")
