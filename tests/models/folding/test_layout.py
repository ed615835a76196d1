"""Orders of channels that are still open: what consumers may ask for, one after the other."""

from __future__ import annotations

from models.folding.layout import Layout, inverse


def test_wishes_are_granted_in_turn() -> None:
    layout = Layout(6)
    assert layout.require((1, 4), exact=False)
    assert layout.order == [0, 1, 4, 2, 3, 5]  # 4 moves next to 1, the others keep their order
    assert layout.require((4, 1), exact=True)
    assert layout.order == [0, 4, 1, 2, 3, 5]
    assert layout.require((1, 2), exact=False)


def test_a_wish_that_breaks_an_earlier_one_changes_nothing() -> None:
    layout = Layout(4)
    assert layout.require((0, 1), exact=True)
    assert not layout.require((1, 0), exact=True)
    assert not layout.require((0, 2), exact=False)  # 2 would have to come between 0 and 1, or before 0
    assert layout.order == [0, 1, 2, 3]


def test_a_frozen_order_grants_only_what_holds() -> None:
    layout = Layout(4)
    layout.freeze()
    assert layout.require((1, 2), exact=True)
    assert not layout.require((2, 1), exact=True)


def test_inverse() -> None:
    assert inverse([2, 0, 1]) == [1, 2, 0]  # row 0 lies at place 1, row 1 at 2, row 2 at 0
