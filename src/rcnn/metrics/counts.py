"""How well counted objects agree with the true ones, image by image: for those who count.

Bland and Altman (1986, Lancet 327:307): the difference d = predicted - true of each image, its mean (the
bias), and the limits of agreement, bias ± 1.96 std(d), between which 95 % of the differences of new images
would lie if they were normally distributed. std divides by n - 1; with a single image there are no limits.

Convention: counts of 10, 20, 30 predicted as 11, 19, 33 differ by 1, -1, 3: bias 1, limits -2.92 and 4.92.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rcnn.metrics.matches import ImageMatch
from rcnn.structures import Instances

WIDTH = 1.96  # standard deviations on either side
ALL = "all classes"


@dataclass(frozen=True)
class CountAgreement:
    """The numbers of objects in each image.

    Attributes:
        true: of the annotation, ``[I]`` for I images.
        predicted: of the detections that count.
    """

    true: npt.NDArray[np.int64]
    predicted: npt.NDArray[np.int64]

    @property
    def differences(self) -> npt.NDArray[np.int64]:
        """Predicted less true, ``[I]``."""
        return self.predicted - self.true

    @property
    def bias(self) -> float:
        """The mean difference; above 0 there are too many objects. NaN without images."""
        return float(self.differences.mean()) if len(self.true) else math.nan

    @property
    def limits(self) -> tuple[float, float]:
        """The limits of agreement; NaN with less than two images."""
        if len(self.true) < 2:
            return math.nan, math.nan
        half = WIDTH * float(self.differences.std(ddof=1))
        return self.bias - half, self.bias + half

    @property
    def mean_error(self) -> float:
        """The mean of the absolute differences."""
        return float(np.abs(self.differences).mean()) if len(self.true) else math.nan

    def to_json(self) -> dict[str, float]:
        """The summary, by name; NaN where there is no value."""
        return {
            "images": len(self.true),
            "true_per_image": float(self.true.mean()) if len(self.true) else math.nan,
            "bias": self.bias,
            "lower_limit": self.limits[0],
            "upper_limit": self.limits[1],
            "mean_error": self.mean_error,
        }


def count_agreements(
    truths: Sequence[Instances],
    predictions: Sequence[Instances],
    class_names: Sequence[str],
    matches: Sequence[ImageMatch],
) -> dict[str, CountAgreement]:
    """The agreement of all classes together, under ``ALL``, and of each class, the most frequent first.

    Objects that are ignored (crowds, difficult ones, and detections on them) are not counted. Classes without
    an object or a detection are left out, and a single class is not repeated under ``ALL``.

    Args:
        truths: the true objects, one ``Instances`` per image.
        predictions: the detections, likewise.
        class_names: what the labels of both index.
        matches: of the same images, at the threshold that counts.
    """
    size = len(matches), len(class_names)
    true, predicted = np.zeros(size, np.int64), np.zeros(size, np.int64)
    for row, (truth, found, match) in enumerate(zip(truths, predictions, matches, strict=True)):
        for label, number in _counted(truth, (*match.matched_truths, *match.missed_truths)).items():
            true[row, label] = number
        for label, number in _counted(
            found, (*match.matched_predictions, *match.spurious_predictions)
        ).items():
            predicted[row, label] = number
    there = [i for i in range(len(class_names)) if true[:, i].any() or predicted[:, i].any()]
    there.sort(key=lambda i: -int(true[:, i].sum()))
    by_class = {class_names[i]: CountAgreement(true[:, i], predicted[:, i]) for i in there}
    whole = {} if len(there) == 1 or not matches else {ALL: CountAgreement(true.sum(1), predicted.sum(1))}
    return {**whole, **by_class}


def _counted(objects: Instances, indices: Sequence[int]) -> Counter[int]:
    """The number of objects of each label among those at ``indices``."""
    return Counter(int(objects.labels[i]) for i in indices)
