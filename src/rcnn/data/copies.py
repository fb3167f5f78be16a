"""Images that occur in several data sets, and whether they are annotated alike.

Legend: N objects of an image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rcnn.data.dataset import Record
from rcnn.data.twins import content_digest
from rcnn.structures import Instances, Masks

SHOWN = 5  # copies named in a message
TOLERANCE = 0.01  # pixels by which the corners of one and the same box may differ


@dataclass
class Registry:
    """The images of several data sets, each once.

    Attributes:
        join: an image that occurs again with other objects gets the objects of both; otherwise it keeps those
            of the first.
        records: all images that are kept, with the name of their part.
        left_out: the file of each copy that is left out, and the file that is kept.
        differing: those of ``left_out`` that are annotated otherwise, as records.
    """

    join: bool = False
    records: list[tuple[str, Record]] = field(default_factory=list)
    left_out: list[tuple[Path, Path]] = field(default_factory=list)
    differing: list[tuple[Record, Record]] = field(default_factory=list)
    places: dict[str, int] = field(default_factory=dict)

    def add(self, record: Record, part: str) -> None:
        """Add an image, unless it is there already."""
        place = self.places.setdefault(content_digest(record), len(self.records))
        if place == len(self.records):
            self.records.append((part, record))
            return
        first_part, first = self.records[place]
        self.left_out.append((record.path, first.path))
        if not annotated_alike(first, record):
            self.differing.append((record, first))
            if self.join:
                self.records[place] = (first_part, joined(first, record))

    def numbered(self, part: str) -> Iterator[tuple[int, Record]]:
        """The images of a part, numbered from 1 over all parts."""
        return ((i, record) for i, (of, record) in enumerate(self.records, 1) if of == part)


def differences(pairs: Sequence[tuple[Record, Record]]) -> str:
    """A message about copies that are annotated otherwise than the first, and what can be done."""
    lines = [
        f"{copy.path} ({len(copy.truth)} objects) and {first.path} ({len(first.truth)} objects)"
        for copy, first in pairs[:SHOWN]
    ]
    more = f" and {len(pairs) - SHOWN} more" if len(pairs) > SHOWN else ""
    return (
        f"{len(pairs)} images occur twice with other objects: {'; '.join(lines)}{more}. Keep the objects of "
        "the first (--copies first), or those of both, where each data set has objects that the other lacks "
        "(--copies join)."
    )


def annotated_alike(one: Record, other: Record) -> bool:
    """Whether two records of one image have the same objects, in any order: classes, boxes and masks."""
    a, b = one.truth, other.truth
    if len(a) != len(b) or a.size != b.size or (one.masks is None) != (other.masks is None):
        return False
    partners = matching_objects(a, b)
    if len(partners) < len(a):
        return False
    if one.masks is None or other.masks is None or not len(a):
        return True
    codes = other.masks().rle()
    return [codes[j] for _, j in partners] == one.masks().rle()


def matching_objects(one: Instances, other: Instances) -> list[tuple[int, int]]:
    """Pairs of objects of the same class with the same box, each object in one pair at most, in order."""
    left = list(range(len(other)))
    pairs = []
    for i, (label, box) in enumerate(zip(one.labels.tolist(), one.boxes, strict=True)):
        same = (j for j in left if other.labels[j] == label and _is_same(box, other.boxes[j]))
        if (found := next(same, None)) is not None:
            left.remove(found)
            pairs.append((i, found))
    return pairs


def _is_same(box: npt.NDArray[np.float32], other: npt.NDArray[np.float32]) -> bool:
    return bool(np.abs(box - other).max() <= TOLERANCE)


def joined(first: Record, copy: Record) -> Record:
    """The objects of both records, those that are equal once.

    Raises:
        ValueError: the two have other sizes, so that their coordinates do not fit.
    """
    if first.truth.size != copy.truth.size:
        raise ValueError(
            f"{copy.path}: its objects are those of an image of (height, width) {copy.truth.size}, but those "
            f"of {first.path} of {first.truth.size}; they cannot be joined."
        )
    again = {j for _, j in matching_objects(first.truth, copy.truth)}
    new = np.array([j for j in range(len(copy.truth)) if j not in again], np.int64)
    truth = _concatenated(first.truth, copy.truth[new])
    if first.masks is None or copy.masks is None:
        return replace(first, truth=truth)
    return replace(first, truth=truth, masks=partial(_joined_masks, first.masks, copy.masks, new))


def _joined_masks(first: Callable[[], Masks], copy: Callable[[], Masks], new: npt.NDArray[np.int64]) -> Masks:
    kept = first()
    return Masks.concatenate([kept, copy()[new]], kept.size)


def _concatenated(first: Instances, more: Instances) -> Instances:
    """The objects of both, without masks."""
    both = (first, more)
    values: dict[str, Any] = {}
    for name in Instances.per_object():
        if name != "masks" and any(getattr(one, name) is not None for one in both):
            values[name] = np.concatenate([_field(one, name) for one in both])
    return replace(first, **values)


def _field(objects: Instances, name: str) -> npt.NDArray[Any]:
    """A field, or what its absence means: the area of the box, a known outline, no mark."""
    value: npt.NDArray[Any] | None = getattr(objects, name)
    if value is not None:
        return value
    if name == "areas":
        return objects.measures()[:, 4].astype(np.float32)
    return np.full(len(objects), name == "has_mask")
