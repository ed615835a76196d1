"""Putting blocks in by words: which rows there are then, that all else stays, and what is refused."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from models.cfg import load_cfg, validate_cfg
from models.deploy import deploy
from models.insertion import flow, insert, insertable, inserted, parse_insertion, written
from models.transfer import inherit
from models.weights import load_model
from models.yolo import DetectionModel, main
from tests.layouts import DISTINCT, images, randomise_norms, small
from utils.errors import UserError

ROWS = (
    [-1, 1, "Conv", [8, 3, 2]],  # 0
    [-1, 1, "C3", [8]],  # 1
    [-2, 1, "Conv", [8]],  # 2: reads 0
    [[-1, 1], 1, "Concat", [1]],  # 3: reads 2 and 1
    [-1, 1, "C3", [8]],  # 4
    [[1, 4], 1, "Detect", ["nc", "anchors"]],  # 5
)


def description() -> dict[str, Any]:
    """A backbone of two layers and a head of four."""
    settings = {"nc": 3, "depth_multiple": 1.0, "width_multiple": 1.0, "anchors": 2}
    rows = copy.deepcopy(list(ROWS))
    return {**settings, "backbone": rows[:2], "head": rows[2:]}


def rows_with(*texts: str) -> list[list[Any]]:
    """The rows of the description with blocks put in; the description itself stays as it is."""
    cfg = description()
    result, new = insert(cfg, texts, "x.yaml")
    assert cfg == description()
    validate_cfg(result, "x.yaml")
    rows = result["backbone"] + result["head"]
    assert [rows[one.index] for one in new] == [one.row for one in new]
    assert len(rows) == len(ROWS) + len(new)
    return rows


def test_after_a_layer_all_read_the_block() -> None:
    assert rows_with("SimAM after 1") == [
        [-1, 1, "Conv", [8, 3, 2]],
        [-1, 1, "C3", [8]],
        [-1, 1, "SimAM", []],  # 2
        [-3, 1, "Conv", [8]],  # 0, still
        [[-1, 2], 1, "Concat", [1]],
        [-1, 1, "C3", [8]],  # 5
        [[2, 5], 1, "Detect", ["nc", "anchors"]],
    ]
    assert rows_with("SimAM in 1") == rows_with("SimAM after 1")


def test_a_row_with_an_index_keeps_one() -> None:
    """Layer 0 is an index as well: what reads it by that reads it by its new one."""
    cfg = description()
    cfg["head"][0][0] = 0
    result, _ = insert(cfg, ["SimAM before 0", "SimAM after 0"], "x.yaml")
    assert [row[0] for row in result["backbone"] + result["head"]] == [-1, -1, -1, -1, 2, [-1, 3], -1, [3, 6]]


def test_a_row_is_one_line() -> None:
    assert "\n" not in flow([[*range(60)], 1, "Concat", [1]])


def test_before_a_layer_only_that_one_reads_it() -> None:
    assert rows_with("SimAM(1e-4, true) before Detect")[4:] == [
        [-1, 1, "C3", [8]],  # 4
        [1, 1, "SimAM", [None, "1e-4", True]],
        [4, 1, "SimAM", [None, "1e-4", True]],
        [[5, 6], 1, "Detect", ["nc", "anchors"]],
    ]
    assert rows_with("SimAM before 3")[2:] == [
        [-2, 1, "Conv", [8]],  # 2
        [-1, 1, "SimAM", []],  # 3
        [1, 1, "SimAM", []],  # 4
        [[-2, 4], 1, "Concat", [1]],
        [-1, 1, "C3", [8]],  # 6
        [[1, 6], 1, "Detect", ["nc", "anchors"]],
    ]
    assert rows_with("SimAM before 0")[:2] == [[-1, 1, "SimAM", []], [-1, 1, "Conv", [8, 3, 2]]]


def test_a_name_means_every_layer_of_it_and_a_stage_some() -> None:
    assert [row[2] for row in rows_with("ECA after C3")] == [
        "Conv", "C3", "ECA", "Conv", "Concat", "C3", "ECA", "Detect",
    ]  # fmt: skip
    assert rows_with("ECA after C3 in backbone") == rows_with("ECA after 1")
    assert rows_with("ECA after C3 in neck") == rows_with("ECA after C3 in head") == rows_with("ECA after 4")


def test_an_argument_that_equals_the_channels_is_no_channels() -> None:
    result, _ = insert(description(), ["EMA(8) after 1"], "x.yaml")
    for cfg in (result, yaml.safe_load(written(result))):
        assert DetectionModel(cfg).layers[2].args == (8, 8)


def test_several_insertions_count_in_the_indices_of_the_description() -> None:
    both = rows_with("ECA after 1", "SimAM before 4", "SE(2) after 1")
    assert both == rows_with("ECA after 1", "SE(2) after 1", "SimAM before 4")
    assert [row[2] for row in both] == [
        "Conv", "C3", "ECA", "SE", "Conv", "Concat", "SimAM", "C3", "Detect",
    ]  # fmt: skip
    assert both[3] == [-1, 1, "SE", [None, 2]]
    assert both[4][0] == -4 and both[-1][0] == [3, 7]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("CBAM", "is not understood; write it as in 'CBAM after C3'"),
        ("SE after", "is not understood"),
        ("SE(__import__('os').getcwd()) after C3", "is not understood"),
        ("CBAN after C3", "there is no block 'CBAN'; did you mean 'CBAM'?"),
        ("C3 after C3", "C3 cannot be put anywhere, .*: CBAM, "),
        ("DySample after C3", "DySample cannot be put anywhere"),
        ("SE after C33", "x.yaml has no layer 'C33'; did you mean 'C3'?"),
        ("SE after Detect in backbone", "x.yaml has no layer 'Detect' in its backbone; there are Conv, C3"),
        ("SE after C3 in tail", "there is no stage 'tail'; there are backbone, neck, head"),
        ("SE after 6", "x.yaml has layers 0 to 5"),
        ("SE after 2 in neck", "an index names its layer"),
        ("SE in neck", "say after or before which layers, as in 'after C3 in neck'"),
        ("SE after Detect", "nothing can follow the last layer; put it before Detect"),
        ("SE(a: 2) after C3", r"the arguments \(a: 2\) must be plain values"),
        ("SE([2]) after C3", "must be plain values"),
        ("SE({) after C3", "must be plain values"),
    ],
)  # fmt: skip
def test_faults_are_named_in_one_line(text: str, complaint: str) -> None:
    with pytest.raises(UserError, match=complaint) as caught:
        insert(description(), [text], "x.yaml")
    assert f"--insert '{text}'" in str(caught.value) and "\n" not in str(caught.value)


def test_words_may_stand_apart() -> None:
    one, other = parse_insertion("  SE( 8 )   before  nn.Upsample  in neck "), parse_insertion("SE after 12")
    assert (one.block, one.args, one.before, one.target, one.stage) == (
        "SE",
        (8,),
        True,
        "nn.Upsample",
        "head",
    )
    assert (other.args, other.before, other.target, other.stage) == ((), False, 12, "")


@pytest.mark.parametrize("name", DISTINCT)
def test_every_layout_stays_what_it_was_around_a_block(name: str) -> None:
    """Sources, followed back through the blocks that were put in, are the old ones."""
    cfg = load_cfg(name)
    result, new = insert(cfg, ["SimAM before Detect", "ECA in 2", "SE(4) after 3"], name)
    old, rows = cfg["backbone"] + cfg["head"], result["backbone"] + result["head"]
    added = {one.index for one in new}
    kept = [index for index in range(len(rows)) if index not in added]

    def sources(rows: list[list[Any]], index: int) -> list[int]:
        several = rows[index][0] if isinstance(rows[index][0], list) else [rows[index][0]]
        return [j if j >= 0 else index + j for j in several]

    def back(index: int) -> int:
        while index in added:
            (index,) = sources(rows, index)
        return kept.index(index) if index >= 0 else -1

    assert [rows[index][1:] for index in kept] == [row[1:] for row in old]
    for own, index in enumerate(kept):
        assert [back(j) for j in sources(rows, index)] == sources(old, own)
    assert len(result["backbone"]) - len(cfg["backbone"]) == sum(i < len(result["backbone"]) for i in added)


def test_what_is_written_builds_the_same_network(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "mine.yaml"
    main(["--cfg", "yolov5n", "--insert", "SE after SPPF", "--insert", "EMA(4) before Detect", "SimAM in 2",
          "--save", str(path)])  # fmt: skip
    told = capsys.readouterr().out
    assert "--insert puts 5 into yolov5n:\nlayer 3: [-1, 1, SimAM, []]\nlayer 11: [-1, 1, SE, []]\n" in told
    cfg = load_cfg(path)
    wanted, _ = insert(load_cfg("yolov5n"), ["SE after SPPF", "EMA(4) before Detect", "SimAM in 2"], "x")
    assert cfg == {"ch": 3} | wanted
    with torch.device("meta"):
        models = [DetectionModel(one) for one in (cfg, wanted)]
    assert models[0].layers == models[1].layers
    with pytest.raises(UserError, match=r"mine\.yaml: this file is there already"):
        main(["--save", str(path)])
    with pytest.raises(UserError, match=r"ends with \.yaml"):
        main(["--save", str(tmp_path / "mine")])
    assert load_cfg(path) == cfg


def test_keys_of_a_description_are_written_too(tmp_path: Path) -> None:
    path = tmp_path / "odd.yaml"
    cfg = description() | {"activation": "nn.LeakyReLU(0.1)", "fixed_backbone": True, "ch": 1}
    cfg["anchors"] = [[10, 13.5, 16, 30], [1, 2, 3, 4]]
    path.write_text(written(cfg), encoding="utf-8")
    assert load_cfg(path) == cfg


def assert_same(found: Any, expected: Any, rtol: float) -> None:
    pairs = zip((found[0], *found[1]), (expected[0], *expected[1]), strict=True)
    assert all(float((one - other).abs().max()) <= rtol * float(other.abs().max()) for one, other in pairs)


EXACT = [name for name in insertable() if name != "SimAM"]
PLACES = ("after C3 in neck", "before Detect", "after SPPF")


@pytest.mark.parametrize("block", [*EXACT, "SimAM(0.0001, true)"])
@torch.no_grad()
def test_weights_follow_and_nothing_changes(block: str) -> None:
    teacher = small("yolov5n").eval()
    model = DetectionModel(inserted(teacher.yaml, [f"{block} {place}" for place in PLACES])).eval()
    report = inherit(model, teacher, exclude=())
    fresh = [index for index, layer in enumerate(model.layers) if layer.name == block.split("(")[0]]
    assert len(fresh) == 8 and {report.origins[index] for index in fresh} == {"returns its input"}
    assert str(report).endswith("; 8 new layers begin as the identity")
    assert len(report.pairs) == len(teacher.layers)
    x = images(teacher, 2)
    assert_same(model(x), teacher(x), rtol=1e-6)


def test_what_cannot_begin_as_the_identity_is_told() -> None:
    teacher = small("yolov5n")
    model = DetectionModel(inserted(teacher.yaml, ["SimAM after SPPF", "SE in 2", "SimAM in 2"]))
    report = inherit(model, teacher)
    (line,) = report.warnings()
    assert line.startswith("layer 4 SimAM, 12 SimAM gives 0.92 to 1.47 times its input")
    assert "SimAM(0.0001, true)" in line and report.origins[4] in line
    assert inherit(DetectionModel(teacher.yaml), teacher).warnings() == []


@pytest.mark.parametrize("block", [*insertable(), "SimAM(0.0001, true)"])
@torch.no_grad()
def test_it_deploys(block: str) -> None:
    """As in the papers, and with a gain, in double precision."""
    texts = [f"{block} after 1", f"{block} before Detect"]
    cfg, _ = insert(description() | {"width_multiple": 4.0}, texts, "x.yaml")
    cfg["backbone"][0] = [-1, 1, "Conv", [8, 3, 8]]  # small maps
    torch.manual_seed(0)
    model = DetectionModel(cfg).eval().double()
    randomise_norms(model)
    for gain in (1.0, 1.7):
        for module in model.modules():
            if hasattr(module, "gain"):
                module.gain.fill_(gain)
        deployed = deploy(model)
        for shape in ((1, 3, 32, 32), (3, 3, 32, 64)):
            x = torch.rand(shape, dtype=torch.float64)
            assert_same(deployed(x), model(x), rtol=1e-9)


@torch.no_grad()
def test_official_weights_give_the_same_boxes_with_blocks_between(official_weights: Path) -> None:
    teacher = load_model(official_weights)
    model = DetectionModel(inserted(teacher.yaml, ["CBAM after C3", "EMA before Detect", "SE in 8"])).eval()
    inherit(model, teacher, exclude=())
    x = torch.rand(1, 3, 128, 128)
    assert_same(model(x), teacher(x), rtol=1e-6)
