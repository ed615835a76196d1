"""Least squares for what a student took over."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from models.blocks.conv import Conv
from models.cfg import load_cfg
from models.transfer import inherit
from models.weights import load_model
from models.yolo import DetectionModel
from tests.layouts import randomise_norms
from training.lightening import fitting
from training.lightening.fitting import Reader, Wanted, fit_readers, trace
from training.lightening.pair import Pair


@pytest.fixture(scope="module")
def teacher() -> DetectionModel:
    """One whose maps vary, as those of a trained network do."""
    torch.manual_seed(0)
    model = DetectionModel("yolov5n.yaml", nc=2)
    randomise_norms(model)
    return model.eval()


@pytest.fixture(scope="module")
def batches() -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.rand(4, 3, 64, 96, generator=generator) for _ in range(3)]


def pair_of(teacher: DetectionModel, variant: str, width: float = 1) -> Pair:
    cfg = load_cfg(variant)
    student = DetectionModel(cfg | {"width_multiple": cfg["width_multiple"] * width}, nc=teacher.nc)
    return Pair(student, copy.deepcopy(teacher), inherit(student, teacher, exclude=()))


def error(pair: Pair, images: Tensor) -> float:
    """How far the student's logits are from the teacher's, as a fraction of the variance of each channel."""
    with torch.no_grad():
        wanted = pair.teacher.eval()(images)[1]
        found = pair.student.eval()(images)[1]
    errors = [
        ((a - b).square().mean(dim=(0, 2, 3)) / b.var(dim=(0, 2, 3))).mean()
        for a, b in zip(found, wanted, strict=True)
    ]
    return float(torch.stack(errors).mean())


@pytest.mark.parametrize(
    ("variant", "least"),
    [
        ("yolov5n-gsconv.yaml", 0.5),
        ("yolov5n-slimneck.yaml", 0.5),
        ("yolov5n-csppc.yaml", 0.5),
        ("yolov5n-c3dual.yaml", 0.5),
        ("yolov5n-dsconv.yaml", 0.5),
    ],
)
def test_a_student_is_nearer_to_its_teacher(
    teacher: DetectionModel, batches: list[Tensor], variant: str, least: float
) -> None:
    """On pictures that it was not fitted on."""
    torch.manual_seed(0)
    pair = pair_of(teacher, variant)
    its = {name: value.clone() for name, value in pair.teacher.state_dict().items()}
    others = torch.rand(4, 3, 64, 96, generator=torch.Generator().manual_seed(2))
    before = error(pair, others)
    assert fit_readers(pair, batches) > 3
    assert error(pair, others) < least * before
    assert all(torch.equal(value, its[name]) for name, value in pair.teacher.state_dict().items())


@pytest.mark.parametrize("variant", ["mobilenetv3", "shufflenetv2x", "mobileone", "lcnet", "fasternet"])
def test_behind_a_foreign_backbone_no_weight_becomes_immense(
    official_weights: Path, batches: list[Tensor], variant: str
) -> None:
    """Its maps are next to nothing: weights that make the teacher's of them would leave half precision."""
    teacher = load_model(official_weights)
    torch.manual_seed(0)
    student = DetectionModel(f"yolov5n-{variant}-backbone.yaml", nc=teacher.nc)
    pair = Pair(student, teacher, inherit(student, teacher, exclude=()))
    most = max(float(value.abs().max()) for value in student.state_dict().values())
    fit_readers(pair, batches)
    assert max(float(value.abs().max()) for value in student.state_dict().values()) < 10 * most


def test_maps_that_are_next_to_nothing_make_no_immense_weights(
    teacher: DetectionModel, batches: list[Tensor]
) -> None:
    torch.manual_seed(0)
    pair = pair_of(teacher, "yolov5n-slimneck.yaml")
    weights = dict(pair.student.named_parameters())
    with torch.no_grad():
        for own in pair.new[:-1]:  # new layers that let hardly anything through
            for name in weights:
                if name.startswith(f"model.{own}.") and name.endswith("bn.weight"):
                    weights[name] *= 1e-5
    fit_readers(pair, batches)
    assert max(float(weight.detach().abs().max()) for weight in weights.values()) < 1000


def test_a_narrower_network_is_nearer(official_weights: Path, batches: list[Tensor]) -> None:
    """Where no channel has the teacher's weights, the last convolutions of its layers are fitted."""
    pair = pair_of(load_model(official_weights), "yolov5n.yaml", width=0.75)
    before = error(pair, batches[0])
    assert fit_readers(pair, batches[1:]) > 3
    assert error(pair, batches[0]) < 0.5 * before


