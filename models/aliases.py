"""Public names of blocks that have another name here: those of tutorials, of papers' code and of other trees.

A name stands here when a row that is written for it means the same with ours: the arguments are alike, or
some that ours needs besides can be added at the end.
"""

from __future__ import annotations

from typing import Any

# public name: our block, and arguments that are added behind those of the row
ALIASES: dict[str, tuple[str, tuple[Any, ...]]] = {
    # attention
    "SEAttention": ("SE", ()),
    "SEBlock": ("SE", ()),
    "SELayer": ("SE", ()),
    "SE_Block": ("SE", ()),
    "ECAAttention": ("ECA", ()),
    "ECALayer": ("ECA", ()),
    "eca_layer": ("ECA", ()),
    "CBAMBlock": ("CBAM", ()),
    "CA": ("CoordAtt", ()),
    "CABlock": ("CoordAtt", ()),
    "CoordAttention": ("CoordAtt", ()),
    "SimAm": ("SimAM", ()),
    "Simam_module": ("SimAM", ()),
    "simam_module": ("SimAM", ()),
    "EMA_attention": ("EMA", ()),
    "EMA_Attention": ("EMA", ()),
    "GAM_Attention": ("GAM", ()),
    "GAMAttention": ("GAM", ()),
    "MSCAAttention": ("MSCA", ()),
    # joining, sampling
    "BiFPN_Concat": ("BiFPN", ()),
    "BiFPN_Concat2": ("BiFPN", ()),
    "BiFPN_Concat3": ("BiFPN", ()),
    "Concat_BiFPN": ("BiFPN", ()),
    "space_to_depth": ("SpaceToDepth", ()),
    "DySample_UP": ("DySample", ()),
    # convolutions and heads
    "DBB": ("DiverseBranch", ()),
    "DiverseBranchBlock": ("DiverseBranch", ()),
    "ODConv2d": ("ODConv", ()),
    "RepVGGBlock": ("RepConv", ()),
    "Decoupled_Detect": ("DecoupledDetect", ()),
    "DecoupledHead": ("DecoupledDetect", ()),
    # blocks
    "C3_Ghost": ("C3Ghost", ()),
    "Star_Block": ("StarBlock", ()),
    "BasicRFB": ("RFB", ()),
    # YOLOv5-Lite; its depthwise convolutions have no bias
    "conv_bn_relu_maxpool": ("ShuffleStem", ()),
    "Shuffle_Block": ("ShuffleNetV2", (False,)),
}
