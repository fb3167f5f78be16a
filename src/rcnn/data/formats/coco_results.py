"""COCO results files: the detections of any model on a data set, as a list of JSON objects.

Each has ``image_id``, ``category_id``, ``score`` and one or more of ``bbox`` (x, y, width, height),
``segmentation`` (run-length code or polygons) and ``keypoints``. A missing box is derived from the mask or
the keypoints. Errors name the file and the number of the entry, counted from 0.

Image ids are those of the data set (``Record.image_id``). An image may also be identified by its path below
the folder of the data set, or by its file name if it is unique, as ``rcnn predict`` writes it.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rcnn.data.dataset import Dataset
from rcnn.data.formats.outlines import is_number, polygon_fault, rle_fault
from rcnn.structures import Instances, Masks, Outline, Size

SHOWN = 5  # ids shown in a message


def read_results(path: str | Path, dataset: Dataset) -> list[Instances]:
    """The detections of each image of a data set, best score first; images without detections are empty.

    Masks and keypoints are present if all detections of the file have them. Labels are those of the data set.

    Raises:
        ValueError: not a JSON list, or an entry that is incomplete or does not match the data set.
        OSError: the file cannot be read.
    """
    path = Path(path)
    try:
        entries = json.loads(path.read_bytes().decode("utf-8-sig"))
    except ValueError as error:
        raise ValueError(f"{path}: not JSON ({error}); expected a list of COCO results") from error
    if not isinstance(entries, list):
        hint = "; this looks like annotations" if isinstance(entries, dict) else ""
        raise ValueError(f"{path}: expected a list of COCO results{hint}")
    reader = _Reader(path, dataset)
    chosen: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for number, entry in enumerate(entries):
        index = reader.check(number, entry)
        chosen[index].append(entry)
    have = {field: all(field in entry for entry in entries) for field in ("segmentation", "keypoints")}
    return [reader.instances(i, chosen[i], **have) for i in range(len(dataset))]


class _Reader:
    """Checks entries and converts them to Instances."""

    def __init__(self, path: Path, dataset: Dataset) -> None:
        self.path, self.dataset = path, dataset
        ids = dataset.category_ids or tuple(range(1, len(dataset.class_names) + 1))
        self.labels = {category: label for label, category in enumerate(ids)}
        self.images = _image_names(dataset)

    def check(self, number: int, entry: Any) -> int:
        """The index of the image of an entry."""
        if not isinstance(entry, dict):
            raise self._error(number, f"found {str(entry)[:40]!r}", "expected an object with image_id, …")
        missing = [key for key in ("image_id", "category_id", "score") if key not in entry]
        if missing or not any(key in entry for key in ("bbox", "segmentation", "keypoints")):
            what = f"lacks {' and '.join(missing) or 'bbox, segmentation and keypoints'}"
            expected = "expected image_id, category_id, score, and a box, mask or keypoints"
            raise self._error(number, what, expected)
        image_id, category = (
            int(value) if isinstance(value, float) and value.is_integer() else value
            for value in (entry["image_id"], entry["category_id"])
        )
        entry |= {"image_id": image_id, "category_id": category}  # exported tables have 1.0
        index = self.images.get(image_id) if isinstance(image_id, int | str) else None
        if index is None:
            known = [record.image_id for record in self.dataset.records]
            raise self._error(number, f"image_id {image_id!r}", f"the data set has {_some(known)}")
        if not isinstance(category, int) or category not in self.labels:
            what = f"category_id {category!r}"
            raise self._error(number, what, f"the data set has {_some(list(self.labels))}")
        if not is_number(entry["score"]):
            raise self._error(number, f"score {entry['score']!r}", "expected a finite number")
        fault = self._shape_fault(entry, self.dataset.records[index].truth.size)
        if fault:
            raise self._error(number, *fault)
        return index

    def _shape_fault(self, entry: dict[str, Any], size: Size) -> tuple[str, str] | None:
        box: Any = entry.get("bbox")
        outline: Any = entry.get("segmentation")
        points: Any = entry.get("keypoints")
        if "bbox" in entry and not (_numbers(box) and len(box) == 4):
            return f"bbox {str(box)[:60]}", "expected x, y, width, height"
        if "segmentation" in entry:
            fault = rle_fault(outline, size) if isinstance(outline, dict) else polygon_fault(outline)
            if fault is None and not _outline(outline):
                fault = "expected a polygon of at least three corners."
            if fault:
                return "the segmentation cannot be used", fault
        skeleton = self.dataset.skeleton
        count = 0 if skeleton is None else 3 * len(skeleton.names)
        if "keypoints" in entry and count and not (_numbers(points) and len(points) == count):
            return f"keypoints {str(points)[:60]}", f"expected {count} numbers x, y, score, …"
        return None

    def _error(self, number: int, found: str, expected: str) -> ValueError:
        return ValueError(f"{self.path}: entry {number}: {found}; {expected}")

    def instances(
        self, index: int, entries: Sequence[dict[str, Any]], *, segmentation: bool, keypoints: bool
    ) -> Instances:
        """One image's detections."""
        record = self.dataset.records[index]
        size, skeleton = record.truth.size, self.dataset.skeleton
        ordered = sorted(entries, key=lambda entry: -float(entry["score"]))
        masks = None
        if segmentation:
            masks = Masks.from_outlines([_outline(entry["segmentation"]) for entry in ordered], size)
        points = None
        if keypoints and skeleton is not None:
            values = [entry["keypoints"] for entry in ordered]
            points = np.array(values, np.float32).reshape(-1, len(skeleton.names), 3)
            points[..., :2] += 0.5  # COCO's are pixel indices
        return Instances(
            size=size,
            boxes=np.array([_box(entry, size) for entry in ordered], np.float32).reshape(-1, 4),
            labels=np.array([self.labels[entry["category_id"]] for entry in ordered], np.int64),
            scores=np.array([float(entry["score"]) for entry in ordered], np.float32),
            masks=masks,
            keypoints=points,
            class_names=self.dataset.class_names,
            skeleton=skeleton if points is not None else None,
            path=record.path,
        )


