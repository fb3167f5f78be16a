"""Read image files as arrays: all common formats, upright, up to a size limit.

Conversions:
    - RGB is unchanged; palette, CMYK and 1-bit images are converted, gray is repeated as three channels.
      Images of another number of channels have them all, ``[H, W, C]``, unless a
      :class:`rcnn.io.reading.Reading` chooses some.
    - Transparency is dropped, not blended: the colours underneath remain as recorded.
    - More than 8 bits per channel become 8, see ``rcnn.io.intensity``.
    - EXIF rotation is applied unless the reading is of stored pixels; sizes are those of the array.
    - Masks and numbers are the stored values: WhiteIsZero and palettes do not change them.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from rcnn.io import pillow_files
from rcnn.io.intensity import rgb_view, scaled
from rcnn.io.orientation import turned, turned_size
from rcnn.io.pillow_files import check_pixels
from rcnn.io.reading import ChoiceError, Reading, current_reading
from rcnn.io.reading import ImageError as ImageError

if TYPE_CHECKING:
    from rcnn.io.tiff import OpenTiff

Size = tuple[int, int]

MAX_PIXELS = pillow_files.MAX_PIXELS
HALF = 128  # of 8 bits
MIN_GRAYS = 3  # of a mask with soft edges
IMAGE_ENDINGS = (
    ".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".tif", ".tiff", ".bmp", ".webp", ".gif", ".jp2", ".avif",
    ".ppm", ".pgm", *pillow_files.HEIC_ENDINGS,
)  # fmt: skip
TIFF_MARKS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # classic and BigTIFF, in both byte orders
# All that Pillow's decoders are known to raise for damaged files.
DECODER_ERRORS = (OSError, SyntaxError, ValueError, EOFError, IndexError, struct.error, zlib.error)
SLACK = 1e-3  # tolerance for floats that rounding moved beyond 0 or 1


def image_files(folder: Path) -> list[Path]:
    """The image files of a folder by their extensions, sorted, without hidden files."""
    return [f for f in visible_files(folder) if f.suffix.lower() in IMAGE_ENDINGS and f.is_file()]


def visible_files(folder: Path, pattern: str = "*") -> list[Path]:
    """The paths in a folder that match a pattern, sorted, without hidden files such as those of macOS.

    Only regular files and folders: a pipe would be waited for without end, a link to a device read without
    end, and a link to nothing is not there.
    """
    found = sorted(f for f in folder.glob(pattern) if not f.name.startswith("."))
    return [f for f in found if f.is_file() or f.is_dir()]


def plain_stem(path: PurePath) -> str:
    """The file's name without its extension, of OME-TIFF files without both: ``a`` of ``a.ome.tif``."""
    return path.stem.removesuffix(".ome")


@dataclass(frozen=True)
class ImageHeader:
    """What is known of an image before its pixels are decoded.

    Attributes:
        size: (height, width) of the array that :func:`read_image` returns.
        channels: C of that array.
        orientation: of the EXIF block, 1 to 8; 1: stored upright.
        taken: what is taken of an image that has more than is usual: channels, planes; else empty.
        has_alpha: whether a TIFF file declares a channel that is dropped to be transparency.
        is_rgb: whether the channels of a TIFF file are red, green and blue; None of other files.
        own_channels: the number of channels before gray is repeated.
    """

    size: Size
    channels: int = 3
    orientation: int = 1
    taken: str = ""
    has_alpha: bool = False
    is_rgb: bool | None = None
    own_channels: int = 3


def image_header(
    path: str | Path, reading: Reading | None = None, content: bytes | None = None
) -> ImageHeader:
    """What an image file is, from its header alone.

    Only a PNG with text chunks is decoded: its rotation may be stored after the pixels.

    Args:
        path: the file.
        reading: how it will be read; None: as the data set that is being opened.
        content: of the file, if it is inside another one; ``path`` then names it.

    Raises:
        ImageError: no such file, not an image, or one that the reading does not fit.
    """
    path, reading = Path(path), reading or current_reading()
    with _source(path, content) as image:
        if not isinstance(image, Image.Image):
            return _tiff_header(image, reading)
        size = image.height, image.width
        if pillow_files.is_decoded_for_orientation(image):
            check_pixels(path, size)
        found = pillow_files.orientation(image)
        colours = reading.channels is not None and len(reading.channels) > 1
        gray = image.mode in ("1", "L", "LA", "F") or image.mode.startswith("I")
    size = turned_size(size, found) if reading.turns else size
    channels = len(reading.channels or ()) if colours else 3
    return ImageHeader(size, channels, found, own_channels=1 if gray else 3)


def image_size(path: str | Path, reading: Reading | None = None, content: bytes | None = None) -> Size:
    """(height, width) of an image; arguments and errors as for :func:`image_header`."""
    return image_header(path, reading, content).size


