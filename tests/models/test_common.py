"""The façade offers every registered block, and the names that trained code imports."""

from __future__ import annotations

import pytest

from models import common
from models.registry import BLOCKS


@pytest.mark.parametrize("name", sorted(name for name in BLOCKS if not name.startswith("nn.")))
def test_every_registered_block_is_importable(name: str) -> None:
    assert getattr(common, name) is BLOCKS[name].block
    assert name in dir(common)


def test_helpers_are_importable_and_private_names_are_not() -> None:
    from models.common import C3TR, TransformerBlock, TransformerLayer

    assert {C3TR.__name__, TransformerBlock.__name__, TransformerLayer.__name__} <= set(dir(common))
    with pytest.raises(AttributeError, match="no block '_SlimShell'"):
        _ = common._SlimShell
