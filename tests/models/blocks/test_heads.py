"""Heads with branches: they begin as Detect, cost what they say, and every way out gives the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from models.blocks.detect import Detect
from models.blocks.heads import BranchedDetect, DecoupledDetect, SharedDetect
from models.blocks.taking import Take
from models.deploy import deploy
from models.insertion import insert
from models.transfer import inherit
from models.yolo import DetectionModel
from tests.layouts import images, randomise_norms, small
from utils.counting.measure import count_parameters
from utils.errors import UserError

HEADS = [DecoupledDetect, SharedDetect]
CH = (8, 16)


def made(kind: type[BranchedDetect], nc: int = 3) -> BranchedDetect:
    torch.manual_seed(0)
    head = kind(nc, 2, CH, 32)
    randomise_norms(head)
    head.set_geometry([8.0, 16.0])
    return head.eval()


def maps(batch: int = 2) -> list[torch.Tensor]:
    seed = torch.Generator().manual_seed(1)
    return [torch.randn(batch, c, 8 >> i, 12 >> i, generator=seed) for i, c in enumerate(CH)]


def network(name: str) -> DetectionModel:
    """The small layout with branches whose numbers are all in use."""
    model = small(name)
    if isinstance(model.head, SharedDetect):
        nn.init.uniform_(model.head.scales, 0.5, 1.5)
    return model.eval()


def test_parameters() -> None:
    # per level: m, a 1x1 Conv to the width, two branches of two 3x3 Convs, two 1x1 to 2 anchors
    unit, read = 32 * 32 * 9 + 2 * 32, 32 * 2 * (5 + 3)
    shared = sum(c * 16 + 16 + c * 32 + 2 * 32 for c in CH)
    assert count_parameters(made(DecoupledDetect)) == shared + 2 * (4 * unit + read)
    assert count_parameters(made(SharedDetect)) == shared + 4 * unit + read + 2  # and a factor a level


@pytest.mark.parametrize("kind", HEADS)
@torch.no_grad()
def test_boxes_come_from_one_branch_and_classes_from_the_other(kind: type[BranchedDetect]) -> None:
    head, x = made(kind), maps()
    _, before = head(x)
    for conv in head.box:
        nn.init.zeros_(conv.weight)  # type: ignore[arg-type]
    _, without = head(x)
    for level, (one, other) in enumerate(zip(before, without)):
        assert torch.equal(one[..., 5:], other[..., 5:]) and not torch.equal(one[..., :5], other[..., :5])
        begun = head.stems[level](x[level])
        box = head.at(head.boxes, level)(begun)
        assert box.shape == begun.shape
        plain = head.m[level](x[level]).unflatten(1, (2, 8)).permute(0, 1, 3, 4, 2)
        torch.testing.assert_close(other[..., :5], plain[..., :5])
        cls = F.conv2d(head.at(head.classes, level)(begun), head.at(head.cls, level).weight)
        said = plain[..., 5:] + cls.unflatten(1, (2, 3)).permute(0, 1, 3, 4, 2)
        torch.testing.assert_close(other[..., 5:], said)


@torch.no_grad()
def test_levels_share_all_but_a_factor() -> None:
    head = SharedDetect(3, 2, (8, 8), 32)
    head.set_geometry([8.0, 8.0])
    for conv in (*head.m, *head.stems):
        conv.load_state_dict(head.m[0].state_dict() if conv in head.m else head.stems[0].state_dict())
    head.scales.copy_(torch.tensor([1.0, 3.0]))
    x = torch.randn(1, 8, 4, 4)
    _, (first, second) = head.eval()([x, x])
    plain = head.m[0](x).unflatten(1, (2, 8)).permute(0, 1, 3, 4, 2)
    torch.testing.assert_close(second[..., 5:], first[..., 5:])
    torch.testing.assert_close((second - plain)[..., :5], 3 * (first - plain)[..., :5])


@pytest.mark.parametrize("kind", HEADS)
@pytest.mark.parametrize("origin", [Detect, *HEADS])
@torch.no_grad()
def test_it_begins_as_the_detect_in_whose_place_it_stands(kind: Any, origin: Any) -> None:
    teacher = made(origin) if origin is not Detect else Detect(3, 2, CH).eval()
    teacher.set_geometry([8.0, 16.0])
    teacher.anchors.mul_(1.25)  # as after autoanchor
    student, take = made(kind), Take()
    take.module(student, teacher)
    if kind is origin:
        expected = teacher(maps())[0]
    else:
        plain = Detect(3, 2, CH).eval()
        plain.set_geometry([8.0, 16.0])
        plain.load_state_dict(
            {key: value for key, value in teacher.state_dict().items() if key in plain.state_dict()}
        )
        expected = plain(maps())[0]
    assert torch.equal(student(maps())[0], expected)


def test_other_classes_leave_it_as_it_is() -> None:
    student, take = made(DecoupledDetect), Take()
    take.module(student, Detect(5, 2, CH))
    assert not any(take.has(tensor) for tensor in student.parameters())
    assert all(conv.weight.any() for conv in student.box)  # type: ignore[union-attr, operator]


@pytest.mark.parametrize("name", ["yolov5n-decoupled", "yolov5n-sharedhead"])
@pytest.mark.parametrize("raw", [False, True])
@torch.no_grad()
def test_a_folded_network_means_the_same(name: str, raw: bool) -> None:
    model = network(name).double()
    x = images(model, 2).double()
    folded = deploy(model, raw=raw)
    assert "blocks left whole" not in folded.rules
    expected, logits = model(x)
    if not raw:
        torch.testing.assert_close(folded(x)[0], expected, rtol=1e-8, atol=1e-8)
        return
    for found, level in zip(folded(x), logits, strict=True):
        torch.testing.assert_close(found, level.permute(0, 1, 4, 2, 3).flatten(1, 2), rtol=1e-8, atol=1e-8)


@torch.no_grad()
def test_branches_that_say_nothing_are_folded_away() -> None:
    teacher, model = small("yolov5n").eval(), small("yolov5n-decoupled").eval()
    inherit(model, teacher, exclude=())
    x = images(model, 1)
    assert torch.equal(model(x)[0], teacher(x)[0])
    assert count_parameters(deploy(model)) == count_parameters(deploy(teacher))


def test_branches_begin_to_learn_at_once() -> None:
    model = small("yolov5n-sharedhead")
    inherit(model, small("yolov5n"), exclude=())
    x, head = images(model, 2), model.head
    for _ in range(2):
        model.zero_grad()
        torch.stack([level.square().mean() for level in model(x)]).sum().backward()
        moved = {key for key, value in head.named_parameters() if value.grad is not None and value.grad.any()}
        assert {"box.0.weight", "cls.0.weight"} <= moved
        with torch.no_grad():
            for conv in (*head.box, *head.cls):
                conv.weight -= 0.1 * conv.weight.grad
    assert moved == {key for key, _ in head.named_parameters()}


def test_before_detect_is_before_whatever_head() -> None:
    cfg = small("yolov5n-decoupled").yaml
    result, new = insert(cfg, ["SE before Detect"], "x")
    assert [row.index for row in new] == [24, 25, 26]
    assert result["head"][-1][0] == [24, 25, 26]


@pytest.mark.parametrize(
    ("args", "complaint"),
    [
        ((3, 2, 0), "needs branches of a width >= 1, got 0"),
        ((3,), r"takes the arguments \[nc, anchors, width\], got 1 of them"),
        ((3, 2, 32, 1), "got 4 of them"),
        ((3, [[1, 2]], 32), "has 1 rows of anchors for 3 layers"),
    ],
)
def test_misuse_is_named(args: tuple[Any, ...], complaint: str, tmp_path: Path) -> None:
    cfg = small("yolov5n").yaml
    rows = [*cfg["head"][:-1], [[17, 20, 23], 1, "SharedDetect", list(args)]]
    with pytest.raises(UserError, match=f"layer 24.*{complaint}"):
        DetectionModel(cfg | {"head": rows})
