"""The ONNX graph of every layout, and what a program that is not ours expects of it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import fx, nn

import export
from models.deploy import deploy
from models.exporting.job import Job
from models.exporting.network import exported_network
from models.exporting.onnx import drop_identities
from models.exporting.onnx import export as write_onnx
from models.runtimes.openvino import shared_core
from models.weights import load_model
from models.yolo import DetectionModel
from tests.layouts import DISTINCT, images, small
from tests.models.exporting.weights import write_weights
from utils.nms import non_max_suppression

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

QUICK = ("yolov5n-c3het", "yolov5n-slimneck")
PAD = {"Transpose"}  # torch writes the four numbers of a Pad as a transposed constant
MOVING = {"Transpose", "Gather", "Reshape5"}  # operators that move channels
TURNING = {"permute", "transpose", "swapaxes", "movedim"}


def write(model: DetectionModel, path: Path, *, folded: bool) -> Any:
    x = images(model, 1)
    network = exported_network(model, (x.shape[2], x.shape[3]), folded=folded)
    write_onnx(Job(network=network, image=x, target=path, metadata={}))
    return onnx.load(str(path)).graph


def moving(model: DetectionModel) -> set[str]:
    """What no folding can take away: attention turns the axes of its maps itself."""
    network = deploy(model).network
    assert isinstance(network, fx.GraphModule)
    called = {str(getattr(node.target, "__name__", node.target)) for node in network.graph.nodes}
    padded = any(isinstance(part, nn.ZeroPad2d) for part in network.modules())
    return MOVING if called & TURNING else PAD if padded else set()


def before_the_head(graph: Any) -> list[Any]:
    """The nodes that a convolution still depends on, and the convolutions: all but the head's decoding."""
    makers = {name: node for node in graph.node for name in node.output}
    todo = [node for node in graph.node if node.op_type == "Conv"]
    found: dict[str, Any] = {}
    while todo:
        node = todo.pop()
        if node.output[0] not in found:
            found[node.output[0]] = node
            todo += [makers[name] for name in node.input if name in makers]
    return list(found.values())


def ranks(graph: Any) -> dict[str, int]:
    inferred = onnx.shape_inference.infer_shapes(onnx.helper.make_model(graph)).graph
    return {value.name: len(value.type.tensor_type.shape.dim) for value in inferred.value_info}


def marked(name: str) -> Any:
    return name if name in QUICK else pytest.param(name, marks=pytest.mark.slow)


@pytest.mark.parametrize("name", [marked(name) for name in DISTINCT])
def test_a_deployed_graph_moves_no_channels(name: str, tmp_path: Path) -> None:
    whole = name.startswith(("yolov5n", "v5lite"))  # the others at a narrow size, which has the same nodes
    model = DetectionModel(name).eval() if whole else small(name).eval()
    graph = write(model, tmp_path / "deployed.onnx", folded=True)
    plain = write(model, tmp_path / "plain.onnx", folded=False)
    rank = ranks(graph)
    body = before_the_head(graph)
    kinds = {node.op_type for node in body}
    if any(node.op_type == "Reshape" and rank.get(node.output[0], 4) > 4 for node in body):
        kinds.add("Reshape5")
    assert not kinds & MOVING - moving(model)
    assert "Identity" not in {node.op_type for node in graph.node}
    # In the files as they are written. The plain file carries shape arithmetic that a runtime folds when it
    # loads it, so this says nothing of how many kernels run: see docs/export.md.
    assert len(graph.node) < len(plain.node)


def test_the_rule_above_sees_a_shuffle(tmp_path: Path) -> None:
    """GSConv without folding shuffles by a 5-D reshape and a transpose, in front of later convolutions."""
    graph = write(small("yolov5n-gsconv").eval(), tmp_path / "plain.onnx", folded=False)
    body = before_the_head(graph)
    assert Counter(node.op_type for node in body)["Transpose"] == 4
    assert any(node.op_type == "Reshape" and ranks(graph).get(node.output[0], 4) == 5 for node in body)


def test_identities_are_dropped_and_outputs_keep_their_names() -> None:
    make = onnx.helper
    value = [make.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [2]) for n in ("x", "y")]
    nodes = [
        make.make_node("Identity", ["x"], ["a"]),
        make.make_node("Identity", ["a"], ["b"]),  # a chain: Add has to read x
        make.make_node("Add", ["a", "b"], ["c"]),
        make.make_node("Identity", ["c"], ["y"]),  # makes an output: stays
    ]
    graph = make.make_graph(nodes, "g", value[:1], value[1:])
    drop_identities(graph)
    assert [(n.op_type, list(n.input), list(n.output)) for n in graph.node] == [
        ("Add", ["x", "x"], ["c"]),
        ("Identity", ["c"], ["y"]),
    ]


def test_output_contract_at_640(official_weights: Path, tmp_path: Path) -> None:
    (tmp_path / "y.pt").write_bytes(official_weights.read_bytes())
    export.main(["--weights", str(tmp_path / "y.pt"), "--include", "onnx"])
    model = onnx.load(str(tmp_path / "y.onnx"))
    (entry,), (result,) = model.graph.input, model.graph.output
    shapes = [[d.dim_value for d in v.type.tensor_type.shape.dim] for v in (entry, result)]
    # 3 anchors a cell: 3 * (80 * 80 + 40 * 40 + 20 * 20) = 3 * 8400 = 25200; 4 + 1 + 80 = 85
    assert (entry.name, shapes[0]) == ("images", [1, 3, 640, 640])
    assert (result.name, shapes[1]) == ("output0", [1, 25200, 85])
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    assert metadata["stride"] == "32" and '"79": "toothbrush"' in metadata["names"]
    assert metadata["imgsz"] == "[640, 640]" and metadata["variant"] == "yolov5n"
    assert len(metadata["source"]) == 64 and metadata["dynamic"] == "false"
    image = np.random.default_rng(0).random((1, 3, 640, 640), dtype=np.float32)
    (rows,) = onnxruntime.InferenceSession(str(tmp_path / "y.onnx")).run(None, {"images": image})
    assert (
        rows[..., :2].max() > 600 and rows[..., :2].min() > -32
    )  # pixels: centres lie half a cell outside at most
    assert rows[..., 4:].min() >= 0 and rows[..., 4:].max() <= 1


