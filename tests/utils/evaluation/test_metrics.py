from __future__ import annotations

import json

import numpy as np
import pytest

from utils.boxes import box_iou
from utils.evaluation.metrics import (
    GRID,
    IOU_THRESHOLDS,
    ConfusionMatrix,
    DetectionMetrics,
    _smooth,
    ap_per_class,
    fitness,
    match_predictions,
)


def test_match_by_hand():
    labels = np.array([[0, 0, 0, 10, 10], [1, 20, 0, 30, 10]], dtype=np.float32)
    predictions = np.array(
        [
            [0, 0, 10, 8, 0.9, 0],  # shared 80 of 100: IoU 0.80
            [0, 0, 10, 10, 0.8, 0],  # IoU 1, but the one above is more confident up to 0.80
            [20, 0, 30, 10, 0.7, 0],  # right place, wrong class
            [20, 0, 30, 6, 0.6, 1],  # IoU 0.60
            [50, 50, 60, 60, 0.5, 1],  # nothing there
        ],
        dtype=np.float32,
    )
    right = match_predictions(predictions, labels, np.array([0.5, 0.7, 0.9]))
    assert right.tolist() == [
        [True, True, False],
        [False, False, True],
        [False, False, False],
        [True, False, False],
        [False, False, False],
    ]


def test_an_overlap_of_the_threshold_reaches_it():
    label = np.array([[0, 0, 0, 10, 10]], dtype=np.float32)
    half = np.array([[0, 0, 10, 5, 0.9, 0]], dtype=np.float32)
    assert match_predictions(half, label, np.array([0.5])).tolist() == [[True]]


def test_thresholds_go_from_a_half_to_nearly_all():
    # IoU 0.72 is right at 0.5, 0.55, 0.6, 0.65 and 0.7 of the ten
    metrics = DetectionMetrics({0: "a"})
    metrics.update(np.array([[0, 0, 10, 7.2, 0.9, 0]]), np.array([[0, 0, 0, 10, 10]]))
    metrics.update(np.array([[0, 0, 10, 7.2, 0.8, 0]]), np.array([[0, 0, 0, 10, 10]]))
    report = metrics.compute().as_dict()
    assert report["mAP50"] == pytest.approx(0.995)
    assert report["mAP50_95"] == pytest.approx(0.995 * 5 / 10)
    assert match_predictions(np.array([[0, 0, 1, 1, 0.9, 0]]), np.array([[0, 0, 0, 1, 1]])).all()


def test_match_does_not_depend_on_the_order_of_predictions():
    predictions, labels = random_image(np.random.default_rng(3), 40, 12)
    order = np.random.default_rng(4).permutation(40)
    expected = match_predictions(predictions, labels)
    assert np.array_equal(match_predictions(predictions[order], labels), expected[order])


@pytest.mark.parametrize(("n", "m"), [(0, 0), (0, 3), (3, 0)])
def test_match_of_nothing(n, m):
    assert match_predictions(np.zeros((n, 6)), np.zeros((m, 5))).tolist() == [[False] * 10] * n


def random_image(draw: np.random.Generator, n: int, m: int) -> tuple[np.ndarray, np.ndarray]:
    low = draw.uniform(0, 40, (m, 2))
    labels = np.concatenate([draw.integers(0, 3, (m, 1)), low, low + draw.uniform(5, 40, (m, 2))], axis=1)
    near = labels[draw.integers(0, m, n)]
    boxes = near[:, 1:] + draw.normal(0, 3, (n, 4))
    category = np.where(draw.uniform(size=n) < 0.8, near[:, 0], draw.integers(0, 3, n))
    predictions = np.concatenate([boxes, draw.uniform(size=(n, 1)), category[:, None]], axis=1)
    return predictions.astype(np.float32), labels.astype(np.float32)


def naive_match(predictions: np.ndarray, labels: np.ndarray, threshold: float) -> list[bool]:
    overlap = box_iou(predictions[:, :4], labels[:, 1:]) * (predictions[:, 5:] == labels[:, 0])
    right, taken = [False] * len(predictions), set()
    for i in np.argsort(-predictions[:, 4]):
        j = int(overlap[i].argmax())
        if overlap[i, j] >= threshold and j not in taken:
            taken.add(j)
            right[i] = True
    return right


