"""Opening a data set of any format: a data yaml, what can stand for one, or a single source."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from utils.data.formats.opening import names_of, open_source
from utils.data.index import DatasetIndex, build_index
from utils.data.spec import SPLITS, DataSpec, load_data_spec
from utils.data.unpacked import find_yaml, folders_of_splits, yaml_elsewhere
from utils.errors import UserError
from utils.files import expand
from utils.flags import CommandConfig, flag, not_empty

SINGLE = (".json", ".xml", ".csv", ".txt")  # files that are a source by themselves


@dataclass(frozen=True)
class NewDataConfig(CommandConfig):
    """The flags of a command that makes a data set of another."""

    data: str = flag(
        "", "data yaml, folder or file of annotations, in any format that is read", rule=not_empty
    )
    out: str = flag("", "folder to make; it must not exist", rule=not_empty)
    strict: bool = flag(False, "treat label faults as errors")


def open_data(path: str, wanted: Sequence[str] = SPLITS[:2]) -> DataSpec:
    """The splits of a data yaml, of a folder with one or with folders called like splits, of an `obj.data`.

    Any other folder, or a file of annotations, is all `train`.

    Args:
        wanted: splits, of which those that are named have to be there.

    Raises:
        UserError: it is not there, has none of these splits, or nobody knows what its classes are called.
    """
    given = expand(path)
    if given.is_dir():
        alone = find_yaml(given) is None and not folders_of_splits(given)
    else:
        alone = given.suffix.lower() in SINGLE and given.is_file()
    if alone:
        if "train" not in wanted:
            cure = yaml_elsewhere(given) if given.is_dir() else ""
            raise UserError(f"'{path}' has no splits, it is all train; {cure or 'use --split train'}")
        return _of_source(given)
    spec = load_data_spec(path, needed=())
    needed = tuple(split for split in wanted if getattr(spec, split))
    if not needed:
        raise UserError(f"{spec.file}: it has none of the splits {', '.join(wanted)}")
    if all(source.exists() for split in needed for source in getattr(spec, split)):
        return spec
    return load_data_spec(path, needed=needed)  # which makes them, or says what is amiss


def _of_source(path: Path) -> DataSpec:
    names = names_of([path])
    if not names:
        cure = yaml_elsewhere(path) if path.is_dir() else ""
        if not open_source(path).images:
            said = f"'{path}': there are no pictures in it, nor in annotations of it"
            raise UserError(f"{said}; {cure}" if cure else said)
        cure = cure or "write them, one a line, to classes.txt beside these"
        raise UserError(f"'{path}': its labels have no class names; {cure}")
    return DataSpec(file=path, root=path.absolute().parent, train=(path,), val=(), test=(), names=names)


def open_splits(spec: DataSpec, strict: bool) -> dict[str, DatasetIndex]:
    """The splits of a data set that are there, with their labels; nothing is written beside these.

    Raises:
        UserError: no usable image, or with `strict` any fault.
    """
    found = {}
    for split in SPLITS:
        sources = getattr(spec, split)
        if sources and all(source.exists() for source in sources):
            found[split] = build_index(sources, spec.names, strict=strict, cache=False)
            found[split].report.check_usable(split)
    return found
