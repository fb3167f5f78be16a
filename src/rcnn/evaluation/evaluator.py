"""A model on a data set, in numbers: the metrics of ``rcnn.metrics.registry`` and what each image got.

The threshold of choice is the one at which the detections of all images together have the highest F1, see
``rcnn.metrics.matches``; masks are compared where there are masks, else boxes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from rcnn.data.check import check, refuse_or_skip
from rcnn.data.dataset import Dataset, Sample
from rcnn.data.formats.coco_results import read_results
from rcnn.data.formats.open import open_data
from rcnn.evaluation.alignment import align_keypoints, align_truth_classes, all_have
from rcnn.inference.stopwatch import Stopwatch
from rcnn.metrics import check_pairs
from rcnn.metrics.matches import Agreement
from rcnn.metrics.metric import Evaluation, Metric, MetricInput, MetricResult, Need, Tally
from rcnn.metrics.registry import Choice, choose_metrics
from rcnn.metrics.semantic import PixelClasses
from rcnn.structures import OTHER, Instances, MergeSettings, merge, true_segments

COCO_MAX_DETECTIONS = 100

Progress = Callable[[int, int], None]
Seconds = dict[str, float]


class Described(Protocol):
    """What made the predictions.

    It may say more: ``semantic_names``, the classes of pixels that it knows, and ``merge``, how its objects
    and pixels make a partition.
    """

    @property
    def class_names(self) -> tuple[str, ...]:
        """What the labels of its predictions index."""


class Predictor(Described, Protocol):
    """What can be evaluated."""

    def predict(
        self,
        images: Sequence[Path | npt.NDArray[Any]],
        *,
        min_score: float | None = None,
        max_detections: int | None = None,
    ) -> list[Instances]:
        """The objects of each image in its own coordinates, best score first."""


def evaluate(
    detector: Predictor,
    dataset: Dataset | str | Path,
    *,
    batch_size: int = 1,
    min_score: float = 0.01,
    max_detections: int | None = None,
    metrics: Sequence[str | Metric] | None = None,
    threshold: float | None = None,
    progress: Progress | None = None,
) -> tuple[Evaluation, list[Instances]]:
    """Run a detector over a data set and measure its detections.

    Classes are matched by name, whatever their case. Objects of a class that the detector does not know count
    as missed, under a row of their own, with a warning.

    Args:
        detector: anything with ``predict`` and ``class_names``, an exported model too.
        dataset: images with truth, or the place of some that :func:`rcnn.open_data` reads; of a place all
            must be without errors.
        batch_size: images given to ``predict`` at once.
        min_score: the lowest score asked for. Low on purpose: the tail of weak detections is worth 0.2 to 0.3
            points of AP, and costs time.
        max_detections: the cap of detections of an image, in the detector and the metrics; by default 100, or
            as many as the fullest image has objects.
        metrics: what to measure: keys of ``rcnn.metrics.registry.METRICS``, rows like those there, and dotted
            paths of such rows; None: those that suit the data.
        threshold: the score from which detections count in metrics at one threshold, such as those of
            nuclei; None: where F1 is highest on these very data.
        progress: called with the number of images done and of all.

    Returns:
        The evaluation (with ``seconds`` per image for decoding and predicting) and the detections, one per
        image, semantic maps as uint8 since many are kept. Truths of the evaluation's matches keep the order
        of the records'.

    Raises:
        ValueError: a data set without images, an image or annotation that cannot be read, or metrics that
            are unknown or lack something.
    """
    choice = choose_metrics(metrics)
    # In float32, unless the detector was given another precision by name.
    detector = detector.for_measuring() if hasattr(detector, "for_measuring") else detector
    if not isinstance(dataset, Dataset):
        opened = open_data(dataset)
        dataset, _ = refuse_or_skip(opened, False, report=check(opened, decode=False))
    if not len(dataset):
        raise ValueError(f"{dataset.source}: no images to evaluate on; give a data set with at least one.")
    cap = max_detections
    if cap is None:
        cap = default_max_detections([record.truth for record in dataset.records])
    collected = _Collected(dataset, detector, choice)
    run = _Run(detector, batch_size, min_score, cap, collected.needs("timing"))
    for number, (truth, found) in enumerate(run.over(dataset), 1):
        collected.add(truth, found)
        if progress is not None and (number % batch_size == 0 or number == len(dataset)):
            progress(number, len(dataset))
    evaluation = collected.evaluation(cap, threshold, run.speed(len(dataset)))
    return replace(evaluation, seconds={**run.seconds, **evaluation.seconds}), collected.predictions


def evaluate_results(
    path: str | Path,
    dataset: Dataset,
    *,
    max_detections: int | None = None,
    metrics: Sequence[str | Metric] | None = None,
    threshold: float | None = None,
) -> tuple[Evaluation, list[Instances]]:
    """Measure somebody else's detections, from a COCO results file; no model is needed.

    Args:
        path: the JSON file, see ``rcnn.data.formats.coco_results``.
        dataset: the images it is about, with truth.
        max_detections: as in :func:`evaluate`.
        metrics: likewise.
        threshold: likewise.

    Raises:
        ValueError: a file that does not fit the data set, or metrics that are unknown or lack something.
    """
    choose_metrics(metrics)  # a wrong name is reported before the file is read
    predictions = read_results(path, dataset)
    evaluation = measure_predictions(
        _Unknown(dataset.class_names), dataset, predictions,
        max_detections=max_detections, metrics=metrics, threshold=threshold,
    )  # fmt: skip
    return evaluation, predictions


def measure_predictions(
    detector: Described,
    dataset: Dataset,
    predictions: Sequence[Instances],
    *,
    max_detections: int | None = None,
    metrics: Sequence[str | Metric] | None = None,
    threshold: float | None = None,
) -> Evaluation:
    """Measure predictions that are at hand, as :func:`evaluate` measures those that it makes.

    Args:
        detector: what made them, or whatever else has its ``class_names``.
        dataset: the images they are of, with truth.
        predictions: one per image, of all scores down to a low one.
        max_detections: as in :func:`evaluate`.
        metrics: likewise.
        threshold: likewise.

    Raises:
        ValueError: predictions that are not one per image, or metrics that are unknown or lack something.
    """
    collected = _Collected(dataset, detector, choose_metrics(metrics))
    if len(predictions) != len(dataset):
        raise ValueError(
            f"{dataset.source}: {len(dataset)} images, but predictions of {len(predictions)}: give one "
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
        has_masks: whether to compare masks beside boxes.
        has_keypoints: whether to compare keypoints too.
        max_detections: COCO's cap; by default 100, or as many as the fullest image has objects.
        metrics: what to measure, as in :func:`evaluate`.
        threshold: likewise.

    Raises:
        ValueError: truths and predictions that do not belong together, masks missing, or metrics that are
            unknown or lack something.
    """
    inputs = MetricInput(
        truths, predictions, tuple(class_names), has_masks, has_keypoints,
        max_detections=default_max_detections(truths) if max_detections is None else max_detections,
    )  # fmt: skip
    return _objects_measured(inputs, choose_metrics(metrics), threshold)


