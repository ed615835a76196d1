"""Yamls as tutorials and other trees write them, with their names of blocks and their indices."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch import nn

from models.aliases import ALIASES
from models.blocks.repconv import RepConv
from models.cfg import load_cfg
from models.registry import BLOCKS, Row, keeping, lookup
from models.yolo import DetectionModel
from utils.counting.measure import count_parameters
from utils.errors import UserError

ANCHORS = """
anchors:
  - [10,13, 16,30, 33,23]  # P3/8
  - [30,61, 62,45, 59,119]  # P4/16
  - [116,90, 156,198, 373,326]  # P5/32
"""
# attention with its channels as an argument; every index behind it is shifted by hand
COORDINATES = f"""
nc: 80
depth_multiple: 0.33
width_multiple: 0.25
{ANCHORS}
backbone:
  # [from, number, module, args]
  [[-1, 1, Conv, [64, 6, 2, 2]],
   [-1, 1, Conv, [128, 3, 2]],
   [-1, 3, C3, [128]],
   [-1, 1, Conv, [256, 3, 2]],
   [-1, 6, C3, [256]],
   [-1, 1, CA, [256]],  # 5
   [-1, 1, Conv, [512, 3, 2]],
   [-1, 9, C3, [512]],
   [-1, 1, SEAttention, [512, 16]],  # 8
   [-1, 1, Conv, [1024, 3, 2]],
   [-1, 3, C3_Ghost, [1024]],
   [-1, 1, CBAMBlock, [1024]],  # 11
   [-1, 1, SPPF, [1024, 5]],  # 12
  ]
head:
  [[-1, 1, Conv, [512, 1, 1]],
   [-1, 1, nn.Upsample, [None, 2, 'nearest']],
   [[-1, 8], 1, Concat, [1]],
   [-1, 3, C3, [512, False]],
   [-1, 1, Conv, [256, 1, 1]],
   [-1, 1, nn.Upsample, [None, 2, 'nearest']],
   [[-1, 5], 1, Concat, [1]],
   [-1, 3, C3, [256, False]],  # 20
   [-1, 1, Conv, [256, 3, 2]],
   [[-1, 17], 1, Concat, [1]],
   [-1, 3, C3, [512, False]],  # 23
   [-1, 1, Conv, [512, 3, 2]],
   [[-1, 13], 1, Concat, [1]],
   [-1, 3, C3, [1024, False]],  # 26
   [-1, 1, simam_module, [1e-4]],
   [[20, 23, 27], 1, Detect, [nc, anchors]],
  ]
"""
# weighted joints, with one more link from the backbone, and space to depth in place of strides
WEIGHTED = f"""
nc: 20
depth_multiple: 0.33
width_multiple: 0.50
{ANCHORS}
backbone:
  - [-1, 1, Conv, [64, 6, 2, 2]]
  - [-1, 1, Conv, [128, 3, 1]]
  - [-1, 1, space_to_depth, [1]]
  - [-1, 3, C3, [128]]
  - [-1, 1, Conv, [256, 3, 2]]
  - [-1, 6, C2f, [256, True]]  # 5
  - [-1, 1, Conv, [512, 3, 2]]
  - [-1, 9, C3, [512]]  # 7
  - [-1, 1, Conv, [1024, 3, 2]]
  - [-1, 3, C3, [1024]]
  - [-1, 1, SPPF, [1024, 5]]  # 10
head:
  - [-1, 1, Conv, [512, 1, 1]]  # 11
  - [-1, 1, nn.Upsample, [None, 2, nearest]]
  - [[-1, 7], 1, BiFPN_Concat2, [1]]
  - [-1, 3, C3, [512, False]]
  - [-1, 1, Conv, [256, 1, 1]]  # 15
  - [-1, 1, nn.Upsample, [None, 2, nearest]]
  - [[-1, 5], 1, BiFPN_Concat2, [1]]
  - [-1, 3, C3, [256, False]]  # 18
  - [-1, 1, Conv, [256, 3, 2]]
  - [[-1, 15, 7], 1, BiFPN_Concat3, [1]]
  - [-1, 3, C3, [512, False]]  # 21
  - [-1, 1, Conv, [512, 3, 2]]
  - [[-1, 11], 1, BiFPN_Concat2, [1]]
  - [-1, 3, C3, [1024, False]]  # 24
  - [[18, 21, 24], 1, Detect, [nc, anchors]]
"""

# a backbone of RepVGG blocks and the pyramid of version 5, as a light tree has it
REPVGG = f"""
nc: 80
depth_multiple: 1.0
width_multiple: 0.5
{ANCHORS}
backbone:
  - [-1, 1, Focus, [64, 3]]
  - [-1, 1, RepVGGBlock, [128, 3, 2]]
  - [-1, 1, C3, [128]]
  - [-1, 1, RepVGGBlock, [256, 3, 2]]  # 3
  - [-1, 3, RepVGGBlock, [256]]  # 4
  - [-1, 1, RepVGGBlock, [512, 3, 2]]
  - [-1, 3, RepVGGBlock, [512]]  # 6
  - [-1, 1, RepVGGBlock, [1024, 3, 2]]
  - [-1, 1, SPP, [1024, [5, 9, 13]]]
  - [-1, 1, C3, [1024, False]]  # 9
