"""How good predictions are: the metrics of the field, computed from :class:`~rcnn.structures.Instances`."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from rcnn.structures import Instances, Masks

DASH = "\N{EN DASH}"
"""What the report shows where there is no number."""


def percent(value: float) -> str:
    """A fraction as tables show it: in percent, or a dash where there was nothing to measure."""
    return f"{100 * value:.1f}" if math.isfinite(value) else "-"


def number(value: float | None) -> str:
    """Three digits after the decimal point, or a dash where there is no finite value."""
    return f"{value:.3f}" if value is not None and math.isfinite(value) else DASH


def mean_of_known(values: npt.NDArray[np.float64]) -> float:
    """The mean of the values that are not NaN; NaN if there are none."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else math.nan


def require_masks(instances: Instances) -> Masks:
    """The masks of the objects, for a metric that compares masks.

    Raises:
        ValueError: objects without masks.
    """
    if instances.masks is None and len(instances):
        raise ValueError(
            f"{instances.path or 'an image'}: {len(instances)} objects without masks, which these metrics "
            "compare; provide masks or choose other metrics."
        )
    return instances.masks or Masks.empty(instances.size)


def check_pairs(
    truths: Sequence[Instances], predictions: Sequence[Instances], class_names: Sequence[str]
) -> None:
    """Refuse truths and predictions that do not belong together; every metric calls this first.

    Raises:
        ValueError: numbers of images or image sizes that differ, predictions without scores, labels beyond
            ``class_names``.
    """
    if len(truths) != len(predictions):
        raise ValueError(
            f"predictions are of {len(predictions)} images, truths of {len(truths)}: give one Instances "
            "per image in both, empty ones included."
        )
    for number, (truth, predicted) in enumerate(zip(truths, predictions, strict=True)):
        place = f"image {number}" + (f" ({truth.path})" if truth.path is not None else "")
        if truth.size != predicted.size:
            raise ValueError(
                f"{place}: the predictions are for an image of {predicted.size}, the truth for {truth.size} "
                "(height, width): give both in the coordinates of the original image."
            )
        if len(predicted) and (predicted.scores is None or not np.isfinite(predicted.scores).all()):
            raise ValueError(
                f"{place}: predictions without finite scores; each needs one, by which it is ranked."
            )
        for kind, instances in (("truth", truth), ("predictions", predicted)):
            labels = instances.labels
            if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < len(class_names):
                raise ValueError(
                    f"{place}: {kind} with labels {int(labels.min())} to {int(labels.max())}, expected 0 to "
                    f"{len(class_names) - 1} for {len(class_names)} class names."
                )
