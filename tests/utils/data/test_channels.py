"""Grey, colour and four channels: how files are read, and that every step treats a channel as the others."""

from __future__ import annotations

import dataclasses
import struct
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from tests.utils.data.augment.pictures import draw_of, objects_of
from tests.utils.data.test_images import CASES, encoded
from utils.data.augment.colour import Colour
from utils.data.augment.picture import Draw, Picture
from utils.data.augment.quad import quadruple
from utils.data.augment.recipe import recipe
from utils.data.batch import BatchArrays
from utils.data.channels import (
    checked_channels,
    colour_of_planes,
    stacked,
    with_channels,
    write_planes,
)
from utils.data.dataset import DetectionDataset
from utils.data.image_cache import open_store
from utils.data.images import read_image
from utils.data.index import DatasetIndex, build_index
from utils.data.letterbox import BACKGROUND, letterbox
from utils.data.loader import Loader
from utils.errors import UserError
from utils.hyperparameters import Hyperparameters
from utils.seeding import generator_for


def noise(height: int = 40, width: int = 60, channels: int = 4, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)


BANDS = noise()  # blue, green, red, fourth


@pytest.mark.parametrize("value", [1, 3, 4])
def test_numbers_that_pictures_have(value: int) -> None:
    assert checked_channels(value, "a.yaml: ch") == value


@pytest.mark.parametrize("value", [0, 2, 5, 12, -3, "3", 3.0, None, True, [3]])
def test_other_numbers_are_refused_in_one_line(value: object) -> None:
    with pytest.raises(UserError, match=r"^a\.yaml: ch is .*; pictures have 1 channel \(grey\)[^\n]*$"):
        checked_channels(value, "a.yaml: ch")


def test_conversions() -> None:
    grey, colour = with_channels(BANDS, 1), with_channels(BANDS, 3)
    assert np.array_equal(colour, BANDS[..., :3])
    assert np.array_equal(grey, with_channels(colour, 1))
    # 0.114 * 200 + 0.587 * 100 + 0.299 * 50 = 22.8 + 58.7 + 14.95 = 96.45
    assert with_channels(np.full((1, 1, 3), (200, 100, 50), np.uint8), 1).tolist() == [[[96]]]
    opaque = with_channels(colour, 4)
    assert np.array_equal(opaque[..., :3], colour)
    assert (opaque[..., 3] == 255).all()
    repeated = with_channels(grey, 3)
    assert (repeated == grey).all()
    assert np.array_equal(with_channels(repeated, 1), grey)  # there and back, bit for bit
    assert np.array_equal(with_channels(grey, 4), with_channels(repeated, 4))
    assert with_channels(BANDS, 4) is BANDS


@pytest.mark.parametrize(("channels", "order"), [(1, [0]), (3, [2, 1, 0]), (4, [2, 1, 0, 3])])
def test_red_comes_first_for_the_network(channels: int, order: list[int]) -> None:
    image = noise(channels=channels)
    planes = np.zeros((channels, 40, 60), np.uint8)
    write_planes(image, planes)
    assert np.array_equal(planes, image[..., order].transpose(2, 0, 1))
    stack = stacked([image, image[::-1].copy()])
    assert stack.shape == (2, channels, 40, 60)
    assert np.array_equal(stack[0], planes)
    assert np.array_equal(stack[1], planes[:, ::-1])
    shown = colour_of_planes(planes)
    assert shown.flags.c_contiguous  # OpenCV draws on it
    assert np.array_equal(shown, with_channels(image, 3))


# --- files ---


@pytest.mark.parametrize("name", CASES)
def test_every_kind_of_file_in_every_number_of_channels(name: str) -> None:
    content = CASES[name][0]()
    colour = read_image(content)
    assert np.array_equal(read_image(content, 1), with_channels(colour, 1))
    four, found = read_image(content, 4), read_image(content, None)
    assert four.shape == (*colour.shape[:2], 4)
    assert np.array_equal(four[..., :3], colour)
    assert (four[..., 3] == 255).all()  # those with alpha are opaque
    assert found.shape[2] == (4 if "alpha" in name else 3)
    assert np.array_equal(with_channels(found, 4), four)


