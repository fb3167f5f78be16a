"""Every pixel to one segment: things and stuff joined, from two results or from one network.

Panoptic Segmentation, §4 and §6 (Kirillov et al. 2018, arXiv 1801.00868), in the form its authors published
as panopticapi, which Panoptic FPN (arXiv 1901.02446, §4) takes over.

Differs from the paper:
    The paper searched its thresholds on a grid; the defaults here are panopticapi's.

Legend: H and W image height and width, S segments, C classes, N objects.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rcnn.structures import VOID, Instances, Masks, Size

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
    """

    segments: Tensor
    labels: Tensor
    crowd: Tensor
    names: tuple[str, ...]
    num_things: int

    @property
    def size(self) -> Size:
        """(height, width)."""
        return int(self.segments.shape[0]), int(self.segments.shape[1])

    def __len__(self) -> int:
        return len(self.labels)

    def areas(self) -> Tensor:
        """int64 ``[S]``: the pixels of each segment."""
        return torch.bincount(self.segments.reshape(-1), minlength=len(self) + 1)[1:]

    def classes(self) -> Tensor:
        """int64 ``[H, W]``: the class of every pixel, void where it has no segment."""
        return torch.cat([self.labels.new_tensor([VOID]), self.labels])[self.segments]

    def instances(self) -> Instances:
        """The things as objects with masks, without scores, and the stuff as a semantic map.

        What is no stuff is called ``background`` there, which pictures leave as it is.
        """
        things = (self.labels < self.num_things).nonzero().flatten()
        masks = Masks.concatenate(
            [Masks.from_dense((self.segments == i + 1)[None]) for i in things], self.size
        )
        stuff = self.names[self.num_things :]
        table = torch.full((VOID + 1,), len(stuff), dtype=torch.int64)
        table[self.num_things : len(self.names)] = torch.arange(len(stuff))
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
        max_overlap: an object is left out whole if a larger share of it is taken by better ones.
        min_stuff_area: pixels; a class of stuff that is left with fewer becomes void.
    """

    min_score: float = 0.5
    max_overlap: float = 0.5
    min_stuff_area: int = 4096


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
    chosen = (objects.scores >= settings.min_score).nonzero().flatten()
    order = chosen[objects.scores[chosen].argsort(descending=True, stable=True)].tolist()
    segments, placed = _place(objects, order, settings.max_overlap)
    names, table = _joint_names(objects.class_names, semantic.semantic_names, classes.device)
    return _with_stuff(
        segments, objects.labels[placed], torch.zeros(len(placed), dtype=torch.bool), table[classes],
        names, len(objects.class_names), settings.min_stuff_area,
    )  # fmt: skip


def true_segments(truth: Instances) -> Panoptic:
    """The partition that annotated objects and an annotated semantic map describe.

    Objects lie above stuff, later ones above earlier ones; crowds stay crowds.

    Raises:
        ValueError: masks or the semantic map are missing, or of another size.
    """
    if truth.masks is None:
        raise ValueError(f"{truth.path or 'truth'}: expected objects with masks, found none.")
    classes = _checked_map(truth, truth.size)
    segments = torch.zeros(truth.size, dtype=torch.int64)
    for number, (patch, (x1, y1, x2, y2)) in enumerate(
        zip(truth.masks.patches(), truth.masks.windows.tolist(), strict=True), start=1
    ):
        segments[y1:y2, x1:x2][patch.bool()] = number
    crowd = torch.zeros(len(truth), dtype=torch.bool) if truth.crowd is None else truth.crowd
    names, table = _joint_names(truth.class_names, truth.semantic_names, classes.device)
    return _with_stuff(segments, truth.labels, crowd, table[classes], names, len(truth.class_names), 0)


def _checked_map(semantic: Instances, size: Size) -> Tensor:
    """The semantic map int64 ``[H, W]``."""
    place = semantic.path or "semantic"
    if semantic.semantic is None or not semantic.semantic_names:
        raise ValueError(f"{place}: expected a semantic map with the names of its classes; found none.")
    if tuple(semantic.semantic.shape) != size:
        raise ValueError(
            f"{place}: the semantic map has the size {tuple(semantic.semantic.shape)}, the objects' image "
            f"{size} (height, width); give both in the coordinates of the original image."
        )
    return semantic.semantic.long()


def _place(objects: Instances, order: list[int], max_overlap: float) -> tuple[Tensor, list[int]]:
    """Segments int64 ``[H, W]``, and which object each of them is."""
    assert objects.masks is not None
    patches, windows = list(objects.masks.patches()), objects.masks.windows.tolist()
    segments = torch.zeros(objects.size, dtype=torch.int64, device=objects.boxes.device)
    placed: list[int] = []
    for index in order:
        x1, y1, x2, y2 = windows[index]
        window, inside = segments[y1:y2, x1:x2], patches[index].bool()
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
    things: tuple[str, ...], semantic_names: tuple[str, ...], device: torch.device
) -> tuple[tuple[str, ...], Tensor]:
    """Things and then stuff; and for each value of a semantic map the index of its stuff there, or void."""
    stuff = stuff_names(things, semantic_names)
    names = (*things, *stuff)
    if len(names) > VOID:
        raise ValueError(
            f"{len(things)} classes of things and {len(stuff)} of stuff: expected {VOID} together at the most"
        )
    table = torch.full((VOID + 1,), VOID, dtype=torch.int64, device=device)
    for value, name in enumerate(semantic_names):
        if name in stuff:
            table[value] = names.index(name)
    return names, table


def _with_stuff(
    segments: Tensor,
    labels: Tensor,
    crowd: Tensor,
    stuff: Tensor,
    names: tuple[str, ...],
    num_things: int,
    min_area: int,
) -> Panoptic:
    """The segments of things completed by one for each class of ``stuff`` ``[H, W]`` on what is free."""
    free = torch.where(segments == 0, stuff, VOID)
    counts = torch.bincount(free.reshape(-1), minlength=VOID + 1)[:VOID]
    kept = (counts >= max(min_area, 1)).nonzero().flatten()
    numbers = torch.zeros(VOID + 1, dtype=torch.int64, device=segments.device)
    numbers[kept] = torch.arange(len(kept), device=kept.device) + len(labels) + 1
    return Panoptic(
        torch.where(segments == 0, numbers[free], segments),
        torch.cat([labels, kept]),
        torch.cat([crowd, torch.zeros(len(kept), dtype=torch.bool, device=crowd.device)]),
        names,
        num_things,
    )
