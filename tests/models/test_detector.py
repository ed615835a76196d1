from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from models.detector import Detector, load_picture, prepare
from models.runtimes.base import Backend
from models.runtimes.opening import load_backend
from models.yolo import DetectionModel
from utils.data.images import read_image
from utils.detections.results import Results
from utils.errors import UserError

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::torch.jit.TracerWarning")


class Fixed(Backend):
    """Finds the same boxes in every image: cx, cy, w, h in pixels of its input, objectness, scores."""

    pt = True

    def __init__(self, rows: list[list[float]], shape: tuple[int, int] | None = None) -> None:
        super().__init__(torch.device("cpu"))
        self.rows = torch.tensor(rows)
        self.names, self.stride, self.shape = {0: "cat", 1: "dog"}, 32, shape
        self.any_shape = shape is None
        self.seen: list[Tensor] = []

    def forward(self, images: Tensor, augment: bool = False) -> Tensor:
        self.seen.append(images)
        return self.rows.expand(len(images), -1, -1).clone()


CAT = [320.0, 240, 100, 60, 0.9, 0.8, 0.1]
DOG = [325.0, 240, 100, 60, 0.8, 0.1, 0.9]


def grey(height: int, width: int) -> np.ndarray:
    return np.full((height, width, 3), 90, np.uint8)


def test_prepare_one_picture() -> None:
    picture = np.zeros((30, 40, 3), np.uint8)
    picture[..., 0] = 200  # blue in BGR
    batch = prepare([picture], 64)
    # 30 x 40 at scale 1.6 is 48 x 64, padded to 64 x 64 with 8 rows above and below
    assert batch.images.shape == (1, 3, 64, 64) and batch.images.dtype == torch.uint8
    assert batch.images[0, :, 30, 30].tolist() == [0, 0, 200]  # RGB
    assert batch.images[0, :, 7, 30].tolist() == [114] * 3 and batch.sources == [(30, 40)]


@pytest.mark.parametrize(
    ("shapes", "size", "exact", "expected"),
    [
        ([(480, 640)], 640, False, (480, 640)),
        ([(480, 640)], 640, True, (640, 640)),
        ([(480, 640)] * 2, 640, False, (480, 640)),
        ([(480, 640), (640, 480)], 640, False, (640, 640)),
        ([(480, 640), (300, 640)], 640, False, (480, 640)),
        ([(100, 100), (480, 640)], 640, False, (640, 640)),  # small pictures are enlarged
        ([(480, 640)], 100, False, (96, 128)),  # 100 is rounded up to 128
        ([(480, 640)], (320, 640), False, (320, 448)),  # 426.7 wide, next multiple of 32
    ],
)
def test_prepared_shapes(
    shapes: list[tuple[int, int]], size: int | tuple[int, int], exact: bool, expected: tuple[int, int]
) -> None:
    assert prepare([grey(*shape) for shape in shapes], size, exact=exact).size == expected


def test_boxes_come_back_in_pixels_of_the_picture() -> None:
    detector = Detector(Fixed([CAT]))
    results = detector(grey(960, 1280))  # twice the size that the network sees
    assert isinstance(results, Results)
    # centre (320, 240), 100 x 60 at half scale: 270…370 x 210…270, twice that in the picture
    assert results.xyxy[0].tolist()[0] == pytest.approx([540, 420, 740, 540, 0.72, 0], abs=1e-3)
    assert results.s == (1, 3, 480, 640) and results.names == {0: "cat", 1: "dog"}


def test_settings_reach_the_suppression() -> None:
    detector = Detector(Fixed([CAT, DOG]))
    found: Callable[[], list[float]] = lambda: detector(grey(480, 640)).xyxy[0][:, 5].tolist()  # noqa: E731
    assert sorted(found()) == [0, 1]
    detector.agnostic = True
    assert found() == [0]  # 0.9 * 0.8 = 0.72 and 0.8 * 0.9 = 0.72: the first one stays
    detector.agnostic, detector.classes = False, [1]
    assert found() == [1]
    detector.classes, detector.max_det = None, 1
    assert len(found()) == 1
    detector.max_det, detector.conf = 1000, 0.75
    assert found() == []


