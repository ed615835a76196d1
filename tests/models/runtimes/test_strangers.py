"""Exported files from strangers: what they may name, hold and claim, and that nothing in them is run."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from models.runtimes.metadata import clean_names, read_json, read_yaml
from models.runtimes.ncnn import check_param
from models.runtimes.onnx_file import check_whole
from models.runtimes.opening import load_backend
from tests.corpus import NCNN, NCNN_WEIGHTS
from tests.models.runtimes.test_opening import write_onnx, write_torchscript
from utils.errors import UserError

PLACES = (
    "../secret.bin",
    "/etc/passwd",
    "x/../../secret.bin",
    "link.bin",
    "weights.bin",
    "C:\\secret.bin",
    "",
)


def external(folder: Path, place: str, where: str = "initializer") -> Path:
    """An ONNX file one of whose tensors has its values in another file."""
    onnx = pytest.importorskip("onnx")
    path = write_onnx(folder / "toy.onnx")
    model = onnx.load(str(path))
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", place), ("offset", "0"), ("length", "96"), ("__class__", "x")):
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value
    if where != "initializer":
        moved = onnx.TensorProto()
        moved.CopyFrom(tensor)
        tensor.CopyFrom(onnx.numpy_helper.from_array(np.zeros((8, 3, 1, 1), np.float32), "weight"))
        constant = onnx.helper.make_node("Constant", [], ["secret"], value=moved)
        if where == "branch":
            out = [onnx.helper.make_tensor_value_info("secret", onnx.TensorProto.FLOAT, [8, 3, 1, 1])]
            branch = onnx.helper.make_graph([constant], "branch", [], out)
            constant = onnx.helper.make_node("If", ["flag"], ["y"], then_branch=branch, else_branch=branch)
        if where == "function":
            opset = [onnx.helper.make_opsetid("", 17)]
            model.functions.append(onnx.helper.make_function("own", "f", [], ["secret"], [constant], opset))
        elif where == "sparse":
            sparse = onnx.SparseTensorProto()
            sparse.values.CopyFrom(moved)
            model.graph.sparse_initializer.append(sparse)
        else:
            model.graph.node.append(constant)
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("dnn", [False, True])
def test_onnx_names_no_other_files(tmp_path: Path, place: str, dnn: bool) -> None:
    """OpenCV reads any file that is named there, through links too."""
    (tmp_path / "model").mkdir()
    (tmp_path / "secret.bin").write_bytes(bytes(96))
    (tmp_path / "model" / "weights.bin").write_bytes(bytes(96))
    (tmp_path / "model" / "link.bin").symlink_to(tmp_path / "secret.bin")
    path = external(tmp_path / "model", place)
    with pytest.raises(UserError, match="takes weights from other files"):
        load_backend(path, dnn=dnn)


@pytest.mark.parametrize("where", ["initializer", "constant", "branch", "function", "sparse"])
def test_wherever_a_tensor_stands(tmp_path: Path, where: str) -> None:
    with pytest.raises(UserError, match="takes weights from other files"):
        check_whole(external(tmp_path, "../x", where))


def test_whole_onnx_files_are_opened(tmp_path: Path) -> None:
    check_whole(write_onnx(tmp_path / "toy.onnx", location="a key of ours is no tensor's"))
    # a graph whose number has bits that protobuf's own reader drops
    hidden = b"\xba\x80\x80\x80\x10\x08location"
    for content in (
        b"",
        hidden,
        b"\xba\x80\x80\x80\x80\x01\x08location",
        b"location" + b"\xff" * 20,
        b"\x3a\xff\xff\xff\xff\x7flocation",
        b"\x3b location",
    ):
        (tmp_path / "x.onnx").write_bytes(content)
        with pytest.raises(UserError, match="is not an ONNX file"):
            check_whole(tmp_path / "x.onnx")


HOSTILE_NAMES = (
    "__import__('os').system('touch canary')",
    "{0: __import__('os').system('touch canary')}",
    "[x for x in (1).__class__.__base__.__subclasses__()]",
    "{0: open('canary', 'w')}",
    "{0: 'a', 1: f'{1}'}",
    "(" * 100_000,
    "-" * 100_000 + "1",
    "{" * 1000,
    "[" * 100_000 + "]" * 100_000,
    "'a'*10**9",
    "{0: 10**10**10}",
    "{" + "0:" * 100_000 + "}",
    "[" + "1," * 200_000 + "]",
    "9" * 400,  # no float holds it
)


@pytest.mark.parametrize("text", HOSTILE_NAMES, ids=range(len(HOSTILE_NAMES)))
def test_metadata_is_never_evaluated(tmp_path: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Class names, sizes and strides in the text of ONNX properties, JSON and yaml."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as error:
        clean_names(text, Path("x.onnx"))
    assert len(str(error.value)) < 300
    for key in ("names", "imgsz", "stride", "batch"):
        with pytest.raises(UserError):
            read_json(json.dumps({key: text}), Path("x.torchscript"))
    (tmp_path / "metadata.yaml").write_text(json.dumps({"names": text}), encoding="utf-8")
    with pytest.raises(UserError):
        read_yaml(tmp_path)
    assert not (tmp_path / "canary").exists()


def test_names_in_json_and_python_are_read() -> None:
    for text in ("{0: 'a b', 1: \"it's\"}", "['a b', \"it's\"]", '{"0": "a b", "1": "it\'s"}'):
        assert clean_names(text, Path("x")) == {0: "a b", 1: "it's"}


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_onnx_properties_and_torchscript_texts(tmp_path: Path) -> None:
    for text in HOSTILE_NAMES[:3]:
        with pytest.raises(UserError, match="class names are damaged"):
            load_backend(write_onnx(tmp_path / "toy.onnx", names=text))
        with pytest.raises(UserError, match="class names are damaged"):
            load_backend(write_torchscript(tmp_path / "toy.torchscript", names=text))


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_torchscript_is_no_pickle(tmp_path: Path) -> None:
    """A checkpoint under that name, with a call in its pickle, is refused and not run."""

    class Calls:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return print, ("run",)

    torch.save({"model": Calls()}, tmp_path / "x.torchscript")
    with pytest.raises(UserError, match="is not a TorchScript file"):
        load_backend(tmp_path / "x.torchscript")


def test_openvino_with_too_few_weights(tmp_path: Path) -> None:
    openvino = pytest.importorskip("openvino")
    folder = tmp_path / "toy_openvino_model"
    folder.mkdir()
    write_onnx(folder / "toy.onnx")
    openvino.save_model(openvino.convert_model(str(folder / "toy.onnx")), str(folder / "toy.xml"))
    content = (folder / "toy.bin").read_bytes()
    load_backend(folder)
    for size in (0, 1, len(content) // 2, len(content) - 1):
        (folder / "toy.bin").write_bytes(content[:size])
        with pytest.raises(UserError, match="cannot be run by OpenVINO"):
            load_backend(folder)
    (folder / "toy.bin").write_bytes(content)
    text = (folder / "toy.xml").read_text(encoding="utf-8")
    for old, new in (('offset="0"', 'offset="18446744073709551615"'), ('size="', 'size="9999999')):
        (folder / "toy.xml").write_text(text.replace(old, new), encoding="utf-8")
        with pytest.raises(UserError, match="cannot be run by OpenVINO"):
            load_backend(folder)
    entity = "<!DOCTYPE x [<!ENTITY a SYSTEM 'file:///etc/passwd'>]>"
    (folder / "toy.xml").write_text(
        text.replace("<net ", f"{entity}<net ", 1).replace("toy", "&a;"), encoding="utf-8"
    )
    assert "root:" not in str(load_backend(folder).names)


SWISH = "Swish            silu_0   1 1 2 4"
FORGED_PARAMS = {
    "a blob of nobody": ("2 3\nSwish", "3 4\nSwish"),
    "a window of 65535": ("4=1 5=1", "4=65535 5=1"),
    "a stride of zero": ("13=2", "13=0"),
    "a negative kernel": ("1=3", "1=-3"),
    "a dilation of 2^31": ("2=1", "2=2147483648"),
    "more weights than there are": ("6=216", "6=99999999"),
    "channels without end": ("0=8", "0=2147483647"),
    "a key beyond all": ("0=8", "32=8"),
    "a key before all": ("0=8", "-1=8"),
    "an array of two billion": ("0=8", "-23300=2147483647,1"),
    "an array of minus one": ("0=8", "-23300=-1"),
    "no number": ("0=8", "0=nan"),
    "text": ("0=8", '0="%s%n"'),
    "sizes of no Reshape": ("0=8", '6="0w,1"'),
    "sizes reckoned by ten thousand brackets": (
        SWISH,
        f'Reshape r 1 1 2 4 6="{"*(" * 10000}1,1{",1)" * 10000}"',
    ),
    "a quotient by nothing": (SWISH, 'Reshape r 1 1 2 4 6="//(8,0)"'),
    "sizes of another input": (SWISH, 'Reshape r 1 1 2 4 6="1w"'),
    "five sizes": (SWISH, 'Reshape r 1 1 2 4 6="1,1,1,1,1"'),
    "sizes that are none": (SWISH, 'Reshape r 1 1 2 4 6="%s%n"'),
    "no value": ("0=8", "0="),
    "two equal signs": ("0=8", "0==8"),
    "two outputs of a sum": ("add_0    2 1 3 4 out0", "add_0    2 2 3 4 out0 out1"),
    "no input of a convolution": ("conv_0   1 1 in0 1", "conv_0   0 1 1"),
    "constants without end": ("Swish            silu_0   1 1 2 4", "MemoryData x 0 1 4 0=65535 1=65535"),
    "constants of minus one": ("Swish            silu_0   1 1 2 4", "MemoryData x 0 1 4 0=1 1=4 2=-1"),
    "counts that differ": ("5 6", "75 3"),
    "counts without end": ("5 6", "2147483647 2147483647"),
    "negative counts": ("1 2 1 2 3", "-1 2 1 2 3"),
    "other letters": ("silu_0", "silu_ü"),
    "another magic number": ("7767517", "7767518"),
}


@pytest.mark.parametrize("kind", FORGED_PARAMS)
def test_forged_ncnn_files_do_not_reach_its_parser(tmp_path: Path, kind: str) -> None:
    """Each of these ended ncnn, or kept it busy."""
    old, new = FORGED_PARAMS[kind]
    assert old in NCNN
    (tmp_path / "x.param").write_text(NCNN.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(UserError, match="is damaged; export the network again"):
        check_param(tmp_path / "x.param", len(NCNN_WEIGHTS))


def test_sound_ncnn_files_are_read(tmp_path: Path) -> None:
    (tmp_path / "x.param").write_text(NCNN, encoding="utf-8")
    check_param(tmp_path / "x.param", len(NCNN_WEIGHTS))
    (tmp_path / "x.param").write_text(NCNN.replace("2=3\n", "2=3 -23310=2,1,2147483647\n"), encoding="utf-8")
    check_param(tmp_path / "x.param", len(NCNN_WEIGHTS))
    reckoned = NCNN.replace(SWISH, 'Reshape r 1 1 2 4 12=0 6="1,0w,//(256,0n),*(0h,2)"')
    (tmp_path / "x.param").write_text(reckoned, encoding="utf-8")
    check_param(tmp_path / "x.param", len(NCNN_WEIGHTS))
    with pytest.raises(UserError, match="damaged"):
        check_param(tmp_path / "x.param", 100)  # bytes of the weights, of which the convolution wants 216
