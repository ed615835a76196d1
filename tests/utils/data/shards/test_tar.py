"""Tars of strangers: what is sound is found as others find it, what is not ends in one line."""

from __future__ import annotations

import gzip
import io
import random
import tarfile
from pathlib import Path

import pytest

from tests.utils.data.shards.tars import header, listed, tar_of
from utils.data.shards.tar import Member, Sample, read_members, read_samples
from utils.errors import UserError


def members(content: bytes) -> list[Member]:
    return list(read_members(lambda at, n: content[at : at + n], len(content), "x.tar"))


LONG = "d" * 150 + "/" + "ä" * 100 + ".jpg"


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_members_are_those_that_python_finds(form: int) -> None:
    names = ["a.jpg", "a.txt", "deep/er/b.png", "ü.txt", *([LONG] if form != tarfile.USTAR_FORMAT else [])]
    files = {name: bytes([number]) * (number * 300) for number, name in enumerate(names)}
    content = tar_of(files, form)
    found = members(content)
    assert [member.name for member in found] == listed(content) == names
    for member in found:
        assert content[member.offset : member.offset + member.size] == files[member.name]


def test_what_is_no_file_is_passed_over() -> None:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.GNU_FORMAT, encoding="utf-8") as tar:
        for number, kind in enumerate((tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE)):
            info = tarfile.TarInfo(f"{number}" * 120)
            info.type, info.linkname = kind, "/etc/passwd" * 20
            tar.addfile(info)
        tar.addfile(tarfile.TarInfo("a.jpg"), io.BytesIO())
    assert [member.name for member in members(stream.getvalue())] == ["a.jpg"]


def test_samples_are_those_of_webdataset() -> None:
    names = [
        "a.jpg",
        "a.txt",
        "b/c.PNG",
        "b/c.json",
        "d.seg.png",
        "d.jpg",
        "e.txt",
        ".f.jpg",
        "g",
        "h.pyd",
        "h.pth",
    ]
    base_plus_ext = pytest.importorskip("webdataset.tariterators").base_plus_ext
    samples = list(read_samples(Member(name, 512, 1) for name in names))
    assert [sample.key for sample in samples] == list(
        dict.fromkeys(base_plus_ext(name)[0] for name in names if base_plus_ext(name)[0])
    )
    by_key = {sample.key: sample for sample in samples}
    assert by_key["a"].picture == Member("a.jpg", 512, 1) and by_key["a"].label == Member("a.txt", 512, 1)
    assert by_key["b/c"].name == "c.PNG" and by_key["b/c"].label == Member("b/c.json", 512, 1)
    assert by_key["d"].picture == Member("d.jpg", 512, 1) and len(by_key["d"].others) == 1
    assert by_key["e"].picture is None
    assert by_key["h"] == Sample("h")  # pickles are not looked at


def test_the_text_counts_when_there_are_two_labels() -> None:
    for names in (("a.jpg", "a.json", "a.txt"), ("a.txt", "a.jpg", "a.json")):
        (sample,) = read_samples(Member(name, 512, 1) for name in names)
        assert sample.label is not None and sample.label.name == "a.txt"


SOUND = tar_of({"a.jpg": b"x" * 1000, "b.jpg": b"y" * 700})
HUGE = b"\x80" + (1 << 80).to_bytes(11, "big")  # a size in base 256
NEGATIVE = b"\xff" * 12
END = bytes(1024)
PAX = b"22 size=99999999999999\n"
DAMAGED = {
    "nothing": (b"", "not a tar: it is empty"),
    "text": (b"hello" * 500, "not a tar"),
    "gzip": (gzip.compress(SOUND) + bytes(512), "compressed with gzip; .* unpack it to a plain .tar"),
    "short": (SOUND[:700], "'a.jpg' would have 1,000 bytes, more than the tar"),
    "without an end": (SOUND[:3072], "cut off: it has no end mark"),
    "a header that is gone": (SOUND[:1536] + b"?" * 512 + SOUND[2048:], "damaged at byte 1,536: no header"),
    "a flipped bit": (SOUND[:1540] + b"#" + SOUND[1541:], "damaged at byte 1,536"),
    "a bomb": (header("a.jpg", 0o77777777777) + END, "would have 8,589,934,591 bytes, more than the tar"),
    "a larger bomb": (header("a.jpg", HUGE) + END, "damaged"),
    "a negative size": (header("a.jpg", NEGATIVE) + END, "damaged"),
    "no number": (header("a.jpg", b"zzzzzzzzzzz\0") + END, "not a tar"),
    "a long name of 1 GB": (header("x", 1 << 30, b"L") + END, "more than the tar"),
    "a long name": (header("x", 1 << 17, b"L") + bytes(1 << 18), "a header of 131,072 bytes .* at most 65,"),
    "pax": (
        header("x", len(PAX), b"x") + PAX.ljust(512, b"\0") + header("a.jpg", 3) + END,
        "would have 9,999",
    ),
    "pax without a number": (
        header("x", 12, b"x") + b"12 size=-99\n".ljust(512, b"\0") + header("a.jpg", 3) + END,
        "damaged: a size of",
    ),
    "sparse": (header("a.jpg", 0, b"S") + END, "sparse file"),
    "pax sparse": (
        header("x", 25, b"x") + b"25 GNU.sparse.major=1000\n".ljust(512, b"\0") + END,
        "sparse files",
    ),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_what_is_damaged_is_one_line(case: str) -> None:
    content, complaint = DAMAGED[case]
    with pytest.raises(UserError, match=complaint) as caught:
        members(content)
    assert str(caught.value).startswith("x.tar: ") and str(caught.value).isprintable()


def test_no_read_is_longer_than_the_tar_or_a_header() -> None:
    """Whatever sizes are claimed: they are compared before anything is read."""
    for content, _ in DAMAGED.values():
        sizes = []

        def read(at: int, n: int, content: bytes = content, sizes: list[int] = sizes) -> bytes:
            sizes.append(n)
            return content[at : at + n]

        with pytest.raises(UserError):
            list(read_members(read, len(content), "x.tar"))
        assert max(sizes, default=0) <= 1 << 16


def test_flipped_bytes(tmp_path: Path) -> None:
    """Three hundred damaged tars: members inside the tar, or one line; and an end."""
    rng, whole = (
        random.Random(0),
        tar_of({"a.jpg": b"x" * 600, LONG: b"y" * 99, "b.txt": b""}, tarfile.GNU_FORMAT),
    )
    outcomes = {"read": 0, "refused": 0}
    for _ in range(300):
        content = bytearray(whole)
        for _ in range(rng.choice((1, 2, 8))):
            content[rng.randrange(len(whole[:5120]))] = rng.randrange(256)
        try:
            found = members(bytes(content))
        except UserError as error:
            assert str(error).isprintable()
            outcomes["refused"] += 1
            continue
        assert all(0 <= m.offset <= m.offset + m.size <= len(content) for m in found)
        outcomes["read"] += 1
    assert min(outcomes.values()) > 20, outcomes


@pytest.mark.parametrize(
    "name", ["/etc/passwd.jpg", "../../up.jpg", "a\\..\\b.jpg", "x/\x1b[31m.jpg", "a@1+2.jpg"]
)
def test_names_mean_nothing_but_a_name(name: str) -> None:
    """Nothing is unpacked, so that a name leads nowhere; what stands behind its last slash is shown."""
    for sample in read_samples(iter(members(tar_of({name: b"x"})))):
        assert not set("/\\@\x1b") & set(sample.name) and sample.name.endswith(".jpg")
