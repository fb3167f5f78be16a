"""Evaluation whose predictions are made by actors on Ray: the same figures, however many there are."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from typing import Any

from rcnn.bulk.ray_workers import RayOptions, done_by_actors
from rcnn.bulk.worker import WorkerOptions, open_model
from rcnn.data.dataset import Dataset
from rcnn.evaluation.running import Asked, Predictor, Progress
from rcnn.evaluation.shares import Shared, predict_images
from rcnn.io.reading import Reading

IMAGES = 16  # of one task; an actor that dies loses these


class _Actor:
    """A model and a data set; a batch names the first of the images that are to be predicted."""

    def __init__(
        self, dataset: Any, source: str, reading: Reading, asked: Asked, options: WorkerOptions
    ) -> None:
        import ray

        self.dataset: Dataset = ray.get(dataset)
        self.detector = open_model(source, options).with_reading(reading).for_measuring()
        self.asked = asked

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        first = int(batch["shard"][0])
        some = self.dataset.subset(range(first, min(first + IMAGES, len(self.dataset))))
        return {"first": [first], "found": [pickle.dumps(predict_images(self.detector, some, self.asked))]}


@dataclass(frozen=True)
class RayShare:
    """Has all images of a data set predicted, for :func:`rcnn.evaluation.shares.evaluate_shares`.

    Attributes:
        source: the model, as :func:`rcnn.load` takes it on every machine.
        options: how each actor works.
        ray: the cluster and its actors.
    """

    source: str
    options: WorkerOptions
    ray: RayOptions

    def __call__(
        self, detector: Predictor, dataset: Dataset, asked: Asked, progress: Progress | None = None
    ) -> Shared:
        """The predictions in the order of the images, and mean seconds of an image.

        Raises:
            ValueError: Ray is not installed, or no cluster is reached.
            RuntimeError: images could not be predicted, however often that was tried.
        """
        reading: Reading = getattr(detector, "reading", dataset.reading)
        parts: dict[int, Shared] = {}
        done = 0
        for row in done_by_actors(
            self.ray,
            range(0, len(dataset), IMAGES),
            _Actor,
            lambda put, options: (put(dataset), self.source, reading, asked, options),
            self.options,
        ):
            parts[row["first"]] = part = pickle.loads(row["found"])  # of our own actors
            done += len(part[0])
            if progress is not None:
                progress(done, len(dataset))
        found = [instances for first in sorted(parts) for instances in parts[first][0]]
        kinds = parts[0][1]
        seconds = {
            kind: sum(own[kind] * len(some) for some, own in parts.values()) / len(found) for kind in kinds
        }
        return found, seconds
