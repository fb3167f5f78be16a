"""The charts of the metrics."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from rcnn.metrics import percent
from rcnn.metrics.metric import Evaluation
from rcnn.metrics.overlaps import KIND_NOUNS
from rcnn.metrics.recall import COUNTS, ProposalRecall
from rcnn.metrics.semantic import SemanticResult
from rcnn.metrics.shown import Bars, Chart, Line, Lines, Matrix

MAX_LABELLED_CLASSES = 8
MAX_LABEL = 24
SIZES = {"AP": "all", "AP_small": "small\n< 32²", "AP_medium": "medium", "AP_large": "large\n> 96²"}


def coco(evaluation: Evaluation) -> list[Chart]:
    """Precision over recall, and AP by object size."""
    kinds = [kind for kind in KIND_NOUNS if f"{kind}/AP" in evaluation.metrics]
    bars = {
        KIND_NOUNS[kind]: [evaluation.metrics.get(f"{kind}/{size}", math.nan) for size in SIZES]
        for kind in kinds
    }
    return [precision_recall(evaluation), Bars("AP by object size", "AP", tuple(SIZES.values()), bars)]


def precision_recall(evaluation: Evaluation) -> Lines:
    """Precision over recall at IoU 0.5; all but the classes with the most objects are faint."""
    curves, values = evaluation.pr_curves, evaluation.per_class
    lines = []
    for place, name in enumerate(sorted(curves, key=lambda n: -evaluation.num_objects.get(n, 0))):
        short = name if len(name) <= MAX_LABEL else f"{name[: MAX_LABEL - 1]}…"
        ap50 = percent(values.get(name, {}).get(f"{evaluation.shape}/AP50", math.nan))
        label = f"{short}, AP50 {ap50}" if place < MAX_LABELLED_CLASSES else ""
        lines.append(Line(label, *_reached(curves[name])))
    noun = KIND_NOUNS[evaluation.shape]
    return Lines(f"Precision and recall of {noun} at IoU 0.5", "recall", "precision", lines)


def _reached(curve: Mapping[str, list[float]]) -> tuple[list[float], list[float]]:
    """The part of a precision-recall curve up to the highest recall, beyond which COCO's precision is 0."""
    end = 1 + max((i for i, precision in enumerate(curve["precision"]) if precision > 0), default=-1)
    return curve["recall"][:end], curve["precision"][:end]


def proposals(evaluation: Evaluation) -> list[Chart]:
    """Recall over the number of proposals."""
    values = {
        name: tuple(evaluation.metrics[f"proposals/{name}@{n}"] for n in COUNTS)
        for name in ("recall50", "recall70", "AR")
    }
    return [_recall(COUNTS, values["recall50"], values["recall70"], values["AR"])]


def recall(found: ProposalRecall) -> Lines:
    """Recall at IoU 0.5 and 0.7, and average recall, over the number of proposals per image."""
    return _recall(found.counts, found.at_50, found.at_70, found.average)


def _recall(counts: tuple[int, ...], *values: tuple[float, ...]) -> Lines:
    names = ("IoU 0.5", "IoU 0.7", "average, 0.5 to 0.95")
    lines = [
        Line(f"{name}: {percent(ys[-1])}", counts, ys)
        for name, ys in zip(names, values, strict=True)
        if math.isfinite(ys[-1])
    ]
    return Lines("Recall of the proposals", "proposals", "recall", lines, log_x=True)


def semantic(evaluation: Evaluation) -> list[Chart]:
    """The confusion matrix of the pixel classes."""
    result: SemanticResult = evaluation.details("semantic")
    counts = np.array(result.confusion, np.float64)
    return [Matrix("Confusion of pixel classes", result.names, counts)]