@pytest.mark.parametrize("seed", range(5))
def test_match_against_a_loop(seed):
    predictions, labels = random_image(np.random.default_rng(seed), 60, 15)
    right = match_predictions(predictions, labels)
    for column, threshold in enumerate(IOU_THRESHOLDS):
        assert right[:, column].tolist() == naive_match(predictions, labels, threshold)
    assert right.sum(axis=0).max() <= 15, "no label is found twice"


def test_average_precision_by_hand():
    # Four predictions of one class, right, right, wrong, right, and four labels:
    # recall 1/4, 2/4, 2/4, 3/4 and precision 1, 1, 2/3, 3/4. The envelope is 1 up to recall 0.5 and 0.75 up
    # to 0.75, then falls linearly to 0 at recall 1, as the curve ends at (1, 0).
    tp = np.array([[1], [1], [0], [1]], dtype=bool)
    result = ap_per_class(tp, np.array([0.9, 0.8, 0.7, 0.6]), np.zeros(4), np.zeros(4), {0: "cat"})
    at = np.linspace(0, 1, 101)
    envelope = np.interp(at, [0, 0.5, 0.5, 0.75, 1], [1, 1, 0.75, 0.75, 0])
    envelope[50] = 0.75  # at the step itself the lower value counts
    expected = ((envelope[1:] + envelope[:-1]) / 2).sum() / 100
    assert result.ap[0, 0] == pytest.approx(expected, abs=6e-3)
    assert result.name(0) == "cat"
    # Every confidence below 0.6 gives F1 2 * 3/4 * 3/4 / (3/4 + 3/4) = 0.75. Between 0.8 and 0.7 it is
    # 2 * 1 * 0.5 / 1.5 = 0.67. So all four predictions are taken.
    assert GRID[result.best] <= 0.6
    assert (result.scores()["precision"], result.scores()["recall"]) == (0.75, 0.75)


def test_perfect_detections():
    tp = np.ones((5, 10), dtype=bool)
    classes = np.array([2, 2, 7, 7, 7])
    result = ap_per_class(tp, np.full(5, 0.9), classes, classes)
    assert result.classes.tolist() == [2, 7] and result.labels.tolist() == [2, 3]
    assert result.means() == pytest.approx(
        {"precision": 1, "recall": 1, "f1": 1, "mAP50": 0.995, "mAP50_95": 0.995}
    )
    assert result.name(1) == "7"


def test_recorded_values(golden):
    data = np.load(golden / "ap.npz")
    result = ap_per_class(data["tp"], data["conf"], data["pred_cls"], data["target_cls"])
    assert result.classes.tolist() == data["classes"].tolist()
    for name, key in {"p": "precision", "r": "recall", "f1": "f1", "ap": "mAP50_95"}.items():
        np.testing.assert_allclose(result.scores()[key], data[name], atol=1e-9, err_msg=name)


def test_the_grid_is_a_thousand_values_from_zero_to_one():
    assert (GRID[0], GRID[-1], len(GRID)) == (0, 1, 1000)
    assert np.diff(GRID) == pytest.approx(1 / 999)


def test_curves_are_sampled_over_the_grid(golden):
    data = np.load(golden / "ap.npz")
    curves = ap_per_class(data["tp"], data["conf"], data["pred_cls"], data["target_cls"]).curves
    assert {curve.shape for curve in curves.values()} == {(7, len(GRID))}
    assert (np.diff(curves["recall"], axis=1) <= 0).all(), "recall falls with confidence"
    assert (np.diff(curves["precision_by_recall"], axis=1) <= 0).all(), "the envelope falls with recall"


def test_predicted_classes_without_labels_are_left_out():
    tp = np.zeros((3, 10), dtype=bool)
    result = ap_per_class(tp, np.array([0.9, 0.8, 0.7]), np.array([0.0, 5.0, 5.0]), np.array([0.0]))
    assert result.classes.tolist() == [0]


def test_a_class_that_was_never_predicted_scores_nothing_and_ends_nothing():
    tp = np.ones((2, 10), dtype=bool)
    result = ap_per_class(tp, np.array([0.9, 0.8]), np.array([1.0, 3.0]), np.array([0.0, 1.0, 2.0, 3.0]))
    assert result.ap[:, 0] == pytest.approx([0, 0.995, 0, 0.995])
    assert (result.images, result.names) == (0, {})


@pytest.mark.parametrize("labels", [[], [0, 3, 3]])
def test_no_predictions(labels):
    none = np.zeros(0)
    result = ap_per_class(np.zeros((0, 10), dtype=bool), none, none, np.array(labels, dtype=float))
    assert result.ap.shape == (len(set(labels)), 10)
    assert set(result.means().values()) == {0.0}


