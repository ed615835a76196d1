"""Teacher and student side by side: what is shared, where they are compared, and what the errors are."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from models.cfg import load_cfg
from models.transfer import inherit
from models.yolo import DetectionModel
from training.lightening.losses import feature_error, output_error
from training.lightening.pair import Pair


@pytest.fixture(scope="module")
def teacher() -> DetectionModel:
    torch.manual_seed(0)
    return DetectionModel("yolov5n.yaml", nc=2).eval()


def pair_of(teacher: DetectionModel, variant: str) -> Pair:
    student = DetectionModel(variant, nc=2)
    inherit(student, teacher, exclude=())
    return Pair(student, copy.deepcopy(teacher))


@pytest.fixture
def images() -> Tensor:
    return torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))


def test_a_slim_neck_shares_the_backbone(teacher: DetectionModel) -> None:
    pair = pair_of(teacher, "yolov5n-slimneck.yaml")
    assert pair.shared == 10  # layers 0 to 9
    assert pair.cuts == {13: 13, 17: 17, 20: 20, 23: 23}
    assert pair.new == [10, 13, 14, 17, 18, 20, 21, 23]


@pytest.mark.parametrize("other", ["nn.ReLU()", "nn.LeakyReLU(0.1)"])
def test_another_activation_shares_nothing(teacher: DetectionModel, other: str) -> None:
    """It has no weights, and other maps."""
    student = DetectionModel(load_cfg("yolov5n.yaml") | {"activation": other}, nc=2)
    inherit(student, teacher, exclude=())
    assert Pair(student, copy.deepcopy(teacher)).shared == 0


def test_weights_that_differ_are_not_shared(teacher: DetectionModel) -> None:
    student = DetectionModel("yolov5n-slimneck.yaml", nc=2)
    inherit(student, teacher, exclude=())
    with torch.no_grad():
        student.model[4].cv1.bn.running_mean[0] += 1e-3
    assert Pair(student, copy.deepcopy(teacher)).shared == 4


def test_the_lesson_is_the_teachers_own_pass(teacher: DetectionModel, images: Tensor) -> None:
    pair = pair_of(teacher, "yolov5n-slimneck.yaml")
    maps, logits = pair.lesson(images)
    with torch.no_grad():
        expected = pair.teacher(images)[1]
    assert all(torch.equal(a, b) for a, b in zip(logits, expected, strict=True))
    assert set(maps) == {-1, 4, 6, 9, 13, 17, 20, 23}  # the picture, what the neck takes, and the cuts
    assert not any(tensor.requires_grad for tensor in maps.values())
    assert not pair.teacher.head.training  # it gave logits alone, and is as it was


def test_both_hear_of_channels_in_other_shares(teacher: DetectionModel, images: Tensor) -> None:
    pair = pair_of(teacher, "yolov5n-slimneck.yaml")
    pair.train(batch_statistics=False)
    factors = torch.tensor([1.0, 1.5])[:, None, None, None]  # the first picture stays as it is
    maps, logits = pair.lesson(images)
    others, other_logits = pair.lesson(images, lambda channels: factors.expand(2, channels, 1, 1))
    for index in (4, 6, 9):
        torch.testing.assert_close(others[index][0], maps[index][0])
        assert not torch.allclose(others[index][1], maps[index][1])
    torch.testing.assert_close(others[4][1], 1.5 * maps[4][1])
    for plain, other in zip(logits, other_logits, strict=True):
        torch.testing.assert_close(plain[0], other[0])
    given = pair.given(others)  # the student goes on with the same
    assert all(given[index] is others[index] for index in (4, 6, 9))


def test_where_no_stage_is_shared_nothing_is_changed(teacher: DetectionModel, images: Tensor) -> None:
    """The student makes its maps itself, and from what the picture shows."""
    pair = pair_of(teacher, "yolov5n-shufflenetv2.yaml")
    assert pair.shared == 1  # no end of a stage
    plain, _ = pair.lesson(images)
    other, _ = pair.lesson(images, lambda channels: torch.zeros(2, channels, 1, 1))
    assert plain.keys() == other.keys()
    assert all(torch.equal(plain[index], other[index]) for index in plain)


@pytest.mark.parametrize("variant", ["yolov5n-slimneck.yaml", "yolov5n-csppc.yaml", "yolov5n-msca.yaml"])
@torch.no_grad()
def test_the_student_makes_the_same_from_shared_maps(
    teacher: DetectionModel, images: Tensor, variant: str
) -> None:
    pair = pair_of(teacher, variant)
    pair.train(batch_statistics=False)
    errors, logits = pair.errors(pair.lesson(images)[0], stages=False)
    expected = pair.student.eval()(images)[1]
    assert logits is not None
    for a, b in zip(logits, expected, strict=True):
        torch.testing.assert_close(a, b)
    assert errors.keys() == pair.cuts.keys()


def test_stages_learn_apart(teacher: DetectionModel, images: Tensor) -> None:
    """What goes wrong in one stage is no matter of the next: it gets the teacher's maps."""
    pair = pair_of(teacher, "yolov5n-csppc.yaml")
    pair.train(batch_statistics=False)
    maps, _ = pair.lesson(images)
    before, none = pair.errors(maps, stages=True)
    assert none is None
    with torch.no_grad():
        pair.student.model[2].cv2.bn.bias += 1
    after, _ = pair.errors(maps, stages=True)
    changed = [cut for cut in before if not torch.equal(before[cut], after[cut])]
    assert changed == [2]
    after[4].backward()
    assert pair.student.model[4].cv2.conv.weight.grad is not None
    assert pair.student.model[2].cv2.conv.weight.grad is None


