"""One door for every format: looks what lies there and calls the reader for it."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rcnn.config import is_dotted_path, resolve
from rcnn.data.adapters import Items, from_items
from rcnn.data.dataset import Dataset
from rcnn.data.formats.registry import Format, as_format, find_format, formats, list_of_formats
from rcnn.structures import Skeleton

MAX_FOLDERS_PROBED = 20  # folders that are looked into for a message


def open_data(
    path: str | Path | Dataset | Items,
    images: str | Path | None = None,
    *,
    split: str | None = None,
    format: str | Any | None = None,
    class_names: Sequence[str] | None = None,
    first_label: int | None = 1,
    skeleton: Skeleton | None = None,
) -> Dataset:
    """Open annotated images, whatever their format.

    The format is recognised by what lies there, as docs/data-formats.md lists it; what could be two formats
    is refused. Of Pascal VOC a list in ``ImageSets/Main`` names a part with its boxes, one in
    ``ImageSets/Segmentation`` a part with its masks and semantic maps. Problems of single images and objects
    do not raise: they are in ``Dataset.problems``, and :func:`rcnn.data.check.check` looks for more.

    Args:
        path: the file or folder; or a data set of your own, anything with ``__len__`` and ``__getitem__``
            (:mod:`rcnn.data.adapters`), or a dotted path to one or to what makes it
            (``"my_package.data:cells"``). An opened data set is given back as it is.
        images: the folder of the images, for COCO, where it is not found beside the file.
        split: for Pascal VOC, one of ``ImageSets/Main``; naming the file itself as ``path`` does the same.
            For YOLO, a part that ``data.yaml`` names; naming its images does the same.
        format: a key of ``rcnn.data.formats.registry.FORMATS``, or a format of your own: a dotted path
            (``"my_package.formats:MyFormat"``), or an object with the attributes of
            :class:`rcnn.data.formats.registry.Format`. None recognises the format.
        class_names: for a data set of your own, as in :func:`rcnn.data.adapters.from_items`.
        first_label: likewise.
        skeleton: likewise.

    Returns:
        The data set; ``dataset[i]`` decodes an image with its truth.

    Raises:
        ValueError: nothing known lies there, or what could be two formats, or what cannot be read at all; or
            an option does not belong to its format.

    Example:
        >>> from rcnn import open_data
        >>> data = open_data("nuclei/train")  # doctest: +SKIP
        >>> data.format, len(data), data.class_names  # doctest: +SKIP
        ('mask folders', 486, ('object',))
    """
    items = _items_named(path) if isinstance(path, str | Path) else path
    if isinstance(items, Dataset):
        return items
    given = {"images": images, "split": split}
    options = {name: value for name, value in given.items() if value is not None}
    if not isinstance(items, Path):
        if options or format is not None:
            raise ValueError("images, split and format are for files and folders; this is a Python object.")
        return from_items(items, class_names, first_label=first_label, skeleton=skeleton)
    if class_names is not None:
        raise ValueError(f"{items}: class_names are for data sets that are Python objects; this is a path.")
    source = _from_within(items)
    if format is None:
        row = _recognised(source, options)
    else:
        row = find_format(format) if isinstance(format, str) else as_format(format, "format")
    for option, value in options.items():
        if option not in row.options:
            takers = " and ".join(f.title for f in formats().values() if option in f.options)
            raise ValueError(
                f"{source}: {option}={value} is for {takers} only, this is {row.name}. Leave it out."
            )
    return row.read(source, **options)


def _items_named(path: str | Path) -> Path | Dataset | Items:
    """What a path means: a file or folder, or a dotted path's object, called where it makes the data set."""
    if not is_dotted_path(str(path)) or Path(path).exists():
        return Path(path)
    found: Any = resolve(str(path))
    makes = isinstance(found, type) or (callable(found) and not hasattr(found, "__getitem__"))
    made: Dataset | Items = found() if makes else found
    if not hasattr(made, "__len__") or not hasattr(made, "__getitem__"):
        raise ValueError(f"{path}: expected a data set with __len__ and __getitem__; found {made!r}.")
    return made


def _from_within(source: Path) -> Path:
    """A path from within a folder whose name tells the format, with that name."""
    parents = {name for row in formats().values() for name in row.parents}
    whole = source.absolute()
    return whole if parents & (set(whole.parts) - set(source.parts)) else source


def _recognised(source: Path, options: dict[str, Any]) -> Format:
    found = _candidates(source, options)
    if len(found) == 1:
        return found[0]
    if len(found) > 1:
        kinds = " and ".join(row.name for row in found)
        raise ValueError(
            f"{source}: this could be {kinds}. Name the file of the one you mean (a .json, .yaml or list), "
            "or its format (--format, format=…), or move the others away."
        )
    layouts = list_of_formats()
    if not source.exists():
        raise ValueError(f"{source}: there is no such file or folder.\n{layouts}")
    if source.is_file():
        raise ValueError(f"{source}: a {source.suffix or 'nameless'} file is no annotation file.\n{layouts}")
    there = ", ".join(sorted(f.name for f in source.iterdir())[:10]) or "nothing"
    raise ValueError(
        f"{source}: no annotations of a known format. Found: {there}.{_parts(source)}\n{layouts}"
    )


def _candidates(source: Path, options: dict[str, Any]) -> list[Format]:
    """The formats whose signs a file or folder shows; the one to try where it shows none."""
    rows = formats().values()
    found = [row for row in rows if row.sniff(source, **_taken(row, options))]
    return found or [row for row in rows if row.guess(source)]


def _taken(row: Format, options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if name in row.options}


def _parts(source: Path) -> str:
    """Which of a folder's folders can be opened, as exports have one for each part."""
    known = []
    for folder in sorted(f for f in source.iterdir() if f.is_dir())[:MAX_FOLDERS_PROBED]:
        with contextlib.suppress(ValueError, OSError):
            known += [str(folder)] if len(_candidates(folder, {})) == 1 else []
    return f" One of these can be opened: {', '.join(known)}." if known else ""
