"""Objects written down as lists of numbers."""

import torch

from rcnn.structures import Instances, Masks

SIZE = (100, 100)
A, B, FAR = [0, 0, 10, 10], [20, 20, 30, 30], [60, 60, 70, 70]


def instances(boxes, labels=None, scores=None, **present) -> Instances:
    boxes = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    labels = torch.zeros(len(boxes), dtype=torch.int64) if labels is None else torch.tensor(labels)
    scores = None if scores is None else torch.tensor(scores, dtype=torch.float32)
    marks = {k: v if isinstance(v, Masks) else torch.tensor(v) for k, v in present.items()}
    return Instances(SIZE, boxes, labels, scores, **marks)


def filled(boxes, size=SIZE) -> Masks:
    """Masks that fill their boxes."""
    patches = [torch.ones(y2 - y1, x2 - x1) for x1, y1, x2, y2 in boxes]
    return Masks.from_patches(patches, [(y1, x1) for x1, y1, _, _ in boxes], size)