head:
  - [-1, 1, Conv, [256, 1, 1]]
  - [-1, 1, nn.Upsample, [None, 2, 'nearest']]
  - [[-1, 6], 1, Concat, [1]]
  - [-1, 1, C3, [256, False]]  # 13
  - [-1, 1, Conv, [256, 1, 1]]
  - [-1, 1, nn.Upsample, [None, 2, 'nearest']]
  - [[-1, 4], 1, Concat, [1]]
  - [-1, 1, C3, [256, False]]  # 17
  - [-1, 1, Conv, [256, 3, 2]]
  - [[-1, 14], 1, Concat, [1]]
  - [-1, 1, C3, [256, False]]  # 20
  - [-1, 1, Conv, [256, 3, 2]]
  - [[-1, 10], 1, Concat, [1]]
  - [-1, 1, C3, [512, False]]  # 23
  - [[17, 20, 23], 1, Detect, [nc, anchors]]
"""
# attention with its channels twice, convolutions of other papers in the backbone, and a head with branches
BRANCHED = f"""
nc: 12
depth_multiple: 0.33
width_multiple: 0.50
{ANCHORS}
backbone:
  [[-1, 1, Conv, [64, 6, 2, 2]],
   [-1, 1, DBB, [128, 3, 2]],
   [-1, 3, C3, [128]],
   [-1, 1, ODConv2d, [256, 3, 2]],
   [-1, 6, C3, [256]],
   [-1, 1, DCNv2, [512, 3, 2]],
   [-1, 9, C3, [512]],
   [-1, 1, GAMAttention, [512, 512]],  # 7
   [-1, 1, Conv, [1024, 3, 2]],
   [-1, 3, C3, [1024]],
   [-1, 1, SPPF, [1024, 5]],  # 10
  ]
head:
  [[-1, 1, Conv, [512, 1, 1]],
   [-1, 1, nn.Upsample, [None, 2, 'nearest']],
   [[-1, 7], 1, Concat, [1]],
   [-1, 3, C3, [512, False]],
   [-1, 1, Conv, [256, 1, 1]],
   [-1, 1, nn.Upsample, [None, 2, 'nearest']],
   [[-1, 4], 1, Concat, [1]],
   [-1, 3, C3, [256, False]],  # 18
   [-1, 1, Conv, [256, 3, 2]],
   [[-1, 15], 1, Concat, [1]],
   [-1, 3, C3, [512, False]],  # 21
   [-1, 1, Conv, [512, 3, 2]],
   [[-1, 11], 1, Concat, [1]],
   [-1, 3, C3, [1024, False]],  # 24
   [[18, 21, 24], 1, Decoupled_Detect, [nc, anchors]],
  ]
"""
# the neck of the slim-neck paper over the usual backbone; {{}} is its aggregation block
SLIM = f"""
nc: 80
depth_multiple: 0.33
width_multiple: 0.50
{ANCHORS}
backbone:
  - [-1, 1, Conv, [64, 6, 2, 2]]
  - [-1, 1, Conv, [128, 3, 2]]
  - [-1, 3, C3, [128]]
  - [-1, 1, Conv, [256, 3, 2]]
  - [-1, 6, C3, [256]]
  - [-1, 1, Conv, [512, 3, 2]]
  - [-1, 9, C3, [512]]
  - [-1, 1, Conv, [1024, 3, 2]]
  - [-1, 3, C3, [1024]]
  - [-1, 1, SPPF, [1024, 5]]
head:
  - [-1, 1, GSConv, [512, 1, 1]]
  - [-1, 1, nn.Upsample, [None, 2, 'nearest']]
  - [[-1, 6], 1, Concat, [1]]
  - [-1, 3, VoVGSCSP, [512, False]]
  - [-1, 1, GSConv, [256, 1, 1]]
  - [-1, 1, nn.Upsample, [None, 2, 'nearest']]
  - [[-1, 4], 1, Concat, [1]]
  - [-1, 3, VoVGSCSP, [256, False]]
  - [-1, 1, GSConv, [256, 3, 2]]
  - [[-1, 14], 1, Concat, [1]]
  - [-1, 3, VoVGSCSP, [512, False]]
  - [-1, 1, GSConv, [512, 3, 2]]
  - [[-1, 10], 1, Concat, [1]]
  - [-1, 3, VoVGSCSP, [1024, False]]
  - [[17, 20, 23], 1, Detect, [nc, anchors]]
