"""Flags: those of YOLOv5, with its names, types and defaults."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

import benchmark
import dataset
from benchmarks.train_config import Config as ComparisonConfig
from detect import DetectConfig
from export import ExportConfig
from training.config import TrainConfig
from training.lightening.config import LightenConfig
from utils.adapters.flags import ELSEWHERE, NEEDS
from utils.flags import CommandConfig, arguments, build_parser, option, parse_flags
from val import ValConfig

COMMANDS = {"train": TrainConfig, "val": ValConfig, "detect": DetectConfig, "export": ExportConfig}
TOPICAL: dict[str, type[CommandConfig]] = {
    **COMMANDS, "lighten": LightenConfig, "benchmark train": ComparisonConfig
}  # fmt: skip
OUR_DEFAULTS = {"--weights", "--data"}


@pytest.mark.parametrize("command", COMMANDS)
def test_flags_keep_their_names_types_and_defaults(golden: Path, command: str) -> None:
    parser = build_parser(COMMANDS[command])
    ours = {option: action for action in parser._actions for option in action.option_strings}
    for expected in json.loads((golden / "upstream_cli.json").read_text(encoding="utf-8"))[command]:
        name = expected["flags"][0]
        if name in ELSEWHERE:
            continue  # the next test
        assert set(expected["flags"]) <= set(ours), name
        action = ours[name]
        assert (action.nargs == 0) == expected["switch"], name
        if expected["nargs"] in ("+", "?"):
            assert action.nargs == expected["nargs"] or (name, command) == ("--project", "train"), name
        if expected["type"] is not None:
            assert action.type.__name__ == expected["type"], name
        if expected["choices"]:
            assert list(action.choices) == expected["choices"], name
        if name not in OUR_DEFAULTS:
            default = list(action.default) if isinstance(action.default, tuple) else action.default
            assert str(default) == expected["default"] or default == expected["default"], name


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("name", ELSEWHERE)
def test_what_is_not_accepted_says_what_there_is_instead(
    name: str, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = {option(field) for field in dataclasses.fields(COMMANDS[command])}  # type: ignore[arg-type]
    for argv in ([name], [name, "x"], [f"{name}=x"]):
        with pytest.raises(SystemExit) as ended:
            parse_flags(COMMANDS[command], argv)
        line = capsys.readouterr().err
        assert ended.value.code == 2 and line.count("\n") == 1
        told = line.startswith(f"error: {name}: {ELSEWHERE[name]} (see ")
        assert told == (name not in NEEDS or NEEDS[name] in flags)


@pytest.mark.parametrize("command", TOPICAL)
def test_help_has_every_flag_under_one_topic_and_the_examples(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    config = TOPICAL[command]
    placed = [name for names in config.topics.values() for name in names]
    assert sorted(placed) == sorted(field.name for field in dataclasses.fields(config))
    with pytest.raises(SystemExit) as ended:
        parse_flags(config, ["--help"], about="What it does.\n\n  python it.py --flag\n")
    told = capsys.readouterr().out
    assert ended.value.code == 0 and "\nWhat it does.\n\n  python it.py --flag\n" in told
    places = [told.index(f"\n{topic}:\n") for topic in config.topics]
    assert places == sorted(places) and all(option(field) in told for field in dataclasses.fields(config))


@pytest.mark.parametrize(("main", "name"), [(benchmark.main, "train"), (dataset.main, "split")])
def test_help_of_a_subcommand_has_its_examples(
    main: Callable[[list[str]], None], name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main([name, "--help"])
    told = capsys.readouterr().out
    assert ended.value.code == 0 and re.search(rf"\n    python (benchmark|dataset)\.py {name} --data ", told)
    assert not re.search(rf"\n    python \w+\.py (?!{name})", told)


def test_abbreviations_and_aliases() -> None:
    config = parse_flags(TrainConfig, ["--batch", "32", "--img", "64", "--cache", "--freeze", "1", "2"])
    assert (config.batch_size, config.imgsz, config.cache, config.freeze) == (32, 64, "ram", (1, 2))
    assert parse_flags(TrainConfig, ["--resume"]).resume is True
    assert parse_flags(TrainConfig, ["--resume", "last.pt"]).resume == "last.pt"
    assert parse_flags(TrainConfig, ["--evolve"]).evolve == 300
    assert parse_flags(DetectConfig, ["--img-size", "320", "640"]).imgsz == (320, 640)


@pytest.mark.parametrize(
    ("config", "argv", "complaint"),
    [
        (TrainConfig, ["--epochs", "0"], "--epochs must be at least 1, found 0"),
        (TrainConfig, ["--batch-size", "0"], "--batch-size must be at least 1, or -1, found 0"),
        (TrainConfig, ["--optimizer", "sgd"], "invalid choice: 'sgd'"),
        (TrainConfig, ["--no"], "ambiguous option"),
        (TrainConfig, ["--t", "a.pt"], "ambiguous option: --t could match --teacher, --teacher-weight"),
        (ValConfig, ["--conf-thres", "1.5"], "--conf-thres must lie between 0 and 1, found 1.5"),
        (ValConfig, ["--batch-size", "-1"], "--batch-size must be at least 1, found -1"),
        (DetectConfig, ["--imgsz", "-5"], "--imgsz must lie between 1 and 16384, found -5"),
        (ExportConfig, ["--batch-size", "5000"], "--batch-size must lie between 1 and 1024, found 5000"),
        (DetectConfig, ["--vid-stride", "0"], "--vid-stride must be at least 1"),
        (DetectConfig, ["--nonsense"], "unrecognized arguments: --nonsense"),
        (DetectConfig, [""], "unrecognized arguments: "),
        (DetectConfig, ["--wieghts", "a.pt"], "--wieghts a.pt; did you mean --weights? (see"),
        (TrainConfig, ["--epoch=3", "--bath-size=3"], "--bath-size=3; did you mean --batch-size?"),
    ],
)
def test_a_wrong_flag_is_one_line_and_status_2(
    config: type[CommandConfig], argv: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        parse_flags(config, argv)
    assert end.value.code == 2
    message = capsys.readouterr().err
    assert complaint in message
    assert message.count("\n") == 1


def test_configurations_are_frozen() -> None:
    with pytest.raises(AttributeError):
        TrainConfig().epochs = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    "values", [{"imgsz": (640, 100_000_000)}, {"line_thickness": 0}, {"line_thickness": 101}]
)
def test_values_beyond_reason(values: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(values)).replace("_", "-")):
        DetectConfig(**values)


@pytest.mark.parametrize(
    "config",
    [
        TrainConfig(),
        TrainConfig(weights="a b.pt", cfg="yolov5n", imgsz=64, patience=0, noplots=True, cache="disk"),
        TrainConfig(resume="runs/last.pt", freeze=(1, 2), label_smoothing=0.1, optimizer="AdamW", seed=3),
    ],
)
def test_arguments_make_the_same_configuration(config: TrainConfig) -> None:
    assert parse_flags(TrainConfig, arguments(config)) == config


def test_arguments_name_what_is_no_default() -> None:
    config = TrainConfig(imgsz=64, freeze=(1, 2), cos_lr=True, seed=1)
    assert arguments(config, leave_out=("seed",)) == ["--imgsz", "64", "--cos-lr", "--freeze", "1", "2"]
