"""Weights that go over to another network: by name and shape, and by structure."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch

from models.transfer import Counts, inherit, transfer
from models.weights import load_model
from models.yolo import DetectionModel


@pytest.fixture(scope="module")
def official(official_weights: Path) -> DetectionModel:
    return load_model(official_weights)


@pytest.fixture(scope="module")
def trained() -> DetectionModel:
    """A yolov5n whose every tensor says where it comes from: no two alike, statistics included."""
    torch.manual_seed(1)
    model = DetectionModel("yolov5n.yaml", nc=2)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if name.endswith("running_var"):
                tensor.uniform_(0.5, 1.5)
            elif name.endswith(("running_mean", "bn.bias")):
                tensor.normal_(std=0.2)
    return model.eval()


def test_transfer_to_other_classes_takes_all_but_the_head(official: DetectionModel) -> None:
    source = official.state_dict()
    model = DetectionModel("yolov5n.yaml", nc=3)
    head = {
        name: tensor.clone() for name, tensor in model.state_dict().items() if name.startswith("model.24")
    }
    report = transfer(model, source)
    own = model.state_dict()
    # 349 tensors; the head's three convolutions have 2 each, the anchors are left out: 349 - 6 - 1 = 342.
    # Parameters of the head: 3 * (5 + 3) = 24 outputs from 64, 128 and 256 channels, with a bias each:
    # 24 * (64 + 128 + 256) + 3 * 24 = 10,824 of the 1,767,976
    assert str(report) == ("342 of 349 tensors taken over, 99.4% of the parameters (1,757,152 of 1,767,976)")
    assert report.kept.pop("model.24.anchors") == "left as it is"
    assert len(report.kept) == len(report.details()) == 6
    assert all(reason.startswith("other shape (24,") for reason in report.kept.values())
    for name, tensor in own.items():
        assert torch.equal(tensor, head.get(name, source[name]))


SMALL = {
    "nc": 1, "depth_multiple": 1.0, "width_multiple": 1.0, "anchors": [[8, 8, 16, 16]],
    "backbone": [[-1, 1, "Conv", [16, 1]], [-1, 1, "nn.Upsample", [None, 2, "nearest"]]],
    "head": [[-1, 2, "Conv", [16, 1]], [-1, 1, "Detect", ["nc", "anchors"]]],
}  # fmt: skip


def test_transfer_counts_by_layer_and_converts() -> None:
    model = DetectionModel(SMALL)
    source = {name: tensor + 1 for name, tensor in model.state_dict().items()}
    source["model.0.conv.weight"] = torch.full((16, 3, 1, 1), 0.5).half()
    source["model.0.bn.bias"] = torch.ones(4)
    del source["model.2.1.conv.weight"]
    before = model.head.m[0].bias.clone()
    report = transfer(model, source, exclude=("3.m", "anchor"))
    # layer 0: 16 * 3 + 16 + 16 = 80 parameters, the last 16 of which do not fit: 64 of 80, 5 of 6 tensors
    # layer 2: two of 16 * 16 + 16 + 16 = 288 each, 256 of which are missing: 320 of 576, 11 of 12 tensors
    # layer 3: 2 * (5 + 1) = 12 outputs, 12 * 16 + 12 = 204 parameters in 2 tensors, and the anchors
    # in all 16 of 21 tensors and 384 of 860 parameters: 44.65 %
    assert report.layers == {
        (0, "Conv"): Counts(5, 6, 64, 80),
        (2, "Conv"): Counts(11, 12, 320, 576),
        (3, "Detect"): Counts(0, 3, 0, 204),
    }
    assert str(report) == "16 of 21 tensors taken over, 44.7% of the parameters (384 of 860)"
    assert report.share == 384 / 860
    assert report.table().splitlines() == [
        "layer  block              tensors    parameters taken over   share",
        "    0  Conv                5 of 6                 64 of 80   80.0%",
        "    2  Conv              11 of 12               320 of 576   55.6%",
        "    3  Detect              0 of 3                 0 of 204    0.0%",
        "       all               16 of 21               384 of 860   44.7%",
    ]
    assert report.kept == {
        "model.0.bn.bias": "other shape (16,), in the weights (4,)",
        "model.2.1.conv.weight": "not in the weights",
        **dict.fromkeys(("model.3.anchors", "model.3.m.0.weight", "model.3.m.0.bias"), "left as it is"),
    }
    weight = model.model[0].conv.weight
    assert (weight == 0.5).all() and weight.dtype == torch.float32 and weight.requires_grad
    assert torch.equal(model.head.m[0].bias, before)
    assert int(model.model[2][0].bn.num_batches_tracked) == 1  # a counter is copied, and no parameter


def test_share_ignores_buffers() -> None:
    model = DetectionModel(SMALL)
    buffers = dict(model.named_buffers())
    report = transfer(model, buffers, exclude=())
    # 3 BatchNorms with a mean, a variance and a counter, and the anchors
    assert (report.total.tensors, report.total.parameters, report.share) == (10, 0, 0.0)


# --- by structure ---

VARIANTS = sorted(path.stem for path in Path("models").glob("yolov5n-*.yaml"))


def test_to_the_same_yaml_it_is_a_copy(trained: DetectionModel) -> None:
    model = DetectionModel("yolov5n.yaml", nc=2)
    report = inherit(model, trained, exclude=())
    assert report.share == 1 and not report.kept
    assert all(torch.equal(t, trained.state_dict()[name]) for name, t in model.state_dict().items())


@pytest.mark.parametrize("variant", VARIANTS)
def test_no_variant_gets_less_than_by_name(trained: DetectionModel, variant: str) -> None:
    torch.manual_seed(0)
    by_name = transfer(DetectionModel(variant + ".yaml", nc=2), trained.state_dict())
    torch.manual_seed(0)
    model = DetectionModel(variant + ".yaml", nc=2)
    report = inherit(model, trained)
    assert report.share >= by_name.share
    assert report.kept[f"model.{len(model.model) - 1}.anchors"] == "left as it is"
    assert all(bool(torch.isfinite(t).all()) for t in model.state_dict().values())
    with torch.inference_mode():
        assert bool(torch.isfinite(model.eval()(torch.rand(1, 3, 64, 64))[0]).all())


def test_an_inserted_block_shifts_nothing(trained: DetectionModel) -> None:
    """Three MSCA stand before the head, and every layer after the first of them has another number."""
    model = DetectionModel("yolov5n-msca.yaml", nc=2).eval()
    report = inherit(model, trained, exclude=())
    assert report.origins[18] == report.origins[22] == report.origins[26] == "returns its input"
    assert report.origins[19] == "18 Conv" and report.origins[27] == "24 Detect"
    counts = report.layers[18, "MSCA"]
    assert counts.tensors == counts.parameters == 0  # nothing of it comes from the other network
    image = torch.rand(1, 3, 96, 64)
    with torch.inference_mode():
        torch.testing.assert_close(model(image)[0], trained(image)[0])


def test_the_table_says_what_came_from_where(trained: DetectionModel) -> None:
    model = DetectionModel("yolov5n-slimneck.yaml", nc=2)
    lines = inherit(model, trained, exclude=()).table().splitlines()
    assert lines[0].endswith("made from")
    row = next(line for line in lines if "VoVGSCSP" in line)
    assert row.split()[:2] == ["13", "VoVGSCSP"] and row.endswith("13 C3")


def test_behind_maps_of_other_widths_the_columns_of_the_others_are_taken(trained: DetectionModel) -> None:
    model = DetectionModel("yolov5n-shufflenetv2-backbone.yaml", nc=trained.nc)
    report = inherit(model, trained)
    own, its = model.model[10].cv1.conv.weight, trained.model[13].cv1.conv.weight  # of 128 | 232, 128 | 128
    assert torch.equal(own[:, :128], its[:, :128]) and own[:, 128:].abs().max() == 0
    counts = report.layers[10, "C3"]
    assert counts.all_parameters - counts.parameters == 2 * 64 * 232  # cv1 and cv2


def test_other_classes_and_other_anchors_stay(trained: DetectionModel) -> None:
    model = DetectionModel("yolov5n-csppc.yaml", nc=5)
    anchors = model.head.anchors.clone()
    report = inherit(model, trained)
    head = {name: reason for name, reason in report.kept.items() if name.startswith("model.24.m")}
    assert len(head) == 6 and set(head.values()) == {"nothing that fits"}
    assert torch.equal(model.head.anchors, anchors)


def test_a_fused_network_gives_what_it_computes(trained: DetectionModel) -> None:
    fused = copy.deepcopy(trained).fuse()
    model = DetectionModel("yolov5n.yaml", nc=2).eval()
    report = inherit(model, fused, exclude=())
    assert report.share == 1
    image = torch.rand(1, 3, 64, 96)
    with torch.inference_mode():
        torch.testing.assert_close(model(image)[0], trained(image)[0], rtol=1e-3, atol=1e-3)


def test_what_orepa_has_learnt_goes_on_as_a_convolution(trained: DetectionModel) -> None:
    """Its branches have names and shapes that no other block knows; their sum is a kernel like any other."""
    merged = DetectionModel("yolov5n-orepa.yaml", nc=2).eval()
    assert inherit(merged, trained, exclude=()).share == 1
    model = DetectionModel("yolov5n.yaml", nc=2).eval()
    assert inherit(model, merged, exclude=()).share == 1
    image = torch.rand(1, 3, 64, 96)
    with torch.inference_mode():
        for other in (merged, model):
            torch.testing.assert_close(other(image)[0], trained(image)[0], rtol=1e-3, atol=1e-3)
    again = DetectionModel("yolov5n-orepa.yaml", nc=2)
    inherit(again, merged, exclude=())
    assert all(torch.equal(value, merged.state_dict()[name]) for name, value in again.state_dict().items())


@pytest.mark.parametrize("variant", ["gsconv", "dsconv", "shufflenetv2", "csppc"])
@pytest.mark.parametrize("source", ["orepa", "mobileone-backbone", "shufflenetv2-backbone"])
def test_weights_of_any_variant_go_to_any_other(source: str, variant: str) -> None:
    teacher = DetectionModel(f"yolov5n-{source}.yaml", nc=2)
    report = inherit(DetectionModel(f"yolov5n-{variant}.yaml", nc=2), teacher)
    assert 0 < report.share <= 1
