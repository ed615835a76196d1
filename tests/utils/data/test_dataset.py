import os
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import cv2
import numpy as np
import pytest
import torch

from utils.data.augment.quad import quadruple
from utils.data.batch import Batch, BatchArrays, BatchKey
from utils.data.dataset import DetectionDataset, plan_rectangles
from utils.data.image_cache import ImageStore, open_store
from utils.data.images import ImageError, read_image
from utils.data.index import DatasetIndex, build_index
from utils.data.letterbox import BACKGROUND
from utils.data.loader import Loader
from utils.errors import UserError
from utils.hyperparameters import Hyperparameters
from utils.seeding import generator_for

SIZES = [(60, 90), (90, 60), (64, 64), (40, 160), (33, 47), (200, 128), (128, 200), (70, 90)]


def build(folder: Path, suffix: str = ".jpg", sizes: list[tuple[int, int]] = SIZES) -> DatasetIndex:
    """Noise of several shapes, each image with one box."""
    for name in ("images", "labels"):
        (folder / name).mkdir(exist_ok=True)
    rng = generator_for(0)
    for number, (height, width) in enumerate(sizes):
        small = rng.integers(0, 255, (6, 6, 3)).astype(np.uint8)
        cv2.imwrite(str(folder / f"images/{number}{suffix}"), cv2.resize(small, (width, height)))
        (folder / f"labels/{number}.txt").write_text(f"{number % 3} 0.4 0.6 0.5 0.3\n", encoding="utf-8")
    return build_index([folder / "images"], dict(enumerate("abc")), cache=False)


@pytest.fixture
def index(tmp_path: Path) -> DatasetIndex:
    return build(tmp_path)


def batches(dataset: DetectionDataset, **options: bool) -> list[Batch]:
    return list(Loader(dataset, workers=0, shuffle=False, **options))


def same(left: list[Batch] | list[BatchArrays], right: list[Batch] | list[BatchArrays]) -> bool:
    return len(left) == len(right) and all(
        np.array_equal(a.images, b.images) and np.array_equal(a.targets, b.targets) and a[2:] == b[2:]
        for a, b in zip(left, right)
    )


def test_batches_of_one_and_of_none(index: DatasetIndex) -> None:
    assert len(batches(DetectionDataset(index, 64, batch_size=1))) == 8
    with pytest.raises(ValueError, match="batch_size must be at least 1, found 0"):
        DetectionDataset(index, 64, batch_size=0)


def test_plain_pictures(index: DatasetIndex) -> None:
    (batch,) = batches(DetectionDataset(index, 128, batch_size=8))
    assert batch.images.shape == (8, 3, 128, 128)
    assert batch.images.dtype == torch.uint8
    assert batch.targets.shape == (8, 6)
    assert batch.targets.dtype == torch.float32
    assert batch.targets[:, 0].tolist() == list(range(8))
    assert batch.targets[:, 1].tolist() == [0, 1, 2, 0, 1, 2, 0, 1]
    # image 0 is 60 x 90: scaled by 128/90 to 86 x 128 (85.33 rounded up), 21 grey rows above and below
    assert batch.shapes[0] == ((60, 90), (pytest.approx((86 / 60, 128 / 90)), (0.0, 21.0)))
    assert (batch.images[0, :, :21] == BACKGROUND).all()
    assert (batch.images[0, :, 107:] == BACKGROUND).all()
    # y = (0.6 * 86 + 21) / 128, h = 0.3 * 86 / 128; x and w are unchanged
    assert batch.targets[0, 2:].tolist() == pytest.approx([0.4, 72.6 / 128, 0.5, 25.8 / 128])
    image = cv2.resize(cv2.imread(index.path(0)), (128, 86), interpolation=cv2.INTER_LINEAR)
    expected = torch.from_numpy(image[..., ::-1].transpose(2, 0, 1).copy())
    assert torch.equal(batch.images[0, :, 21:107], expected)


