"""Overlaps of boxes and masks: equal to pycocotools, crowds included, and zero where nothing is."""

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from objects import SIZE, A, instances
from rcnn.metrics.overlaps import ious
from rcnn.structures import Instances, Masks


def drawn(count: int, seed: int) -> Instances:
    """Objects at random places, with masks of random pixels in their boxes and every third one a crowd."""
    rng = np.random.default_rng(seed)
    corners, sides = rng.integers(0, 60, (count, 2)), rng.integers(1, 40, (count, 2))
    bitmaps = np.zeros((count, *SIZE), np.uint8)
    for bitmap, (x, y), (width, height) in zip(bitmaps, corners, sides, strict=True):
        bitmap[y : y + height, x : x + width] = rng.random((height, width))[: 100 - y, : 100 - x] < 0.8
    boxes = np.concatenate([corners, corners + sides], 1)
    return instances(boxes, masks=Masks.from_dense(bitmaps), crowd=np.arange(count) % 3 == 0)


@pytest.mark.parametrize("kind", ["box", "mask"])
@pytest.mark.parametrize("seed", range(3))
def test_equals_pycocotools(kind, seed) -> None:
    truth, predicted = drawn(7, seed), drawn(5, 100 + seed)
    if kind == "mask":
        theirs = [each.masks.rle() for each in (predicted, truth)]
    else:
        theirs = [
            np.concatenate([each.boxes[:, :2], each.boxes[:, 2:] - each.boxes[:, :2]], 1).astype(np.float64)
            for each in (predicted, truth)
        ]
    expected = coco_mask.iou(*theirs, truth.crowd.astype(np.uint8))
    found = ious(truth, predicted, kind)
    assert found.shape == (5, 7)
    assert (found > 0).sum() > 5
    np.testing.assert_array_equal(found, expected)


def test_a_crowd_takes_the_fraction_of_the_detection() -> None:
    """The left half of a detection on a crowd of twice its size: 1/2, where the IoU is 1/5."""
    crowd, found = instances([[0, 0, 20, 10]], crowd=[True]), instances([[15, 0, 25, 10]])
    assert ious(crowd, found, "box") == pytest.approx(0.5)
    assert ious(found, crowd, "box") == pytest.approx(0.2)


@pytest.mark.parametrize("kind", ["box", "mask"])
def test_of_nothing(kind) -> None:
    nothing = Instances.empty(SIZE)
    assert ious(instances([A]), nothing, kind).shape == (0, 1)
    assert ious(nothing, instances([A]), kind).shape == (1, 0)
