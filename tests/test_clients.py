"""The clients of `examples/` find what the hub finds in the same file."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

import export
import hubconf
from utils.files import ROOT

SIDE = 320
Command = list[str | Path]


@pytest.fixture(scope="module")
def network(official_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ONNX file for OpenCV."""
    weights = tmp_path_factory.mktemp("clients") / "y.pt"
    weights.write_bytes(official_weights.read_bytes())
    flags = ["--include", "onnx", "--opset", "12", "--imgsz", str(SIDE)]
    export.main(["--weights", str(weights), *flags])
    return weights.with_suffix(".onnx")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The client in C++."""
    for program in ("g++", "pkg-config"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
    found = subprocess.run(["pkg-config", "--cflags", "--libs", "opencv4"], capture_output=True, text=True)
    if found.returncode:
        pytest.skip("OpenCV's headers are not installed (Debian and Ubuntu: libopencv-dev)")
    program = tmp_path_factory.mktemp("built") / "client"
    flags = ["-O2", "-std=c++17", "-Wall", "-Wextra", "-Werror"]
    source = ROOT / "examples" / "client.cpp"
    subprocess.run(["g++", *flags, source, "-o", program, *found.stdout.split()], check=True, timeout=300)
    return program


@pytest.fixture(params=["python", "c++"])
def client(request: pytest.FixtureRequest) -> Command:
    """What starts a client."""
    if request.param == "python":
        return [sys.executable, ROOT / "examples" / "client.py"]
    return [request.getfixturevalue("built")]


def run(client: Command, *words: str | Path) -> subprocess.CompletedProcess[str]:
    """A client, in a process without this repository on its path."""
    return subprocess.run([*client, *words], capture_output=True, text=True, timeout=300, cwd=ROOT.anchor)


def test_clients_find_what_the_hub_finds(
    client: Command, network: Path, shared: Path, tmp_path: Path
) -> None:
    bus = cv2.imread(str(shared / "data" / "bus.jpg"))  # 1080 high, 810 wide
    # wide, with odd padding: 803 x 320 / 1080 = 237.9, so 82 pixels are left; and one to be enlarged
    pictures = {
        "bus": bus,
        "wide": np.hstack((bus[:803], bus[:803, :270])),
        "small": cv2.resize(bus, (150, 200)),
    }
    detector = hubconf.custom(network, device="cpu", _verbose=False)
    for name, picture in pictures.items():
        file = tmp_path / f"{name}.png"
        cv2.imwrite(str(file), picture)
        (expected,) = detector(str(file), size=SIDE).xyxy
        done = run(client, network, file, str(SIDE))
        assert (done.returncode, done.stderr) == (0, "")
        found = np.array([line.split() for line in done.stdout.splitlines()], float)
        assert len(found) == len(expected) >= 2
        assert (found[:, 0] == expected[:, 5].numpy()).all()
        assert np.abs(found[:, 1:5] - expected[:, :4].numpy()).max() < 1
        assert np.abs(found[:, 5] - expected[:, 4].numpy()).max() < 0.005


def test_nothing_is_found_in_grey(client: Command, network: Path, tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "grey.png"), np.full((60, 80, 3), 114, np.uint8))
    done = run(client, network, tmp_path / "grey.png", str(SIDE))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_what_goes_wrong_is_told_in_one_line(
    client: Command, network: Path, shared: Path, tmp_path: Path
) -> None:
    bus = shared / "data" / "bus.jpg"
    for words, told in (
        ((network, bus), "usage: "),
        ((network, bus, "x"), "usage: "),
        ((network, tmp_path / "no.jpg", str(SIDE)), "error: cannot read picture '"),
        ((tmp_path / "no.onnx", bus, str(SIDE)), "error: '"),
        ((network, bus, "640"), f"error: '{network}' cannot run at 640: "),
    ):
        done = run(client, *words)
        # OpenCV's own log stands before it
        lines = [line for line in done.stderr.splitlines() if line and not line.startswith("[")]
        assert done.returncode == 1 and done.stdout == "" and len(lines) == 1 and lines[0].startswith(told)
