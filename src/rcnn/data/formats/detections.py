"""Detections as they come from a file, in any order: held in little memory until they are sorted by image."""

from __future__ import annotations

from array import array
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from rcnn.structures import Masks, Outline, PackedMasks, Size

PENDING = 1024  # entries whose outlines are held as the file has them

Entry = dict[str, Any]


class Detections:
    """Collects checked entries of COCO's results.

    Attributes:
        has_masks: whether all of them have an outline.
        has_points: whether all of them have keypoints.
    """

    def __init__(self, sizes: Sequence[Size], num_points: int) -> None:
        """Prepare to collect.

        Args:
            sizes: (height, width) of the images.
            num_points: keypoints of an object; 0: they are left out.
        """
        self.sizes, self.num_points = sizes, num_points
        self.has_masks, self.has_points = True, num_points > 0
        self._images, self._labels = array("q"), array("q")
        self._scores, self._boxes, self._points = array("d"), array("f"), array("f")
        self._pending: list[tuple[int, Outline]] = []
        self._masks: dict[int, list[PackedMasks]] = defaultdict(list)

    def add(self, image: int, label: int, entry: Entry) -> None:
        """Add an entry that was found to be right, on an image that is given by its index."""
        self._images.append(image)
        self._labels.append(label)
        self._scores.append(float(entry["score"]))
        self._boxes.extend(_box(entry, self.sizes[image]))
        self.has_masks = self.has_masks and "segmentation" in entry
        self.has_points = self.has_points and "keypoints" in entry
        if self.has_points:
            self._points.extend(_points(entry))
        if self.has_masks:
            self._pending.append((image, outline_of(entry["segmentation"])))
            if len(self._pending) == PENDING:
                self._pack()

    def _pack(self) -> None:
        """Make run-length codes of the outlines that wait."""
        outlines: dict[int, list[Outline]] = defaultdict(list)
        for image, outline in self._pending:
            outlines[image].append(outline)
        for image, own in outlines.items():
            self._masks[image].append(PackedMasks.from_outlines(own, self.sizes[image]))
        self._pending.clear()

    def by_image(self) -> list[dict[str, Any]]:
        """The fields of each image's objects, best score first, those of equal score as they came."""
        self._pack()
        scores, images = np.array(self._scores, np.float64), np.array(self._images, np.int64)
        fields: dict[str, npt.NDArray[Any]] = {
            "boxes": np.array(self._boxes, np.float32).reshape(-1, 4),
            "labels": np.array(self._labels, np.int64),
            "scores": scores.astype(np.float32),
        }
        if self.has_points:
            fields["keypoints"] = np.array(self._points, np.float32).reshape(-1, self.num_points, 3)
        came = np.argsort(images, kind="stable")
        ends = np.searchsorted(images[came], np.arange(1, len(self.sizes)))
        found = []
        for image, own in enumerate(np.split(came, ends)[: len(self.sizes)]):
            best = np.argsort(-scores[own], kind="stable")
            objects: dict[str, Any] = {name: values[own[best]] for name, values in fields.items()}
            if self.has_masks:
                parts = self._masks.pop(image, [])
                objects["masks"] = PackedMasks.concatenate(parts, self.sizes[image])[best]
            found.append(objects)
        return found


def outline_of(segmentation: Any) -> Outline:
    """COCO's segmentation as an outline; parts of less than three corners are left out."""
    if isinstance(segmentation, dict):
        return segmentation
    return [np.array(part, dtype=np.float64).reshape(-1, 2) for part in segmentation if len(part) >= 6]


def _box(entry: Entry, size: Size) -> list[float]:
    """The corners of the box; without a box, those of the mask or of the keypoints."""
    if "bbox" in entry:
        x, y, w, h = entry["bbox"]
        return [x, y, x + w, y + h]
    if "segmentation" in entry:
        box: list[float] = Masks.from_outlines([outline_of(entry["segmentation"])], size).boxes()[0].tolist()
        return box
    points = entry["keypoints"]
    return [min(points[0::3]), min(points[1::3]), max(points[0::3]) + 1, max(points[1::3]) + 1]


def _points(entry: Entry) -> npt.NDArray[np.float32]:
    """Keypoints float32 ``[3 K]``; in a COCO file, their scores are apart from their visibility."""
    points = np.array(entry["keypoints"], np.float64).reshape(-1, 3)
    points[:, :2] += 0.5  # COCO's are pixel indices
    if "keypoint_scores" in entry:
        points[:, 2] = entry["keypoint_scores"]
    return points.astype(np.float32).reshape(-1)
