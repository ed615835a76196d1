from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from utils.data.images import read_image
from utils.detections.results import Results, count_classes
from utils.errors import UserError

NAMES = {0: "person", 1: "bus", 2: "tie/bow"}


@pytest.fixture
def results() -> Results:
    pictures = [np.full((100, 200, 3), (10, 20, 30), np.uint8), np.zeros((50, 40, 3), np.uint8)]
    rows = torch.tensor([[20.0, 10, 60, 50, 0.9, 0], [0, 0, 200, 100, 0.5, 1], [100, 40, 140, 90, 0.4, 0]])
    return Results(
        pictures, [rows, torch.zeros(0, 6)], NAMES, ["a.jpg", "b.png"], (0.2, 0.4, 0.02), (2, 3, 64, 128)
    )


def test_box_forms(results: Results) -> None:
    # 20…60 x 10…50 of a 200 x 100 picture
    assert results.xyxy[0][0].tolist() == pytest.approx([20, 10, 60, 50, 0.9, 0])
    assert results.xywh[0][0].tolist() == pytest.approx([40, 30, 40, 40, 0.9, 0])
    assert results.xyxyn[0][0].tolist() == pytest.approx([0.1, 0.1, 0.3, 0.5, 0.9, 0])
    assert results.xywhn[0][0].tolist() == pytest.approx([0.2, 0.3, 0.2, 0.4, 0.9, 0])
    assert results.xywhn[1].shape == (0, 6)


def test_length_index_and_list(results: Results) -> None:
    assert len(results) == 2 and len(results.tolist()) == 2
    second = results[1]
    assert second.files == ["b.png"] and len(second) == 1 and second.xyxy[0].shape == (0, 6)
    assert [len(one.pred[0]) for one in results] == [3, 0]


def test_pandas(results: Results) -> None:
    tables = results.pandas()
    table = tables.xyxy[0]
    assert list(table.columns) == ["xmin", "ymin", "xmax", "ymax", "confidence", "class", "name"]
    assert table["name"].tolist() == ["person", "bus", "person"] and table["class"].tolist() == [0, 1, 0]
    assert list(tables.xywhn[0].columns)[:4] == ["xcenter", "ycenter", "width", "height"]
    assert tables.xywh[0]["xcenter"][0] == 40
    assert tables.xyxy[1].empty and len(tables.xyxy[1].columns) == 7


def test_text_and_speed(results: Results, capsys: pytest.CaptureFixture[str]) -> None:
    results.print()
    lines = capsys.readouterr().out.splitlines()
    assert lines == str(results).splitlines()
    assert lines[0] == "image 1/2: 100x200 2 persons, 1 bus"
    assert lines[1] == "image 2/2: 50x40 no detections"
    # 0.2 s for two pictures is 100 ms each
    assert results.t == pytest.approx((100, 200, 10))
    assert lines[2].startswith("Speed: 100.0ms pre-process, 200.0ms inference, 10.0ms NMS")


def test_repr_is_one_short_line(results: Results) -> None:
    assert repr(results) == "<Results of 2 images: 2 persons, 1 bus; no detections>"
    assert repr(results[1]) == "<Results of 1 image: no detections>"
    results.pred, results.ims, results.files = results.pred * 40, results.ims * 40, results.files * 40
    assert repr(results).endswith("1 bus; …>") and len(repr(results)) < 100


def test_show_without_a_screen_says_so(results: Results, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UserError, match=r"show\(\) needs a screen, and there is no display; use save\(\)"):
        results.show()


def test_places_are_those_of_yolov5(
    results: Results, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert results.save() == Path("runs/detect/exp") and (tmp_path / "runs/detect/exp/a.jpg").is_file()
    results.crop()
    assert list((tmp_path / "runs/detect/exp2/crops").rglob("*.jpg"))


def test_count_classes() -> None:
    assert count_classes([1, 0, 1], NAMES) == "1 person, 2 buses"


def test_render_draws_into_the_pictures_and_save_does_not(results: Results, tmp_path: Path) -> None:
    before = [image.copy() for image in results.ims]
    assert results.imgs is results.ims
    folder = results.save(save_dir=tmp_path / "out")
    assert (results.ims[0] == before[0]).all()
    assert sorted(p.name for p in folder.iterdir()) == ["a.jpg", "b.jpg"]
    saved = read_image(folder / "a.jpg")
    assert saved.shape == (100, 200, 3)
    assert np.abs(saved[95, 70].astype(int) - (30, 20, 10)).max() < 12  # BGR in the file
    drawn = results.render()
    assert (drawn[0] != before[0]).any() and drawn[0] is results.ims[0]
    assert (drawn[1] == 0).all()


def test_save_numbers_its_folder_and_keeps_pictures_of_one_name_apart(
    results: Results, tmp_path: Path
) -> None:
    results.files = ["x/a.jpg", "y/a.jpg"]
    assert results.save(save_dir=tmp_path / "out") == tmp_path / "out"
    second = results.save(save_dir=tmp_path / "out")
    assert second == tmp_path / "out2"
    assert sorted(p.name for p in second.iterdir()) == ["a.jpg", "a_2.jpg"]


def test_crop(results: Results, tmp_path: Path) -> None:
    crops = results.crop(save_dir=tmp_path / "cut")
    assert [c["label"] for c in crops] == ["person 0.90", "bus 0.50", "person 0.40"]
    assert crops[0]["box"] == [20, 10, 60, 50] and crops[0]["cls"] == 0
    # 40 * 1.02 + 10 = 50.8: from 14.6 to 65.4, and from 4.6 to 55.4
    assert crops[0]["im"].shape == (51, 51, 3) and tuple(crops[0]["im"][0, 0]) == (10, 20, 30)
    files = sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*.jpg"))
    assert files == ["cut/crops/bus/a_2.jpg", "cut/crops/person/a.jpg", "cut/crops/person/a_3.jpg"]
    assert len(results.crop(save=False)) == 3


def test_crops_of_similar_pictures_stay_apart(results: Results, tmp_path: Path) -> None:
    results.files, results.pred = ["a.jpg", "a_2.jpg"], [results.pred[0][[0, 2]], results.pred[0][:1]]
    assert len(results.crop(save_dir=tmp_path / "cut")) == 3
    # the second crop of a is a_2, so the first one of a_2 is its second
    assert sorted(p.name for p in tmp_path.rglob("*.jpg")) == ["a.jpg", "a_2.jpg", "a_2_2.jpg"]
