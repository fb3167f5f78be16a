"""Merge data sets into one: class names mapped, each image once.

Classes are matched by name, without regard to case, as everywhere in the package; two classes that one data
set keeps apart stay apart. An image with the same content as an earlier one is a copy. Copies that are
annotated alike are kept once. What to do with others is for the user to say, since nobody else knows whether
their objects complement or repeat each other.

Legend: N objects of an image, K keypoints per object.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np

from rcnn.config import did_you_mean
from rcnn.data.check import check, refuse_or_skip
from rcnn.data.classes import keypoint_order, matching_label
from rcnn.data.copies import Registry, differences
from rcnn.data.dataset import Dataset, DrawnMasks, Record
from rcnn.data.formats.folders import split_of
from rcnn.data.formats.open import open_splits
from rcnn.data.names import refuse_names
from rcnn.data.output_folder import (
    Progress,
    common_format,
    lost_lines,
    output_folder,
    part_of_progress,
    refuse_output,
    write_dataset,
    writer_of,
)
from rcnn.data.problems import Problem
from rcnn.structures import Skeleton

Copies = Literal["first", "join"]
COPIES = ("first", "join")
ORDER = ("", "train", "val", "test")  # of the parts; a copy stays in the first


@dataclass(frozen=True)
class Merged:
    """Data sets that were merged.

    Attributes:
        out: the output folder.
        format: the key of the format that was written.
        images: number of images of each part, by the name of its folder; empty if there is one part.
        objects: number of objects of each class.
        spellings: for each class, what the data sets call it.
        copies: image files that were left out, each with the one that was kept.
        lost: for each part and kind of content that the format cannot store, where it occurred.
        skipped: the errors of the skipped images.
    """

    out: Path
    format: str
    images: dict[str, int]
    objects: dict[str, int]
    spellings: dict[str, tuple[str, ...]]
    copies: tuple[tuple[Path, Path], ...] = ()
    lost: dict[str, dict[str, list[str]]] = field(default_factory=dict)
    skipped: tuple[Problem, ...] = ()

    def __str__(self) -> str:
        lines = [f"{self.out / name}: {count} images" for name, count in self.images.items()]
        for name, count in self.objects.items():
            others = [spelling for spelling in self.spellings[name] if spelling != name]
            lines.append(f"class {name}: {count} objects" + (f", also {', '.join(others)}" if others else ""))
        lines += [f"copy left out: {copy} is the same image as {kept}" for copy, kept in self.copies]
        for name, lost in self.lost.items():
            lines += lost_lines(lost, self.out / name)
        return "\n".join(lines)


def merge_data(
    sources: Sequence[Dataset | str | Path],
    out: str | Path,
    *,
    rename: Mapping[str, str] | None = None,
    copies: Copies | None = None,
    to: str | None = None,
    skip_bad: bool = False,
    progress: Progress | None = None,
) -> Merged:
    """Merge data sets, of any formats, into a new folder.

    Data sets with splits are merged split by split.

    Args:
        sources: at least two opened data sets, or paths that :func:`rcnn.open_data` reads.
        out: the folder to create; it may exist if it is empty.
        rename: new names of classes, by their old ones; classes with the same new name become one.
        copies: what happens to an image that occurs again with other objects: ``first`` keeps the objects of
            the first, ``join`` those of both, equal ones once. None refuses such images.
        to: a format as for :func:`rcnn.convert`; None: that of all data sets, or COCO if they differ, or if
            it cannot be written or has no class names.
        skip_bad: skip images with errors instead of refusing the data.
        progress: called with the number of images done and in total.

    Raises:
        ValueError: a single data set; a class to rename that there is not; keypoints that do not fit; copies
            with other objects; an unknown format; a folder that is not empty or not writable.
        DataError: one of the data sets has errors.
    """
    if len(sources) < 2:
        raise ValueError("merging needs at least two data sets: rcnn data merge A B OUT")
    if copies is not None and copies not in COPIES:
        raise ValueError(f"--copies {copies}: expected {' or '.join(COPIES)}.")
    target, skipped = Path(out), list[Problem]()
    refuse_output(target, to)
    opened = _by_part(sources)
    usable: dict[str, list[Dataset]] = {}
    for name, of_part in opened.items():
        checked = [refuse_or_skip(dataset, skip_bad, report=check(dataset)) for dataset in of_part]
        usable[name] = [dataset for dataset, _ in checked]
        skipped += [problem for _, errors in checked for problem in errors]
    parts, spellings, registry = _merged(usable, rename or {}, copies)
    datasets = [dataset for of_part in opened.values() for dataset in of_part]
    format = to or common_format(datasets, tuple(spellings))
    make_writer = writer_of(format, parts.values())
    refuse_names(parts.values(), format)
    lost, done, total = dict[str, dict[str, list[str]]](), 0, sum(map(len, parts.values()))
    with output_folder(target) as folder:
        for name, part in parts.items():
            counted = part_of_progress(progress, done, total)
            lost[name] = write_dataset(part, folder / name, make_writer, counted).places
            done += len(part)
    labels = [label for part in parts.values() for r in part.records for label in r.truth.labels.tolist()]
    return Merged(
        target, format, {name: len(part) for name, part in parts.items()},
        {name: labels.count(label) for label, name in enumerate(spellings)}, spellings,
        tuple(registry.left_out), lost, tuple(skipped),
    )  # fmt: skip


def _by_part(sources: Sequence[Dataset | str | Path]) -> dict[str, list[Dataset]]:
    """The data sets of each part: train, val and test, or one without a name."""
    parts: dict[str, list[Dataset]] = {name: [] for name in ORDER}
    whole, divided = list[Dataset | str | Path](), list[Dataset | str | Path]()
    for source in sources:
        splits = open_splits(source)
        (whole if "" in splits else divided).append(source)
        for name, dataset in splits.items():
            parts[split_of(name) or ""].append(dataset)
    if whole and divided:
        raise ValueError(
            f"{divided[0]} has splits, {_place(whole[0])} has none: name the splits one by one, such as "
            f"{Path(str(divided[0])) / 'train'}, or divide the others with rcnn data split."
        )
    return {name: found for name, found in parts.items() if found}


def _place(source: Dataset | str | Path) -> str:
    return str(source.source if isinstance(source, Dataset) else source)


def _merged(
    parts: Mapping[str, Sequence[Dataset]], rename: Mapping[str, str], copies: Copies | None
) -> tuple[dict[str, Dataset], dict[str, tuple[str, ...]], Registry]:
    """The merged data set of each part, the spellings of each class, and the copies."""
    datasets = [dataset for of_part in parts.values() for dataset in of_part]
    names, tables = _class_tables(datasets, rename)
    spellings: dict[str, list[str]] = {name: [] for name in names}
    for dataset, table in zip(datasets, tables, strict=True):
        for own, label in zip(dataset.class_names, table, strict=True):
            spellings[names[label]] += [] if own in spellings[names[label]] else [own]
    skeleton = _common_skeleton(datasets)
    drawn = any(dataset.has_masks for dataset in datasets)
    registry = Registry(join=copies == "join")
    left = iter(tables)
    for part, of_part in parts.items():
        for dataset in of_part:
            labels = np.array(next(left), np.int64)
            for record in dataset.records:
                truth = replace(record.truth, labels=labels[record.truth.labels], class_names=names)
                mapped = _with_keypoints(replace(record, truth=truth), dataset.skeleton, skeleton)
                registry.add(_outlined(mapped) if drawn else mapped, part)
    if registry.differing and copies is None:
        raise ValueError(differences(registry.differing))
    found = {
        part: Dataset(
            format="merged", source=of_part[0].source, class_names=names,
            records=[replace(r, image_id=i) for i, r in registry.numbered(part)], skeleton=skeleton,
        )
        for part, of_part in parts.items()
    }  # fmt: skip
    empty = [part for part, dataset in found.items() if not len(dataset)]
    if empty:
        raise ValueError(f"no image is left for {empty[0]}: all are copies of images in earlier parts.")
    return found, {name: tuple(of) for name, of in spellings.items()}, registry


def _class_tables(
    datasets: Sequence[Dataset], rename: Mapping[str, str]
) -> tuple[tuple[str, ...], list[list[int]]]:
    """All class names, and for each data set the new label of each of its labels."""
    there = {name for dataset in datasets for name in dataset.class_names}
    for old in rename:
        if old not in there:
            raise ValueError(
                f"--rename {old}={rename[old]}: {did_you_mean(old, there)}there is no class {old}; there are "
                f"{', '.join(sorted(there))}."
            )
    names: list[str] = []
    tables = []
    for dataset in datasets:
        earlier, table = tuple(names), list[int]()
        for own in dataset.class_names:
            name = rename.get(own, own)
            label = names.index(name) if name in names else matching_label(earlier, name)
            if label is None or (label in table and name != names[label]):
                label = len(names)
                names.append(name)
            table.append(label)
        tables.append(table)
    return tuple(names), tables


def _common_skeleton(datasets: Sequence[Dataset]) -> Skeleton | None:
    """The keypoints of the first data set that has some; all others must have the same.

    Raises:
        ValueError: other keypoints.
    """
    having = [dataset for dataset in datasets if dataset.skeleton is not None]
    if not having:
        return None
    first = having[0].skeleton
    assert first is not None
    for dataset in having[1:]:
        assert dataset.skeleton is not None
        own = dataset.skeleton.names
        if len(own) != len(first.names) or keypoint_order(first.names, own) is None:
            raise ValueError(
                f"{dataset.source}: its keypoints {', '.join(own)} are not those of {having[0].source}: "
                f"{', '.join(first.names)}. Use the same names."
            )
    return first


def _with_keypoints(record: Record, own: Skeleton | None, common: Skeleton | None) -> Record:
    """The record with keypoints in the common order; those of objects without any are not annotated."""
    if common is None:
        return record
    points = np.zeros((len(record.truth), len(common.names), 3), np.float32)
    if own is not None and record.truth.keypoints is not None:
        points[:] = record.truth.keypoints[:, keypoint_order(common.names, own.names)]
    return replace(record, truth=replace(record.truth, keypoints=points, skeleton=common))


def _outlined(record: Record) -> Record:
    """The record with masks; objects without an outline have their boxes, and are known to have none."""
    if record.masks is not None or record.truth.masks is not None:
        return record
    boxes = DrawnMasks(partial(list, record.truth.polygons()), record.truth.size)
    truth = replace(record.truth, has_mask=np.zeros(len(record.truth), np.bool_))
    return replace(record, truth=truth, masks=boxes)
