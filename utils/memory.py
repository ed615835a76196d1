"""How much memory can be taken: what the machine has, and what the container leaves."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

GROUP_FILES = {  # by version of control groups: limits, use, and what of that is given back on demand
    "cgroup2": (("memory.max", "memory.high"), "memory.current", "inactive_file"),
    "cgroup": (("memory.limit_in_bytes",), "memory.usage_in_bytes", "total_inactive_file"),
}


def available_memory(root: Path = Path("/")) -> int | None:
    """Bytes that can be taken without swapping, or None where the system does not say.

    The least of what the machine has free and of what each control group leaves on the way from that of this
    process up to the top; files that are cached and idle count as free.

    Args:
        root: where `proc` and `sys` are.
    """
    free = [*_of_machine(root), *_of_groups(root)]
    return max(min(free), 0) if free else None


def _of_machine(root: Path) -> Iterator[int]:
    for name, kilobytes in _pairs(root / "proc/meminfo"):
        if name == "MemAvailable:":
            yield kilobytes * 1024


def _of_groups(root: Path) -> Iterator[int]:
    for version, top, group in _groups(root):
        limits, use, idle = GROUP_FILES[version]
        for folder in (group, *group.parents):
            if not folder.is_relative_to(top):
                break
            bounds = [bound for name in limits if (bound := _number(folder / name)) is not None]
            used = _number(folder / use)
            if bounds and used is not None:
                yield min(bounds) - used + dict(_pairs(folder / "memory.stat")).get(idle, 0)


def _groups(root: Path) -> Iterator[tuple[str, Path, Path]]:
    """Version, mount point and own folder of each hierarchy that limits the memory of this process.

    In a container the path that a process is told may begin above what is mounted, or lie outside of it; its
    own folder is then the mount point.
    """
    own = dict(_memberships(root))
    for line in _lines(root / "proc/self/mountinfo"):
        left, _, right = line.partition(" - ")
        fields, kind = left.split(), right.split()
        if len(fields) < 5 or not kind or kind[0] not in own:
            continue
        if kind[0] == "cgroup" and "memory" not in kind[-1].split(","):
            continue
        mounted, path = PurePosixPath(fields[3]), PurePosixPath(own[kind[0]])
        top = root / _unescaped(fields[4]).lstrip("/")
        inside = path.relative_to(mounted) if path.is_relative_to(mounted) else PurePosixPath()
        group = top / inside
        yield kind[0], top, group if ".." not in inside.parts and group.is_dir() else top


def _memberships(root: Path) -> Iterator[tuple[str, str]]:
    """Version of a hierarchy and the path of this process in it."""
    for line in _lines(root / "proc/self/cgroup"):
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            yield "cgroup2", path
        elif "memory" in controllers.split(","):
            yield "cgroup", path


def _unescaped(path: str) -> str:
    r"""A path of mountinfo, in which blanks and the like are octal, as in `\040`."""
    return path.encode().decode("unicode_escape").encode("latin-1").decode(errors="surrogateescape")


def _pairs(file: Path) -> Iterator[tuple[str, int]]:
    for line in _lines(file):
        name, *values = line.split()
        if values and values[0].isdecimal():
            yield name, int(values[0])


def _number(file: Path) -> int | None:
    """The number in a file; None when it holds another text, as `max`, or is not there."""
    text = "".join(_lines(file)).strip()
    return int(text) if text.isdecimal() else None


def _lines(file: Path) -> list[str]:
    with contextlib.suppress(OSError):
        return [
            line for line in file.read_text(encoding="utf-8", errors="surrogateescape").splitlines() if line
        ]
    return []
