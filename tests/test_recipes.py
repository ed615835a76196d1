"""CONTRIBUTING, word for word: a block and a variant that are not in the tree, in a copy of the tree."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable

import pytest

from tests.training_runs import ENVIRONMENT, ROOT

PARTS = ("benchmarks", "curation", "data", "docs", "models", "tests", "training", "utils")
# a new file in models/blocks/, as the recipe has it; two of its blocks have no output-channel argument
BLOCKS = '''
"""Blocks of a paper that nobody has written: channels are weighted, or mixed with their neighbours."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.blocks.conv import Conv
from models.registry import per_channel, register, same, scaled


@register(per_channel)
class ChannelGain(nn.Module):
    """(B, c, H, W) -> the same, each channel times a learned gain."""

    def __init__(self, c1: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(c1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gain


@register(same)
class Rolled(nn.Module):
    """(B, c, H, W) -> the mean of every channel and the one before it."""

    def forward(self, x: Tensor) -> Tensor:
        return (x + x.roll(1, dims=1)) / 2


@register(scaled, example=(32, 3, 1))
class PairConv(nn.Module):
    """Two convolutions k x k in a row, the first with stride s. (B, c1, H, W) -> (B, c2, H / s, W / s)."""

    def __init__(self, c1: int, c2: int, k: int = 3, s: int = 1) -> None:
        super().__init__()
        self.cv1, self.cv2 = Conv(c1, c2, k, s), Conv(c2, c2, k)

    def forward(self, x: Tensor) -> Tensor:
        return self.cv2(self.cv1(x))
'''
NAMES = ("ChannelGain", "Rolled", "PairConv")
VARIANT = "yolov5n-unheard"


def variant(cost: str) -> str:
    """A copy of models/yolov5n.yaml in which a row is changed, with the comment lines of the recipe."""
    lines = (ROOT / "models" / "yolov5n.yaml").read_text(encoding="utf-8").splitlines(keepends=True)
    rows = "".join(line for line in lines if not line.startswith("#"))
    changed = rows.replace("Conv, [128, 3, 2]", "PairConv, [128, 3, 2]", 1)
    assert changed != rows, "the row of yolov5n.yaml that this test changes is gone"
    return f"# Change: layer 1 → PairConv\n# Source: nowhere.\n# {cost}\n{changed}"


Run = Callable[..., str]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Runs Python in a copy of the tree that has the two new files."""
    tree = tmp_path_factory.mktemp("tree")
    for part in PARTS:
        shutil.copytree(ROOT / part, tree / part, ignore=shutil.ignore_patterns("__pycache__"))
    for file in [*ROOT.glob("*.py"), *ROOT.glob("*.toml"), *ROOT.glob("*.md"), *ROOT.glob("*.yaml")]:
        shutil.copy(file, tree / file.name)
    (tree / "models" / "blocks" / "unheard.py").write_text(BLOCKS.lstrip(), encoding="utf-8")
    yaml = tree / "models" / f"{VARIANT}.yaml"
    yaml.write_text(variant("to be counted"), encoding="utf-8")

    def call(*command: str, status: int = 0) -> str:
        ended = subprocess.run(
            [sys.executable, *command], cwd=tree, env=ENVIRONMENT, capture_output=True, text=True
        )
        assert ended.returncode == status, ended.stdout[-3000:] + ended.stderr[-3000:]
        return ended.stdout + ended.stderr

    told = call("models/yolo.py", "--cfg", f"{VARIANT}.yaml").splitlines()[-1]
    found = re.search(r"([\d,]+) parameters, .* ([\d.]+) GFLOPs at 640", told)
    assert found, told
    cost = f"{found[1]} parameters, {found[2]} GFLOPs at 640 (80 classes)."
    yaml.write_text(variant(cost), encoding="utf-8")
    return call


@pytest.mark.slow
def test_two_files_are_a_block_and_a_variant_with_their_tests(run: Run) -> None:
    """No other file is touched; the suite tests each of the blocks and the layout by itself."""
    news = f"({' or '.join(NAMES)} or unheard) and not two_processes"  # these train all layouts
    chosen = f"{news} or test_common or test_architecture"
    files = ("blocks/test_every_block.py", "test_layouts.py", "test_deploy.py", "test_common.py")
    paths = ("tests/test_architecture.py", *(f"tests/models/{file}" for file in files))
    told = run("-m", "pytest", "-vv", "-p", "no:cacheprovider", "-k", chosen, *paths)
    for name in NAMES:
        assert f"test_output_has_the_declared_channels[{name}]" in told
    for test in ("test_comments_tell_the_cost", "test_batching_and_fusing_keep_the_result"):
        assert f"{test}[{VARIANT}]" in told
    assert "tests/models/test_common.py::" in told and "tests/test_architecture.py::" in told


@pytest.mark.slow
def test_the_documentation_is_stale_until_it_is_written(run: Run) -> None:
    assert "README.md: table models: " in run("benchmark.py", "docs", "--check", status=1)
    run("benchmark.py", "docs")
    run("benchmark.py", "docs", "--check")
