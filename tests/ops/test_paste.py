"""Masks pasted by tensors: those that NumPy pastes, in chunks of any size."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal

from rcnn.inference.device_paste import paste_on_device
from rcnn.inference.postprocess import instances_of, mask_windows, paste_masks
from rcnn.inference.predictor import Prepared
from rcnn.ops import paste
from rcnn.ops.paste import paste_pixels

SIZE = (48, 64)


def random_boxes(count: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    corner = rng.random((count, 2)) * [70, 50] - 8
    return np.concatenate([corner, corner + rng.random((count, 2)) * 40], 1).astype(np.float32)


def pasted(maps: np.ndarray, boxes: np.ndarray, threshold: float = 0.5) -> np.ndarray:
    windows = mask_windows(boxes, SIZE)
    total = int((windows[:, 2:] - windows[:, :2]).prod(1).sum())
    tensors = (torch.from_numpy(values) for values in (maps, boxes, windows))
    return paste_pixels(*tensors, total=total, threshold=threshold).numpy()


@pytest.mark.parametrize("threshold", [0.5, 0.3])
@pytest.mark.parametrize("most", [1000, 2**20])
def test_tensors_give_numpys_pixels(monkeypatch: pytest.MonkeyPatch, most: int, threshold: float) -> None:
    monkeypatch.setattr(paste, "PIXELS_AT_ONCE", most)
    maps = np.random.default_rng(1).random((60, 28, 28)).astype(np.float32)
    boxes = random_boxes(60)
    expected = paste_masks(maps, boxes, SIZE, threshold).pixels
    assert 0.2 < expected.mean() < 0.8
    # Sums are rounded otherwise by matrix products; values of just the threshold may fall to either side.
    assert (pasted(maps, boxes, threshold) != expected).mean() < 1e-4


def test_what_can_be_computed_exactly_is_equal() -> None:
    maps = (np.random.default_rng(2).random((6, 8, 8)) > 0.4).astype(np.float32)
    boxes = np.array(
        [[0, 0, 8, 8], [3, 2, 11, 10], [-4, -4, 12, 12], [56, 40, 72, 56], [5, 5, 5, 5], [90, 3, 99, 9]],
        np.float32,
    )
    assert_array_equal(pasted(maps, boxes), paste_masks(maps, boxes, SIZE).pixels)


def test_a_chunk_changes_no_pixel(monkeypatch: pytest.MonkeyPatch) -> None:
    maps, boxes = np.random.default_rng(3).random((40, 14, 14)).astype(np.float32), random_boxes(40, 3)
    whole = pasted(maps, boxes)
    for most in (1, 77, 4096):
        monkeypatch.setattr(paste, "PIXELS_AT_ONCE", most)
        count = 3 if most == 1 else 40
        assert_array_equal(
            pasted(maps[:count], boxes[:count]), whole[: len(pasted(maps[:count], boxes[:count]))]
        )


def test_no_masks() -> None:
    assert not len(pasted(np.zeros((0, 28, 28), np.float32), np.zeros((0, 4), np.float32)))


def test_a_batch_whose_objects_come_in_any_order() -> None:
    sizes = [((40, 60), (20, 30)), ((40, 60), (80, 120)), ((40, 60), (40, 60))]
    owner = np.array([2, 0, 2, 0, 0, 2, 0], np.int64)  # nothing on the second image
    maps = np.random.default_rng(5).random((7, 14, 14)).astype(np.float32)
    boxes = random_boxes(7, 5).clip(0, 40).astype(np.float32)
    images = [Prepared(None, size, seen) for seen, size in sizes]
    found = [
        {"boxes": boxes[owner == i], "labels": np.zeros(n, np.int64), "scores": np.ones(n, np.float32)}
        for i, n in enumerate(np.bincount(owner, minlength=3).tolist())
    ]
    expected = [
        instances_of(one | {"mask_maps": maps[owner == i]}, seen, size)
        for i, (one, (seen, size)) in enumerate(zip(found, sizes, strict=True))
    ]
    paste_on_device(found, torch.from_numpy(maps), owner, images)
    for one, other, (seen, size) in zip(found, expected, sizes, strict=True):
        masks = instances_of(one, seen, size).masks
        assert_array_equal(masks.windows, other.masks.windows)
        assert masks.size == size
        assert (masks.dense() != other.masks.dense()).sum() <= 1