@pytest.mark.parametrize("dead", [0, 3])
def test_what_reads_the_same_stays_as_it_is(
    teacher: DetectionModel, batches: list[Tensor], dead: int
) -> None:
    """Attention that begins as the identity changes no map. Channels whose weights are all 0, as pruning
    leaves them, are not taken for each other."""
    pair = pair_of(teacher, "yolov5n-msca.yaml")
    with torch.no_grad():
        for model in (pair.teacher, pair.student):
            for name, weight in model.named_parameters():
                if name.endswith("conv.weight"):
                    weight[:dead] = 0
    before = {name: value.clone() for name, value in pair.student.state_dict().items()}
    assert fit_readers(pair, batches) > 0
    for name, value in pair.student.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=1e-3, atol=1e-3)


def test_it_is_the_same_every_time(teacher: DetectionModel, batches: list[Tensor]) -> None:
    found = []
    for _ in range(2):
        torch.manual_seed(0)
        pair = pair_of(teacher, "yolov5n-slimneck.yaml")
        fit_readers(pair, batches)
        found.append(pair.student.state_dict())
    assert all(torch.equal(value, found[1][name]) for name, value in found[0].items())


def both(channels: int, bias: bool) -> tuple[nn.Conv2d, nn.BatchNorm2d | None]:
    conv = nn.Conv2d(channels, 5, kernel_size=3, stride=2, padding=1, bias=bias)
    norm = None if bias else nn.BatchNorm2d(5).eval()
    if norm is not None:
        nn.init.uniform_(norm.weight, 0.5, 2)
        nn.init.normal_(norm.bias)
        assert norm.running_mean is not None and norm.running_var is not None
        nn.init.normal_(norm.running_mean)
        nn.init.uniform_(norm.running_var, 0.5, 2)
    return conv, norm


@pytest.mark.parametrize("bias", [False, True])
def test_what_a_convolution_can_do_is_found_exactly(bias: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """It reads the teacher's maps through a mixture that can be undone; three of five channels are asked."""
    monkeypatch.setattr(fitting, "RIDGE", 1e-9)
    monkeypatch.setattr(fitting, "LEAST_RIDGE", 0)
    torch.manual_seed(0)
    x = torch.randn(3, 4, 16, 16)
    mixture = torch.randn(4, 4) + 2 * torch.eye(4)
    mixed = torch.einsum("dc,bchw->bdhw", mixture, x)
    (other, its), (conv, norm) = both(4, bias), both(4, bias)
    kept, before = [1, 3], conv.weight.detach().clone()
    reader = Reader(conv, norm, [0, 2, 4], [(other, its, 2), (other, its, 1), (other, its, 0)])
    with torch.no_grad():
        wanted = other(x)
        read = fitting._read(conv, mixed, conv(mixed), 64)
        solution = fitting._solved(reader, read, {other: Wanted(fitting._written(wanted, 64), 1.0)})
        assert solution is not None and solution.left < 1e-3
        fitting._move(reader, solution)
        found, expected = (
            layer(value) if layer else value for layer, value in ((norm, conv(mixed)), (its, wanted))
        )
    torch.testing.assert_close(found[:, [0, 2, 4]], expected[:, [2, 1, 0]], rtol=1e-3, atol=1e-3)
    assert torch.equal(conv.weight[kept], before[kept])


def test_a_trace_knows_the_last_convolution() -> None:
    plain = Conv(3, 4)
    network = nn.Sequential(Conv(3, 3), plain)
    _, found = trace(network.eval(), torch.rand(1, 3, 8, 8))
    assert found.last is plain.conv
    assert found.norms[plain.conv] is plain.bn
    _, found = trace(nn.Sequential(plain, nn.Upsample(scale_factor=2)).eval(), torch.rand(1, 3, 8, 8))
    assert found.last is None and found.convs == [plain.conv]
    assert not plain._forward_hooks


def test_new_layers_make_in_training_what_they_were_fitted_with(
    teacher: DetectionModel, batches: list[Tensor]
) -> None:
    """The statistics of the batch are then those that their BatchNorms have."""
    torch.manual_seed(0)
    pair = pair_of(teacher, "yolov5n-slimneck.yaml")
    everything = torch.cat(batches)
    fit_readers(pair, [everything])
    found = []
    for of_the_batch in (False, True):
        pair.train(batch_statistics=of_the_batch)
        with torch.no_grad():
            found.append(pair.errors(pair.lesson(everything)[0], stages=False)[1])
    for own, other in zip(*map(list, found), strict=True):
        torch.testing.assert_close(own, other, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("variant", ["yolov5n-slimneck.yaml", "yolov5n-gsconv.yaml"])
def test_what_is_silent_at_first_has_the_statistics_of_what_it_reads(
    teacher: DetectionModel, batches: list[Tensor], variant: str
) -> None:
    """Else it would learn from maps of any size while BatchNorm rests."""
    torch.manual_seed(0)
    pair = pair_of(teacher, variant)
    fit_readers(pair, batches)
    for index in pair.new:
        for norm in pair.student.model[index].modules():
            if isinstance(norm, nn.BatchNorm2d):
                assert norm.running_mean is not None and norm.running_var is not None
                assert norm.running_mean.any() and (norm.running_var != 1).any(), index
