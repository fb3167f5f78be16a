"""How files become pixels: which channels and plane, which orientation, which range of intensities.

A :class:`Reading` is part of ``Transform`` and stored with every checkpoint, so that prediction reads files
as training did. While a data set is opened, and while a record is loaded, its reading is the current one: the
readers of formats do not pass it on.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Literal

from rcnn.config.ranges import check_ranges, ranged

Exif = Literal["turned", "stored"]
Intensity = Literal["percentiles", "maximum"]
READING = "transform.read"  # where a recipe has it


def reason_of(error: BaseException) -> str:
    """What an error says: the system's own words, or the message, which may be empty."""
    return error.strerror if isinstance(error, OSError) and error.strerror else str(error)


class ImageError(ValueError):
    """An unusable image file; the message names the file and the problem."""


class ChoiceError(ImageError):
    """A file of which a channel or plane is to be chosen; the message says how."""


@dataclass(frozen=True)
class Reading:
    """How the pixels of a file are read.

    Attributes:
        channels: the file's channels to take, counted from 0, in this order; None: all but transparency.
        plane: of a stack (several slices or points in time), the number of one plane, counted from 0, or the
            ``max`` or ``mean`` of all; None: stacks are refused. Files of one plane are not affected.
        exif: ``turned``: as the EXIF orientation says; ``stored``: as the pixels are in the file, for
            annotations that were drawn on them by a tool that ignores EXIF; None: turned, and a data set
            whose annotations do not tell is warned of.
        intensity: how more than 8 bits per channel become 8. ``percentiles``: from ``low`` to ``high`` of
            each image and channel; ``maximum``: the rule of models trained before 0.2, see
            ``rcnn.io.intensity``.
        low: the percentile that becomes 0.
        high: the percentile that becomes 255.
        jointly: take percentiles over all channels together, which keeps colours; None: of RGB images only.
    """

    channels: tuple[int, ...] | None = ranged(None, 0, 100000)
    plane: int | Literal["max", "mean"] | None = ranged(None, 0, 1e9)
    exif: Exif | None = None
    intensity: Intensity = "percentiles"
    low: float = ranged(0.1, 0, 100)
    high: float = ranged(99.9, 0, 100)
    jointly: bool | None = None

    def __post_init__(self) -> None:
        """Check the settings.

        Raises:
            ValueError: a setting out of range.
        """
        if self.channels is not None and (not self.channels or min(self.channels) < 0):
            raise ValueError(
                f"channels {list(self.channels)}: expected numbers from 0, such as 0,1,2 for the first three"
            )
        if isinstance(self.plane, int) and self.plane < 0:
            raise ValueError(f"plane {self.plane}: expected a number from 0, max or mean")
        if not 0 <= self.low < self.high <= 100:
            raise ValueError(
                f"low {self.low:g} and high {self.high:g}: expected percentiles, 0 to 100, low below high"
            )
        check_ranges(self)

    @property
    def turns(self) -> bool:
        """Whether the EXIF orientation is applied."""
        return self.exif != "stored"

    def changed(self, settings: Sequence[str]) -> Reading:
        """The reading with assignments such as ``transform.read.plane=max``.

        Raises:
            ValueError: an unknown setting, or a value that it cannot have.
        """
        from rcnn.config import build_settings, parse_assignments

        document = parse_assignments(settings)
        return build_settings(self, document.get("transform", {}).get("read", {}), READING)

    def of_model(self, model: Reading) -> Reading:
        """How a model's data are read to be measured: as the model reads, but where the truth was drawn.

        The orientation is that of the annotations, and the plane theirs unless the model has one.
        """
        return replace(model, exif=self.exif, plane=self.plane if model.plane is None else model.plane)


DEFAULT = Reading()
_CURRENT: ContextVar[Reading] = ContextVar("reading")


def current_reading() -> Reading:
    """The reading of the data set that is being opened or loaded; outside, the default one."""
    return _CURRENT.get(DEFAULT)


@contextmanager
def reading_as(reading: Reading) -> Iterator[None]:
    """Make a reading the current one of this thread."""
    token = _CURRENT.set(reading)
    try:
        yield
    finally:
        _CURRENT.reset(token)


def reader_threads(count: int = 2) -> ThreadPoolExecutor:
    """Threads that have the current reading, which Python's own do not inherit."""
    return ThreadPoolExecutor(count, initializer=_CURRENT.set, initargs=(current_reading(),))