def test_a_list_of_mixed_pictures_makes_one_batch(tmp_path: Path) -> None:
    backend = Fixed([CAT])
    path = tmp_path / "red.png"
    Image.new("RGB", (64, 48), (250, 0, 0)).save(path)
    pictures = [
        str(path),
        path,
        Image.open(path),
        np.asarray(Image.open(path)),  # RGB
        np.asarray(Image.open(path)).transpose(2, 0, 1),
        torch.from_numpy(np.array(Image.open(path))),
        np.asarray(Image.open(path)) / 255.0,
        Image.new("RGBA", (64, 48), (250, 0, 0, 9)),
    ]
    results = Detector(backend)(pictures, size=64)
    assert len(results) == len(pictures) and results.files[:4] == ["red.png"] * 3 + ["image3.jpg"]
    assert all(image.shape == (48, 64, 3) and tuple(image[0, 0]) == (250, 0, 0) for image in results.ims)
    centre = backend.seen[0][:, :, 32, 32] * 255
    assert torch.allclose(centre, torch.tensor([250.0, 0, 0]).expand(len(pictures), 3))


def test_grey_pictures() -> None:
    image, name = load_picture(np.full((10, 12), 7, np.uint8), 4)
    assert image.shape == (10, 12, 3) and (image == 7).all() and name == "image4.jpg"


@pytest.mark.parametrize(
    ("picture", "level"),
    [
        (np.full((10, 12), 0x80FF, np.uint16), 0x80),
        (np.full((10, 12), 0x80FF, ">u2"), 0x80),
        (np.full((10, 12), True), 255),
        (np.full((10, 12), 0.2, np.float16), 51),
        (np.full((10, 12), 1.0005), 255),  # what interpolation leaves
        (torch.full((3, 10, 12), 0.5, dtype=torch.bfloat16), 128),
        (Image.fromarray(np.full((10, 12), 0x80FF, np.uint16)), 0x80),
    ],
)
def test_pictures_of_other_types(picture: object, level: int) -> None:
    image, _ = load_picture(picture)
    assert image.dtype == np.uint8 and image.shape == (10, 12, 3) and (image == level).all()


def test_training_mode_does_not_reach_the_network() -> None:
    network = DetectionModel("yolov5n.yaml", nc=2)
    detector = Detector(network).train()
    assert not network.training and len(detector(grey(64, 64), size=64)) == 1
    network.train()  # behind the detector's back
    names = dict(detector.names)
    with pytest.raises(UserError, match="evaluation mode"):
        detector(grey(64, 64), size=64)
    assert detector.names == names


def test_a_float_batch_is_used_as_it_is_and_gives_raw_predictions() -> None:
    backend = Fixed([CAT])
    batch = torch.rand(2, 3, 480, 640)
    prediction = Detector(backend)(batch)
    assert torch.equal(backend.seen[0], batch)
    assert isinstance(prediction, torch.Tensor) and torch.equal(prediction, backend(batch))


def test_a_network_of_one_shape_gets_that_shape() -> None:
    backend = Fixed([CAT], shape=(96, 160))
    Detector(backend)([grey(480, 640), grey(20, 20)], size=640)
    assert backend.seen[0].shape == (2, 3, 96, 160)


