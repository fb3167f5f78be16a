"""Write a corrected copy of a data set: ``rcnn data check DATA --fix OUT``.

Corrected is what has one right answer: what readers ignore or clip is left out or clipped for good, repeated
objects and images are written once, blanks around class names and classes without objects go, ids are
numbered, and sizes are those of the files where the objects tell. Everything else is left out of the copy
with its image and listed with what to do about it, because a guess would be wrong without a word. The source
is never changed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rcnn.data.annotated_sizes import with_right_sizes
from rcnn.data.check import check, refuse_or_skip
from rcnn.data.classes import occurring_classes
from rcnn.data.copies import annotated_alike
from rcnn.data.dataset import Dataset, Record
from rcnn.data.formats.open import open_data, open_splits
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
from rcnn.data.problems import DataError, Problem, shortened
from rcnn.data.twins import content_digest
from rcnn.io.escaping import for_terminal
from rcnn.structures import Masks

CORRECTIONS_FILE = "corrections.txt"
TWICE = "Both are used"  # how readers' advice about repeated objects begins
SHOWN = 20  # corrections and problems shown of each; the file lists them all


@dataclass(frozen=True)
class Fixed:
    """A corrected copy.

    Attributes:
        out: the output folder.
        format: the key of the format that was written.
        images: number of images of each split, by the name of its folder; empty if there is one.
        objects: number of objects.
        corrections: what differs from the source.
        left_out: what could not be corrected, and is not in the copy.
        lost: for each split and kind of content that the format cannot store, where it occurred.
    """

    out: Path
    format: str
    images: dict[str, int]
    objects: int
    corrections: tuple[str, ...]
    left_out: tuple[Problem, ...]
    lost: dict[str, dict[str, list[str]]]

    def __str__(self) -> str:
        lines = [f"corrected: {text}" for text in self.corrections[:SHOWN]]
        lines += [f"left out, {problem}" for problem in self.left_out[:SHOWN]]
        hidden = sum(max(0, len(found) - SHOWN) for found in (self.corrections, self.left_out))
        if hidden:
            lines.append(f"… and {hidden} more, listed in {self.out / CORRECTIONS_FILE}")
        for name, lost in self.lost.items():
            lines += lost_lines(lost, self.out / name)
        lines += [f"{self.out / name}: {count} images" for name, count in self.images.items()]
        lines.append(f"{len(self.corrections)} corrections, {len(self.left_out)} errors left out")
        return "\n".join(lines)


def fix_data(
    data: Dataset | Mapping[str, Dataset] | str | Path,
    out: str | Path,
    *,
    to: str | None = None,
    progress: Progress | None = None,
) -> Fixed:
    """Write a copy of a data set in which everything is corrected that can be corrected safely.

    ``corrections.txt`` in the copy lists all corrections, and what was left out. The copy has no errors.

    Args:
        data: an opened data set, its splits by name, or a path that :func:`rcnn.open_data` reads; of a
            folder with splits, all are written.
        out: the folder to create, outside the source; it may exist if it is empty.
        to: a format as for :func:`rcnn.convert`; None: the data set's own, or COCO where that cannot be
            written.
        progress: called with the number of images written and in total.

    Raises:
        ValueError: a folder that is not empty, not writable or inside the source, or an unknown format.
        DataError: an error of the data set as a whole, or no image is left.
    """
    target = Path(out)
    refuse_output(target, to)
    splits = _opened(data)
    for dataset in splits.values():
        _refuse_inside(target, dataset.source)
    log = _Log()
    parts = {name: log.usable(dataset) for name, dataset in splits.items()}
    parts = log.without_copies({name: log.without_repeated(part) for name, part in parts.items()})
    parts = log.with_plain_classes(parts)
    format = to or common_format(parts.values(), next(iter(parts.values())).class_names)
    make_writer = writer_of(format, parts.values())
    refuse_names(parts.values(), format)
    lost, done, total = dict[str, dict[str, list[str]]](), 0, sum(map(len, parts.values()))
    with output_folder(target) as folder:
        for name, part in parts.items():
            counted = part_of_progress(progress, done, total)
            lost[name] = write_dataset(part, folder / name, make_writer, counted).places
            done += len(part)
            log.compare(splits[name], open_data(folder / name, format=format))
        done_and_left = [f"corrected: {text}" for text in log.corrections]
        done_and_left += [f"left out, {problem}" for problem in log.left_out]
        lines = [f"{for_terminal(text)}\n" for text in done_and_left]  # one each, whatever the names
        (folder / CORRECTIONS_FILE).write_text("".join(lines), encoding="utf-8")
    objects = sum(len(record.truth) for part in parts.values() for record in part.records)
    images = {name: len(part) for name, part in parts.items()}
    return Fixed(target, format, images, objects, tuple(log.corrections), tuple(log.left_out), lost)


def _opened(data: Dataset | Mapping[str, Dataset] | str | Path) -> dict[str, Dataset]:
    if isinstance(data, Mapping):
        return dict(data)
    return {"": data} if isinstance(data, Dataset) else open_splits(data)


def _refuse_inside(target: Path, source: Path) -> None:
    folder = source if source.is_dir() else source.parent
    inside = target.resolve().parents if source.is_dir() else ()
    if folder.resolve() in (target.resolve(), *inside):
        raise ValueError(f"{target} is inside the data set {source}, which is not changed: choose another.")


class _Log:
    """Corrects data sets, and keeps what was done.

    Attributes:
        corrections: in sentences that name the file.
        left_out: the errors of what is not in the copy.
        resized: images with another size, to which what readers said of their boxes does not apply.
    """

    def __init__(self) -> None:
        self.corrections: list[str] = []
        self.left_out: list[Problem] = []
        self.resized: set[Path] = set()

    def usable(self, dataset: Dataset) -> Dataset:
        """The images without errors, those with a correctable size among them."""
        report = check(dataset)
        sized, solved = with_right_sizes(dataset, report.problems)
        self.corrections += [f"{problem.file}: {problem.what} {text}" for problem, text in solved.items()]
        self.resized |= (resized := {problem.file for problem in solved})
        left = [p for p in report.problems if p.severity == "warning" or p.file not in resized]
        usable, errors = refuse_or_skip(sized, True, report=replace(report, problems=tuple(left)))
        self.left_out += errors
        return usable

    def without_repeated(self, dataset: Dataset) -> Dataset:
        """Each object of an image once: the same class, box, mask and keypoints are one object."""
        records = []
        for record in dataset.records:
            again = repeated_objects(record)
            if again:
                numbers = shortened([str(index + 1) for index in again])
                self.corrections.append(f"{record.path}: repeated objects were removed: {numbers}.")
                keep = np.setdiff1d(np.arange(len(record.truth)), again)
                masks = None if record.masks is None else partial(_chosen, record.masks, keep)
                record = replace(record, truth=record.truth[keep], masks=masks)
            records.append(record)
        return replace(dataset, records=records)

    def without_copies(self, parts: Mapping[str, Dataset]) -> dict[str, Dataset]:
        """Each image once, over all parts; copies that are annotated otherwise stay."""
        first: dict[str, Record] = {}
        kept: dict[str, list[Record]] = {name: [] for name in parts}
        for name, part in parts.items():
            for record in part.records:
                known = first.setdefault(content_digest(record), record)
                if known is record or not annotated_alike(known, record):
                    kept[name].append(record)
                else:
                    what = f"it is a copy of {known.path} with the same objects, and was removed."
                    self.corrections.append(f"{record.path}: {what}")
        for name, part in parts.items():
            if not kept[name]:
                what = "All of its images are copies of images in other splits."
                raise DataError(part.source, [Problem(part.source, what, "Choose other images for it.")])
        return {name: replace(part, records=kept[name]) for name, part in parts.items()}

    def with_plain_classes(self, parts: Mapping[str, Dataset]) -> dict[str, Dataset]:
        """Class names without blanks around them, and only classes that have an object in some part."""
        used = {name.strip() for part in parts.values() for name in occurring_classes(part)}
        return {name: self._with_classes(part, used) for name, part in parts.items()}

    def _with_classes(self, part: Dataset, used: set[str]) -> Dataset:
        for name in part.class_names:
            if name.strip() not in used:
                self.corrections.append(f"{part.source}: the class {name!r} has no object and was dropped.")
            elif name != name.strip():
                self.corrections.append(f"{part.source}: the class {name!r} became {name.strip()!r}.")
        kept = [label for label, name in enumerate(part.class_names) if name.strip() in used]
        names = tuple(dict.fromkeys(part.class_names[label].strip() for label in kept))
        if names == part.class_names:
            return part
        labels = np.full(len(part.class_names), -1, np.int64)
        labels[kept] = [names.index(part.class_names[label].strip()) for label in kept]
        firsts = [labels.tolist().index(new) for new in range(len(names))]
        ids = tuple(part.category_ids[label] for label in firsts) if part.category_ids else ()
        change = partial(_relabelled, labels=labels, class_names=names)
        return part.mapped(change, class_names=names, category_ids=ids)

    def compare(self, source: Dataset, copy: Dataset) -> None:
        """Add what reading the source has corrected: the warnings that its copy no longer has.

        Raises:
            DataError: the copy has an error.
        """
        errors = [problem for problem in check(copy, decode=False).problems if problem.severity == "error"]
        if errors:
            raise DataError(source.source, errors)
        remaining = {_without_place(problem, copy) for problem in copy.problems}
        for problem in source.problems:
            # What is said of repeated objects, and of boxes in images of a wrong size, is listed already.
            handled = problem.severity == "warning" and not problem.advice.startswith(TWICE)
            if (
                handled
                and problem.file not in self.resized
                and _without_place(problem, source) not in remaining
            ):
                advice = problem.advice.partition(";")[0].rstrip(".")
                self.corrections.append(f"{problem.place}: {problem.what} {advice}.")


def repeated_objects(record: Record) -> list[int]:
    """The objects of an image that are equal to an earlier one: class, box, keypoints, mask, crowd."""
    truth = record.truth
    columns: list[npt.NDArray[Any]] = [truth.labels[:, None], truth.boxes]
    columns += [] if truth.keypoints is None else [truth.keypoints.reshape(len(truth), -1)]
    columns += [] if truth.crowd is None else [truth.crowd[:, None]]
    first: dict[tuple[float, ...], list[int]] = {}
    for index, row in enumerate(np.concatenate(columns, 1).tolist()):
        first.setdefault(tuple(row), []).append(index)
    groups = [group for group in first.values() if len(group) > 1]
    if not groups or record.masks is None:
        return sorted(index for group in groups for index in group[1:])
    codes = [code["counts"] for code in _masks_of(record).rle()]
    return sorted(
        i for group in groups for n, i in enumerate(group) if codes[i] in [codes[j] for j in group[:n]]
    )


def _masks_of(record: Record) -> Masks:
    masks = record.load_truth().masks
    assert masks is not None
    return masks


def _chosen(load: Callable[[], Masks], rows: npt.NDArray[np.int64]) -> Masks:
    return load()[rows]


def _relabelled(record: Record, labels: npt.NDArray[np.int64], class_names: tuple[str, ...]) -> Record:
    truth = record.truth
    return replace(record, truth=replace(truth, labels=labels[truth.labels], class_names=class_names))


def _without_place(problem: Problem, dataset: Dataset) -> str:
    return problem.what.replace(str(dataset.source), "")
