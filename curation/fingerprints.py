"""What pictures hold and how they look, as hashes: by them equal and nearly equal ones are found.

The look is the perceptual hash of `imagehash` with 256 bits: the signs of the lowest frequencies of a small
grey picture. Among 620 photographs and microscope pictures two of one scene are 26 bits apart and all others
at least 88; a picture saved again, at half the size, stretched, brighter or moved by 8 pixels is within 46.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import cv2
import numpy as np

from utils.console import progress
from utils.data.images import MOST_BYTES, ImageError, read_image
from utils.errors import UserError
from utils.optional import require
from utils.pipeline import ordered_map, thread_pool
from utils.reading import read_bytes

PIP = "imagehash"
SIDE = 16  # of the hash: 16 x 16 bits
GREY = 4 * SIDE  # pixels of the picture that is hashed
NEAR = 48  # bits that may differ
FAR = 2**16 - 1  # more bits than there are
ROWS = 16  # that are compared with all others at once
AHEAD = 32  # pictures under way


@dataclass(frozen=True)
class Fingerprints:
    """Of N pictures.

    Attributes:
        content: N digests of the bytes of the files; empty where one could not be read.
        looks: (N, 32) uint8, 256 bits each; None where `imagehash` is not installed.
        hashed: (N,) bool, whether there is a look: what cannot be decoded has none.
        damaged: by number of the picture, why it cannot be decoded.
    """

    content: list[bytes] = field(default_factory=list)
    looks: np.ndarray | None = None
    hashed: np.ndarray = field(default_factory=lambda: np.zeros(0, bool))
    damaged: dict[int, str] = field(default_factory=dict)


def hasher() -> ModuleType | None:
    """The package that makes looks, where it is installed. Raises `UserError` when it cannot be loaded."""
    try:
        return require("imagehash", PIP)
    except UserError as error:
        if isinstance(error.__cause__, ModuleNotFoundError):
            return None
        raise


def fingerprints(paths: Sequence[str], imagehash: ModuleType | None) -> Fingerprints:
    """Read every picture once, in threads; only hashes are kept."""
    content, looks, damaged = [], np.zeros((len(paths), SIDE * SIDE // 8), np.uint8), {}
    hashed = np.zeros(len(paths), bool)

    def one(path: str) -> tuple[bytes, np.ndarray | None, str]:
        return _fingerprint(path, imagehash)

    with thread_pool(os.cpu_count() or 1) as pool:
        results = ordered_map(pool, one, paths, depth=AHEAD)
        for number, (digest, look, fault) in enumerate(
            progress(results, "reading pictures", total=len(paths), unit=" images")
        ):
            content.append(digest)
            if look is not None:
                looks[number], hashed[number] = look, True
            if fault:
                damaged[number] = fault
    return Fingerprints(content, None if imagehash is None else looks, hashed, damaged)


def _fingerprint(path: str, imagehash: ModuleType | None) -> tuple[bytes, np.ndarray | None, str]:
    """The digest, the look (32,) uint8 and why there is none."""
    try:
        data = read_bytes(path, MOST_BYTES)
    except (OSError, UserError) as error:
        return b"", None, getattr(error, "strerror", None) or str(error)
    digest = hashlib.blake2b(data, digest_size=16).digest()
    try:
        grey = small_grey(data)
    except ImageError as error:
        return digest, None, error.reason
    if imagehash is None:
        return digest, None, ""
    return digest, np.packbits(imagehash.phash(grey, hash_size=SIDE).hash), ""


def small_grey(data: bytes) -> Any:
    """A picture's bytes as a small grey PIL image, upright; a JPEG is decoded at an eighth of its size.

    Raises:
        ImageError: it cannot be decoded, or is cut short.
    """
    from PIL import Image, ImageOps

    if data.startswith(b"\xff\xd8\xff"):
        try:
            with Image.open(io.BytesIO(data), formats=("JPEG", "MPO")) as image:
                image.draft("L", (GREY, GREY))
                return ImageOps.exif_transpose(image).convert("L")
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            if "truncated" in str(error):
                raise ImageError("image", " ".join(str(error).split()), "truncated") from error
    grey = read_image(data, 1)[..., 0]
    scale = 2 * GREY / min(grey.shape)
    if scale < 1:
        size = (max(round(grey.shape[1] * scale), 1), max(round(grey.shape[0] * scale), 1))
        grey = cv2.resize(grey, size, interpolation=cv2.INTER_AREA)
    return Image.fromarray(np.ascontiguousarray(grey))


def equal_to_earlier(content: Sequence[bytes]) -> list[tuple[int, int]]:
    """(picture, the first that holds the same) for every picture that is not the first."""
    first: dict[bytes, int] = {}
    return [
        (number, first[digest])
        for number, digest in enumerate(content)
        if digest and first.setdefault(digest, number) != number
    ]


def nearest_earlier(
    looks: np.ndarray, chosen: np.ndarray, groups: np.ndarray, near: int = NEAR
) -> list[tuple[int, int, int]]:
    """For each picture the earlier one that looks most like it, where they differ in at most `near` bits.

    One of an earlier group comes before all of the picture's own group.

    Args:
        looks: (N, 32) uint8.
        chosen: numbers of the pictures to compare, ascending.
        groups: (N,) int, ascending.

    Returns:
        (picture, earlier picture, differing bits), in the order of the pictures.
    """
    words = np.ascontiguousarray(looks[chosen].view(np.uint64).T)  # (4, n): one plane after the other
    groups = groups[chosen]

    def compare(start: int) -> list[tuple[int, int, int]]:
        end = min(start + ROWS, len(chosen))
        distance = np.zeros((end - start, end), np.uint16)
        for word in words:
            distance += np.bitwise_count(word[start:end, None] ^ word[None, :end])
        distance[np.arange(end)[None] >= np.arange(start, end)[:, None]] = FAR
        found = []
        for row in np.flatnonzero(distance.min(axis=1) <= near):
            before = int(np.searchsorted(groups, groups[start + row]))  # so many are of earlier groups
            apart = distance[row, :before].min(initial=FAR) <= near
            best = int(distance[row, : before if apart else None].argmin())
            found.append((int(chosen[start + row]), int(chosen[best]), int(distance[row, best])))
        return found

    with thread_pool(os.cpu_count() or 1) as pool:
        parts = ordered_map(pool, compare, range(0, len(chosen), ROWS), depth=AHEAD)
        return [pair for part in parts for pair in part]
