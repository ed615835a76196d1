from __future__ import annotations

import csv
import itertools
from pathlib import Path

import cv2
import numpy as np
import pytest

from utils.data.frames import Frame, Mode
from utils.detections.annotate import Style
from utils.detections.writer import OutputOptions, OutputWriter, spare_sources
from utils.errors import UserError

NAMES = {0: "cat", 1: "dog"}
ROWS = np.array([[10.0, 20, 50, 60, 0.75, 1]], np.float32)


def frame(
    path: str = "x/a.png", index: int = 0, mode: Mode = "image", number: int = 0, side: int = 100
) -> Frame:
    return Frame(np.zeros((side, 2 * side, 3), np.uint8), path, mode, index, 3, number, 5, 10.0)


def writer(folder: Path, **options: bool) -> OutputWriter:
    return OutputWriter(folder, OutputOptions(**{"pictures": False, **options}), NAMES, Style(2))


def read(folder: Path) -> dict[str, str]:
    return {p.name: p.read_text(encoding="utf-8") for p in (folder / "labels").glob("*")}


def test_label_rows(tmp_path: Path) -> None:
    # centre (30, 40) and size 40 x 40 in a picture of 200 x 100
    writer(tmp_path, labels=True).write(frame(), ROWS)
    assert read(tmp_path) == {"a.txt": "1 0.15 0.4 0.2 0.4\n"}


def test_label_rows_as_corners_with_confidence(tmp_path: Path) -> None:
    writer(tmp_path, labels=True, corners=True, confidences=True).write(frame(), ROWS)
    assert read(tmp_path) == {"a.txt": "1 10 20 50 60 0.75\n"}


def test_an_empty_picture_has_no_label_file_not_even_an_old_one(tmp_path: Path) -> None:
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "a.txt").write_text("of an earlier run", encoding="utf-8")
    output = writer(tmp_path, labels=True)
    output.write(frame(), ROWS[:0])
    assert read(tmp_path) == {} and output.label_files == 0


def test_pictures_of_one_name_stay_apart(tmp_path: Path) -> None:
    output = writer(tmp_path, labels=True, pictures=True)
    for index, path in enumerate(("x/a.png", "y/a.png", "y/a.jpg", "y/a_2.jpg")):
        output.write(frame(path, index), ROWS)
    assert sorted(read(tmp_path)) == ["a.txt", "a_2.txt", "a_2_2.txt", "a_3.txt"]
    assert sorted(p.name for p in tmp_path.glob("*.*")) == ["a.png", "a_2.png", "a_2_2.jpg", "a_3.jpg"]


def test_formats_that_cannot_be_written_become_jpeg(tmp_path: Path) -> None:
    writer(tmp_path, pictures=True).write(frame("a.avif"), ROWS)
    assert cv2.imread(str(tmp_path / "a.jpg")).shape == (100, 200, 3)