def read_image(
    path: str | Path,
    *,
    max_pixels: int = MAX_PIXELS,
    reading: Reading | None = None,
    channels: int | None = None,
    content: bytes | None = None,
) -> npt.NDArray[np.uint8]:
    """Decode an image file.

    Args:
        path: the file.
        max_pixels: largest number of pixels, height times width; larger images are refused before decoding.
        reading: which channels, plane, orientation and range of intensities; None: as the data set that is
            being loaded.
        channels: C; None: as many as the file has, gray as 3.
        content: of the file, if it is inside another one; ``path`` then names it.

    Returns:
        uint8 ``[H, W, C]``, RGB, EXIF rotation applied; see the module docstring for other kinds of images.

    Raises:
        ImageError: no such file, not an image, truncated, larger than ``max_pixels``, of another number of
            channels, or one that the reading does not fit.
    """
    path, reading = Path(path), reading or current_reading()
    values, is_rgb = read_intensities(path, reading, max_pixels, content)
    return _as_many(scaled(values, reading, colour=is_rgb), channels, path)


def read_mask_colours(path: str | Path) -> npt.NDArray[np.uint8]:
    """Decode a mask whose colours mean something, uint8 ``[H, W, 3]``: all its channels, whatever is chosen.

    Raises:
        ImageError: as :func:`read_image`.
    """
    return read_image(path, reading=replace(current_reading(), channels=None), channels=3)


def read_intensities(
    path: Path, reading: Reading, max_pixels: int = MAX_PIXELS, content: bytes | None = None
) -> tuple[npt.NDArray[Any], bool]:
    """The chosen channels ``[H, W, C]`` in their own depth, upright; whether they are red, green, blue.

    Raises:
        ImageError: as :func:`read_image`.
    """
    with _source(path, content) as image:
        if not isinstance(image, Image.Image):
            check_pixels(path, image.size, max_pixels)
            plane = image.read(reading)
            values = image.as_light(plane)
            return turned(values, image.orientation if reading.turns else 1), plane.is_rgb
        check_pixels(path, (image.height, image.width), max_pixels)
        values = pillow_files.decoded(path, image, turn=reading.turns)
    if reading.channels is None or values.shape[2] == 1:
        return values, values.shape[2] == 3
    if max(reading.channels) >= values.shape[2]:
        raise ChoiceError(
            f"{path}: it has {values.shape[2]} channels, numbered from 0; there is no channel "
            f"{max(reading.channels)}. Choose others with --channels."
        )
    return values[:, :, list(reading.channels)], reading.channels == (0, 1, 2)


def _as_many(pixels: npt.NDArray[np.uint8], channels: int | None, path: Path) -> npt.NDArray[np.uint8]:
    """The image with this number of channels; None: its own. Gray is repeated."""
    own = pixels.shape[2]
    if own == 1 and channels != 1:
        return np.repeat(pixels, 3 if channels is None else channels, axis=2)
    if channels is not None and own != channels:
        raise ChoiceError(
            f"{path}: it has {own} channels, and the model takes {channels}. Choose {channels} of them with "
            "--channels, or use images of the kind that the model was trained on."
        )
    return pixels


@contextmanager
def _source(path: Path, content: bytes | None = None) -> Iterator[OpenTiff | Image.Image]:
    """An image file with its header read, by tifffile or Pillow; problems raise an :class:`ImageError`."""
    with pillow_files.file_errors(path, content), pillow_files.opened_bytes(path, content) as file:
        head = file.read(pillow_files.HEAD)
        if head.startswith(TIFF_MARKS):
            from rcnn.io.tiff import opened_tiff  # half a second that most have no use for

            with opened_tiff(path, content) as tif:
                yield tif
        else:
            with pillow_files.opened_file(path, file, head) as image:
                yield image


def _tiff_header(tif: OpenTiff, reading: Reading) -> ImageHeader:
    tif.planes(reading)
    chosen = tif.channels(reading)
    size = turned_size(tif.size, tif.orientation) if reading.turns else tif.size
    return ImageHeader(
        size, len(chosen) if len(chosen) > 1 else 3, tif.orientation, tif.taken(reading),
        has_alpha=bool(set(tif.alpha) - set(chosen)), is_rgb=tif.is_rgb(chosen) if len(chosen) > 1 else None,
        own_channels=len(chosen),
    )  # fmt: skip


def _stored(tif: OpenTiff, reading: Reading) -> npt.NDArray[Any]:
    """The stored values of a mask or label image, ``[H, W, C]``, upright unless stored pixels are read."""
    check_pixels(tif.path, tif.size)
    if tif.is_lossy:
        raise ImageError(f"{tif.path}: JPEG compression changes pixel values: save it as PNG or TIFF.")
    if tif.is_foreign_colour:
        raise ImageError(_colours(tif.path, "no RGB"))
    # Channels are chosen of images; a label image has one.
    values = tif.with_channels_as_planes().read(replace(reading, channels=None)).values
    return turned(values, tif.orientation if reading.turns else 1)


