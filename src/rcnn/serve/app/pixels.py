"""What the viewer shows of images: tiles of a pyramid, thumbnails, channels and contrast.

Level 0 is the image itself, each further level half of it, until one tile holds the whole. Decoded images are
kept up to :data:`MEMORY`, the latest ones first; the one at hand is always kept.
"""

from __future__ import annotations

import io
import math
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from rcnn.io.intensity import limits, rgb_view, scaled, stretched
from rcnn.io.reading import Reading

TILE = 512  # pixels of a tile's side
MEMORY = 600_000_000  # bytes of decoded images
THUMBNAIL = 160  # pixels of the longer side
LOW, HIGH = 0.1, 99.9  # percentiles that are black and white unless others are asked for


@dataclass(frozen=True)
class View:
    """How the channels of an image are shown.

    Attributes:
        channels: one is gray, two are magenta and green, three are red, green and blue; empty: the first.
        low: the percentile of a channel that is black; None: values as they are, of more than 8 bits
            percentiles.
        high: the percentile that is white; likewise.
    """

    channels: tuple[int, ...] = ()
    low: float | None = None
    high: float | None = None

    @classmethod
    def of_query(cls, query: Any) -> View:
        """As the page asks for it: ``channels=0,1,2&low=0.1&high=99.9``.

        Raises:
            ValueError: something else.
        """
        channels = tuple(int(number) for number in query.get("channels", "").split(",") if number)
        low, high = (float(query[name]) if name in query else None for name in ("low", "high"))
        if len(channels) > 3 or any(number < 0 for number in channels):
            raise ValueError(f"channels {list(channels)}: expected up to three numbers from 0")
        if low is not None and high is not None and not 0 <= low < high <= 100:
            raise ValueError(f"low {low:g} and high {high:g}: expected percentiles, 0 to 100, low below high")
        return cls(channels, low, high)


@dataclass(frozen=True)
class Pyramid:
    """A decoded image with its smaller copies.

    Attributes:
        levels: ``[h, w, C]`` each, the image itself first.
        is_rgb: whether its channels are red, green and blue.
    """

    levels: list[npt.NDArray[Any]]
    is_rgb: bool
    _limits: dict[tuple[Any, ...], tuple[float, float]] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, values: npt.NDArray[Any], is_rgb: bool) -> Pyramid:
        """The pyramid of an image ``[H, W, C]``."""
        levels = [values]
        while max(levels[-1].shape[:2]) > TILE:
            levels.append(halved(levels[-1]))
        return cls(levels, is_rgb)

    @cached_property
    def nbytes(self) -> int:
        """The memory it takes."""
        return sum(level.nbytes for level in self.levels)

    @property
    def channels(self) -> int:
        """C."""
        return int(self.levels[0].shape[2])

    def describe(self) -> dict[str, Any]:
        """What the viewer has to know."""
        height, width = self.levels[0].shape[:2]
        kind = self.levels[0].dtype
        bits = 1 if kind == np.bool_ else 8 * kind.itemsize
        return {
            "size": [height, width], "levels": len(self.levels), "tile": TILE, "channels": self.channels,
            "is_rgb": self.is_rgb, "depth": f"{bits}-bit" + (" float" if kind.kind == "f" else ""),
        }  # fmt: skip

    def tile(self, level: int, column: int, row: int, view: View) -> npt.NDArray[np.uint8]:
        """A tile as it is shown, uint8 ``[h, w, 3]``.

        Raises:
            ValueError: there is no such tile or channel.
        """
        if not 0 <= level < len(self.levels):
            raise ValueError(f"level {level}: expected 0 to {len(self.levels) - 1}")
        whole = self.levels[level]
        part = whole[row * TILE : (row + 1) * TILE, column * TILE : (column + 1) * TILE]
        if min(row, column) < 0 or not part.size:
            raise ValueError(f"tile {column}, {row}: outside of the image")
        return self._shown(part, view)

    def whole(self, view: View) -> npt.NDArray[np.uint8]:
        """The whole image as it is shown, uint8 ``[H, W, 3]``."""
        return self._shown(self.levels[0], view)

    def small(self, side: int, view: View) -> npt.NDArray[np.uint8]:
        """The whole image as it is shown, its longer side at most ``side``, uint8 ``[h, w, 3]``."""
        level = next((one for one in self.levels[::-1] if max(one.shape[:2]) >= side), self.levels[0])
        picture = Image.fromarray(self._shown(level, view))
        picture.thumbnail((side, side))
        return np.asarray(picture)

    def _shown(self, part: npt.NDArray[Any], view: View) -> npt.NDArray[np.uint8]:
        chosen = view.channels or tuple(range(min(3, self.channels)))
        if max(chosen) >= self.channels:
            raise ValueError(f"channel {max(chosen)}: the image has {self.channels}, counted from 0")
        planes = part[:, :, list(chosen)]
        if planes.dtype == np.bool_ or (planes.dtype == np.uint8 and view.low is None and view.high is None):
            return np.ascontiguousarray(rgb_view(scaled(planes, Reading(), colour=self.is_rgb)))
        low, high = LOW if view.low is None else view.low, HIGH if view.high is None else view.high
        shown = np.empty(planes.shape, np.uint8)
        for place, channel in enumerate(chosen):
            shown[:, :, place] = stretched(planes[:, :, place], self._ends(channel, low, high))
        return np.ascontiguousarray(rgb_view(shown))

    def _ends(self, channel: int, low: float, high: float) -> tuple[float, float]:
        """The values that are black and white: those of all channels of a colour image together."""
        key = (None if self.is_rgb else channel, low, high)
        if key not in self._limits:
            # A level of about a megapixel has the same percentiles, nearly, and is counted at once.
            level = next((one for one in self.levels if max(one.shape[:2]) <= 4 * TILE), self.levels[-1])
            values = level if self.is_rgb else level[:, :, channel]
            self._limits[key] = limits(values, Reading(low=low, high=high))
        return self._limits[key]


