"""Equal and nearly equal pictures."""

from __future__ import annotations

import io
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from curation import fingerprints as module
from curation.fingerprints import NEAR, equal_to_earlier, fingerprints, hasher, nearest_earlier, small_grey
from tests.curation.planted import blobs, jpeg
from utils.data.images import ImageError


def test_equal_to_earlier() -> None:
    # b"" stands for files that could not be read, which are equal to nothing
    assert equal_to_earlier([b"a", b"b", b"a", b"", b"", b"a", b"b"]) == [(2, 0), (5, 0), (6, 1)]


def with_bits(*bits: int) -> np.ndarray:
    """(32,) uint8 with these bits of 256."""
    flat = np.zeros(256, np.uint8)
    flat[list(bits)] = 1
    return np.packbits(flat)


def test_nearest_earlier_by_hand() -> None:
    looks = np.stack([with_bits(*range(n)) for n in (0, 40, 43, 200, 41, 2)])
    chosen, groups = np.arange(6), np.array([0, 0, 0, 0, 1, 1])
    # 40 bits from picture 0; 3 from picture 1; none near 200; in group 1, 1 from picture 1, and 2 from 0
    assert nearest_earlier(looks, chosen, groups) == [(1, 0, 40), (2, 1, 3), (4, 1, 1), (5, 0, 2)]
    assert nearest_earlier(looks, chosen, groups, near=2) == [(4, 1, 1), (5, 0, 2)]
    # without pictures 0 to 2, the last has none of an earlier group, but one of its own: 41 - 2
    assert nearest_earlier(looks, np.array([3, 4, 5]), groups) == [(5, 4, 39)]
    assert nearest_earlier(looks, np.zeros(0, int), groups) == []


def test_nearest_earlier_against_all_pairs() -> None:
    rng = np.random.default_rng(0)
    base = rng.integers(0, 256, (9, 32), dtype=np.uint8)
    noise = np.packbits(rng.random((70, 256)) < 0.1, axis=1)
    looks = base[rng.integers(0, 9, 70)] ^ noise
    groups = np.repeat([0, 1, 2], [30, 20, 20])
    bits = np.bitwise_count(looks[:, None] ^ looks[None]).sum(axis=2)
    expected = []
    for picture in range(70):
        for earlier in (np.flatnonzero(groups < groups[picture]), np.arange(picture)):
            near = earlier[bits[picture, earlier] <= NEAR]
            if len(near):
                best = near[bits[picture, near].argmin()]
                expected.append((picture, int(best), int(bits[picture, best])))
                break
    assert len(expected) > 30
    assert nearest_earlier(looks, np.arange(70), groups) == expected


@pytest.mark.parametrize("name", ["bigger", "smaller", "worse", "darker", "png", "turned"])
def test_changed_pictures_look_alike(name: str, tmp_path: Path) -> None:
    imagehash = pytest.importorskip("imagehash")
    image = blobs(1)
    turned = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying on its side
    Image.fromarray(np.rot90(image)[..., ::-1]).save(turned, "jpeg", exif=exif, quality=95)
    changed = {
        "bigger": jpeg(cv2.resize(image, None, fx=5, fy=4, interpolation=cv2.INTER_CUBIC)),
        "smaller": jpeg(cv2.resize(image, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)),
        "worse": jpeg(image, 25),
        "darker": jpeg(cv2.convertScaleAbs(image, alpha=0.8)),
        "png": cv2.imencode(".png", image)[1].tobytes(),
        "turned": turned.getvalue(),
    }[name]
    paths = []
    for number, data in enumerate((jpeg(image), changed, jpeg(blobs(2)))):
        paths.append(str(tmp_path / f"{number}.jpg"))
        Path(paths[-1]).write_bytes(data)
    prints = fingerprints(paths, imagehash)
    assert len(set(prints.content)) == 3 and prints.hashed.all() and not prints.damaged
    assert prints.looks is not None
    ((picture, other, bits),) = nearest_earlier(prints.looks, np.arange(3), np.zeros(3, int))
    assert (picture, other) == (1, 0) and bits <= NEAR


def test_large_pictures_are_decoded_small() -> None:
    large = cv2.resize(blobs(1), (1600, 1200))
    assert max(small_grey(jpeg(large)).size) <= 400  # an eighth would be 200, more than 64 on both sides
    assert max(small_grey(cv2.imencode(".png", large)[1].tobytes()).size) <= 400


def test_damaged_and_missing_files(tmp_path: Path) -> None:
    data = jpeg(blobs(1))
    (tmp_path / "cut.jpg").write_bytes(data[: len(data) // 2])
    prints = fingerprints([str(tmp_path / "cut.jpg"), str(tmp_path / "none.jpg")], None)
    assert prints.looks is None and "truncated" in prints.damaged[0]
    assert prints.content[1] == b"" and "No such file" in prints.damaged[1]
    with pytest.raises(ImageError):
        small_grey(b"no picture")


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "imagehash", None)
    assert hasher() is None
    assert module.PIP == "imagehash"
