"""How well pixels are classified: FCN's four metrics (Long et al. 2014, arXiv 1411.4038, §5).

With ``n[i, j]`` pixels of class i predicted as class j, and ``t[i]`` pixels of class i:

    pixel accuracy            sum_i n[i, i] / sum_i t[i]
    mean accuracy             mean_i n[i, i] / t[i]
    mean IoU                  mean_i n[i, i] / (t[i] + sum_j n[j, i] - n[i, i])
    frequency-weighted IoU    sum_i t[i] IoU[i] / sum_i t[i]

Void pixels of the truth are ignored. The means leave out classes for which a value is not defined: those
without truth for accuracy, those without truth and predictions for IoU.

Legend: C classes, H and W of an image.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rcnn.data.classes import renumber
from rcnn.metrics import mean_of_known
from rcnn.metrics.overlaps import Floats
from rcnn.structures import VOID, Array


@dataclass(frozen=True)
class SemanticResult:
    """The metrics of the pixels of a data set. Values are in [0, 1], NaN where not defined.

    Attributes:
        names: the classes.
        confusion: numbers of pixels by true class (row) and predicted class (column).
        metrics: ``semantic/mIoU``, ``semantic/pixel_accuracy``, ``semantic/mean_accuracy``,
            ``semantic/frequency_weighted_IoU``.
        per_class: by class name ``semantic/IoU``, ``semantic/accuracy``, and ``semantic/share``, the fraction
            of the true pixels.
        per_image: the mean IoU of each image.
    """

    names: tuple[str, ...]
    confusion: list[list[int]]
    metrics: dict[str, float]
    per_class: dict[str, dict[str, float]]
    per_image: list[float]


@dataclass(frozen=True)
class PixelClasses:
    """The pixel classes of a model and of the data, under one numbering.

    Attributes:
        names: the model's classes in its order, then those that only the data has.
        known: how many of them are the model's.
        table: for each value in the data's maps, the index of its class in ``names``.
    """

    names: tuple[str, ...]
    known: int
    table: tuple[int, ...]

    @classmethod
    def of(cls, known: Sequence[str], truth_names: Sequence[str]) -> PixelClasses:
        """From the model's names and the data's; names that differ only in case are one class."""
        own = {name.casefold() for name in known}
        names = (*known, *(name for name in truth_names if name.casefold() not in own))
        places = {name.casefold(): value for value, name in reversed(list(enumerate(names)))}
        return cls(names, len(known), tuple(places[name.casefold()] for name in truth_names))

    def renumber(self, truth: Array) -> Array:
        """A map ``[H, W]`` of the data, with values that index ``names``."""
        return renumber(truth, self.table)


def confusion_matrix(truth: Array, predicted: Array, num_classes: int) -> Array:
    """Numbers of pixels, int64 ``[C, C]``, by class in ``truth`` (row) and in ``predicted`` (column).

    Both are ``[H, W]``.

    Raises:
        ValueError: maps of different sizes, or values that are not classes.
    """
    if truth.shape != predicted.shape:
        raise ValueError(
            f"semantic maps: the truth is {list(truth.shape)}, the prediction {list(predicted.shape)}"
        )
    known = truth != VOID
    rows, columns = truth[known].astype(np.int64), predicted[known].astype(np.int64)
    if len(rows) and max(int(rows.max()), int(columns.max())) >= num_classes:
        raise ValueError(
            f"semantic maps: values of {int(rows.max())} in truth and {int(columns.max())} in prediction; "
            f"expected 0 to {num_classes - 1}, and {VOID} (void) only in the truth"
        )
    return np.bincount(rows * num_classes + columns, minlength=num_classes**2).reshape(num_classes, -1)


class SemanticTally:
    """Adds up images one by one; only their joint confusion matrix is kept."""

    def __init__(self, names: Sequence[str], known: int | None = None) -> None:
        """For maps of these classes, of which the model knows the first ``known``; None: all."""
        self.names = tuple(names)
        self.known = self.names[:known]
        self.confusion = np.zeros((len(self.names), len(self.names)), np.int64)
        self.per_image: list[float] = []

    def add(self, truth: Array | None, predicted: Array | None) -> None:
        """One image's maps ``[H, W]``.

        Raises:
            ValueError: as :func:`confusion_matrix`, or a map is missing.
        """
        if truth is None or predicted is None:
            raise ValueError(f"semantic maps: the {'truth' if truth is None else 'prediction'} has none")
        own = confusion_matrix(truth, predicted, len(self.names))
        self.confusion += own
        self.per_image.append(mean_of_known(_ious(own)))

    def result(self) -> SemanticResult:
        """The metrics over all images; warns about pixels of classes that the model does not know."""
        areas = self.confusion.sum(1).tolist()
        unknown = [name for name, area in zip(self.names, areas, strict=True) if area]
        unknown = [name for name in unknown if name not in self.known]
        if unknown:
            warnings.warn(
                f"the data has pixels of {', '.join(map(repr, unknown))}, which the model does not know "
                f"(it knows {', '.join(map(repr, self.known))}): they count as wrong.",
                stacklevel=3,
            )
        truth = self.confusion.sum(1).astype(np.float64)
        total, right = truth.sum(), self.confusion.diagonal().astype(np.float64)
        ious, accuracies, fractions = (
            _ious(self.confusion),
            _quotients(right, truth),
            _quotients(truth, total),
        )
        metrics = {
            "semantic/mIoU": mean_of_known(ious),
            "semantic/pixel_accuracy": float(right.sum() / total) if total else math.nan,
            "semantic/mean_accuracy": mean_of_known(accuracies),
            "semantic/frequency_weighted_IoU": float((fractions * ious)[truth > 0].sum())
            if total
            else math.nan,
        }
        rows = zip(self.names, ious.tolist(), accuracies.tolist(), fractions.tolist(), strict=True)
        per_class = {
            name: {"semantic/IoU": iou, "semantic/accuracy": accuracy, "semantic/share": fraction}
            for name, iou, accuracy, fraction in rows
        }
        return SemanticResult(self.names, self.confusion.tolist(), metrics, per_class, list(self.per_image))


def _ious(confusion: Array) -> Floats:
    """IoU of each class, float64 ``[C]``; NaN where neither truth nor prediction has it."""
    right = confusion.diagonal().astype(np.float64)
    return _quotients(right, confusion.sum(0) + confusion.sum(1) - right)


def _quotients(parts: Floats, wholes: Array) -> Floats:
    with np.errstate(invalid="ignore"):  # 0 / 0 is NaN
        quotients: Floats = parts / wholes
    return quotients
