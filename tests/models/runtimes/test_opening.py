"""A toy network with known weights is written in every form; all forms must give the same numbers."""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from models.runtimes.base import Backend
from models.runtimes.metadata import described
from models.runtimes.onnx_file import FLOAT, read_input
from models.runtimes.opening import Ensemble, load_backend
from models.runtimes.openvino import shared_core
from models.runtimes.pytorch import PyTorchBackend
from models.weights import load_model
from models.yolo import DetectionModel
from utils.checkpoints.files import write_checkpoint
from utils.errors import UserError

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")  # torch would rather see TorchScript go
NAMES = {0: "a", 1: "b", 2: "c"}
Shape = tuple[int | str, int, int | str, int | str]


class Toy(nn.Module):
    """(B, 3, H, W) -> (B, H/32 * W/32, 8): mean colours of each cell, mixed by a 1x1 convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 1)
        values = torch.linspace(-1, 1, 32)
        self.conv.weight.data, self.conv.bias.data = values[:24].reshape(8, 3, 1, 1), values[24:]

    def forward(self, images: Tensor) -> Tensor:
        return self.conv(nn.functional.avg_pool2d(images, 32)).flatten(2).transpose(1, 2)


def write_onnx(path: Path, shape: Shape = ("batch", 3, "height", "width"), **metadata: str) -> Path:
    onnx = pytest.importorskip("onnx")
    toy, make = Toy(), onnx.helper
    weights = [
        onnx.numpy_helper.from_array(toy.conv.weight.detach().numpy(), "weight"),
        onnx.numpy_helper.from_array(toy.conv.bias.detach().numpy(), "bias"),
        onnx.numpy_helper.from_array(np.array([0, 8, -1], np.int64), "flat"),
    ]
    nodes = [
        make.make_node("AveragePool", ["images"], ["cells"], kernel_shape=[32, 32], strides=[32, 32]),
        make.make_node("Conv", ["cells", "weight", "bias"], ["mixed"]),
        make.make_node("Reshape", ["mixed", "flat"], ["rows"]),
        make.make_node("Transpose", ["rows"], ["output0"], perm=[0, 2, 1]),
    ]
    kind = onnx.TensorProto.FLOAT
    inputs = [make.make_tensor_value_info("images", kind, shape)]
    outputs = [make.make_tensor_value_info("output0", kind, [shape[0], "cells", 8])]
    graph = make.make_graph(nodes, "toy", inputs, outputs, weights)
    model = make.make_model(graph, opset_imports=[make.make_opsetid("", 17)], ir_version=9)
    make.set_model_props(model, metadata)
    onnx.save(model, str(path))
    return path


def write_torchscript(path: Path, **config: object) -> Path:
    traced = torch.jit.trace(Toy(), torch.zeros(1, 3, 64, 64))
    torch.jit.save(traced, str(path), _extra_files={"config.txt": json.dumps(config)} if config else {})
    return path


@pytest.fixture
def images() -> Tensor:
    return torch.rand(3, 3, 64, 96, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def expected(images: Tensor) -> Tensor:
    with torch.inference_mode():
        return Toy()(images)


def test_torchscript(tmp_path: Path, images: Tensor, expected: Tensor) -> None:
    backend = load_backend(write_torchscript(tmp_path / "toy.torchscript", names=NAMES, stride=16))
    assert (backend.names, backend.stride, backend.pt, backend.shape) == (NAMES, 16, False, None)
    with torch.inference_mode():
        assert torch.allclose(backend(images), expected, atol=1e-6)


def test_torchscript_traced_at_one_shape(tmp_path: Path) -> None:
    path = write_torchscript(tmp_path / "toy.torchscript", names=["a", "b", "c"], shape=[1, 3, 64, 96])
    backend = load_backend(path)
    assert (backend.names, backend.shape, backend.batch) == (NAMES, (64, 96), 1)


def test_onnx(tmp_path: Path, images: Tensor, expected: Tensor) -> None:
    pytest.importorskip("onnxruntime")
    backend = load_backend(write_onnx(tmp_path / "toy.onnx", names=str(NAMES), stride="64"))
    assert (backend.names, backend.stride, backend.shape, backend.batch) == (NAMES, 64, None, None)
    assert torch.allclose(backend(images), expected, atol=1e-6)


@pytest.mark.parametrize("batch", [1, 2])
def test_onnx_of_a_fixed_batch_takes_any_number(
    tmp_path: Path, images: Tensor, expected: Tensor, batch: int
) -> None:
    pytest.importorskip("onnxruntime")
    backend = load_backend(write_onnx(tmp_path / "toy.onnx", (batch, 3, 64, 96)))
    assert (backend.shape, backend.batch) == ((64, 96), batch)
    assert torch.allclose(backend(images), expected, atol=1e-6)


def test_opencv_dnn(tmp_path: Path, images: Tensor, expected: Tensor) -> None:
    backend = load_backend(write_onnx(tmp_path / "toy.onnx", (1, 3, 64, 96)), dnn=True)
    assert torch.allclose(backend(images), expected, atol=1e-5)


def test_opencv_dnn_knows_what_the_file_says(tmp_path: Path, images: Tensor) -> None:
    path = write_onnx(tmp_path / "toy.onnx", (1, 3, 64, 96), names=str(NAMES), stride="16")
    backend = load_backend(path, dnn=True)
    assert (backend.names, backend.stride, backend.shape, backend.batch) == (NAMES, 16, (64, 96), 1)
    with pytest.raises(UserError, match=r"the weights take images of \(64, 96\), got \(64, 64\)"):
        backend(images[..., :64])
    free = load_backend(write_onnx(tmp_path / "free.onnx"), dnn=True)
    assert (free.names, free.shape, free.batch, free.any_shape) == ({}, None, 1, False)


@pytest.mark.parametrize("shape", [(1, 3, 64, 96), ("batch", 3, "height", "width"), (2, 3, "h", "w")])
@pytest.mark.parametrize("dnn", [False, True])
def test_both_runtimes_of_onnx_files_know_the_same(tmp_path: Path, shape: Shape, dnn: bool) -> None:
    if not dnn:
        pytest.importorskip("onnxruntime")
    backend = load_backend(write_onnx(tmp_path / "toy.onnx", shape, names=str(NAMES)), dnn=dnn)
    fixed = isinstance(shape[2], int)
    assert backend.shape == ((64, 96) if fixed else None)
    assert backend.batch == (shape[0] if isinstance(shape[0], int) else 1 if dnn else None)


def test_what_an_onnx_file_says_of_its_input(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    path = write_onnx(tmp_path / "toy.onnx", ("batch", 3, 64, "width"), names="x", stride="8")
    told = read_input(path)
    assert (told.sides, told.element) == ([None, 3, 64, None], FLOAT)
    assert told.metadata == {"names": "x", "stride": "8"}
    model = onnx.load(path)  # old files list weights among the inputs
    weight = model.graph.initializer[0]
    model.graph.input.append(onnx.helper.make_tensor_value_info(weight.name, weight.data_type, weight.dims))
    onnx.save(model, path)
    assert read_input(path) == told
    model.graph.input.append(onnx.helper.make_tensor_value_info("more", onnx.TensorProto.INT64, [1]))
    onnx.save(model, path)
    with pytest.raises(UserError, match="has 2 inputs, not one for images"):
        read_input(path)


def test_onnx_files_cut_off_or_changed_anywhere(tmp_path: Path) -> None:
    """Each is refused with one line or says something; nothing else is raised and nothing runs for long."""
    path = write_onnx(tmp_path / "toy.onnx", names=str(NAMES))
    whole = path.read_bytes()
    rng, refused = np.random.default_rng(0), 0
    for number in range(300):
        content = bytearray(whole[: int(rng.integers(1, len(whole)))] if number % 2 else whole)
        content[int(rng.integers(0, len(content)))] = int(rng.integers(0, 256))
        path.write_bytes(content)
        try:
            read_input(path)
        except UserError as error:
            assert "toy.onnx" in str(error)
            refused += 1
    assert refused > 100
    path.write_bytes(b"")
    with pytest.raises(UserError, match="not an ONNX file, or it is damaged"):
        read_input(path)


def test_dnn_refuses_other_elements(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    path = write_onnx(tmp_path / "toy.onnx", (1, 3, 64, 96))
    model = onnx.load(path)
    model.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.DOUBLE
    onnx.save(model, path)
    with pytest.raises(UserError):
        load_backend(path, dnn=True)


class Strange(Backend):
    """A network that does not suit the images that it is given."""

    def __init__(self, output: Tensor | Exception) -> None:
        super().__init__(torch.device("cpu"))
        self.output = output

    def run(self, images: Tensor) -> list[Tensor]:
        if isinstance(self.output, Exception):
            raise self.output
        return [self.output]


def test_predictions_of_another_kind_are_refused() -> None:
    """(1, 84, 400), as later YOLOs give, would be 84 boxes of 395 classes; 640 pixels have 400 cells."""
    with pytest.raises(UserError, match=r"give \(1, 84, 400\) for images of \(640, 640\).* N at least 400"):
        Strange(torch.zeros(1, 84, 400))(torch.zeros(1, 3, 640, 640))
    assert Strange(torch.zeros(1, 1200, 8))(torch.zeros(1, 3, 640, 640)).shape == (1, 1200, 8)


@pytest.mark.parametrize("error", [RuntimeError, ValueError, IndexError])
def test_what_a_runtime_cannot_run_is_one_line(error: type[Exception]) -> None:
    with pytest.raises(UserError, match=r"on images \(1, 3, 64, 64\) float32: Reshape of 6 into 4$"):
        Strange(error("\nReshape of 6 into 4\nat 0x12"))(torch.zeros(1, 3, 64, 64))


def test_a_torchscript_that_kept_its_shape_without_saying_so(tmp_path: Path) -> None:
    class Fixed(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images[:, :, ::8, ::8].reshape(1, 3, 64).transpose(1, 2).repeat(1, 1, 3)

    path = tmp_path / "fixed.torchscript"
    torch.jit.save(torch.jit.trace(Fixed(), torch.zeros(1, 3, 64, 64)), str(path))
    backend = load_backend(path)
    assert backend.shape is None
    assert backend(torch.zeros(1, 3, 64, 64)).shape == (1, 64, 9)
    with pytest.raises(UserError, match=r"cannot run on images \(1, 3, 96, 96\)"):
        backend(torch.zeros(1, 3, 96, 96))


def test_an_onnx_that_kept_its_shape_behind_a_free_one(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    onnx = pytest.importorskip("onnx")
    path = write_onnx(tmp_path / "toy.onnx")
    model = onnx.load(path)
    constant = onnx.numpy_helper.from_array(np.array([1, 8, 6], np.int64), "flat")
    model.graph.initializer[2].CopyFrom(constant)
    onnx.save(model, path)
    for dnn in (False, True):
        backend = load_backend(path, dnn=dnn)
        with pytest.raises(UserError, match=r"cannot run on images \(1, 3, 96, 96\)"):
            backend(torch.zeros(1, 3, 96, 96))


def test_titles(tmp_path: Path) -> None:
    path = write_onnx(tmp_path / "toy.onnx", (1, 3, 64, 96))
    assert load_backend(path, dnn=True).title == f"{path} (OpenCV DNN, cpu)"
    script = write_torchscript(tmp_path / "toy.torchscript")
    assert load_backend([script, script]).title == " + ".join([f"{script} (TorchScript, cpu)"] * 2)


def test_names_come_from_the_data_yaml_when_the_file_has_none(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    (tmp_path / "pictures").mkdir()
    data = tmp_path / "data.yaml"
    data.write_text("path: .\ntrain: pictures\nval: pictures\nnames: [x, y, z]\n", encoding="utf-8")
    assert load_backend(write_onnx(tmp_path / "toy.onnx"), data=data).names == {0: "x", 1: "y", 2: "z"}
    named = load_backend(write_onnx(tmp_path / "named.onnx", names=str(NAMES)), data=data)
    assert named.names == NAMES


def test_missing_onnxruntime_names_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_onnx(tmp_path / "toy.onnx")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UserError, match="pip install onnxruntime"):
        load_backend(path)


def test_hostile_class_names_are_not_evaluated(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    path = write_onnx(tmp_path / "toy.onnx", names="__import__('os').system('true')")
    with pytest.raises(UserError, match="class names are damaged"):
        load_backend(path)


@pytest.mark.parametrize("name", ["best.tflite", "best", "best_saved_model"])
def test_an_unknown_form_lists_the_known_ones(name: str) -> None:
    with pytest.raises(UserError, match=r"known are \.pt, \.safetensors, \.torchscript, \.onnx"):
        load_backend(name)


@pytest.mark.parametrize("suffix", [".pt", ".torchscript", ".onnx"])
def test_damaged_and_missing_files(tmp_path: Path, suffix: str) -> None:
    pytest.importorskip("onnxruntime")
    path = tmp_path / f"bad{suffix}"
    with pytest.raises(UserError, match="not found"):
        load_backend(path)
    path.write_bytes(b"\x00\x01nothing of use")
    with pytest.raises(UserError, match=f"bad{suffix}") as caught:
        load_backend(path)
    assert "\n" not in str(caught.value)


def test_dnn_refuses_other_forms(tmp_path: Path) -> None:
    path = write_torchscript(tmp_path / "toy.torchscript")
    with pytest.raises(UserError, match=r"--dnn runs \.onnx"):
        load_backend(path, dnn=True)
    (tmp_path / "bad.onnx").write_bytes(b"nothing of use")
    with pytest.raises(UserError, match="OpenCV DNN cannot read"):
        load_backend(tmp_path / "bad.onnx", dnn=True)


def test_augmentation_needs_pytorch(tmp_path: Path, images: Tensor) -> None:
    with pytest.raises(UserError, match="--augment"):
        load_backend(write_torchscript(tmp_path / "toy.torchscript"))(images, augment=True)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    model = DetectionModel("yolov5n.yaml", nc=3)
    path = tmp_path_factory.mktemp("weights") / "tiny.pt"
    content = {
        "format": "lean5", "version": 1, "model": model.state_dict(), "ema": None, "yaml": model.yaml,
        "names": NAMES, "nc": 3, "stride": model.stride.tolist(), "anchors": model.head.anchors, "epoch": 0,
    }  # fmt: skip
    write_checkpoint(path, content)
    return path


def test_pytorch_fused_equals_the_model(checkpoint: Path) -> None:
    images = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    backend = load_backend(checkpoint)
    assert isinstance(backend, PyTorchBackend) and backend.pt
    assert (backend.names, backend.stride) == (NAMES, 32)
    with torch.inference_mode():
        assert torch.allclose(backend(images), load_model(checkpoint)(images)[0], atol=1e-4, rtol=1e-4)
        augmented = backend(images, augment=True)
    assert augmented.shape[1] > backend(images).shape[1]


def test_half_precision_is_not_for_every_cpu(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("utils.device.cpu_is_fast_in_bf16", lambda: False)
    assert load_backend(checkpoint, half=True).dtype == torch.float32


def test_an_ensemble_puts_predictions_side_by_side(checkpoint: Path) -> None:
    images = torch.rand(2, 3, 64, 64)
    both = load_backend([checkpoint, checkpoint])
    with torch.inference_mode():
        one = load_backend(checkpoint)(images)
        assert torch.equal(both(images), torch.cat((one, one), dim=1))
    assert isinstance(both, Ensemble) and both.names == NAMES and both.pt


def test_an_ensemble_needs_the_same_classes(checkpoint: Path, tmp_path: Path) -> None:
    other = write_torchscript(tmp_path / "toy.torchscript", names=["x", "b", "c"])
    with pytest.raises(UserError, match=r"same classes; found 3 \['a', 'b', 'c'\] and 3 \['x', 'b', 'c'\]"):
        load_backend([checkpoint, other])


def test_every_backend_says_what_it_is(checkpoint: Path) -> None:
    backend = load_backend(checkpoint)
    assert isinstance(backend, Backend) and backend.device.type == "cpu"


def onnx_of(
    path: Path, *shapes: tuple[int, ...], kind: torch.dtype = torch.float32, columns: int = 8
) -> Path:
    """A file with an input of each shape, that gives (1, 4, columns)."""

    class Other(nn.Module):
        def forward(self, *images: Tensor) -> Tensor:
            return sum(image.float().mean() for image in images) + torch.zeros(1, 4, columns)

    inputs = tuple(torch.zeros(shape, dtype=kind) for shape in shapes)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(Other(), inputs, str(path), dynamo=False, opset_version=17)
    return path


@pytest.mark.parametrize(
    ("shapes", "kind", "complaint"),
    [
        (((1, 2, 64, 64),), torch.float32, "its number of channels is 2; pictures have 1"),
        (((1, 3, 64),), torch.float32, "not images"),
        (((1, 3, 64, 64),), torch.uint8, r"takes tensor\(uint8\)"),
        (((1, 3, 64, 64), (1, 3, 64, 64)), torch.float32, "has 2 inputs"),
    ],
)
def test_onnx_files_that_take_something_else(
    tmp_path: Path, shapes: tuple[tuple[int, ...], ...], kind: torch.dtype, complaint: str
) -> None:
    pytest.importorskip("onnxruntime")
    with pytest.raises(UserError, match=complaint):
        load_backend(onnx_of(tmp_path / "a.onnx", *shapes, kind=kind))


def test_onnx_files_that_give_something_else(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    backend = load_backend(onnx_of(tmp_path / "a.onnx", (1, 3, 64, 64), columns=4))
    with pytest.raises(UserError, match=r"give \(1, 4, 4\) instead of predictions"):
        backend(torch.zeros(1, 3, 64, 64))


@pytest.mark.parametrize("runtime", ["onnxruntime", "opencv", "openvino", "torchscript"])
def test_a_file_that_takes_another_size_and_then_cannot_run_it(runtime: str, tmp_path: Path) -> None:
    class Net(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images.reshape(1, 3 * 64 * 8, 8)

    path, image = tmp_path / "a.onnx", torch.zeros(1, 3, 64, 64)
    free = {"images": {2: "height", 3: "width"}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            Net(), (image,), str(path), dynamo=False, input_names=["images"], dynamic_axes=free,
            opset_version=12,
        )  # fmt: skip
    if runtime == "torchscript":
        path = tmp_path / "a.torchscript"
        torch.jit.save(torch.jit.trace(Net(), image), str(path))
    elif runtime == "openvino":
        openvino = pytest.importorskip("openvino")
        openvino.save_model(shared_core().read_model(str(path)), str(tmp_path / "a_openvino_model" / "a.xml"))
        path = tmp_path / "a_openvino_model"
    elif runtime == "onnxruntime":
        pytest.importorskip("onnxruntime")
    backend = load_backend(path, dnn=runtime == "opencv")
    assert backend(image).shape == (1, 1536, 8)
    with pytest.raises(UserError, match=r"cannot run on images .* 96, 96") as caught:
        backend(torch.zeros(1, 3, 96, 96))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "values",
    [
        {"stride": "1e999"},
        {"stride": "NaN"},
        {"imgsz": "[1e999, 3]"},
        {"names": '{"5": "x"}'},
        {"stride": ".5"},
    ],
)
def test_metadata_that_cannot_be(values: dict[str, str]) -> None:
    with pytest.raises(UserError, match=r"'a\.onnx': its"):
        described(values, Path("a.onnx"))
