"""From outputs to objects: scaled back, pasted, read and classified at the image's own size."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from torch.nn import functional

from rcnn.inference.postprocess import (
    highest_pixels,
    instances_of,
    largest_class,
    paste_masks,
    pixel_classes,
    split_images,
)
from rcnn.ops import semantic
from rcnn.ops.masks import mask_targets
from rcnn.parts.batch import TargetMasks
from rcnn.structures import Array, Masks, Size, Skeleton
from rcnn.transform import Transform


def outputs(boxes: list[list[float]] | Array, **present: Array) -> dict[str, Array]:
    """Those for one image, all of class 0 with score 1."""
    array = np.array(boxes, np.float32).reshape(-1, 4)
    return {
        "boxes": array,
        "labels": np.zeros(len(array)),
        "scores": np.ones(len(array), np.float32),
        **present,
    }


@pytest.mark.parametrize("size", [(1, 1), (37, 51), (50, 1000), (200, 120)])
def test_boxes_come_back(size: Size) -> None:
    height, width = Transform(short_side=64, max_long_side=300).resized(size)
    found = outputs([[0, 0, width, height], [width / 4, height / 2, width / 2, height]])
    back = instances_of(found, (height, width), size)
    h, w = size
    assert back.size == size
    assert_allclose(back.boxes, [[0, 0, w, h], [w / 4, h / 2, w / 2, h]], rtol=1e-5)
    assert (back.boxes.dtype, back.labels.dtype) == (np.float32, np.int64)
    assert (back.masks, back.keypoints, back.semantic) == (None, None, None)


def test_boxes_are_clipped_to_the_image() -> None:
    back = instances_of(outputs([[-1, -2, 41, 22]]), (20, 40), (40, 80))
    assert back.boxes.tolist() == [[0, 0, 80, 40]]


def test_keypoints_come_back_and_keep_their_scores() -> None:
    points = np.array([[[10, 5, 0.7]]], np.float32)
    skeleton = Skeleton(("nose",))
    back = instances_of(outputs([[0, 0, 40, 20]], keypoints=points), (20, 40), (40, 120), skeleton=skeleton)
    assert_allclose(back.keypoints, [[[30, 10, 0.7]]], rtol=1e-6)
    assert back.skeleton == skeleton


def test_masks_are_pasted_at_the_images_own_resolution() -> None:
    maps = np.zeros((1, 4, 4), np.float32)
    maps[0, :, :2] = 1
    back = instances_of(outputs([[4, 4, 12, 12]], mask_maps=maps), (16, 16), (32, 64))
    assert back.masks is not None
    assert back.masks.shape == (1, 32, 64)
    assert back.masks.boxes().tolist() == [[16, 8, 32, 24]]  # the left half of 16 8 48 24
    assert back.masks.areas().tolist() == [256 - 12]  # its four corners are round


def test_nothing_comes_back_as_nothing() -> None:
    back = instances_of(outputs([], mask_maps=np.zeros((0, 28, 28), np.float32)), (16, 16), (30, 40))
    assert back.masks is not None
    assert len(back) == len(back.masks) == 0
    assert back.masks.size == (30, 40)


def test_outputs_are_split_by_image_without_their_padding() -> None:
    flat = outputs([[0, 0, 1, 1], [0, 0, 2, 2], [0, 0, 3, 3]], mask_maps=np.zeros((3, 2, 2)))
    logits = np.zeros((3, 5, 32, 64))
    parts = split_images(
        {**flat, "image_index": np.array([0, 2, 2]), "semantic_logits": logits}, [(20, 60), (32, 64), (1, 2)]
    )
    assert [part["boxes"][:, 2].tolist() for part in parts] == [[1], [], [2, 3]]
    assert [len(part["mask_maps"]) for part in parts] == [1, 0, 2]
    assert [part["semantic_logits"].shape for part in parts] == [(5, 20, 60), (5, 32, 64), (5, 1, 2)]
    assert all("image_index" not in part for part in parts)


# Masks


def pasted_by_grid_sample(maps: torch.Tensor, boxes: torch.Tensor, size: Size) -> torch.Tensor:
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


def test_paste_equals_grid_sample() -> None:
    generator = torch.Generator().manual_seed(0)
    maps = torch.rand((30, 14, 14), generator=generator)
    corner = torch.rand((30, 2), generator=generator) * torch.tensor([60.0, 40.0]) - 5
    boxes = torch.cat([corner, corner + 1 + torch.rand((30, 2), generator=generator) * 30], 1)
    boxes[0] = torch.tensor([0.0, 0, 64, 48])
    ours = paste_masks(maps.numpy(), boxes.numpy(), (48, 64))
    assert ours.size == (48, 64)
    expected = pasted_by_grid_sample(maps, boxes, (48, 64)).numpy()
    assert (ours.dense() != expected).sum() == 0  # of 92,160 pixels


def test_paste_at_the_maps_own_resolution_is_the_map() -> None:
    maps = (np.random.default_rng(1).random((1, 6, 6)) > 0.5).astype(np.float32)
    pasted = paste_masks(maps, np.array([[3, 2, 9, 8]], np.float32), (10, 12)).dense()[0]
    assert np.array_equal(pasted[2:8, 3:9], maps[0] > 0)
    assert pasted.sum() == maps.sum()


def test_pixels_whose_centre_is_outside_the_box_are_out() -> None:
    box = np.array([[10.9, 10.4, 20.1, 20.6]], np.float32)
    pasted = paste_masks(np.ones((1, 4, 4), np.float32), box, (30, 30)).dense()[0]
    assert np.flatnonzero(pasted.any(1)).tolist() == list(range(10, 21))
    assert np.flatnonzero(pasted.any(0)).tolist() == list(range(11, 20))


def test_paste_threshold() -> None:
    maps, box = np.full((1, 4, 4), 0.6, np.float32), np.array([[0, 0, 4, 4]], np.float32)
    assert paste_masks(maps, box, (4, 4)).areas().tolist() == [16]
    assert paste_masks(maps, box, (4, 4), threshold=0.7).areas().tolist() == [0]
    half = np.full((1, 4, 4), 0.5, np.float32)
    assert paste_masks(half, box, (4, 4)).areas().tolist() == [16], "at the threshold it is inside"


def test_paste_of_odd_boxes() -> None:
    boxes = np.array(
        [[5, 5, 5, 5], [-20, -20, -10, -10], [100, 100, 120, 130], [-5, -5, 40, 40], [2.3, 2.3, 2.6, 2.6]],
        np.float32,
    )
    masks = paste_masks(np.ones((5, 7, 7), np.float32), boxes, (20, 30))
    assert masks.areas().tolist() == [0, 0, 0, 600, 1]
    assert len(masks.rle()) == 5, "their windows keep to the image"
    assert not masks[:3].boxes().any()


def test_paste_of_nothing() -> None:
    masks = paste_masks(np.zeros((0, 28, 28), np.float32), np.zeros((0, 4), np.float32), (20, 30))
    assert masks.shape == (0, 20, 30)
    assert masks.rle() == []


def test_pasting_a_target_gives_the_mask_back() -> None:
    rng = np.random.default_rng(3)
    y, x = np.mgrid[:120, :150] + 0.5
    radii = np.hypot(y - rng.uniform(0, 120, (12, 1, 1)), x - rng.uniform(0, 150, (12, 1, 1)))
    outer = rng.uniform(2, 42, (12, 1, 1))
    bitmaps = (radii < outer) & (radii > outer / 3)  # discs with holes
    masks = Masks.from_dense(bitmaps)
    regions = torch.from_numpy(masks.boxes())
    targets = mask_targets(TargetMasks.from_masks(masks), torch.arange(12), regions, 56)
    back = paste_masks(targets.numpy(), masks.boxes(), (120, 150)).dense()
    shared, union = (back & bitmaps).sum((1, 2)), (back | bitmaps).sum((1, 2))
    assert (shared / union).min() > 0.95


# Keypoints


def highest_by_torch(maps: torch.Tensor, box: torch.Tensor) -> torch.Tensor:
    """``[K, 3]`` of the maps ``[K, S, S]`` of one box, resized by torch."""
    extent = (box[2:] - box[:2]).clamp(min=1)
    height, width = (int(side) for side in extent.ceil().flip(0))
    resized = functional.interpolate(maps[:, None], (height, width), mode="bicubic", align_corners=False)
    score, place = resized.flatten(1).max(1)
    pixels = torch.stack([place % width, place // width], 1) + 0.5
    return torch.cat([pixels * extent / extent.ceil() + box[:2], score[:, None]], 1)


def test_keypoints_of_maps_are_those_that_torch_reads() -> None:
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn((8, 3, 14, 14), generator=generator)
    corner = torch.rand((8, 2), generator=generator) * 20
    boxes = torch.cat([corner, corner + torch.rand((8, 2), generator=generator) * 70], 1)
    expected = torch.stack([highest_by_torch(*pair) for pair in zip(maps, boxes, strict=True)])
    assert_allclose(highest_pixels(maps.numpy(), boxes.numpy()), expected.numpy(), rtol=1e-5, atol=1e-4)
    assert highest_pixels(np.zeros((0, 3, 14, 14)), np.zeros((0, 4))).shape == (0, 3, 3)


def test_maps_of_keypoints_are_read_where_the_image_was_seen() -> None:
    maps = np.zeros((1, 1, 4, 4), np.float32)
    maps[0, 0, 1, 2] = 5
    found = outputs([[8, 0, 24, 16]], keypoint_maps=maps)
    back = instances_of(found, (32, 32), (64, 32))
    assert back.keypoints is not None
    seen = highest_pixels(maps, found["boxes"])
    assert_allclose(back.keypoints, seen * [1, 2, 1])


# Classes of pixels


def test_classes_of_pixels_are_decided_at_the_images_own_resolution() -> None:
    """Two classes whose logits cross in the middle: the border is exact at any enlargement."""
    ramp = np.broadcast_to(np.arange(4, dtype=np.float32) - 1.5, (3, 4))
    found = outputs([], semantic_logits=np.stack([-ramp, ramp]))
    back = instances_of(found, (3, 4), (6, 8), semantic_names=("a", "b")).semantic
    assert back is not None
    assert (back.dtype, back.shape) == (np.int64, (6, 8))
    assert back.tolist() == [[0, 0, 0, 0, 1, 1, 1, 1]] * 6
    same = instances_of(found, (3, 4), (3, 4)).semantic
    assert same is not None
    assert same.tolist() == [[0, 0, 1, 1]] * 3


@pytest.mark.parametrize("size", [(20, 31), (7, 9), (5, 4), (7, 30)])
def test_the_largest_class_is_that_of_all_classes_at_once_and_of_torch(size: Size) -> None:
    logits = torch.randn((5, 7, 9), generator=torch.Generator().manual_seed(0))
    whole = functional.interpolate(logits[None], size, mode="bilinear")[0].argmax(0)
    assert np.array_equal(largest_class(logits.numpy(), size), whole.numpy())
    assert torch.equal(semantic.largest_class(logits, size), whole)


def test_classes_decided_already_come_back_by_the_nearest_pixel() -> None:
    found = outputs([], semantic=np.array([[0, 255], [1, 2]]))
    back = pixel_classes(found, (4, 4))
    assert back is not None
    assert back.tolist() == [[0, 0, 255, 255]] * 2 + [[1, 1, 2, 2]] * 2
    assert pixel_classes(outputs([]), (4, 4)) is None
