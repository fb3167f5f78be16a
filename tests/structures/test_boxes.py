"""Overlaps of boxes, in NumPy: a worked case, pycocotools, and nothing."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from pycocotools import mask as coco_mask

from rcnn.structures import box_ious, paired_box_ious


def test_a_worked_case() -> None:
    boxes, others = np.array([[0.0, 0, 2, 1]]), np.array([[1.0, 0, 3, 1], [2, 0, 4, 1], [0, 0, 2, 1]])
    assert_allclose(box_ious(boxes, others), [[1 / 3, 0, 1]])


def test_all_pairs_equal_pycocotools_and_the_pairs_their_diagonal() -> None:
    rng = np.random.default_rng(0)
    one, other = (rng.uniform(0, 20, (9, 4)) for _ in range(2))
    for boxes in (one, other):
        boxes[:, 2:] += boxes[:, :2]
    coded = [np.concatenate([b[:, :2], b[:, 2:] - b[:, :2]], 1) for b in (one, other)]
    found = box_ious(one, other)
    assert_allclose(found, coco_mask.iou(*coded, np.zeros(9, np.uint8)), rtol=1e-12)
    assert_array_equal(paired_box_ious(one, other), found.diagonal())


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_empty_boxes_overlap_nothing_and_no_boxes_give_no_rows(dtype: type) -> None:
    point = np.array([[3, 3, 3, 3]], dtype)
    assert_array_equal(box_ious(point, point), np.zeros((1, 1)))
    assert box_ious(point, point).dtype == dtype
    assert box_ious(point[:0], point).shape == (0, 1)
    assert paired_box_ious(point[:0], point[:0]).shape == (0,)
