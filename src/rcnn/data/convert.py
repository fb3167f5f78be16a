"""Convert a data set to another format: copy the images, write the objects, report what was lost.

Everything is written to a hidden folder next to the output folder, which is renamed on completion: an
interrupted conversion leaves nothing under the final name. The images are copied byte for byte, so the result
does not depend on the source. As everywhere in the package, coordinates refer to the upright image (EXIF
rotation applied).
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from rcnn.config import did_you_mean, is_dotted_path
from rcnn.data.check import check, refuse_or_skip
from rcnn.data.dataset import Dataset
from rcnn.data.formats.open import open_data
from rcnn.data.formats.registry import find_format, writable
from rcnn.data.formats.writer import DroppedContent, Item, Writer
from rcnn.data.problems import Problem

LOST_FILE = "lost.txt"
SHOWN = 5  # places shown of each kind; the file lists them all


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
        lines = [f"{self.out}: {self.images} images, {self.objects} objects"]
        for kind, places in self.lost.items():
            more = "; …" if len(places) > SHOWN else ""
            lines.append(f"lost: {len(places)} {kind}: {'; '.join(places[:SHOWN])}{more}")
        if self.lost:
            lines.append(f"everything lost is listed in {self.out / LOST_FILE}")
        return "\n".join(lines)


def convert(
    dataset: Dataset | str | Path,
    out: str | Path,
    *,
    to: str,
    skip_bad: bool = False,
    progress: Callable[[int, int], None] | None = None,
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
    dataset, target = open_data(dataset), Path(out)
    _refuse(dataset, target, to)
    writer_class = _writer_class(dataset, to)
    good, errors = refuse_or_skip(dataset, skip_bad, report=check(dataset))
    dropped = DroppedContent()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    except OSError as error:
        raise ValueError(f"{target} cannot be created ({error.strerror}): choose another folder.") from error
    try:
        _fill(writer_class(part, good, dropped), good, progress)
        _write_dropped(part / LOST_FILE, dropped)
        part.chmod(0o777 & ~_umask())
        part.rename(target)
    except OSError as error:
        raise ValueError(f"{target} cannot be written ({error}); nothing was created.") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    objects = sum(len(record.truth) for record in good.records)
    return Conversion(target, len(good), objects, dropped.places, tuple(errors))


def _refuse(dataset: Dataset, target: Path, to: str) -> None:
    if to not in writable() and not is_dotted_path(to):
        raise ValueError(f"--to {to}: {did_you_mean(to, writable())}expected one of {', '.join(writable())}.")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ValueError(f"{target} exists and is not an empty folder: choose another, or delete it.")
    if not dataset.class_names:
        raise ValueError(f"{dataset.source}: it has only semantic maps and no objects to convert.")


def _writer_class(dataset: Dataset, to: str) -> Callable[[Path, Dataset, DroppedContent], Writer]:
    """The writer of a format."""
    write = find_format(to).write
    if write is None:
        raise ValueError(f"--to {to}: this format cannot be written; expected {', '.join(writable())}.")
    has_outlines = any(record.masks is not None for record in dataset.records)
    if getattr(write, "needs_outlines", False) and not has_outlines:
        boxes = [key for key in writable() if not getattr(find_format(key).write, "needs_outlines", False)]
        choice = f"{', '.join(boxes[:-1])} or {boxes[-1]}"
        raise ValueError(
            f"{dataset.source}: it has boxes but no outlines, which {to} needs: choose {choice}."
        )
    return write


def _fill(writer: Writer, dataset: Dataset, progress: Callable[[int, int], None] | None) -> None:
    taken: set[str] = set()
    for done, record in enumerate(dataset.records, 1):
        path = record.path if record.image is None else record.path.with_suffix(".png")
        image = writer.image_path(_own_name(path, taken))
        image.parent.mkdir(parents=True, exist_ok=True)
        if record.image is None:
            shutil.copyfile(path, image)
        else:
            Image.fromarray(record.image()).save(image)
        truth = record.load_truth()
        writer.add(Item(image, truth, tuple(range(1, len(truth) + 1)), record.image_id))
        if progress is not None:
            progress(done, len(dataset))
    writer.finish()


def _own_name(path: Path, taken: set[str]) -> str:
    """The file's name, numbered if its stem is taken; some file systems ignore case."""
    stem, number = path.stem, 1
    while stem.casefold() in taken:
        number += 1
        stem = f"{path.stem}_{number}"
    taken.add(stem.casefold())
    return stem + path.suffix


def _write_dropped(file: Path, dropped: DroppedContent) -> None:
    if dropped.places:
        lines = [f"{kind}: {place}\n" for kind, places in dropped.places.items() for place in places]
        file.write_text("".join(lines), encoding="utf-8")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
