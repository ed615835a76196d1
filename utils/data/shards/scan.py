"""One scan of tar shards: the pictures in them, their shapes and their labels, as flat arrays.

A shard that has a listing beside it is not read; any other once, from its start to its end. What was found is
kept beside the shards, or in the user's cache folder where these are behind an address.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np

from utils.console import LOGGER, printable, progress
from utils.data import label_cache
from utils.data.formats.labelme import labelme_of
from utils.data.formats.record import Annotated, Broken
from utils.data.images import shape_in
from utils.data.labels import MOST_BYTES as MOST_LABEL
from utils.data.labels import Labels, parse_labels
from utils.data.packing import ARRAYS, Found, Shape, concatenate, is_consistent, measured, pack, parsed
from utils.data.report import Fault, counted
from utils.data.shards.listing import END, Listing, Row, read_listing
from utils.data.shards.places import Shards, is_remote, member_path, of_member
from utils.data.shards.ranges import State, read_range, reading_pool, state_of
from utils.data.shards.tar import Member, Sample, read_members, read_samples
from utils.data.workers import WorkerPool
from utils.errors import UserError
from utils.files import user_cache
from utils.pipeline import outcome

AHEAD, AHEAD_REMOTE = 1 << 16, 8 << 20  # bytes that are read at once where a shard is read from its start on
PROCESSES_FROM = 8  # shards; below, starting processes costs more than it saves
TEXT, JSON = ".txt", ".json"
THREADS = 16  # that ask a server at once
TOLD = 3  # lines about listings that are not used


def scan_shards(sources: Sequence[Shards], names: Mapping[int, str], *, cache: bool = True) -> Found:
    """The arrays of an index, and the faults.

    Raises:
        UserError: a shard is missing, not a tar or damaged, or its server does not answer.
    """
    addresses = [address for source in sources for address in source.addresses]
    with reading_pool(THREADS) as pool:
        states = [outcome(job) for job in [pool.submit(state_of, address) for address in addresses]]
    key = _fingerprint(addresses, states, names)
    file = _cache_file(addresses) if cache else None
    found = label_cache.load(file, key, ARRAYS) if file is not None else None
    if (
        found is not None
        and is_consistent(found[0], len(names))
        and _stay_inside(found[0], addresses, states)
    ):
        return found
    found = _scan(addresses, states, names)
    if file is not None:
        label_cache.save(file, key, *found)
    return found


def _fingerprint(addresses: Sequence[str], states: Sequence[State], names: Mapping[int, str]) -> str:
    content = json.dumps(["shards", label_cache.VERSION, [*names.values()], addresses, states])
    return hashlib.blake2b(content.encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()


def _cache_file(addresses: Sequence[str]) -> Path | None:
    """Where a scan is kept: beside the shards, or in the user's cache folder; None where there is none."""
    which = hashlib.blake2b(
        "\0".join(addresses).encode("utf-8", "surrogateescape"), digest_size=8
    ).hexdigest()
    folder = Path(addresses[0]).parent
    if any(map(is_remote, addresses)):
        try:
            folder = user_cache() / "shards"
            folder.mkdir(parents=True, exist_ok=True)
        except OSError:
            return None
    return folder / f"shards-{which}{label_cache.SUFFIX}"


def _stay_inside(arrays: Mapping[str, np.ndarray], addresses: Sequence[str], states: Sequence[State]) -> bool:
    """Whether all paths of a kept scan lie in these shards."""
    sizes = {address: state.size for address, state in zip(addresses, states)}
    raw, places = arrays["path_bytes"].tobytes(), arrays["path_offsets"].tolist()
    for start, end in itertools.pairwise(places):
        found = of_member(os.fsdecode(raw[start:end]))
        if found is None or found[1] + found[2] > sizes.get(found[0], 0):
            return False
    return True


def _scan(addresses: Sequence[str], states: Sequence[State], names: Mapping[int, str]) -> Found:
    """Threads wait for servers together; of many shards, processes parse together as well."""
    cores = os.cpu_count() or 1
    many = len(addresses) >= PROCESSES_FROM and cores > 1
    with _processes(min(8, cores)) if many else reading_pool(min(8, cores + 2)) as pool:
        jobs = [pool.submit(scan_shard, place, state.size, names) for place, state in zip(addresses, states)]
        parts = [outcome(job) for job in progress(jobs, "scanning shards", unit=" shards")]
    told = [said for _, said in parts if said]
    for said in told[:TOLD]:
        LOGGER.warning(said)
    if len(told) > TOLD:
        LOGGER.warning(f"… and so it is with {counted(len(told) - TOLD, 'more shard')}")
    return concatenate([found for found, _ in parts])


@contextmanager
def _processes(count: int) -> Iterator[Executor]:
    pool = WorkerPool(count)
    try:
        yield pool
    except BrokenProcessPool as error:
        raise UserError("a process that reads shards has died; out of memory?") from error
    finally:
        pool.shutdown(cancel_futures=True)


def scan_shard(address: str, size: int, names: Mapping[int, str]) -> tuple[Found, str]:
    """What is in one shard of `size` bytes, and a line about a listing that was not used.

    Raises:
        UserError: as `scan_shards`.
    """
    listing = read_listing(address, size)
    if isinstance(listing, Listing):
        return _of_listing(address, listing.rows, len(names)), ""
    said = f"{address}: its {END} is not used: {printable(listing)}" if listing else ""
    window = _Window(address, size)
    members = read_members(window.read, size, address)
    return _of_samples(address, read_samples(members), window, names), said


