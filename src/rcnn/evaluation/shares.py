"""Evaluation by several processes: each predicts a share of the images, and the first one measures.

What is measured are the predictions of all images, in their order, so that every figure is the one that a
single process has.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from rcnn.data.adapters import Items
from rcnn.data.dataset import Dataset
from rcnn.evaluation.evaluator import evaluate, measure_predictions
from rcnn.evaluation.running import (
    Asked,
    Predictor,
    Progress,
    Running,
    Seconds,
    asked_of,
    ready,
)
from rcnn.metrics.metric import Evaluation, Metric
from rcnn.metrics.registry import choose_metrics
from rcnn.processes.group import gathered_by_first, rank, world_size
from rcnn.structures import Instances

Shared = tuple[list[Instances], Seconds]
Share = Callable[[Predictor, Dataset, Asked, Progress | None], Shared | None]
"""Has all images predicted, by whomever: the predictions and mean seconds, None where nothing is measured."""


def predict_images(
    detector: Predictor, dataset: Dataset, asked: Asked, progress: Progress | None = None
) -> Shared:
    """The predictions of all images of a data set, in little memory, and the mean seconds of an image."""
    run, found = Running(detector, asked), []
    # Who measures loads the truth.
    with closing(run.over(dataset.without_masks())) as pairs:
        for number, (_, instances) in enumerate(pairs, 1):
            found.append(instances)
            if progress is not None:
                progress(number, len(dataset))
    return found, run.seconds


def predict_in_group(
    detector: Predictor, dataset: Dataset, asked: Asked, progress: Progress | None = None
) -> Shared | None:
    """The same by all processes of the group, in the first one; every n-th image is one process's.

    Raises:
        ValueError: an image that cannot be read, in all processes.
    """
    count, size = len(dataset), world_size()
    mine = dataset.subset(range(rank(), count, size))

    def report(done: int, _: int) -> None:
        if progress is not None:
            progress(min(done * size, count), count)

    parts = gathered_by_first(lambda: predict_images(detector, mine, asked, report))
    if parts is None:
        return None
    found = [parts[number % size][0][number // size] for number in range(count)]
    return found, parts[0][1]


def evaluate_shares(
    detector: Predictor,
    dataset: Dataset | str | Path | Items,
    *,
    batch_size: int | None = None,
    min_score: float = 0.01,
    max_detections: int | None = None,
    metrics: Sequence[str | Metric] | None = None,
    threshold: float | None = None,
    progress: Progress | None = None,
    share: Share | None = None,
) -> tuple[Evaluation, list[Instances]] | None:
    """As :func:`rcnn.evaluation.evaluator.evaluate`, by all processes of the group, which all call it.

    Args:
        detector: as there, the same in every process.
        dataset: likewise.
        batch_size: as there.
        min_score: as there.
        max_detections: as there.
        metrics: as there; a timing (``speed``) is for one process.
        threshold: as there.
        progress: called in each process.
        share: who predicts; None: the processes of the group.

    Returns:
        What ``evaluate`` returns, in the first process; None in the others.

    Raises:
        ValueError: as ``evaluate``; what only shows while measuring, in the first process alone.
    """
    how: dict[str, Any] = {"metrics": metrics, "threshold": threshold}
    if share is None and world_size() == 1:
        return evaluate(
            detector, dataset, batch_size=batch_size, min_score=min_score, max_detections=max_detections,
            progress=progress, **how,
        )  # fmt: skip
    if any("timing" in row.needs for row in choose_metrics(metrics).rows if metrics is not None):
        raise ValueError("the metric speed is measured by one process: leave it out, or evaluate by itself")
    detector, dataset = ready(detector, dataset)
    asked = asked_of(dataset, batch_size, min_score, max_detections)
    found = (share or predict_in_group)(detector, dataset, asked, progress)
    if found is None:
        return None
    predictions, seconds = found
    evaluation = measure_predictions(
        detector, dataset, predictions, max_detections=asked.max_detections, **how
    )
    return replace(evaluation, seconds={**seconds, **evaluation.seconds}), predictions
