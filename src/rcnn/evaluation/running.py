"""A detector running over a data set, and what is asked of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import numpy.typing as npt

from rcnn.data.adapters import CUSTOM, Items
from rcnn.data.check import refuse_or_measure
from rcnn.data.cores import available_cores
from rcnn.data.dataset import Dataset
from rcnn.data.formats.open import open_data
from rcnn.inference.predictor import BATCHES_TO_SORT, Model, sharing_batches
from rcnn.inference.stopwatch import Stopwatch
from rcnn.io.ahead import MAX_THREADS, ahead, working_threads
from rcnn.structures import Array, Instances

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
        batch_size: images that are predicted together; None: the detector's own number, or 1.
        min_score: the lowest score to predict.
        max_detections: the cap on detections per image.
    """

    batch_size: int | None
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

    Threads read the next images and pack the masks of the last ones while the network computes. On a device
    it computes on batches of images that are padded to the same size, which are looked for among several
    batches' images; only the masks of about two batches are ever bitmaps.

    Attributes:
        seconds: mean seconds per image for ``decoding`` and ``predicting``.
    """

    def __init__(self, detector: Predictor, asked: Asked, *, is_timed: bool = False) -> None:
        """Prepare to predict.

        Args:
            detector: what predicts.
            asked: what it is asked for.
            is_timed: also measure the speed of the network. Images are then read one after the other, since
                threads that read would take time from it.
        """
        most: int | None = getattr(detector, "candidates", None)  # the most that a file can be asked for
        self.detector = detector
        self.predict: Callable[..., list[Instances]] = detector.predict
        own: int = getattr(detector, "batch_size", 1)
        self.batch_size = asked.batch_size or own
        self.asked: dict[str, Any] = {
            "min_score": asked.min_score,
            "max_detections": min(asked.max_detections, most or asked.max_detections),
        }
        # Others need not know about batches: they get as many images per call.
        self.asked |= {"batch_size": self.batch_size} if hasattr(detector, "batch_key") else {}
        self.is_timed = is_timed
        self.watch = Stopwatch(getattr(detector, "inference_network", None) if is_timed else None)
        self.seconds: Seconds = {"decoding": 0.0, "predicting": 0.0}

    def over(self, dataset: Dataset) -> Generator[tuple[Instances, Instances]]:
        """Truth and predictions, image by image in the data set's order, both as :func:`compact` has them.

        Raises:
            ValueError: an image that cannot be read, when its batch comes; it names the file.
        """
        batches = self._batches(dataset)
        threads = 0 if self.is_timed else reading_threads(dataset)
        order = [index for batch in batches for index in batch]
        reading: _Work = map
        packing: _Work = map
        with ExitStack() as stack:
            if threads:
                pool = stack.enter_context(working_threads(threads))
                depth = 2 * self.batch_size
                reading = partial(ahead, pool, depth=depth, least=depth)
                packing = partial(ahead, pool, depth=self.batch_size)
            seen = self._predicted(batches, reading(partial(_read, dataset), order), len(dataset))
            yield from _in_order(packing(_Seen.packed, seen))

    def _batches(self, dataset: Dataset) -> list[list[int]]:
        """The images that are given to the network in one call."""
        size = self.batch_size
        if size == 1 or not hasattr(self.detector, "batch_key"):
            return [list(range(len(dataset))[start : start + size]) for start in range(0, len(dataset), size)]
        batches = []
        window = BATCHES_TO_SORT * size
        sizes = [(height, width) for height, width in dataset.objects.sizes.tolist()]
        for first in range(0, len(dataset), window):
            for group in sharing_batches(cast("Model", self.detector), sizes[first : first + window]):
                places = [first + place for place in group]
                batches += [places[start : start + size] for start in range(0, len(places), size)]
        return batches

    def _predicted(
        self, batches: Sequence[Sequence[int]], samples: Iterator[_Seen], count: int
    ) -> Iterator[_Seen]:
        """The images, which come in the order of the batches, with what was found on them."""
        for batch in batches:
            chosen = list(islice(samples, len(batch)))
            began = time.perf_counter()
            found = self._found(chosen)
            self.seconds["predicting"] += (time.perf_counter() - began) / count
            for one, instances in zip(chosen, found, strict=True):
                self.seconds["decoding"] += one.seconds / count
                yield replace(one, image=None, found=instances)

    def _found(self, samples: Sequence[_Seen]) -> list[Instances]:
        boxes = [sample.truth.proposals for sample in samples]
        # Only if the data set has them: a detector need not know about proposals.
        brought = {} if any(b is None for b in boxes) else {"proposals": boxes}
        with self.watch:
            return self.predict([sample.image for sample in samples], **self.asked, **brought)

    def speed(self, images: int) -> Seconds:
        """The timings of the detector, if they are needed."""
        return self.watch.speed(images, **self.seconds) if self.is_timed else {}


@dataclass(frozen=True)
class _Seen:
    """An image on its way through an evaluation.

    Attributes:
        index: its place in the data set.
        truth: what is annotated on it, compact.
        seconds: that reading it took.
        image: its pixels, until it was predicted.
        found: what was found on it.
    """

    index: int
    truth: Instances
    seconds: float
    image: Array | None = None
    found: Instances | None = None

    def packed(self) -> _Seen:
        """The same, with what was found on it compact."""
        return self if self.found is None else replace(self, found=compact(self.found))


class _Work(Protocol):
    """Applies a function to items, in order: ``map``, or :func:`rcnn.io.ahead.ahead` with threads."""

    def __call__(self, work: Callable[[Any], _Seen], items: Iterable[Any], /) -> Iterator[_Seen]: ...


def _read(dataset: Dataset, index: int) -> _Seen:
    """An image with its truth, whose masks are packed at once."""
    began = time.perf_counter()
    sample = dataset[index]
    truth = replace(compact(sample.truth), path=dataset.records[index].path)
    return _Seen(index, truth, time.perf_counter() - began, sample.image)


def _in_order(seen: Iterable[_Seen]) -> Iterator[tuple[Instances, Instances]]:
    """Truth and predictions in the data set's order; what comes early waits."""
    waiting: dict[int, _Seen] = {}
    following = 0
    for one in seen:
        waiting[one.index] = one
        while following in waiting:
            done = waiting.pop(following)
            assert done.found is not None
            yield done.truth, done.found
            following += 1


