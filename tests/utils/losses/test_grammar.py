"""How losses are named: what is read, what is written, and what one is told when it is wrong."""

from __future__ import annotations

import itertools

import pytest

from utils.losses.composition import MODIFIERS, BoxLoss
from utils.losses.overlaps import BASES

WIOU = "WIoU-v3(alpha=1.5, delta=3, batches=7000)"


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("CIoU", "CIoU"),
        ("Shape-IoU", "Shape-IoU(scale=0)"),
        ("Inner-CIoU(ratio=0.75)", "Inner-CIoU(ratio=0.75)"),
        ("Inner-CIoU", "Inner-CIoU(ratio=0.75)"),
        ("Focaler-SIoU(d=0.0, u=0.95)", "Focaler-SIoU(d=0, u=0.95)"),
        ("Focaler-SIoU(u = 9.5e-1)", "Focaler-SIoU(d=0, u=0.95)"),
        ("Alpha-DIoU(alpha=3)", "Alpha-DIoU(alpha=3)"),
        ("Focal-EIoU", "Focal-EIoU(gamma=0.5)"),
        ("WIoU", "WIoU-v3(alpha=1.9, delta=3, batches=7000)"),
        ("WIoU-v3-IoU", "WIoU-v3(alpha=1.9, delta=3, batches=7000)"),
        ("WIoU-v1-Shape-IoU", "WIoU-v1-Shape-IoU(scale=0)"),
        ("PIoU2", "PIoU2(lam=1.3)"),
        ("PIoU2-CIoU", "PIoU2-CIoU(lam=1.3)"),
        ("NWD", "NWD(c=12.8)"),
        ("NWD-CIoU(c=20)", "NWD-CIoU(share=0.5, c=20)"),
        # in any order, and numbers behind their own name
        ("Inner-Focal-CIoU(gamma=1, ratio=1.2)", "Focal-Inner-CIoU(gamma=1, ratio=1.2)"),
        ("Inner(ratio=1.2)-Focal(gamma=1)-CIoU", "Focal-Inner-CIoU(gamma=1, ratio=1.2)"),
        # two numbers of one name stay behind their own
        ("WIoU-v3(alpha=1.5)-Alpha(alpha=2)-CIoU", f"{WIOU}-Alpha(alpha=2)-CIoU"),
        ("WIoU-v3(alpha=1.5)-Alpha-CIoU(alpha=2)", f"{WIOU}-Alpha(alpha=2)-CIoU"),
        ("Focal(gamma=1)-WIoU-v2(gamma=2)", "WIoU-v2(gamma=2, batches=7000)-Focal(gamma=1)-IoU"),
        ("Focal-PIoU2", "Focal-PIoU2(gamma=0.5, lam=1.3)"),
    ],
)  # fmt: skip
def test_what_is_read_and_written(text: str, canonical: str) -> None:
    assert str(BoxLoss(text)) == canonical
    assert str(BoxLoss(canonical)) == canonical


def test_every_combination_is_read_as_it_is_written() -> None:
    """Up to three modifiers, in every order: the canonical text is one for all orders, and means the same."""
    count = 0
    for size in range(4):
        for chosen in itertools.combinations([name for name in MODIFIERS if name != "WIoU"], size):
            if len({MODIFIERS[name].kind for name in chosen}) < size:
                continue
            for base in ("CIoU", "Shape-IoU", "IoU", "PIoU"):
                written = {str(BoxLoss("-".join((*order, base)))) for order in itertools.permutations(chosen)}
                (text,) = written
                assert BoxLoss(text).formula == BoxLoss("-".join((*chosen, base))).formula
                count += 1
    assert count > 300