def _of_listing(address: str, rows: Sequence[Row], classes: int) -> Found:
    paths = [member_path(address, row.offset, row.size, row.name) for row in rows]
    labels = [parsed(row.text.encode("utf-8", "replace"), classes, path) for row, path in zip(rows, paths)]
    return pack(paths, [row.shape for row in rows], labels), [f for found in labels for f in found.faults]


def _of_samples(address: str, samples: Iterable[Sample], window: _Window, names: Mapping[int, str]) -> Found:
    """The shapes and the labels of all samples of a shard, each looked at as it comes by."""
    faults: list[Fault] = []
    seen: list[_Seen] = []
    for sample, picture in _usable(address, samples, faults):
        path = member_path(address, picture.offset, picture.size, sample.name)
        try:
            seen.append(_look_at(sample.label, picture, path, window, faults))
        except UserError as error:
            faults.append(Fault("unreadable label file", 0, str(error), path))
    told = _told_in_json([one for one in seen if one.is_json and one.shape], names, address, faults)
    rows: list[tuple[str, Shape, Labels]] = []
    for path, shape, file, content in seen:
        if shape is None or (content is not None and file.endswith(JSON) and path not in told):
            continue  # told of already
        try:
            labels = _labels(content, file, told.get(path), shape, len(names))
        except UserError as error:
            faults.append(Fault("unreadable label file", 0, str(error), file))
        except Broken as broken:
            faults.append(Fault(broken.kind, 0, broken.detail, path))
        else:
            faults += labels.faults
            rows.append((path, shape, labels))
    return pack([r[0] for r in rows], [r[1] for r in rows], [r[2] for r in rows]), faults


class _Seen(NamedTuple):
    """A sample that was looked at."""

    path: str
    shape: Shape | None  # None: it cannot be used, which was told
    file: str  # what its labels are called
    content: bytes | None  # the labels, where there are some

    @property
    def is_json(self) -> bool:
        return self.content is not None and self.file.endswith(JSON)


def _usable(address: str, samples: Iterable[Sample], faults: list[Fault]) -> Iterator[tuple[Sample, Member]]:
    """The samples with a picture, each name once; what is wrong with others goes to `faults`."""
    keys: set[str] = set()
    for sample in samples:
        place = f"{address}/{printable(sample.key)}"
        if sample.picture is None:
            if sample.others:
                detail = f"'{sample.name}': a name ends at its first dot, so this is no picture; rename it"
                faults.append(Fault("name with dots", 0, detail, place))
            elif sample.label is not None:
                faults.append(Fault("label without image", 0, "no image of this name", place))
            continue
        if sample.key in keys or sample.others:
            faults.append(Fault("picture twice", 0, f"'{printable(sample.key)}' has another", place))
        if sample.key not in keys:
            keys.add(sample.key)
            yield sample, sample.picture


def _look_at(label: Member | None, picture: Member, path: str, window: _Window, faults: list[Fault]) -> _Seen:
    """Read the ends of a picture, and its labels.

    Raises:
        UserError: the labels are too long.
    """
    shape, found = measured(
        path,
        lambda: shape_in(path, picture.size, lambda start, size: window.read(picture.offset + start, size)),
    )
    faults += found
    file = f"{path.rpartition('.')[0]}{TEXT if label is None else Path(label.name).suffix.lower()}"
    if label is None or shape is None:
        return _Seen(path, shape, file, None)
    if label.size > MOST_LABEL:
        raise UserError(f"{label.size:,} bytes, at most {MOST_LABEL:,} are read")
    return _Seen(path, shape, file, window.read(label.offset, label.size))


def _labels(content: bytes | None, file: str, told: Annotated | None, shape: Shape, classes: int) -> Labels:
    """The rows of a sample; none where nothing tells of it."""
    if told is None:
        return Labels() if content is None else parsed(content, classes, file)
    labels = parse_labels(told.label_text(shape), classes)
    labels.faults = [told.named(fault) for fault in labels.faults]
    return labels


def _told_in_json(
    seen: Sequence[_Seen], names: Mapping[int, str], address: str, faults: list[Fault]
) -> dict[str, Annotated]:
    """By path, the pictures that Labelme's JSON tells of."""
    if not seen:
        return {}
    contents = [(one.path, one.file, one.content or b"") for one in seen]
    found = labelme_of(contents).numbered_as(names, address)
    faults += found.faults
    return {picture.path: picture for picture in found.pictures}


class _Window:
    """Two pieces of a shard in memory that move on as it is read: headers lie between pictures."""

    def __init__(self, address: str, size: int) -> None:
        self.address, self.size = address, size
        self.ahead = AHEAD_REMOTE if is_remote(address) else AHEAD
        self.pieces: list[tuple[int, bytes]] = []  # where each begins

    def read(self, start: int, size: int) -> bytes:
        """Bytes of the shard; what lies beyond its end is not asked for."""
        size = max(min(size, self.size - start), 0)
        for first, piece in self.pieces:
            if first <= start and start + size <= first + len(piece):
                return piece[start - first : start - first + size]
        length = min(max(size, self.ahead), self.size - start)
        piece = read_range(self.address, start, length)
        self.pieces = [*self.pieces[-1:], (start, piece)]
        return piece[:size]
