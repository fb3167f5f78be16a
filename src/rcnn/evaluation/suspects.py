"""Objects that are likely to be mistakes, so that people look at these first.

What is unusual is measured against the objects of the same class: a logarithm (of the size, of the ratio of
the sides) is suspicious if it is far from the median, in units of the median absolute deviation, and by a
factor that is visible. Classes with few objects are measured against all objects.

Legend: N objects of a data set, M objects of one image.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rcnn.data.dataset import Dataset
from rcnn.structures import box_ious

MIN_OBJECTS = 20  # of a class, to be measured against itself
FAR = 4.0  # deviations from the median (1.4826 median absolute deviations, the std of a normal distribution)
VISIBLE = 3.0  # the least factor between an unusual size or ratio and the median
SAME_PLACE = 0.8  # IoU from which two boxes may be one object
TINY = 3.0  # pixels, the shorter side of an object that is likely to be an accidental click
AT_BORDER = 1.0  # pixels
SLIVER = 1 / 6  # of the median side: what is left of an object at the border of the image
KINDS = {
    "overlap": "Two objects in one place",
    "tiny": "Much smaller than others of their class",
    "huge": "Much larger than others of their class",
    "shape": "Of an unusual shape",
    "border": "Slivers at the border of the image",
}


@dataclass(frozen=True)
class Suspect:
    """One object to look at.

    Attributes:
        kind: a key of ``KINDS``.
        image: the index of its image.
        index: its index in the image.
        reason: what is unusual about it.
        degree: how unusual; larger is more.
        other: the index of the object in the same place, if it is that.
    """

    kind: str
    image: int
    index: int
    reason: str
    degree: float
    other: int | None = None


@dataclass(frozen=True)
class Objects:
    """All objects of a data set that are not crowds, in flat arrays.

    Attributes:
        boxes: float64 ``[N, 4]``.
        labels: int64 ``[N]``.
        images: int64 ``[N]``, the index of the image.
        indices: int64 ``[N]``, the index in the image.
        image_sizes: int64 ``[N, 2]``, (height, width) of the image.
    """

    boxes: npt.NDArray[np.float64]
    labels: npt.NDArray[np.int64]
    images: npt.NDArray[np.int64]
    indices: npt.NDArray[np.int64]
    image_sizes: npt.NDArray[np.int64]

    @classmethod
    def of(cls, dataset: Dataset) -> Objects:
        """Those of a data set."""
        boxes, labels = [np.zeros((0, 4))], [np.zeros(0, np.int64)]
        places, sizes = [np.zeros((0, 2), np.int64)], [np.zeros((0, 2), np.int64)]
        for number, record in enumerate(dataset.records):
            truth = record.truth
            single = np.arange(len(truth)) if truth.crowd is None else np.flatnonzero(~truth.crowd)
            boxes.append(truth.boxes[single].astype(np.float64))
            labels.append(truth.labels[single])
            places.append(np.stack([np.full(len(single), number), single], 1))
            sizes.append(np.broadcast_to(np.array(truth.size, np.int64), (len(single), 2)))
        found = np.concatenate(places)
        return cls(
            np.concatenate(boxes), np.concatenate(labels), found[:, 0], found[:, 1], np.concatenate(sizes)
        )

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def sides(self) -> npt.NDArray[np.float64]:
        """``[N, 2]``: width and height, at least a hundredth of a pixel."""
        return np.maximum(self.boxes[:, 2:] - self.boxes[:, :2], 0.01)

    @property
    def extents(self) -> npt.NDArray[np.float64]:
        """``[N]``: the square root of the area of the box."""
        extents: npt.NDArray[np.float64] = np.sqrt(self.sides.prod(1))
        return extents


def find_suspects(dataset: Dataset, objects: Objects) -> list[Suspect]:
    """The suspicious objects of a data set, each once, the most unusual of each kind first."""
    found = [*_overlapping(dataset, objects), *_unusual(dataset, objects)]
    order = list(KINDS)
    found.sort(key=lambda one: (order.index(one.kind), -one.degree, one.image, one.index))
    seen: set[tuple[int, int]] = set()
    unique = []
    for suspect in found:
        if (place := (suspect.image, suspect.index)) not in seen:
            seen.add(place)
            unique.append(suspect)
    return unique


def _overlapping(dataset: Dataset, objects: Objects) -> Iterator[Suspect]:
    """Pairs of objects in the same place; the later one of each pair is named."""
    starts = np.flatnonzero(np.diff(objects.images, prepend=-1))
    for start, end in zip(starts, [*starts[1:], len(objects)], strict=True):
        boxes = objects.boxes[start:end]  # [M, 4]
        overlaps = np.triu(box_ious(boxes, boxes), 1)
        for a, b in np.argwhere(overlaps >= SAME_PLACE).tolist():
            first, second = (dataset.class_names[objects.labels[start + i]] for i in (a, b))
            iou = float(overlaps[a, b])
            reason = f"{second}, IoU {iou:.2f} with " + ("another" if first == second else f"a {first}")
            yield Suspect(
                "overlap", int(objects.images[start]), int(objects.indices[start + b]), reason, iou,
                int(objects.indices[start + a]),
            )  # fmt: skip


def _unusual(dataset: Dataset, objects: Objects) -> Iterator[Suspect]:
    """Objects that differ from the others of their class."""
    cut = _at_border(objects)
    everything = np.ones(len(objects), np.bool_)
    for label, name in enumerate(dataset.class_names):
        own = objects.labels == label
        if not own.any():
            continue
        peers = own if own.sum() >= MIN_OBJECTS else everything
        whole = peers & ~cut.any(1)
        peers = whole if whole.sum() >= MIN_OBJECTS else peers
        for kind, rows, values, texts in _measures(objects, own, peers, cut):
            for row, value, text in zip(rows.tolist(), values.tolist(), texts, strict=True):
                reason = f"{name}, {text}"
                yield Suspect(kind, int(objects.images[row]), int(objects.indices[row]), reason, value)


Measure = tuple[str, npt.NDArray[np.int64], npt.NDArray[np.float64], Sequence[str]]


def _measures(
    objects: Objects, own: npt.NDArray[np.bool_], peers: npt.NDArray[np.bool_], cut: npt.NDArray[np.bool_]
) -> Iterator[Measure]:
    """For each kind the suspicious rows, how unusual they are, and what is said about them.

    Args:
        objects: all objects.
        own: which of them ``[N]`` are judged.
        peers: which of them ``[N]`` are typical.
        cut: ``[N, 2]``, which ends at the left or right, and at the upper or lower border of its image.
    """
    sides, extents = objects.sides, objects.extents
    log_extents = np.log(extents)
    size_away, size_factor = _deviations(log_extents, peers)
    median = float(np.exp(np.median(log_extents[peers])))
    small = (size_away < -FAR) & (size_factor > VISIBLE) | (sides.min(1) < TINY) & (size_factor > VISIBLE / 2)
    inside = own & ~cut.any(1)
    for kind, chosen in (
        ("tiny", inside & small & (size_away < 0)),
        ("huge", own & (size_away > FAR) & (size_factor > VISIBLE)),
    ):
        rows = np.flatnonzero(chosen)
        texts = [f"{w:.0f} x {h:.0f} px (typical: {median:.0f})" for w, h in sides[rows]]
        yield kind, rows, size_factor[rows], texts
    away, factor = _deviations(np.abs(np.log(sides[:, 0] / sides[:, 1])), peers)
    rows = np.flatnonzero(inside & (away > FAR) & (factor > VISIBLE))
    yield "shape", rows, factor[rows], [f"{w:.0f} x {h:.0f} px" for w, h in sides[rows]]
    typical = np.median(sides[peers], 0)
    narrow = (sides / typical).min(1, where=cut, initial=np.inf)
    rows = np.flatnonzero(own & (narrow < SLIVER))
    yield "border", rows, 1 / narrow[rows], [f"{w:.0f} x {h:.0f} px" for w, h in sides[rows]]


def _deviations(
    values: npt.NDArray[np.float64], peers: npt.NDArray[np.bool_]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """How far logarithms ``[N]`` are from the median of the ``peers``: in deviations, and as a factor."""
    median = np.median(values[peers])
    deviation = 1.4826 * np.median(np.abs(values[peers] - median))
    away = values - median
    return away / max(float(deviation), 1e-6), np.exp(np.abs(away))


def _at_border(objects: Objects) -> npt.NDArray[np.bool_]:
    """``[N, 2]``: whether a box ends at the left or right, and at the upper or lower border of its image."""
    far = objects.image_sizes[:, ::-1] - objects.boxes[:, 2:]
    at_border: npt.NDArray[np.bool_] = (objects.boxes[:, :2] <= AT_BORDER) | (far <= AT_BORDER)
    return at_border
