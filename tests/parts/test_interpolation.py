"""Weights between those of two networks."""

import pytest
import torch
from torch.testing import assert_close

from rcnn.parts.interpolation import interpolate

FIRST = {"weight": torch.tensor([1.0, -2.0]), "count": torch.tensor(3)}
LAST = {"weight": torch.tensor([5.0, 2.0]), "count": torch.tensor(9)}


@pytest.mark.parametrize(
    ("fraction", "weight", "count"),
    [(0.0, [1.0, -2.0], 3), (0.25, [2.0, -1.0], 9), (0.75, [4.0, 1.0], 9), (1.0, [5.0, 2.0], 9)],
)
def test_by_hand(fraction: float, weight: list[float], count: int) -> None:
    found = interpolate(FIRST, LAST, fraction)
    assert_close(found["weight"], torch.tensor(weight))
    assert int(found["count"]) == count


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_exact_at_both_ends_and_where_both_agree(dtype: torch.dtype) -> None:
    draw = torch.Generator().manual_seed(0)
    one, other = (
        {"w": (torch.randn(1000, generator=draw) * 10.0 ** torch.arange(-5, 5).repeat(100)).to(dtype)}
        for _ in range(2)
    )
    assert torch.equal(interpolate(one, other, 0.0)["w"], one["w"])
    assert torch.equal(interpolate(one, other, 1.0)["w"], other["w"])
    for fraction in (0.1, 0.2, 1 / 3, 0.5, 0.7, 0.999):
        assert torch.equal(interpolate(one, one, fraction)["w"], one["w"])


def test_nothing_is_shared_or_changed() -> None:
    before = {k: v.clone() for k, v in FIRST.items()}
    for fraction in (0.0, 0.5, 1.0):
        for tensor in interpolate(FIRST, LAST, fraction).values():
            tensor.zero_()
    assert all(torch.equal(FIRST[k], before[k]) for k in FIRST)
    assert LAST["weight"].tolist() == [5.0, 2.0]