def test_table(tmp_path: Path) -> None:
    output = writer(tmp_path, table=True)
    output.write(frame(), ROWS)
    output.write(frame("clip.mp4", 1, "video", number=4), ROWS)
    with (tmp_path / "predictions.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    assert rows[0][:3] == ["Image Name", "Prediction", "Confidence"]
    assert rows[1] == ["a.png", "dog", "0.75", "10.0", "20.0", "50.0", "60.0", ""]
    assert rows[2][0] == "clip.mp4" and rows[2][-1] == "5"


def test_crops(tmp_path: Path) -> None:
    writer(tmp_path, crops=True).write(frame(), ROWS)
    assert cv2.imread(str(tmp_path / "crops" / "dog" / "a.jpg")).shape == (51, 51, 3)  # 40 * 1.02 + 10


def test_video_and_its_labels(tmp_path: Path) -> None:
    output = writer(tmp_path, pictures=True, labels=True)
    for number in range(5):
        output.write(frame("clip.avi", 0, "video", number), ROWS)
    output.close()
    assert sorted(read(tmp_path)) == [f"clip_{n}.txt" for n in range(1, 6)]
    capture = cv2.VideoCapture(str(tmp_path / "clip.mp4"))
    assert capture.get(cv2.CAP_PROP_FRAME_COUNT) == 5 and capture.get(cv2.CAP_PROP_FPS) == 10
    good, picture = capture.read()
    assert good and picture.shape == (100, 200, 3) and picture.max() > 100  # the box is in it


def test_streams_side_by_side_and_a_change_of_resolution(tmp_path: Path) -> None:
    output = writer(tmp_path, pictures=True)
    for number in range(3):
        for index in range(2):
            side = 100 if number < 2 else 60
            output.write(frame(f"rtsp://host:55{index}/a", index, "stream", number, side), ROWS)
    output.close()
    for name in ("rtsp_host_550_a.mp4", "rtsp_host_551_a.mp4"):
        assert cv2.VideoCapture(str(tmp_path / name)).get(cv2.CAP_PROP_FRAME_COUNT) == 3


def test_an_unwritable_folder_is_an_error(tmp_path: Path) -> None:
    output = writer(tmp_path / "gone", pictures=True)
    (tmp_path / "gone").write_text("a file in the way", encoding="utf-8")
    with pytest.raises(OSError):
        output.write(frame(), ROWS)
    with pytest.raises(OSError, match="cannot write video"):
        output.write(frame("clip.avi", 1, "video"), ROWS)


def test_a_photograph_and_the_frames_of_a_video_stay_apart(tmp_path: Path) -> None:
    output = writer(tmp_path, labels=True, crops=True)
    output.write(frame("v.mp4", 0, "video", 0), ROWS)
    output.write(frame("v_1.jpg", 1), ROWS)
    output.write(frame("v_01.jpg", 2), ROWS)  # no frame is ever called so
    assert sorted(read(tmp_path)) == ["v_01.txt", "v_1.txt", "v_1_2.txt"]
    assert len(list((tmp_path / "crops" / "dog").iterdir())) == 3


@pytest.mark.parametrize("order", list(itertools.permutations(range(5))))
def test_any_order_of_similar_names_ends_with_files_apart(order: tuple[int, ...], tmp_path: Path) -> None:
    """A picture and a video of one stem; numbers that frames, pictures and videos could have alike."""
    items = [("c.mp4", "video"), ("x/c.png", "image"), ("y/c.png", "image"), ("c_2.mp4", "video"),
             ("c_2_1.jpg", "image")]  # fmt: skip
    output = writer(tmp_path, labels=True, pictures=True)
    for index, item in enumerate(order):
        path, mode = items[item]
        for number in range(2 if mode == "video" else 1):
            output.write(frame(path, index, mode, number), ROWS)  # type: ignore[arg-type]
    output.close()
    assert output.label_files == len(read(tmp_path)) == 7
    assert len([p for p in tmp_path.iterdir() if p.is_file()]) == 5


def test_a_picture_and_a_video_keep_the_name_they_share(tmp_path: Path) -> None:
    output = writer(tmp_path, labels=True, pictures=True)
    output.write(frame("clip.mp4", 0, "video", 0), ROWS)
    output.write(frame("clip.png", 1), ROWS)
    output.close()
    assert sorted(read(tmp_path)) == ["clip.txt", "clip_1.txt"]
    assert sorted(p.name for p in tmp_path.glob("*.*")) == ["clip.mp4", "clip.png"]


def test_a_video_after_a_photograph_gives_way(tmp_path: Path) -> None:
    output = writer(tmp_path, labels=True)
    output.write(frame("v_1.jpg", 0), ROWS)
    output.write(frame("v.mp4", 1, "video", 0), ROWS)
    assert sorted(read(tmp_path)) == ["v_1.txt", "v_2_1.txt"]


def test_crops_of_similar_names_stay_apart(tmp_path: Path) -> None:
    output = writer(tmp_path, crops=True)
    output.write(frame("a.png", 0), np.repeat(ROWS, 2, axis=0))
    output.write(frame("a_2.png", 1), ROWS)
    names = sorted(p.name for p in (tmp_path / "crops" / "dog").iterdir())
    assert names == ["a.jpg", "a_2.jpg", "a_2_2.jpg"]


def test_sources_are_not_written_over(tmp_path: Path) -> None:
    source = tmp_path / "photo.png"
    source.write_bytes(b"a photograph")
    pictures, labels = OutputOptions(), OutputOptions(pictures=False, labels=True)
    with pytest.raises(UserError, match=r"would replace the source .*photo\.png"):
        spare_sources(tmp_path, pictures, [str(source)])
    spare_sources(tmp_path, labels, [str(source)])
    spare_sources(tmp_path / "new", pictures, [str(source), "gone.jpg", "http://host/photo.png"])
    with pytest.raises(UserError, match="would replace"):  # named late, on standard input
        writer(tmp_path, pictures=True).write(frame(str(source)), ROWS)
    assert source.read_bytes() == b"a photograph"


def test_links_to_sources_and_crops_are_not_written_over(tmp_path: Path) -> None:
    source = tmp_path / "photo.png"
    source.write_bytes(b"a photograph")
    (tmp_path / "run" / "crops" / "dog").mkdir(parents=True)
    (tmp_path / "run" / "crops" / "dog" / "photo.png").hardlink_to(source)
    spare_sources(tmp_path / "run", OutputOptions(), [str(source)])
    with pytest.raises(UserError, match="would replace"):
        spare_sources(tmp_path / "run", OutputOptions(crops=True), [str(source)])


TRACKED = np.column_stack((np.repeat(ROWS, 2, axis=0), [3, -1])).astype(np.float32)


def test_tracks_in_table_and_labels(tmp_path: Path) -> None:
    output = writer(tmp_path, table=True, labels=True, tracks=True)
    output.write(frame("clip.mp4", 1, "video", number=4), TRACKED)
    with (tmp_path / "predictions.csv").open(newline="", encoding="utf-8") as file:
        header, first, second = csv.reader(file)
    assert header[-2:] == ["Frame", "Track"] and first[-2:] == ["5", "3"] and second[-2:] == ["5", ""]
    assert read(tmp_path) == {"clip_5.txt": "1 0.15 0.4 0.2 0.4 3\n1 0.15 0.4 0.2 0.4 -1\n"}


def test_a_file_of_the_mot_challenge_for_each_video(tmp_path: Path) -> None:
    (tmp_path / "mot").mkdir()
    (tmp_path / "mot" / "a.txt").write_text("of an earlier run\n", encoding="utf-8")
    output = writer(tmp_path, mot=True, tracks=True)
    for index, path in enumerate(("x/a.mp4", "y/a.mp4")):
        for number in range(2):
            output.write(frame(path, index, "video", number), TRACKED)
    output.write(frame("z/empty.mp4", 2, "video"), TRACKED[:0])
    line = ",3,10,20,40,40,0.7500,-1,-1,-1\n"
    found = {p.name: p.read_text(encoding="utf-8") for p in (tmp_path / "mot").iterdir()}
    assert found == {"a.txt": f"1{line}2{line}", "a_2.txt": f"1{line}2{line}", "empty.txt": ""}
