"""A detector running over a data set, and what is asked of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from rcnn.data.adapters import Items
from rcnn.data.check import refuse_or_measure
from rcnn.data.dataset import Dataset, Sample
from rcnn.data.formats.open import open_data
from rcnn.inference.stopwatch import Stopwatch
from rcnn.structures import Instances

COCO_MAX_DETECTIONS = 100

Progress = Callable[[int, int], None]
Seconds = dict[str, float]


class Described(Protocol):
    """Whatever made the predictions.

    It may also have ``semantic_names``, the pixel classes that it knows, and ``merge``, the settings by which
    its objects and pixels are merged into a partition.
    """

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names that the labels of its predictions index."""


class Predictor(Described, Protocol):
    """Anything that can be evaluated."""

    def predict(
        self,
        images: Sequence[Path | npt.NDArray[Any]],
        *,
        min_score: float | None = None,
        max_detections: int | None = None,
    ) -> list[Instances]:
        """The objects of each image in its own coordinates, best score first."""


@dataclass(frozen=True)
class Asked:
    """What predictions to be measured are asked for.

    Attributes:
        batch_size: images per call of ``predict``.
        min_score: the lowest score to predict.
        max_detections: the cap on detections per image.
    """

    batch_size: int
    min_score: float
    max_detections: int


def ready(detector: Predictor, dataset: Dataset | str | Path | Items) -> tuple[Predictor, Dataset]:
    """A detector in the precision that is measured, and a data set that is read as the detector reads.

    Raises:
        ValueError: a data set without images, or with errors in more than a twentieth of it.
    """
    # In float32, unless the detector was given another precision by name.
    detector = detector.for_measuring() if hasattr(detector, "for_measuring") else detector
    if not isinstance(dataset, Dataset):
        opened = open_data(dataset)
        dataset, _ = refuse_or_measure(opened)
    if not len(dataset):
        raise ValueError(f"{dataset.source}: no images to evaluate on; give a data set with at least one.")
    return detector, dataset.read_for(detector.reading) if hasattr(detector, "reading") else dataset


class Running:
    """A detector running over a data set.

    Attributes:
        seconds: mean seconds per image for ``decoding`` and ``predicting``.
    """

    def __init__(self, detector: Predictor, asked: Asked, *, is_timed: bool = False) -> None:
        """Prepare to predict; ``is_timed`` measures the speed of the network, too."""
        most: int | None = getattr(detector, "candidates", None)  # the most that a file can be asked for
        self.predict: Callable[..., list[Instances]] = detector.predict
        self.batch_size = asked.batch_size
        self.asked: dict[str, Any] = {
            "min_score": asked.min_score,
            "max_detections": min(asked.max_detections, most or asked.max_detections),
        }
        self.is_timed = is_timed
        self.watch = Stopwatch(getattr(detector, "inference_network", None) if is_timed else None)
        self.seconds: Seconds = {"decoding": 0.0, "predicting": 0.0}

    def over(self, dataset: Dataset) -> Iterator[tuple[Instances, Instances]]:
        """Truth and predictions, image by image."""
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
        # Only if the data set has them: a detector need not know about proposals.
        brought = {} if any(b is None for b in boxes) else {"proposals": boxes}
        with self.watch:
            return self.predict([sample.image for sample in samples], **self.asked, **brought)

    def speed(self, images: int) -> Seconds:
        """The timings of the detector, if they are needed."""
        return self.watch.speed(images, **self.seconds) if self.is_timed else {}


def compact(instances: Instances) -> Instances:
    """The same, with a semantic map of one byte per pixel."""
    if instances.semantic is None:
        return instances
    return replace(instances, semantic=instances.semantic.astype(np.uint8))


def asked_of(dataset: Dataset, batch_size: int, min_score: float, max_detections: int | None) -> Asked:
    """What is asked of predictions on a data set; without a cap, the usual one."""
    cap = max_detections
    if cap is None:
        cap = default_max_detections(dataset.objects.counts.tolist())
    return Asked(batch_size, min_score, cap)


def default_max_detections(counts: Iterable[int]) -> int:
    """COCO's 100 detections, or the number of objects in the fullest image if that is more."""
    return max([COCO_MAX_DETECTIONS, *counts])
