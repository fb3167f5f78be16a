"""Every pixel to one segment: things and stuff joined, from two results or from one network.

Panoptic Segmentation, §4 and §6 (Kirillov et al. 2018, arXiv 1801.00868), in the form its authors published
as panopticapi, which Panoptic FPN (arXiv 1901.02446, §4) takes over.

Differs from the paper:
    The paper searched its thresholds on a grid; the defaults here are panopticapi's.

Legend: H and W image height and width, S segments, C classes, N objects.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from rcnn.config.ranges import check_ranges, ranged
from rcnn.structures.instances import VOID, Instances
from rcnn.structures.masks import Masks, Size

Integers = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

OTHER = "(things)"
"""What a semantic map calls its pixels of things, where it does not tell these apart."""


@dataclass(frozen=True)
class Panoptic:
    """A partition of one image into segments.

    Attributes:
        segments: int64 ``[H, W]``; 0 is void, ``i + 1`` a pixel of segment i.
        labels: int64 ``[S]``, indices into ``names``.
        crowd: bool ``[S]``, truth only in effect: a region of many objects.
        names: the classes, things first.
        num_things: how many of ``names`` are things.
        objects: int64, for each thing in the order of its segment, which of the merged objects it is; None
            where nothing was merged.
    """

    segments: Integers
    labels: Integers
    crowd: Bools
    names: tuple[str, ...]
    num_things: int
    objects: Integers | None = None

    @property
    def size(self) -> Size:
        """(height, width)."""
        return int(self.segments.shape[0]), int(self.segments.shape[1])

    def __len__(self) -> int:
        return len(self.labels)

    def areas(self) -> Integers:
        """int64 ``[S]``: the pixels of each segment."""
        return np.bincount(self.segments.reshape(-1), minlength=len(self) + 1)[1:]

    def classes(self) -> Integers:
        """int64 ``[H, W]``: the class of every pixel, void where it has no segment."""
        classes: Integers = np.concatenate([[VOID], self.labels])[self.segments]
        return classes

    def instances(self) -> Instances:
        """The things as objects with masks, without scores, and the stuff as a semantic map.

        What is no stuff is called ``background`` there, which pictures leave as it is.
        """
        things = np.flatnonzero(self.labels < self.num_things)
        masks = Masks.concatenate(
            [Masks.from_dense((self.segments == i + 1)[None]) for i in things], self.size
        )
        stuff = self.names[self.num_things :]
        table = np.full(VOID + 1, len(stuff), np.int64)
        table[self.num_things : len(self.names)] = np.arange(len(stuff))
        return Instances(
            self.size,
            masks.boxes(),
            self.labels[things],
            masks=masks,
            crowd=self.crowd[things],
            semantic=table[self.classes()],
            class_names=self.names[: self.num_things],
            semantic_names=(*stuff, "background"),
        )


@dataclass(frozen=True)
class MergeSettings:
    """How objects and a semantic map become one partition.

    Attributes:
        min_score: objects with a lower score are left out.
        max_overlap: an object is left out if better ones cover a larger fraction of it.
        min_stuff_area: a class of stuff that is left with fewer pixels becomes void.
    """

    min_score: float = ranged(0.5, 0, 1)
    max_overlap: float = ranged(0.5, 0, 1)
    min_stuff_area: int = ranged(4096, 0, 1e12)

    def __post_init__(self) -> None:
        """Check the ranges."""
        check_ranges(self)


def merge(
    objects: Instances, semantic: Instances | None = None, *, settings: MergeSettings | None = None
) -> Panoptic:
    """Join the objects found in an image with the classes of its pixels.

    Objects take their pixels in the order of their scores; what they leave goes to the stuff of the semantic
    map. Classes are told by name: what the map calls by the name of a thing, or void, and no object covers,
    stays void.

    Args:
        objects: with masks and scores.
        semantic: of the same image, with ``semantic`` and ``semantic_names``, from any other network;
            without, ``objects`` carry the map themselves.
        settings: the thresholds; panopticapi's where left out.

    Raises:
        ValueError: masks, scores or the map are missing, or the two are of different sizes.

    Convention: objects A (score 0.9) and B (0.8) of 10 pixels each share 6: B loses 60 % and goes; were it 5,
    B would keep the other 5.
    """
    settings = settings or MergeSettings()
    semantic = objects if semantic is None else semantic  # an Instances without objects is falsy
    if objects.masks is None or objects.scores is None:
        raise ValueError("objects: expected masks and scores, as Mask R-CNN gives them; found none.")
    classes = _checked_map(semantic, objects.size)
    chosen = np.flatnonzero(objects.scores >= settings.min_score)
    order = chosen[np.argsort(-objects.scores[chosen], kind="stable")].tolist()
    segments, placed = _place(objects, order, settings.max_overlap)
    names, table = _joint_names(objects.class_names, semantic.semantic_names)
    partition = _with_stuff(
        segments, objects.labels[placed], np.zeros(len(placed), bool), table[classes],
        names, len(objects.class_names), settings.min_stuff_area,
    )  # fmt: skip
    return replace(partition, objects=np.array(placed, np.int64))


def true_segments(truth: Instances) -> Panoptic:
    """The partition that annotated objects and an annotated semantic map describe.

    Objects lie above stuff, later ones above earlier ones; crowds stay crowds.

    Raises:
        ValueError: masks or the semantic map are missing, or of another size.
    """
    if truth.masks is None:
        raise ValueError(f"{truth.path or 'truth'}: expected objects with masks, found none.")
    classes = _checked_map(truth, truth.size)
    segments = np.zeros(truth.size, np.int64)
    for number, (patch, (x1, y1, x2, y2)) in enumerate(
        zip(truth.masks.patches(), truth.masks.windows.tolist(), strict=True), start=1
    ):
        segments[y1:y2, x1:x2][patch.astype(bool)] = number
    crowd = np.zeros(len(truth), bool) if truth.crowd is None else truth.crowd
    if truth.has_mask is not None:
        crowd = crowd | ~truth.has_mask
    names, table = _joint_names(truth.class_names, truth.semantic_names)
    return _with_stuff(segments, truth.labels, crowd, table[classes], names, len(truth.class_names), 0)


def _checked_map(semantic: Instances, size: Size) -> Integers:
    """The semantic map int64 ``[H, W]``."""
    place = semantic.path or "semantic"
    if semantic.semantic is None or not semantic.semantic_names:
        raise ValueError(f"{place}: expected a semantic map with the names of its classes; found none.")
    if tuple(semantic.semantic.shape) != size:
        raise ValueError(
            f"{place}: the semantic map has the size {tuple(semantic.semantic.shape)}, the objects' image "
            f"{size} (height, width); give both in the coordinates of the original image."
        )
    return semantic.semantic.astype(np.int64)


def _place(objects: Instances, order: list[int], max_overlap: float) -> tuple[Integers, list[int]]:
    """Segments int64 ``[H, W]``, and which object each of them is."""
    assert objects.masks is not None
    patches, windows = list(objects.masks.patches()), objects.masks.windows.tolist()
    segments = np.zeros(objects.size, np.int64)
    placed: list[int] = []
    for index in order:
        x1, y1, x2, y2 = windows[index]
        window, inside = segments[y1:y2, x1:x2], patches[index].astype(bool)
        area, free = int(inside.sum()), inside & (window == 0)
        left = int(free.sum())
        if left and area - left <= max_overlap * area:
            placed.append(index)
            window[free] = len(placed)
    return segments, placed


def stuff_names(things: tuple[str, ...], semantic_names: tuple[str, ...]) -> tuple[str, ...]:
    """The classes of a semantic map that are no things, whatever the case of their names."""
    known = {name.casefold() for name in (*things, OTHER)}
    return tuple(name for name in semantic_names if name.casefold() not in known)


def _joint_names(
    things: tuple[str, ...], semantic_names: tuple[str, ...]
) -> tuple[tuple[str, ...], Integers]:
    """Things and then stuff; and for each value of a semantic map the index of its stuff there, or void."""
    stuff = stuff_names(things, semantic_names)
    names = (*things, *stuff)
    if len(names) > VOID:
        raise ValueError(
            f"{len(things)} classes of things and {len(stuff)} of stuff: expected {VOID} together at the most"
        )
    table = np.full(VOID + 1, VOID, np.int64)
    for value, name in enumerate(semantic_names):
        if name in stuff:
            table[value] = names.index(name)
    return names, table


def _with_stuff(
    segments: Integers,
    labels: Integers,
    crowd: Bools,
    stuff: Integers,
    names: tuple[str, ...],
    num_things: int,
    min_area: int,
) -> Panoptic:
    """The segments of things completed by one for each class of ``stuff`` ``[H, W]`` on what is free."""
    free = np.where(segments == 0, stuff, VOID)
    counts = np.bincount(free.reshape(-1), minlength=VOID + 1)[:VOID]
    kept = np.flatnonzero(counts >= max(min_area, 1))
    numbers = np.zeros(VOID + 1, np.int64)
    numbers[kept] = np.arange(len(kept)) + len(labels) + 1
    return Panoptic(
        np.where(segments == 0, numbers[free], segments),
        np.concatenate([labels, kept]),
        np.concatenate([crowd, np.zeros(len(kept), bool)]),
        names,
        num_things,
    )
