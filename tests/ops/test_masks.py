"""Mask targets and pasting: dense bitmaps sampled one point at a time, torch's grid_sample, round trips."""

import math

import pytest
import torch
from torch.nn import functional
from torch.testing import assert_close

from rcnn.ops.masks import mask_targets, paste_masks
from rcnn.structures import Masks


def blobs(count: int, size: tuple[int, int], seed: int) -> torch.Tensor:
    """Discs with holes, bool ``[N, H, W]``."""
    draw = torch.Generator().manual_seed(seed)
    y, x = torch.meshgrid(torch.arange(size[0]) + 0.5, torch.arange(size[1]) + 0.5, indexing="ij")
    bitmaps = []
    for _ in range(count):
        cy, cx, r = (torch.rand(3, generator=draw) * torch.tensor([*size, min(size) / 3])).tolist()
        radius = ((y - cy) ** 2 + (x - cx) ** 2).sqrt()
        bitmaps.append((radius < r + 2) & (radius > r / 3))
    return torch.stack(bitmaps)


def sampled_slowly(bitmap, roi, size):
    """Bilinear values of a bitmap at the middles of size x size cells of a region; 0 beyond the image."""
    x1, y1, x2, y2 = roi.tolist()

    def pixel(row, column):
        inside = 0 <= row < bitmap.shape[0] and 0 <= column < bitmap.shape[1]
        return float(bitmap[row, column]) if inside else 0.0

    output = torch.zeros((size, size))
    for i in range(size):
        for j in range(size):
            y = y1 + (i + 0.5) * (y2 - y1) / size - 0.5
            x = x1 + (j + 0.5) * (x2 - x1) / size - 0.5
            top, left = math.floor(y), math.floor(x)
            fy, fx = y - top, x - left
            upper = pixel(top, left) * (1 - fx) + pixel(top, left + 1) * fx
            lower = pixel(top + 1, left) * (1 - fx) + pixel(top + 1, left + 1) * fx
            output[i, j] = upper * (1 - fy) + lower * fy
    return output


@pytest.mark.parametrize("size", [1, 7, 14])
def test_targets_equal_sampling_the_bitmap(size):
    bitmaps = blobs(4, (30, 40), 0)
    draw = torch.Generator().manual_seed(1)
    corner = torch.rand((16, 2), generator=draw) * 45 - 8
    rois = torch.cat([corner, corner + torch.rand((16, 2), generator=draw) * 30], 1)
    rois[0] = torch.tensor([10.0, 10, 10, 10])  # empty
    rois[1] = torch.tensor([0.0, 0, 40, 30])
    rois[2] = torch.tensor([500.0, 500, 600, 600])
    index = torch.randint(0, 4, (16,), generator=draw)
    targets = mask_targets(Masks.from_dense(bitmaps), index, rois, size)
    expected = torch.stack([sampled_slowly(bitmaps[i], r, size) for i, r in zip(index, rois, strict=True)])
    assert_close(targets, expected, rtol=1e-5, atol=1e-5)


def test_target_of_a_worked_case():
    bitmap = torch.zeros((1, 4, 4))
    bitmap[0, 1:3, 0:2] = 1
    masks, zero = Masks.from_dense(bitmap), torch.zeros(1, dtype=torch.int64)
    whole = mask_targets(masks, zero, torch.tensor([[0.0, 0, 4, 4]]), 4)
    assert_close(whole, bitmap)
    halves = mask_targets(masks, zero, torch.tensor([[0.0, 0.5, 4, 4.5]]), 4)[0]
    assert_close(halves[:, 0], torch.tensor([0.5, 1.0, 0.5, 0.0]))


def test_targets_of_nothing():
    none = torch.zeros(0, dtype=torch.int64)
    some = Masks.from_dense(blobs(2, (10, 10), 0))
    assert mask_targets(some, none, torch.zeros((0, 4)), 5).shape == (0, 5, 5)
    assert mask_targets(Masks.empty((10, 10)), none, torch.zeros((0, 4)), 5).shape == (0, 5, 5)
    empty = Masks.from_dense(torch.zeros((1, 10, 10)))
    roi = torch.tensor([[0.0, 0, 10, 10]])
    assert_close(mask_targets(empty, torch.zeros(1, dtype=torch.int64), roi, 5), torch.zeros((1, 5, 5)))