@dataclass(frozen=True)
class _Unknown:
    """Whatever made the objects of a file of results."""

    class_names: tuple[str, ...]


class _Run:
    """A detector at work on a data set.

    Attributes:
        seconds: per image, for ``decoding`` and ``predicting``, over all that was predicted.
    """

    def __init__(
        self, detector: Predictor, batch_size: int, min_score: float, max_detections: int, is_timed: bool
    ) -> None:
        candidates: int | None = getattr(
            detector, "candidates", None
        )  # the most that a file can be asked for
        if candidates is not None:
            max_detections = min(max_detections, candidates)
        self.predict: Callable[..., list[Instances]] = detector.predict
        self.batch_size = batch_size
        self.asked: dict[str, Any] = {"min_score": min_score, "max_detections": max_detections}
        self.is_timed = is_timed
        self.watch = Stopwatch(getattr(detector, "inference_network", None) if is_timed else None)
        self.seconds: Seconds = {"decoding": 0.0, "predicting": 0.0}

    def over(self, dataset: Dataset) -> Iterator[tuple[Instances, Instances]]:
        """Truth and predictions, one image after the other."""
        for start in range(0, len(dataset), self.batch_size):
            began = time.perf_counter()
            indices = range(start, min(start + self.batch_size, len(dataset)))
            samples = [dataset[i] for i in indices]
            decoded = time.perf_counter()
            found = self._found(samples)
            self.seconds["decoding"] += (decoded - began) / len(dataset)
            self.seconds["predicting"] += (time.perf_counter() - decoded) / len(dataset)
            for index, sample, instances in zip(indices, samples, found, strict=True):
                yield replace(sample.truth, path=dataset.records[index].path), instances

    def _found(self, samples: Sequence[Sample]) -> list[Instances]:
        boxes = [sample.truth.proposals for sample in samples]
        # Only where the data set brings them: whatever else predicts need not know of proposals.
        brought = {} if any(b is None for b in boxes) else {"proposals": boxes}
        with self.watch:
            return self.predict([sample.image for sample in samples], **self.asked, **brought)

    def speed(self, images: int) -> Seconds:
        """What was measured of the detector, where that was asked for."""
        return self.watch.speed(images, **self.seconds) if self.is_timed else {}


