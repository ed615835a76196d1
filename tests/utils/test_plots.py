from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import utils.plots.canvas
from training.run_folder import TEACHER_COLUMN
from utils.data.batch import Batch
from utils.evaluation.metrics import ConfusionMatrix, DetectionMetrics, ap_per_class
from utils.palette import class_color, text_color
from utils.plots.canvas import ACCENT, new_figure, style_axes, svg_of
from utils.plots.confusion import plot_confusion_matrix
from utils.plots.curves import plot_curves
from utils.plots.labels import plot_labels
from utils.plots.pictures import BATCHES, RunPictures, plot_batch
from utils.plots.progress import PANELS, plot_results

PICTURES = (("train_batch", ""), ("val_batch", "_labels"), ("val_batch", "_pred"))
LONG_NAMES = {i: f"a rather long class name {i}" for i in range(80)}


def random_metrics(nc: int, names: dict[int, str] | None = None):
    draw = np.random.default_rng(0)
    count = 12 * nc
    tp = draw.uniform(size=(count, 10)) < 0.6
    return ap_per_class(
        tp, draw.uniform(size=count), np.arange(count) % nc, np.arange(count) % nc, names or LONG_NAMES
    )


@pytest.fixture
def drawn(monkeypatch):
    """The figures that a plot function made, beside the files it wrote."""
    figures = []

    def keep(figure, path):
        figures.append(figure)
        utils.plots.canvas.save_figure(figure, path)

    for module in ("curves", "confusion", "labels", "progress"):
        monkeypatch.setattr(f"utils.plots.{module}.save_figure", keep)
    return figures


def boxes_of(figure, texts) -> list[tuple[float, float, float, float]]:
    return [t.get_window_extent(figure.canvas.get_renderer()).extents for t in texts if t.get_text()]


def overlap(one, other) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def assert_apart_and_inside(figure, boxes) -> None:
    width, height = figure.canvas.get_width_height()
    for index, box in enumerate(boxes):
        assert box[0] >= 0 and box[1] >= 0 and box[2] <= width and box[3] <= height, box
        assert not any(overlap(box, other) for other in boxes[:index]), box


def pixels(path: Path) -> np.ndarray:
    image = cv2.imread(str(path))
    assert image is not None and image.std() > 1, f"{path} is empty"
    return image


@pytest.mark.parametrize("nc", [1, 20, 80])
def test_curves(tmp_path, drawn, nc):
    plot_curves(random_metrics(nc), tmp_path)
    paths = [tmp_path / f"{name}_curve.png" for name in ("PR", "F1", "P", "R")]
    assert set(tmp_path.iterdir()) == set(paths)
    for path, figure in zip(paths, drawn, strict=True):
        pixels(path)
        axes = figure.axes[0]
        legend = axes.get_legend()
        assert len(legend.get_texts()) == (nc + 1 if nc <= 20 else 2)
        texts = [*legend.get_texts(), axes.xaxis.label, axes.yaxis.label, axes.title]
        ticks = [
            t for t in (*axes.get_xticklabels(), *axes.get_yticklabels()) if max(t.get_position()) <= 1.01
        ]
        texts += [axes._left_title, *ticks]
        assert_apart_and_inside(figure, boxes_of(figure, texts))


def test_curves_without_labels(tmp_path):
    none = DetectionMetrics({0: "a"}).compute()
    plot_curves(none, tmp_path)
    assert len(list(tmp_path.glob("*_curve.png"))) == 4


def test_names_are_not_mathematics(tmp_path):
    plot_curves(random_metrics(2, {0: "$100 $x_{", 1: "a_b^c"}), tmp_path)
    plot_confusion_matrix(ConfusionMatrix(2), {0: "$100 $x_{", 1: "a_b^c"}, tmp_path / "c.png")
    plot_labels(np.zeros((1, 5)), {0: "$100 $x_{", 1: "a_b^c"}, tmp_path / "l.jpg")
    assert {"c.png", "l.jpg"} < {path.name for path in tmp_path.iterdir()}  # and nothing was raised


