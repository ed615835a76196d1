from __future__ import annotations

import functools
import http.server
import io
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from utils.data.sources import FileSource, StdinSource, expand, is_stream, open_source
from utils.data.streams import ScreenSource, StreamSource
from utils.errors import UserError


def write_picture(path: Path, level: int = 50, shape: tuple[int, int] = (24, 32)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.full((*shape, 3), level, np.uint8))
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, level in (("b.png", 20), ("a.jpg", 10), ("c.bmp", 30)):
        write_picture(tmp_path / "pictures" / name, level)
    (tmp_path / "pictures" / "notes.md").write_text("no picture", encoding="utf-8")
    return tmp_path / "pictures"


@pytest.fixture(scope="session")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("video") / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10.0, (64, 48))
    assert writer.isOpened()
    for number in range(10):
        writer.write(np.full((48, 64, 3), number * 20, np.uint8))
    writer.release()
    return path


@pytest.fixture
def server(folder: Path) -> Iterator[str]:
    """The pictures over http."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *values: object) -> None: ...

    handler = functools.partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{httpd.server_port}"
        httpd.shutdown()


def levels(text: str, **options: int) -> list[int]:
    return [round(float(f.image.mean())) for group in open_source(text, **options) for f in group]


def names(text: str) -> list[str]:
    return [Path(frame.path).name for group in open_source(text) for frame in group]


def test_a_picture(folder: Path) -> None:
    source = open_source(str(folder / "b.png"))
    ((frame,),) = list(source)
    assert frame.mode == "image" and (frame.index, frame.count) == (0, 1)
    assert frame.image.shape == (24, 32, 3) and frame.image.dtype == np.uint8
    assert source.length == 1 and not source.live


def test_a_folder_gives_its_pictures_in_order(folder: Path) -> None:
    assert names(str(folder)) == ["a.jpg", "b.png", "c.bmp"]
    assert [f.index for group in open_source(str(folder)) for f in group] == [0, 1, 2]


def test_a_glob(folder: Path) -> None:
    write_picture(folder / "deep" / "er" / "d.png")
    assert names(str(folder / "*.[pb]*")) == ["b.png", "c.bmp"]
    assert names(str(folder / "**" / "*.png")) == ["b.png", "d.png"]


def test_brackets_in_a_file_name_are_no_glob(tmp_path: Path) -> None:
    assert names(str(write_picture(tmp_path / "odd [1].png"))) == ["odd [1].png"]


def test_a_list_file_is_relative_to_itself_or_to_the_working_directory(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_picture(folder.parent / "here.png")
    monkeypatch.chdir(folder.parent)
    (folder / "list.txt").write_text(
        f"# comment\n\nb.png\n{folder / 'a.jpg'}\nhere.png\npictures/c.*\n", encoding="utf-8"
    )
    assert names(str(folder / "list.txt")) == ["b.png", "a.jpg", "here.png", "c.bmp"]


def test_a_path_is_also_looked_up_beside_the_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    monkeypatch.setattr("utils.files.ROOT", folder.parent)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert names("pictures") == ["a.jpg", "b.png", "c.bmp"]


def test_standard_input(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = io.StringIO(f"{folder / 'b.png'}\n\n{folder / 'none.png'}\n{folder / 'a.jpg'}\n")
    frames = [frame for group in StdinSource(lines) for frame in group]
    assert [(Path(f.path).name, f.index, f.count) for f in frames] == [("b.png", 0, 0), ("a.jpg", 2, 0)]
    assert "none.png" in capsys.readouterr().err
    with pytest.raises(UserError, match="standard input"):
        list(StdinSource(io.StringIO("\n")))


def test_a_video(video: Path) -> None:
    frames = [frame for group in open_source(str(video)) for frame in group]
    assert [f.number for f in frames] == list(range(10))
    assert {(f.mode, f.frames, f.fps, f.image.shape) for f in frames} == {("video", 10, 10.0, (48, 64, 3))}
    assert [round(float(f.image.mean()), -1) for f in frames] == [n * 20 for n in range(10)]


def test_vid_stride_takes_every_third_frame(video: Path) -> None:
    frames = [frame for group in open_source(str(video), vid_stride=3) for frame in group]
    assert [round(float(f.image.mean()), -1) for f in frames] == [0, 60, 120, 180]
    assert frames[0].frames == 4 and frames[0].fps == pytest.approx(10 / 3)  # plays as long as before


def test_pictures_and_videos_in_one_folder(folder: Path, video: Path) -> None:
    (folder / "b_clip.avi").write_bytes(video.read_bytes())
    frames = [frame for group in open_source(str(folder)) for frame in group]
    assert [f.mode for f in frames] == ["image", "image", *["video"] * 10, "image"]
    assert {f.index for f in frames} == {0, 1, 2, 3} and open_source(str(folder)).length is None


def test_an_unreadable_picture_in_a_folder_is_left_out(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "aa.jpg").write_bytes(b"\xff\xd8\xffnot really")
    assert names(str(folder)) == ["a.jpg", "b.png", "c.bmp"]
    warning = capsys.readouterr().err
    assert "aa.jpg" in warning and warning.count("\n") == 1


def test_a_cut_off_video_is_read_in_part_and_counted(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, noise = folder / "cut.avi", np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10.0, (64, 48))
    for _ in range(20):
        writer.write(noise)
    writer.release()
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    source = open_source(str(folder))
    frames = [frame for group in source for frame in group]
    assert isinstance(source, FileSource)
    assert (source.files, source.faults) == (4, 1)
    assert 0 < sum(f.mode == "video" for f in frames) < 18
    assert "read in part: video" in (warning := capsys.readouterr().err) and "of 20 frames" in warning
    alone = open_source(str(path))
    assert isinstance(alone, FileSource) and len(list(alone)) == len(frames) - 3 and alone.faults == 1


def test_a_damaged_frame_ends_no_video(
    folder: Path, video: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Damaged:
        """A capture whose third frame cannot be decoded."""

        def __init__(self, file: str) -> None:
            self._capture, self._number = cv2.VideoCapture(file), 0

        def __getattr__(self, name: str) -> Any:
            return getattr(self._capture, name)

        def retrieve(self) -> tuple[bool, np.ndarray]:
            self._number += 1
            good, image = self._capture.retrieve()
            return good and self._number != 3, image

    (folder / "b_clip.avi").write_bytes(video.read_bytes())
    monkeypatch.setattr("utils.data.sources.open_capture", Damaged)
    frames = [frame for group in open_source(str(folder)) for frame in group if frame.mode == "video"]
    assert [frame.number for frame in frames] == [0, 1, *range(3, 10)]
    assert "1 frames are damaged" in capsys.readouterr().err


def test_an_unreadable_file_in_a_folder_on_standard_input_costs_no_other(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "aa.jpg").write_bytes(b"")
    source = StdinSource(io.StringIO(f"{folder}\n"))
    assert [Path(f.path).name for group in source for f in group] == ["a.jpg", "b.png", "c.bmp"]
    assert source.faults == 1 and "aa.jpg" in capsys.readouterr().err


def test_a_picture_behind_a_url(server: str) -> None:
    ((frame,),) = list(open_source(f"{server}/b.png?size=large"))
    assert frame.mode == "image" and frame.image.mean() == 20


def test_a_video_behind_a_url(server: str, folder: Path, video: Path) -> None:
    (folder / "clip.avi").write_bytes(video.read_bytes())
    assert [f.mode for group in open_source(f"{server}/clip.avi") for f in group] == ["video"] * 10


def test_which_texts_are_streams(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert is_stream("0") and is_stream("rtsp://host/a.mp4") and is_stream("http://host:8000/feed")
    assert not is_stream("http://host/a.mp4?x=1") and not is_stream("https://host/a.JPG")
    assert not is_stream("a/b.jpg")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "2017").mkdir()
    assert not is_stream("2017")  # an existing folder is meant


def test_screen_takes_monitor_and_region() -> None:
    assert isinstance(open_source("screen"), ScreenSource)
    whole = ScreenSource("screen 1")
    monitors = [
        {"left": 0, "top": 0, "width": 9, "height": 9},
        {"left": 5, "top": 6, "width": 7, "height": 8},
    ]
    assert whole._area(monitors) == monitors[1]
    assert ScreenSource("screen 1 2 3 4 5")._area(monitors) == {"left": 7, "top": 9, "width": 4, "height": 5}
    assert ScreenSource("screen 2 3 4 5")._area(monitors) == {"left": 2, "top": 3, "width": 4, "height": 5}
    with pytest.raises(UserError, match="monitors 0 to 1"):
        ScreenSource("screen 2")._area(monitors)


def test_screen_without_mss_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "mss", None)
    with pytest.raises(UserError, match="pip install mss"):
        next(iter(open_source("screen")))


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("missing.jpg", "'missing.jpg' not found"),
        ("*.jpg", "'\\*.jpg' matches no image"),
        ("empty", "folder 'empty' has no image"),
        ("text.doc", "'.doc' is no image or video"),
        ("empty.txt", "list file 'empty.txt' is empty"),
        ("binary.txt", "is not UTF-8 text"),
        ("stream.txt", "a list named \\*.streams"),
        ("broken.jpg", "broken.jpg"),
        ("broken.mp4", "cannot open video 'broken.mp4'"),
        ("ftp://host/x.jpg", "cannot open 'ftp://'"),
        ("http://127.0.0.1:9/x.jpg", "cannot get"),
        ("http://127.0.0.1:9/feed", "cannot open stream"),
        ("97", "cannot open webcam '97'"),
        ("screen 1 2", "expected 'screen"),
        ("missing.streams", "not found"),
    ],
)
def test_bad_input_is_one_line(
    text: str, complaint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.doc").write_text("x", encoding="utf-8")
    (tmp_path / "empty.txt").write_text("\n# nothing\n", encoding="utf-8")
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x80")
    (tmp_path / "stream.txt").write_text("rtsp://host/1\n", encoding="utf-8")
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff\x00")
    (tmp_path / "broken.mp4").write_bytes(b"0" * 100)
    if text == "*.jpg":
        (tmp_path / "broken.jpg").unlink()
    with pytest.raises(UserError, match=complaint) as caught:
        list(open_source(text))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("link", [["a"], ["a", "b"], ["a", "b", "c"]])
def test_a_list_that_names_itself(tmp_path: Path, link: list[str]) -> None:
    for name, following in zip(link, [*link[1:], link[0]]):
        (tmp_path / f"{name}.txt").write_text(f"{following}.txt\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"list file '.*a\.txt' names itself"):
        open_source(str(tmp_path / "a.txt"))


def test_a_list_may_be_named_twice(folder: Path) -> None:
    (folder / "one.txt").write_text("a.jpg\n", encoding="utf-8")
    (folder / "two.txt").write_text("one.txt\none.txt\n", encoding="utf-8")
    assert names(str(folder / "two.txt")) == ["a.jpg", "a.jpg"]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("http://[bad/x.jpg", "no valid URL"),
        ("rtsp://[bad", "no valid URL"),
        ("http://a b/x.jpg", "cannot get"),
        ("9" * 20, "webcam number"),
        ("9" * 200, "webcam number"),
        ("~no-such-user/x.jpg", "no-such-user"),
        ("~no-such-user/*.jpg", "no-such-user"),
    ],
)
def test_names_that_name_nothing(text: str, complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        list(open_source(text))


def test_only_unreadable_files_are_an_error(tmp_path: Path) -> None:
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(UserError, match="none of the 2 files"):
        list(open_source(str(tmp_path)))


def test_expand_and_classes(folder: Path, video: Path) -> None:
    assert expand(str(folder / "a.jpg")) == [str(folder / "a.jpg")]
    assert isinstance(open_source(str(folder)), FileSource)
    (folder / "cams.streams").write_text(f"{video}\n", encoding="utf-8")
    source = open_source(str(folder / "cams.streams"))
    assert isinstance(source, StreamSource) and source.live
