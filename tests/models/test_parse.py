"""Building layers from rows: arguments, repeats, widths, sources, and when outputs are let go."""

from __future__ import annotations

import weakref
from typing import Any

import pytest
import torch
from torch import nn

from models.blocks.conv import Conv
from models.parse import Layer, parse_model, resolve_argument, run_layers
from utils.errors import UserError


def describe(*rows: list[Any], **keys: Any) -> dict[str, Any]:
    """A description whose last row is the head."""
    settings = {"nc": 3, "depth_multiple": 1.0, "width_multiple": 1.0, "anchors": 2}
    return {**settings, **keys, "backbone": list(rows[:-1]), "head": [rows[-1]]}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("nc", 3),
        ("anchors", 2),
        ("None", None),
        ("True", True),
        ("1e-3", 0.001),
        ("(1, 2)", (1, 2)),
        ("nearest", "nearest"),
        ("__import__('os').system('true')", "__import__('os').system('true')"),
        (["None", 2], [None, 2]),
        (5, 5),
    ],
)
def test_arguments_resolve_by_name(text: Any, value: Any) -> None:
    assert resolve_argument(text, {"nc": 3, "anchors": 2}) == value


def test_an_activation_can_be_an_argument() -> None:
    modules, _ = parse_model(describe([-1, 1, "Conv", [8, 1, 1, "None", 1, 1, "nn.ReLU()"]]))
    assert type(modules[0].act) is nn.ReLU


@pytest.mark.parametrize(
    ("number", "depth", "repeats"),
    [(1, 0.1, 1), (3, 0.33, 1), (6, 0.33, 2), (9, 0.33, 3), (9, 0.67, 6), (3, 1.33, 4), (2, 0.1, 1)],
)  # round(9 * 0.67 = 6.03) = 6; at least one
def test_depth_multiple(number: int, depth: float, repeats: int) -> None:
    modules, layers = parse_model(describe([-1, number, "C3", [8]], depth_multiple=depth))
    assert layers[0].number == len(modules[0].m) == repeats


def test_a_repeated_layer_becomes_a_sequence_that_fits_together() -> None:
    modules, _ = parse_model(describe([-1, 3, "Conv", [8, 3]]))
    convs = list(modules[0])
    assert [conv.conv.in_channels for conv in convs] == [3, 8, 8]
    assert modules(torch.zeros(2, 3, 4, 4)).shape == (2, 8, 4, 4)


def test_width_multiple_spares_the_detection_output() -> None:
    # 2 anchors * (3 classes + 5) = 16 stays; 20 * 0.5 = 10 goes up to 16
    _, layers = parse_model(describe([-1, 1, "Conv", [16]], [-1, 1, "Conv", [20]], width_multiple=0.5))
    assert [layer.channels for layer in layers] == [16, 16]
    _, layers = parse_model(describe([-1, 1, "Conv", [32]], width_multiple=0.5))
    assert layers[0].channels == 16
    _, layers = parse_model(describe([-1, 1, "Conv", [116]]))
    assert layers[0].channels == 116  # as written at width 1


def test_sources_and_releases() -> None:
    rows = (
        [-1, 1, "Conv", [8]],  # 0
        [-1, 1, "Conv", [8]],  # 1
        [0, 1, "Conv", [4]],  # 2: the last use of 0
        [[-1, 1, -3], 1, "Concat", [1]],  # 3: 2, 1 and 0
        [-2, 1, "Conv", [8]],  # 4: 2, and nobody needs 3
    )
    modules, layers = parse_model(describe(*rows))
    assert [layer.sources for layer in layers] == [(-1,), (0,), (0,), (2, 1, 0), (2,)]
    assert layers[3].channels == 4 + 8 + 8
    made: list[weakref.ref[torch.Tensor]] = []
    alive: list[list[int]] = []

    def call(layer: Layer, module: nn.Module, x: Any) -> torch.Tensor:
        del x
        alive.append([index for index, output in enumerate(made) if output() is not None])
        y = torch.zeros(2, layer.channels, 4, 4)
        made.append(weakref.ref(y))
        return y

    # the newest output is held until the next layer has run
    run_layers(modules, layers, torch.zeros(2, 3, 4, 4), call)
    assert alive == [[], [0], [0, 1], [0, 1, 2], [2, 3]]
    assert [output() for output in made] == [None] * 5
    assert run_layers(modules, layers, torch.zeros(2, 3, 4, 4)).shape == (2, 8, 4, 4)


def test_image_channels() -> None:
    modules, _ = parse_model(describe([-1, 1, "Conv", [8]]), ch=1)
    assert modules[0].conv.in_channels == 1


