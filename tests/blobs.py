"""A sample that shows where its objects are."""

import numpy as np
import torch

from rcnn.data.dataset import Sample
from rcnn.structures import Instances, Masks


def blobs(size=(60, 80), count=6, seed=0):
    """A sample whose image shows, in each of three channels, where its masks are."""
    rng = np.random.default_rng(seed)
    bitmaps = torch.zeros((count, *size), dtype=torch.bool)
    for bitmap in bitmaps:
        y, x = rng.integers(0, size[0] - 8), rng.integers(0, size[1] - 8)
        bitmap[y : y + rng.integers(3, 25), x : x + rng.integers(3, 25)] = True
        bitmap[y, x] = False
    masks = Masks.from_dense(bitmaps)
    image = (bitmaps.any(0) * 255).to(torch.uint8).expand(3, *size).contiguous()
    truth = Instances(size, masks.boxes(), torch.arange(count), masks=masks)
    return Sample(image, truth, 7)
