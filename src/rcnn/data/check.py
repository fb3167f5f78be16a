"""What can be wrong with a data set, found all at once, and what a data set holds.

Readers note what they see in the annotations (``rcnn.data.problems`` has their common rules);
:func:`check` adds what the image files tell. An error keeps an image out of training, a warning was dealt
with already:

    - error: a box that is inverted, not a number, or wholly outside; an unknown category; a file that is
      missing, damaged or of another size than annotated; ids or files listed twice; a semantic map of another
      size or with values outside the class list.
    - warning: a box without area is left out; one that reaches beyond the image is cut at its border.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from rcnn.data.classes import keypoint_order, occurring_classes
from rcnn.data.dataset import Dataset, Record
from rcnn.data.formats.open import open_data
from rcnn.data.problems import DataError, Problem, size_problem
from rcnn.io.images import ImageError, image_size, read_image
from rcnn.structures import VOID, Size

PERCENTILES = (5, 25, 50, 75, 95)


@dataclass(frozen=True)
class DataReport:
    """What a data set holds and everything found wrong with it.

    Attributes:
        format: as in :class:`Dataset`.
        source: the file or folder.
        problems: the reader's and those of the image files, errors first.
        num_images: images that can be used as far as the reader knows.
        num_empty: images without objects.
        objects_per_class: objects of each class, crowds included, in label order.
        num_crowds: crowd regions among them.
        box_sizes: percentiles (5, 25, 50, 75, 95) of the square root of the boxes' areas, in pixels.
        image_sizes: how often each (height, width) occurs, most frequent first.
        has_masks: whether every object has an outline.
        has_keypoints: whether objects have keypoints.
        pixels_per_class: pixels of each class of the semantic maps, where there are any and images were
            decoded.
    """

    format: str
    source: Path
    problems: tuple[Problem, ...]
    num_images: int
    num_empty: int
    objects_per_class: dict[str, int]
    num_crowds: int
    box_sizes: dict[int, float]
    image_sizes: dict[Size, int]
    has_masks: bool
    has_keypoints: bool
    pixels_per_class: dict[str, int] = field(default_factory=dict)

    @property
    def errors(self) -> tuple[Problem, ...]:
        """The problems that keep an image, or the whole data set, out of training."""
        return tuple(p for p in self.problems if p.severity == "error")

    @property
    def warnings(self) -> tuple[Problem, ...]:
        """The problems that were dealt with."""
        return tuple(p for p in self.problems if p.severity == "warning")

    def __str__(self) -> str:
        total = sum(self.objects_per_class.values())
        kind = " and ".join(
            name for name, there in (("outlines", self.has_masks), ("keypoints", self.has_keypoints)) if there
        )
        kind = f"with {kind}" if kind else "boxes only"
        classes = [f"{name} {count}" for name, count in self.objects_per_class.items() if count]
        sizes = [f"{w}x{h} ({n})" for (h, w), n in list(self.image_sizes.items())[:5]]
        more = f", {len(self.image_sizes) - 5} other sizes" if len(self.image_sizes) > 5 else ""
        boxes = ", ".join(f"{p} %: {size:.0f}" for p, size in self.box_sizes.items())
        area = sum(self.pixels_per_class.values())
        pixels = [f"{name} {n / area:.1%}" for name, n in self.pixels_per_class.items() if n]
        empty = f" ({self.num_empty} without objects)" if total or not pixels else ""
        lines = [f"{self.source}: {self.format}, {self.num_images} images{empty}"]
        if total or not pixels:
            lines += [
                f"objects: {total} ({kind}, {self.num_crowds} crowds): {', '.join(classes) or 'none'}",
                f"object sizes, square root of the box area in pixels: {boxes or 'none'}",
            ]
        if pixels:
            lines.append(f"pixels of the semantic maps: {', '.join(pixels)}")
        lines += [
            f"image sizes, width x height: {', '.join(sizes) or 'none'}{more}",
            f"{len(self.errors)} errors, {len(self.warnings)} warnings",
        ]
        return "\n".join(lines)


def check(dataset: Dataset | str | Path, *, decode: bool = True) -> DataReport:
    """Look for everything wrong with a data set, and count what it holds.

    Args:
        dataset: an opened data set, or a path that :func:`rcnn.open_data` reads.
        decode: decode every image, which is what finds truncated ones; without, only headers are read.
    """
    dataset = open_data(dataset)
    problems = [*dataset.problems, *_set_problems(dataset)]
    pixels: dict[str, int] = {}
    if decode and dataset.semantic_names:
        bad_maps, pixels = _look_at_maps(dataset)
        problems += bad_maps
    problems += _file_problems([record for record in dataset.records if record.image is None], decode)
    problems.sort(key=lambda p: p.severity != "error")  # stable: the order of finding otherwise
    truths = [r.truth for r in dataset.records]
    labels = Counter(label for t in truths for label in t.labels.tolist())
    boxes = np.concatenate([np.zeros((0, 4), np.float32), *(t.boxes for t in truths)])  # [N, 4]
    sizes = np.sqrt((boxes[:, 2:] - boxes[:, :2]).prod(1))
    return DataReport(
        format=dataset.format,
        source=dataset.source,
        problems=tuple(problems),
        num_images=len(truths),
        num_empty=sum(len(t) == 0 for t in truths),
        objects_per_class={name: labels[i] for i, name in enumerate(dataset.class_names)},
        num_crowds=sum(int(t.crowd.sum()) for t in truths if t.crowd is not None),
        box_sizes={p: float(np.percentile(sizes, p)) for p in PERCENTILES} if len(sizes) else {},
        image_sizes=dict(Counter(t.size for t in truths).most_common()),
        has_masks=dataset.has_masks,
        has_keypoints=dataset.skeleton is not None,
        pixels_per_class=pixels,
    )


def check_pair(train: Dataset, val: Dataset) -> list[Problem]:
    """What is wrong with a validation part seen from the training part: the classes.

    Classes are compared by name, upper and lower case alike, and only those that occur in ``val`` count.
    """
    declared = {name.casefold() for name in train.class_names}
    seen = {name.casefold() for name in occurring_classes(train)}
    occurring = occurring_classes(val)
    foreign = [name for name in occurring if name.casefold() not in declared]
    unseen = [n for n in occurring if n.casefold() in declared and n.casefold() not in seen]
    problems = []
    known = {name.casefold() for name in train.semantic_names}
    strange = [name for name in val.semantic_names if known and name.casefold() not in known]
    if strange:
        what = f"Its semantic maps have classes that the training part {train.source} has not: "
        advice = f"Rename them; classes there: {', '.join(train.semantic_names)}."
        problems.append(Problem(val.source, f"{what}{', '.join(strange)}.", advice))
    if foreign:
        what = (
            f"It has objects of classes that the training part {train.source} has not: {', '.join(foreign)}."
        )
        advice = f"Rename them or annotate them in training; classes there: {', '.join(train.class_names)}."
        problems.append(Problem(val.source, what, advice))
    if train.skeleton is not None and val.skeleton is not None:
        wanted, own = val.skeleton.names, train.skeleton.names
        if keypoint_order(wanted, own) is None:
            what = f"Its keypoints {', '.join(wanted)} are not all among those of training, {', '.join(own)}."
            problems.append(Problem(val.source, what, "Name them alike."))
    if unseen:
        what = f"It has objects of classes without any object in the training part: {', '.join(unseen)}."
        problems.append(
            Problem(val.source, what, "They cannot be learnt and count as missed.", severity="warning")
        )
    return problems


def refuse_or_skip(
    dataset: Dataset, skip_bad: bool, *, report: DataReport | None = None, boxes_only: bool = False
) -> tuple[Dataset, list[Problem]]:
    """The data set without its bad images, or a refusal that lists them.

    Args:
        dataset: an opened data set.
        skip_bad: leave images with errors out instead of refusing the data set.
        report: what :func:`check` said of it; without, it is called here and decodes every image.
        boxes_only: nobody will look at outlines, so what is wrong with them is none.

    Returns:
        The data set that can be trained on, its ``problems`` completed by those of the image files, and the
        errors of what was left out.

    Raises:
        DataError: there are errors and ``skip_bad`` is not set; or an error concerns the data set as a whole,
            or no image is left, which no skipping mends.
    """
    report = report or check(dataset)
    errors = [p for p in report.errors if not (boxes_only and p.is_outline_problem)]
    # A broken category concerns all images, too.
    of_all = [p for p in errors if p.file == dataset.source]
    whole = [p for p in of_all if p.annotation is None or p.annotation.startswith("categories")]
    if whole or (errors and not skip_bad):
        raise DataError(dataset.source, whole + [p for p in errors if p not in whole])
    bad = {p.file for p in errors}
    kept = [r for r in dataset.records if r.path not in bad]
    if not kept:
        what = "No image is left without errors."
        raise DataError(dataset.source, [Problem(dataset.source, what, "Mend the errors."), *errors])
    return replace(dataset, records=kept, problems=report.problems), errors


def _set_problems(dataset: Dataset) -> list[Problem]:
    """What only the whole data set shows: nothing in it, or next to nothing of a class."""
    counts = Counter(label for r in dataset.records for label in r.truth.labels.tolist())
    if not dataset.records:
        return [Problem(dataset.source, "There is no image that can be used.", "Mend the other errors.")]
    if not counts and dataset.semantic_names:
        return []  # classes of pixels, not of objects
    if not counts:
        advice = "Annotate some images; nothing can be learnt or measured without."
        return [Problem(dataset.source, "No image has an object.", advice)]
    crowds = sum(int(r.truth.crowd.sum()) for r in dataset.records if r.truth.crowd is not None)
    if 2 * crowds > (total := sum(counts.values())):
        what = f"{crowds} of {total} objects are marked as crowd, from which nothing is learnt."
        advice = "Set iscrowd to 0 of single objects: some tools (CVAT, Datumaro) write 1 for every mask."
        severity: Literal["error", "warning"] = "error" if crowds == total else "warning"
        return [Problem(dataset.source, what, advice, severity=severity)]
    rare = [f"{name} ({counts[i]})" for i, name in enumerate(dataset.class_names) if counts[i] < 2]
    if not rare:
        return []
    what = f"{len(rare)} classes have fewer than 2 objects: {', '.join(rare)}."
    return [Problem(dataset.source, what, "They will hardly be learnt; annotate more.", severity="warning")]


def _look_at_maps(dataset: Dataset) -> tuple[list[Problem], dict[str, int]]:
    """What is wrong with the semantic maps, and the pixels of each class in the good ones."""
    problems: list[Problem] = []
    pixels = np.zeros(VOID + 1, np.int64)

    def counted(record: Record) -> npt.NDArray[np.int64] | str:
        try:
            assert record.semantic is not None
            return np.bincount(record.semantic().reshape(-1), minlength=VOID + 1)
        except ValueError as error:
            return str(error)

    records = [record for record in dataset.records if record.semantic is not None]
    with ThreadPoolExecutor(2) as pool:
        for record, found in zip(records, pool.map(counted, records), strict=True):
            if isinstance(found, str):
                advice = "Mend the label picture, or leave the image out with --skip-bad."
                problems.append(Problem(record.path, f"Its semantic map cannot be used: {found}", advice))
            else:
                pixels += found
    names = (*dataset.semantic_names, "void")
    counts = [*pixels[: len(names) - 1].tolist(), int(pixels[VOID])]
    return problems, dict(zip(names, counts, strict=True))


def _file_problems(records: Sequence[Record], decode: bool) -> list[Problem]:
    # Two threads: decoding is C code that frees the interpreter, and small machines have two cores.
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda r: _file_problem(r, decode), records))
    problems = [problem for problem, _ in found if problem is not None]
    first: dict[str, Path] = {}
    for record, (_, digest) in zip(records, found, strict=True):
        twin = first.setdefault(digest, record.path) if digest else record.path
        if twin != record.path:
            what = f"It is the same image as {twin}."
            advice = "Both are used; delete one, above all if the two are in different parts."
            problems.append(Problem(record.path, what, advice, severity="warning"))
    return problems


def _file_problem(record: Record, decode: bool) -> tuple[Problem | None, str]:
    """What is wrong with one image file, and a digest of its bytes ("" if it cannot be read)."""
    try:
        if decode:
            height, width, _ = read_image(record.path).shape
        else:
            height, width = image_size(record.path)
        digest = hashlib.blake2b(record.path.read_bytes(), digest_size=16).hexdigest()
    except ImageError as error:
        what = str(error).removeprefix(f"{record.path}: ")
        return Problem(record.path, what, "Replace the file, or leave the image out with --skip-bad."), ""
    return size_problem(record.path, (height, width), record.truth.size), digest