def test_activation_reaches_nested_convs_and_no_other_model() -> None:
    leaky, _ = parse_model(describe([-1, 2, "C3", [8]], activation="nn.LeakyReLU(0.1)"))
    plain, _ = parse_model(describe([-1, 2, "C3", [8]]))
    assert {type(part.act) for part in leaky.modules() if isinstance(part, Conv)} == {nn.LeakyReLU}
    assert {type(part.act) for part in plain.modules() if isinstance(part, Conv)} == {nn.SiLU}


def test_activation_does_not_outlive_a_failure() -> None:
    with pytest.raises(UserError):
        parse_model(describe([-1, 1, "Nonsense", [8]], activation="nn.ReLU()"))
    assert type(Conv(4, 4).act) is nn.SiLU


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ([-1, 1, "GSconv", [8]], "unknown block 'GSconv'; did you mean 'GSConv'"),
        ([-1, 1, "Conv", []], r"Conv\(\): needs its output channels .* got None"),
        ([-1, 1, "Conv", ["nearest"]], r"Conv\(nearest\): needs its output channels"),
        ([-1, 1, "Conv", [8, "wide"]], r"Conv\(8, wide\): "),
        ([-1, 1, "Conv", [8, 1, 1, None, 1, 1, 2]], "act must be true, false or a module"),
        ([-1, 1, "Conv", [8, 1, 1, None, 5]], "must be divisible by groups"),
        ([-1, 1, "Conv", list(range(8, 20))], "it takes c2, k, s, p, g, d, act"),
        ([-1, 1, "CBAM", [16, 3, 4, 5]], "it takes ratio, k"),
        ([-1, 1, "LSKA", [99999]], "must be odd, 1 to 63, got 99999"),
        ([-1, 1, "MLCA", [1000]], "must have 1 to 63 cells a side, got 1000"),
        ([-1, 1, "SPPF", [8, 4]], "needs an odd kernel, got 4"),
        ([-1, 1, "Expand", [2]], "needs a multiple of gain.2 = 4 channels, got 3"),
        ([-1, 1, "Contract", ["two"]], "argument 1 must be an integer, got 'two'"),
        ([-1, 1, "Concat", [2]], "its argument must be 1, got 2"),
        ([-1, 1, "Detect", ["nc"]], r"takes the arguments \[nc, anchors\]"),
        ([-1, 1, "Detect", ["nc", [[1, 2], [3, 4]]]], "has 2 rows of anchors for 1 layers"),
        ([-1, 1, "nn.Upsampel", [None, 2]], "did you mean 'nn.Upsample'"),
        ([[-1], 1, "nn.Upsample", [1, 2, 3, 4, 5, 6, 7]], "Upsample"),
    ],
)
def test_faults_name_file_and_layer(row: list[Any], complaint: str) -> None:
    with pytest.raises(UserError, match=f"^x.yaml: layer 0: .*{complaint}"):
        parse_model(describe(row), source="x.yaml")


def test_an_unfit_activation_names_the_file() -> None:
    with pytest.raises(UserError, match=r"^x.yaml: unknown activation 'nn.Conv2d\(1, 1, 1\)'"):
        parse_model(describe([-1, 1, "Conv", [8]], activation="nn.Conv2d(1, 1, 1)"), source="x.yaml")


def test_a_fixed_backbone_keeps_its_published_size() -> None:
    settings = {"depth_multiple": 0.33, "width_multiple": 0.25}
    rows = [-1, 6, "Conv", [20]], [-1, 6, "C3", [64]]
    _, layers = parse_model(describe(*rows, **settings, fixed_backbone=True))
    assert (layers[0].number, layers[0].channels) == (6, 20)
    assert (layers[1].number, layers[1].channels) == (2, 16)  # round(6 * 0.33) = 2, 64 * 0.25
    scaled = parse_model(describe(*rows, **settings))[1]
    assert (scaled[0].number, scaled[0].channels) == (2, 8)  # 20 * 0.25 = 5, next multiple of 8


def test_maps_of_equal_channels_can_be_added() -> None:
    modules, layers = parse_model(
        describe([-1, 1, "Conv", [8]], [-1, 1, "Conv", [8]], [[0, 1], 1, "Add", []])
    )
    x = torch.rand(1, 3, 4, 4)
    first = modules[0](x)
    torch.testing.assert_close(run_layers(modules, layers, x), first + modules[1](first))
    with pytest.raises(UserError, match=r"layer 2: Add\(\): sums maps of equal channels, got \[8, 16\]"):
        parse_model(describe([-1, 1, "Conv", [8]], [-1, 1, "Conv", [16]], [[0, 1], 1, "Add", []]))
