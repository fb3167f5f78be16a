"""Find all problems of a data set at once, and summarise what it contains.

Readers report problems of annotations (``rcnn.data.problems`` has their common rules); :func:`check` adds
those of the image files. An error excludes an image from training; a warning has already been handled:

    - error: a box that is inverted, not finite, or entirely outside; an unknown category; a file that is
      missing, damaged or of another size than annotated; duplicate ids or files; a semantic map of another
      size or with values outside the class list.
    - warning: a box without area is ignored; one that extends beyond the image is clipped.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from rcnn.data.classes import keypoint_order, occurring_classes
from rcnn.data.dataset import Dataset, LeftOut, Record, evenly_spaced
from rcnn.data.formats.open import open_data
from rcnn.data.formats.registry import formats
from rcnn.data.image_checks import look_at_images
from rcnn.data.names import not_utf_8
from rcnn.data.problems import DataError, Problem, shortened
from rcnn.data.shard_order import OPEN_SHARDS, shards_of
from rcnn.data.stored_images import stored_image
from rcnn.io.reading import reading_as
from rcnn.structures import VOID, Size

# Without decoding, only some files of larger data sets are opened: each is when it is used.
MAX_OPENED, SAMPLED = 20_000, 500
PERCENTILES = (5, 25, 50, 75, 95)


@dataclass(frozen=True)
class DataReport:
    """The contents and the problems of a data set.

    Attributes:
        format: as in :class:`Dataset`.
        source: the file or folder.
        problems: those of the annotations and of the image files, errors first.
        num_images: number of images, as far as the reader could use them.
        num_empty: number of images without objects.
        objects_per_class: number of objects of each class, including crowds, in label order.
        num_crowds: number of crowd regions.
        box_sizes: percentiles (5, 25, 50, 75, 95) of the square root of the box area, in pixels.
        image_sizes: number of images of each (height, width), most frequent first.
        has_masks: whether every object has an outline.
        has_keypoints: whether objects have keypoints.
        pixels_per_class: number of pixels of each semantic class, if there are semantic maps and images were
            decoded.
        channels: channels of the images, as most of them have it; gray images count as RGB.
        taken: what is taken of files with several planes or unusual channels, and of how many files.
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
    channels: int = 3
    taken: dict[str, int] = field(default_factory=dict)

    @property
    def errors(self) -> tuple[Problem, ...]:
        """The problems that exclude an image, or the whole data set, from training."""
        return tuple(p for p in self.problems if p.severity == "error")

    @property
    def warnings(self) -> tuple[Problem, ...]:
        """The problems that have been handled."""
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
            *([f"input channels: {self.channels}"] if self.channels != 3 else []),
            *(f"read: {what} ({count} images)" for what, count in self.taken.items()),
            f"{len(self.errors)} errors, {len(self.warnings)} warnings",
        ]
        return "\n".join(lines)


def check(dataset: Dataset | str | Path, *, decode: bool = True) -> DataReport:
    """Find all problems of a data set, and count what it contains.

    Args:
        dataset: an opened data set, or a path that :func:`rcnn.open_data` reads.
        decode: decode every image, which finds truncated ones; otherwise only headers are read.
    """
    dataset = open_data(dataset)
    problems = [*dataset.problems, *_set_problems(dataset), *_name_problems(dataset)]
    pixels: dict[str, int] = {}
    if decode and dataset.semantic_names:
        bad_maps, pixels = _look_at_maps(dataset)
        problems += bad_maps
    all_of_them = decode or len(dataset) <= MAX_OPENED
    indices = range(len(dataset)) if all_of_them else _sampled(dataset)
    files = [record for record in map(dataset.records.__getitem__, indices) if _has_file(record)]
    row = next((row for row in formats().values() if row.name == dataset.format), None)
    facts = look_at_images(files, decode=decode, has_sizes=row is not None and row.sizes)
    problems += facts.problems
    problems.sort(key=lambda p: p.severity != "error")  # stable: the order of finding otherwise
    objects = dataset.objects
    labels = np.bincount(objects.labels, minlength=len(dataset.class_names)).tolist()
    sizes = np.sqrt((objects.boxes[:, 2:] - objects.boxes[:, :2]).prod(1))
    return DataReport(
        format=dataset.format,
        source=dataset.source,
        problems=tuple(problems),
        num_images=len(dataset),
        num_empty=int((objects.counts == 0).sum()),
        objects_per_class={name: labels[i] for i, name in enumerate(dataset.class_names)},
        num_crowds=int(objects.crowd.sum()),
        box_sizes={p: float(np.percentile(sizes, p)) for p in PERCENTILES} if len(sizes) else {},
        image_sizes=dict(Counter((height, width) for height, width in objects.sizes.tolist()).most_common()),
        has_masks=dataset.has_masks,
        has_keypoints=dataset.skeleton is not None,
        pixels_per_class=pixels,
        channels=facts.channels,
        taken=facts.taken,
    )