def halved(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """An image ``[H, W, C]`` of half the size, rounded up: each pixel the mean of up to four, of its type."""
    height, width, channels = values.shape
    if values.dtype == np.uint8 and channels in (1, 3):
        picture = Image.fromarray(values[:, :, 0] if channels == 1 else values)
        return np.asarray(picture.reduce(2)).reshape(math.ceil(height / 2), math.ceil(width / 2), channels)
    if values.dtype == np.bool_:
        return values[::2, ::2]
    padded = np.pad(values, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    small = np.empty((padded.shape[0] // 2, padded.shape[1] // 2, channels), values.dtype)
    rows = max(1, 2**22 // max(1, padded[:1].size))  # a strip at a time: float64 takes eight times the memory
    for start in range(0, len(small), rows):
        strip = padded[2 * start : 2 * (start + rows)].astype(np.float64)
        mean = (strip[::2, ::2] + strip[1::2, ::2] + strip[::2, 1::2] + strip[1::2, 1::2]) / 4
        small[start : start + rows] = mean if values.dtype.kind == "f" else np.rint(mean)
    return small


class PyramidCache:
    """The images decoded last, up to :data:`MEMORY`; one at a time is decoded."""

    def __init__(self, memory: int = MEMORY) -> None:
        self._memory = memory
        self._kept: OrderedDict[Any, Pyramid] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Any, read: Callable[[], tuple[npt.NDArray[Any], bool]]) -> Pyramid:
        """The image under ``key``, decoded by ``read`` where it is not there."""
        with self._lock:
            if key not in self._kept:
                self._kept[key] = Pyramid.of(*read())
                while len(self._kept) > 1 and self.nbytes > self._memory:
                    self._kept.popitem(last=False)
            self._kept.move_to_end(key)
            return self._kept[key]

    @property
    def nbytes(self) -> int:
        """The memory that all of them take."""
        return sum(one.nbytes for one in self._kept.values())


def as_png(pixels: npt.NDArray[np.uint8]) -> bytes:
    """A picture without loss, quickly compressed: it goes no further than to this machine's browser."""
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "PNG", compress_level=1)
    return content.getvalue()


def as_jpeg(pixels: npt.NDArray[np.uint8]) -> bytes:
    """A small picture."""
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "JPEG", quality=85)
    return content.getvalue()
