"""Hugging Face's ``datasets`` with an image and COCO-like objects in each row.

    {"image": …, "image_id": 7, "objects": {"bbox": [[x, y, width, height], …], "category": [0, …]}}

The columns are found by their content: an image; and lists named ``bbox`` (or ``bboxes``, ``boxes``) and
``category`` (or ``label``, …), in a column of objects or on their own. Names come from ``ClassLabel``. Boxes
are x, y, width, height in pixels, as in COCO; ``segmentation`` are COCO's polygons.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from rcnn.data.adapters import from_items
from rcnn.data.builder import DatasetBuilder
from rcnn.data.dataset import Dataset, Sample
from rcnn.data.formats.coco_suspicions import Suspicions
from rcnn.data.formats.image_folder import BOXES, CLASSES, CROWDS
from rcnn.io.images import as_pixels, to_bytes
from rcnn.structures import Instances, Masks, Size

NAME = "Hugging Face data set"
OUTLINES = ("segmentation", "segmentations", "polygons")
IDS = ("image_id", "id")


def is_hugging_face(items: Any) -> bool:
    """Whether an object is a data set of ``datasets``, or a dictionary of splits."""
    if isinstance(items, Mapping):
        return bool(items) and all(_has_features(part) for part in items.values())
    return _has_features(items)


def _has_features(items: Any) -> bool:
    return hasattr(items, "features") and hasattr(items, "column_names") and hasattr(items, "__getitem__")


def read_hugging_face(items: Any, class_names: Sequence[str] | None = None) -> Dataset:
    """Open one split.

    Args:
        items: the split, with decoded images.
        class_names: of integer categories; None takes those of ``ClassLabel``, or else the numbers.

    Raises:
        ValueError: several splits, or other columns, or a row of another form.
    """
    if isinstance(items, Mapping):
        first = next(iter(items))
        raise ValueError(f"{NAME}: it has the splits {', '.join(items)}; pass one, items[{first!r}].")
    columns = _columns(items)
    samples = _Samples(items, columns, _names(items, columns, class_names))
    data = from_items(samples)
    builder = DatasetBuilder("Python object", Path(NAME))
    suspicions = Suspicions(builder)
    for record in data.records:
        for x1, y1, x2, y2 in samples.written.get(record.image_id, []):
            suspicions.look_at_numbers((x1, y1, x2, y2), record.truth.size)
    suspicions.report()
    return replace(data, source=Path(NAME), problems=(*builder.problems, *data.problems))


@dataclass(frozen=True)
class _Columns:
    """Where the values of a row are.

    Attributes:
        image: the column of the image.
        objects: the column of the objects; None if their lists are columns.
        boxes: the name of the boxes.
        classes: that of the categories, if there are any.
    """

    image: str
    objects: str | None
    boxes: str
    classes: str | None

    def values(self, row: Mapping[str, Any], names: Sequence[str]) -> Any:
        """A list with one value per object; None if there is none of these names."""
        found = row if self.objects is None else row[self.objects]
        if isinstance(found, Mapping):
            return next((found[name] for name in names if found.get(name) is not None), None)
        listed = list(found or [])
        name = next((name for name in names if listed and name in listed[0]), None)
        return None if name is None else [entry[name] for entry in listed]


def _columns(items: Any) -> _Columns:
    """The columns by the names of the features and the first row."""
    if not len(items):
        raise ValueError(f"{NAME}: it has no rows.")
    row = items[0]
    images = [
        name for name, value in row.items() if hasattr(value, "convert") or getattr(value, "ndim", 0) >= 2
    ]
    if not images:
        raise ValueError(
            f"{NAME}: no column has images; found {', '.join(row)}. Cast the column: "
            'items.cast_column("image", datasets.Image()).'
        )
    for name, keys in [(None, list(row)), *((name, _keys(items, row, name)) for name in row)]:
        boxes = next((key for key in BOXES if key in keys), None)
        if boxes is not None:
            classes = next((key for key in CLASSES if key in keys), None)
            return _Columns("image" if "image" in images else images[0], name, boxes, classes)
    raise ValueError(
        f"{NAME}: no column has boxes ({', '.join(BOXES)}), on its own or in a column of objects; found "
        f"{', '.join(row)}."
    )


def _keys(items: Any, row: Mapping[str, Any], name: str) -> list[str]:
    """The names inside a column of objects."""
    value = row[name]
    if isinstance(value, Mapping):
        return list(value)
    if isinstance(value, list) and value and isinstance(value[0], Mapping):
        return list(value[0])
    return [key for key in (*BOXES, *CLASSES) if _feature(items.features.get(name), key) is not None]


def _feature(feature: Any, key: str) -> Any:
    """The feature of a name inside nested lists of features."""
    while feature is not None and not isinstance(feature, Mapping):
        feature = _inner(feature)
    return None if feature is None else feature.get(key)


def _inner(feature: Any) -> Any:
    """The feature of the elements of a list, None if it is none."""
    return feature[0] if isinstance(feature, list) and feature else getattr(feature, "feature", None)


def _names(items: Any, columns: _Columns, given: Sequence[str] | None) -> tuple[str, ...]:
    """The classes: those given, of ``ClassLabel``, or those that occur."""
    if given is not None:
        return tuple(given)
    if columns.classes is None:
        return ("object",)
    features = items.features
    feature = (
        features.get(columns.classes)
        if columns.objects is None
        else _feature(features.get(columns.objects), columns.classes)
    )
    while feature is not None and not hasattr(feature, "names"):
        feature = _inner(feature)
    if feature is not None:
        return tuple(map(str, feature.names))
    occurring = set(_occurring(items, columns))
    if all(isinstance(value, str) for value in occurring):
        return tuple(sorted(map(str, occurring)))
    return tuple(str(number) for number in range(max(map(int, occurring), default=-1) + 1))


def _occurring(items: Any, columns: _Columns) -> Iterator[int | str]:
    assert columns.classes is not None
    column = columns.classes if columns.objects is None else columns.objects
    for value in items[column]:  # without images, which are slow
        row = {column: value}
        yield from columns.values(row, [columns.classes]) or []


class _Samples:
    """The rows as our samples."""

    def __init__(self, items: Any, columns: _Columns, class_names: tuple[str, ...]) -> None:
        self.items = items
        self.columns = columns
        self.class_names = class_names
        self.written: dict[int | str, list[tuple[float, ...]]] = {}  # boxes as they are in the rows

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Sample:
        row, columns = self.items[index], self.columns
        place = f"{NAME}, row {index}"
        pixels = to_bytes(as_pixels(row[columns.image]))
        size = (int(pixels.shape[0]), int(pixels.shape[1]))
        written = columns.values(row, [columns.boxes])
        boxes = np.asarray([] if written is None else written, np.float32)
        if boxes.size and (boxes.ndim != 2 or boxes.shape[1] != 4):
            raise ValueError(
                f"{place}: expected boxes with four numbers; their shape is {list(boxes.shape)}."
            )
        boxes = boxes.reshape(-1, 4)
        labels = self._labels(row, len(boxes), place)
        crowd = columns.values(row, CROWDS)
        outlines = columns.values(row, OUTLINES)
        image_id = next((row[key] for key in IDS if isinstance(row.get(key), int | str)), index)
        self.written[image_id] = [tuple(box) for box in boxes.tolist()]
        boxes = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1)
        truth = Instances(
            size, boxes, labels, masks=_masks(outlines, size, place), class_names=self.class_names,
            crowd=None if crowd is None else np.array(crowd, np.bool_),
        )  # fmt: skip
        return Sample(pixels, truth, image_id)

    def _labels(self, row: Mapping[str, Any], count: int, place: str) -> Any:
        """int64 ``[N]``."""
        columns = self.columns
        found = [0] * count if columns.classes is None else columns.values(row, [columns.classes]) or []
        if len(found) != count:
            raise ValueError(f"{place}: {len(found)} categories, but {count} boxes; expected one for each.")
        known = {name: label for label, name in enumerate(self.class_names)}
        labels = [known.get(value, -1) if isinstance(value, str) else int(value) for value in found]
        wrong = [value for value, label in zip(found, labels, strict=True) if not 0 <= label < len(known)]
        if wrong:
            raise ValueError(
                f"{place}: an object has the category {wrong[0]!r}; expected {', '.join(known)}."
            )
        return np.array(labels, np.int64)


def _masks(outlines: Any, size: Size, place: str) -> Masks | None:
    if outlines is None:
        return None
    parts = [[np.asarray(part, np.float64).reshape(-1) for part in polygons] for polygons in outlines]
    if any(len(part) < 6 or len(part) % 2 for polygons in parts for part in polygons):
        raise ValueError(f"{place}: expected polygons as lists x1, y1, x2, y2, x3, y3, …")
    return Masks.from_outlines([[part.reshape(-1, 2) for part in polygons] for polygons in parts], size)
