"""TIFF files by tifffile: any sample type, number of channels and planes; only what is asked for is read.

Axes are those of tifffile: Y and X; S (samples of a pixel) and C are channels; all others (Z, T, unnamed
pages) are planes. Stored values are returned: WhiteIsZero is not inverted, palettes are not applied.

Compressions that tifffile cannot decode without imagecodecs (LZW, Zstandard) are decoded by Pillow where it
has the sample type. Fax codes, JPEG and colours other than RGB (CMYK, YCbCr, L*a*b*) are always Pillow's.

Legend: H and W height and width, C channels.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import tifffile
from PIL import Image, UnidentifiedImageError

from rcnn.extras import install_command
from rcnn.io.orientation import unturned
from rcnn.io.pillow_files import image_in
from rcnn.io.reading import ChoiceError, ImageError, Reading

Array = npt.NDArray[Any]

WHITE_IS_ZERO, RGB, PALETTE, YCBCR = 0, 2, 3, 6
BY_PILLOW = (5, 8, 9, 10)  # photometric interpretations: CMYK, L*a*b* and its relatives
FAX = (2, 3, 4)  # compressions of 1-bit images
JPEG = (6, 7, 34892)  # compressions: two kinds, and with losses throughout
ALPHA = (1, 2)  # kinds of extra samples: associated and unassociated; 0 may be anything
# Whole-slide formats, whose further series are thumbnails, labels and overviews.
SLIDES = ("svs", "ndpi", "scn", "bif", "philips", "qpi", "avs", "vips")
WIDEST_PIXEL = 8  # samples: an "image" this narrow is one whose channels were written last
MAX_PLANE_BYTES = 2**32
MAX_BYTES = 2**31  # of what cannot be read in parts: a compressed volume, a tile
AXES = {"Z": "slices", "T": "points in time", "Q": "pages", "I": "pages", "R": "mosaic parts"}


@dataclass(frozen=True)
class Plane:
    """What was read of a file.

    Attributes:
        values: ``[H, W, C]`` as stored, in native byte order; of Pillow's colours, uint8 RGB.
        photometric: TIFF's number of how values stand for light.
        is_rgb: whether the channels are red, green and blue, in this order.
        channels: which of the file's they are.
    """

    values: Array
    photometric: int
    is_rgb: bool
    channels: tuple[int, ...]


class OpenTiff:
    """One TIFF file with its structure known and no pixels read."""

    def __init__(self, path: Path, tif: tifffile.TiffFile, file: Path) -> None:
        """Read the structure of a ``file``, which messages call ``path``.

        Raises:
            ImageError: there is no image in it.
        """
        self.path, self.file = path, file
        every = list(tif.series)
        if not every:
            raise ImageError(f"{path}: this TIFF file holds no image. Export it again.")
        first = every[0]
        others = [] if first.kind in SLIDES else every[1:]
        self.series = [first, *(s for s in others if s.shape == first.shape and s.axes == first.axes)]
        # What follows a larger image is its preview.
        self.odd = [s for s in others if s not in self.series and math.prod(s.shape) > math.prod(first.shape)]
        self.page: Any = first.keyframe
        axes, shape = str(first.axes), tuple(int(n) for n in first.shape)
        if "Y" not in axes or "X" not in axes:
            raise ImageError(f"{path}: its axes {axes} are not those of an image; expected Y and X.")
        if axes == "QYX" and shape[2] <= WIDEST_PIXEL < min(shape[:2]) // 2:
            axes = "YXS"
        self.axes, self.shape = axes, shape

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) as stored."""
        return self.shape[self.axes.index("Y")], self.shape[self.axes.index("X")]

    @property
    def orientation(self) -> int:
        """The tag Orientation, 1 to 8."""
        tag = self.page.tags.get(274)
        return tag.value if tag is not None and tag.value in range(1, 9) else 1

    @property
    def stack_axes(self) -> dict[str, int]:
        """The axes that planes are numbered along, with their lengths above 1; the last varies fastest."""
        found = {a: n for a, n in zip(self.axes, self.shape, strict=True) if a not in "YXSC" and n > 1}
        return {"I": len(self.series), **found} if len(self.series) > 1 else found

    def with_channels_as_planes(self) -> OpenTiff:
        """The same file with its axis C taken for planes: many write a stack of label images so."""
        if "C" in self.axes and not self.stack_axes:
            changed = copy(self)
            changed.axes = self.axes.replace("C", "Q")
            return changed
        return self

    @property
    def num_planes(self) -> int:
        """The number of planes."""
        return math.prod(self.stack_axes.values())

    @property
    def num_channels(self) -> int:
        """The number of channels as stored, transparency included."""
        return math.prod(n for a, n in zip(self.axes, self.shape, strict=True) if a in "SC")

    @property
    def alpha(self) -> tuple[int, ...]:
        """The channels that the file declares to be transparency."""
        extra = [] if "C" in self.axes else [int(kind) for kind in self.page.extrasamples or ()]
        first = self.num_channels - len(extra)
        return tuple(first + i for i, kind in enumerate(extra) if kind in ALPHA)

    @property
    def is_foreign_colour(self) -> bool:
        """Whether Pillow converts the colours to RGB."""
        photometric = int(self.page.photometric)
        return photometric in BY_PILLOW or photometric == YCBCR

    @property
    def is_lossy(self) -> bool:
        """Whether the compression may change values."""
        return int(self.page.compression) in JPEG

    def channels(self, reading: Reading) -> tuple[int, ...]:
        """The channels that a reading takes.

        Raises:
            ImageError: it names one that the file lacks.
        """
        count = 3 if self.is_foreign_colour or self.page.photometric == PALETTE else self.num_channels
        if self._pages_are_channels(reading):
            count = self.num_planes
        if reading.channels is None:
            # Files that are nothing but transparency exist: what is left may not be empty.
            return tuple(i for i in range(count) if i not in self.alpha) or tuple(range(count))
        if count == 1:
            return (0,)
        if max(reading.channels) >= count:
            raise ChoiceError(
                f"{self.path}: it has {count} channels, numbered from 0; there is no channel "
                f"{max(reading.channels)}. Choose others with --channels."
            )
        return reading.channels

    def is_rgb(self, channels: Sequence[int]) -> bool:
        """Whether these channels are red, green and blue, in this order."""
        in_colours = self.is_foreign_colour or self.page.photometric in (RGB, PALETTE)
        return in_colours and tuple(channels) == (0, 1, 2)

    def planes(self, reading: Reading) -> Sequence[int]:
        """The numbers of the planes that a reading takes.

        Raises:
            ImageError: a stack, and no plane is chosen or it has no such plane; or pages of other sizes.
        """
        if self.num_planes == 1 and not self.odd:
            return [0]
        if self._pages_are_channels(reading):
            return range(self.num_planes)
        if reading.plane is None:
            raise ChoiceError(f"{self.path}: {self._stack()}")
        if not isinstance(reading.plane, int):
            return range(self.num_planes)
        if reading.plane >= self.num_planes:
            raise ChoiceError(
                f"{self.path}: there is no plane {reading.plane}; it has {self.num_planes}, numbered from 0."
            )
        return [reading.plane]

    def _pages_are_channels(self, reading: Reading) -> bool:
        """Whether pages without a meaning of their own were chosen among as channels."""
        chosen = reading.channels is not None and reading.plane is None
        return chosen and self.num_channels == 1 and set(self.stack_axes) in ({"Q"}, {"I"})

    def _stack(self) -> str:
        """What a stack is and how to choose of it, as an error of the file says it."""
        height, width = self.size
        if self.num_planes == 1:
            return (
                f"its first page has {width} by {height} pixels, and a later one is larger. Choose the first "
                "with --plane 0, or save the other page as a file of its own."
            )
        along = " of ".join(f"{n} {AXES.get(a, f'planes along {a}')}" for a, n in self.stack_axes.items())
        channels = ""
        if self.num_channels == 1 and set(self.stack_axes) in ({"Q"}, {"I"}):
            numbers = ",".join(map(str, range(min(self.num_planes, 5))))
            channels = f" If the pages are channels, choose some with --channels {numbers}."
        return (
            f"a stack of {along}, each {width} by {height} pixels. Choose one with --plane 0 to "
            f"{self.num_planes - 1}, or a projection of all with --plane max.{channels}"
        )

    def read(self, reading: Reading) -> Plane:
        """The pixels that a reading takes, not turned; of a stack, one plane at a time is in memory.

        Raises:
            ImageError: as :meth:`planes` and :meth:`channels`; a compression that nothing here decodes.
        """
        planes, chosen = self.planes(reading), list(self.channels(reading))
        plane_bytes = math.prod(self.size) * self.num_channels * self.page.dtype.itemsize
        if plane_bytes > MAX_PLANE_BYTES:
            raise ImageError(
                f"{self.path}: a plane of {self.num_channels} channels takes {plane_bytes / 2**30:.1f} GiB, "
                f"the limit is {MAX_PLANE_BYTES // 2**30}. Split the image into tiles or save fewer channels."
            )
        self._check_tiles()
        if self._pages_are_channels(reading):
            values = np.concatenate([self._plane(planes[i]) for i in chosen], axis=2)
        else:
            values = self._projected(planes, reading)
            if self.page.photometric != PALETTE and values.shape[2] != 1:
                values = values[:, :, chosen] if chosen != list(range(values.shape[2])) else values
        photometric = RGB if self.is_foreign_colour else int(self.page.photometric)
        return Plane(values, photometric, self.is_rgb(chosen), tuple(chosen))

    def _check_tiles(self) -> None:
        """Refuse tiles of too many bytes: each is decoded whole, however small its image.

        Raises:
            ImageError: they do.
        """
        pages: list[Any] = [series.keyframe for series in self.series]
        for page in pages:
            tile_bytes = math.prod(page.chunks) * page.dtype.itemsize if page.is_tiled else 0
            if tile_bytes > MAX_BYTES:
                raise ImageError(
                    f"{self.path}: a tile of it takes {tile_bytes / 2**30:.1f} GiB, the limit is "
                    f"{MAX_BYTES // 2**30}. Save the image with tiles of 256 by 256 pixels."
                )

    def as_light(self, plane: Plane) -> Array:
        """What was read, as intensities: a palette's colours, and WhiteIsZero as BlackIsZero."""
        values = plane.values
        if plane.photometric == PALETTE:
            colours = (np.asarray(self.page.colormap) // 256).astype(np.uint8)  # [3, 2 ** bits]
            return colours[:, values[:, :, 0]].transpose(1, 2, 0)[:, :, list(plane.channels)]
        if plane.photometric != WHITE_IS_ZERO:
            return values
        return ~values if values.dtype.kind in "ub" else values.max(initial=0) - values

    def taken(self, reading: Reading) -> str:
        """What is taken of a file with several planes or an unusual number of channels, else empty."""
        planes, channels, parts = self.planes(reading), self.channels(reading), []
        shown = ", ".join(map(str, channels))
        if self._pages_are_channels(reading):
            return f"pages {shown} of {self.num_planes} as channels"
        if self.num_planes > 1:
            along = " of ".join(f"{n} {AXES.get(a, f'planes along {a}')}" for a, n in self.stack_axes.items())
            which = f"plane {reading.plane}" if len(planes) == 1 else f"the {reading.plane}"
            parts.append(f"{which} of {along}")
        if self.num_channels > 1 and not self.is_rgb(channels):
            parts.append(f"channels {shown} of {self.num_channels}")
        return "; ".join(parts)

    def _projected(self, planes: Sequence[int], reading: Reading) -> Array:
        """One plane, or the maximum or mean of several."""
        total = self._plane(planes[0])
        if len(planes) == 1:
            return total
        if reading.plane == "max":
            for plane in planes[1:]:
                np.maximum(total, self._plane(plane), out=total)
            return total
        mean = total.astype(np.float64)
        for plane in planes[1:]:
            mean += self._plane(plane)
        mean /= len(planes)
        return np.rint(mean).astype(total.dtype) if total.dtype.kind in "ui" else mean.astype(np.float32)

    def _plane(self, number: int) -> Array:
        """One plane with all channels, ``[H, W, C]``, an array of its own."""
        per_series = self.num_planes // len(self.series)
        series, number = self.series[number // per_series], number % per_series
        page_axes = str(self.page.axes)
        if self.axes == "YXS" and series.axes == "QYX":  # channels written last
            return _native(series.asarray())
        leading = len(self.shape) - len(page_axes)
        if leading < 0 or self.axes[leading:] != page_axes:
            return self._cut(_native(_whole(series, self.path)), self.axes, number)
        outer = self.axes[:leading]
        order = [i for i, a in enumerate(outer) if a != "C"] + [i for i, a in enumerate(outer) if a == "C"]
        per_plane = math.prod(n for a, n in zip(outer, self.shape, strict=False) if a == "C")
        indices = np.arange(math.prod(self.shape[:leading])).reshape(self.shape[:leading])
        rows = indices.transpose(order).reshape(-1, per_plane)
        chosen = rows[number // self._inner_planes(page_axes)].tolist()
        parts = [self._cut(self._decoded(series, index), page_axes, number) for index in chosen]
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=2)

    def _inner_planes(self, page_axes: str) -> int:
        """The planes of one page, of files whose pages are volumes."""
        sizes = self.shape[len(self.shape) - len(page_axes) :]
        return math.prod(n for a, n in zip(page_axes, sizes, strict=True) if a not in "YXSC")

    def _cut(self, values: Array, axes: str, number: int) -> Array:
        """The plane ``number`` of ``values``, with channels last."""
        inner = [i for i, a in enumerate(axes) if a not in "YXSC"]
        channel = [i for i, a in enumerate(axes) if a in "SC"]
        order = [*inner, axes.index("Y"), axes.index("X"), *channel]
        height, width = self.size
        moved = values.transpose(order).reshape(
            -1, height, width, math.prod(values.shape[i] for i in channel)
        )
        return np.array(moved[number % len(moved)])

    def _decoded(self, series: Any, index: int) -> Array:
        """The page at ``index`` of a series, as the file has it."""
        pages = math.prod(self.shape) // math.prod(self.page.shape)
        if len(series.pages) < pages:  # one page describes a volume that lies in one piece
            if series.dataoffset is None:
                return _native(_whole(series, self.path).reshape(pages, *self.page.shape)[index])
            dtype = series.dtype.newbyteorder(series.parent.byteorder)
            shape, offset = (pages, *self.page.shape), series.dataoffset
            return _native(np.memmap(self.file, dtype, "r", offset, shape)[index])
        page = series.pages[index]
        if page is None:
            raise ImageError(f"{self.path}: its page {index} is missing. Export the file again.")
        if self.is_foreign_colour or int(page.compression) in (*JPEG, *FAX):
            return self._by_pillow(page)
        try:
            return _native(page.asarray())
        except (ValueError, NotImplementedError, ImportError) as error:
            if not isinstance(error, ImportError) and "imagecodecs" not in str(error):
                raise
            return self._by_pillow(page)

    def _by_pillow(self, page: Any) -> Array:
        """A page decoded by Pillow: stored values again, or RGB of foreign colours."""
        with self.file.open("rb") as file, self._by_pillow_opened(file, page) as image:
            image.seek(page.index)
            if self.is_foreign_colour:
                values = np.array(image.convert("RGB"))
            elif _has_pillows_type(image, page):
                values = np.array(image)
                if page.photometric == WHITE_IS_ZERO and image.mode in ("1", "L"):
                    values = ~values
            else:
                raise self._needs_codecs(page)
        # Pillow has turned the image already.
        values = unturned(values, self.orientation)
        return values if self.is_foreign_colour else values.astype(page.dtype).reshape(page.shape)

    def _by_pillow_opened(self, file: BinaryIO, page: Any) -> Image.Image:
        try:
            return image_in(file, "TIFF")
        except UnidentifiedImageError as error:
            raise self._needs_codecs(page) from error

    def _needs_codecs(self, page: Any) -> ImageError:
        name = getattr(page.compression, "name", page.compression)
        return ImageError(
            f"{self.path}: {name} compression of {page.samplesperpixel} x {page.bitspersample} bits needs "
            f"imagecodecs: {install_command('tiff')}, or save the file uncompressed."
        )


def _has_pillows_type(image: Image.Image, page: Any) -> bool:
    """Whether Pillow's mode holds the stored values without loss."""
    kinds = {"1": (1,), "I;16": (16,), "I;16B": (16,), "I": (16, 32), "F": (32,)}
    samples = len(image.getbands())
    return page.bitspersample in kinds.get(image.mode, (8,)) and samples == page.samplesperpixel


@contextmanager
def opened_tiff(path: Path, content: bytes | None = None) -> Iterator[OpenTiff]:
    """The structure of a TIFF file, or of its content, while it is open."""
    if content is None:
        with tifffile.TiffFile(path) as tif:
            yield OpenTiff(path, tif, path)
        return
    with tempfile.NamedTemporaryFile(prefix="rcnn-", suffix=".tif") as file:  # pages may be mapped
        file.write(content)
        file.flush()
        with tifffile.TiffFile(file.name) as tif:
            yield OpenTiff(path, tif, Path(file.name))


def _native(values: Array) -> Array:
    return np.ascontiguousarray(values).astype(values.dtype.newbyteorder("="), copy=False)


def _whole(series: Any, path: Path) -> Array:
    """All of a series that cannot be read in parts."""
    if series.nbytes > MAX_BYTES:
        raise ImageError(
            f"{path}: a compressed volume of {series.nbytes / 2**30:.1f} GiB, which can only be read at "
            "once. Save its planes as pages."
        )
    values: Array = series.asarray()
    return values
