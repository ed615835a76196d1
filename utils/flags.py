"""Command-line flags from a frozen dataclass, which stands beside the command that it configures.

A field becomes a flag of the same name (`batch_size` -> `--batch-size`) with the field's type and default.
Names, types and defaults are YOLOv5's, so that command lines carry over.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import importlib
import re
import sys
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, Literal, NoReturn, TypeVar

from utils.adapters.flags import replacement
from utils.completion import PrintCompletion
from utils.errors import UserError

ConfigType = TypeVar("ConfigType", bound="CommandConfig")
PASSWORD = re.compile(r"(:/{0,2}[^:@/\s]*:).*@")  # in an address, with what stands before it

Rule = Callable[[Any], str]  # what is wrong with a value, or nothing


def at_least(low: int) -> Rule:
    return lambda value: "" if value >= low else f"must be at least {low}"


def between(low: float, high: float) -> Rule:
    return lambda value: "" if low <= value <= high else f"must lie between {low} and {high}"


def one_of(choices: Iterable[str]) -> Rule:
    return lambda value: "" if value in choices else f"must be some of {', '.join(filter(None, choices))}"


def not_empty(value: Any) -> str:
    return "" if value else "must not be empty"


def flag(
    default: object, help: str, *names: str, rule: Rule | None = None, **argparse_options: object
) -> Any:
    """A dataclass field that is a command-line flag.

    Args:
        default: value without the flag.
        help: one line for `--help`.
        names: spellings, when they are not just `--field-name`; the field's own name makes it positional.
        rule: what a value has to keep to, each one where there are several; None is always allowed.
        argparse_options: passed to `ArgumentParser.add_argument` in place of what the type implies.
    """
    metadata = {"help": help, "names": names, "rule": rule, "options": argparse_options}
    return dataclasses.field(default=default, metadata=metadata)


class CommandConfig:
    """Base of the command configurations: checks every value against the rule of its flag.

    Attributes:
        typed: the fields whose flags stood on the command line, also when their value is the default.
        topics: names of fields by the heading under which `--help` shows their flags; others have none.

    Raises:
        ValueError: a value that breaks its rule; the message names the flag.
    """

    typed: ClassVar[frozenset[str]] = frozenset()
    topics: ClassVar[Mapping[str, Sequence[str]]] = {}

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):  # type: ignore[arg-type]  # every subclass is a dataclass
            value, rule = getattr(self, field.name), field.metadata["rule"]
            several = isinstance(value, tuple) and (value or rule is not not_empty)
            for item in value if several else (value,):
                if rule is not None and item is not None and (fault := rule(item)):
                    found = PASSWORD.sub(r"\1…@", repr(item))
                    raise ValueError(f"{option(field)} {fault}, found {found}")


def option(field: dataclasses.Field[Any]) -> str:
    """The spelling of a field's flag that messages use."""
    names = field.metadata["names"]
    return names[0] if names else f"--{field.name.replace('_', '-')}"


def arguments(config: CommandConfig, leave_out: Sequence[str] = ()) -> list[str]:
    """The command line that makes `config`: a flag for every value that is not the default.

    Args:
        leave_out: fields without a flag.
    """
    words: list[str] = []
    for field in dataclasses.fields(config):  # type: ignore[arg-type]  # every subclass is a dataclass
        value = getattr(config, field.name)
        if value != field.default and field.name not in leave_out:
            values = value if isinstance(value, tuple) else () if value is True else (value,)
            words += [option(field), *map(str, values)]
    return words