def test_names_that_do_not_fit_give_way_to_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    backend = Fixed([CAT])
    backend.names = {0: "only"}
    detector = Detector(backend)
    held = detector.names  # as a log or a writer does
    results = detector(grey(480, 640))
    assert results.names == held == {0: "class0", 1: "class1"}
    assert "2 classes, 1 names" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("pictures", "complaint"),
    [
        ([], "no pictures"),
        ("missing.jpg", "missing.jpg"),
        (3.5, "cannot detect on a float"),
        (np.zeros((5, 5, 2)), r"found \(5, 5, 2\)"),
        (np.zeros((0, 4, 3)), "found"),
        (torch.zeros(1, 3, 33, 64), "multiples of 32"),
        (torch.zeros(1, 3, 64, 64, dtype=torch.uint8), "float 0–1"),
        (torch.zeros(1, 4, 64, 64), "float 0–1"),
        (torch.full((1, 3, 64, 64), 200.0), "from 0 to 1, found 200 to 200"),
        (torch.full((1, 3, 64, 64), torch.nan), "from 0 to 1, found nan"),
        (torch.zeros(0, 3, 64, 64), "found no values"),
        (np.full((4, 4, 3), 200, np.int32), "found int32"),
        (np.full((4, 4, 3), 200.0), "found float64 200 to 200"),
        (np.full((4, 4, 3), np.nan), "found float64 nan"),
        (np.full((4, 4, 3), -1.0), "found float64 -1"),
    ],
)
def test_bad_pictures(pictures: object, complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        Detector(Fixed([CAT]))(pictures)


@pytest.fixture(scope="module")
def detector(official_weights: Path) -> Detector:
    return Detector(load_backend(official_weights))


def test_bus_in_every_form(detector: Detector, shared: Path) -> None:
    path = shared / "data" / "bus.jpg"
    rgb = read_image(path)[..., ::-1]
    results = detector([path, str(path), Image.open(path), rgb, torch.from_numpy(rgb.copy())])
    assert all(torch.allclose(p, results.xyxy[0], atol=1e-3) for p in results.xyxy)
    table = results.pandas().xyxy[0]
    assert table["name"].tolist().count("person") >= 3 and "bus" in set(table["name"])


def test_one_picture_and_a_list_agree(detector: Detector, shared: Path) -> None:
    bus, zidane = shared / "data" / "bus.jpg", shared / "data" / "zidane.jpg"
    both = detector([bus, zidane])
    assert both.s == (2, 3, 640, 640)
    assert (both.xyxy[1][:, 5] == 0).sum() >= 2  # two men
    alone = detector(zidane)
    assert alone.s == (1, 3, 384, 640)
    assert alone.xyxy[0][0].tolist() == pytest.approx(both.xyxy[1][0].tolist(), rel=0.05, abs=0.05)


def test_augmentation_finds_the_same_things(detector: Detector, shared: Path) -> None:
    picture = shared / "data" / "bus.jpg"
    plain, augmented = detector(picture), detector(picture, augment=True)
    assert set(plain.xyxy[0][:, 5].tolist()) <= set(augmented.xyxy[0][:, 5].tolist())


def test_trace(detector: Detector, tmp_path: Path) -> None:
    example = torch.rand(1, 3, 64, 96)
    traced = torch.jit.trace(detector, example)
    other = torch.rand(1, 3, 64, 96)
    with torch.inference_mode():
        expected = detector.backend(other)
    assert expected.shape == (1, 3 * (8 * 12 + 4 * 6 + 2 * 3), 85)
    assert torch.allclose(traced(other), expected, atol=1e-3)
    path = tmp_path / "v5n.torchscript"
    config = json.dumps({"shape": [1, 3, 64, 96], "stride": 32, "names": detector.names})
    torch.jit.save(traced, str(path), _extra_files={"config.txt": config})
    reopened = load_backend(path)
    assert reopened.names == detector.names
    assert torch.allclose(reopened(other), expected, atol=1e-3)


def test_settings_of_modules_work(detector: Detector, shared: Path) -> None:
    before = detector(shared / "data" / "zidane.jpg").xyxy[0]
    after = detector.to("cpu").float().eval()(shared / "data" / "zidane.jpg").xyxy[0]
    assert torch.equal(before, after)
