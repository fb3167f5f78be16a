"""Batches and targets as tensors."""

from dataclasses import FrozenInstanceError

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal

from rcnn.ops.matching import fold_seeds
from rcnn.parts.batch import ImageBatch, Output, TargetMasks, Targets, as_targets
from rcnn.structures import Instances, Masks


def truth() -> Instances:
    bitmaps = np.zeros((3, 9, 11), bool)
    bitmaps[0, 1:4, 2:5] = bitmaps[2, 8, 10] = True
    return Instances(
        (9, 11),
        np.array([[2, 1, 5, 4], [0, 0, 1, 1], [10, 8, 11, 9]], np.float32),
        np.array([1, 0, 1]),
        masks=Masks.from_dense(bitmaps),
        crowd=np.array([False, True, False]),
        semantic=np.ones((9, 11), np.uint8),
        class_names=("a", "b"),
    )


def test_targets_are_the_truth_as_tensors_and_back():
    targets = Targets.from_instances(truth())
    assert targets.semantic.dtype == torch.int64
    back = targets.instances(("a", "b"))
    for name in ("boxes", "labels", "crowd", "semantic"):
        assert_array_equal(getattr(back, name), getattr(truth(), name))
    assert_array_equal(back.masks.dense(), truth().masks.dense())
    assert back.class_names == truth().class_names


@pytest.mark.parametrize(
    "index", [slice(1, 3), [2, 0], [True, False, True], 1, [], torch.tensor([2, 2])], ids=str
)
def test_indexing_is_that_of_instances(index):
    part, expected = Targets.from_instances(truth())[index], truth()[index]
    assert_array_equal(part.boxes.numpy(), expected.boxes)
    assert_array_equal(part.crowd.numpy(), expected.crowd)
    assert_array_equal(part.masks.masks().dense(), expected.masks.dense())


def test_truth_of_either_form_on_a_device():
    either = as_targets([truth(), Targets.from_instances(truth())], "meta")
    assert {t.boxes.device.type for t in either} == {"meta"}
    assert {t.masks.pixels.device.type for t in either} == {"meta"}


def test_read_only_arrays_are_copied():
    pixels = np.ones(4, np.uint8)
    pixels.flags.writeable = False
    masks = TargetMasks.from_masks(Masks(pixels, np.array([[0, 0, 2, 2]]), (3, 3)))
    masks.pixels[0] = 0
    assert pixels[0] == 1


def test_masks_one_after_the_other():
    masks = Targets.from_instances(truth()).masks
    both = TargetMasks.concatenate([masks, masks[[1]]], masks.size)
    assert len(both) == 4
    assert both.offsets.tolist() == [0, 9, 9, 10]
    assert len(TargetMasks.concatenate([], (3, 4))) == len(TargetMasks.empty((3, 4))) == 0


def test_sampling_seeds_of_a_batch():
    images = torch.zeros((2, 3, 4, 4))
    seeded = ImageBatch(images, ((4, 4), (3, 3)), seeds=(5, 6))
    assert seeded.sampling_seeds().tolist() == fold_seeds([5, 6]).tolist()
    assert len(seeded) == 2
    drawn = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        drawn.append(ImageBatch(images, ((4, 4), (3, 3))).sampling_seeds().tolist())
    assert drawn[0] == drawn[1] != drawn[2]
    assert drawn[0][0] != drawn[0][1]


def test_containers_are_frozen():
    for container, name in (
        (ImageBatch(torch.zeros((1, 3, 2, 2)), ((2, 2),)), "sizes"),
        (Output(), "losses"),
    ):
        with pytest.raises(FrozenInstanceError):
            setattr(container, name, None)
