"""Training and validation from tar shards are those from a folder: on disk, over a bad network, resumed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import train
import val
from benchmarks.killing import LIMIT, slowness, traces
from curation import shard
from tests.training_runs import ENVIRONMENT, PAIR, ROOT, TWO, assert_same_run, run
from tests.utils.data.shards.server import Server, serving
from utils.data import digits
from utils.data.shards import ranges

FLAGS = (
    "--cfg", "yolov5n.yaml", "--imgsz", "64", "--epochs", "2", "--batch-size", "4", "--workers", "0",
    "--device", "cpu", "--noplots",
)  # fmt: skip


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Digits in a folder and in shards, with a data yaml for each."""
    place = tmp_path_factory.mktemp("digits")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(digits, "SCENES", {"train": 16, "val": 6})
        digits.generate_digits(place / "set")
    names = [str(number) for number in range(10)]
    yaml = f"path: {place / 'set'}\ntrain: images/train\nval: images/val\nnames: {names}\n"
    (place / "files.yaml").write_text(yaml, encoding="utf-8")
    shard.run(shard.Config(data=str(place / "files.yaml"), out=str(place / "shards"), size=6))
    return place


@pytest.fixture(scope="module")
def reference(root: Path) -> Path:
    """The run on the folder. Do not write to it."""
    return train_on(root / "files.yaml", root / "reference")


