"""What networks take and return, as tensors: batches, targets, detections.

Results and truth outside the networks are NumPy (``rcnn.structures``); :class:`Targets` and
:class:`TargetMasks` have the same fields as tensors.

Legend: B images of a batch, N objects, P pixels of all windows of masks, H and W height and width in pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rcnn.device import MEMORY_FORMAT, moved
from rcnn.ops.matching import fold_seeds
from rcnn.structures import Instances, Masks, Size, Skeleton, as_index_list


@dataclass(frozen=True)
class TargetMasks:
    """N binary masks of one image, each inside its own window; see :class:`rcnn.Masks`.

    Attributes:
        pixels: uint8 ``[P]`` of 0 and 1; the windows' pixels, row by row, one mask after the other.
        windows: int64 ``[N, 4]``; x1 y1 x2 y2 of the stored window of each mask, inside the image.
        size: (height, width) of the image.
    """

    pixels: Tensor
    windows: Tensor
    size: Size

    @classmethod
    def empty(cls, size: Size) -> TargetMasks:
        """No masks, on an image of ``size``."""
        return cls.from_masks(Masks.empty(size))

    @classmethod
    def from_masks(cls, masks: Masks) -> TargetMasks:
        """The same masks as tensors; they share memory where NumPy lets them."""
        return cls(_tensor(masks.pixels), _tensor(masks.windows), masks.size)

    @classmethod
    def concatenate(cls, parts: Sequence[TargetMasks], size: Size) -> TargetMasks:
        """All masks of ``parts``, which belong to one image of ``size``, one after the other."""
        if not parts:
            return cls.empty(size)
        pixels = torch.cat([part.pixels for part in parts])
        return cls(pixels, torch.cat([part.windows for part in parts]), size)

    def __len__(self) -> int:
        return len(self.windows)

    @property
    def window_areas(self) -> Tensor:
        """int64 ``[N]``: the number of stored pixels of each mask."""
        return (self.windows[:, 2] - self.windows[:, 0]) * (self.windows[:, 3] - self.windows[:, 1])

    @property
    def offsets(self) -> Tensor:
        """int64 ``[N]``: where in ``pixels`` the window of each mask starts."""
        areas = self.window_areas
        return areas.cumsum(0) - areas

    def patches(self) -> Iterator[Tensor]:
        """Yield each mask's window as uint8 ``[h, w]``, a view."""
        flats = torch.split(self.pixels, self.window_areas.tolist())
        for flat, (x1, y1, x2, y2) in zip(flats, self.windows.tolist(), strict=True):
            yield flat.view(y2 - y1, x2 - x1)

    def __getitem__(self, index: Any) -> TargetMasks:
        """The masks that a slice, a bool mask or integer indices select; an integer selects one."""
        index, _ = as_index_list(index)
        chosen = torch.arange(len(self), device=self.windows.device)[index]
        patches = list(self.patches())
        parts = [patches[i].reshape(-1) for i in chosen.tolist()]
        pixels = torch.cat(parts) if parts else self.pixels[:0]
        return TargetMasks(pixels, self.windows[chosen], self.size)

    def masks(self) -> Masks:
        """The same masks in NumPy."""
        return Masks(self.pixels.cpu().numpy(), self.windows.cpu().numpy(), self.size)

    def to(self, device: torch.device | str) -> TargetMasks:
        """The same masks on another device."""
        return TargetMasks(moved(self.pixels, device), moved(self.windows, device), self.size)


