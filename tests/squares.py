"""Images whose objects, intensities and regions are known."""

import numpy as np

from rcnn.structures import Instances, Masks

SIZE = (60, 80)
BOXES = ((5, 10, 15, 20), (30, 10, 50, 30), (65, 50, 80, 60))  # x1 y1 x2 y2
VALUES = ((1000, 100), (3000, 300), (60000, 7))  # of two channels, in each object
BACKGROUND = (200, 50)


def squares(labels: tuple[int, ...] = (0, 1, 0), masks: bool = True) -> Instances:
    """Three rectangles of two classes; the last one is in the corner of the image."""
    bitmaps = np.zeros((len(BOXES), *SIZE), bool)
    for bitmap, (x1, y1, x2, y2) in zip(bitmaps, BOXES, strict=True):
        bitmap[y1:y2, x1:x2] = True
    return Instances(
        SIZE, np.array(BOXES, np.float32), np.array(labels, np.int64), np.array([0.9, 0.8, 0.7], np.float32),
        Masks.from_dense(bitmaps) if masks else None, class_names=("a", "b"),
    )  # fmt: skip


def image() -> np.ndarray:
    """uint16 ``[H, W, 2]``: a constant background, and a constant value in each object."""
    pixels = np.empty((*SIZE, 2), np.uint16)
    pixels[:] = BACKGROUND
    for (x1, y1, x2, y2), values in zip(BOXES, VALUES, strict=True):
        pixels[y1:y2, x1:x2] = values
    return pixels