class _Collected:
    """Truth and predictions of a data set, image by image; what is tallied so is tallied at once.

    Attributes:
        predictions: with semantic maps as uint8.
    """

    def __init__(self, dataset: Dataset, detector: Described, choice: Choice) -> None:
        """Raises ValueError: metrics that lack something, or nothing to be measured at all."""
        self.dataset, self.choice = dataset, choice
        self.before = _known_before(dataset, detector)
        if not self.before.class_names:
            choice.suitable(self.before, "objects")  # refuses those that were named
        self.pixel_tallies = self._tallies("pixels")
        self.partition_tallies = self._tallies("partition")
        if not (self.before.class_names or self.pixel_tallies or self.partition_tallies):
            raise ValueError(f"{dataset.source}: no semantic maps, which this model is measured by")
        # Maps of many images are gigabytes, and few metrics look at them again.
        self.keeps_maps = self.needs("maps")
        self.truths: list[Instances] = []
        self.predictions: list[Instances] = []

    def _tallies(self, about: Any) -> list[tuple[Metric, Tally]]:
        rows = self.choice.suitable(self.before, about)
        return [(row, row.tally(self.before)) for row in rows if row.tally is not None]

    def needs(self, need: Need) -> bool:
        """Whether a metric that may be measured needs this."""
        wanted = (r for r in self.choice.rows if self.choice.is_named or r.is_default(self.before))
        return any(need in row.needs for row in wanted)

    def add(self, truth: Instances, found: Instances) -> None:
        """One image."""
        pixels, merging = self.before.pixels, self.before.merge
        if pixels is not None and self.pixel_tallies:
            true_map = None if truth.semantic is None else pixels.renumber(truth.semantic)
            for _, tally in self.pixel_tallies:
                tally.add(true_map, found.semantic)
        if self.partition_tallies:
            partitions = true_segments(truth), merge(found, settings=merging)
            for _, tally in self.partition_tallies:
                tally.add(*partitions)
        self.predictions.append(_compact(found))
        self.truths.append(_compact(truth) if self.keeps_maps else replace(truth, semantic=None))

    def evaluation(
        self, max_detections: int | None, threshold: float | None, speed: Seconds | None = None
    ) -> Evaluation:
        """What was measured of all images."""
        tallied = [(row, tally.result()) for row, tally in self.pixel_tallies + self.partition_tallies]
        if not self.before.class_names:
            return Evaluation(tuple(tallied))
        dataset = self.dataset
        truths, names = align_truth_classes(self.truths, dataset.class_names, self.before.class_names)
        measured = align_keypoints(self.predictions, dataset.skeleton)
        inputs = replace(
            self.before, truths=truths, predictions=measured or self.predictions, class_names=names,
            has_masks=dataset.has_masks and all_have(self.predictions, "masks"),
            has_keypoints=measured is not None, speed=speed or {},
            max_detections=default_max_detections(truths) if max_detections is None else max_detections,
        )  # fmt: skip
        evaluation = _objects_measured(inputs, self.choice, threshold)
        order = {row.name: place for place, row in enumerate(self.choice.rows)}
        together = sorted((*evaluation.measured, *tallied), key=lambda pair: order[pair[0].name])
        return replace(evaluation, measured=tuple(together))


def _known_before(dataset: Dataset, detector: Described) -> MetricInput:
    """What is known before anything is predicted."""
    known: tuple[str, ...] = getattr(detector, "semantic_names", ())
    names = dataset.semantic_names
    if OTHER in known:  # a class for all things, which come first
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
    """The metrics about objects; ``threshold``, where given, instead of the best one."""
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
    """The number of objects of each class, crowds left out."""
    counts = np.zeros(len(class_names), np.int64)
    for truth in truths:
        labels = truth.labels if truth.crowd is None else truth.labels[~truth.crowd]
        counts += np.bincount(labels, minlength=len(class_names))
    return dict(zip(class_names, counts.tolist(), strict=True))


def _compact(instances: Instances) -> Instances:
    if instances.semantic is None:
        return instances
    return replace(instances, semantic=instances.semantic.astype(np.uint8))


def default_max_detections(truths: Sequence[Instances]) -> int:
    """COCO's 100 detections, or as many as the fullest image has objects."""
    return max(COCO_MAX_DETECTIONS, max((len(truth) for truth in truths), default=0))
