"""The truth of a batch in tensors of one shape, which nothing has to be asked about.

Legend: B images, G objects of the image that has most, at least 1; R regions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from rcnn.device import moved
from rcnn.parts.batch import Targets
from rcnn.structures import Size


@dataclass(frozen=True)
class TruthBatch:
    """The objects of each image, with empty rows where an image has fewer than another.

    Attributes:
        boxes: float32 ``[B, G, 4]``.
        labels: int64 ``[B, G]``.
        real: bool ``[B, G]``: an object, and neither a crowd region nor an empty row.
        crowd: bool ``[B, G]``; None if there is no crowd region for certain.
        sizes: (height, width) of the images.
        full: whether all rows are real for certain.
    """

    boxes: Tensor
    labels: Tensor
    real: Tensor
    crowd: Tensor | None
    sizes: tuple[Size, ...]
    full: bool

    @classmethod
    def from_targets(cls, targets: Sequence[Targets]) -> TruthBatch:
        """All images' objects, in their order."""
        boxes = pad_sequence([target.boxes for target in targets], batch_first=True)
        labels = pad_sequence([target.labels for target in targets], batch_first=True)
        there = [torch.ones_like(target.labels, dtype=torch.bool) for target in targets]
        real = pad_sequence(there, batch_first=True)
        crowd = _crowds(targets)
        full = crowd is None and len({len(target) for target in targets}) == 1
        if not boxes.shape[1]:
            boxes, labels = boxes.new_zeros((len(targets), 1, 4)), labels.new_zeros((len(targets), 1))
            real, full = real.new_zeros((len(targets), 1)), False
        if crowd is not None:
            real = real & ~crowd
        return cls(boxes, labels, real, crowd, tuple(target.size for target in targets), full)

    def __len__(self) -> int:
        return len(self.boxes)

    @property
    def has_objects(self) -> Tensor:
        """Bool ``[B, 1]``: whether an image has an object."""
        return self.real.any(1, keepdim=True)


def _crowds(targets: Sequence[Targets]) -> Tensor | None:
    """Bool ``[B, G]``: the crowd regions; None if there is none for certain."""
    known = [target.crowd for target in targets]
    # To look whether any is true would let the host wait for a device.
    if all(crowd is None or (crowd.device.type == "cpu" and not crowd.any()) for crowd in known):
        return None
    empty = [torch.zeros_like(target.labels, dtype=torch.bool) for target in targets]
    return pad_sequence(
        [none if crowd is None else crowd for crowd, none in zip(known, empty, strict=True)], batch_first=True
    )


def rows_of(image_indices: Tensor, gt_indices: Tensor, targets: Sequence[Targets]) -> Tensor:
    """Places of objects in the list of all objects of a batch, int64 ``[R]``.

    Args:
        image_indices: int64 ``[R]``.
        gt_indices: int64 ``[R]``, the object's index in its image.
        targets: of each image.
    """
    first = [0, *accumulate(len(target) for target in targets)][: len(targets)]
    return moved(torch.tensor(first, dtype=torch.int64), gt_indices.device)[image_indices] + gt_indices