def _has_file(record: Record) -> bool:
    """Whether an image is a file, of its own or in a shard."""
    return record.image is None or stored_image(record.image) is not None


def _sampled(dataset: Dataset) -> Sequence[int]:
    """Some images, evenly spaced; of shards, those of a few parts that are read at once."""
    shards = shards_of(dataset.records)
    if shards is None:
        return dataset.evenly_spaced(SAMPLED)
    parts = np.unique(shards)
    places = np.flatnonzero(np.isin(shards, parts[evenly_spaced(len(parts), OPEN_SHARDS)]))
    indices: list[int] = places[evenly_spaced(len(places), SAMPLED)].tolist()
    return indices


def check_pair(train: Dataset, val: Dataset) -> list[Problem]:
    """The problems of a validation split with respect to the training split: its classes.

    Classes are compared by name, ignoring case; only those that occur in ``val`` count.
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
        what = f"Its semantic maps have classes that the training split {train.source} lacks: "
        advice = f"Rename them; the training split has {', '.join(train.semantic_names)}."
        problems.append(Problem(val.source, f"{what}{', '.join(strange)}.", advice))
    if foreign:
        what = (
            f"It has objects of classes that the training split {train.source} lacks: {', '.join(foreign)}."
        )
        advice = f"Rename them, or annotate them for training; it has {', '.join(train.class_names)}."
        problems.append(Problem(val.source, what, advice))
    if train.skeleton is not None and val.skeleton is not None:
        wanted, own = val.skeleton.names, train.skeleton.names
        if keypoint_order(wanted, own) is None:
            what = f"Its keypoints {', '.join(wanted)} are not all among those of training: {', '.join(own)}."
            problems.append(Problem(val.source, what, "Use the same names."))
    if unseen:
        what = f"It has objects of classes without any object in the training split: {', '.join(unseen)}."
        problems.append(
            Problem(val.source, what, "They cannot be learned and count as missed.", severity="warning")
        )
    return problems


def refuse_or_skip(
    dataset: Dataset, skip_bad: bool, *, report: DataReport | None = None, boxes_only: bool = False
) -> tuple[Dataset, list[Problem]]:
    """The data set without its bad images, or an error that lists them.

    Args:
        dataset: an opened data set.
        skip_bad: skip images with errors instead of refusing the data set.
        report: the result of :func:`check`; None calls it, which decodes every image.
        boxes_only: outlines will not be used, so their problems do not count.

    Returns:
        The usable data set, with the problems of the image files added to its ``problems``; and the errors of
        the skipped images.

    Raises:
        DataError: there are errors and ``skip_bad`` is not set; or an error affects the whole data set; or no
            image is left.
    """
    report = report or check(dataset)
    errors = [p for p in report.errors if not (boxes_only and p.is_outline_problem)]
    # A broken category affects all images, too.
    of_all = [p for p in errors if p.file == dataset.source]
    whole = [p for p in of_all if p.annotation is None or p.annotation.startswith("categories")]
    if whole or (errors and not skip_bad):
        raise DataError(dataset.source, whole + [p for p in errors if p not in whole])
    usable = _without(dataset, {p.file for p in errors}) if errors else dataset
    if not len(usable):
        what = "Every image has an error."
        raise DataError(dataset.source, [Problem(dataset.source, what, "Fix the errors."), *errors])
    left_out = _left_out(dataset, usable, errors) if errors else dataset.left_out
    return replace(usable, problems=report.problems, left_out=left_out), errors


def _without(dataset: Dataset, bad: Collection[Path]) -> Dataset:
    kept = [index for index, record in enumerate(dataset.records) if record.path not in bad]
    return dataset if len(kept) == len(dataset) else dataset.subset(kept)


def refuse_or_measure(
    dataset: Dataset, skip_bad: bool = False, *, boxes_only: bool = False
) -> tuple[Dataset, list[Problem]]:
    """The data set without its bad images, to measure a model on; headers are read, but no image decoded.

    As :func:`refuse_or_skip`, but images with errors are also left out if they are few:
    :class:`rcnn.data.dataset.LeftOut` says what is missing, and figures say it, too. A data set without
    objects is valid.

    Raises:
        DataError: more than a twentieth of the objects or images is missing, and ``skip_bad`` is not set; or
            as :func:`refuse_or_skip`.
    """
    report, known = check(dataset, decode=False), set(dataset.problems)
    found = [p for p in report.problems if p in known or p.file != dataset.source]
    report = replace(report, problems=tuple(found))
    usable, errors = refuse_or_skip(dataset, True, report=report, boxes_only=boxes_only)
    if not skip_bad and usable.left_out is not None and usable.left_out.is_much:
        what = f"{usable.left_out}: figures of the rest may mislead."
        advice = "Fix the errors, or measure the rest with --skip-bad (skip_bad=True)."
        raise DataError(dataset.source, [Problem(dataset.source, what, advice), *errors])
    return usable, errors


def _left_out(dataset: Dataset, usable: Dataset, errors: Sequence[Problem]) -> LeftOut:
    """What is missing from the usable part of a data set."""
    annotated, there = len(dataset.objects.labels), len(usable.objects.labels)
    unread = sum(problem.lost_objects for problem in errors)
    paths = {record.path for record in dataset.records}
    missing = len({problem.file for problem in errors} - paths - {dataset.source})
    images = len(dataset) - len(usable) + missing
    return LeftOut(annotated + unread - there, annotated + unread, images, len(dataset) + missing)


def _set_problems(dataset: Dataset) -> list[Problem]:
    """The problems of the data set as a whole: no objects, or hardly any of a class."""
    counts = Counter(dataset.objects.labels.tolist())
    if not len(dataset):
        return [Problem(dataset.source, "There is no usable image.", "Fix the other errors.")]
    if not counts and dataset.semantic_names:
        return []  # its classes are those of pixels
    if not counts:
        advice = "Annotate some images; without objects, nothing can be learned or measured."
        return [Problem(dataset.source, "No image has an object.", advice)]
    crowds, total = int(dataset.objects.crowd.sum()), len(dataset.objects.labels)
    if 2 * crowds > total:
        what = f"{crowds} of {total} objects are marked as crowd, from which nothing is learned."
        advice = "Set iscrowd of single objects to 0: some tools (CVAT, Datumaro) write 1 for every mask."
        severity: Literal["error", "warning"] = "error" if crowds == total else "warning"
        return [Problem(dataset.source, what, advice, severity=severity)]
    return [*_mirror_problems(dataset), *_rare_classes(dataset, counts)]


def _name_problems(dataset: Dataset) -> list[Problem]:
    """Names of images that few formats and programs can hold."""
    names = not_utf_8(dataset.names())
    if not names:
        return []
    what = f"{len(names)} images have names that are not UTF-8: {shortened(names)}."
    advice = "They are used, but COCO's files and many programs cannot hold such names: rename the files."
    return [Problem(dataset.source, what, advice, severity="warning")]


def _mirror_problems(dataset: Dataset) -> list[Problem]:
    """Keypoints whose partners in mirrored images are not known."""
    if dataset.skeleton is None or not dataset.skeleton.lacks_partners:
        return []
    what = f"No name tells left from right: {', '.join(dataset.skeleton.names)}."
    advice = (
        "Training does not mirror images. If keypoints change places, name them: --set augment.flip=true "
        '--set \'augment.flip_pairs=[["a", "b"]]\'; if none does, --set augment.flip=true.'
    )
    return [Problem(dataset.source, what, advice, severity="warning")]


def _rare_classes(dataset: Dataset, counts: Counter[int]) -> list[Problem]:
    rare = [f"{name} ({counts[i]})" for i, name in enumerate(dataset.class_names) if counts[i] < 2]
    if not rare:
        return []
    what = f"{len(rare)} classes have fewer than 2 objects: {', '.join(rare)}."
    return [Problem(dataset.source, what, "They will hardly be learned; annotate more.", severity="warning")]


def _look_at_maps(dataset: Dataset) -> tuple[list[Problem], dict[str, int]]:
    """The problems of the semantic maps, and the number of pixels per class in those without."""
    problems: list[Problem] = []
    pixels = np.zeros(VOID + 1, np.int64)

    def counted(record: Record) -> npt.NDArray[np.int64] | str:
        try:
            assert record.semantic is not None
            with reading_as(record.reading):
                return np.bincount(record.semantic().reshape(-1), minlength=VOID + 1)
        except ValueError as error:
            return str(error)

    records = [record for record in dataset.records if record.semantic is not None]
    with ThreadPoolExecutor(2) as pool:
        for record, found in zip(records, pool.map(counted, records), strict=True):
            if isinstance(found, str):
                advice = "Fix the label image, or skip it with --skip-bad."
                problems.append(Problem(record.path, f"Its semantic map cannot be used: {found}", advice))
            else:
                pixels += found
    names = (*dataset.semantic_names, "void")
    counts = [*pixels[: len(names) - 1].tolist(), int(pixels[VOID])]
    return problems, dict(zip(names, counts, strict=True))
