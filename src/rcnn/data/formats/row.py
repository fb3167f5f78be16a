"""One format: how it is recognised, read and written. :mod:`rcnn.data.formats.registry` has the table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any

from rcnn.data.dataset import Dataset
from rcnn.data.formats.writer import Writer


def _never(path: Path) -> bool:
    return False


@dataclass(frozen=True)
class Format:
    """One format.

    Attributes:
        name: as in :class:`Dataset`.
        read: opens a file or folder; gets ``options`` as keywords if they were given.
        sniff: whether a file or folder has this format; called like ``read``. It may raise a ValueError that
            asks for one of several splits.
        guess: called if no format recognises the path, so that the reader can explain what is wrong.
        write: creates the writer from a folder, the data set and a :class:`DroppedContent`; None if the
            format can only be read.
        options: which of ``images`` and ``split`` it accepts.
        parents: names of folders above the path that identify the format.
        title: the name shown to users.
        description: the files of the format, for the list in messages and in docs/data.md; code is in
            backticks.
        gives: what is read.
        sizes: whether annotations have the size of their image, which tells on what pixels they were drawn.
    """

    name: str
    read: Callable[..., Dataset]
    sniff: Callable[..., bool] = _never
    guess: Callable[[Path], bool] = _never
    write: Callable[..., Writer] | None = None
    options: tuple[str, ...] = ()
    parents: tuple[str, ...] = ()
    title: str = ""
    description: str = ""
    gives: str = ""
    sizes: bool = False


def as_format(row: Any, place: str) -> Format:
    """Any object with the attributes of :class:`Format`, with defaults added.

    Raises:
        ValueError: ``name`` is not a text or ``read`` not callable; the message names ``place``.
    """
    if isinstance(row, Format):
        return row
    values: dict[str, Any] = {
        spec.name: getattr(row, spec.name, None if spec.default is MISSING else spec.default)
        for spec in fields(Format)
    }
    if not isinstance(values["name"], str) or not callable(values["read"]):
        raise ValueError(
            f"{place}: a format needs a text as name, and a function read that takes a path and returns a "
            f"Dataset; found {row!r}"
        )
    return Format(**values)
