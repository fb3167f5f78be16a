"""Why objects of a data set are missed: one cause for each, and how many there are of each cause."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from rcnn.config import did_you_mean
from rcnn.data.adapters import Items
from rcnn.data.check import refuse_or_measure
from rcnn.data.dataset import Dataset
from rcnn.data.formats.open import open_data
from rcnn.evaluation.alignment import align_truth_classes
from rcnn.evaluation.explain.explain import (
    Case,
    check_explainable,
    choose_subject,
    explain_watched,
    followed,
)
from rcnn.evaluation.explain.explanation import Explanation
from rcnn.evaluation.explain.passes import NotExplainableError, Watched, watch
from rcnn.evaluation.explain.subject import Place, true_object
from rcnn.inference.detector import Detector
from rcnn.metrics.causes import Causes, MissedObject
from rcnn.metrics.metric import Evaluation
from rcnn.structures import Instances

Progress = Callable[[int, int], None]
EXPLAINED = 50  # images of an evaluation whose missed objects are explained


def explain_data(
    detector: Detector,
    data: Dataset | str | Path | Items,
    *,
    min_score: float | None = None,
    max_detections: int | None = None,
    numbers: Sequence[int] | None = None,
    progress: Progress | None = None,
) -> Causes:
    """Name the cause of every missed object of a data set.

    An object is missed where the evaluation counts it as missed: no detection of its class overlaps it with
    IoU ≥ 0.5 (masks where data and model have them, else boxes), or the one that does counts for another
    object. Its cause is the first stage after which no candidate for it remains.

    Args:
        detector: a trained network; computes in float32 unless another precision was asked for by name.
        data: images with truth, or a path that :func:`rcnn.open_data` reads.
        min_score: the score threshold; that of the detector where None.
        max_detections: the cap on detections per image; that of the model where None.
        numbers: indices of the images to look at; all where None.
        progress: called with the number of images done and the number of all images.

    Raises:
        ValueError: a model that does not show its stages, or data that cannot be measured on.
    """
    check_explainable(detector)
    dataset = data if isinstance(data, Dataset) else refuse_or_measure(open_data(data))[0]
    dataset = dataset.read_for(detector.reading)
    if not len(dataset):
        raise ValueError(f"{dataset.source}: no images to explain; give a data set with at least one")
    detector = detector.for_measuring()
    names, truths = aligned_truths(dataset, detector.class_names)
    chosen = range(len(dataset)) if numbers is None else numbers
    missed: list[MissedObject] = []
    num_objects, kinds = 0, set()
    for done, number in enumerate(chosen, 1):
        case, found = _missed_in(detector, dataset, number, truths[number], (min_score, max_detections))
        num_objects += len(case.matching.objects)
        kinds.add(case.kind)
        missed += found
        if progress is not None:
            progress(done, len(chosen))
    return Causes(
        missed,
        num_objects,
        len(chosen),
        "mask" if "mask" in kinds else "box",
        detector.min_score if min_score is None else min_score,
        max_detections,
        list(names),
    )


def with_causes(
    evaluation: Evaluation, detector: object, dataset: Dataset, progress: Progress | None = None
) -> Evaluation:
    """The evaluation with why objects are missed at its best threshold, if any are.

    At most ``EXPLAINED`` of the images with missed objects are looked at, spread over all of them: each is
    predicted once more.

    Args:
        evaluation: of the detector on the data set.
        detector: any; the evaluation of one that does not show its stages (exported, R-CNN) stays as it is.
        dataset: the images.
        progress: called with the number of images done and of all that are looked at.
    """
    lacking = [number for number, match in enumerate(evaluation.matches) if match.missed_truths]
    if not lacking or not isinstance(detector, Detector):
        return evaluation
    places = np.unique(np.linspace(0, len(lacking) - 1, min(EXPLAINED, len(lacking))).round().astype(int))
    try:
        causes = explain_data(
            detector, dataset, min_score=evaluation.f1_threshold, max_detections=evaluation.max_detections,
            numbers=[lacking[place] for place in places.tolist()], progress=progress,
        )  # fmt: skip
    except NotExplainableError:
        return evaluation
    return replace(evaluation, causes=causes)


def explain_object(
    detector: Detector,
    dataset: Dataset,
    number: int,
    *,
    at: Place | None = None,
    index: int | None = None,
    min_score: float | None = None,
    max_detections: int | None = None,
) -> Explanation:
    """Follow one object of an image of a data set; without one, the first that was missed.

    Args:
        detector: a trained network.
        dataset: the images.
        number: the index of the image.
        at: a place in it; the annotated object there is followed.
        index: of the object in its image.
        min_score: see :func:`explain_data`.
        max_detections: likewise.

    Raises:
        ValueError: as :func:`rcnn.explain`.
    """
    check_explainable(detector)
    detector, dataset = detector.for_measuring(), dataset.read_for(detector.reading)
    _, truths = aligned_truths(dataset.subset([number]), detector.class_names)
    watched, case = case_of(
        detector, dataset, number, truths[0], min_score=min_score, max_detections=max_detections
    )
    subject = choose_subject(watched, case, at=at, index=index)
    return explain_watched(watched, subject, case, model=type(detector.network).__name__)


def find_image(dataset: Dataset, name: str) -> int:
    """The index of an image by its id, its file name, or the end of its path.

    Raises:
        ValueError: none or several have this name.
    """
    found = [
        number
        for number, record in enumerate(dataset.records)
        if name in (str(record.image_id), record.path.name, record.path.stem)
        or str(record.path).endswith(f"/{name.lstrip('/')}")
    ]
    if not found:
        names = {record.path.name for record in dataset.records}
        raise ValueError(f"{dataset.source}: no image is called {name}; {did_you_mean(name, names)}".rstrip())
    if len(found) > 1:
        paths = ", ".join(str(dataset.records[number].path) for number in found[:3])
        raise ValueError(
            f"{dataset.source}: {len(found)} images are called {name}: {paths}; give more of the path"
        )
    return found[0]


def aligned_truths(dataset: Dataset, model_names: Sequence[str]) -> tuple[tuple[str, ...], list[Instances]]:
    """The names that a model's labels index, then classes of the data that it lacks, and the truth in these.

    The truths are those of the records: their masks are not loaded.
    """
    truths, names = align_truth_classes(
        [record.truth for record in dataset.records], dataset.class_names, model_names
    )
    return names, truths


def case_of(
    detector: Detector,
    dataset: Dataset,
    number: int,
    aligned: Instances,
    *,
    min_score: float | None = None,
    max_detections: int | None = None,
) -> tuple[Watched, Case]:
    """Detect in one image of a data set, watched, and match its objects.

    Args:
        detector: a trained network.
        dataset: the images.
        number: the index of the image.
        aligned: its truth in the model's labels, of :func:`aligned_truths`.
        min_score: see :func:`explain_data`.
        max_detections: likewise.
    """
    sample = dataset[number]
    watched = watch(
        detector, sample.image, min_score=min_score, max_detections=max_detections,
        proposals=sample.truth.proposals,
    )  # fmt: skip
    found = replace(watched.found, path=dataset.records[number].path)
    watched = replace(watched, found=found)
    truth = replace(sample.truth, labels=aligned.labels, class_names=aligned.class_names)
    compares_masks = dataset.has_masks and found.masks is not None
    return watched, Case.of(watched, truth, class_names=detector.class_names, compares_masks=compares_masks)


def _missed_in(
    detector: Detector,
    dataset: Dataset,
    number: int,
    aligned: Instances,
    limits: tuple[float | None, int | None],
) -> tuple[Case, list[MissedObject]]:
    """The missed objects of one image; ``limits`` are the threshold and the cap."""
    min_score, max_detections = limits
    watched, case = case_of(
        detector, dataset, number, aligned, min_score=min_score, max_detections=max_detections
    )
    missed = []
    for index in case.missed:
        subject = true_object(case.truth, index)
        end = followed(watched, subject, case)
        assert end.cause is not None
        lost = None if end.chain is None else end.chain.lost_at
        missed.append(
            MissedObject(
                str(dataset.records[number].path),
                number,
                index,
                subject.class_name,
                subject.box,
                end.cause,
                "" if lost is None else lost.key,
            )
        )
    return case, missed