def test_curves_by_hand():
    # One class with two labels; a right prediction of confidence 0.75 and a wrong one of 0.25. From the
    # lowest confidence up to 0.25 both are taken: precision 1/2; up to 0.75 the first: 1. Recall is 1/2.
    tp, conf = np.array([[True], [False]]), np.array([0.75, 0.25])
    result = ap_per_class(tp, conf, np.zeros(2), np.zeros(2))
    at = [int(confidence * 999) for confidence in (0.0, 0.2, 0.5, 0.7, 0.8, 1.0)]
    # between the two confidences values go in a straight line: half way at 0.5, 90 % at 0.7
    precision = [0.5, 0.5, 0.75, 0.95, 1, 1]
    assert result.curves["precision"][0, at] == pytest.approx(precision, abs=2e-3)
    assert result.curves["recall"][0, at] == pytest.approx([0.5, 0.5, 0.5, 0.5, 0, 0], abs=2e-3)
    f1 = [2 * p * 0.5 / (p + 0.5) for p in precision[:4]]
    assert result.curves["f1"][0, at] == pytest.approx([*f1, 0, 0], abs=2e-3)
    # the other way round the first is wrong; but above it nothing is
    wrong_first = ap_per_class(tp[::-1], conf, np.zeros(2), np.zeros(2)).curves["precision"][0, at]
    assert wrong_first == pytest.approx([0.5, 0.5, 0.25, 0.05, 1, 1], abs=2e-3)
    # by recall: precision 1 up to 1/2, then down to 0 at 1
    by_recall = result.curves["precision_by_recall"][0]
    assert by_recall[[0, 498, 749, 999]] == pytest.approx([1, 1, 0.25, 0], abs=2e-3)
    assert by_recall[:499].min() == 1 and by_recall[-1] == 0


def test_the_best_confidence_is_that_of_all_classes():
    # Each class has one right prediction, of 0.95; the first also has eight wrong ones of 0.5, the second of
    # 0.25. From the lowest confidence up to 0.25 F1 is 2 / (9 + 1) = 0.2 for both, up to 0.5 about 1 for the
    # second, and above it rises for the first as well.
    tp = np.array([[True], *[[False]] * 8] * 2)
    conf = np.array([0.95, *[0.5] * 8, 0.95, *[0.25] * 8])
    result = ap_per_class(tp, conf, np.repeat([0.0, 1.0], 9), np.array([0.0, 1.0]))
    assert 0.8 < GRID[result.best] < 0.95
    assert (result.scores()["precision"] > 0.5).all()
    assert result.curves["f1"][:, 0] == pytest.approx([0.2, 0.2])
    nothing = ap_per_class(np.zeros((0, 1), bool), np.zeros(0), np.zeros(0), np.zeros(0))
    assert nothing.best == 0


def test_the_best_confidence_is_sought_on_a_mean_over_a_tenth_of_the_range():
    # a single good place in a thousand counts no more than its share of the 101 that are averaged
    values = np.zeros(1000)
    values[500] = 1
    smooth = _smooth(values)
    assert len(smooth) == 1000
    assert np.flatnonzero(smooth).tolist() == list(range(450, 551))
    assert smooth[500] == pytest.approx(1 / 101)
    assert _smooth(np.ones(1000)) == pytest.approx(1), "the ends are continued evenly"


def test_fitness_weighs_maps():
    assert fitness(0.3, 0.4, 0.5, 0.2) == pytest.approx(0.1 * 0.5 + 0.9 * 0.2)


def test_accumulator_equals_one_call():
    draw = np.random.default_rng(0)
    images = [random_image(draw, 30, 10) for _ in range(4)]
    metrics = DetectionMetrics({0: "a", 1: "b", 2: "c"})
    for predictions, truth in (*images, (np.zeros((0, 6)), np.zeros((0, 5)))):
        metrics.update(predictions, truth)
    right = [match_predictions(p, t) for p, t in images]
    scored = np.concatenate([p for p, _ in images])
    labels = np.concatenate([t[:, 0] for _, t in images])
    expected = ap_per_class(np.concatenate(right), scored[:, 4], scored[:, 5], labels)
    result = metrics.compute()
    assert np.array_equal(result.ap, expected.ap) and result.images == 5

    report = result.as_dict()
    assert json.loads(json.dumps(report)) == report, "plain numbers only"
    assert report["images"] == 5 and report["labels"] == 40
    assert report["mAP50_95"] == pytest.approx(expected.ap.mean())
    assert report["fitness"] == pytest.approx(0.1 * expected.ap[:, 0].mean() + 0.9 * expected.ap.mean())
    assert list(report["classes"]) == ["a", "b", "c"]
    assert report["classes"]["b"]["mAP50"] == pytest.approx(expected.ap[1, 0])


