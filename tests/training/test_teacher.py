"""A trained detector beside the one that trains: what is compared, in whose terms, and what cannot be."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from models.yolo import DetectionModel
from tests.detectors import content_of, detector
from training.lightening.losses import output_error
from training.teacher import (
    OUTPUTS,
    Teacher,
    Trained,
    Translation,
    Watched,
    hindrance,
    load_teacher,
    shared_classes,
)
from utils.checkpoints.files import write_checkpoint
from utils.errors import UserError

HERE = Path("teacher.pt")


@pytest.fixture(scope="module")
def its() -> DetectionModel:
    return detector("cat", "dog", "owl")


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))


def taught_by(its: DetectionModel, student: DetectionModel, **more: Any) -> Teacher:
    return Teacher(Trained(copy.deepcopy(its), HERE), student, **more)


def error_of(teacher: Teacher, images: Tensor) -> Tensor:
    output, maps = teacher.watch()(images)
    return teacher.error(output if teacher.student.training else output[1], maps, teacher(images))


def reordered(model: DetectionModel, *names: str) -> DetectionModel:
    """The same detector, which says its classes in another order, or only some of them."""
    order = [[*model.names.values()].index(name) for name in names]
    other = DetectionModel(model.yaml, nc=len(names)).eval()
    weights = model.state_dict()
    rows = [
        anchor * (5 + model.nc) + place
        for anchor in range(3)
        for place in (*range(5), *(5 + i for i in order))
    ]
    for name in weights:
        if name.startswith(f"model.{len(model.model) - 1}.m."):
            weights[name] = weights[name][rows]
    other.load_state_dict(weights)
    other.names = dict(enumerate(names))
    return other


def test_the_maps_and_the_output_are_those_of_the_network(its: DetectionModel, images: Tensor) -> None:
    (decoded, logits), maps = Watched(its, [4, 9])(images)
    expected = its(images)
    assert torch.equal(decoded, expected[0])
    assert all(map(torch.equal, logits, expected[1]))
    assert {index: tuple(one.shape) for index, one in maps.items()} == {4: (2, 64, 8, 12), 9: (2, 256, 2, 3)}


@torch.no_grad()
def test_a_student_that_is_the_teacher_has_nothing_to_learn(its: DetectionModel, images: Tensor) -> None:
    teacher = taught_by(its, copy.deepcopy(its))
    assert str(teacher) == "objectness, boxes, 3 of 3 classes, maps at 9 ends of stages"
    assert float(error_of(teacher, images)) == pytest.approx(0, abs=1e-5)


def test_steps_move_the_student_towards_the_teacher(its: DetectionModel, images: Tensor) -> None:
    student = detector(*its.names.values(), cfg="yolov5n-csppc-neck.yaml", seed=1).train()
    teacher = taught_by(its, student)
    optimizer = torch.optim.Adam(student.parameters(), lr=3e-3)
    errors = []
    for _ in range(12):
        error = error_of(teacher, images)
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
        errors.append(float(error.detach()))
    assert errors[-1] < 0.8 * errors[0]
    assert all(parameter.grad is None for parameter in teacher.model.parameters())


@torch.no_grad()
def test_the_weight_is_a_factor(its: DetectionModel, images: Tensor) -> None:
    student = detector(*its.names.values(), seed=1)
    one, three = (float(error_of(taught_by(its, student, weight=w), images)) for w in (1.0, 3.0))
    assert three == pytest.approx(3 * one)


@torch.no_grad()
def test_the_error_of_logits_is_that_of_a_thing(its: DetectionModel, images: Tensor) -> None:
    student = detector(*its.names.values(), seed=1)
    teacher = taught_by(its, student)
    teacher.cuts = {}
    said, own = its(images)[1], student(images)[1]
    things = float(sum(level[..., 4].sigmoid().sum() for level in said)) / 2
    assert things > 1
    expected = OUTPUTS * float(output_error(own, said)) / things
    assert float(error_of(teacher, images)) == pytest.approx(expected, rel=1e-5)


@torch.no_grad()
def test_classes_of_another_order_are_found_by_name(its: DetectionModel, images: Tensor) -> None:
    student = reordered(its, "owl", "cat", "dog")
    teacher = taught_by(its, student)
    assert float(error_of(teacher, images)) == pytest.approx(0, abs=1e-5)
    student.names = its.names  # by number they are others
    assert float(error_of(taught_by(its, student), images)) > 1e-3


@torch.no_grad()
def test_things_of_classes_that_the_student_does_not_have_are_none(
    its: DetectionModel, images: Tensor
) -> None:
    student = reordered(its, "owl", "dog")
    logits, said = student(images)[1], its(images)[1]
    wanted = Translation(student, its, any_class=False)(said, logits)
    cats = [level[..., 5:].argmax(dim=-1) == 0 for level in said]
    assert any(cat.any() for cat in cats) and not all(cat.all() for cat in cats)
    for level, cat, theirs, own in zip(wanted, cats, said, logits, strict=True):
        assert (level[..., 4][cat] == -30).all()
        assert torch.equal(level[..., 4][~cat], theirs[..., 4][~cat])
        torch.testing.assert_close(level[..., 5:], own[..., 5:])


@torch.no_grad()
def test_a_teacher_that_lacks_a_class_is_silent_where_it_sees_nothing(
    its: DetectionModel, images: Tensor
) -> None:
    student, teacher = its, reordered(its, "dog", "cat")
    translation = Translation(student, teacher, any_class=False)
    assert translation.known == ([0, 1], [1, 0])
    assert not translation.complete
    logits = student(images)[1]
    wanted = translation(teacher(images)[1], logits)
    for level, own in zip(wanted, logits, strict=True):
        torch.testing.assert_close(level, own)  # of owls it wants what the student says
    assert "2 of 3 classes (not ['owl'])" in str(taught_by(teacher, student))
    nothing = [level.clone() for level in wanted]
    for level in nothing:
        level[..., 4] = -20
    assert float(output_error(logits, nothing, everywhere=False)) == pytest.approx(0, abs=1e-4)
    assert float(output_error(logits, nothing)) > 1


@torch.no_grad()
def test_boxes_are_wanted_in_terms_of_the_students_anchors(its: DetectionModel, images: Tensor) -> None:
    student = copy.deepcopy(its)
    student.head.anchors.mul_(torch.tensor([1.25, 0.8]))
    decoded, said = its(images)
    wanted = Translation(student, its, any_class=False)(said, student(images)[1])
    mine = student.head.decode(wanted)
    fits = torch.cat([level.flatten(1, 3) for level in wanted], dim=1)[..., 2:4].sigmoid() < 0.9999
    assert 0.5 < fits.float().mean() < 1  # of some the sides are more than four times the anchor
    torch.testing.assert_close(mine[..., 2:4][fits], decoded[..., 2:4][fits], rtol=1e-3, atol=1e-2)
    assert torch.equal(mine[..., :2], decoded[..., :2]) and torch.equal(mine[..., 4:], decoded[..., 4:])


@torch.no_grad()
def test_with_one_class_things_are_things(its: DetectionModel, images: Tensor) -> None:
    student = detector("item", seed=1)
    assert shared_classes(student.names, its.names) == ([], [])
    teacher = taught_by(its, student, any_class=True)
    assert str(teacher) == "objectness, boxes, maps at 9 ends of stages"
    wanted = Translation(student, its, any_class=True)(its(images)[1], student(images)[1])
    for level, theirs in zip(wanted, its(images)[1], strict=True):
        torch.testing.assert_close(level[..., :5], theirs[..., :5])


def test_classes_are_shared_once() -> None:
    assert shared_classes({0: "a", 1: "b"}, {0: "b", 1: "c", 2: "a"}) == ([0, 1], [2, 0])
    assert shared_classes({0: "a", 1: "a"}, {0: "a", 1: "a"}) == ([0, 1], [0, 1])
    assert shared_classes({0: "a", 1: "a"}, {0: "b", 1: "a", 2: "a"}) == ([0], [1])


def test_what_cannot_be_compared_is_said(its: DetectionModel) -> None:
    others = detector("fox")
    assert (
        hindrance(others, its, 4.0, any_class=False)
        == "it knows none of the classes, only ['cat', 'dog', 'owl']"
    )
    coarse = detector("cat", "dog", "owl", cfg="yolov5n6.yaml")
    assert "other levels" in hindrance(coarse, its, 4.0, any_class=False)
    large = copy.deepcopy(its)
    large.head.anchors *= 5
    assert "other sizes" in hindrance(large, its, 4.0, any_class=False)
    teacher = taught_by(its, others)
    assert str(teacher).startswith("maps at 9 ends of stages alone: it knows none")
    assert teacher.cuts


def test_nothing_to_teach_is_refused(its: DetectionModel) -> None:
    wide = detector("fox", cfg="yolov5s.yaml")
    with pytest.raises(UserError, match=r"teacher\.pt has nothing to teach: it knows none of the classes"):
        taught_by(its, wide)


@pytest.mark.parametrize(
    ("cfg", "ch", "message"),
    [
        ("yolov5n.yaml", 1, "of 1 channels, the network that trains of 3"),
        ("yolov5n6.yaml", 3, "multiples of 64"),
    ],
)
def test_a_teacher_that_cannot_see_the_pictures_is_refused(
    its: DetectionModel, tmp_path: Path, cfg: str, ch: int, message: str
) -> None:
    other = DetectionModel(cfg, nc=3, ch=ch)
    path = tmp_path / "other.pt"
    write_checkpoint(path, content_of(other))
    with pytest.raises(UserError, match=message):
        load_teacher(path, its)
