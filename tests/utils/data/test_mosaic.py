import cv2
import numpy as np
import pytest

from utils.data.augmentations import blank, copy_paste, draw_transform, jitter_colour, paint
from utils.data.letterbox import BACKGROUND
from utils.data.mosaic import Picture, mixup, mosaic, single
from utils.data.objects import Objects, project, still_useful, visible_bounds
from utils.hyperparameters import Hyperparameters
from utils.seeding import generator_for

STILL = Hyperparameters(translate=0, scale=0, fliplr=0, hsv_h=0, hsv_s=0, hsv_v=0)
LIVELY = Hyperparameters(degrees=30, shear=10, scale=0.5, translate=0.2, flipud=0.5, perspective=0.0005)


def objects_of(*rows: tuple[float, ...], polygon: bool = False) -> Objects:
    """From rows of class, x1, y1, x2, y2 in pixels; with `polygon`, the corners count as one."""
    table = np.array(rows, np.float64).reshape(-1, 5)
    corners = table[:, [1, 2, 3, 2, 3, 4, 1, 4]].reshape(-1, 2)
    lengths = np.full(len(table), 4 if polygon else 0)
    return Objects(
        table[:, 0].astype(np.float32), table[:, 1:], corners if polygon else np.zeros((0, 2)), lengths
    )


def colour_of(number: int) -> tuple[int, int, int]:
    """Far from each other and from grey."""
    return [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (255, 0, 255), (0, 255, 255)][number]