class Added(argparse.Action):
    """For flags that take several values: those of a second use come after those of the first."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        before = getattr(namespace, self.dest, None)
        setattr(namespace, self.dest, [*(before if isinstance(before, list) else ()), *values])


COMPLETION = "--print-completion"
IMGSZ = ("--imgsz", "--img", "--img-size")
SIDE = between(1, 16384)  # pixels a side; a batch of one such image takes 3 GB
SHARE = between(0, 1)
SEED = between(0, 2**63 - 1)
DEVICE_HELP = "cpu, mps, or CUDA devices such as 0 or 0,1 (default: CUDA when there is any, else cpu)"
THREADS_HELP = "CPU threads of inference (default: the runtime's own choice)"
DATA_HELP = "dataset yaml (a name is also looked up in data/), or a folder such as an unpacked zip"


def parse_flags(
    config: type[ConfigType],
    argv: Sequence[str] | None = None,
    command: str | None = None,
    about: str | None = None,
) -> ConfigType:
    """The configuration that a command line asks for; `None` reads that of the process.

    Flags may be abbreviated as long as they stay unambiguous. A wrong flag or value ends the process with one
    line and status 2, `--help` with status 0.

    Args:
        command: its name in messages; `None` for that of the script.
        about: what `--help` begins with, such as the module's text with its examples.
    """
    parser = build_parser(config, about)
    parser.prog = command or parser.prog
    fields: tuple[dataclasses.Field[Any], ...] = dataclasses.fields(config)  # type: ignore[arg-type]
    known = {name for field in fields for name in field.metadata["names"] or (option(field),)}
    for word in sys.argv[1:] if argv is None else argv:
        if word.partition("=")[0] not in known and (advice := replacement(word, known)):
            parser.error(advice)
    untyped = argparse.Namespace(**{field.name: _UNTYPED for field in fields})
    values = vars(parser.parse_intermixed_args(argv, untyped))
    typed = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in values.items()
        if value is not _UNTYPED
    }
    try:
        made = config(**typed)
    except ValueError as error:
        parser.error(str(error))
    object.__setattr__(made, "typed", frozenset(typed))  # the configuration is frozen for everybody else
    return made


def run_subcommand(
    command: str, usage: str, subcommands: Mapping[str, str], argv: Sequence[str] | None = None
) -> None:
    """Run what the first word of a command line names.

    Args:
        command: its name in messages, such as `benchmark.py`.
        usage: what `--help` prints.
        subcommands: modules by name, each with a configuration class `Config` and a function `run(config)`;
            only the one that is named is imported.
        argv: the command line; `None` reads that of the process.

    Raises:
        UserError: an unknown subcommand.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help"):
        print(usage.strip())
        return
    name, *flags = words
    if name == COMPLETION:
        _with_subcommands(command, subcommands).parse_args(words)
    if name not in subcommands:
        near = difflib.get_close_matches(name, subcommands, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"there are {', '.join(subcommands)}"
        raise UserError(f"unknown subcommand '{name}'; {hint}")
    module = importlib.import_module(subcommands[name])
    examples = [f"    {line}" for line in usage.splitlines() if line.startswith(f"python {command} {name} ")]
    about = "\n".join((module.Config.__doc__ or "", "", *examples))
    module.run(parse_flags(module.Config, flags, command=f"{command} {name}", about=about))


def _with_subcommands(command: str, subcommands: Mapping[str, str]) -> argparse.ArgumentParser:
    """The parser of a command with those of its subcommands, all of which are imported."""
    parser: argparse.ArgumentParser = _OneLineParser(prog=command)
    parser.add_argument(COMPLETION, action=PrintCompletion)
    under = parser.add_subparsers()
    for name, module in subcommands.items():
        config = importlib.import_module(module).Config
        under.add_parser(name, parents=[build_parser(config)], add_help=False, help=name)
    return parser


def of_saved(config: type[ConfigType], values: Mapping[str, Any]) -> ConfigType:
    """A configuration from values that were saved, with every value checked against its type.

    Raises:
        ValueError: an unknown name, or a value that the flag could not have.
    """
    types = typing.get_type_hints(config)
    for name, value in values.items():
        if name not in types:
            raise ValueError(f"unknown setting '{name}'")
        if not _fits(value, types[name]):
            raise ValueError(f"setting '{name}' cannot be {value!r}")
    return config(**values)


def _fits(value: object, annotation: Any) -> bool:
    """Whether a value is of an annotated type; True is no integer, and 1 is a float."""
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Literal:
        return value in inner and type(value) in {type(choice) for choice in inner}
    if origin is tuple:
        return isinstance(value, tuple) and all(_fits(item, inner[0]) for item in value)
    if inner:  # A | B
        return any(_fits(value, alternative) for alternative in inner)
    if annotation is float:
        return type(value) in (int, float)
    return type(value) is annotation


def build_parser(config: type[CommandConfig], about: str | None = None) -> argparse.ArgumentParser:
    """The argument parser of a configuration class; see `parse_flags`."""
    parser = _OneLineParser(description=about or config.__doc__, formatter_class=_Help)
    groups = {title: parser.add_argument_group(title) for title in config.topics}
    topic_of = {name: groups[title] for title, names in config.topics.items() for name in names}
    parser.add_argument(
        COMPLETION,
        action=PrintCompletion,
        help="print what makes a shell complete flags: source <(python … --print-completion bash)",
    )
    types = typing.get_type_hints(config)
    for field in dataclasses.fields(config):  # type: ignore[arg-type]  # every subclass is a dataclass
        names = field.metadata["names"] or (option(field),)
        options = {
            **_options_of_type(types[field.name]),
            **field.metadata["options"],
            "default": field.default,
            "help": field.metadata["help"],
        }
        if names != (field.name,):  # a positional argument has its name for destination
            options["dest"] = field.name
        topic_of.get(field.name, parser).add_argument(*names, **options)
    return parser


def _options_of_type(annotation: Any) -> dict[str, Any]:
    """argparse options for a field's type: `bool` is a switch, `tuple[T, ...]` takes several values."""
    origin, inner = typing.get_origin(annotation), list(typing.get_args(annotation))
    if annotation is bool:
        return {"action": "store_true"}
    if origin is Literal:
        return {"type": type(inner[0]), "choices": inner}
    if origin is tuple:
        return {"type": inner[0], "nargs": "+"}
    if inner:  # A | B, A | None
        return {"type": str} if str in inner else _options_of_type(inner[0])
    return {"type": annotation}


_UNTYPED = object()


class _Help(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Defaults behind every flag, and examples as they were written."""


UNKNOWN = "unrecognized arguments: "  # as argparse begins


class _OneLineParser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line instead of the usage: what is wrong and where to read more."""
        if message.startswith(UNKNOWN):
            wrong = message.removeprefix(UNKNOWN).strip().partition(" ")[0].partition("=")[0]
            near = difflib.get_close_matches(wrong, self._option_string_actions, n=1)
            message += f"; did you mean {near[0]}?" if near else ""
        print(f"error: {message} (see {self.prog} --help)", file=sys.stderr)
        sys.exit(2)
