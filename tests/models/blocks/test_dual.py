"""DualConv: its sum, its place in C3, and what it refuses."""

from __future__ import annotations

import pytest
import torch

from models.blocks.dual import C3Dual, DualConv


def test_one_kernel_does_the_same() -> None:
    torch.manual_seed(0)
    block = DualConv(8, 12, s=2, g=4)
    whole = torch.zeros(12, 8, 3, 3)
    for row in range(12):
        first = row // 3 * 2  # 12 / 4 rows and 8 / 4 columns a group
        whole[row, first : first + 2] = block.gc.weight[row]
    whole[:, :, 1, 1] += block.pwc.weight[:, :, 0, 0]
    x = torch.randn(2, 8, 7, 7)
    expected = torch.nn.functional.conv2d(x, whole, stride=2, padding=1)
    torch.testing.assert_close(block(x), expected, rtol=1e-4, atol=1e-5)


def test_stack_has_dual_bottlenecks() -> None:
    stack = C3Dual(16, 32, n=2)
    assert [part.cv2.gc.groups for part in stack.m] == [4, 4]
    assert all(part.add for part in stack.m)
    assert not C3Dual(16, 32, 1, False).m[0].add


@pytest.mark.parametrize(("c1", "c2", "name", "value"), [(6, 8, "c1", 6), (8, 6, "c2", 6)])
def test_channels_must_be_multiples_of_the_groups(c1: int, c2: int, name: str, value: int) -> None:
    with pytest.raises(
        ValueError, match=f"DualConv has g = 4 groups: {name} must be a multiple of it, got {value}"
    ):
        DualConv(c1, c2)
