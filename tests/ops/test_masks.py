"""Mask targets: dense bitmaps sampled one point at a time."""

import math

import pytest
import torch
from torch.testing import assert_close

from rcnn.ops.masks import mask_targets
from rcnn.parts.batch import TargetMasks
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


def windowed(bitmaps: torch.Tensor) -> TargetMasks:
    return TargetMasks.from_masks(Masks.from_dense(bitmaps.numpy()))


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
    targets = mask_targets(windowed(bitmaps), index, rois, size)
    expected = torch.stack([sampled_slowly(bitmaps[i], r, size) for i, r in zip(index, rois, strict=True)])
    assert_close(targets, expected, rtol=1e-5, atol=1e-5)


def test_target_of_a_worked_case():
    bitmap = torch.zeros((1, 4, 4))
    bitmap[0, 1:3, 0:2] = 1
    masks, zero = windowed(bitmap), torch.zeros(1, dtype=torch.int64)
    whole = mask_targets(masks, zero, torch.tensor([[0.0, 0, 4, 4]]), 4)
    assert_close(whole, bitmap)
    halves = mask_targets(masks, zero, torch.tensor([[0.0, 0.5, 4, 4.5]]), 4)[0]
    assert_close(halves[:, 0], torch.tensor([0.5, 1.0, 0.5, 0.0]))


def test_targets_of_nothing():
    none = torch.zeros(0, dtype=torch.int64)
    some = windowed(blobs(2, (10, 10), 0))
    assert mask_targets(some, none, torch.zeros((0, 4)), 5).shape == (0, 5, 5)
    assert mask_targets(TargetMasks.empty((10, 10)), none, torch.zeros((0, 4)), 5).shape == (0, 5, 5)
    empty = windowed(torch.zeros((1, 10, 10)))
    roi = torch.tensor([[0.0, 0, 10, 10]])
    assert_close(mask_targets(empty, torch.zeros(1, dtype=torch.int64), roi, 5), torch.zeros((1, 5, 5)))


def test_targets_keep_to_their_own_mask():
    """Windows follow each other in memory: none may read its neighbour's pixels."""
    bitmaps = torch.zeros((3, 12, 12))
    bitmaps[0, 2:6, 2:6] = bitmaps[2, 2:6, 2:6] = 1
    bitmaps[1, 2, 2] = bitmaps[1, 5, 5] = 1
    rois = torch.tensor([[2.0, 2, 6, 6]])
    target = mask_targets(windowed(bitmaps), torch.ones(1, dtype=torch.int64), rois, 4)
    assert_close(target[0], torch.diag(torch.tensor([1.0, 0, 0, 1])))