def read_mask(path: str | Path) -> tuple[npt.NDArray[np.bool_], tuple[int, int], Size]:
    """Decode the mask of one object: every non-zero pixel is inside.

    Where there is gray between black and white, as at soft edges or in a JPEG, pixels of at least half
    brightness are inside. Transparency counts only if nothing else distinguishes the pixels.

    Returns:
        The tight window around the object, bool ``[h, w]``, or ``[0, 0]`` if it is empty; the (y, x) of its
        upper left pixel; the (height, width) of the whole mask.

    Raises:
        ImageError: no such file, not an image, truncated, or a stack of which no plane is chosen.
    """
    path = Path(path)
    with _source(path) as image:
        if not isinstance(image, Image.Image):
            return _window((_stored(image, current_reading()) != 0).any(-1))
        check_pixels(path, (image.height, image.width))
        plain = image if image.mode in ("1", "L", "F") or image.mode.startswith("I") else image.convert("RGB")
        if image.mode in ("LA", "RGBA") and _is_uniform(plain):
            plain = image.getchannel("A")
        if image.format == "JPEG":
            plain = plain.convert("L").point(lambda value: 255 * (value >= HALF))
        if plain.mode.startswith("I;"):  # Pillow below 13 overlooks pixels of 16 bits in getbbox
            plain = Image.fromarray(np.asarray(plain) != 0)
        size = (image.height, image.width)
        window = plain.getbbox()
        if window is None:
            return np.zeros((0, 0), dtype=np.bool_), (0, 0), size
        crop = plain.crop(window)
        if _has_soft_edges(crop):
            inside, (y, x), _ = _window(np.asarray(crop) >= HALF)
            return inside, (window[1] + y, window[0] + x), size
        inside = np.asarray(crop) != 0
    return inside.any(-1) if inside.ndim == 3 else inside, (window[1], window[0]), size


def _is_uniform(image: Image.Image) -> bool:
    """Whether all pixels of an image of bytes have the same colour, and not black."""
    extrema: Any = image.getextrema()
    pairs = extrema if isinstance(extrema[0], tuple) else (extrema,)
    return all(low == high for low, high in pairs) and any(high for _, high in pairs)


def _has_soft_edges(image: Image.Image) -> bool:
    """Whether an image of 8-bit gray has white, and several grays besides black."""
    if image.mode != "L":
        return False
    counts = image.histogram()
    return counts[255] > 0 and sum(count > 0 for count in counts[1:255]) >= MIN_GRAYS


def _window(inside: npt.NDArray[np.bool_]) -> tuple[npt.NDArray[np.bool_], tuple[int, int], Size]:
    """A mask ``[H, W]`` as :func:`read_mask` returns it."""
    size = (int(inside.shape[0]), int(inside.shape[1]))
    rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
    if not len(rows):
        return np.zeros((0, 0), dtype=np.bool_), (0, 0), size
    y, x = int(rows[0]), int(columns[0])
    return inside[y : int(rows[-1]) + 1, x : int(columns[-1]) + 1].copy(), (y, x), size


def read_numbers(path: str | Path) -> npt.NDArray[np.int64]:
    """Decode an image whose pixels are integers: gray of any depth, or palette indices.

    Returns:
        int64 ``[H, W]``, as stored.

    Raises:
        ImageError: no such file, not an image, truncated, a colour image, or a stack of which no plane is
            chosen.
    """
    path, reading = Path(path), current_reading()
    if reading.plane == "mean":
        raise ImageError(f"{path}: object numbers have no mean. Use --plane max, or a number.")
    with _source(path) as image:
        if isinstance(image, Image.Image):
            check_pixels(path, (image.height, image.width))
            values = _numbers(path, image)
        else:
            values = _stored(image, reading)
    if values.ndim == 3 and values.shape[2] != 1:
        raise ImageError(_colours(path, f"{values.shape[2]} channels"))
    values = values[:, :, 0] if values.ndim == 3 else values
    if values.dtype.kind == "f" and not np.array_equal(values, np.trunc(values)):
        raise ImageError(f"{path}: its pixels are fractions; expected integers.")
    if values.dtype.kind == "c" or values.max(initial=0) > np.iinfo(np.int64).max:
        raise ImageError(f"{path}: its pixels are {values.dtype}, with values that are no object numbers.")
    return values.astype(np.int64)