RGBA = Image.fromarray(BANDS[..., [2, 1, 0, 3]])
GREY_ALPHA = Image.merge("LA", (Image.fromarray(BANDS[..., 0]), Image.fromarray(BANDS[..., 3])))
SIXTEEN = BANDS.astype(np.uint16) << 8 | 77
WITH_A_FOURTH = {
    "png": encoded(RGBA, "PNG"),
    "png with exif": encoded(RGBA, "PNG", exif=Image.Exif()),
    "16-bit png": cv2.imencode(".png", SIXTEEN)[1].tobytes(),
    "bmp": cv2.imencode(".bmp", BANDS)[1].tobytes(),
    "tiff": encoded(RGBA, "TIFF"),
    "16-bit tiff": cv2.imencode(".tif", SIXTEEN)[1].tobytes(),
    "webp": encoded(RGBA, "WEBP", lossless=True, exact=True),
}


@pytest.mark.parametrize("name", WITH_A_FOURTH)
def test_the_fourth_is_read_as_it_stands(name: str) -> None:
    content = WITH_A_FOURTH[name]
    assert np.array_equal(read_image(content, 4), BANDS)
    assert np.array_equal(read_image(content, None), BANDS)
    assert np.array_equal(read_image(content), BANDS[..., :3])


def tiff(bands: np.ndarray, orientation: int) -> bytes:
    """A TIFF of (H, W, 4) with an extra sample of no meaning, as infrared is written."""
    (height, width, count), bits = bands.shape, bands.dtype.itemsize * 8
    tags = {
        256: (3, width), 257: (3, height), 258: (3, 0), 259: (3, 1), 262: (3, 2), 273: (4, 0),
        274: (3, orientation), 277: (3, count), 278: (3, height), 279: (4, bands.nbytes),
        284: (3, 1), 338: (3, 0),
    }  # fmt: skip
    end = 8 + 2 + 12 * len(tags) + 4
    content = b"II*\0" + struct.pack("<IH", 8, len(tags))
    for tag, (kind, value) in tags.items():
        value = {258: end, 273: end + 2 * count}.get(tag, value)  # where the bits a sample and the pixels are
        content += struct.pack("<HHII", tag, kind, count if tag == 258 else 1, value)
    return content + bytes(4) + struct.pack(f"<{count}H", *[bits] * count) + bands.tobytes()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("bits", [8, 16])
def test_a_fourth_band_without_a_meaning(bits: int, orientation: int) -> None:
    """Pillow drops it, and OpenCV alone would multiply the colours of others by their alpha."""
    content = tiff((BANDS if bits == 8 else SIXTEEN)[..., [2, 1, 0, 3]], orientation)
    colour, found = read_image(content), read_image(content, 4)
    assert np.array_equal(found[..., :3], colour)
    # where the colours went, the fourth went too
    place = np.argwhere((colour == BANDS[3, 7, :3]).all(axis=2)).tolist()
    assert len(place) == 1
    assert found[tuple(place[0])].tolist() == BANDS[3, 7].tolist()
    assert np.array_equal(read_image(content, None), found)


def test_transparent_colours_and_grey_with_alpha() -> None:
    found = read_image(encoded(GREY_ALPHA, "PNG"), 4)
    assert (found[..., :3] == BANDS[..., :1]).all()
    assert np.array_equal(found[..., 3], BANDS[..., 3])
    flat = Image.fromarray(np.repeat(np.arange(8, dtype=np.uint8) * 30, 64).reshape(16, 32))
    for image, clear in ((flat, 60), (flat.convert("RGB"), (60, 60, 60)), (flat.quantize(8), None)):
        index = image.getpixel((0, 4)) if clear is None else clear  # row 4 has the level 60
        content = encoded(image, "PNG", transparency=index)
        bands = read_image(content, 4)
        assert np.array_equal(bands[..., :3], read_image(content))
        assert np.array_equal(bands[..., 3] == 0, bands[..., 0] == 60), image.mode


