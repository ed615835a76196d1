"""detect.py in two processes under torchrun: what one process leaves, byte for byte."""

from __future__ import annotations

import pickle
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

import detect
from tests.detectors import content_of, detector
from tests.training_runs import TWO, run
from utils.checkpoints.files import write_checkpoint
from utils.data.frames import Source
from utils.data.sources import FileSource, Unread, expand
from utils.detections import sharing
from utils.detections.annotate import Style
from utils.detections.log import DetectedFrames
from utils.detections.sharing import MergingWriter, PartWriter, Sharing
from utils.detections.writer import OutputOptions, OutputWriter
from utils.distributed import Process
from utils.errors import UserError
from utils.flags import parse_flags

SAVES = ("--save-txt", "--save-conf", "--save-csv", "--save-crop", "--conf-thres", "0.3", "--max-det", "5")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "best.pt"
    write_checkpoint(path, content_of(detector("a", "b")))
    return path


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A list of ten: two of one name, one that is damaged, a video, and one that only begins well."""
    rng = np.random.default_rng(0)
    names = ["cat.png", "1.jpg", "2.png", "other/cat.png", "3.png", "clip_2.png", "4.png"]
    for number, name in enumerate(names):
        file = tmp_path / "pictures" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        image = rng.integers(0, 255, (64 + 8 * number, 96, 3), dtype=np.uint8)
        cv2.imwrite(str(file), cv2.resize(image[::16, ::16], (96, 64 + 8 * number)))
    (tmp_path / "pictures" / "2.png").write_bytes(b"no picture")
    clip = cv2.VideoWriter(
        str(tmp_path / "pictures" / "clip.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 10, (96, 64)
    )
    for number in range(5):
        clip.write(np.roll(cv2.resize(image[::16, ::16], (96, 64)), 4 * number, axis=1))
    clip.release()
    listed = tmp_path / "list.txt"
    order = [*names[:4], "clip.avi", *names[4:]]
    listed.write_text("".join(f"{tmp_path / 'pictures' / name}\n" for name in order), encoding="utf-8")
    return listed


def files_in(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.slow
def test_two_processes_leave_what_one_does(weights: Path, pictures: Path, tmp_path: Path) -> None:
    told = {}
    for name, start in (("one", (sys.executable,)), ("two", TWO)):
        flags = ("--weights", str(weights), "--source", str(pictures), "--imgsz", "96", "--name", name)
        done = run(*flags, *SAVES, "--project", str(tmp_path), command=(*start, "detect.py"))
        assert done.returncode == 1, done.stderr
        assert done.stderr.count("warning: left out: ") == 1
        assert done.stderr.count("error: 1 of 8 files could not be read, or not to their end") == 1
        assert "another process" not in done.stderr
        without_times = re.sub(r"\d+\.\d+ ?ms|in \d+\.\d s|clip.avi: \d+ %.*\n", "", done.stdout)
        told[name] = without_times.replace(str(tmp_path / name), "")
    assert told["two"] == told["one"]
    assert len(re.findall(r"^image \d/8 ", told["one"], flags=re.M)) == 6
    assert re.search(r"^video 5/8 .*: 5 frames", told["one"], flags=re.M)
    one, two = files_in(tmp_path / "one"), files_in(tmp_path / "two")
    assert two == one
    assert {"predictions.csv", "cat_2.png", "clip.mp4", "labels/cat_2.txt", "labels/clip_3.txt"} <= one.keys()
    assert any(name.startswith("crops/a/cat_2") for name in one)


def files_of(place: Path) -> FileSource:
    return FileSource(expand(str(place)))


def found_in(source: Source) -> Iterator[DetectedFrames]:
    """Something on each frame, which says from which it is, and a line of console's output."""
    for frames in source:
        place = float(frames[0].index + frames[0].number)
        rows = np.array([[place, 2, place + 9, 20, 0.5, place % 2], [0, 1, 20, 22, 0.4, 1]], np.float32)
        yield DetectedFrames(frames, [rows for _ in frames], (64, 96), (0.1, 0.2, 0.3))


@pytest.mark.parametrize("size", [1, 2, 64])
def test_merging(
    size: int,
    pictures: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Both processes in this one, one after the other; in rounds of `size` files each."""
    names, style = {0: "a", 1: "b"}, Style(2)
    options = OutputOptions(labels=True, table=True, crops=True)
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        folder.mkdir()
    source = files_of(pictures)
    with closing(OutputWriter(folders[0], options, names, style)) as alone:
        for found in found_in(source):
            alone.write(found.frames[0], found.detections[0])
    expected = str(source.shortfall())
    told_alone = capsys.readouterr().err

    monkeypatch.setattr(sharing, "ROUND", size)
    (parts := tmp_path / "two" / "parts").mkdir()
    drawn = OutputOptions(pictures=True, crops=True)
    shares: list[Any] = []
    other = Sharing(mine := files_of(pictures), Process(1, 2, 1))

    def keep(value: object) -> list[object]:
        shares.append(pickle.dumps(value))
        return [value]

    monkeypatch.setattr(sharing, "from_all", keep)
    assert list(other.merged(found_in(mine), PartWriter(parts, drawn, names, style))) == []
    assert max(map(len, shares)) < 20_000  # without the pictures

    gathered = iter(shares)
    monkeypatch.setattr(sharing, "from_all", lambda value: [value, pickle.loads(next(gathered))])
    main = Sharing(mine := files_of(pictures), Process(0, 2, 0))
    writer = MergingWriter(folders[1], options, names, style, parts)
    for found in main.merged(found_in(mine), PartWriter(parts, drawn, names, style)):
        writer.write(found.frames[0], found.detections[0])
    assert next(gathered, None) is None
    assert not [file for file in parts.rglob("*") if file.is_file()]
    shutil.rmtree(parts)
    assert files_in(folders[1]) == files_in(folders[0])
    assert str(main.shortfall()) == expected == "1 of 8 files could not be read, or not to their end"
    assert capsys.readouterr().err == told_alone
    assert (writer.label_files, writer.complete) == (alone.label_files, alone.complete) == (11, 11)


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (["--view-img", "--source", "a.png"], "--view-img has one window, for one of 2 processes"),
        (["--source", "-"], "2 processes share files, and '-' comes in its own time"),
        (["--source", "0"], "2 processes share files, and '0'"),
        (["--source", "screen 0"], "'screen 0' comes"),
    ],
)
def test_what_cannot_be_shared(flags: list[str], complaint: str) -> None:
    config = parse_flags(detect.DetectConfig, flags, about="")
    with pytest.raises(UserError, match=complaint):
        detect.run(config, Process(1, 2, 1))


@pytest.mark.parametrize(("count", "complaint"), [(1, "0.png"), (3, "none of the 3 files could be read")])
def test_nothing_that_can_be_read(
    count: int, complaint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(count):
        (tmp_path / f"{number}.png").write_bytes(b"no picture")
    source = files_of(tmp_path / "0.png" if count == 1 else tmp_path)
    main = Sharing(source, Process(0, 2, 0))
    other = Unread(1, "1.png"), *()
    monkeypatch.setattr(sharing, "from_all", lambda value: [value, ([], list(other[: count - 1]))])
    assert list(main.merged(found_in(source), None)) == []
    fault = main.shortfall()
    assert type(fault) is UserError and complaint in str(fault)
