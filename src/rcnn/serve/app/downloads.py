"""What is shown, as files to keep: pictures, a table, or a data set in any format that is written."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from rcnn.data.convert import convert
from rcnn.data.dataset import Dataset, Record
from rcnn.data.formats.registry import formats
from rcnn.serve.app.collection import Picture
from rcnn.structures import Instances, Masks
from rcnn.structures.instances import OBJECT_COLUMNS, table

OVERLAY, TABLE = "overlay", "table"


def choices() -> list[dict[str, str]]:
    """The kinds of files: ``name`` and ``title`` of each."""
    rows = [(name, row.title or row.name) for name, row in formats().items() if row.write is not None]
    own = [(OVERLAY, "Pictures with the objects drawn (PNG)"), (TABLE, "Table of objects (CSV)")]
    return [{"name": name, "title": title} for name, title in [*own, *rows]]


def written(
    shown: Sequence[tuple[Picture, Instances]],
    to: str,
    pixels: Callable[[Picture], npt.NDArray[np.uint8]],
) -> Path:
    """A file with the objects of some images, in a temporary folder of its own that the caller removes.

    Args:
        shown: the images and what is shown of each, with their files as ``path``.
        to: one of :func:`choices`.
        pixels: an image as it is shown, uint8 ``[H, W, 3]``.

    Raises:
        ValueError: there is nothing to write, or the format cannot hold it.
        OSError: it cannot be written.
    """
    if not shown:
        raise ValueError("nothing to download yet: no image has been looked at")
    folder = Path(tempfile.mkdtemp(prefix="rcnn-"))
    try:
        if to == TABLE:
            return _table(shown, folder)
        if to == OVERLAY:
            return _overlays(shown, folder, pixels)
        return _data_set(shown, folder, to)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _table(shown: Sequence[tuple[Picture, Instances]], folder: Path) -> Path:
    rows: list[Sequence[object]] = [OBJECT_COLUMNS]
    for picture, found in shown:
        rows += [[number, picture.name, *row] for number, row in enumerate(found.rows(), 1)]
    path = folder / "objects.csv"
    path.write_text(table(rows), encoding="utf-8", errors="surrogateescape")
    return path


def _overlays(
    shown: Sequence[tuple[Picture, Instances]],
    folder: Path,
    pixels: Callable[[Picture], npt.NDArray[np.uint8]],
) -> Path:
    pictures = folder / "overlays"
    pictures.mkdir()
    for picture, found in shown:
        path = pictures / f"{picture.number + 1:05d}-{Path(picture.name).stem}.png"
        found.save(path, image=pixels(picture))
    if len(shown) == 1:
        return next(pictures.iterdir())
    return Path(shutil.make_archive(str(folder / "overlays"), "zip", pictures))


def _data_set(shown: Sequence[tuple[Picture, Instances]], folder: Path, to: str) -> Path:
    classes = shown[0][1].class_names
    records = [
        Record(
            picture.path, picture.number + 1, replace(found, masks=None, semantic=None),
            None if found.masks is None else partial(_same, found.masks),
        )
        for picture, found in shown
    ]  # fmt: skip
    data = Dataset("page", folder, classes, records, skeleton=shown[0][1].skeleton)
    convert(data, folder / to, to=to)
    return Path(shutil.make_archive(str(folder / to), "zip", folder / to))


def _same(masks: Masks) -> Masks:
    return masks
