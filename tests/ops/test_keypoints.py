"""Keypoints to cells and back."""

import pytest
import torch
from torch.testing import assert_close
from torchvision.models.detection.roi_heads import heatmaps_to_keypoints, keypoints_to_heatmap

from rcnn.inference.postprocess import highest_pixels
from rcnn.ops.keypoints import find_keypoints, keypoint_cells

BOXES = torch.tensor([[10.0, 20.0, 38.0, 76.0], [0.0, 0.0, 7.3, 9.9]])


def test_a_keypoint_lies_in_the_cell_that_covers_it():
    points = torch.tensor([[[10.0, 20.0, 2], [10.6, 21.1, 1], [38.0, 76.0, 2], [9.9, 30, 2], [20, 30, 0]]])
    cells, seen = keypoint_cells(points, BOXES[:1], 56)
    # A cell is half a pixel wide and one pixel high.
    assert cells[0, :3].tolist() == [0, 56 + 1, 56 * 56 - 1]
    assert seen.tolist() == [[True, True, True, False, False]]


def test_cells_are_torchvisions():
    torch.manual_seed(0)
    boxes = torch.cat([torch.rand(50, 2) * 50, 60 + torch.rand(50, 2) * 50], 1)
    points = torch.cat([torch.rand(50, 9, 2) * 130 - 10, torch.randint(0, 3, (50, 9, 1)).float()], 2)
    points[:, 0, :2], points[:, 1, :2] = boxes[:, 2:], boxes[:, :2]
    cells, seen = keypoint_cells(points, boxes, 56)
    expected, valid = keypoints_to_heatmap(points, boxes, 56)
    assert_close(seen, valid.bool())
    assert_close(cells[seen], expected[seen])
    assert 50 < int(seen.sum()) < 400


def test_keypoints_at_whole_pixels_are_torchvisions():
    torch.manual_seed(1)
    maps = torch.nn.functional.interpolate(torch.randn(2, 5, 8, 8), (56, 56), mode="bilinear")
    found = torch.from_numpy(highest_pixels(maps.numpy(), BOXES.numpy()))
    places, scores = heatmaps_to_keypoints(maps, BOXES)
    assert_close(found[..., :2], places[..., :2], rtol=1e-4, atol=1e-3)
    assert_close(found[..., 2], scores, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("box", [[10.0, 20.0, 66.0, 76.0], [5.0, 3.0, 33.0, 87.0], [0.0, 0.0, 200.0, 150.0]])
@pytest.mark.parametrize("enlarged", [False, True], ids=["smooth", "enlarged as by the head"])
def test_refinement_finds_the_top_of_a_hill_to_a_fraction_of_a_cell(box, enlarged):
    torch.manual_seed(2)
    tops = torch.rand(20, 2) * 0.7 + 0.15  # of the region
    side = 28 if enlarged else 56
    middle = (torch.arange(side) + 0.5) / side
    across = -((middle - tops[:, 0, None]) ** 2) * 90
    down = -((middle - tops[:, 1, None]) ** 2) * 90
    maps = 8 * (down[:, :, None] + across[:, None, :]).exp()[None]
    if enlarged:
        maps = torch.nn.functional.interpolate(maps, scale_factor=2.0, mode="bilinear")
    region = torch.tensor([box])
    extent = region[:, 2:] - region[:, :2]
    truth = region[:, :2] + tops * extent
    coarse = torch.from_numpy(highest_pixels(maps.numpy(), region.numpy()))
    apart, whole = (
        float(((found[0, :, :2] - truth) / extent * 56).abs().mean())
        for found in (find_keypoints(maps, region), coarse)
    )
    # In cells; the middle of the nearest cell would be a quarter off.
    assert apart < (0.25 if enlarged else 0.01)
    assert apart <= whole * 1.05


def test_no_boxes():
    assert find_keypoints(torch.zeros(0, 4, 56, 56), torch.zeros(0, 4)).shape == (0, 4, 3)
    cells, seen = keypoint_cells(torch.zeros(0, 4, 3), torch.zeros(0, 4), 56)
    assert cells.shape == seen.shape == (0, 4)