def test_shrinking_without_augmentation_averages(index: DatasetIndex) -> None:
    (batch,) = batches(DetectionDataset(index, 64, batch_size=8))
    image = cv2.resize(cv2.imread(index.path(5)), (41, 64), interpolation=cv2.INTER_AREA)  # 200 x 128
    expected = torch.from_numpy(image[..., ::-1].transpose(2, 0, 1).copy())
    assert torch.equal(batch.images[5, :, :, 11:52], expected)  # (64 - 41) / 2 = 11.5: 11 left, 12 right


def test_boxes_return_to_the_source(index: DatasetIndex) -> None:
    for rect in (False, True):
        dataset = DetectionDataset(index, 96, rect=rect, batch_size=4, pad=0.5)
        for batch in batches(dataset):
            height, width = batch.images.shape[2:]
            for target, ((h0, w0), ((rh, rw), (left, top))) in zip(batch.targets, batch.shapes):
                x = (float(target[2]) * width - left) / rw
                y = (float(target[3]) * height - top) / rh
                assert (x / w0, y / h0) == pytest.approx((0.4, 0.6), abs=1e-4)
                assert float(target[4]) * width / rw / w0 == pytest.approx(0.5, abs=1e-4)


def test_rectangles() -> None:
    shapes = np.array([[100, 100], [50, 100], [40, 100], [100, 50], [100, 80], [100, 25]])
    order, batches_ = plan_rectangles(shapes, 640, 2, 32, 0.0)
    assert order.tolist() == [2, 1, 0, 4, 3, 5]  # aspect 0.4, 0.5, 1, 1.25, 2, 4
    # 0.5 * 640 = 320 = 10 strides; a batch with a square is square; 640 / 2 = 320 wide
    assert batches_ == [(320, 640), (640, 640), (640, 320)]
    # half a stride more: ceil(10 + 0.5) = 11 and ceil(20 + 0.5) = 21 strides
    assert plan_rectangles(shapes, 640, 2, 32, 0.5)[1] == [(352, 672), (672, 672), (672, 352)]
    assert plan_rectangles(shapes, 640, 64, 32, 0.0)[1] == [(640, 640)]
    with pytest.raises(UserError, match="below the stride"):
        plan_rectangles(shapes, 16, 2, 32, 0.0)


def test_images_of_one_shape_keep_their_order() -> None:
    """Also among many, where numpy's default sort takes another way on each kind of CPU."""
    ratios = np.random.default_rng(0).integers(1, 5, 1000)
    order, _ = plan_rectangles(np.stack([100 * ratios, np.full(1000, 100)], axis=1), 640, 16, 32, 0.5)
    assert order.tolist() == sorted(range(1000), key=lambda i: (ratios[i], i))


def test_rectangular_batches(index: DatasetIndex) -> None:
    dataset = DetectionDataset(index, 128, rect=True, batch_size=2)
    found = batches(dataset)
    assert [tuple(batch.images.shape[2:]) for batch in found] == dataset.batch_shapes
    assert sorted(path for batch in found for path in batch.paths) == index.paths()
    ratios = [h0 / w0 for batch in found for (h0, w0), _ in batch.shapes]
    assert ratios == sorted(ratios)
    trained = batches(DetectionDataset(index, 128, rect=True, batch_size=2, augment=True))
    assert [batch.images.shape for batch in trained] == [batch.images.shape for batch in found]


def test_flips_of_rectangles_move_boxes(index: DatasetIndex) -> None:
    hyp = Hyperparameters(fliplr=1, flipud=1, hsv_h=0, hsv_s=0, hsv_v=0, scale=0, translate=0)
    plain = batches(DetectionDataset(index, 64, rect=True, batch_size=4))
    for before, after in zip(
        plain, batches(DetectionDataset(index, 64, rect=True, augment=True, batch_size=4, hyp=hyp))
    ):
        # half a pixel of 64 where the padding is odd
        assert torch.allclose(after.targets[:, 2:4], 1 - before.targets[:, 2:4], atol=0.0079)
        # scaled by another filter, else the same picture turned by half
        difference = after.images.flip(2, 3).int() - before.images.int()
        assert difference.abs().float().mean() < 12