def painted(rng: np.random.Generator, classes: list[int], size: int, polygon: bool = False) -> Picture:
    """A dark picture with a filled rectangle for each class, side by side."""
    height, width = (int(rng.integers(size * 6 // 10, size + 1)) for _ in range(2))
    image = np.full((height, width, 3), 30, np.uint8)
    rows = []
    for place, number in enumerate(classes):
        span = width // len(classes)
        x1, y1 = place * span + int(rng.integers(2, span // 4)), int(rng.integers(2, height // 4))
        x2, y2 = x1 + int(rng.integers(span // 3, span * 2 // 3)), int(rng.integers(height // 2, height - 2))
        image[y1:y2, x1:x2] = colour_of(number)
        rows.append((number, x1, y1, x2, y2))
    return Picture(image, objects_of(*rows, polygon=polygon))


def extent(image: np.ndarray, number: int) -> np.ndarray | None:
    """xyxy of the pixels that have the colour of a class, or nearly."""
    near = np.abs(image.astype(int) - colour_of(number)).max(-1) < 100
    if near.sum() < 12:
        return None
    rows, columns = np.flatnonzero(near.any(1)), np.flatnonzero(near.any(0))
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])


def check_labels(picture: Picture, exact: bool) -> int:
    """Every colour that is seen has a box around it, a tight one if `exact`. Returns their number."""
    seen = 0
    for number in range(6):
        found = extent(picture.image, number)
        boxes = picture.objects.boxes[picture.objects.classes == number]
        if found is None:
            continue
        if len(boxes) == 0:  # dropped since little of it is left
            continue
        seen += 1
        assert len(boxes) == 1
        assert (boxes[0][:2] <= found[:2] + 1.5).all(), (boxes[0], found)
        assert (boxes[0][2:] >= found[2:] - 1.5).all(), (boxes[0], found)
        if exact:
            np.testing.assert_allclose(boxes[0], found, atol=4)  # the tip of a turned corner is faint
    return seen


@pytest.mark.parametrize(
    ("hyp", "polygon", "exact"),
    [
        (Hyperparameters(), False, True),  # scale, translation and flips keep boxes tight
        (Hyperparameters(flipud=0.5), True, True),
        (LIVELY, False, False),
        (LIVELY, True, True),  # a warped polygon gives the exact extent
    ],
)
def test_mosaic_labels_enclose_what_they_name(hyp: Hyperparameters, polygon: bool, exact: bool) -> None:
    boxes = 0
    for number in range(25):
        rng = generator_for(5, number)
        classes = ([0, 1], [2], [3], [4, 5])
        tiles = [painted(rng, chosen, 128, polygon) for chosen in classes]
        picture = mosaic(rng, tiles, 128, hyp)
        assert picture.image.shape == (128, 128, 3)
        assert (picture.objects.boxes >= 0).all()
        assert (picture.objects.boxes <= 128).all()
        boxes += check_labels(picture, exact)
    assert boxes > 50


@pytest.mark.parametrize("polygon", [False, True])
def test_single_labels_enclose_what_they_name(polygon: bool) -> None:
    boxes = 0
    for number in range(20):
        rng = generator_for(6, number)
        size = 64 if number % 2 else 128  # half of them are enlarged by the letterbox
        picture = single(rng, painted(rng, [0, 1, 2], size, polygon), (128, 128), LIVELY)
        boxes += check_labels(picture, exact=polygon)
    assert boxes > 25


def test_most_things_keep_their_label() -> None:
    """What is seen in full without rotation is never dropped."""
    for number in range(10):
        rng = generator_for(7, number)
        picture = single(rng, painted(rng, [0, 1, 2, 3], 128), (128, 128), STILL)
        assert sorted(picture.objects.classes) == [0, 1, 2, 3]


def test_mosaic_equals_a_canvas_that_is_warped_whole() -> None:
    """The tiles painted on a canvas of 2S and that warped at once: the same but for the seams."""
    size, hyp = 96, Hyperparameters(degrees=10, scale=0.3, fliplr=0)
    rng = generator_for(8)
    y, x = np.mgrid[0:size, 0 : size - 10]
    images = [np.stack([x + 20 * k, 2 * y, x + y], -1).astype(np.uint8) for k in range(4)]
    tiles = [Picture(image, objects_of()) for image in images]
    result = mosaic(generator_for(8, 1), tiles, size, hyp).image

    rng = generator_for(8, 1)
    cx, cy = (int(rng.uniform(size / 2, 3 * size / 2)) for _ in range(2))
    canvas = np.full((2 * size, 2 * size, 3), BACKGROUND, np.uint8)
    for number, image in enumerate(images):
        height, width = image.shape[:2]
        left, top = cx - width * (number % 2 == 0), cy - height * (number < 2)
        for row in range(max(top, 0), min(top + height, 2 * size)):
            columns = slice(max(left, 0), min(left + width, 2 * size))
            canvas[row, columns] = image[row - top, columns.start - left : columns.stop - left]
    matrix, _ = draw_transform(rng, hyp, (2 * size, 2 * size), (size, size))
    expected = blank((size, size))
    paint(canvas, matrix, expected)
    difference = np.abs(result.astype(int) - expected).max(-1)
    assert (difference > 4).mean() < 0.03
    assert np.median(difference) <= 1


def test_mosaic_without_warp_shows_its_tiles_around_the_centre() -> None:
    tiles = [Picture(np.full((64, 64, 3), 50 * k, np.uint8), objects_of()) for k in range(1, 5)]
    image = mosaic(generator_for(9), tiles, 64, STILL).image[..., 0]
    seen = set(np.unique(image).tolist())
    assert {50, 100, 150, 200} & seen
    assert seen <= {50, 100, 150, 200, BACKGROUND}


# --- the transform ---


def test_transform_without_strength_is_the_centre_crop() -> None:
    matrix, scale = draw_transform(generator_for(1), STILL, (200, 200), (100, 100))
    assert scale == 1
    np.testing.assert_allclose(matrix, [[1, 0, -50], [0, 1, -50], [0, 0, 1]])


def test_flips() -> None:
    matrix, _ = draw_transform(
        generator_for(1), Hyperparameters(translate=0, scale=0, fliplr=1, flipud=1), (10, 20), (10, 20)
    )
    np.testing.assert_allclose(project(np.array([[0.0, 0.0], [20.0, 10.0]]), matrix), [[20, 10], [0, 0]])


def test_draws_stay_in_their_ranges() -> None:
    hyp = Hyperparameters(scale=0.4, translate=0.1, degrees=5, fliplr=0.5)
    scales, centres, mirrored = [], [], 0
    for number in range(300):
        matrix, scale = draw_transform(generator_for(2, number), hyp, (100, 100), (100, 100))
        scales.append(scale)
        centres.append(project(np.array([[50.0, 50.0]]), matrix)[0])
        mirrored += int(np.linalg.det(matrix[:2, :2]) < 0)
    assert 0.6 <= min(scales) < 0.65
    assert 1.35 < max(scales) <= 1.4
    assert (np.abs(np.array(centres) - 50) <= 10 + 1e-9).all()
    assert np.abs(np.array(centres) - 50).max() > 9
    assert 110 < mirrored < 190


def test_paint_agrees_with_edge_coordinates() -> None:
    """Enlarged twice, pixels 4 to 7 cover 8 to 15; a transform of pixel centres would be half a pixel off."""
    image = np.zeros((16, 16, 3), np.uint8)
    image[4:8, 4:8] = 255
    canvas = blank((32, 32))
    paint(image, np.diag([2.0, 2.0, 1.0]), canvas)
    lit = canvas[2:30, 2:30, 0].astype(float)  # the border is blended with the background
    assert lit[6:14, 6:14].min() > 127 > lit[:5].max()
    centre = (lit.sum(0) * (np.arange(2, 30) + 0.5)).sum() / lit.sum()
    assert centre == pytest.approx(12, abs=0.05)


def test_paint_outside_touches_nothing() -> None:
    canvas = blank((8, 8))
    paint(np.zeros((4, 4, 3), np.uint8), np.array([[1, 0, 50], [0, 1, 0], [0, 0, 1.0]]), canvas)
    assert (canvas == BACKGROUND).all()


# --- objects ---


def test_useful_boxes() -> None:
    before = np.array([[0, 0, 10, 10]] * 5, np.float64)
    after = np.array(
        [
            [0, 0, 10, 10],  # all there
            [0, 0, 2, 10],  # 2 wide: too narrow
            [0, 0, 3, 3],  # 9 % of 100
            [0, 0, 4, 3],  # 12 %
            [0, 0, 0, 0],
        ],
        np.float64,
    )
    assert still_useful(before, after, 1.0, 0.1).tolist() == [True, False, False, True, False]
    assert still_useful(before, after, 1.0, 0.01).tolist() == [True, False, True, True, False]
    assert still_useful(before, after, 0.5, 0.1).tolist() == [True, False, True, True, False]
    assert not still_useful(np.array([[0, 0, 400, 3.0]]), np.array([[0, 0, 400, 3.0]]), 1.0, 0.1)[
        0
    ]  # aspect 133


def test_labels_round_trip() -> None:
    labels = np.array([[3, 0.5, 0.25, 0.2, 0.1], [1, 0.1, 0.9, 0.1, 0.1]], np.float32)
    objects = Objects.from_labels(labels, (100, 200))
    np.testing.assert_allclose(objects.boxes[0], [80, 20, 120, 30], rtol=1e-5)
    np.testing.assert_allclose(objects.to_labels((100, 200)), labels, rtol=1e-5)


def test_visible_part_of_polygons() -> None:
    square = [[-10, -10], [10, -10], [10, 10], [-10, 10]]  # a quarter lies in the picture
    around = [[-50, -50], [150, -50], [150, 150], [-50, 150]]  # the whole picture lies inside
    beside = [[200, 200], [210, 200], [205, 220]]
    # the edge from (50, -50) to (150, 50) cuts the corner of the picture at (100, 0): it touches in a point
    slanted = [[50, -50], [150, 50], [150, -50]]
    triangle = [[20, 20], [60, 20], [20, 70]]
    polygons = [square, around, beside, slanted, triangle]
    points = np.concatenate([np.array(p, np.float64) for p in polygons])
    bounds = visible_bounds(points, np.array([len(p) for p in polygons]), (100, 100))
    np.testing.assert_allclose(
        bounds,
        [[0, 0, 10, 10], [0, 0, 100, 100], [0, 0, 0, 0], [100, 0, 100, 0], [20, 20, 60, 70]],
        atol=1e-6,
    )


def test_visible_part_agrees_with_rasterised_polygons() -> None:
    for number in range(40):
        rng = generator_for(11, number)
        angles = np.sort(rng.uniform(0, 2 * np.pi, int(rng.integers(3, 12))))
        radii = rng.uniform(10, 90, len(angles))
        points = np.round(
            rng.uniform(0, 100, 2) + np.stack([np.cos(angles), np.sin(angles)], 1) * radii[:, None]
        )
        shift = 150
        mask = np.zeros((400, 400), np.uint8)
        cv2.fillPoly(mask, [(points + shift).astype(np.int32)], 1)
        mask = mask[shift : shift + 101, shift : shift + 101]
        box = visible_bounds(points, np.array([len(points)]), (100, 100))[0]
        if mask.sum() < 20:
            continue
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        np.testing.assert_allclose(box, [columns[0], rows[0], columns[-1], rows[-1]], atol=1.01)


# --- colour, mixing, pasting ---


def test_colour_jitter() -> None:
    image = generator_for(3).integers(0, 256, (20, 30, 3)).astype(np.uint8)
    still = jitter_colour(generator_for(3), image, STILL)
    assert np.array_equal(still, image[..., ::-1])
    moved = jitter_colour(generator_for(3), image, Hyperparameters())
    assert moved.shape == image.shape
    assert not np.array_equal(moved, still)
    grey = np.full((4, 4, 3), 100, np.uint8)
    for number in range(50):  # grey has no hue: only the value changes, by 1 +- 0.4
        out = jitter_colour(generator_for(4, number), grey, Hyperparameters())
        assert (out == out[..., :1]).all()
        assert 59 <= out.min() <= out.max() <= 140


def test_mixup_blends_and_keeps_both() -> None:
    one = Picture(np.full((8, 8, 3), 0, np.uint8), objects_of((0, 1, 1, 4, 4)))
    other = Picture(np.full((8, 8, 3), 200, np.uint8), objects_of((1, 2, 2, 6, 6), (2, 0, 0, 3, 3)))
    levels = []
    for number in range(50):
        mixed = mixup(generator_for(12, number), one, other)
        assert mixed.objects.classes.tolist() == [0, 1, 2]
        levels.append(mixed.image[0, 0, 0] / 200)
    # Beta(32, 32) has mean 0.5 and standard deviation sqrt(1 / (4 * 65)) = 0.062
    assert np.mean(levels) == pytest.approx(0.5, abs=0.03)
    assert 0.03 < np.std(levels) < 0.09


def test_copy_paste_mirrors_things_with_polygons() -> None:
    image = np.full((40, 100, 3), 30, np.uint8)
    image[10:20, 5:25] = colour_of(1)
    objects = objects_of((1, 5, 10, 25, 20), polygon=True)
    out, more = copy_paste(generator_for(1), image, objects, 1.0)
    np.testing.assert_allclose(more.boxes, [[5, 10, 25, 20], [75, 10, 95, 20]], atol=1e-6)
    assert np.array_equal(out[:, 50:], image[:, :50][:, ::-1])
    assert np.array_equal(out[:, :50], image[:, :50])
    assert (image[:, 50:] == 30).all()  # the picture that was given is untouched


def test_copy_paste_does_not_hide_others() -> None:
    image = np.full((40, 100, 3), 30, np.uint8)
    crowded = objects_of((1, 5, 10, 25, 20), (2, 80, 8, 90, 22), polygon=True)
    crowded = Objects.concatenate([crowded.select(np.array([True, False])), objects_of((2, 80, 8, 90, 22))])
    out, more = copy_paste(generator_for(1), image, crowded, 1.0)
    assert len(more) == 2
    assert out is image
    boxes = objects_of((1, 5, 10, 25, 20))
    assert copy_paste(generator_for(1), image, boxes, 1.0)[0] is image