def test_accumulator_without_images():
    report = DetectionMetrics({0: "a"}).compute().as_dict()
    assert report["images"] == 0 and report["mAP50"] == 0.0 and report["classes"] == {}


def test_classes_of_one_name_stay_apart_in_the_report():
    metrics = DetectionMetrics({0: "twin", 1: "twin"})
    metrics.update(np.zeros((0, 6)), np.array([[0, 0, 0, 1, 1], [1, 0, 0, 1, 1]]))
    assert list(metrics.compute().as_dict()["classes"]) == ["twin (0)", "twin (1)"]


def test_confusion_matrix_by_hand():
    matrix = ConfusionMatrix(nc=3)
    labels = np.array([[0, 0, 0, 10, 10], [1, 20, 0, 30, 10], [2, 40, 0, 50, 10]])
    predictions = np.array(
        [
            [0, 0, 10, 10, 0.9, 0],  # right
            [20, 0, 30, 9, 0.8, 2],  # takes class 1 for class 2
            [20, 0, 30, 8, 0.7, 1],  # right class, but the label is taken by a better overlap
            [40, 0, 50, 10, 0.2, 2],  # not confident: the label is missed
        ]
    )
    matrix.update(predictions, labels)
    # rows predicted, columns true, 3 is background
    expected = np.zeros((4, 4), dtype=int)
    expected[0, 0] = expected[2, 1] = expected[1, 3] = expected[3, 2] = 1
    assert matrix.matrix.tolist() == expected.tolist()


def test_confusion_pairs_are_made_by_overlap_before_order():
    # The prediction covers half of the first label (IoU 0.5) and nearly all of the second one (IoU 0.9),
    # whose class differs; so the second is its partner and the first is missed.
    labels = np.array([[0, 0, 0, 10, 5], [1, 0, 0, 10, 9]])
    matrix = ConfusionMatrix(nc=2)
    matrix.update(np.array([[0, 0, 10, 10, 0.9, 0]]), labels)
    assert matrix.matrix.tolist() == [[0, 1, 0], [0, 0, 0], [1, 0, 0]]
    # Nor does the order of the predictions count: the second one fits better and takes the label.
    matrix = ConfusionMatrix(nc=2)
    matrix.update(np.array([[0, 0, 10, 5, 0.9, 0], [0, 0, 10, 9, 0.3, 1]]), np.array([[1, 0, 0, 10, 10]]))
    assert matrix.matrix.tolist() == [[0, 0, 1], [0, 1, 0], [0, 0, 0]]


def test_confusion_pairs_of_one_overlap_are_made_in_their_order():
    labels = np.array([[cls, 0, 0, 10, 10] for cls in range(40)])
    matrix = ConfusionMatrix(nc=40)
    matrix.update(np.array([[0, 0, 10, 10, 0.9, 7]]), labels)
    assert matrix.matrix[7, 0] == 1 and matrix.matrix[40].tolist() == [0, *[1] * 39, 0]


def test_confusion_takes_detections_above_a_quarter_and_counts_in_whole_numbers():
    matrix = ConfusionMatrix(nc=1)
    matrix.update(np.array([[0, 0, 1, 1, 0.25, 0]]), np.zeros((0, 5)))
    assert matrix.matrix.tolist() == [[0, 0], [0, 0]]
    assert matrix.matrix.dtype == np.int64
    # an overlap of 0.45 is not above it
    prediction = np.array([[0, 0, 10, 4.5, 0.9, 0]], dtype=np.float32)
    matrix.update(prediction, np.array([[0, 0, 0, 10, 10]], dtype=np.float32))
    assert matrix.matrix.tolist() == [[0, 1], [1, 0]]


def test_confusion_matrix_counts_lonely_images():
    matrix = ConfusionMatrix(nc=1)
    matrix.update(np.zeros((0, 6)), np.array([[0, 0, 0, 1, 1]]))
    matrix.update(np.array([[0, 0, 1, 1, 0.9, 0]] * 2), np.zeros((0, 5)))
    assert matrix.matrix.tolist() == [[0, 2], [1, 0]]
