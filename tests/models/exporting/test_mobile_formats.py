"""CoreML and LiteRT, which detect.py and val.py do not run."""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

import pytest
import yaml

from models.exporting import coreml, litert
from tests.models.exporting.jobs import expectation, make_job, shares
from utils.errors import UserError


@pytest.mark.slow
@pytest.mark.parametrize("half", [False, True])
def test_coreml_describes_the_network(tmp_path: Path, half: bool) -> None:
    """Only macOS runs the file; its description, its precision and its weights' size can be read anywhere."""
    tools = pytest.importorskip("coremltools")
    job = make_job(tmp_path / "best.mlpackage", half=half)
    coreml.export(job)
    spec = tools.utils.load_spec(str(job.target))
    (entry,), (result,) = spec.description.input, spec.description.output
    assert (entry.name, tuple(entry.type.multiArrayType.shape)) == ("images", (1, 3, 64, 96))
    assert result.name == "output0"
    assert dict(spec.description.metadata.userDefined).items() >= job.metadata.items()
    values = sum(p.numel() for p in job.network.parameters())
    weights = next(job.target.rglob("weight.bin")).stat().st_size
    width = 2 if half else 4
    assert 0.8 * width * values < weights < 2.0 * width * values


def test_litert_computes_the_same_and_carries_its_metadata(tmp_path: Path) -> None:
    pytest.importorskip("litert_torch")
    job = make_job(tmp_path / "best.tflite")
    litert.export(job)
    assert max(shares(litert.run(job.target, job.image), expectation(job))) < 1e-5
    assert job.target.read_bytes()[4:8] == b"TFL3"
    with zipfile.ZipFile(job.target) as archive:
        assert yaml.safe_load(archive.read("metadata.yaml")) == job.metadata


@pytest.mark.parametrize(
    ("exporter", "module", "command"),
    [
        (litert, "litert_torch", "pip install -r requirements-litert.txt"),
        (coreml, "coremltools", "pip install coremltools"),
    ],
)
def test_missing_packages(
    exporter: object, module: str, command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    job = make_job(tmp_path / "best")
    with pytest.raises(UserError, match=command):
        exporter.export(job)  # type: ignore[attr-defined]
    assert not job.target.exists()
