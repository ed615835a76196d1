"""Model yamls: found by name from anywhere, and every mistake answered with file, layer, value and rule."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from models.cfg import FOLDERS, load_cfg, resolve_cfg, validate_cfg
from utils.errors import UserError

TINY: dict[str, Any] = {
    "nc": 2,
    "depth_multiple": 1.0,
    "width_multiple": 1.0,
    "anchors": [[10, 13, 16, 30]],
    "backbone": [[-1, 1, "Conv", [8, 3, 2]], [-1, 2, "C3", [16]]],
    "head": [[[-1], 1, "Detect", ["nc", "anchors"]]],
}


def changed(**keys: Any) -> dict[str, Any]:
    return copy.deepcopy(TINY) | keys


@pytest.mark.parametrize("name", ["yolov5n.yaml", "yolov5n", "models/yolov5n.yaml", "yolov5s-ghost.yaml"])
def test_names_need_no_folder(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert resolve_cfg(name).stem == Path(name).stem


def test_a_file_of_the_user_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("yolov5n.yaml").write_text(yaml.safe_dump(TINY), encoding="utf-8")
    assert load_cfg("yolov5n.yaml") == TINY
    assert load_cfg(tmp_path / "yolov5n.yaml") == TINY


@pytest.mark.parametrize(
    ("name", "file", "multiples"),
    [
        ("yolov5m-gsconv.yaml", "yolov5s-gsconv.yaml", (0.67, 0.75)),
        ("yolov5l-slimneck", "yolov5s-slimneck.yaml", (1.0, 1.0)),
        ("yolov5m-dysample", "yolov5n-dysample.yaml", (0.67, 0.75)),
        ("models/yolov5x-gsconv.yaml", "yolov5s-gsconv.yaml", (1.33, 1.25)),
        ("yolov5m-ghost.yaml", "yolov5s-ghost.yaml", (0.67, 0.75)),
        ("yolov5s-gsconv.yaml", "yolov5s-gsconv.yaml", (0.33, 0.50)),
        ("yolov5m.yaml", "yolov5m.yaml", (0.67, 0.75)),
    ],
)
def test_sizes_without_a_file(name: str, file: str, multiples: tuple[float, float]) -> None:
    assert resolve_cfg(name).name == file
    cfg = load_cfg(name)
    assert (cfg["depth_multiple"], cfg["width_multiple"]) == multiples


def test_sizes_beside_a_file_of_the_user(tmp_path: Path) -> None:
    (tmp_path / "yolov5n-mine.yaml").write_text(yaml.safe_dump(TINY), encoding="utf-8")
    assert load_cfg(tmp_path / "yolov5x-mine.yaml")["width_multiple"] == 1.25


@pytest.mark.parametrize("name", ["yolov5q.yaml", "yolov5m-gscon.yaml", "yolov5", "nowhere/yolov5n.yaml"])
def test_unknown_names(name: str) -> None:
    with pytest.raises(UserError, match=f"'{name}' not found|'{Path(name).name}' not found"):
        resolve_cfg(name)


def test_every_layout_of_the_project_is_valid() -> None:
    files = [file for folder in FOLDERS for file in folder.glob("*.yaml")]
    assert len(files) >= 27
    for file in files:
        load_cfg(file)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("nc: [", "line 1: not valid yaml"),
        ("nc: 1\n\tch: 3", "line 2: not valid yaml"),
        ("", "a model yaml is a mapping"),
        ("- 1", "a model yaml is a mapping"),
        ("!!python/object/apply:os.system ['true']", "not valid yaml"),
        ("backbone: &a [*a]", "an alias refers to a value that contains it"),
        ("a: &a {b: &b [*a]}", "an alias refers to a value that contains it"),
        ("[" * 5000, "nested too deeply"),
    ],
)
def test_files_that_are_no_model(tmp_path: Path, content: str, complaint: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=f"bad.yaml:.*{complaint}"):
        load_cfg(path)


def test_aliases_that_unfold_without_end(tmp_path: Path) -> None:
    lines = ["a0: &a0 [1, 1]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)]  # 2 * 9^11 values
    path = tmp_path / "bomb.yaml"
    path.write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(UserError, match="unfolds to more than"):
        load_cfg(path)


def test_a_binary_file(tmp_path: Path) -> None:
    path = tmp_path / "weights.yaml"
    path.write_bytes(bytes(range(128, 256)))
    with pytest.raises(UserError, match="not a text file"):
        load_cfg(path)


@pytest.mark.parametrize("key", sorted(TINY))
def test_a_missing_key(key: str) -> None:
    cfg = changed()
    del cfg[key]
    with pytest.raises(UserError, match=f"^x.yaml: missing key '{key}'"):
        validate_cfg(cfg, "x.yaml")


@pytest.mark.parametrize(
    ("keys", "complaint"),
    [
        ({"depth_mutliple": 1}, "unknown key 'depth_mutliple'; did you mean 'depth_multiple'"),
        ({"wibble": 1}, "unknown key 'wibble'; a model yaml has nc"),
        ({"nc": 0}, "nc is 0; it must be an integer >= 1"),
        ({"nc": "80"}, "nc is '80'"),
        ({"nc": True}, "nc is True"),
        ({"fixed_backbone": 1}, "fixed_backbone is 1; it must be true or false"),
        ({"ch": 0}, "ch is 0"),
        ({"width_multiple": 0}, "width_multiple is 0; it must be a number > 0"),
        ({"depth_multiple": float("nan")}, "depth_multiple is nan"),
        ({"anchors": 0}, "anchors has 0"),
        ({"anchors": []}, r"anchors has \[\]"),
        ({"anchors": [[1, 2], [3]]}, r"anchors has \[3\]"),
        ({"anchors": [[1, 2], [3, 4, 5, 6]]}, r"anchors has \[3, 4, 5, 6\]"),
        ({"anchors": [[1, -2]]}, "anchors has -2"),
        ({"backbone": []}, r"backbone is \[\]"),
        ({"head": {"a": 1}}, "head is {'a': 1}"),
        ({"backbone": [[-1, 1, "Conv"]]}, "layer 0: .* is no layer; it must be"),
        ({"backbone": ["Conv"]}, "layer 0: 'Conv' is no layer"),
        ({"backbone": [[-1, 0, "Conv", [8]]]}, "layer 0: number is 0"),
        ({"backbone": [[-1, 1.5, "Conv", [8]]]}, "layer 0: number is 1.5"),
        ({"backbone": [[-1, 10**9, "Conv", [8]]]}, "layer 0: number is 1000000000"),
        ({"backbone": [[-1, 1, 7, [8]]]}, "layer 0: module is 7"),
        ({"backbone": [[-1, 1, "Conv", 8]]}, "layer 0: args is 8; it must be a list"),
        ({"backbone": [[0, 1, "Conv", [8]]]}, "layer 0: from 0 is not an earlier layer; it must be below 0"),
        ({"backbone": [[-2, 1, "Conv", [8]]]}, "layer 0: from -2 lies before layer 0; the least is -1"),
        ({"head": [[[-1, -4], 1, "Concat", [1]]]}, "layer 2: from -4 lies before layer 0; the least is -2"),
        ({"head": [[[-1, 2], 1, "Concat", [1]]]}, "layer 2: from 2 is not an earlier layer"),
        ({"head": [[[], 1, "Concat", [1]]]}, "layer 2: from is an empty list"),
        ({"head": [["a", 1, "Concat", [1]]]}, "layer 2: from is 'a'"),
        ({"head": [[True, 1, "Concat", [1]]]}, "layer 2: from is True"),
    ],
)
def test_faults_are_named(keys: dict[str, Any], complaint: str) -> None:
    with pytest.raises(UserError, match=f"^x.yaml: {complaint}") as caught:
        validate_cfg(changed(**keys), "x.yaml")
    assert "\n" not in str(caught.value)
