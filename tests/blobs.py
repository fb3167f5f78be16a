"""A sample that shows where its objects are."""

import numpy as np
import torch

from rcnn.data.dataset import Sample
from rcnn.data.geometry import TrainingSample
from rcnn.parts.batch import TargetMasks
from rcnn.structures import Instances, Masks


def blobs(size=(60, 80), count=6, seed=0):
    """A sample whose image shows, in each of three channels, where its masks are."""
    rng = np.random.default_rng(seed)
    bitmaps = np.zeros((count, *size), np.bool_)
    for bitmap in bitmaps:
        y, x = rng.integers(0, size[0] - 8), rng.integers(0, size[1] - 8)
        bitmap[y : y + rng.integers(3, 25), x : x + rng.integers(3, 25)] = True
        bitmap[y, x] = False
    masks = Masks.from_dense(bitmaps)
    image = np.repeat(bitmaps.any(0)[..., None] * np.uint8(255), 3, axis=2)
    truth = Instances(size, masks.boxes(), np.arange(count), masks=masks)
    return TrainingSample.from_sample(Sample(image, truth, 7))


def as_masks(bitmaps):
    """Masks from bool ``[N, H, W]``, all as tensors."""
    return TargetMasks.from_masks(Masks.from_dense(bitmaps.numpy()))


def dense(masks):
    return torch.from_numpy(masks.masks().dense())


def tight_boxes(masks):
    return torch.from_numpy(masks.masks().boxes())