def test_augmented_pictures_depend_on_their_key_only(index: DatasetIndex) -> None:
    dataset = DetectionDataset(index, 64, augment=True, seed=3)
    images = np.arange(16).reshape(2, 8) % 8
    key = BatchKey(4, 0, np.array([5, 9]), images)
    first = dataset.batch(key)
    dataset.batch(BatchKey(1, 0, np.array([0, 1]), images))
    np.random.seed(0)  # global state must not matter
    assert same([first], [dataset.batch(key)])
    alone = dataset.batch(BatchKey(4, 0, np.array([9]), images[1:]))
    assert np.array_equal(alone.images[0], first.images[1])
    for other in (key._replace(epoch=5), key._replace(positions=np.array([6, 10]))):
        assert not np.array_equal(dataset.batch(other).images, first.images)
    reseeded = DetectionDataset(index, 64, augment=True, seed=4)
    assert not np.array_equal(reseeded.batch(key).images, first.images)


def test_one_of_three_batches_has_whole_pictures_instead_of_windows(tmp_path: Path) -> None:
    """As many as cost the same, the first ones, however many processes share them; epochs go on in turn."""
    index = build(tmp_path, sizes=SIZES * 3)

    def epoch_of(number: int, rank: int, world_size: int) -> list[Batch]:
        size = 8 // world_size
        dataset = DetectionDataset(index, 128, augment=True, window=64, batch_size=size, seed=1)
        loader = Loader(dataset, workers=0, shuffle=True, seed=1, rank=rank, world_size=world_size)
        loader.set_epoch(number)
        return list(loader)

    for epoch in range(3):
        alone = epoch_of(epoch, 0, 1)
        ranks = [epoch_of(epoch, rank, 2) for rank in range(2)]
        assert [batch.images.shape[2] for batch in alone] == [
            128 if (epoch + number) % 3 == 2 else 64 for number in range(3)
        ]
        for whole, *parts in zip(alone, *ranks, strict=True):
            assert len(whole.images) == (2 if whole.images.shape[2] == 128 else 8)
            in_turn = zip(*(part.images for part in parts), strict=True)
            assert torch.equal(torch.stack([image for pair in in_turn for image in pair]), whole.images)
            for batch in (whole, *parts):
                assert len(batch.paths) == len(batch.shapes) == len(batch.images)
                assert (batch.targets[:, 0] < len(batch.images)).all()


@pytest.mark.parametrize(
    "hyp",
    [
        Hyperparameters(
            mosaic=0.5, mixup=0.5, degrees=10, shear=3, perspective=0.0005, flipud=0.5, copy_paste=1
        ),
        Hyperparameters(mosaic=0, hsv_h=0, hsv_s=0, hsv_v=0),
    ],
)
def test_augmented_targets_are_sound(index: DatasetIndex, hyp: Hyperparameters) -> None:
    loader = Loader(DetectionDataset(index, 96, augment=True, hyp=hyp, batch_size=8), workers=0, shuffle=True)
    for epoch in range(4):
        loader.set_epoch(epoch)
        (batch,) = list(loader)
        assert batch.images.shape == (8, 3, 96, 96)
        low, high = (
            batch.targets[:, 2:4] - batch.targets[:, 4:] / 2,
            batch.targets[:, 2:4] + batch.targets[:, 4:] / 2,
        )
        assert (low > -1e-5).all()
        assert (high < 1 + 1e-5).all()
        assert (batch.targets[:, 4:] * 96 > 2).all()
        assert set(batch.targets[:, 1].tolist()) <= {0, 1, 2}


def test_polygons_reach_the_warp(tmp_path: Path) -> None:
    build(tmp_path)
    (tmp_path / "labels/0.txt").write_text("1 0.1 0.1 0.9 0.1 0.5 0.8\n", encoding="utf-8")
    index = build_index([tmp_path / "images"], dict(enumerate("abc")), cache=False)
    hyp = Hyperparameters(copy_paste=1, mosaic=1)
    for batch in batches(DetectionDataset(index, 64, augment=True, hyp=hyp)):
        assert torch.isfinite(batch.targets).all()


# --- caches ---


