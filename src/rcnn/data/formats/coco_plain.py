"""Annotations in COCO's own form, of which there may be millions, many at a time.

An annotation is plain if it has integer ids, an area, a box inside its image, and no outline or polygons
whose own box overlaps the annotated one by half. Nearly all are. They go to the builder in batches; all
others are handed on, in their order, to be looked at one by one.

Legend: N plain annotations of a batch, P parts of their polygons, C corners.
"""

from __future__ import annotations

from array import array
from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt

from rcnn.data.builder import DatasetBuilder, Picture, PlainObjects
from rcnn.data.formats.coco_forms import with_whole_numbers
from rcnn.data.formats.coco_suspicions import Suspicions, plain_digest
from rcnn.data.problems import SMALLEST_SIDE

BATCH = 256  # annotations
ELSEWHERE = ("attributes", "score", "segments_info", "keypoints")  # what a plain annotation does not have
MAX_AREA = 1e12


class PlainAnnotations:
    """Takes the plain annotations out of a stream.

    Args:
        builder: collects them.
        suspicions: compares them with one another.
        pictures: the images by their ids.
        categories: the declared ids of categories.

    Attributes:
        seen: ids of annotations.
        used: ids of their categories.
        total: number of annotations so far, plain or not.
    """

    def __init__(
        self,
        builder: DatasetBuilder,
        suspicions: Suspicions,
        pictures: Mapping[int | str, Picture],
        categories: Collection[int],
    ) -> None:
        self.builder, self.suspicions = builder, suspicions
        self.pictures, self.categories = pictures, categories
        self.seen: set[int | str] = set()
        self.used: set[int] = set()
        self.total = 0

    def rest(self, entries: Iterable[Any]) -> Iterator[tuple[int, Any]]:
        """Put the plain annotations in the builder; yield the others with their indices.

        The order stays: what comes before an annotation is in the builder when it is yielded.
        """
        stream = iter(entries)
        while batch := list(islice(stream, BATCH)):
            plain = _Batch(batch, self)
            done = taken = 0  # entries of the batch, and of the plain ones
            for place in [*plain.others, len(batch)]:
                run = plain.objects.between(taken, taken + place - done)
                if run.names:
                    self.builder.put_many(run)
                    self.suspicions.look_at_many(run, plain.digests[taken : taken + len(run.names)])
                taken, done = taken + place - done, place + 1
                if place < len(batch):
                    yield self.total + place, with_whole_numbers(batch[place])
            self.total += len(batch)


class _Batch:
    """The plain annotations of a list.

    Attributes:
        others: the indices of those that are not plain.
        objects: the plain ones.
        digests: of the plain ones.
    """

    def __init__(self, entries: list[Any], known: PlainAnnotations) -> None:
        places = [i for i, entry in enumerate(entries) if _may_be_plain(entry, known)]
        ids = [entries[i]["id"] for i in places]
        if len(set(ids)) < len(ids) or not known.seen.isdisjoint(ids):
            places = []
        try:
            found = _objects([entries[i] for i in places], known)
        except (TypeError, OverflowError):  # numbers as text, integers beyond all floats, or no numbers
            places, found = [], _objects([], known)
        fits = _fit(found)
        if not fits.all():
            places = [places[i] for i in np.flatnonzero(fits)]
            found = _objects([entries[i] for i in places], known)
        known.seen.update(entries[i]["id"] for i in places)
        known.used.update(found.labels)
        plain = set(places)
        self.others = [i for i in range(len(entries)) if i not in plain]
        self.objects = found
        self.digests = [plain_digest(entries[i]["image_id"], entries[i]) for i in places]


def _may_be_plain(entry: Any, known: PlainAnnotations) -> bool:
    """Whether an annotation is plain, as far as its numbers do not decide it."""
    if type(entry) is not dict or not entry.keys().isdisjoint(ELSEWHERE):
        return False
    get = entry.get
    box, area, category, image = get("bbox"), get("area"), get("category_id"), get("image_id")
    if not (type(get("id")) is type(category) is type(image) is int and type(box) is list and len(box) == 4):
        return False
    if category not in known.categories or image not in known.pictures or get("iscrowd") not in (0, None):
        return False
    if bool in map(type, box) or not (type(area) is float or type(area) is int) or not 0 <= area < MAX_AREA:
        return False
    drawn = get("segmentation")
    if not drawn:
        return True
    if type(drawn) is not list:
        return False
    return all(type(part) is list and len(part) >= 6 and len(part) % 2 == 0 for part in drawn)


def _objects(entries: list[dict[str, Any]], known: PlainAnnotations) -> PlainObjects:
    """Annotations in arrays.

    Raises:
        TypeError: values of a box or an outline are no numbers.
        OverflowError: they are beyond all floats.
    """
    boxes, corners = array("d"), array("d")
    part_ends, first_parts = array("q"), array("q", [0])
    for entry in entries:
        boxes.fromlist(entry["bbox"])
        for part in entry.get("segmentation") or ():
            corners.fromlist(part)
            part_ends.append(len(corners) // 2)
        first_parts.append(len(part_ends))
    xywh = np.frombuffer(boxes).reshape(-1, 4) if boxes else np.zeros((0, 4))
    return PlainObjects(
        pictures=[known.pictures[entry["image_id"]] for entry in entries],
        labels=[entry["category_id"] for entry in entries],
        names=[str(entry["id"]) for entry in entries],
        boxes=np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], 1),
        areas=np.array([entry["area"] for entry in entries], np.float64),
        corners=np.frombuffer(corners).reshape(-1, 2) if corners else np.zeros((0, 2)),
        part_ends=np.array(part_ends, np.int64),
        first_parts=np.array(first_parts, np.int64),
    )


def _fit(objects: PlainObjects) -> npt.NDArray[np.bool_]:
    """Which boxes are inside their images, and overlap the boxes of their outlines by half.

    NaN and infinite corners do not: no comparison with them holds.
    """
    sizes = np.array([picture.size for picture in objects.pictures], np.float64).reshape(-1, 2)
    x1, y1, x2, y2 = objects.boxes.T
    wide, high = x2 - x1, y2 - y1
    fits: npt.NDArray[np.bool_] = (x1 >= 0) & (y1 >= 0) & (wide >= SMALLEST_SIDE) & (high >= SMALLEST_SIDE)
    fits &= (x2 <= sizes[:, 1]) & (y2 <= sizes[:, 0])
    first = objects.first_corners
    drawn = np.flatnonzero(first[1:] > first[:-1])
    if not len(drawn):
        return fits
    left, top = np.minimum.reduceat(objects.corners, first[drawn]).T
    right, bottom = np.maximum.reduceat(objects.corners, first[drawn]).T
    shared_wide = np.minimum(right, x2[drawn]) - np.maximum(left, x1[drawn])
    shared_high = np.minimum(bottom, y2[drawn]) - np.maximum(top, y1[drawn])
    # An IoU of a half: three times what both share is the sum of their areas.
    areas = (right - left) * (bottom - top) + (wide * high)[drawn]
    fits[drawn] &= (shared_wide > 0) & (shared_high > 0) & (3 * shared_wide * shared_high >= areas)
    return fits
