"""Match classes and keypoints of two data sets by name, and renumber them."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from rcnn.data.dataset import Dataset, Record
from rcnn.structures import VOID


def renumber(classes: npt.NDArray[np.integer[Any]], table: Sequence[int]) -> npt.NDArray[np.int64]:
    """A semantic map ``[H, W]`` with values replaced by ``table[value]``; those beyond it become void."""
    values = np.full(VOID + 1, VOID, np.int64)
    values[: len(table)] = table
    renumbered: npt.NDArray[np.int64] = values[classes]
    return renumbered


def occurring_classes(dataset: Dataset) -> list[str]:
    """The names of the classes that have an object, in label order."""
    labels = set(dataset.objects.labels.tolist())
    return [name for label, name in enumerate(dataset.class_names) if label in labels]


def numbered_keypoints(count: int) -> tuple[str, ...]:
    """Default names for keypoints without names."""
    return tuple(f"keypoint_{number}" for number in range(count))


def keypoint_order(wanted: Sequence[str], found: Sequence[str]) -> list[int] | None:
    """The index in ``found`` of each of the ``wanted`` keypoints, by name, ignoring case.

    None if one is missing. If one side has default names, as YOLO files do, equal numbers of keypoints match
    in order.
    """
    folded = [name.casefold() for name in found]
    if all(name.casefold() in folded for name in wanted):
        return [folded.index(name.casefold()) for name in wanted]
    nameless = any(all(re.fullmatch(r"keypoint_\d+", n) for n in names) for names in (wanted, found))
    return list(range(len(wanted))) if nameless and len(wanted) == len(found) else None


def matching_label(class_names: Sequence[str], name: str) -> int | None:
    """The index of a class by its name; without an exact match, of the first that differs only in case."""
    if name in class_names:
        return class_names.index(name)
    folded = [known.casefold() for known in class_names]
    return folded.index(name.casefold()) if name.casefold() in folded else None


def matching_labels(class_names: Sequence[str], names: Sequence[str]) -> list[int | None]:
    """The index in ``class_names`` of each of ``names``, as :func:`matching_label` has it.

    Equal lists match by position, so that classes of one name stay apart.
    """
    if tuple(class_names) == tuple(names):
        return list(range(len(names)))
    return [matching_label(class_names, name) for name in names]


@dataclass(frozen=True)
class MatchedNames:
    """The classes of a model that goes on from another.

    Attributes:
        names: of the result.
        theirs: for each of them the index of the same class in the first model; None for a new one.
        left_out: classes of the first model that the result does not have.
        unseen: classes that the result keeps although the data do not have them.
    """

    names: tuple[str, ...]
    theirs: tuple[int | None, ...]
    left_out: tuple[str, ...] = ()
    unseen: tuple[str, ...] = ()

    @property
    def keys(self) -> tuple[Hashable, ...]:
        """What stands for each of the names: the index in the first model, or that it is new."""
        return tuple(("new", i) if index is None else index for i, index in enumerate(self.theirs))

    @property
    def known(self) -> tuple[str, ...]:
        """The classes that the data share with the first model."""
        pairs = zip(self.names, self.theirs, strict=True)
        return tuple(name for name, index in pairs if index is not None and name not in self.unseen)

    @property
    def new(self) -> tuple[str, ...]:
        """The classes that the first model does not know."""
        return tuple(n for n, index in zip(self.names, self.theirs, strict=True) if index is None)


def match_names(own: Sequence[str], theirs: Sequence[str], *, keep: bool = False) -> MatchedNames:
    """Match classes of data with a model's.

    Args:
        own: of the data.
        theirs: of the model.
        keep: the result has those of the model that the data do not have, too.
    """
    found: dict[int, str] = {}
    # Exact names first: "Cell" must not take the place of "cell" where data have both.
    for name, index in sorted(
        zip(own, matching_labels(theirs, own), strict=True),
        key=lambda pair: pair[1] is None or theirs[pair[1]] != pair[0],
    ):
        if index is not None:
            found.setdefault(index, name)
    left_out = tuple(name for i, name in enumerate(theirs) if i not in found)
    order = [i for i in range(len(theirs)) if keep or i in found]
    new = [name for name in own if name not in found.values()]
    return MatchedNames(
        (*(found.get(i, theirs[i]) for i in order), *new),
        (*order, *[None] * len(new)),
        () if keep else left_out,
        left_out if keep else (),
    )


def align_dataset_classes(
    dataset: Dataset, class_names: tuple[str, ...], semantic_names: tuple[str, ...] = ()
) -> Dataset:
    """The same data set with labels that index ``class_names``, matched by name, ignoring case.

    Its semantic maps are renumbered likewise if ``semantic_names`` are given.

    Raises:
        ValueError: a class that occurs in the data set is not among ``class_names``, or one of its
            semantic maps not among ``semantic_names``.
    """
    if semantic_names and dataset.semantic_names:
        dataset = _align_maps(dataset, semantic_names)
    foreign = [n for n in occurring_classes(dataset) if matching_label(class_names, n) is None]
    if foreign:
        raise ValueError(
            f"{dataset.source}: it has objects of the classes {', '.join(foreign)}; "
            f"expected only {', '.join(class_names)}. Rename or delete them."
        )
    found = matching_labels(class_names, dataset.class_names)
    labels = np.array([-1 if label is None else label for label in found], np.int64)
    category_ids = _moved_ids(dataset.category_ids, labels, len(class_names))
    relabelled = partial(_relabelled, labels=labels, class_names=class_names)
    return dataset.mapped(relabelled, class_names=class_names, category_ids=category_ids)


def rename_classes(dataset: Dataset, names: Mapping[str, str]) -> Dataset:
    """The same data set with other names of classes, of objects and of pixels, by the old ones."""
    class_names, semantic_names = (
        tuple(names.get(name, name) for name in old) for old in (dataset.class_names, dataset.semantic_names)
    )
    change = partial(_renamed, class_names=class_names, semantic_names=semantic_names)
    return dataset.mapped(change, class_names=class_names, semantic_names=semantic_names)


def _renamed(record: Record, class_names: tuple[str, ...], semantic_names: tuple[str, ...]) -> Record:
    own = semantic_names if record.truth.semantic_names else ()
    return replace(record, truth=replace(record.truth, class_names=class_names, semantic_names=own))


def _moved_ids(
    ids: Sequence[int], places: Sequence[int] | npt.NDArray[np.int64], count: int
) -> tuple[int, ...]:
    """The ids of ``count`` classes: old ones at their places (-1: nowhere), free ids for the others."""
    if not ids:
        return ()
    moved = {int(place): category for place, category in zip(places, ids, strict=True) if place >= 0}
    free = (number for number in range(1, len(ids) + count + 1) if number not in moved.values())
    return tuple(moved[place] if place in moved else next(free) for place in range(count))


def _relabelled(record: Record, labels: npt.NDArray[np.int64], class_names: tuple[str, ...]) -> Record:
    truth = record.truth
    return replace(record, truth=replace(truth, labels=labels[truth.labels], class_names=class_names))


def _align_maps(dataset: Dataset, names: tuple[str, ...]) -> Dataset:
    """The same data set with semantic maps whose values index ``names``."""
    places = {name.casefold(): value for value, name in enumerate(names)}
    strange = [name for name in dataset.semantic_names if name.casefold() not in places]
    if strange:
        raise ValueError(
            f"{dataset.source}: its semantic maps have the classes {', '.join(strange)}; expected only "
            f"{', '.join(names)}. Rename them."
        )
    table = [places[name.casefold()] for name in dataset.semantic_names]
    records = [
        replace(
            r,
            truth=replace(r.truth, semantic_names=names),
            semantic=None if r.semantic is None else partial(_renumbered, r.semantic, table),
        )
        for r in dataset.records
    ]
    ids = _moved_ids(dataset.semantic_ids, table, len(names))
    return replace(dataset, records=records, semantic_names=names, semantic_ids=ids)


def _renumbered(
    load: Callable[[], npt.NDArray[np.integer[Any]]], table: Sequence[int]
) -> npt.NDArray[np.int64]:
    return renumber(load(), table)