"""


def read(text: str, folder: Path) -> DetectionModel:
    path = folder / "theirs.yaml"
    path.write_text(text, encoding="utf-8")
    with torch.device("meta"):
        return DetectionModel(path)


def test_attention_with_its_channels(tmp_path: Path) -> None:
    model = read(COORDINATES, tmp_path)
    assert model.measure_strides() == [8, 16, 32]
    kinds = {layer.index: type(model.model[layer.index]).__name__ for layer in model.layers}
    assert [kinds[index] for index in (5, 8, 10, 11, 27)] == ["CoordAtt", "SE", "C3Ghost", "CBAM", "SimAM"]
    assert [model.layers[index].args for index in (5, 8, 11, 27)] == [(64,), (128, 16), (256,), (256, 1e-4)]


def test_weighted_joints_and_space_to_depth(tmp_path: Path) -> None:
    model = read(WEIGHTED, tmp_path)
    assert [layer.channels for layer in model.layers if layer.name.startswith("BiFPN")] == [
        512, 256, 128 + 128 + 256, 512,
    ]  # fmt: skip
    assert model.layers[2].channels == 4 * 64
    assert model.measure_strides() == [8, 16, 32]


def test_the_names_of_yolov5_lite(tmp_path: Path) -> None:
    text = (Path(__file__).parents[2] / "models" / "v5lite-s.yaml").read_text(encoding="utf-8")
    theirs = text.replace("ShuffleStem", "conv_bn_relu_maxpool")
    theirs = re.sub(r"ShuffleNetV2, \[(.+), false\]", r"Shuffle_Block, [\1]", theirs)
    model = read(theirs, tmp_path)
    assert [layer.name for layer in model.layers].count("Shuffle_Block") == 6
    assert model.layers[1].args == (32, 116, 2, False)
    assert count_parameters(model) == 1_646_721


def test_a_light_backbone_of_repvgg(tmp_path: Path) -> None:
    model = read(REPVGG, tmp_path)
    assert model.measure_strides() == [8, 16, 32]
    kinds = [type(module[0] if isinstance(module, nn.Sequential) else module) for module in model.model]
    assert kinds.count(RepConv) == 6
    assert model.layers[4].args == (128, 128) and len(model.model[4]) == 3  # type: ignore[arg-type]


def test_convolutions_of_other_papers_and_a_head_with_branches(tmp_path: Path) -> None:
    model = read(BRANCHED, tmp_path)
    assert model.measure_strides() == [8, 16, 32]
    kinds = {layer.index: type(model.model[layer.index]).__name__ for layer in model.layers}
    assert [kinds[i] for i in (1, 3, 5, 7, 25)] == [
        "DiverseBranch",
        "ODConv",
        "DCNv2",
        "GAM",
        "DecoupledDetect",
    ]
    assert model.layers[7].args == (256,)  # half of the channels, once
    assert model.head.box[0].in_channels == 128  # 256 at half the width


@pytest.mark.parametrize(("block", "own"), [("VoVGSCSP", "slimneck"), ("VoVGSCSPC", "slimneckc")])
def test_slim_necks(block: str, own: str, tmp_path: Path) -> None:
    model = read(re.sub("VoVGSCSP", block, SLIM), tmp_path)
    with torch.device("meta"):
        ours = DetectionModel(f"yolov5s-{own}.yaml")
    assert count_parameters(model) == count_parameters(ours)
    assert model.measure_strides() == [8, 16, 32]


@pytest.mark.parametrize(
    ("args", "kept"),
    [
        ([64, 64], ()),
        ([64, 8], (8,)),
        ([8], (8,)),
        ([128, 128, 4], (4,)),
        ([None, 64], (64,)),
        ([None, 128], (128,)),
        ([None], ()),
    ],
)
def test_channels_in_front_once_or_twice(args: list[int | None], kept: tuple[int, ...]) -> None:
    row = Row((64,), tuple(args), 1, scale=lambda c: c // 2 if c > 64 else c)
    assert keeping(row).args == (64, *kept)


@pytest.mark.parametrize("name", ALIASES)
def test_a_public_name_is_not_one_of_ours_and_means_one(name: str) -> None:
    assert name not in BLOCKS
    assert lookup(name).block is BLOCKS[ALIASES[name][0]].block


@pytest.mark.parametrize(
    ("theirs", "nearest"), [("SEAttenton", "SEAttention"), ("CoordATT", "CoordAtt"), ("C2F", "C2f")]
)
def test_an_unknown_block_is_named_with_the_nearest(theirs: str, nearest: str, tmp_path: Path) -> None:
    text = COORDINATES.replace("CA, [256]", f"{theirs}, [256]")
    complaint = rf"theirs\.yaml: layer 5: unknown block '{theirs}'; did you mean '{nearest}'\?$"
    with pytest.raises(UserError, match=complaint):
        read(text, tmp_path)


def test_rows_are_written_with_names_as_they_stand(tmp_path: Path) -> None:
    read(COORDINATES, tmp_path)
    rows = load_cfg(tmp_path / "theirs.yaml")["backbone"]
    assert rows[5] == [-1, 1, "CA", [256]]