def test_modes(teacher: DetectionModel) -> None:
    pair = pair_of(teacher, "yolov5n-csppc-neck.yaml")
    norms = {n: m for n, m in pair.student.named_modules() if isinstance(m, nn.BatchNorm2d)}
    pair.train(batch_statistics=True)
    training = {name.split(".")[1] for name, norm in norms.items() if norm.training}
    assert training == {"13", "17", "20", "23"}  # layers that are new
    pair.train(batch_statistics=False)
    assert not any(norm.training for norm in norms.values())
    assert pair.student.head.training  # gives logits alone


def test_feature_error_is_a_share_of_the_variance() -> None:
    wanted = torch.tensor([[[[-1.0, 1.0, -1.0, 1.0]]]])  # variance 1
    assert float(feature_error(wanted, wanted)) == 0
    # differences 0.5, -0.5, 0.5, -0.5: their mean square is a quarter
    assert float(feature_error(wanted / 2, wanted)) == pytest.approx(0.25)
    dead = torch.zeros_like(wanted)  # a mean square of 1e-6, over 1e-4
    assert float(feature_error(wanted / 1000, dead)) == pytest.approx(0.01)


def test_every_channel_counts_alike() -> None:
    wanted = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    factors = torch.tensor([10.0, 1.0, 0.1])[:, None, None]
    for channel in range(3):
        own = wanted.clone()
        own[:, channel] *= 0.5
        error = float(feature_error(own * factors, wanted * factors))
        assert error == pytest.approx(float(feature_error(own, wanted)), rel=1e-4)
        assert error == pytest.approx(0.25 / 3, rel=0.1)


def test_output_error_is_least_for_the_same() -> None:
    generator = torch.Generator().manual_seed(0)
    wanted = [torch.randn(2, 3, size, size, 7, generator=generator) for size in (4, 2)]
    assert float(output_error(wanted, wanted)) == pytest.approx(0, abs=1e-4)
    other = [level.clone().requires_grad_() for level in wanted]
    with torch.no_grad():
        for level in other:
            level += 0.1 * torch.randn(level.shape, generator=generator)
    error = output_error(other, wanted)
    assert float(error.detach()) > 0
    error.backward()
    assert all(level.grad is not None and bool(level.grad.any()) for level in other)


def test_output_error_by_hand() -> None:
    """One image, one cell, one anchor, one class: there is no class loss."""
    wanted = torch.zeros(1, 1, 1, 1, 6)  # all sigmoids are 1/2
    own = wanted.clone()
    own[..., 0] = 100.0  # sigmoid 1: half a unit off
    # boxes: 20 * 0.5^2 * objectness 0.5 = 2.5
    assert float(output_error([own], [wanted])) == pytest.approx(2.5)
    own = wanted.clone()
    own[..., 4] = 2.0
    # log(1 + e^2) - 0.5 * 2 - log 2 = 2.1269 - 1 - 0.6931
    assert float(output_error([own], [wanted])) == pytest.approx(0.4338, abs=1e-4)
    own = wanted.clone()
    own[..., 5] = 5.0
    assert float(output_error([own], [wanted])) == 0
    own[..., 0] = 100.0
    # where the teacher is as good as sure that nothing is there, boxes and classes are not looked at
    wanted[..., 4] = own[..., 4] = -7.0  # 0.0009
    assert float(output_error([own], [wanted])) == 0
    wanted[..., 4] = own[..., 4] = -6.8  # 0.0011
    assert float(output_error([own], [wanted])) > 0


def test_classes_count_where_there_is_something() -> None:
    wanted = torch.zeros(1, 1, 1, 1, 7)
    own = wanted.clone()
    own[..., 5] = 2.0
    sure, unsure = wanted.clone(), wanted.clone()
    sure[..., 4], unsure[..., 4] = 9.0, -9.0
    errors = []
    for teacher in (sure, unsure):
        mine = own.clone()
        mine[..., 4] = teacher[..., 4]
        errors.append(float(output_error([mine], [teacher])))
    # half of (log(1 + e^2) - 1 - log 2), as far as the teacher is sure
    assert errors[0] == pytest.approx(0.5 * 0.4338, abs=1e-3) and errors[1] == pytest.approx(0, abs=1e-3)


def test_other_widths_are_compared_through_adapters(teacher: DetectionModel, images: Tensor) -> None:
    pair = pair_of(teacher, "yolov5n-shufflenetv2-backbone")
    assert {own: (conv.in_channels, conv.out_channels) for own, conv in pair.adapters.items()} == {
        "2": (116, 64),
        "4": (232, 128),
        "6": (464, 256),
    }
    maps, _ = pair.lesson(images)
    errors, logits = pair.errors(maps, stages=True)
    assert set(errors) == {2, 4, 6, 10, 14, 17, 20} and logits is None
    errors[6].backward()
    assert pair.adapters["6"].weight.grad is not None and pair.adapters["4"].weight.grad is None
    assert not any("adapters" in name for name in pair.student.state_dict())


def test_a_narrower_student_is_compared_in_the_channels_that_it_has(
    teacher: DetectionModel, images: Tensor
) -> None:
    student = DetectionModel(teacher.yaml | {"width_multiple": 0.1875})
    report = inherit(student, teacher, exclude=())
    pair = Pair(student, teacher, report)
    assert len(pair.cuts) == 9 and not pair.adapters
    maps, _ = pair.lesson(images)
    assert maps[9].shape[1] == 192
    whole: dict[int, Tensor] = {}
    for index, module in enumerate(teacher.model[:10]):
        whole[index] = module(whole.get(index - 1, images))
    torch.testing.assert_close(maps[9], whole[9][:, report.chosen[9]])
