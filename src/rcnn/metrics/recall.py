"""How many objects a given number of proposals covers, before anything is classified.

An object is found if any of the first n proposals of its image overlaps it enough, whatever its class, even
if the same proposal covers another object (Hosang et al. 2016, arXiv 1502.05082, without their one-to-one
matching). Crowds and VOC's difficult objects are left out. The average recall is the mean over the IoUs 0.5,
0.55, …, 0.95.

Legend: G objects of an image, P proposals, C counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rcnn.metrics.overlaps import Floats
from rcnn.structures import Instances, box_ious

COUNTS = (1, 2, 5, 10, 20, 50, 100, 200, 300, 500, 1000, 2000)
IOUS = tuple(0.5 + 0.05 * i for i in range(10))


@dataclass(frozen=True)
class ProposalRecall:
    """Recall by number of proposals, each in [0, 1], NaN where there are no objects.

    Attributes:
        counts: numbers of proposals per image.
        at_50: recall at IoU 0.5, one value per count.
        at_70: recall at IoU 0.7.
        average: the mean recall over the IoUs from 0.5 to 0.95.
        objects: the number of objects.
        per_image: the mean number of proposals per image.
    """

    counts: tuple[int, ...]
    at_50: tuple[float, ...]
    at_70: tuple[float, ...]
    average: tuple[float, ...]
    objects: int
    per_image: float


def proposal_recall(truths: Sequence[Instances], counts: Sequence[int] = COUNTS) -> ProposalRecall:
    """Measure the proposals of the truths, best first, against their boxes.

    Convention: of two objects, one covered with IoU 0.6 by the first proposal and the other with 1 by the
    second, one proposal finds half at 0.5 and none at 0.7; two find all at 0.5 and half at 0.7.

    Args:
        truths: one per image, each with ``proposals``.
        counts: how many proposals per image to consider.

    Raises:
        ValueError: a truth without proposals.
    """
    nothing = np.zeros((0, len(counts)), np.float32)
    overlaps = np.concatenate([nothing, *(best_overlaps(truth, counts) for truth in truths)])
    reached = np.stack([_recall_at(overlaps, level) for level in (0.5, 0.7, *IOUS)])
    numbers = [len(truth.proposals) for truth in truths if truth.proposals is not None]
    return ProposalRecall(
        tuple(counts),
        tuple(reached[0].tolist()),
        tuple(reached[1].tolist()),
        tuple(reached[2:].mean(0).tolist()),
        len(overlaps),
        sum(numbers) / len(numbers) if numbers else float("nan"),
    )


def best_overlaps(truth: Instances, counts: Sequence[int]) -> npt.NDArray[np.float32]:
    """The highest IoU ``[G, C]`` of each object with any of the first n proposals, for each count n."""
    if truth.proposals is None:
        raise ValueError(f"{truth.path}: no proposals to measure; add them with rcnn.data.external_proposals")
    counted = np.ones(len(truth), bool)
    for mark in (truth.crowd, truth.difficult):
        counted &= True if mark is None else ~mark
    boxes = truth.boxes[counted]
    # A column of zeros in front: the best of no proposals.
    overlap = np.concatenate([np.zeros((len(boxes), 1), np.float32), box_ious(boxes, truth.proposals)], 1)
    best: npt.NDArray[np.float32] = np.maximum.accumulate(overlap, 1)
    return best[:, np.minimum(counts, len(truth.proposals))]


def _recall_at(overlaps: npt.NDArray[np.float32], level: float) -> Floats:
    """The fraction ``[C]`` of objects with at least this IoU, but for float32's rounding."""
    if not len(overlaps):
        return np.full(overlaps.shape[1], np.nan)
    fraction: Floats = (overlaps >= level - 1e-6).mean(0)
    return fraction
