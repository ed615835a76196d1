"""Metadata beside an artefact that cannot hold its own: `metadata.yaml`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import yaml


def write_metadata(path: Path, metadata: Mapping[str, str]) -> None:
    """Write `Job.metadata` as a yaml of plain texts; `yaml.safe_load` reads it back."""
    text = yaml.safe_dump(dict(metadata), allow_unicode=True, sort_keys=False)
    path.write_text(text, encoding="utf-8")