def test_a_name_that_begins_with_an_underscore_is_in_the_legend(tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr("utils.plots.curves.save_figure", lambda figure, path: figures.append(figure))
    plot_curves(random_metrics(2, {0: "_background", 1: "b"}), tmp_path)
    for figure in figures:
        texts = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
        assert len(texts) == 3 and any("_background" in text for text in texts)


@pytest.mark.parametrize("nc", [1, 6, 30, 80, 150])
def test_confusion_matrix(tmp_path, drawn, nc):
    confusion = ConfusionMatrix(nc)
    confusion.matrix += np.diag(np.arange(nc + 1))
    plot_confusion_matrix(confusion, LONG_NAMES, tmp_path / "confusion_matrix.png")
    pixels(tmp_path / "confusion_matrix.png")
    figure = drawn[0]
    texts = [t for t in figure.axes[0].texts if t.get_text()] + figure.texts
    # in the matrix: a number on each of the nc non-empty diagonal cells; beside it: names twice
    assert len(texts) == (nc if nc <= 30 else 0) + (2 * (nc + 1) if nc <= 100 else 0) + 2
    assert_apart_and_inside(figure, boxes_of(figure, texts))


@pytest.mark.parametrize("count", [0, 1, 5000])
def test_labels(tmp_path, count):
    draw = np.random.default_rng(0)
    boxes = draw.uniform(0, 1, (count, 5)).astype(np.float32)
    boxes[:, 0] = draw.integers(0, 10, count)
    plot_labels(boxes, {i: f"class {i}" for i in range(10)}, tmp_path / "labels.jpg")
    pixels(tmp_path / "labels.jpg")


def write_results(path: Path, epochs: int, **columns: str) -> Path:
    names = list(dict.fromkeys(["epoch", *(column for _, column in PANELS), *columns]))
    rows = [
        ",".join([str(e), *(columns.get(n, f"{1 / (e + 1):.4f}") for n in names[1:])]) for e in range(epochs)
    ]
    path.write_text("\n".join([",".join(f"{n:>22}" for n in names), *rows]), encoding="utf-8")
    return path


@pytest.mark.parametrize("epochs", [1, 30])
def test_results(tmp_path, drawn, epochs):
    plot_results(write_results(tmp_path / "results.csv", epochs), tmp_path / "results.png")
    pixels(tmp_path / "results.png")
    assert len(drawn[0].axes) == 10
    assert_apart_and_inside(drawn[0], boxes_of(drawn[0], [axes._left_title for axes in drawn[0].axes]))


def test_results_of_a_run_with_a_teacher(tmp_path, drawn):
    table = write_results(tmp_path / "results.csv", 3, **{TEACHER_COLUMN: "0.25"})
    plot_results(table, tmp_path / "results.png")
    titles = [axes.get_title(loc="left") for axes in drawn[0].axes]
    assert len(titles) == 11 and titles[5] == "the teacher's error, training"
    assert set(drawn[0].axes[5].lines[0].get_ydata()) == {0.25}
    assert_apart_and_inside(drawn[0], boxes_of(drawn[0], [axes._left_title for axes in drawn[0].axes]))


def test_results_with_gaps(tmp_path):
    table = write_results(tmp_path / "results.csv", 12, **{"val/box_loss": "nan"})
    plot_results(table, tmp_path / "results.png")
    pixels(tmp_path / "results.png")


def test_results_name_what_is_missing(tmp_path):
    table = tmp_path / "results.csv"
    table.write_text("epoch,train/box_loss\n0,1\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"results.csv: no column 'train/obj_loss'"):
        plot_results(table, tmp_path / "results.png")
    with pytest.raises(ValueError, match="no epochs"):
        plot_results(write_results(table, 0), tmp_path / "results.png")


def grey(count: int, height: int = 64, width: int = 96) -> torch.Tensor:
    return torch.full((count, 3, height, width), 100, dtype=torch.uint8)


def test_batch_of_labels(tmp_path):
    images = grey(3)
    images[0, 0] = 200  # red, the first channel, must end up last in the file
    # class 1 in the second image, 48 x 32 around its centre: from (24, 16) to (72, 48)
    targets = torch.tensor([[1, 1, 0.5, 0.5, 0.5, 0.5]])
    plot_batch(tmp_path / "b.png", images, ["x/a.jpg", "b.jpg", "c.jpg"], {1: "cat"}, targets)
    picture = pixels(tmp_path / "b.png")
    # 2 x 2 tiles with a gap of 4 pixels
    assert picture.shape == (64 * 2 + 4, 96 * 2 + 4, 3)
    assert picture[10, 40].tolist() == [100, 100, 200]
    assert picture[40, 100 + 24].tolist() == list(class_color(1)), "left edge of the box"
    assert picture[40, 100 + 48].tolist() == [100, 100, 100], "inside the box"
    assert (picture[68:, 100:] == 255).all(), "the fourth tile stays empty"


def test_batch_of_detections_leaves_out_uncertain_ones(tmp_path):
    sure, unsure = torch.tensor([[20, 30, 60, 55, 0.9, 0]]), torch.tensor([[20, 30, 60, 55, 0.1, 0]])
    pictures = []
    for rows in (sure, unsure, torch.zeros(0, 6)):
        plot_batch(tmp_path / "b.png", grey(1), ["a.jpg"], {0: "cat"}, [rows])
        pictures.append(pixels(tmp_path / "b.png"))
    assert not np.array_equal(pictures[0], pictures[1])
    assert np.array_equal(pictures[1], pictures[2])


def test_large_batch_is_limited(tmp_path):
    detections = [torch.zeros(0, 6)] * 20
    names = [f"{i}.jpg" for i in range(20)]
    plot_batch(tmp_path / "b.jpg", grey(20, 640, 640), names, {}, detections)
    assert max(pixels(tmp_path / "b.jpg").shape) <= 1920
    plot_batch(tmp_path / "c.jpg", grey(20), names, {}, torch.zeros(0, 6))
    assert (tmp_path / "c.jpg").is_file()


def test_pictures_of_a_run_are_of_its_first_batches(tmp_path):
    batch = Batch(grey(2), torch.zeros(0, 6), ["a.jpg", "b.jpg"], [])
    for enabled in (False, True):
        with RunPictures(tmp_path, {0: "cat"}, enabled) as pictures:
            pictures.labels(np.zeros((0, 5)))
            for number in range(BATCHES + 1):
                pictures.training_batch(number, batch)
                pictures.validation_batch(number, batch, [torch.zeros(0, 6)] * 2)
        assert enabled or not list(tmp_path.iterdir())
    stems = [f"{kind}{n}{end}" for n in range(BATCHES) for kind, end in PICTURES]
    assert sorted(path.stem for path in tmp_path.iterdir()) == sorted(["labels", *stems])


def test_plots_do_not_import_matplotlib_until_used():
    rooms = "confusion", "curves", "labels", "pictures", "progress"
    code = f"import sys, {', '.join(f'utils.plots.{room}' for room in rooms)}\n"
    code += "sys.exit(bool({'matplotlib', 'pandas'} & set(sys.modules)))"
    root = Path(utils.plots.canvas.__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0


def test_an_svg_takes_its_colours_and_its_font_from_the_page():
    def drawn() -> str:
        figure = new_figure(3, 2, automatic=False)
        axes = figure.add_axes((0.2, 0.2, 0.7, 0.7))
        (line,) = axes.plot([1, 2], [3, 4], color=ACCENT, marker="o")
        line.set_gid("a <b>: 1.0")
        style_axes(axes, "title", "x", "y")
        return svg_of(figure, 'what "it" shows')

    svg = drawn()
    assert svg.startswith('<svg role="img" aria-label="what &quot;it&quot; shows" ')
    assert svg.rstrip().endswith("</svg>")
    assert set(re.findall(r"(?:fill|stroke): ([^;\"]+)", svg)) == {
        "none", "var(--ink)", "var(--soft)", "var(--line)", "var(--mark)"
    }  # fmt: skip
    assert "font-family" not in svg and ">title</text>" in svg  # texts stay texts
    assert "<g><title>a &lt;b&gt;: 1.0</title>" in svg
    assert drawn() == svg


def test_palette_repeats_and_text_is_readable():
    assert class_color(3) == class_color(23) and len({class_color(i) for i in range(20)}) == 20
    assert text_color((255, 255, 255)) == (0, 0, 0) and text_color((0, 0, 0)) == (255, 255, 255)