def test_every_number_survives_exactly() -> None:
    for value in (1 / 3, 0.1 + 0.2, 2.9999999999999996):
        assert BoxLoss(str(BoxLoss(f"Inner-CIoU(ratio={value!r})"))).formula.modifiers[0].numbers == {
            "ratio": value
        }


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "'', letter 1: a name is missing; there are NWD, "),
        ("ciou", "'ciou', letter 1: unknown name 'ciou'; did you mean 'CIoU'?"),
        ("MPD-IoU", "letter 1: unknown name 'MPD'; did you mean 'MPDIoU'?"),
        ("ShapeIoU", "did you mean 'Shape-IoU'?"),
        ("WIoUv3", "did you mean 'WIoU-v3'?"),
        ("Iner-CIoU(ratio=0.8)", "letter 1: unknown name 'Iner'; did you mean 'Inner'?"),
        ("Inner-CIuO", "letter 7: unknown name 'CIuO'; did you mean 'CIoU'?"),
        ("Inner-", "letter 7: a name is missing; there are "),
        ("Inner", "letter 1: Inner needs a base behind it, as in Inner-CIoU"),
        ("CIoU-Inner", "letter 6: Inner needs a base behind it"),
        ("CIoU-DIoU", "letter 1: CIoU is a base, and a base stands last"),
        ("Inner-Inner-CIoU", "letter 7: Inner is there 2 times"),
        ("WIoU-v1-WIoU-v3-CIoU", "letter 9: WIoU is there 2 times"),
        ("Inner-NWD", "letter 1: Inner means nothing for NWD"),
        ("NWD-NWD", "letter 1: NWD means nothing for NWD"),
        ("CIoU(ratio=1)", "letter 1: CIoU has no number ratio; it takes none"),
        ("Focaler-CIoU(e=1)", "letter 9: CIoU has no number e; it takes none"),
        ("Focaler(e=1)-CIoU", "letter 1: Focaler has no number e; it takes d, u"),
        ("Inner-CIoU(ratio=7)", "letter 1: ratio must lie between 0.1 and 3, found 7"),
        ("Inner-CIoU(ratio=1e999)", "ratio must lie between 0.1 and 3, found inf"),
        ("Alpha-CIoU(alpha=-2)", "alpha must lie between 1 and 10, found -2"),
        ("Focaler-CIoU(d=0.9, u=0.5)", "letter 1: d must be below u, found 0.9 and 0.5"),
        ("Inner-CIoU(ratio)", "letter 12: expected NAME=NUMBER, then ',' or ')'"),
        ("Inner-CIoU(ratio=x)", "letter 12: expected NAME=NUMBER"),
        ("Inner-CIoU(ratio=nan)", "letter 12: expected NAME=NUMBER"),
        ("Inner-CIoU(ratio=1", "letter 12: expected NAME=NUMBER"),
        ("Inner-CIoU()", "letter 12: expected NAME=NUMBER"),
        ("Inner-CIoU(ratio=1, ratio=2)", "letter 21: ratio is told twice"),
        ("Inner-CIoU(ratio=1)x", "letter 20: expected '-' or the end behind CIoU, found 'x'"),
        ("Inner-CIoU(ratio=__import__('os'))", "letter 12: expected NAME=NUMBER"),
        (
            "WIoU-v3-Alpha-CIoU(alpha=3)",
            "letter 15: alpha is a number of WIoU-v3 and Alpha; write it behind its name, WIoU-v3(alpha=…)-…",
        ),
        ("CIoU\n", r"'CIoU\n', letter 1: unknown name 'CIoU\n'; did you mean 'CIoU'?"),
        ("X" * 5000, "X…', letter 1: unknown name 'XXX"),
        ("Y" * 100, f"'{'Y' * 100}', letter 1: unknown name"),
        ("Z" * 101, f"'{'Z' * 99}…', letter 1: unknown name"),
        (3, "expected a name such as IoU, GIoU, DIoU, CIoU, found 3"),
        (None, "found None"),
        (["CIoU"], "found ['CIoU']"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(text: object, complaint: str) -> None:
    with pytest.raises(ValueError) as error:
        BoxLoss(text)
    assert complaint in str(error.value)
    assert "\n" not in str(error.value) and len(str(error.value)) < 400


@pytest.mark.parametrize("name", [*MODIFIERS, *BASES])
def test_defaults_and_limits_of_numbers_are_allowed(name: str) -> None:
    tail = "" if name in BASES else "-CIoU"
    for number, (default, low, high) in {**MODIFIERS, **BASES}[name].numbers.items():
        other = {"d": ", u=1", "u": ", d=0"}.get(number, "")
        for value in (low, default, high):
            assert low <= value <= high
            BoxLoss(f"{name}({number}={value!r}{other}){tail}")