def _image_names(dataset: Dataset) -> dict[int | str, int]:
    """The index of each image by all names that identify it; ids take precedence."""
    records = dataset.records
    names: dict[int | str, int] = {}
    for attribute in (_below(dataset), [r.path.name for r in records], [str(r.image_id) for r in records]):
        counts = Counter(attribute)
        names |= {name: i for i, name in enumerate(attribute) if counts[name] == 1}
    return names | {record.image_id: i for i, record in enumerate(records)}


def _below(dataset: Dataset) -> list[str]:
    """The paths of the images relative to the folder that was opened."""
    folder = dataset.source if dataset.source.is_dir() else dataset.source.parent
    paths = [record.path for record in dataset.records]
    return [(p.relative_to(folder) if p.is_relative_to(folder) else p).as_posix() for p in paths]


def _outline(segmentation: Any) -> Outline:
    if isinstance(segmentation, dict):
        return segmentation
    return [np.array(part, dtype=np.float64).reshape(-1, 2) for part in segmentation if len(part) >= 6]


def _box(entry: dict[str, Any], size: Size) -> list[float]:
    """The corners of the box; without a box, those of the mask or of the keypoints."""
    if "bbox" in entry:
        x, y, w, h = entry["bbox"]
        return [x, y, x + w, y + h]
    if "segmentation" in entry:
        box: list[float] = Masks.from_outlines([_outline(entry["segmentation"])], size).boxes()[0].tolist()
        return box
    points = entry["keypoints"]
    return [min(points[0::3]), min(points[1::3]), max(points[0::3]) + 1, max(points[1::3]) + 1]


def _numbers(values: Any) -> bool:
    return isinstance(values, list) and all(is_number(value) for value in values)


def _some(ids: Sequence[int | str]) -> str:
    """The first few ids, for a message."""
    rest = f", … ({len(ids)} in total)" if len(ids) > SHOWN else ""
    return f"{', '.join(map(repr, ids[:SHOWN]))}{rest}"
