"""A small network with convolutions in groups."""

from __future__ import annotations

CFG = {
    "nc": 2, "depth_multiple": 1.0, "width_multiple": 1.0, "anchors": [[10, 13, 16, 30, 33, 23]],
    "backbone": [
        [-1, 1, "Conv", [8, 3, 2]], [-1, 1, "Conv", [32, 3, 2]], [-1, 1, "CSPHet", [32]],
        [-1, 1, "Conv", [64, 3, 2]], [-1, 1, "CSPHet", [64]],
    ],
    "head": [
        [-1, 1, "nn.Upsample", [None, 2, "nearest"]], [[-1, 2], 1, "Concat", [1]], [-1, 1, "CSPHet", [32]],
        [[7], 1, "Detect", ["nc", "anchors"]],
    ],
}  # fmt: skip
