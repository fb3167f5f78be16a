"""Open a data set of any format: recognise the format and call its reader."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rcnn.config import is_dotted_path, resolve
from rcnn.data.adapters import Items, from_items
from rcnn.data.dataset import Dataset
from rcnn.data.formats.folders import subfolders
from rcnn.data.formats.foreign import foreign_file, lack_of_annotations
from rcnn.data.formats.gaps import FETCH, dangling_links, describe_links, with_gaps_reported
from rcnn.data.formats.recognition import (
    archives_in,
    find_splits,
    guessed,
    openable_below,
    recognised,
    unwrapped,
)
from rcnn.data.formats.registry import Format, as_format, find_format, formats, names_of_formats
from rcnn.data.libraries.table import library_of
from rcnn.data.problems import shortened
from rcnn.io.folders import is_folder, is_there
from rcnn.io.reading import Reading, reading_as
from rcnn.structures import Skeleton


def open_data(
    path: str | Path | Dataset | Items,
    images: str | Path | None = None,
    *,
    split: str | None = None,
    format: str | Any | None = None,
    class_names: Sequence[str] | None = None,
    first_label: int | None = 1,
    skeleton: Skeleton | None = None,
    reading: Reading | None = None,
) -> Dataset:
    """Open annotated images in any format.

    The format is recognised from the files, as listed in docs/data.md; a path that could have two
    formats is refused. For Pascal VOC, a list in ``ImageSets/Main`` selects a split with boxes, one in
    ``ImageSets/Segmentation`` a split with masks and semantic maps. Problems of single images and objects do
    not raise: they are in ``Dataset.problems``, and :func:`rcnn.data.check.check` finds more.

    Args:
        path: the file or folder; or a data set of another library (:mod:`rcnn.data.libraries`); or a custom
            data set, any object with ``__len__`` and ``__getitem__`` (:mod:`rcnn.data.adapters`); or a dotted
            path to such an object or to a function that returns it (``"my_package.data:cells"``). An opened
            data set is returned unchanged.
        images: the image folder, if it is not found next to the annotations.
        split: for Pascal VOC, a list in ``ImageSets/Main``; passing the file itself as ``path`` is
            equivalent. For YOLO, a split in ``data.yaml``; passing its image folder as ``path`` is
            equivalent.
        format: a key of ``rcnn.data.formats.registry.FORMATS``; or a custom format, by a dotted path
            (``"my_package.formats:MyFormat"``) or as an object with the attributes of
            :class:`rcnn.data.formats.registry.Format`. None recognises the format.
        class_names: for a custom data set, see :func:`rcnn.data.adapters.from_items`.
        first_label: likewise.
        skeleton: likewise.
        reading: how image files are read: channels, plane of a stack, EXIF orientation; None: all channels,
            upright, and stacks are refused. For files and folders alone.

    Returns:
        The data set; ``dataset[i]`` decodes an image with its truth.

    Raises:
        ValueError: the path has no known format, or could have two, or cannot be read at all; or an option
            does not belong to its format.

    Example:
        >>> from rcnn import open_data
        >>> data = open_data("nuclei/train")  # doctest: +SKIP
        >>> data.format, len(data), data.class_names  # doctest: +SKIP
        ('mask folders', 486, ('object',))
    """
    items = _items_named(path) if isinstance(path, str | Path) else path
    if isinstance(items, Dataset):
        return items
    given = {"images": None if images is None else Path(images), "split": split}
    options = {name: value for name, value in given.items() if value is not None}
    if not isinstance(items, Path):
        if options or format is not None:
            raise ValueError("images, split and format are for files and folders, not for a Python object.")
        library = library_of(items)
        if library is not None:
            return library.read(items, class_names)
        return from_items(items, class_names, first_label=first_label, skeleton=skeleton)
    if class_names is not None:
        raise ValueError(f"{items}: class_names are for data sets that are Python objects, not for a path.")
    with reading_as(reading or Reading()):
        opened = _opened(items, options, format)
    if reading is None:
        return opened
    return opened.read_as(reading)


def _opened(path: Path, options: dict[str, Any], format: str | Any | None) -> Dataset:
    """A file or folder, opened in its own format or the one that is named."""
    source = unwrapped(_from_within(path)) if format is None else _from_within(path)
    if format is None:
        row = _recognised(source, options)
    else:
        row = find_format(format) if isinstance(format, str) else as_format(format, "format")
    for option, value in options.items():
        if option not in row.options:
            takers = " and ".join(f.title for f in formats().values() if option in f.options)
            raise ValueError(
                f"{source}: {option}={value} is only for {takers}; this is {row.name}. Remove the option."
            )
    images = options.get("images")
    if images is not None and not is_folder(images):
        raise ValueError(f"{images}: there is no such image folder (--images, images=…).")
    return with_gaps_reported(row.read(source, **options))


def _items_named(path: str | Path) -> Path | Dataset | Items:
    """The path, or the data set that a dotted path names, either directly or as the result of a call."""
    if not is_dotted_path(str(path)) or is_there(Path(path)):
        return Path(path)
    found: Any = resolve(str(path))
    makes = isinstance(found, type) or (callable(found) and not hasattr(found, "__getitem__"))
    made: Dataset | Items = found() if makes else found
    if not hasattr(made, "__len__") or not hasattr(made, "__getitem__"):
        raise ValueError(f"{path}: expected a data set with __len__ and __getitem__; found {made!r}.")
    return made


def _from_within(source: Path) -> Path:
    """The path, made absolute if a folder above the working directory identifies the format."""
    parents = {name for row in formats().values() for name in row.parents}
    whole = source.absolute()
    return whole if parents & (set(whole.parts) - set(source.parts)) else source


def open_splits(
    path: str | Path | Dataset | Items,
    images: str | Path | None = None,
    *,
    format: str | Any | None = None,
    reading: Reading | None = None,
) -> dict[str, Dataset]:
    """Open all splits of a folder that has several (:mod:`rcnn.data.formats.recognition`), by name.

    Whatever has none is opened by :func:`open_data`, under an empty name.

    Raises:
        ValueError: as :func:`open_data`.
    """
    splits = find_splits(Path(path)) if isinstance(path, str | Path) else {}
    if not splits:
        return {"": open_data(path, images, format=format, reading=reading)}
    return {
        name: open_data(place.path, images, split=place.split, format=format, reading=reading)
        for name, place in splits.items()
    }


def _recognised(source: Path, options: dict[str, Any]) -> Format:
    found = recognised(source, options)
    if not found and options:
        found = recognised(source, {})
    if not found and is_there(source):
        foreign = foreign_file(source)
        if foreign is not None and foreign.is_text and not openable_below(source):
            raise ValueError(f"{source}: {foreign}")
        found = guessed(source)
    if len(found) == 1:
        return found[0]
    if len(found) > 1:
        kinds = " and ".join(row.name for row in found)
        keys = " or ".join(f"--format {key}" for key, row in formats().items() if row in found)
        raise ValueError(
            f"{source}: this could be {kinds}. Name the format ({keys}; in Python, format=…) or the right "
            "file (a .json, .yaml, .csv or list), or move the other files elsewhere."
        )
    raise ValueError(f"{source}: {_refusal(source)}")


def _refusal(source: Path) -> str:
    """Why a path cannot be opened, and what can be done."""
    if not is_there(source):
        return "there is no such file or folder."
    splits = find_splits(source)
    if splits:
        places = ", ".join(str(place.path) for place in splits.values())
        return (
            f"it has the splits {', '.join(splits)}. One of these can be opened: {places}. "
            f"`rcnn train {source}` and `rcnn data check {source}` take the folder itself."
        )
    below = openable_below(source) if source.is_dir() else []
    if below:
        places = shortened([str(folder) for folder in below])
        return f"its data are in folders below. One of these can be opened: {places}."
    archives = archives_in(source)
    if archives:
        return f"the data are packed; unpack {archives[0]} and name the folder."
    links = dangling_links([source, *subfolders(source)])
    if links:
        return f"{describe_links(links)} {FETCH}"
    lacking = lack_of_annotations(source)
    if lacking is not None:
        return f"{lacking}."
    foreign = foreign_file(source)
    if foreign is not None:
        return str(foreign)
    known = f"Formats: {names_of_formats()}; docs/data.md shows the files of each."
    if source.is_file():
        kind = f"a {source.suffix} file" if source.suffix else "a file without extension"
        return f"{kind} is not an annotation file of a known format. {known}"
    there = ", ".join(sorted(f.name for f in source.iterdir())[:10])
    return f"no annotations of a known format. Found: {there}. {known}"