def decode_like_a_cpp_program(file: Path, image: np.ndarray, side: int) -> list[tuple[int, float, list[int]]]:
    """What the widespread C++ programs for YOLOv5 and OpenCV do, step by step.

    The picture goes to the top left of a black square, which is resized to the network's input.
    """
    net = cv2.dnn.readNetFromONNX(str(file))
    length = max(image.shape[:2])
    square = np.zeros((length, length, 3), np.uint8)
    square[: image.shape[0], : image.shape[1]] = image
    net.setInput(cv2.dnn.blobFromImage(square, 1 / 255, (side, side), swapRB=True))
    rows = net.forward(net.getUnconnectedOutLayersNames())[0][0]
    factor = length / side
    boxes, scores, classes = [], [], []
    for row in rows:
        if row[4] < 0.25:
            continue
        best = int(row[5:].argmax())
        if row[4] * row[5 + best] > 0.25:
            x, y, w, h = row[:4]
            boxes.append(
                [int((x - w / 2) * factor), int((y - h / 2) * factor), int(w * factor), int(h * factor)]
            )
            scores.append(float(row[4] * row[5 + best]))
            classes.append(best)
    kept = cv2.dnn.NMSBoxesBatched(boxes, scores, classes, 0.25, 0.45)
    return [(classes[i], scores[i], boxes[i]) for i in kept]


def test_a_cpp_decoder_with_opencv_finds_the_same_boxes(
    shared: Path, official_weights: Path, tmp_path: Path
) -> None:
    (tmp_path / "y.pt").write_bytes(official_weights.read_bytes())
    export.main(["--weights", str(tmp_path / "y.pt"), "--include", "onnx", "--opset", "12", "--imgsz", "320"])
    picture = cv2.imread(str(shared / "data" / "bus.jpg"))  # 1080 high, 810 wide
    found = decode_like_a_cpp_program(tmp_path / "y.onnx", picture, 320)
    length = max(picture.shape[:2])
    square = np.zeros((length, length, 3), np.uint8)
    square[: picture.shape[0], : picture.shape[1]] = picture
    blob = torch.from_numpy(cv2.dnn.blobFromImage(square, 1 / 255, (320, 320), swapRB=True))
    with torch.inference_mode():
        (expected,) = non_max_suppression(load_model(official_weights)(blob)[0], 0.25, 0.45)
    assert len(found) == len(expected) >= 4
    for (category, score, (x, y, w, h)), row in zip(found, expected.tolist()):
        assert category == row[5] and abs(score - row[4]) < 1e-3
        corners = [value * length / 320 for value in row[:4]]
        assert np.abs(np.array([x, y, x + w, y + h]) - corners).max() <= 2  # whole pixels, twice cut off


@pytest.mark.parametrize(("opset", "anchors"), [(12, 3), (17, 1)])
def test_cells_are_written_once_an_anchor_for_opencv(opset: int, anchors: int, tmp_path: Path) -> None:
    """OpenCV before 4.7 adds maps of equal channels only."""
    weights = write_weights(tmp_path / "best.pt")
    export.main(["--weights", str(weights), "--include", "onnx", "--opset", str(opset), "--imgsz", "64"])
    graph = onnx.load(str(tmp_path / "best.onnx")).graph
    added = {name for node in graph.node if node.op_type == "Add" for name in node.input}
    shapes = [list(entry.dims) for entry in graph.initializer if entry.name in added]
    # 64 / 8 = 8, 64 / 16 = 4, 64 / 32 = 2 cells a side
    assert [shape for shape in shapes if shape[3:] > [1]] == [[1, anchors, 4, n] for n in (64, 16, 4)]


@pytest.mark.parametrize("folded", [True, pytest.param(False, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", ["onnx", "openvino"])
def test_any_batch_and_size(kind: str, folded: bool, tmp_path: Path) -> None:
    pytest.importorskip(kind)
    weights = write_weights(tmp_path / "best.pt")
    flags = [] if folded else ["--no-deploy"]
    export.main(["--weights", str(weights), "--include", kind, "--dynamic", "--imgsz", "64", *flags])
    model = load_model(weights)
    runner = (
        onnx_runner(tmp_path / "best.onnx")
        if kind == "onnx"
        else openvino_runner(tmp_path / "best_openvino_model")
    )
    for shape in ((1, 3, 64, 64), (3, 3, 96, 160), (2, 3, 32, 64)):
        x = torch.rand(shape, generator=torch.Generator().manual_seed(1))
        with torch.inference_mode():
            expected = model(x)[0].numpy()
        assert runner(x.numpy()).shape == expected.shape
        assert np.abs(runner(x.numpy()) - expected).max() <= 1e-4 * np.abs(expected).max()


def onnx_runner(file: Path) -> Any:
    session = onnxruntime.InferenceSession(str(file))
    return lambda x: session.run(["output0"], {"images": x})[0]


def openvino_runner(folder: Path) -> Any:
    compiled = shared_core().compile_model(
        str(folder / "best.xml"), "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    )
    return lambda x: compiled({"images": x})["output0"]
