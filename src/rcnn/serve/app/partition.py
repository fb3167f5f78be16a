"""Objects above pixel classes: how the page shows, and keeps, what a panoptic model finds in an image.

**Law:** an object takes its pixels before those with lower scores, so what :func:`partitioned` gives, cut at
any score, is the partition of what was found from this score on. The page's slider only has to hide objects.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from rcnn.data.classes import renumber
from rcnn.serve.app.objects import filled_box
from rcnn.structures import VOID, Instances, Masks, MergeSettings, Panoptic, merge, true_segments


def partitioned(found: Instances, settings: MergeSettings) -> Instances:
    """The objects of a partition, whatever their scores, with the pixels that better ones leave them."""
    partition = merge(found, settings=replace(settings, min_score=0.0))
    assert partition.objects is not None
    masks = partition.instances().masks
    assert masks is not None
    return replace(found[partition.objects], masks=masks, boxes=masks.boxes())


def without_small_stuff(found: Instances, min_area: int) -> Instances:
    """The same with void for each pixel class that the objects leave fewer than ``min_area`` pixels."""
    assert found.semantic is not None
    counts = np.bincount(found.semantic[~covered(found)].reshape(-1), minlength=VOID + 1)
    table = [value if counts[value] >= max(min_area, 1) else VOID for value in range(VOID)]
    return replace(found, semantic=renumber(found.semantic, table))


def covered(found: Instances) -> npt.NDArray[np.bool_]:
    """The pixels of any object, bool ``[H, W]``."""
    pixels = np.zeros(found.size, np.bool_)
    masks = Masks.empty(found.size) if found.masks is None else found.masks
    for patch, (x1, y1, x2, y2) in zip(masks.patches(), masks.windows.tolist(), strict=True):
        pixels[y1:y2, x1:x2] |= patch == 1
    return pixels


def pixel_classes_of(found: Instances, names: Sequence[str]) -> npt.NDArray[np.uint8]:
    """The map as indices into ``names``, uint8 ``[H, W]``; void where it has another class or is missing."""
    if found.semantic is None:
        return np.full(found.size, VOID, np.uint8)
    table = [names.index(name) if name in names else VOID for name in found.semantic_names]
    return renumber(found.semantic, table).astype(np.uint8)


def with_classes(found: Instances, class_names: Sequence[str], pixel_classes: Sequence[str]) -> Instances:
    """The same objects and pixels under other lists of names, which have all classes of the objects."""
    table = np.array([list(class_names).index(name) for name in found.class_names], np.int64)
    semantic = pixel_classes_of(found, pixel_classes) if pixel_classes else None
    return replace(
        found, labels=table[found.labels] if len(found) else found.labels, class_names=tuple(class_names),
        semantic=semantic, semantic_names=tuple(pixel_classes),
    )  # fmt: skip


def partition_of(found: Instances) -> Panoptic:
    """Objects above pixel classes, small ones above large ones; one of which nothing is seen is left out.

    Objects without outlines are regions in which objects are, which COCO calls crowds.
    """
    if found.masks is None:
        filled = [filled_box(box, found.size) for box in found.boxes.tolist()]
        masks = Masks.from_patches([patch for patch, _ in filled], [place for _, place in filled], found.size)
        found = replace(found, masks=masks, has_mask=np.zeros(len(found), np.bool_))
    assert found.masks is not None
    found = found[np.argsort(-found.masks.areas(), kind="stable")]
    partition = true_segments(found)
    seen = partition.areas()[: len(found)] > 0
    return partition if seen.all() else true_segments(found[seen])
