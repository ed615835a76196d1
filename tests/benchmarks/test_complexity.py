"""`python benchmark.py complexity`: its numbers, its flags, what it refuses, and the page about it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import benchmark
from benchmarks.complexity import COLUMNS, Config, build, count
from models.cfg import load_cfg
from models.registry import BLOCKS, Entry, same
from models.yolo import DetectionModel
from utils.checkpoints.files import write_checkpoint
from utils.counting.conventions import CONVENTIONS
from utils.counting.measure import measure
from utils.errors import UserError
from utils.files import ROOT
from utils.flags import parse_flags

PAGE = (ROOT / "docs" / "counting.md").read_text(encoding="utf-8")
TINY: dict[str, Any] = {
    "nc": 2,
    "depth_multiple": 1.0,
    "width_multiple": 1.0,
    "anchors": 1,
    "backbone": [[-1, 1, "Conv", [8, 3, 2]], [-1, 1, "Conv", [8, 3, 2]]],
    "head": [[[0, 1], 1, "Detect", ["nc", "anchors"]]],
}


def printed(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    benchmark.main(["complexity", *argv])
    return capsys.readouterr().out


def records(capsys: pytest.CaptureFixture[str], *argv: str) -> list[dict[str, Any]]:
    return json.loads(printed(capsys, *argv, "--json"))


def row(text: str, number: int = 1) -> dict[str, str]:
    """A line of the table by column."""
    return dict(
        zip(COLUMNS, re.sub(r"x ([\d.]+)", r"\1", text.splitlines()[number]).split()[-len(COLUMNS) :])
    )


@pytest.fixture
def tiny(tmp_path: Path) -> str:
    path = tmp_path / "tiny.yaml"
    path.write_text(json.dumps(TINY), encoding="utf-8")
    return str(path)


# ---- numbers ----


def test_every_number_of_a_tiny_model(tiny: str, capsys: pytest.CaptureFixture[str]) -> None:
    (fused,) = records(capsys, tiny, "--imgsz", "32")
    (unfused,) = records(capsys, tiny, "--imgsz", "32", "--convention", "bn")
    # values: image 3 x 32 x 32 = 3072, maps 8 x 16 x 16 = 2048 and 8 x 8 x 8 = 512; 7 outputs for each place
    products = 2 * (2048 * 27 + 512 * 72 + (256 + 64) * 7 * 8)
    assert fused["flops"] == fused["operations"]["products"] == products
    assert unfused["flops"] == products + 8 * (2048 + 512)
    assert (fused["fused"], unfused["fused"]) == (True, False)
    head = 2 * (7 * 8 + 7)
    assert fused["parameters"] == 8 * 27 + 8 + 8 * 72 + 8 + head
    assert unfused["parameters"] == 8 * 27 + 16 + 8 * 72 + 16 + head
    # thop: 4 multiply-adds for a normalised value, twice
    assert (fused["thop"], unfused["thop"]) == (products, unfused["flops"])
    assert fused["operations"]["biases"] == 2048 + 512 + 7 * 320
    assert fused["depth"] == unfused["depth"] == 3
    # folding saves a read and a write of every normalised map, and the four vectors of each norm less a bias
    assert unfused["bytes_written"] - fused["bytes_written"] == 4 * (2048 + 512)
    assert unfused["bytes_read"] - fused["bytes_read"] == 4 * (2048 + 512 + 2 * (4 * 8 - 8))
    # unfused: the first layer holds the image, its convolution's result and the norm's
    assert unfused["peak_bytes"] >= 4 * (3072 + 2 * 2048)
    assert all(
        type(fused[key]) is int for key in ("flops", "bytes_read", "bytes_written", "peak_bytes", "thop")
    )


@pytest.mark.parametrize(
    ("name", "nc", "conv", "bn"),
    [  # GFLOPs that were published, for convolutions alone and with BatchNorm
        pytest.param("yolov5n.yaml", None, "4.47", "4.56", marks=pytest.mark.slow),
        pytest.param("yolov5s.yaml", None, "16.43", "16.62", marks=pytest.mark.slow),
        pytest.param("yolov5s-ghost.yaml", None, "8.71", "8.88", marks=pytest.mark.slow),
        ("yolov5n-csppc.yaml", None, "3.48", "3.55"),
        ("yolov5n-csppc.yaml", 20, None, "3.29"),
    ],
)
def test_published_conventions(name: str, nc: int | None, conv: str | None, bn: str) -> None:
    flops = {way: count(name, nc=nc, fuse=False, convention=way)["flops"] for way in CONVENTIONS}
    assert conv in (None, f"{flops['conv'] / 1e9:.2f}")
    assert f"{flops['bn'] / 1e9:.2f}" == bn
    assert flops["bn"] < flops["thop"] < flops["all"]


def test_table_of_several_models(capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(capsys, "yolov5n.yaml", "yolov5n-gsconv.yaml", "--imgsz", "320")
    first, second, ratios = (row(text, number) for number in (1, 2, 3))
    assert first["parameters"] == "1,867,405"
    assert first["GFLOPs"] == "1.117"  # 4.468 / 4
    assert (first["depth"], second["depth"]) == ("50", "54")
    assert ratios["depth"] == "1.080"
    assert ratios["parameters"] == "0.942"  # 1,759,565 / 1,867,405
    assert "of one 320 x 320 image in float32" in text


def test_ratios_in_json(capsys: pytest.CaptureFixture[str]) -> None:
    base, other = records(capsys, "yolov5n.yaml", "yolov5n-gsconv.yaml", "--imgsz", "64")
    assert set(base["ratios"].values()) == {1.0}
    for key, ratio in other["ratios"].items():
        assert ratio == pytest.approx(other[key] / base[key], abs=1e-6)


def test_without_the_thop_package(
    tiny: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "thop", None)  # importing it fails
    (record,) = records(capsys, tiny, "--imgsz", "32", "--convention", "thop")
    assert record["thop_package"] is None
    assert record["flops"] == record["thop"] == count_of_tiny(32) + 8 * (2048 + 512)
    assert "pip install thop" in printed(capsys, tiny, "--imgsz", "32")


def test_a_disagreement_with_the_thop_package_is_said(
    tiny: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("thop")
    assert "the package itself agrees" in printed(capsys, tiny)
    monkeypatch.setattr("benchmarks.complexity.thop_flops", lambda model, image: 3_000_000_000)
    assert "thop: the package itself counts 3.000 for tiny.yaml" in printed(capsys, tiny)


def test_layers_add_up(capsys: pytest.CaptureFixture[str]) -> None:
    (whole,) = records(capsys, "yolov5n-gsconv.yaml", "--per-layer", "--imgsz", "128")
    layers = whole["layers"]
    assert [layer["index"] for layer in layers] == list(range(25))
    for key in ("parameters", "flops", "thop", "bytes_read", "bytes_written"):
        assert sum(layer[key] for layer in layers) == whole[key]
    assert max(layer["peak_bytes"] for layer in layers) == whole["peak_bytes"]
    assert layers[-1]["depth"] == whole["depth"]
    assert (layers[12]["from"], layers[12]["module"], layers[12]["flops"]) == ([-1, 6], "Concat", 0)
    text = printed(capsys, "yolov5n-gsconv.yaml", "--per-layer", "--imgsz", "128")
    table = text.split("yolov5n-gsconv.yaml:\n")[1].splitlines()
    assert len(table) == 26
    assert table[1].split()[:4] == ["0", "-1", "1", f"{layers[0]['parameters']:,}"]
    assert table[13].split()[-2:] == ["Concat", "1"]


def test_models_may_stand_anywhere(tiny: str) -> None:
    config = parse_flags(
        Config, [tiny, "--nc", "3", "b.yaml", "--cfg", "c.yaml", "d.yaml", "--weights", "e.pt"]
    )
    assert config.names == (tiny, "b.yaml", "c.yaml", "d.yaml", "e.pt")
    assert (config.nc, config.imgsz, config.fuse) == (3, 640, True)


@pytest.mark.parametrize("convention", ["conv", "bn", "all", "thop"])
def test_form_follows_the_convention_unless_told(convention: str) -> None:
    flags = ["yolov5n.yaml", "--convention", convention]
    assert parse_flags(Config, flags).fuse == (convention == "conv")
    assert parse_flags(Config, [*flags, "--fused"]).fuse
    assert not parse_flags(Config, [*flags, "--unfused"]).fuse


# ---- checkpoints ----


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    model = DetectionModel(TINY)
    path = tmp_path / "best.pt"
    content = {"model": model.state_dict(), "yaml": model.yaml, "names": model.names, "nc": model.nc}
    write_checkpoint(path, content)
    return path


def test_a_checkpoint_counts_as_its_yaml(
    checkpoint: Path, tiny: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = checkpoint.read_bytes()
    for flags in ([], ["--nc", "7"], ["--unfused"]):
        ours, theirs = records(capsys, tiny, "--weights", str(checkpoint), "--imgsz", "64", *flags)
        assert (ours.pop("model"), theirs.pop("model")) == ("tiny.yaml", "best.pt")
        assert ours == theirs
        assert ours["nc"] == (7 if flags == ["--nc", "7"] else 2)
    assert checkpoint.read_bytes() == before


def test_the_official_checkpoint(official_weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (record,) = records(capsys, str(official_weights), "--unfused")
    assert (record["nc"], record["parameters"], record["flops"]) == (80, 1_872_157, 4_468_121_600)


# ---- faults ----


@pytest.mark.parametrize(
    ("argv", "complaint"),
    [
        (["yolov5n-gsconf.yaml"], "file 'yolov5n-gsconf.yaml' not found; did you mean yolov5n-gsconv.yaml"),
        (["yolov5n.yaml", "--nc", "0"], "yolov5n.yaml: nc is 0; it must be an integer >= 1"),
        (["yolov5n.yaml", "--imgsz", "650"], "takes multiples of its stride 32; use 640 or 672"),
        (["yolov5n.yaml", "--imgsz", "20"], "takes multiples of its stride 32; use 32"),
        (["yolov5s6.yaml", "--imgsz", "96"], "takes multiples of its stride 64; use 64 or 128"),
        (["missing.pt"], "file 'missing.pt' not found"),
        (["--weights", "README.md"], "README.md: "),
    ],
)
def test_faults_are_named(argv: list[str], complaint: str) -> None:
    with pytest.raises(UserError, match=re.escape(complaint)):
        benchmark.main(["complexity", *argv])


@pytest.mark.parametrize(
    ("argv", "complaint"),
    [
        ([], "name at least one model"),
        (["yolov5n.yaml", "--fused", "--unfused"], "--fused and --unfused exclude each other"),
        (["yolov5n.yaml", "--convention", "macs"], "invalid choice: 'macs'"),
        (["yolov5n.yaml", "--imgsz", "0"], "--imgsz must lie between 1 and 16384, found 0"),
    ],
)
def test_wrong_flags_end_with_one_line(
    argv: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        benchmark.main(["complexity", *argv])
    assert end.value.code == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert complaint in message


def test_the_largest_model_takes_no_time() -> None:
    count("yolov5n.yaml", 64)  # loads what meta tensors need
    start = time.process_time()
    assert count("yolov5x.yaml")["parameters"] == 86_705_005
    assert time.process_time() - start < 3


def test_the_command_as_a_user_runs_it(tmp_path: Path) -> None:
    script = [sys.executable, str(ROOT / "benchmark.py"), "complexity"]
    done = subprocess.run([*script, "yolov5x.yaml", "--json"], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)[0]["parameters"] == 86_705_005
    done = subprocess.run([*script, "yolov5q.yaml"], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: file 'yolov5q.yaml' not found")
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


class Spectrum(nn.Module):
    """Uses an operator that nobody has a rule for."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.fft.fft2(x).real + x