def test_targets_keep_to_their_own_mask():
    """Windows lie one after the other in memory: none may read its neighbour's pixels."""
    bitmaps = torch.zeros((3, 12, 12))
    bitmaps[0, 2:6, 2:6] = bitmaps[2, 2:6, 2:6] = 1
    bitmaps[1, 2, 2] = bitmaps[1, 5, 5] = 1
    rois = torch.tensor([[2.0, 2, 6, 6]])
    target = mask_targets(Masks.from_dense(bitmaps), torch.ones(1, dtype=torch.int64), rois, 4)
    assert_close(target[0], torch.diag(torch.tensor([1.0, 0, 0, 1])))


def pasted_by_grid_sample(maps, boxes, size):
    """Detectron2's way: every pixel centre of the image, looked up in the map with zeros around it."""
    height, width = size
    y, x = torch.arange(height) + 0.5, torch.arange(width) + 0.5
    pasted = []
    for values, (x1, y1, x2, y2) in zip(maps, boxes.tolist(), strict=True):
        u, v = (x - x1) / (x2 - x1) * 2 - 1, (y - y1) / (y2 - y1) * 2 - 1
        grid = torch.stack(torch.meshgrid(v, u, indexing="ij")[::-1], -1)[None]
        looked_up = functional.grid_sample(
            values[None, None], grid, mode="bilinear", padding_mode="zeros", align_corners=False
        )[0, 0]
        pasted.append(looked_up >= 0.5)
    return torch.stack(pasted)


def test_paste_equals_grid_sample():
    draw = torch.Generator().manual_seed(0)
    maps = torch.rand((30, 14, 14), generator=draw)
    corner = torch.rand((30, 2), generator=draw) * torch.tensor([60.0, 40.0]) - 5
    boxes = torch.cat([corner, corner + 1 + torch.rand((30, 2), generator=draw) * 30], 1)
    boxes[0] = torch.tensor([0.0, 0, 64, 48])
    ours = paste_masks(maps, boxes, (48, 64))
    assert ours.size == (48, 64)
    different = ours.dense() != pasted_by_grid_sample(maps, boxes, (48, 64))
    assert different.sum() == 0  # of 92,160 pixels


def test_paste_at_the_maps_own_resolution_is_the_map():
    maps = (torch.rand((1, 6, 6), generator=torch.Generator().manual_seed(1)) > 0.5).float()
    pasted = paste_masks(maps, torch.tensor([[3.0, 2, 9, 8]]), (10, 12)).dense()[0]
    assert_close(pasted[2:8, 3:9], maps[0].bool())
    assert pasted.sum() == maps.sum()


def test_pixels_whose_centre_is_outside_the_box_are_out():
    pasted = paste_masks(torch.ones((1, 4, 4)), torch.tensor([[10.9, 10.4, 20.1, 20.6]]), (30, 30)).dense()[0]
    assert pasted.any(1).nonzero().flatten().tolist() == list(range(10, 21))
    assert pasted.any(0).nonzero().flatten().tolist() == list(range(11, 20))


def test_paste_threshold():
    maps, box = torch.full((1, 4, 4), 0.6), torch.tensor([[0.0, 0, 4, 4]])
    assert paste_masks(maps, box, (4, 4)).areas().tolist() == [16]
    assert paste_masks(maps, box, (4, 4), threshold=0.7).areas().tolist() == [0]
    assert paste_masks(torch.full((1, 4, 4), 0.5), box, (4, 4)).areas().tolist() == [16]  # at it is inside


def test_paste_of_odd_boxes():
    boxes = torch.tensor(
        [[5.0, 5, 5, 5], [-20, -20, -10, -10], [100, 100, 120, 130], [-5, -5, 40, 40], [2.3, 2.3, 2.6, 2.6]]
    )
    masks = paste_masks(torch.ones((5, 7, 7)), boxes, (20, 30))
    assert masks.areas().tolist() == [0, 0, 0, 600, 1]
    assert len(masks.rle()) == 5  # their windows keep to the image
    assert masks[:3].boxes().abs().sum() == 0


def test_paste_of_nothing():
    masks = paste_masks(torch.zeros((0, 28, 28)), torch.zeros((0, 4)), (20, 30))
    assert masks.shape == (0, 20, 30)
    assert masks.rle() == []


def test_pasting_a_target_gives_the_mask_back():
    bitmaps = blobs(12, (120, 150), 3)
    masks = Masks.from_dense(bitmaps)
    targets = mask_targets(masks, torch.arange(12), masks.boxes(), 56)
    back = paste_masks(targets, masks.boxes(), (120, 150)).dense()
    shared, union = (back & bitmaps).sum((1, 2)), (back | bitmaps).sum((1, 2))
    assert (shared / union).min() > 0.95
