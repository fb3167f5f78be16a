"""The form of what a prediction writes."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from rcnn.config import did_you_mean
from rcnn.config.ranges import check_ranges, ranged
from rcnn.inference.measured import MeasuringSettings
from rcnn.io.folders import free_folder, has_content
from rcnn.io.reading import reason_of

OverlayFormat = Literal["png", "jpg"]
FOUND = Path("found")
# Every image after one of these would fail, too.
_STOPPING = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)


@dataclass(frozen=True)
class OutputFiles:
    """The form of overlays and of ``predictions.json``.

    Attributes:
        overlays: write ``overlays/NAME``: the objects on their image, each with its row in ``objects.csv``.
        overlay_scale: overlays are so many times as wide and high as their image; 2 or more makes room for
            the numbers of small objects.
        overlay_format: ``png``, or the smaller and slightly blurred ``jpg``.
        to: formats in which the objects are written besides, each into a folder of its own, as a data set
            that ``rcnn.open_data`` and other programs read: writable keys of
            ``rcnn.data.formats.registry.FORMATS``, or dotted paths to custom formats.
        copy_images: copy the images into these folders; otherwise name their folder when a data set is read.
        measuring: measure the objects, see :class:`rcnn.Measuring`.
        results_only: ``predictions.json`` is the bare list of results that COCO's evaluation reads, with
            run-length codes; without ``image_ids``, an image's id is then its path below the given folder.
    """

    overlays: bool = True
    overlay_scale: int = ranged(1, 1, 64, words="a whole number from 1 on")
    overlay_format: OverlayFormat = "png"
    results_only: bool = False
    to: tuple[str, ...] = ()
    copy_images: bool = True
    measuring: MeasuringSettings | None = None

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ValueError: a scale that is no whole number from 1 on, or an unknown format.
        """
        object.__setattr__(self, "to", _formats(self.to))
        check_ranges(self)
        known = get_args(OverlayFormat)
        if self.overlay_format not in known:
            hint = did_you_mean(str(self.overlay_format), known)
            raise ValueError(
                f"overlay_format {self.overlay_format!r}: {hint}expected one of {', '.join(known)}"
            )


@contextlib.contextmanager
def noted(what: str, failed: list[str]) -> Iterator[None]:
    """Note in ``failed`` that ``what`` could not be written, unless nothing can be: tables must not be lost.

    Raises:
        OSError: the disk is full or broken.
    """
    try:
        yield
    except Exception as error:  # whatever happens to a picture
        cause = error.__cause__ if isinstance(error.__cause__, OSError) else error
        if isinstance(cause, OSError) and cause.errno in _STOPPING:
            raise OSError(
                cause.errno, f"{cause.strerror}; free some space and give the same command again", what
            ) from error
        said = cause if isinstance(cause, OSError) and cause.strerror else error
        failed.append(f"{what} was not written: {reason_of(said)}")


def _formats(to: Any) -> tuple[str, ...]:
    """The formats, each once, by their keys.

    Raises:
        ValueError: one that is not known or cannot be written.
    """
    if not to:
        return ()
    # Imported here: most predictions need none of the formats' libraries.
    from rcnn.data.formats.registry import format_key
    from rcnn.data.output_folder import writer_of

    given = [to] if isinstance(to, str) else list(to)
    for name in given:
        writer_of(name, ())
    return tuple(dict.fromkeys(map(format_key, given)))


def output_folder(out: str | Path | None) -> Path:
    """The folder named, or ``found``, ``found-2`` and so on: the first that holds nothing yet."""
    return free_folder(FOUND, has_content) if out is None else Path(out)
