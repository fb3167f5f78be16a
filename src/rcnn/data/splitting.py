"""Divide a data set into training, validation and test images, each a folder that the others can do without.

Validation images are chosen at random, but never the last image with a class. Images with the same content
would give away the answers of an examination, so all copies of an image go to the training part.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rcnn.data.check import check, refuse_or_skip
from rcnn.data.dataset import Dataset
from rcnn.data.formats.open import open_data
from rcnn.data.hold_out import choose_held_out
from rcnn.data.names import refuse_names
from rcnn.data.output_folder import (
    Progress,
    lost_lines,
    output_folder,
    own_format,
    part_of_progress,
    refuse_output,
    write_dataset,
    writer_of,
)
from rcnn.data.problems import Problem, shortened
from rcnn.data.twins import content_digest, groups_of_equal


@dataclass(frozen=True)
class SplitData:
    """A data set that was divided.

    Attributes:
        out: the output folder.
        format: the key of the format that was written.
        images: number of images of each part, by the name of its folder.
        objects: number of objects of each part and class.
        kept_together: groups of images with the same content that are in the training part for that reason.
        lost: for each part and kind of content that the format cannot store, where it occurred.
        skipped: the errors of the skipped images.
    """

    out: Path
    format: str
    images: dict[str, int]
    objects: dict[str, dict[str, int]]
    kept_together: tuple[tuple[str, ...], ...]
    lost: dict[str, dict[str, list[str]]]
    skipped: tuple[Problem, ...] = ()

    def __str__(self) -> str:
        lines = []
        for name, count in self.images.items():
            classes = ", ".join(f"{of} {number}" for of, number in self.objects[name].items() if number)
            lines.append(f"{self.out / name}: {count} images; {classes or 'no objects'}")
        for names in self.kept_together:
            lines.append(f"same image, kept in train: {shortened(names)}")
        for name, lost in self.lost.items():
            lines += lost_lines(lost, self.out / name)
        return "\n".join(lines)


def split_data(
    data: Dataset | str | Path,
    out: str | Path,
    *,
    val: float = 0.15,
    test: float = 0.0,
    seed: int = 0,
    to: str | None = None,
    skip_bad: bool = False,
    progress: Progress | None = None,
) -> SplitData:
    """Divide a data set into the folders ``train``, ``val`` and ``test``, which ``rcnn train OUT`` takes.

    Args:
        data: an opened data set, or a path that :func:`rcnn.open_data` reads.
        out: the folder to create; it may exist if it is empty.
        val: fraction of the images for validation.
        test: fraction of the images for testing.
        seed: random seed for the choice; the same seed gives the same parts.
        to: a format as for :func:`rcnn.convert`; None: the data set's own, or COCO where that cannot be
            written.
        skip_bad: skip images with errors instead of refusing the data set.
        progress: called with the number of images done and in total.

    Raises:
        ValueError: fractions that leave no image for a part; an unknown format; a folder that is not empty or
            not writable.
        DataError: the data set has errors.
    """
    target = Path(out)
    refuse_output(target, to)
    dataset = open_data(data)
    fractions = {name: value for name, value in (("test", test), ("val", val)) if value != 0}
    _refuse_fractions(dataset, fractions)
    format = to or own_format(dataset)
    make_writer = writer_of(format, [dataset])
    good, errors = refuse_or_skip(dataset, skip_bad, report=check(dataset))
    refuse_names([good], format)
    chosen, together = _choose(good, fractions, seed)
    parts = {name: good.subset(indices) for name, indices in chosen.items()}
    done, lost = 0, dict[str, dict[str, list[str]]]()
    with output_folder(target) as folder:
        for name, part in parts.items():
            counted = part_of_progress(progress, done, len(good))
            lost[name] = write_dataset(part, folder / name, make_writer, counted).places
            done += len(part)
    names = tuple(tuple(good.records[i].path.name for i in group) for group in together)
    return SplitData(
        target, format, {name: len(part) for name, part in parts.items()},
        {name: _objects(part) for name, part in parts.items()}, names, lost, tuple(errors),
    )  # fmt: skip


def _refuse_fractions(dataset: Dataset, fractions: Mapping[str, float]) -> None:
    for name, value in fractions.items():
        if not 0 < value < 1:
            raise ValueError(f"--{name} {value:g}: expected a fraction from 0 to 1, such as 0.15.")
    if not fractions:
        raise ValueError("--val 0: there is nothing to split off; give a fraction for --val or --test.")
    if sum(fractions.values()) >= 1:
        shown = " and ".join(f"--{name} {value:g}" for name, value in fractions.items())
        raise ValueError(f"{shown}: nothing is left for training; expected less than 1 in all.")
    if len(dataset) <= len(fractions):
        raise ValueError(
            f"{dataset.source}: {len(dataset)} images cannot be divided into {len(fractions) + 1} parts."
        )


def _choose(
    data: Dataset, fractions: Mapping[str, float], seed: int
) -> tuple[dict[str, list[int]], list[list[int]]]:
    """The images of each part, train first, and the groups of equal images that would have been torn."""
    part_of = dict.fromkeys(range(len(data)), "train")
    for name in sorted(fractions, reverse=True):  # val first: as training chooses
        left = [index for index, part in part_of.items() if part == "train"]
        count = max(1, round(fractions[name] * len(data)))
        held = choose_held_out(data.subset(left), count, seed)
        part_of |= {left[place]: name for place in held}
    groups = groups_of_equal([content_digest(record) for record in data.records])
    torn = [group for group in groups if len({part_of[index] for index in group}) > 1]
    part_of |= {index: "train" for group in torn for index in group}
    names = ["train", *sorted(fractions, reverse=True)]
    chosen = {name: [index for index, part in part_of.items() if part == name] for name in names}
    empty = [name for name, indices in chosen.items() if not indices]
    if empty:
        raise ValueError(
            f"{data.source}: no image is left for {' and '.join(empty)}: copies of one image stay together "
            "in train. Give a larger fraction, or delete copies."
        )
    return chosen, torn


def _objects(part: Dataset) -> dict[str, int]:
    """Number of objects of each class, in label order."""
    counts = dict.fromkeys(range(len(part.class_names)), 0)
    for record in part.records:
        for label in record.truth.labels.tolist():
            counts[label] += 1
    return {name: counts[label] for label, name in enumerate(part.class_names)}
