"""Statistics of a data set's boxes and image sizes, from which defaults are chosen; no image is decoded."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from rcnn.data.dataset import Dataset
from rcnn.transform import Transform

MIN_CLASS_OBJECTS = 10  # objects that make a class count for sizes of its own

OBJECTS_AT_ONCE = 1 << 18  # that are measured at a time

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Statistics:
    """What defaults are chosen from.

    Attributes:
        heights: of the images, ``[images]``.
        widths: of the images.
        sides: square roots of the boxes' areas in pixels, ``[objects]``.
        longest: longer sides of the boxes, ``[objects]``.
        ratios: height / width of the boxes.
        owner: the image of each object.
        labels: the class of each object.
        borders: whether the box comes within two pixels of the left or right, and of the upper or lower
            border of its image; ``[objects, 2]``.
        max_objects: the largest number of objects in one image.
    """

    heights: Floats
    widths: Floats
    sides: Floats
    longest: Floats
    ratios: Floats
    owner: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int64]
    borders: npt.NDArray[np.bool_]
    max_objects: int

    @classmethod
    def from_dataset(cls, dataset: Dataset) -> Statistics:
        """Measure the truth of a data set, without crowds."""
        objects = dataset.objects
        real = np.flatnonzero(~objects.crowd)
        shapes = objects.sizes.astype(np.float64)
        owners = objects.images[real]
        counts = np.bincount(owners, minlength=len(shapes))
        sides, longest, ratios = np.empty((3, len(real)))
        borders = np.empty((len(real), 2), np.bool_)
        for first in range(0, len(real), OBJECTS_AT_ONCE):
            part = slice(first, first + OBJECTS_AT_ONCE)
            corners = objects.boxes[real[part]].astype(np.float64)
            size = np.maximum(corners[:, 2:] - corners[:, :2], 1.0)
            sides[part], longest[part], ratios[part] = (
                np.sqrt(size.prod(1)),
                size.max(1),
                size[:, 1] / size[:, 0],
            )
            borders[part] = (corners[:, :2] <= 2) | (corners[:, 2:] >= shapes[owners[part], ::-1] - 2)
        return cls(
            shapes[:, 0], shapes[:, 1], sides, longest, ratios, owners, objects.labels[real], borders,
            int(counts.max(initial=0)),
        )  # fmt: skip

    def large(self, sizes: Floats, percentile: float) -> float:
        """A high percentile of all object sizes, or a usual one of a class of large objects, however rare."""
        usual = [
            np.percentile(sizes[self.labels == label], 75)
            for label, count in zip(*np.unique(self.labels, return_counts=True), strict=True)
            if count >= MIN_CLASS_OBJECTS
        ]
        return float(max([np.percentile(sizes, percentile), *usual]))

    def scaled(self, dataset: Dataset, transform: Transform) -> tuple[Statistics, Floats]:
        """Objects in the pixels of resized images, and the resize factor of each image."""
        factors = transform.factors(dataset.objects.sizes)
        of_object = factors[self.owner]
        return replace(self, sides=self.sides * of_object, longest=self.longest * of_object), factors

    @property
    def short_sides(self) -> Floats:
        """The shorter side of each image."""
        return np.minimum(self.heights, self.widths)