def test_damaged_pictures_end_the_same_way() -> None:
    whole = WITH_A_FOURTH["png"]
    for channels in (1, 3, 4, None):
        with pytest.raises(UserError, match="truncated"):
            read_image(whole[: len(whole) // 2], channels)


# --- augmentation: a grey picture comes out as one channel of the same picture in colour ---

LIVELY = Hyperparameters(
    mosaic=0.6,
    mixup=0.5,
    degrees=20,
    shear=5,
    scale=0.5,
    translate=0.2,
    flipud=0.5,
    fliplr=0.5,
    copy_paste=0.8,
)


def made(seed: int, channels: int, hyp: Hyperparameters) -> Picture:
    """A training picture from pictures of which some are smaller than the output."""

    def load(draw: Draw) -> Picture:
        number = int(draw.images[0])
        colour = noise(40 + 3 * number, 64 - 2 * number, channels=1, seed=number).repeat(4, axis=2)
        colour[..., 3] = noise(*colour.shape[:2], channels=1, seed=50 + number)[..., 0]
        things = objects_of((number, 4, 4, 28, 28), (number, 30, 10, 38, 36), polygon=True)
        return Picture.of(np.ascontiguousarray(colour[..., :channels]), things)

    return recipe(hyp, load, mosaics=True, polygons=True)(draw_of(generator_for(seed)))


@pytest.mark.parametrize("perspective", [0.0, 0.0005])
def test_every_transform_treats_channels_alike(perspective: float) -> None:
    hyp = dataclasses.replace(LIVELY, perspective=perspective)
    plain = dataclasses.replace(hyp, hsv_h=0, hsv_s=0, hsv_v=0)
    for seed in range(12):
        colour, grey, four = (made(seed, channels, hyp) for channels in (3, 1, 4))
        assert grey.image.shape == (64, 64, 1)
        assert np.array_equal(grey.image.repeat(3, axis=2), colour.image), seed
        assert np.array_equal(four.image[..., :3], colour.image)
        # the fourth goes wherever the others go, and no colour changes it
        assert np.array_equal(four.image[..., 3], made(seed, 4, plain).image[..., 3])
        for other in (grey, four):
            assert np.array_equal(other.objects.boxes, colour.objects.boxes)


def test_the_fourth_channel_moves_with_the_others() -> None:
    hyp = dataclasses.replace(LIVELY, hsv_h=0, hsv_s=0, hsv_v=0)

    def load(draw: Draw) -> Picture:
        return Picture.of(noise(50, 50, channels=1, seed=int(draw.images[0])).repeat(4, axis=2), objects_of())

    for seed in range(6):
        image = recipe(hyp, load, mosaics=True, polygons=True)(draw_of(generator_for(seed))).image
        assert (image == image[..., :1]).all()


def test_colour_of_a_grey_picture_is_its_brightness() -> None:
    jitter = Colour(0.0, 0.9, 0.5)
    for seed in range(5):
        draw = draw_of(generator_for(seed))
        gain = 1 + generator_for(seed).uniform(-1, 1, 3)[2] * 0.5
        grey = jitter(draw, Picture.of(np.full((4, 4, 1), 100, np.uint8), objects_of())).image
        assert (grey == int(100 * gain)).all()


def test_quad_and_letterbox() -> None:
    for channels in (1, 4):
        image = noise(30, 40, channels=channels)
        boxed, _, _ = letterbox(image, (64, 64))
        assert boxed.shape == (64, 64, channels)
        assert (boxed[:8] == BACKGROUND).all()  # 30 x 40 at scale 1.6 is 48 x 64
        for channel in range(channels):
            alone, _, _ = letterbox(image[..., channel : channel + 1].copy(), (64, 64))
            assert np.array_equal(boxed[..., channel : channel + 1], alone)
        planes = np.zeros((4, channels, 8, 8), np.uint8)
        batch = BatchArrays(planes, np.zeros((0, 6), np.float32), ["a"] * 4, [((8, 8), ((1, 1), (0, 0)))] * 4)
        assert quadruple(batch, generator_for(0)).images.shape == (1, channels, 16, 16)


# --- data sets and their caches ---


@pytest.fixture
def index(tmp_path: Path) -> DatasetIndex:
    for kind in ("images", "labels"):
        (tmp_path / kind).mkdir()
    for number in range(6):
        cv2.imwrite(str(tmp_path / f"images/{number}.png"), noise(60 + number, 90, seed=number))
        (tmp_path / f"labels/{number}.txt").write_text("0 0.4 0.6 0.5 0.3\n", encoding="utf-8")
    return build_index([tmp_path / "images"], {0: "a"})


@pytest.mark.parametrize("augment", [False, True])
@pytest.mark.parametrize("channels", [1, 4])
def test_batches_and_caches(index: DatasetIndex, channels: int, augment: bool) -> None:
    def images(size: int, cache: str | None) -> np.ndarray:
        dataset = DetectionDataset(
            index,
            size,
            augment=augment,
            batch_size=6,
            channels=channels,
            cache=cache,  # type: ignore[arg-type]
        )
        return np.concatenate([batch.images.numpy() for batch in Loader(dataset, workers=0, shuffle=False)])

    plain = images(48, None)
    assert plain.shape == (6, channels, 48, 48)
    for cache in ("ram", "disk", "disk"):
        assert np.array_equal(images(48, cache), plain)
    if not augment:
        boxed, _, _ = letterbox(read_image(index.path(0), channels), (90, 90), auto=False)
        assert np.array_equal(images(90, None)[0], stacked([boxed])[0])


def test_a_cache_of_one_number_of_channels_is_not_read_as_another(index: DatasetIndex) -> None:
    stores = {c: open_store(index, 48, augment=False, cache="disk", channels=c) for c in (1, 3, 4)}
    for _ in range(2):
        for channels, store in stores.items():
            assert store.load(0).shape[2] == channels
    copies = sorted(Path(index.path(0)).parent.glob("0.png.*"))
    assert [file.name for file in copies] == ["0.png.48v.npy", "0.png.48v1ch.npy", "0.png.48v4ch.npy"]
    before = [file.stat().st_mtime_ns for file in copies]
    for store in stores.values():
        store.load(0)
    assert [file.stat().st_mtime_ns for file in copies] == before  # none takes the place of another
    copies[0].write_bytes(copies[1].read_bytes())  # as if somebody had renamed it
    assert stores[3].load(0).shape[2] == 3


def test_labels_are_scanned_once_for_all_channels(
    index: DatasetIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The index holds labels and sizes, which are those of a file whatever is read of it."""
    monkeypatch.setattr("utils.data.index._scan", lambda *arguments: pytest.fail("scanned again"))
    again = build_index([Path(index.path(0)).parent], {0: "a"})
    for channels in (1, 4):
        assert len(DetectionDataset(again, 48, channels=channels)) == 6


def test_a_data_set_without_a_fourth_channel_is_told(
    index: DatasetIndex, caplog: pytest.LogCaptureFixture
) -> None:
    DetectionDataset(index, 48, channels=4)
    assert not caplog.records
    for number in range(6):
        cv2.imwrite(index.path(number), noise(60 + number, 90, channels=3))
    for channels in (1, 3):
        DetectionDataset(index, 48, channels=channels)
    assert not caplog.records
    DetectionDataset(index, 48, channels=4)
    (record,) = caplog.records
    assert record.getMessage() == (
        "the model takes 4 channels and none of 6 pictures that were looked at has a fourth: it is 255 there"
    )