@pytest.mark.parametrize("augment", [False, True])
@pytest.mark.parametrize("cache", ["ram", "disk"])
def test_a_cache_changes_no_pixel(index: DatasetIndex, cache: str, augment: bool) -> None:
    plain = batches(DetectionDataset(index, 48, augment=augment))  # 200 x 128 is decoded at half its size
    dataset = DetectionDataset(index, 48, augment=augment, cache=cache)  # type: ignore[arg-type]
    assert type(dataset.store) is not ImageStore
    for _ in range(2):
        assert same(plain, batches(dataset))


def test_disk_cache_follows_its_source(index: DatasetIndex) -> None:
    store = open_store(index, 64, augment=False, cache="disk")
    before = store.load(0).copy()
    (copy,) = Path(index.path(0)).parent.glob("*.npy")
    assert np.load(copy, allow_pickle=False).shape == (43, 64, 3)
    assert build_index([Path(index.path(0)).parent], index.names, cache=False).paths() == index.paths()
    cv2.imwrite(index.path(0), np.full((60, 90, 3), 9, np.uint8))
    assert (store.load(0) == 9).all()
    assert not np.array_equal(before, store.load(0))
    copy.write_bytes(copy.read_bytes()[:100])
    assert (store.load(0) == 9).all()


def test_a_picture_that_changes_while_it_is_read_is_read_again(
    index: DatasetIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(index, 64, augment=False, cache="disk")

    def read_and_replace(path: str, channels: int) -> np.ndarray:
        image = read_image(path, channels)
        cv2.imwrite(path, np.full((60, 90, 3), 9, np.uint8))
        return image

    monkeypatch.setattr("utils.data.image_cache.read_image", read_and_replace)
    assert not (store.load(0) == 9).all()
    monkeypatch.undo()
    assert (store.load(0) == 9).all()


def test_time_and_size_of_the_source_count(index: DatasetIndex) -> None:
    store, source = open_store(index, 64, augment=False, cache="disk"), Path(index.path(0))
    store.load(0)
    (copy,) = source.parent.glob("*.npy")
    kept = copy.stat().st_mtime_ns
    store.load(0)
    assert copy.stat().st_mtime_ns == kept
    before = source.stat()
    cv2.imwrite(str(source), np.full((60, 90, 3), 9, np.uint8))
    os.utime(source, ns=(before.st_atime_ns, before.st_mtime_ns))  # as copies that keep the time have it
    assert source.stat().st_size != before.st_size
    assert (store.load(0) == 9).all()
    os.utime(source, ns=(before.st_atime_ns, before.st_mtime_ns - 1))
    kept = copy.stat().st_mtime_ns
    assert (store.load(0) == 9).all()
    assert copy.stat().st_mtime_ns > kept


def test_copies_without_a_stamp_are_not_believed(index: DatasetIndex) -> None:
    """Those of earlier versions have none; a source that is gone has none either."""
    store, source = open_store(index, 64, augment=False, cache="disk"), Path(index.path(0))
    np.save(f"{source}.64v.npy", np.zeros((43, 64, 3), np.uint8))
    assert store.load(0).any()
    np.save(f"{source}.64v.npy", np.zeros((43, 64, 3), np.uint8))
    source.unlink()
    with pytest.raises(UserError, match="missing image"):
        store.load(0)


def test_disk_cache_beside_read_only_images(index: DatasetIndex, caplog: pytest.LogCaptureFixture) -> None:
    folder = Path(index.path(0)).parent
    folder.chmod(0o555)
    try:
        store = open_store(index, 64, augment=False, cache="disk")
        assert store.load(0).shape == (43, 64, 3)
    finally:
        folder.chmod(0o755)
    assert not list(folder.glob("*.npy"))
    assert "read-only" in caplog.text


def test_memory_is_not_overdrawn(
    index: DatasetIndex, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("utils.data.image_cache.available_memory", lambda: 1000)
    assert type(open_store(index, 64, augment=False, cache="ram")) is ImageStore
    assert "not cached" in caplog.text


def test_exchanged_image_is_an_error(index: DatasetIndex) -> None:
    cv2.imwrite(index.path(0), np.zeros((61, 90, 3), np.uint8))
    with pytest.raises(UserError, match=r"0\.jpg: was 90x60 when indexed, is 90x61"):
        batches(DetectionDataset(index, 64))
    Path(index.path(0)).unlink()
    with pytest.raises(UserError, match="missing image"):
        batches(DetectionDataset(index, 64, augment=True))


@pytest.mark.parametrize(
    ("shape", "size", "expected"),
    [
        ((427, 640), 640, (427, 640)),
        ((427, 640), 320, (214, 320)),
        ((3, 500), 320, (2, 320)),
        ((7, 7), 64, (64, 64)),
    ],
)
def test_scaled_shapes(shape: tuple[int, int], size: int, expected: tuple[int, int]) -> None:
    index = cast(DatasetIndex, SimpleNamespace(shape=lambda number: shape))
    assert ImageStore(index, size, augment=False).shape(0) == expected


# --- quad ---


def test_quad_batches() -> None:
    images = np.arange(9, dtype=np.uint8)[:, None, None, None].repeat(3, 1).repeat(4, 2).repeat(4, 3)
    targets = np.array([[i, i, 0.5, 0.5, 0.2, 0.4] for i in range(9)], np.float32)
    shape = ((4, 4), ((1.0, 1.0), (0.0, 0.0)))
    batch = BatchArrays(images, targets, [str(i) for i in range(9)], [shape] * 9)
    kinds = set()
    for number in range(12):
        quad = quadruple(batch, generator_for(number))
        assert quad.images.shape == (2, 3, 8, 8)
        assert quad.paths == ["0", "4"]
        for group in range(2):
            rows = quad.targets[quad.targets[:, 0] == group]
            kinds.add(len(rows))
            first = 4 * group
            if len(rows) == 1:  # the first picture, enlarged: its box keeps its relative size
                assert (quad.images[group] == first).all()
                assert rows[0].tolist() == pytest.approx([group, first, 0.5, 0.5, 0.2, 0.4])
            else:
                assert quad.images[group, 0, ::4, ::4].tolist() == [
                    [first, first + 1],
                    [first + 2, first + 3],
                ]
                assert rows[3].tolist() == pytest.approx([group, first + 3, 0.75, 0.75, 0.1, 0.2])
    assert kinds == {1, 4}
    few = Batch(images[:2], targets[:2], ["0", "1"], [shape] * 2)
    assert quadruple(few, generator_for(0)).images.shape == (1, 3, 8, 8)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_picture_that_cannot_be_decoded_is_grey_and_says_so(index: DatasetIndex, workers: int) -> None:
    """Without augmentation; a training picture would teach that there is nothing, and ends the epoch."""
    Path(index.path(2)).write_bytes(b"no image any more")
    dataset = DetectionDataset(index, 64, batch_size=8)
    (batch,) = list(Loader(dataset, workers=workers, shuffle=False))
    assert [shapes is None for shapes in batch.shapes] == [number == 2 for number in range(8)]
    assert (batch.images[2] == BACKGROUND).all() and 2 not in batch.targets[:, 0]
    with pytest.raises(ImageError, match=r"2\.jpg"):
        batches(DetectionDataset(index, 64, batch_size=8, augment=True))


def test_reports_count_what_is_left_out(tmp_path: Path) -> None:
    build(tmp_path)
    (tmp_path / "images" / "5.jpg").write_bytes(b"")
    (tmp_path / "labels" / "6.txt").write_text("0 0.5 0.5 0.2\n", encoding="utf-8")  # costs a row alone
    report = build_index([tmp_path / "images"], dict(enumerate("abc")), cache=False).report
    assert (report.count(), report.count(["a/1.jpg"])) == ("7 of 8 images", "6 of 8 images")
    assert report.shortfall() == "1 of 8 images could not be used: 5.jpg"
    many = [f"a/{number}.jpg" for number in range(3)]
    assert report.shortfall(many) == "4 of 8 images could not be used: 5.jpg, 0.jpg, 1.jpg, …"
    (tmp_path / "images" / "5.jpg").unlink()
    report = build_index([tmp_path / "images"], dict(enumerate("abc")), cache=False).report
    assert (report.count(), report.shortfall()) == ("7 images", "")
