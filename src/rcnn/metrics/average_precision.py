"""Average precision from a precision-recall curve.

Legend: D detections, best score first.
"""

from __future__ import annotations

import numpy as np

from rcnn.metrics.overlaps import Floats


def best_from(precision: Floats) -> Floats:
    """The best precision ``[D]`` at the recall of each detection or beyond: the monotone curve."""
    envelope: Floats = np.maximum.accumulate(precision[::-1])[::-1]
    return envelope


def interpolated_ap(recall: Floats, precision: Floats, points: int) -> float:
    """The mean of the best precision at evenly spaced recalls or beyond; 0 at recalls that are not reached.

    Convention: one of two objects found, and nothing else: at 101 recalls 51 / 101, at 11 recalls 6 / 11.

    Args:
        recall: ``[D]`` after each detection, not falling.
        precision: ``[D]``, likewise.
        points: the number of recalls: COCO's 101, VOC 2007's 11.
    """
    reached = np.searchsorted(recall, np.arange(points) / (points - 1))
    return float(np.r_[best_from(precision), 0.0][reached].mean())