@pytest.fixture
def server(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """Serves the shards; `remote` writes the data yaml of its address."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(ranges, "PAUSE", 0.001)
    with serving(root / "shards") as found:
        yield found


def remote(server: Server, folder: Path) -> Path:
    text = (server.root / "data.yaml").read_text(encoding="utf-8")
    (folder / "remote.yaml").write_text(f"path: {server.address}\n{text}", encoding="utf-8")
    return folder / "remote.yaml"


def train_on(data: Path, project: Path, *more: str) -> Path:
    train.main(["--data", str(data), *FLAGS, "--project", str(project), *more])
    return project / "exp"


def test_training_from_shards_is_training_from_the_folder(
    root: Path, reference: Path, tmp_path: Path
) -> None:
    assert_same_run(train_on(root / "shards/data.yaml", tmp_path), reference)


def test_validation_from_shards_writes_the_same_files(root: Path, reference: Path, tmp_path: Path) -> None:
    weights = str(reference / "weights/last.pt")
    for name, data in (("files", root / "files.yaml"), ("shards", root / "shards/data.yaml")):
        val.main(
            f"--weights {weights} --data {data} --imgsz 64 --save-txt --save-conf --conf-thres 0.0001"
            f" --noplots --project {tmp_path} --name {name} --device cpu".split()
        )
    files, shards = (sorted((tmp_path / name / "labels").iterdir()) for name in ("files", "shards"))
    assert [file.name for file in files] == [file.name for file in shards] and len(files) == 6
    assert [file.read_bytes() for file in files] == [file.read_bytes() for file in shards]
    assert any(file.stat().st_size for file in files)


@pytest.mark.slow
def test_training_over_a_network_that_fails(reference: Path, server: Server, tmp_path: Path) -> None:
    kinds = ("drop", "500", "cut", "shorter", "other", "429")
    server.mischief = lambda number: kinds[number // 3 % 6] if number % 3 == 2 else ""
    assert_same_run(train_on(remote(server, tmp_path), tmp_path, "--workers", "0"), reference)
    assert server.requests > 100


@pytest.mark.slow
def test_stopped_in_the_middle_of_an_epoch_and_resumed(
    reference: Path, server: Server, tmp_path: Path
) -> None:
    """The second batch of the second epoch is the last before the signal."""

    def signalled(self: object, step: int, batch: object) -> None:
        if step == 5:  # of 4 an epoch
            os.kill(os.getpid(), signal.SIGTERM)

    data = remote(server, tmp_path)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as ended:
        patch.setattr(train.RunPictures, "training_batch", signalled)
        train_on(data, tmp_path)
    assert ended.value.code == 128 + signal.SIGTERM
    last = tmp_path / "exp/weights/last.pt"
    done = run("--resume", str(last))
    assert done.returncode == 0 and "resuming at epoch 1, batch 2" in done.stdout + done.stderr
    assert_same_run(tmp_path / "exp", reference)


@pytest.mark.slow
def test_two_processes_share_the_shards(root: Path, server: Server, tmp_path: Path) -> None:
    runs = []
    for data in (root / "files.yaml", root / "shards/data.yaml", remote(server, tmp_path)):
        done = run("--data", str(data), *FLAGS, "--project", str(tmp_path), "--name", data.stem, command=PAIR)
        assert done.returncode == 0, done.stderr
        runs.append(tmp_path / data.stem)
    assert_same_run(runs[1], runs[0])
    assert_same_run(runs[2], runs[0])
    flags = (
        "--weights",
        str(runs[0] / "weights/last.pt"),
        "--imgsz",
        "64",
        "--save-txt",
        "--project",
        str(tmp_path),
    )
    done = run(
        *flags,
        "--data",
        str(root / "shards/data.yaml"),
        "--name",
        "two",
        "--noplots",
        command=(*TWO, "val.py"),
    )
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "two/labels").iterdir())) == 6


# ---- a server that does not answer ----


def test_a_server_that_is_down_is_one_line(
    reference: Path, server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = remote(server, tmp_path)
    server.mischief = lambda number: "503"
    with pytest.raises(ranges.UserError, match=r"cannot get bytes 0 to 1 of .* HTTP 503 .* \(5 attempts\)"):
        train_on(data, tmp_path)
    assert not list(tmp_path.rglob("*.pt"))
    asked = server.requests  # the scan is answered, pictures are not, and none of them becomes a grey one
    server.mischief = lambda number: "503" if number > asked + 6 else ""
    with pytest.raises(ranges.UserError, match="HTTP 503"):
        val.main(
            f"--weights {reference / 'weights/last.pt'} --data {data} --imgsz 64 --project {tmp_path} "
            "--device cpu --noplots".split()
        )


# after so many requests the server is silent: in the scan, or among the pictures
HANGING = {
    "scan": (1, signal.SIGINT, ("train.py", *FLAGS)),
    "processes": (30, signal.SIGTERM, ("train.py", *FLAGS, "--workers", "2", "--epochs", "300")),
    "alone": (30, signal.SIGINT, ("train.py", *FLAGS, "--epochs", "300")),
    "ram": (16, signal.SIGTERM, ("train.py", *FLAGS, "--cache", "ram")),
    "val": (6, signal.SIGINT, ("val.py", "--imgsz", "64", "--noplots", "--device", "cpu", "--weights")),
    "convert": (14, signal.SIGTERM, ("dataset.py", "convert", "--pictures", "copy", "--out")),
}
SILENT = 1.5  # seconds into the silence that the signal comes; reads would go on for fifty


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="sends signals to a session")
@pytest.mark.parametrize("name", HANGING)
def test_a_signal_ends_a_read(name: str, server: Server, reference: Path, tmp_path: Path) -> None:
    after, number, words = HANGING[name]
    server.mischief = lambda count: "hang" if count >= after else ""
    data = remote(server, tmp_path)
    last = {"val": [reference / "weights/last.pt"], "convert": [tmp_path / "out"]}.get(name, [])
    place = [] if name == "convert" else ["--project", tmp_path / "runs"]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, *words, *map(str, (*last, "--data", data, *place))], cwd=ROOT, stdout=log,
            stderr=log, env=ENVIRONMENT, start_new_session=True,
        )  # fmt: skip
    try:
        while server.requests <= after:
            assert process.poll() is None, (tmp_path / "log").read_text(encoding="utf-8")
            time.sleep(0.05)
        time.sleep(SILENT)
        begin = time.monotonic()
        os.killpg(process.pid, number)
        status = process.wait(60)
        dying = time.monotonic() - begin
    finally:
        process.kill()
    said = (tmp_path / "log").read_text(encoding="utf-8")
    assert status == 128 + number and "Traceback" not in said, said
    assert dying < LIMIT * slowness(), said
    assert traces([tmp_path]) == []
