"""Masks of a batch pasted on the network's device, so that the host only packs them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from rcnn.device import HostCopy, moved
from rcnn.inference.postprocess import Found, mask_windows, own_boxes
from rcnn.inference.predictor import Prepared
from rcnn.ops.paste import paste_pixels
from rcnn.structures import Array, Masks


def paste_on_device(
    found: Sequence[Found], maps: Tensor, image_index: Array, images: Sequence[Prepared]
) -> None:
    """Give each image's outputs ``masks``: those of its objects, in its own size.

    The host waits once for all of them.

    Args:
        found: the outputs for each image.
        maps: ``[N, M, M]`` of all objects, on the device.
        image_index: ``[N]``: the image of each.
        images: as the network saw them.
    """
    boxes = [
        own_boxes(one["boxes"], image.seen_size, image.size) for one, image in zip(found, images, strict=True)
    ]
    windows = [mask_windows(own, image.size) for own, image in zip(boxes, images, strict=True)]
    counts = [int((own[:, 2:] - own[:, :2]).prod(1).sum()) for own in windows]
    order = np.argsort(image_index, kind="stable")
    inputs = (order, np.concatenate(boxes), np.concatenate(windows))
    chosen, all_boxes, places = (moved(torch.from_numpy(values), maps.device) for values in inputs)
    pixels = paste_pixels(maps[chosen].float(), all_boxes, places, total=sum(counts))
    flat = HostCopy([pixels]).wait()[0].numpy()
    ends = np.cumsum(counts)[:-1]
    for one, image, own, part in zip(found, images, windows, np.split(flat, ends), strict=True):
        one["masks"] = Masks(part, own, image.size)
