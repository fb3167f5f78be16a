"""Warped regions: hand-worked geometry, the border, and grid_sample's own gradient."""

import pytest
import torch
from torch.testing import assert_close

from rcnn.ops.warp import warp, with_context


def test_the_papers_geometry() -> None:
    # 227 pixels with 16 of context: the box fills the central 195, so the window is 227/195 of it.
    window = with_context(torch.tensor([[16.0, 16, 211, 211], [0, 0, 390, 195]]), 227, 16)
    assert_close(window, torch.tensor([[0.0, 0, 227, 227], [-32, -16, 422, 211]]))


def test_a_box_of_its_own_size_is_copied_with_its_context() -> None:
    image = torch.arange(2 * 20 * 30, dtype=torch.float32).reshape(2, 20, 30)
    # Side 12 with context 2: a box of 8 x 8 at (7, 5) shows the pixels 5..17, 3..15.
    found = warp(image, torch.tensor([[7.0, 5, 15, 13]]), 12, 2)
    assert_close(found[0], image[:, 3:15, 5:17])


def test_shape_is_not_kept() -> None:
    image = torch.arange(8.0).expand(1, 4, 8)
    # Columns 2 to 6 over four pixels, the single row 1 to 2 likewise.
    found = warp(image, torch.tensor([[2.0, 1, 6, 2]]), 4, 0)
    assert_close(found[0, 0], torch.tensor([2.0, 3, 4, 5]).expand(4, 4))


def test_shrinking_takes_single_points() -> None:
    """Bilinear without a low-pass filter: every second pixel's corner is the mean of its neighbours."""
    image = torch.tensor([[0.0, 1, 4, 9]]).expand(1, 2, 4)
    found = warp(image, torch.tensor([[0.0, 0, 4, 2]]), 2, 0)
    assert_close(found[0, 0], torch.tensor([[0.5, 6.5], [0.5, 6.5]]))


def test_outside_the_image_is_the_mean() -> None:
    found = warp(torch.ones(3, 8, 8), torch.tensor([[0.0, 0, 8, 8]]), 16, 4)
    # The image fills the central 8 pixels; the rest is 0.
    expected = torch.zeros(3, 16, 16)
    expected[:, 4:12, 4:12] = 1
    assert_close(found[0], expected)


@pytest.mark.parametrize("count", [0, 1, 5])
def test_every_region_by_itself(count: int) -> None:
    draw = torch.Generator().manual_seed(0)
    image = torch.rand((3, 17, 23), generator=draw)
    corners = torch.rand((count, 2), generator=draw) * 10
    boxes = torch.cat([corners, corners + 3 + 5 * torch.rand((count, 2), generator=draw)], 1)
    together = warp(image, boxes, 6, 1)
    assert together.shape == (count, 3, 6, 6)
    for box, region in zip(boxes, together, strict=True):
        assert_close(warp(image, box[None], 6, 1)[0], region)