def _numbers(path: Path, image: Image.Image) -> npt.NDArray[Any]:
    """The integers ``[H, W]`` of an image other than TIFF; floats are possible."""
    if image.format == "JPEG":
        raise ImageError(f"{path}: JPEG compression changes pixel values: save it as PNG or TIFF.")
    if image.mode not in ("1", "L", "P", "F") and not image.mode.startswith("I"):
        raise ImageError(_colours(path, image.mode))
    return np.asarray(image)


def _colours(path: Path, what: str) -> str:
    return (
        f"{path}: its pixels are colours ({what}); expected integers: save it as an 8-bit gray or palette "
        "PNG."
    )


def to_rgb(image: Image.Image) -> npt.NDArray[np.uint8]:
    """A PIL image of any mode as uint8 ``[H, W, 3]``, see the module docstring; alpha is dropped."""
    return _as_many(scaled(pillow_files.channels_of(image), Reading(), colour=True), 3, Path("image"))


def as_pixels(
    image: Any, channels: int = 3, reading: Reading | None = None
) -> npt.NDArray[np.uint8] | npt.NDArray[np.float32]:
    """Any image as uint8, or float32 in [0, 1], ``[H, W, C]``.

    Args:
        image: a path, a PIL image (its EXIF rotation is applied), or an array as :func:`rgb_pixels` takes it.
        channels: C; arrays of another number than 3 are ``[H, W, C]`` (``[H, W]`` for one channel), with the
            channels that the model takes, in its order.
        reading: how files are read, and by what rule more than 8 bits become 8.

    Raises:
        ValueError: an unreadable file, or an array of another shape or range.
    """
    reading = reading or current_reading()
    if isinstance(image, str | Path):
        return read_image(image, reading=reading, channels=channels)
    if isinstance(image, Image.Image) and channels == 3:
        image = pillow_files.upright(image) if reading.turns else image
        return _as_many(scaled(pillow_files.channels_of(image), reading, colour=True), 3, Path("image"))
    if channels != 3:
        array = np.asarray(image)[:, :, None] if getattr(image, "ndim", 0) == 2 else image
        if not isinstance(array, np.ndarray) or array.ndim != 3 or array.shape[2] != channels:
            got = list(array.shape) if isinstance(array, np.ndarray) else type(array).__name__
            raise ValueError(f"expected an array [H, W, {channels}] as image; got {got}")
        return _pixels(array, reading)
    if isinstance(image, np.ndarray):
        return rgb_pixels(image, reading)
    raise ValueError(f"expected a path, a PIL image or an array as image; got {type(image).__name__}")


def to_bytes(image: Any) -> npt.NDArray[np.uint8]:
    """Any image as uint8 ``[H, W, 3]`` to look at; floats are rounded, see :func:`rgb_view` for channels."""
    return np.ascontiguousarray(rgb_view(all_channels(image)))


def all_channels(image: Any) -> npt.NDArray[np.uint8]:
    """Any image as uint8: ``[H, W, 3]``, or ``[H, W, C]`` of an array with two or more than four channels.

    Raises:
        ValueError: as :func:`as_pixels`.
    """
    channels = image.shape[2] if isinstance(image, np.ndarray) and image.ndim == 3 else 3
    pixels: npt.NDArray[Any] = as_pixels(image, 3 if channels in (0, 1, 4) else channels)
    return pixels if pixels.dtype == np.uint8 else np.rint(pixels * 255).astype(np.uint8)


def rgb_pixels(
    array: npt.NDArray[Any], reading: Reading | None = None
) -> npt.NDArray[np.uint8] | npt.NDArray[np.float32]:
    """``[H, W]`` or ``[H, W, C]`` of integers, or floats in [0, 1], as uint8 or float32 ``[H, W, 3]``.

    Raises:
        ValueError: another shape, type or range.
    """
    array = array[:, :, None] if array.ndim == 2 else array
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4) or 0 in array.shape:
        raise ValueError(f"an image array must be [H, W], [H, W, 3] or [H, W, 4]; got {list(array.shape)}")
    pixels = _pixels(array[:, :, :3], reading or current_reading())
    return pixels if pixels.shape[2] == 3 else np.repeat(pixels, 3, axis=2)  # type: ignore[return-value]


def _pixels(array: npt.NDArray[Any], reading: Reading) -> npt.NDArray[np.uint8] | npt.NDArray[np.float32]:
    """The values as uint8, or as float32 in [0, 1]."""
    if array.dtype.kind in "ui":
        return scaled(array, reading, colour=array.shape[2] == 3)
    if array.dtype.kind != "f":
        raise ValueError(f"an image array must hold integers or floats; got {array.dtype}")
    low, high = array.min(), array.max()
    if not (low >= -SLACK and high <= 1 + SLACK):
        raise ValueError(
            f"a float image must lie in [0, 1]; got {low:g} to {high:g}: divide, or pass integers"
        )
    return array.astype(np.float32).clip(0, 1)