@dataclass(frozen=True)
class Targets:
    """The truth of one image, for training; fields as in :class:`rcnn.Instances`.

    Attributes:
        size: (height, width) of the image that the coordinates refer to.
        boxes: float32 ``[N, 4]``.
        labels: int64 ``[N]``.
        masks: the outlines.
        keypoints: float32 ``[N, K, 3]``: x, y and visibility (0 not annotated, 1 hidden, 2 visible).
        crowd: bool ``[N]``.
        difficult: bool ``[N]``.
        areas: float32 ``[N]``.
        has_mask: bool ``[N]``; masks of the other objects are not learned.
        semantic: int64 ``[H, W]``; 255 is void.
        proposals: float32 ``[P, 4]``, external proposals.
        skeleton: what the keypoints are.
        path: the image file, for messages.
    """

    size: Size
    boxes: Tensor
    labels: Tensor
    masks: TargetMasks | None = None
    keypoints: Tensor | None = None
    crowd: Tensor | None = None
    difficult: Tensor | None = None
    areas: Tensor | None = None
    has_mask: Tensor | None = None
    semantic: Tensor | None = None
    proposals: Tensor | None = None
    skeleton: Skeleton | None = None
    path: Path | None = None

    @classmethod
    def from_instances(cls, instances: Instances) -> Targets:
        """The truth as tensors."""
        values: dict[str, Any] = {}
        for spec in fields(cls):
            value = getattr(instances, spec.name)
            if isinstance(value, np.ndarray):
                value = _tensor(value)
            elif isinstance(value, Masks):
                value = TargetMasks.from_masks(value)
            values[spec.name] = value
        if values["semantic"] is not None:
            values["semantic"] = values["semantic"].to(torch.int64)
        return cls(**values)

    @classmethod
    def empty(cls, size: Size, **present: Any) -> Targets:
        """No objects on an image of ``size``; further fields as keywords."""
        return cls(size, torch.zeros((0, 4)), torch.zeros(0, dtype=torch.int64), **present)

    def instances(self, class_names: tuple[str, ...] = (), semantic_names: tuple[str, ...] = ()) -> Instances:
        """The truth in NumPy."""
        values: dict[str, Any] = {}
        for spec in fields(self):
            value = getattr(self, spec.name)
            if isinstance(value, Tensor):
                value = value.cpu().numpy()
            elif isinstance(value, TargetMasks):
                value = value.masks()
            values[spec.name] = value
        return Instances(**values, class_names=class_names, semantic_names=semantic_names)

    def __len__(self) -> int:
        return len(self.boxes)

    def __getitem__(self, index: Any) -> Targets:
        """The objects that a slice, a bool mask or integer indices ``[M]`` select; an integer selects one."""
        index, _ = as_index_list(index)
        rows = {name: getattr(self, name, None) for name in Instances.per_object()}
        return replace(self, **{name: value[index] for name, value in rows.items() if value is not None})

    def to(self, device: torch.device | str) -> Targets:
        """The same truth on another device."""
        values = {spec.name: getattr(self, spec.name) for spec in fields(self)}
        there: dict[str, Any] = {k: moved(v, device) for k, v in values.items() if isinstance(v, Tensor)}
        return replace(self, **there, masks=None if self.masks is None else self.masks.to(device))


def as_targets(truths: Sequence[Instances | Targets], device: torch.device | str) -> list[Targets]:
    """Truth of any form as :class:`Targets` on ``device``."""
    return [(Targets.from_instances(t) if isinstance(t, Instances) else t).to(device) for t in truths]


def without_empty_crowd(targets: Targets) -> Targets:
    """The same truth, with no ``crowd`` where no object is one, so that nobody has to look on a device.

    What is on a device already is not looked at.
    """
    crowd = targets.crowd
    known = crowd is not None and crowd.device.type == "cpu" and not crowd.any()
    return replace(targets, crowd=None) if known else targets


def _tensor(array: np.ndarray[Any, Any]) -> Tensor:
    """A tensor that shares the array's memory, or a copy's where the array is read-only or strided."""
    ready = np.ascontiguousarray(array)
    return torch.from_numpy(ready if ready.flags.writeable else ready.copy())


