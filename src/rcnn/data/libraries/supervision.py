"""``supervision.DetectionDataset``: its classes, boxes and masks; images are read by supervision."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rcnn.data.adapters import from_items
from rcnn.data.dataset import Dataset, Sample
from rcnn.structures import Instances


def is_supervision(items: Any) -> bool:
    """Whether an object is a detection data set of supervision."""
    return all(hasattr(items, name) for name in ("classes", "image_paths", "annotations", "as_coco"))


def read_supervision(items: Any, class_names: Sequence[str] | None = None) -> Dataset:
    """Open the data set; ``class_names`` replace its own.

    Raises:
        ValueError: as :func:`rcnn.data.adapters.from_items`.
    """
    names = tuple(map(str, class_names or items.classes))
    if len(names) != len(items.classes):
        raise ValueError(
            f"class_names: {len(names)} names, but the data set has {len(items.classes)} classes."
        )
    return from_items(_Samples(items, names))


class _Samples:
    """The items as ours."""

    def __init__(self, items: Any, class_names: tuple[str, ...]) -> None:
        self.items = items
        self.class_names = class_names

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Sample:
        path, image, detections = self.items[index]
        # Read by OpenCV: blue first.
        pixels = np.ascontiguousarray(
            image[:, :, 2::-1] if image.ndim == 3 else np.repeat(image[..., None], 3, 2)
        )
        size = (int(pixels.shape[0]), int(pixels.shape[1]))
        truth = Instances.from_supervision(detections, size, self.class_names)
        values = {name: getattr(truth, name) for name in ("boxes", "labels", "masks", "keypoints")}
        file = Path(path)
        return Sample(pixels, Instances(size, class_names=self.class_names, path=file, **values), file.stem)
