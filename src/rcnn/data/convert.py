"""Convert a data set to another format: copy the images, write the objects, report what was lost.

The result does not depend on the source. As everywhere in the package, coordinates refer to the upright image
(EXIF rotation applied).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rcnn.data.check import check, refuse_or_skip
from rcnn.data.dataset import Dataset
from rcnn.data.formats.open import open_data
from rcnn.data.formats.registry import format_key
from rcnn.data.names import refuse_names
from rcnn.data.output_folder import (
    Progress,
    lost_lines,
    output_folder,
    refuse_output,
    write_dataset,
    writer_of,
)
from rcnn.data.problems import Problem


@dataclass(frozen=True)
class Conversion:
    """The result of a conversion.

    Attributes:
        out: the output folder.
        images: number of images written.
        objects: number of objects in the source.
        lost: for each kind of content that the format cannot store, where it occurred.
        skipped: the errors of the skipped images.
    """

    out: Path
    images: int
    objects: int
    lost: dict[str, list[str]]
    skipped: tuple[Problem, ...] = ()

    def __str__(self) -> str:
        first = f"{self.out}: {self.images} images, {self.objects} objects"
        return "\n".join([first, *lost_lines(self.lost, self.out)])


def convert(
    dataset: Dataset | str | Path,
    out: str | Path,
    *,
    to: str,
    skip_bad: bool = False,
    progress: Progress | None = None,
) -> Conversion:
    """Write a data set in another format.

    Args:
        dataset: an opened data set, or a path that :func:`rcnn.open_data` reads; images that are not files
            are written as PNG.
        out: the folder to create; it may exist if it is empty.
        to: a writable key of ``rcnn.data.formats.registry.FORMATS``, or a dotted path to a format of your
            own.
        skip_bad: skip images with errors instead of refusing the data set.
        progress: called with the number of images done and in total.

    Raises:
        ValueError: an unknown format, a folder that is not empty or not writable, or data without outlines
            for a format that needs them.
        DataError: the data set has errors.
    """
    target = Path(out)
    refuse_output(target, to)
    dataset = open_data(dataset)
    make_writer = writer_of(to, [dataset])
    good, errors = refuse_or_skip(dataset, skip_bad, report=check(dataset))
    refuse_names([good], format_key(to))
    with output_folder(target) as folder:
        dropped = write_dataset(good, folder, make_writer, progress)
    objects = sum(len(record.truth) for record in good.records)
    return Conversion(target, len(good), objects, dropped.places, tuple(errors))
