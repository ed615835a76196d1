"""`benchmark.py maps`: how far the maps of a lighter network are off, stage by stage."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import benchmark
from benchmarks.lightening.maps import Distance, comparable, rows
from models.transfer import inherit
from models.yolo import DetectionModel
from tests.models.exporting.weights import lively
from utils.checkpoints.files import write_checkpoint
from utils.errors import Incomplete, UserError


def saved(model: DetectionModel, file: Path) -> str:
    names = {0: "blue", 1: "green"}
    content = {"yaml": model.yaml, "nc": 2, "names": names, "ema": None, "model": model.state_dict()}
    write_checkpoint(file, content)
    return str(file)


@pytest.fixture(scope="module")
def teacher() -> DetectionModel:
    torch.manual_seed(0)
    return lively(DetectionModel("yolov5n.yaml", nc=2))


def test_by_hand() -> None:
    """Channels of variance 4 and 1 that are off by 1 and 0: 1 / 5 together, (1 / 4 + 0) / 2 by channel."""
    wanted = torch.tensor([[-2.0, 2.0], [-1.0, 1.0]])[None, :, None]
    distance = Distance()
    for _ in range(3):  # as often as the same comes, the shares stay
        distance.add(wanted + torch.tensor([1.0, 0.0])[:, None, None], wanted)
    assert distance.share() == pytest.approx((0.2, 0.125))


def test_only_the_stages_behind_a_change_are_off(
    teacher: DetectionModel, tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changed = DetectionModel("yolov5n.yaml", nc=2)
    changed.load_state_dict(teacher.state_dict())
    with torch.no_grad():
        changed.model[20].cv3.bn.bias += 1.0
    slim = DetectionModel("yolov5n-slimneck.yaml", nc=2)
    inherit(slim, teacher, exclude=())
    pictures = str(tiny_data.parent / "images" / "val")
    files = [saved(model, tmp_path / f"{i}.pt") for i, model in enumerate((teacher, changed, slim))]
    flags = ("--source", pictures, "--imgsz", "64", "--workers", "0", "--device", "cpu", "--batch-size", "3")
    benchmark.main(["maps", "--weights", files[0], "--students", *files, *flags])
    same, one, all_of_neck = (
        " ".join(part.splitlines()[:2]) for part in capsys.readouterr().out.split("\nsource  ")[1:]
    )
    assert "layer" not in same and "0.000 (0.000)" in same
    assert [word for word in one.split() if word.isdigit()] == ["20", "23"]
    assert [word for word in all_of_neck.split() if word.isdigit()] == ["13", "17", "20", "23"]


def test_what_cannot_be_compared(teacher: DetectionModel, tiny_data: Path, tmp_path: Path) -> None:
    pictures = str(tiny_data.parent / "images" / "val")
    grey = saved(DetectionModel("yolov5n.yaml", ch=1, nc=2), tmp_path / "grey.pt")
    weights = saved(teacher, tmp_path / "a.pt")
    flags = ("maps", "--weights", weights, "--imgsz", "64", "--workers", "0", "--device", "cpu")
    wide = saved(DetectionModel("yolov5n6.yaml", nc=2), tmp_path / "wide.pt")
    for student, complaint in (
        (grey, "its pictures have 1 channels, not 3"),
        (wide, "sides of its pictures are multiples of 64, not of 32"),
    ):
        with pytest.raises(UserError, match=f"{Path(student).name}: {complaint}"):
            benchmark.main([*flags, "--students", student, "--source", pictures])
    for source in ("0", "rtsp://camera", "https://example.com/a.jpg"):
        with pytest.raises(
            UserError, match=f"--source {source}: name a folder, a glob or a list of pictures"
        ):
            benchmark.main([*flags, "--students", weights, "--source", source])
    picture = next(Path(pictures).iterdir()).read_bytes()
    (tmp_path / "broken.png").write_bytes(picture[: len(picture) // 2])
    with pytest.raises(UserError, match=r"broken\.png: no picture can be read"):
        benchmark.main([*flags, "--students", weights, "--source", str(tmp_path / "broken.png")])


def test_what_is_left_out_is_counted(
    teacher: DetectionModel, tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "some"
    folder.mkdir()
    for number, file in enumerate(sorted((tiny_data.parent / "images" / "val").iterdir())):
        data = file.read_bytes()
        (folder / file.name).write_bytes(data if number else data[: len(data) // 2])
    weights = saved(teacher, tmp_path / "a.pt")
    flags = (
        "--imgsz",
        "64",
        "--workers",
        "0",
        "--device",
        "cpu",
        "--weights",
        weights,
        "--students",
        weights,
    )
    with pytest.raises(Incomplete, match="1 pictures cannot be read; the figures are those of the others"):
        benchmark.main(["maps", *flags, "--source", str(folder)])
    said = capsys.readouterr().out
    assert "0.000 (0.000)" in said and f"of {folder} at 64 px on cpu, against {weights}" in said


@pytest.mark.parametrize("left_out", ["--students", "--source"])
def test_what_has_to_be_named(left_out: str, capsys: pytest.CaptureFixture[str]) -> None:
    flags = {"--weights": "a.pt", "--students": "b.pt", "--source": "c"}
    words = [word for name, value in flags.items() if name != left_out for word in (name, value)]
    with pytest.raises(SystemExit) as caught:
        benchmark.main(["maps", *words])
    assert caught.value.code == 2 and f"{left_out} must not be empty" in capsys.readouterr().err


def test_a_video_is_no_picture(teacher: DetectionModel, tmp_path: Path) -> None:
    weights = saved(teacher, tmp_path / "a.pt")
    (tmp_path / "clip.mp4").write_bytes(b"film")
    with pytest.raises(UserError, match=r"clip\.mp4: no picture can be read"):
        benchmark.main(
            ["maps", "--weights", weights, "--students", weights, "--source", str(tmp_path / "clip.mp4")]
        )


def test_a_stage_that_is_not_finite_is_no_equal_one() -> None:
    found = {"here": [(0.0, 0.0), (float("nan"), float("nan")), (0.5, 0.25)]}
    head, row = rows(found, {1: 4, 2: 6, 3: 9})
    assert head == ("source", "mean", "layer 6", "layer 9")
    assert row == ("here", "nan (nan)", "nan (nan)", "0.500 (0.250)")


def test_stages_of_other_widths_are_named(teacher: DetectionModel, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    foreign = DetectionModel("yolov5n-shufflenetv2-backbone.yaml", nc=2)
    same = comparable(foreign, teacher, "foreign.pt")
    assert {13, 17, 20, 23} <= {*same.values()}
    gone = caplog.messages[-1].removeprefix(
        "foreign.pt: not compared, as it has other channels there: layers "
    )
    assert gone and not {*map(int, gone.split(", "))} & {*same.values()}