@dataclass(frozen=True)
class ImageBatch:
    """Images of different sizes in one tensor, padded with zeros on the right and at the bottom.

    Attributes:
        tensors: float32 ``[B, C, H, W]``, normalised; H and W the largest of the batch, rounded up.
        sizes: the (height, width) that each image really covers.
        seeds: in training, one per image, of the random choices made about it; an image then has the same
            anchors and proposals sampled in whatever batch, process and device it is. Empty: drawn from
            torch's own generator.
        proposals: external proposals, float32 ``[P, 4]`` of each image in the batch's own coordinates, where
            there is no truth to carry them; else empty.
        size_divisor: H and W are multiples of it.
    """

    tensors: Tensor
    sizes: tuple[Size, ...]
    seeds: tuple[int, ...] = ()
    proposals: tuple[Tensor, ...] = ()
    size_divisor: int = 32

    def sampling_seeds(self) -> Tensor:
        """What candidates are sampled with, int64 ``[B]``: ``seeds`` in 32 bits."""
        seeds = self.seeds or torch.randint(2**62, (len(self),)).tolist()
        return moved(fold_seeds(seeds), self.tensors.device)

    @property
    def extents(self) -> Tensor:
        """``sizes`` as a tensor, float32 ``[B, 2]``."""
        return moved(torch.tensor(self.sizes, dtype=torch.float32).view(-1, 2), self.tensors.device)

    def equal_groups(self) -> dict[Size, list[int]]:
        """Places of the images that would be padded to the same size alone, by that size."""
        step = self.size_divisor
        groups: dict[Size, list[int]] = {}
        for i, (height, width) in enumerate(self.sizes):
            groups.setdefault((-(-height // step) * step, -(-width // step) * step), []).append(i)
        return groups

    def __len__(self) -> int:
        return len(self.sizes)


@dataclass(frozen=True)
class Regions:
    """Regions of a batch in flat form, the input of every head.

    Attributes:
        boxes: float32 ``[R, 4]``.
        image_indices: int64 ``[R]``, the image of the batch that each is in, image by image.
        most: no image has more, where that is known without looking at them.
    """

    boxes: Tensor
    image_indices: Tensor
    most: int | None = None

    @classmethod
    def from_lists(cls, boxes: Sequence[Tensor]) -> Regions:
        """From one tensor ``[N, 4]`` per image."""
        indices = [torch.full((len(b),), i, dtype=torch.int64, device=b.device) for i, b in enumerate(boxes)]
        return cls(torch.cat(list(boxes)), torch.cat(indices), max(map(len, boxes), default=0))

    def padded(self, num_images: int) -> tuple[Tensor, Tensor]:
        """The boxes ``[B, P, 4]`` of each image, empty ones after them, and whether each is there."""
        most = self.most
        if most is None:
            counts = torch.bincount(self.image_indices, minlength=num_images)
            most = int(counts.max()) if num_images else 0
        first = torch.searchsorted(self.image_indices, self.image_indices)
        place = self.image_indices * most + torch.arange(len(first), device=first.device) - first
        boxes = self.boxes.new_zeros((num_images * most, 4)).index_copy(0, place, self.boxes)
        there = torch.zeros(num_images * most, dtype=torch.bool, device=first.device)
        there = there.index_fill(0, place, True)
        return boxes.view(num_images, most, 4), there.view(num_images, most)

    def lists(self, num_images: int) -> list[Tensor]:
        """The boxes ``[N, 4]`` of each image; :meth:`from_lists` inverts it."""
        return [self.boxes[self.image_indices == i] for i in range(num_images)]


@dataclass(frozen=True)
class Detections:
    """What a network finds in a batch, as one flat list, image by image and the best of each first.

    An exported file has outputs of the same names and shapes; ``rcnn.inference.postprocess`` makes
    :class:`rcnn.Instances` of either.

    Attributes:
        boxes: float32 ``[N, 4]``, in pixels of the batch's (resized) images, inside each image.
        labels: int64 ``[N]``.
        scores: float32 ``[N]`` in [0, 1].
        image_index: int64 ``[N]``, the image of the batch that each was found in.
        mask_maps: float32 ``[N, M, M]``, the probability of being inside for each cell of the box's grid.
        keypoints: float32 ``[N, K, 3]``: x, y and logit.
        keypoint_maps: float32 ``[N, K, S, S]``, logits inside the box, of models whose keypoints are read at
            the resolution of the image.
        semantic_logits: float32 ``[B, C, H, W]``, of all pixels of the batch, padding included.
    """

    boxes: Tensor
    labels: Tensor
    scores: Tensor
    image_index: Tensor
    mask_maps: Tensor | None = None
    keypoints: Tensor | None = None
    keypoint_maps: Tensor | None = None
    semantic_logits: Tensor | None = None

    def __len__(self) -> int:
        return len(self.boxes)

    @property
    def regions(self) -> Regions:
        """The boxes as regions of the batch, for heads that look at what was found."""
        return Regions(self.boxes, self.image_index)

    @classmethod
    def none(cls, images: Tensor, **present: Tensor) -> Detections:
        """No objects in images ``[B, C, H, W]``; further fields as keywords."""
        # Computed from the images: an exported constant of no objects is one object to OpenVINO.
        labels = (images[:, 0, 0, 0] == torch.inf).nonzero()[:, 0]
        scores = labels.to(images.dtype)
        return cls(scores[:, None].repeat(1, 4), labels, scores, labels, **present)

    def tensors(self) -> dict[str, Tensor]:
        """What is there, by name: the outputs of an exported file."""
        values = {spec.name: getattr(self, spec.name) for spec in fields(self)}
        return {name: value for name, value in values.items() if value is not None}


@dataclass(frozen=True)
class Output:
    """What a model's ``forward`` returns, always.

    Attributes:
        losses: one scalar each, to be summed; empty without targets.
        detections: what was found in the batch; None with targets.
    """

    losses: dict[str, Tensor] = field(default_factory=dict)
    detections: Detections | None = None


def in_equal_groups(
    batch: ImageBatch, detect: Callable[[Tensor, Tensor, Regions | None], Detections]
) -> Detections:
    """Detections in each image with the padding that it has alone, joined in the order of the images.

    More padding changes the feature maps beyond an image's border and, through convolutions, at the border,
    so that objects there would be lost. Images that share one padded size are processed together.

    Args:
        batch: images of any sizes.
        detect: takes images ``[B, C, H, W]``, their sizes ``[B, 2]`` and their external proposals, if any.
    """
    groups = batch.equal_groups()
    if list(groups) == [tuple(batch.tensors.shape[2:])]:
        return detect(
            batch.tensors, batch.extents, Regions.from_lists(batch.proposals) if batch.proposals else None
        )
    members = [moved(torch.tensor(own), batch.tensors.device) for own in groups.values()]
    found = []
    for own, (height, width) in zip(members, groups, strict=True):
        images = batch.tensors[own, :, :height, :width].contiguous(memory_format=MEMORY_FORMAT)
        places = groups[height, width]
        proposals = [batch.proposals[i] for i in places] if batch.proposals else []
        found.append(detect(images, batch.extents[own], Regions.from_lists(proposals) if proposals else None))
    joined = {
        name: torch.cat([getattr(one, name) for one in found])
        for name in found[0].tensors()
        if name not in ("image_index", "semantic_logits")
    }
    images = torch.cat([own[one.image_index] for own, one in zip(members, found, strict=True)])
    order = images.argsort(stable=True)
    joined = {name: values[order] for name, values in joined.items()}
    if found[0].semantic_logits is not None:
        joined["semantic_logits"] = _joined_maps(batch, members, found)
    return Detections(**joined, image_index=images[order])


def _joined_maps(batch: ImageBatch, members: Sequence[Tensor], found: Sequence[Detections]) -> Tensor:
    """The groups' semantic logits as one tensor of the batch's size, zero in the padding that they lack."""
    maps = [one.semantic_logits for one in found if one.semantic_logits is not None]
    whole = maps[0].new_zeros((len(batch), maps[0].shape[1], *batch.tensors.shape[2:]))
    for own, part in zip(members, maps, strict=True):
        whole[own, :, : part.shape[2], : part.shape[3]] = part
    return whole