def reading_threads(dataset: Dataset) -> int:
    """The number of threads that may read a data set's images ahead; 0: only the caller's own.

    Objects of a user's own need not be made for threads, and files that hold many images have one place at
    which they are read.
    """
    if not len(dataset) or dataset.format == CUSTOM:
        return 0
    return min(MAX_THREADS, available_cores()) if dataset.records[0].image is None else 1


def compact(instances: Instances) -> Instances:
    """The same in little memory: masks as run-length codes, a semantic map of one byte per pixel."""
    masks, semantic = instances.masks, instances.semantic
    return replace(
        instances,
        masks=None if masks is None else masks.packed(),
        semantic=None if semantic is None else semantic.astype(np.uint8, copy=False),
    )


def asked_of(dataset: Dataset, batch_size: int | None, min_score: float, max_detections: int | None) -> Asked:
    """What is asked of predictions on a data set; without a cap, the usual one.

    Raises:
        ValueError: a batch size below 1.
    """
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, not {batch_size}")
    cap = max_detections
    if cap is None:
        cap = default_max_detections(dataset.objects.counts.tolist())
    return Asked(batch_size, min_score, cap)


def default_max_detections(counts: Iterable[int]) -> int:
    """COCO's 100 detections, or the number of objects in the fullest image if that is more."""
    return max([COCO_MAX_DETECTIONS, *counts])
