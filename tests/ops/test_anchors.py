"""Anchors: the published nine, worked cases and the order they come in."""

import pytest
import torch
from torch.testing import assert_close

from rcnn.ops.anchors import cell_anchors, grid_anchors

# The output of py-faster-rcnn's generate_anchors, as printed by the MATLAB original: inclusive corners
# counted from 1. For each ratio all sizes.
PUBLISHED = [
    [-83, -39, 100, 56],
    [-175, -87, 192, 104],
    [-359, -183, 376, 200],
    [-55, -55, 72, 72],
    [-119, -119, 136, 136],
    [-247, -247, 264, 264],
    [-35, -79, 52, 96],
    [-79, -167, 96, 184],
    [-167, -343, 184, 360],
]


def test_the_nine_published_anchors():
    cell = cell_anchors((128, 256, 512), (0.5, 1, 2), "caffe")
    anchors = grid_anchors(cell, 1, 1, stride=16, offset=0.5)
    # The first pixel, 1, begins at 0; the last one, n, ends at n.
    expected = torch.tensor(PUBLISHED, dtype=torch.float32) - torch.tensor([1.0, 1, 0, 0])
    torch.testing.assert_close(anchors, expected, rtol=0, atol=0)


def test_exact_anchors_have_their_area_and_ratio():
    sizes, ratios = (32.0, 100.0), (0.5, 1.0, 2.0)
    cell = cell_anchors(sizes, ratios)
    width, height = cell[:, 2] - cell[:, 0], cell[:, 3] - cell[:, 1]
    assert_close(height / width, torch.tensor([0.5, 0.5, 1, 1, 2, 2]))
    assert_close((width * height).sqrt(), torch.tensor([32.0, 100] * 3))
    assert_close(cell[:, :2], -cell[:, 2:])


def test_anchors_rounded_as_torchvision_does():
    from torchvision.models.detection.anchor_utils import AnchorGenerator

    sizes, ratios = (32, 57, 91), (0.5, 1.0, 2.0)
    expected = AnchorGenerator((sizes,), (ratios,)).cell_anchors[0]
    assert_close(cell_anchors(sizes, ratios, "torchvision"), expected)


def test_size_16_and_ratio_1():
    assert cell_anchors((16,), (1,)).tolist() == [[-8, -8, 8, 8]]


def test_grid_runs_along_rows_then_columns_then_anchors():
    cell = torch.tensor([[-1.0, -2, 1, 2], [-3, -3, 3, 3]])
    anchors = grid_anchors(cell, height=2, width=3, stride=8)
    assert anchors.shape == (12, 4)
    for row in range(2):
        for column in range(3):
            for a in range(2):
                expected = cell[a] + torch.tensor([column, row, column, row]) * 8
                assert_close(anchors[(row * 3 + column) * 2 + a], expected)


@pytest.mark.parametrize("offset", [0.0, 0.5])
def test_offset_is_a_share_of_the_stride(offset):
    moved = grid_anchors(cell_anchors((16,), (1,)), 2, 2, 4, offset)
    assert_close(moved, grid_anchors(cell_anchors((16,), (1,)), 2, 2, 4) + 4 * offset)


def test_middle_anchors_mirror_onto_themselves():
    """What an equivariant detector needs: the grid of a mirrored image is the mirrored grid."""
    anchors = grid_anchors(cell_anchors((16, 40), (0.5, 2)), 3, 5, 16, 0.5).view(3, 5, 4, 4)
    mirrored = anchors.flip(1).clone()
    mirrored[..., [0, 2]] = 5 * 16 - mirrored[..., [2, 0]]
    assert_close(mirrored, anchors)


def test_an_empty_map_has_no_anchors():
    assert grid_anchors(cell_anchors((16,), (1,)), 0, 3, 16).shape == (0, 4)
