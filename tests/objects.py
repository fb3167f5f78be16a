"""Objects written down as lists of numbers."""

import numpy as np

from rcnn.structures import Instances, Masks

SIZE = (100, 100)
A, B, FAR = [0, 0, 10, 10], [20, 20, 30, 30], [60, 60, 70, 70]


def instances(boxes, labels=None, scores=None, **present) -> Instances:
    boxes = np.array(boxes, np.float32).reshape(-1, 4)
    labels = np.array([0] * len(boxes) if labels is None else labels, np.int64)
    scores = None if scores is None else np.array(scores, np.float32)
    return Instances(SIZE, boxes, labels, scores, **{k: _field(v) for k, v in present.items()})


def _field(value):
    """Masks as they are; numbers in the types of :class:`Instances`."""
    if isinstance(value, Masks):
        return value
    array = np.array(value)
    return array.astype(np.float32) if array.dtype == np.float64 else array


def filled(boxes, size=SIZE) -> Masks:
    """Masks that fill their boxes."""
    patches = [np.ones((y2 - y1, x2 - x1)) for x1, y1, x2, y2 in boxes]
    return Masks.from_patches(patches, [(y1, x1) for x1, y1, _, _ in boxes], size)
