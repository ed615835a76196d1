"""Layers are recognised by what they do in the network, not by their numbers."""

from __future__ import annotations

import pytest

from models.alignment import align, places
from models.insertion import inserted
from models.yolo import DetectionModel


@pytest.fixture(scope="module")
def teacher() -> DetectionModel:
    return DetectionModel("yolov5n.yaml", nc=2)


def pairs(variant: str, teacher: DetectionModel) -> dict[int, int]:
    return align(DetectionModel(variant, nc=2), teacher)


def test_places_say_what_a_layer_makes_of_the_size(teacher: DetectionModel) -> None:
    found = places(teacher)
    assert [(p.entry, p.stride) for p in found[:3]] == [(1, 2), (2, 4), (4, 4)]
    assert (found[11].entry, found[11].stride) == (32, 16)  # Upsample
    assert found[24].entry == 32  # Detect, its coarsest map
    assert teacher.training


def test_the_same_network(teacher: DetectionModel) -> None:
    assert pairs("yolov5n.yaml", teacher) == {i: i for i in range(25)}


@pytest.mark.parametrize(
    "variant", ["yolov5n-slimneck.yaml", "yolov5n-csppc.yaml", "yolov5n-shufflenetv2.yaml"]
)
def test_replaced_layers_stand_where_the_others_stood(teacher: DetectionModel, variant: str) -> None:
    assert pairs(variant, teacher) == {i: i for i in range(25)}


@pytest.mark.parametrize(
    ("variant", "new"),
    [("yolov5n-msca.yaml", [18, 22, 26]), ("yolov5n-expand.yaml", [10]), ("yolov5n-asff.yaml", [24, 25, 26])],
)
def test_inserted_layers_shift_nothing(teacher: DetectionModel, variant: str, new: list[int]) -> None:
    found = pairs(variant, teacher)
    assert [i for i in range(25 + len(new)) if i not in found] == new
    assert list(found.values()) == list(range(25))


@pytest.mark.parametrize("block", ["CBAM", "SE", "EMA(8)"])
@pytest.mark.parametrize("variant", ["yolov5n-slimneck.yaml", "yolov5n-csppc.yaml"])
def test_attention_behind_replaced_layers_stands_for_none_of_them(
    teacher: DetectionModel, variant: str, block: str
) -> None:
    model = DetectionModel(inserted(variant, (f"{block} before Detect",)), nc=teacher.nc)
    assert align(model, teacher) == {**{i: i for i in range(24)}, 27: 24}


def test_another_backbone_ends_its_stages_where_that_one_did(teacher: DetectionModel) -> None:
    """PP-LCNet has five blocks at stride 16: the last of them stands for the C3 that gives what they give."""
    found = pairs("yolov5n-lcnet-backbone.yaml", teacher)
    assert {own: its for own, its in found.items() if its in (2, 4, 6, 9)} == {3: 2, 5: 4, 11: 6, 13: 9}
    assert {own: its for own, its in found.items() if own >= 14} == {own: own - 4 for own in range(14, 29)}


def test_another_size_of_the_same(teacher: DetectionModel) -> None:
    assert pairs("yolov5s.yaml", teacher) == {i: i for i in range(25)}
