"""Measure a model on a data set: the metrics of ``rcnn.metrics.registry``, and the matches in each image.

The threshold is the one with the highest F1 over the detections of all images (``rcnn.metrics.matches``);
masks are compared if there are masks, else boxes.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from rcnn.data.adapters import Items
from rcnn.data.check import refuse_or_measure
from rcnn.data.dataset import Dataset
from rcnn.data.formats.coco_results import read_results
from rcnn.data.formats.open import open_data
from rcnn.evaluation.alignment import align_keypoints, align_truth_classes, all_have
from rcnn.evaluation.running import (
    Described,
    Predictor,
    Progress,
    Running,
    Seconds,
    asked_of,
    compact,
    default_max_detections,
    ready,
)
from rcnn.metrics import check_pairs
from rcnn.metrics.counts import count_agreements
from rcnn.metrics.matches import Agreement
from rcnn.metrics.metric import Evaluation, Metric, MetricInput, MetricResult, Need, Tally
from rcnn.metrics.registry import METRICS, Choice, choose_metrics
from rcnn.metrics.semantic import PixelClasses
from rcnn.structures import OTHER, Instances, MergeSettings, merge, true_segments

USUAL_CUT = 0.06  # programs write detections from a score of 0.05 on, or all of them


def evaluate(
    detector: Predictor,
    dataset: Dataset | str | Path | Items,
    *,
    batch_size: int | None = None,
    min_score: float = 0.01,
    max_detections: int | None = None,
    metrics: Sequence[str | Metric] | None = None,
    threshold: float | None = None,
    progress: Progress | None = None,
) -> tuple[Evaluation, list[Instances]]:
    """Run a detector over a data set and measure its detections.

    Classes are matched by name, ignoring case. Objects of a class that the detector does not know count as
    missed, in a row of their own, with a warning.

    Args:
        detector: anything with ``predict`` and ``class_names``, an exported model too.
        dataset: images with truth, or a path that :func:`rcnn.open_data` reads, of whose images and objects
            at most a twentieth may have errors.
        batch_size: images that are predicted together; of a model of this package, those that are padded to
            the same size. None: the detector's own number, 8 on a GPU and 1 on a CPU.
        min_score: the lowest score to predict. Low on purpose: the tail of weak detections adds 0.2 to 0.3
            points of AP, but takes time.
        max_detections: the cap on detections per image, in the detector and the metrics; by default 100, or
            the number of objects in the fullest image if that is more.
        metrics: what to measure: keys of ``rcnn.metrics.registry.METRICS``, rows like those, and dotted paths
            of such rows; None: those that suit the data.
        threshold: the lowest score that counts in metrics at one threshold, such as those of nuclei; None:
            the one with the highest F1 on this data set.
        progress: called with the number of images done and the number of all images.

    Returns:
        The evaluation (with ``seconds`` per image for decoding, predicting and measuring) and the detections,
        one ``Instances`` per image, in little memory: masks are run-length codes that are drawn when they are
        used (:class:`rcnn.structures.PackedMasks`), semantic maps uint8. Indices in ``matches`` refer
        to the truths as the records have them.

    Raises:
        ValueError: a data set without images, an image or annotation that cannot be read, or metrics that
            are unknown or lack an input.
    """
    choice = choose_metrics(metrics)
    detector, dataset = ready(detector, dataset)
    asked = asked_of(dataset, batch_size, min_score, max_detections)
    collected = _Collected(dataset, detector, choice)
    run = Running(detector, asked, is_timed=collected.needs("timing"))
    with closing(run.over(dataset)) as pairs:
        for number, (truth, found) in enumerate(pairs, 1):
            collected.add(truth, found)
            if number == 1:
                collected.refuse_lacking(run.speed(1))
            if progress is not None:
                progress(number, len(dataset))
    evaluation = collected.evaluation(asked.max_detections, threshold, run.speed(len(dataset)))
    return replace(evaluation, seconds={**run.seconds, **evaluation.seconds}), collected.predictions


def evaluate_results(
    path: str | Path,
    dataset: Dataset | str | Path,
    *,
    max_detections: int | None = None,
    metrics: Sequence[str | Metric] | None = None,
    threshold: float | None = None,
    skip_bad: bool = False,
) -> tuple[Evaluation, list[Instances]]:
    """Measure the detections in a file, COCO's results or a COCO file with scores; no model is needed.

    Args:
        path: the JSON file, see ``rcnn.data.formats.coco_results``.
        dataset: its images, with truth, or a path that :func:`rcnn.open_data` reads.
        max_detections: as in :func:`evaluate`.
        metrics: likewise.
        threshold: likewise.
        skip_bad: measure what is left, however much of the data has errors.

    Raises:
        DataError: more than a twentieth of the objects or images has errors, and ``skip_bad`` is not set.
        ValueError: a file that does not fit the data set, or metrics that are unknown or lack an input.
    """
    choose_metrics(metrics)  # a wrong name is reported before the file is read
    dataset = open_data(dataset)
    usable, _ = refuse_or_measure(dataset, skip_bad)
    kept = {record.path for record in usable.records}
    pairs = zip(dataset.records, read_results(path, dataset), strict=True)
    dataset, predictions = usable, [found for record, found in pairs if record.path in kept]
    names = predictions[0].class_names if predictions else dataset.class_names
    evaluation = measure_predictions(
        _Unknown(names), dataset, predictions,
        max_detections=max_detections, metrics=metrics, threshold=threshold,
    )  # fmt: skip
    return replace(evaluation, cut_at=_cut_at(predictions)), predictions


def _cut_at(predictions: Sequence[Instances]) -> float | None:
    """The lowest score, where it is so high that weaker detections seem to have been dropped."""
    lowest = min((float(p.scores.min()) for p in predictions if p.scores is not None and len(p)), default=0.0)
    return lowest if lowest > USUAL_CUT else None


def measure_predictions(
    detector: Described,
    dataset: Dataset,
    predictions: Sequence[Instances],
    *,
    max_detections: int | None = None,
    metrics: Sequence[str | Metric] | None = None,
    threshold: float | None = None,
) -> Evaluation:
    """Measure existing predictions the way :func:`evaluate` measures those that it makes.

    Args:
        detector: what made them, or anything else with its ``class_names``.
        dataset: their images, with truth.
        predictions: one per image, of all scores down to a low one.
        max_detections: as in :func:`evaluate`.
        metrics: likewise.
        threshold: likewise.

    Raises:
        ValueError: predictions that are not one per image, or metrics that are unknown or lack an input.
    """
    collected = _Collected(dataset, detector, choose_metrics(metrics))
    if len(predictions) != len(dataset):
        raise ValueError(
            f"{dataset.source}: {len(dataset)} images, but predictions for {len(predictions)}: give one "
            "Instances per image, empty ones included."
        )
    for record, found in zip(dataset.records, predictions, strict=True):
        collected.add(replace(record.load_truth(), path=record.path), found)
    return collected.evaluation(max_detections, threshold)


def evaluate_predictions(
    truths: Sequence[Instances],
    predictions: Sequence[Instances],
    class_names: Sequence[str],
    *,
    has_masks: bool,
    has_keypoints: bool = False,
    max_detections: int | None = None,
    metrics: Sequence[str | Metric] | None = None,
    threshold: float | None = None,
) -> Evaluation:
    """Measure predicted objects against true ones, without a data set.

    Args:
        truths: one per image, labels indexing ``class_names``.
        predictions: one per image, in the same order and coordinates, of all scores down to a low one.
        class_names: of both.
        has_masks: whether to compare masks as well as boxes.
        has_keypoints: whether to compare keypoints as well.
        max_detections: COCO's cap; by default 100, or the number of objects in the fullest image if that is
            more.
        metrics: what to measure, as in :func:`evaluate`.
        threshold: likewise.

    Raises:
        ValueError: truths and predictions that do not belong together, missing masks, or metrics that are
            unknown or lack an input.
    """
    inputs = MetricInput(
        truths, predictions, tuple(class_names), has_masks, has_keypoints,
        max_detections=default_max_detections(map(len, truths)) if max_detections is None else max_detections,
    )  # fmt: skip
    return _objects_measured(inputs, choose_metrics(metrics), threshold)


@dataclass(frozen=True)
class _Unknown:
    """The unknown detector that made a results file."""

    class_names: tuple[str, ...]


class _Collected:
    """Collects truth and predictions image by image, and feeds the tallies.

    Attributes:
        predictions: of all images so far, in little memory.
    """

    def __init__(self, dataset: Dataset, detector: Described, choice: Choice) -> None:
        """Raises ValueError: named metrics that lack an input, or nothing to measure."""
        self.dataset, self.choice = dataset, choice
        self.before = _known_before(dataset, detector)
        if not self.before.class_names:
            choice.suitable(self.before, "objects")  # raises for those that were named
        self.pixel_tallies = self._tallies("pixels")
        self.partition_tallies = self._tallies("partition")
        if not (self.before.class_names or self.pixel_tallies or self.partition_tallies):
            raise ValueError(f"{dataset.source}: no semantic maps, which this model is measured by")
        # The maps of many images take gigabytes, and few metrics need them at the end.
        self.keeps_maps = self.needs("maps")
        self.truths: list[Instances] = []
        self.predictions: list[Instances] = []

    def _tallies(self, about: Any) -> list[tuple[Metric, Tally]]:
        rows = self.choice.suitable(self.before, about)
        return [(row, row.tally(self.before)) for row in rows if row.tally is not None]

    def needs(self, need: Need) -> bool:
        """Whether a metric that may be measured needs it."""
        wanted = (r for r in self.choice.rows if self.choice.is_named or r.is_default(self.before))
        return any(need in row.needs for row in wanted)

    def add(self, truth: Instances, found: Instances) -> None:
        """Add one image."""
        pixels, merging = self.before.pixels, self.before.merge
        if pixels is not None and self.pixel_tallies:
            true_map = None if truth.semantic is None else pixels.renumber(truth.semantic)
            for _, tally in self.pixel_tallies:
                tally.add(true_map, found.semantic)
        if self.partition_tallies:
            partitions = true_segments(truth), merge(found, settings=merging)
            for _, tally in self.partition_tallies:
                tally.add(*partitions)
        self.predictions.append(compact(found))
        self.truths.append(compact(truth if self.keeps_maps else replace(truth, semantic=None)))

    def refuse_lacking(self, speed: Seconds) -> None:
        """Refuse, after the first image, metrics of the package that were named and lack an input.

        What your own metrics need may depend on all images; they are asked at the end.

        Raises:
            ValueError: it names the metric and what it lacks.
        """
        if not self.before.class_names:
            return
        found, data = self.predictions[0], self.dataset
        inputs = replace(
            self.before, truths=self.truths, predictions=self.predictions, speed=speed,
            has_masks=data.has_masks and (found.masks is not None or not len(found)),
            has_keypoints=data.skeleton is not None and (found.keypoints is not None or not len(found)),
        )  # fmt: skip
        rows = tuple(row for row in self.choice.rows if METRICS.get(row.name) is row)
        replace(self.choice, rows=rows).suitable(inputs, "objects")

    def evaluation(
        self, max_detections: int | None, threshold: float | None, speed: Seconds | None = None
    ) -> Evaluation:
        """The evaluation of all images."""
        tallied = [(row, tally.result()) for row, tally in self.pixel_tallies + self.partition_tallies]
        if not self.before.class_names:
            return Evaluation(tuple(tallied), left_out=self.dataset.left_out)
        dataset = self.dataset
        truths, names = align_truth_classes(self.truths, dataset.class_names, self.before.class_names)
        measured = align_keypoints(self.predictions, dataset.skeleton)
        inputs = replace(
            self.before, truths=truths, predictions=measured or self.predictions, class_names=names,
            has_masks=dataset.has_masks and all_have(self.predictions, "masks"),
            has_keypoints=measured is not None, speed=speed or {},
            max_detections=max_detections
            if max_detections is not None
            else default_max_detections(map(len, truths)),
        )  # fmt: skip
        evaluation = _objects_measured(inputs, self.choice, threshold)
        order = {row.name: place for place, row in enumerate(self.choice.rows)}
        together = sorted((*evaluation.measured, *tallied), key=lambda pair: order[pair[0].name])
        return replace(evaluation, measured=tuple(together), left_out=dataset.left_out)


def _known_before(dataset: Dataset, detector: Described) -> MetricInput:
    """The inputs of metrics that are known before anything is predicted."""
    known: tuple[str, ...] = getattr(detector, "semantic_names", ())
    names = dataset.semantic_names
    if OTHER in known:  # one class for all things, which come first
        things = len(dataset.class_names)
        names = (*(OTHER for _ in names[:things]), *names[things:])
    merging: MergeSettings | None = getattr(detector, "merge", None)
    return MetricInput(
        class_names=tuple(detector.class_names),
        format=dataset.format,
        pixels=PixelClasses.of(known, names) if known and dataset.has_semantic else None,
        merge=merging if dataset.has_masks and dataset.has_semantic else None,
    )


def _objects_measured(inputs: MetricInput, choice: Choice, threshold: float | None) -> Evaluation:
    """Measure the metrics about objects; ``threshold``, if given, replaces the best one."""
    began = time.perf_counter()
    check_pairs(inputs.truths, inputs.predictions, inputs.class_names)
    agreement = Agreement.of(inputs.truths, inputs.predictions, inputs.shape)
    inputs = replace(inputs, threshold=agreement.threshold if threshold is None else threshold)
    rows = choice.suitable(inputs, "objects")
    measured = tuple((row, _measured(row, inputs)) for row in rows)
    passed = (time.perf_counter() - began) / max(1, len(inputs.truths))
    return Evaluation(
        measured,
        seconds={"measuring": passed},
        num_objects=_num_objects(inputs.truths, inputs.class_names),
        kinds=inputs.kinds,
        max_detections=inputs.max_detections,
        agreement=agreement,
        counts=count_agreements(inputs.truths, inputs.predictions, inputs.class_names, agreement.matches),
    )


def _measured(row: Metric, inputs: MetricInput) -> MetricResult:
    if row.measure is not None:
        return row.measure(inputs)
    assert row.tally is not None
    tally = row.tally(inputs)
    for truth, predicted in zip(inputs.truths, inputs.predictions, strict=True):
        tally.add(truth, predicted)
    return tally.result()


def _num_objects(truths: Sequence[Instances], class_names: Sequence[str]) -> dict[str, int]:
    """The number of objects of each class, without crowds."""
    counts = np.zeros(len(class_names), np.int64)
    for truth in truths:
        labels = truth.labels if truth.crowd is None else truth.labels[~truth.crowd]
        counts += np.bincount(labels, minlength=len(class_names))
    return dict(zip(class_names, counts.tolist(), strict=True))
