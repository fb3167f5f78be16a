"""Write data sets into a folder that appears once it is complete.

Everything is written to a hidden folder next to the output folder, which is renamed on completion: what is
interrupted leaves nothing under the final name. Images are copied byte for byte.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from PIL import Image

from rcnn.config import did_you_mean, is_dotted_path
from rcnn.data.dataset import Dataset, Record
from rcnn.data.formats.annotated import UNNAMED
from rcnn.data.formats.registry import find_format, format_key, formats, writable
from rcnn.data.formats.writer import LOST_FILE, Described, DroppedContent, Item, Writer
from rcnn.data.stored_images import stored_image
from rcnn.io.destinations import refuse_unwritable_folder
from rcnn.io.escaping import for_terminal
from rcnn.io.folders import has_content
from rcnn.io.images import ImageError, image_header

PREFIX = 50  # characters of the folder's name in that of the hidden one, which must not be too long
SHOWN = 5  # places shown of each kind of lost content; the file lists them all

Progress = Callable[[int, int], None]
"""Called with the number of images done and in total."""
MakeWriter = Callable[[Path, Described, DroppedContent], Writer]


def refuse_output(target: Path, to: str | None = None) -> None:
    """Refuse a folder or a format that nothing can be written to, before any data are opened.

    Args:
        target: the folder to create.
        to: a writable key of ``rcnn.data.formats.registry.FORMATS``, or a dotted path to a custom format;
            None: not known yet.

    Raises:
        ValueError: ``target`` exists and is not an empty folder, or cannot be created; or no such format.
    """
    refuse_unwritable_folder(target)
    if has_content(target):
        raise ValueError(f"{target} exists and is not an empty folder: choose another, or delete it.")
    if to is not None:
        _writer(to)


@contextmanager
def output_folder(target: Path) -> Iterator[Path]:
    """A hidden folder to write to, which is called ``target`` at the end; after an error nothing is left.

    Raises:
        ValueError: ``target`` exists and is not an empty folder, or cannot be created or written.
    """
    refuse_output(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=f".{target.name[:PREFIX]}.", dir=target.parent))
    except OSError as error:
        raise ValueError(f"{target} cannot be created ({error.strerror}): choose another folder.") from error
    try:
        yield part
        part.chmod(0o777 & ~_umask())
        part.rename(target)
    except OSError as error:
        raise ValueError(f"{target} cannot be written ({error}); nothing was created.") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def write_dataset(
    dataset: Dataset, folder: Path, make_writer: MakeWriter, progress: Progress | None = None
) -> DroppedContent:
    """Copy the images of a data set without errors, and write its objects.

    Returns:
        What the format cannot hold, which is listed in ``lost.txt``, too.
    """
    dropped = DroppedContent()
    folder.mkdir(parents=True, exist_ok=True)
    writer = make_writer(folder, dataset, dropped)
    taken: set[str] = set()
    for done, record in enumerate(dataset.records, 1):
        image = writer.image_path(file_name(record, taken))
        copy_image(record, image)
        truth = record.load_truth()
        writer.add(Item(image, truth, tuple(range(1, len(truth) + 1)), record.image_id))
        if progress is not None:
            progress(done, len(dataset))
    writer.finish()
    if dropped.places:
        lost = [f"{kind}: {place}" for kind, places in dropped.places.items() for place in places]
        lines = [f"{for_terminal(text)}\n" for text in lost]  # one each, whatever the names
        (folder / LOST_FILE).write_text("".join(lines), encoding="utf-8")
    return dropped


def part_of_progress(progress: Progress | None, done: int, total: int) -> Progress | None:
    """The progress of one data set of several, of which ``done`` images are already written."""
    return None if progress is None else lambda number, _: progress(done + number, total)


def writer_of(to: str, datasets: Iterable[Dataset]) -> MakeWriter:
    """The writer of a format, for data sets that it can hold.

    Args:
        to: a writable key of ``rcnn.data.formats.registry.FORMATS``, or a dotted path to a custom format.
        datasets: what is to be written.

    Raises:
        ValueError: no such format; a format that cannot be written, or that needs outlines where there are
            none; or a data set without classes of objects.
    """
    write = _writer(to)
    for dataset in datasets:
        if not dataset.class_names:
            raise ValueError(f"{dataset.source}: it has only semantic maps and no objects to write.")
        if needs_outlines(write) and not any(record.masks is not None for record in dataset.records):
            boxes = [key for key in writable() if not needs_outlines(find_format(key).write)]
            choice = f"{', '.join(boxes[:-1])} or {boxes[-1]}"
            raise ValueError(
                f"{dataset.source}: it has boxes but no outlines, which {to} needs: choose {choice}."
            )
    return write


def _writer(to: str) -> MakeWriter:
    if format_key(to) not in writable() and not is_dotted_path(to):
        raise ValueError(f"--to {to}: {did_you_mean(to, writable())}expected one of {', '.join(writable())}.")
    write = find_format(to).write
    if write is None:
        raise ValueError(f"--to {to}: this format cannot be written; expected {', '.join(writable())}.")
    return write


def own_format(dataset: Dataset) -> str:
    """The key of the format that a data set is in, or ``coco`` if that cannot be written."""
    rows = formats().items()
    return next((key for key, row in rows if row.name == dataset.format and row.write is not None), "coco")


def common_format(datasets: Iterable[Dataset], class_names: tuple[str, ...]) -> str:
    """The format of all data sets, if it can be written and hold these classes; otherwise ``coco``."""
    keys = {own_format(dataset) for dataset in datasets}
    key = keys.pop() if len(keys) == 1 else "coco"
    return key if class_names == (UNNAMED,) or not needs_outlines(find_format(key).write) else "coco"


def lost_lines(lost: Mapping[str, list[str]], folder: Path) -> list[str]:
    """Lines that say what a format could not hold; empty if it holds everything."""
    lines = []
    for kind, places in lost.items():
        more = "; …" if len(places) > SHOWN else ""
        lines.append(f"lost: {len(places)} {kind}: {'; '.join(places[:SHOWN])}{more}")
    return [*lines, f"everything lost is listed in {folder / LOST_FILE}"] if lines else []


def needs_outlines(write: object) -> bool:
    """Whether a writer stores outlines alone; such formats have no class names."""
    return bool(getattr(write, "needs_outlines", False))


def file_name(record: Record, taken: set[str]) -> str:
    """The name of an image in a folder of all images, which is added to ``taken``.

    An image that is no file, not even inside another, or is not turned as its EXIF says, becomes a PNG.
    """
    return _own_name(record.path.with_suffix(".png") if _is_drawn(record) else record.path, taken)


def copy_image(record: Record, target: Path, copy: Path | None = None) -> None:
    """Put an image where a format has it: a copy of its file, or the PNG that :func:`file_name` speaks of.

    Args:
        record: the image.
        target: where it comes to be; replaced.
        copy: where it has been put before, for another format: both then share one file, if they can.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)  # not written into: another format may share the file
    if copy is not None:
        try:
            target.hardlink_to(copy)
        except OSError:  # a file system without links
            shutil.copyfile(copy, target)
    elif _is_drawn(record):
        Image.fromarray(record.load_image()).save(target)
    elif (stored := stored_image(record.image)) is not None:
        target.write_bytes(stored.content())
    else:
        shutil.copyfile(record.path, target)


def _is_drawn(record: Record) -> bool:
    """Whether there is no file, or its pixels count as stored, though programs that know EXIF turn them."""
    stored = stored_image(record.image)
    if record.image is not None and stored is None:
        return True
    if record.reading.exif != "stored":
        return False
    try:
        content = None if stored is None else stored.content()
        return image_header(record.path, record.reading, content).orientation != 1
    except ImageError:  # said where the image is read
        return False


def _own_name(path: Path, taken: set[str]) -> str:
    """The file's name, numbered if its stem is taken; some file systems ignore case."""
    stem, number = path.stem, 1
    while stem.casefold() in taken:
        number += 1
        stem = f"{path.stem}_{number}"
    taken.add(stem.casefold())
    return stem + path.suffix


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