class Demanding(nn.Module):
    """Cannot be built without data."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = float(torch.rand(1).item())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.scale


class DataDependent(nn.Module):
    """Cannot run without data once built."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 2 if x.sum() > 0 else x


@pytest.fixture
def with_block(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """A yaml with one more block, which is known for the length of the test."""

    def make(block: type[nn.Module]) -> str:
        monkeypatch.setitem(BLOCKS, block.__name__, Entry(block, same))
        path = tmp_path / "one.yaml"
        backbone = [*TINY["backbone"], [-1, 1, block.__name__, []]]
        path.write_text(
            json.dumps(TINY | {"backbone": backbone, "head": [[[0, 2], *TINY["head"][0][1:]]]}),
            encoding="utf-8",
        )
        return str(path)

    return make


def test_an_operator_without_a_rule_is_listed(
    with_block: Any, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    (record,) = records(capsys, with_block(Spectrum), "--imgsz", "64", "--convention", "all")
    assert record["unknown_operators"] == ["aten._fft_c2c"]
    assert caplog.messages == ["one.yaml: not counted, for want of a rule: aten._fft_c2c"]
    caplog.clear()
    records(capsys, with_block(Spectrum), "--imgsz", "64", "--convention", "thop")
    assert caplog.messages == []  # thop counts layers, not operators


def test_a_block_that_needs_data_to_be_built(with_block: Any) -> None:
    model = build(with_block(Demanding))
    assert all(tensor.is_meta for tensor in model.state_dict().values())
    assert count(str(with_block(Demanding)), 64)["flops"] == count_of_tiny(64)


def count_of_tiny(side: int) -> int:
    a, b = (side // 2) ** 2, (side // 4) ** 2
    return 2 * (8 * a * 27 + 8 * b * 72 + (a + b) * 7 * 8)


def test_a_block_that_looks_at_values_is_refused(with_block: Any) -> None:
    complaint = r"^cannot be counted without running it: one.yaml: layer 2 \(DataDependent\): "
    with pytest.raises(UserError, match=complaint):
        count(with_block(DataDependent), 64)


# ---- docs/counting.md ----

COMMANDS = re.findall(r"^python benchmark\.py (.+?) +# (.+)$", PAGE, flags=re.M)


def test_the_page_reproduces_every_quoted_number() -> None:
    said = [re.search(r"([\d.]+) GFLOPs", claims) for _, claims in COMMANDS]
    rounded = {f"{float(match[1]):.1f}" for match in said if match}
    assert {"15.8", "15.9", "16.4", "16.5", "16.6", "16.8"} <= rounded
    assert PAGE.count("python benchmark.py complexity yolov5") == len(COMMANDS) == 8


@pytest.mark.parametrize(("command", "claims"), COMMANDS, ids=[command for command, _ in COMMANDS])
def test_commands_of_the_page_print_what_stands_beside_them(
    command: str, claims: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = command.split()
    benchmark.main(words)
    text = capsys.readouterr().out
    models = sum(word.endswith(".yaml") for word in words)
    found = row(text, 2 * models - 1)  # the last of the ratios when there are several
    for claim in claims.split(", "):
        if match := re.fullmatch(r"(?:x )?([\d.,]+) (.+)", claim):
            assert found[match[2]] == match[1]
        else:
            assert claim in text  # a part such as `biases 0.026`


def test_the_table_of_the_page() -> None:
    sizes, quoted, counted = (
        [cell.strip() for cell in line.strip("|").split("|")][1:]
        for line in PAGE.splitlines()
        if line.startswith(("| GFLOPs at 640", "| table of v6.1", "| products + 2"))
    )
    assert len(sizes) == 10
    for size, quote, said in zip(sizes, quoted, counted):
        model = build(f"yolov5{size}.yaml").eval().fuse()
        operations = measure(model, torch.empty(1, 3, 640, 640, device="meta")).operations
        gflops = (operations["products"] + 2 * operations["biases"]) / 1e9
        assert (f"{gflops:.4f}", f"{gflops:.1f}") == (said, quote)


def test_other_numbers_of_the_page() -> None:
    assert "16.661 (`--convention all`)" in PAGE
    flops = {way: count("yolov5s.yaml", fuse=False, convention=way)["flops"] for way in CONVENTIONS}
    assert f"{flops['all'] / 1e9:.3f}" == "16.661"
    assert max(flops["bn"], flops["thop"]) < flops["all"]
    assert "8.2 G for YOLOv5s" in PAGE
    assert f"{flops['conv'] / 2e9:.1f}" == "8.2"
    assert "`--imgsz 416` takes 0.42 of 640" in PAGE
    ratio = count("yolov5s.yaml", 416)["flops"] / flops["conv"]
    assert ratio == pytest.approx((416 / 640) ** 2, rel=1e-9)
    assert load_cfg("yolov5s")["nc"] == 80
