"""Which rows of a model's tensors belong to which class, so that another model takes over those it shares.

Legend: K classes, of objects or of pixels, or keypoints.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

BACKGROUND = "background"
"""The row of no class; keys of classes are never text."""

Keys = tuple[Hashable, ...]
Rows = dict[str, tuple[Keys | None, ...]]
"""For tensors by name: the keys along each of their first dimensions, None where these are no classes."""


@dataclass(frozen=True)
class ClassKeys:
    """What the rows of a model stand for: keys that are equal in two models where classes are.

    Attributes:
        classes: of objects, in label order.
        pixels: of what ``semantic_logits`` index.
        keypoints: of an object's keypoints.
    """

    classes: Keys = ()
    pixels: Keys = ()
    keypoints: Keys = ()


@runtime_checkable
class HasClassRows(Protocol):
    """A part of a model with rows of classes."""

    def class_rows(self, keys: ClassKeys) -> Rows:
        """The rows of its tensors, by their names in this part."""


def rows_of_parts(module: nn.Module, keys: ClassKeys) -> Rows:
    """The rows of all parts of a module that have some, under the names of its own state."""
    return {
        f"{name}.{tensor}": rows
        for name, part in module.named_children()
        if isinstance(part, HasClassRows)
        for tensor, rows in part.class_rows(keys).items()
    }


def weight_and_bias(layer: str, keys: Keys) -> Rows:
    """The rows of a layer whose outputs have these keys."""
    return {f"{layer}.weight": (keys,), f"{layer}.bias": (keys,)}


def each_of(keys: Sequence[Hashable], count: int) -> Keys:
    """The keys of ``count`` rows per class, one class after the other."""
    return tuple((key, row) for key in keys for row in range(count))


@dataclass(frozen=True)
class TakenOver:
    """What became of each tensor of a model that takes over another's weights.

    Attributes:
        whole: names of tensors that were taken as they were.
        rows: names of tensors of which some rows were taken, because others are new or were left out.
        new: names of tensors that the other model does not have.
        unfit: tensors that both have, in shapes that do not fit: name to (own shape, the other's).
        unused: names of the other model's tensors that have no place here.
    """

    whole: list[str] = field(default_factory=list)
    rows: list[str] = field(default_factory=list)
    new: list[str] = field(default_factory=list)
    unfit: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = field(default_factory=dict)
    unused: list[str] = field(default_factory=list)


@torch.no_grad()
def take_over(network: nn.Module, own_rows: Rows, found: Mapping[str, Tensor], their_rows: Rows) -> TakenOver:
    """Give a network another's weights, class by class; what the other does not know stays as it is.

    Args:
        network: of any kind; changed in place.
        own_rows: of its tensors.
        found: the other's tensors.
        their_rows: of those.
    """
    own = network.state_dict()
    report = TakenOver(unused=[name for name in found if name not in own])
    for name, tensor in own.items():
        if name not in found:
            report.new.append(name)
            continue
        theirs = found[name].to(tensor.device, tensor.dtype)
        keys, their_keys = own_rows.get(name), their_rows.get(name)
        if keys is None or their_keys is None or keys == their_keys:
            if tensor.shape != theirs.shape:
                report.unfit[name] = tuple(tensor.shape), tuple(theirs.shape)
            else:
                tensor.copy_(theirs)
                report.whole.append(name)
        elif tensor.shape[len(keys) :] != theirs.shape[len(their_keys) :]:
            report.unfit[name] = tuple(tensor.shape), tuple(theirs.shape)
        else:
            _copy_rows(tensor, keys, theirs, their_keys)
            report.rows.append(name)
    return report


def _copy_rows(
    tensor: Tensor, keys: tuple[Keys | None, ...], theirs: Tensor, their_keys: tuple[Keys | None, ...]
) -> None:
    """Copy the entries whose keys are known along every dimension."""
    to, source = [], []
    for dimension, (own, other) in enumerate(zip(keys, their_keys, strict=True)):
        place = {key: row for row, key in enumerate(other or range(theirs.shape[dimension]))}
        pairs = [(i, place[k]) for i, k in enumerate(own or range(tensor.shape[dimension])) if k in place]
        to.append(torch.tensor([i for i, _ in pairs], dtype=torch.int64))
        source.append(torch.tensor([j for _, j in pairs], dtype=torch.int64))
    tensor[torch.meshgrid(*to, indexing="ij")] = theirs[torch.meshgrid(*source, indexing="ij")]
