"""Read image files as arrays: all common formats, upright, three channels, up to a size limit.

Conversions:
    - RGB is unchanged; palette, CMYK, gray and 1-bit images are converted; of several pages, the first is
    read. - Transparency is dropped, not blended: the colours underneath remain as recorded.
    - 16-bit, 32-bit and float gray is divided by the smallest ``2**b - 1`` (b from 8 to 16) that reaches the
      maximum of the image, so that 12-bit images in 16-bit files are not black. Float images within [0, 1]
      are taken as such; values above 65535 are divided by the maximum; negative ones become 0.
    - 16-bit colours likewise, by the maximum over all channels.
    - EXIF rotation is applied; sizes are those of the upright image.
"""

from __future__ import annotations

import struct
import sys
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

Size = tuple[int, int]

MAX_PIXELS = 200_000_000
IMAGE_ENDINGS = (
    ".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".tif", ".tiff", ".bmp", ".webp", ".gif", ".jp2", ".avif",
    ".ppm", ".pgm",
)  # fmt: skip
# All that Pillow's decoders raise for damaged files.
DECODER_ERRORS = (OSError, SyntaxError, ValueError, EOFError, IndexError, struct.error, zlib.error)
SLACK = 1e-3  # tolerance for floats that rounding moved beyond 0 or 1
PILLOW_LIMIT_LOCK = threading.Lock()


def image_files(folder: Path) -> list[Path]:
    """The image files of a folder by their extensions, sorted, without hidden files."""
    return [f for f in visible_files(folder) if f.suffix.lower() in IMAGE_ENDINGS and f.is_file()]


def visible_files(folder: Path, pattern: str = "*") -> list[Path]:
    """The paths in a folder that match a pattern, sorted, without hidden files such as those of macOS."""
    return sorted(f for f in folder.glob(pattern) if not f.name.startswith("."))


class ImageError(ValueError):
    """An unusable image file; the message names the file and the problem."""


def read_image(path: str | Path, *, max_pixels: int = MAX_PIXELS) -> npt.NDArray[np.uint8]:
    """Decode an image file.

    Args:
        path: the file.
        max_pixels: largest number of pixels, height times width; larger images are refused before decoding.

    Returns:
        uint8 ``[H, W, 3]``, RGB, EXIF rotation applied; see the module docstring for other kinds of images.

    Raises:
        ImageError: no such file, not an image, truncated, or larger than ``max_pixels``.
    """
    with _opened(Path(path)) as image:
        pixels = image.width * image.height
        if pixels > max_pixels:
            raise ImageError(
                f"{path}: {image.width} by {image.height} is {pixels:,} pixels, the limit is {max_pixels:,}. "
                f"Split the image into tiles or reduce its size."
            )
        # Pillow warns about large images again while decoding some formats.
        with PILLOW_LIMIT_LOCK:  # another thread may have lifted it
            limit = Image.MAX_IMAGE_PIXELS
        large = limit is not None and pixels > limit
        with _pillow_limit_lifted() if large else nullcontext():
            # Pillow keeps the upper eight of sixteen bits: the lower ones need a second pass.
            kind = _sixteen_bit_kind(image)
            high = to_rgb(ImageOps.exif_transpose(image))
    if kind is None:
        return high
    with _opened(Path(path)) as image, _pillow_limit_lifted() if large else nullcontext():
        tiles: Any = image.tile  # type: ignore[attr-defined]
        image.tile = [  # type: ignore[attr-defined]
            tile._replace(args=kind if isinstance(tile.args, str) else (kind, *tile.args[1:]))
            for tile in tiles
        ]
        low = to_rgb(ImageOps.exif_transpose(image))
    return to_eight_bits(high.astype(np.uint16) * 256 + low)


def image_size(path: str | Path) -> Size:
    """(height, width) of the upright image, from the file header alone.

    Only a PNG with text chunks is decoded: its rotation may be stored after the pixels.

    Raises:
        ImageError: no such file, or not an image.
    """
    with _opened(Path(path)) as image:
        width, height = image.size
        # Pillow's TIFF reader has turned the size already.
        if image.format != "TIFF" and _orientation(image) in (5, 6, 7, 8):
            width, height = height, width
    return height, width


def read_mask(path: str | Path) -> tuple[npt.NDArray[np.bool_], tuple[int, int], Size]:
    """Decode the mask of one object: every non-zero pixel is inside, ignoring transparency.

    In a JPEG, whose compression leaves artefacts around the object, pixels of at least half brightness are
    inside.

    Returns:
        The tight window around the object, bool ``[h, w]``, or ``[0, 0]`` if it is empty; the (y, x) of its
        upper left pixel; the (height, width) of the whole mask.

    Raises:
        ImageError: no such file, not an image, or truncated.
    """
    with _opened(Path(path)) as image:
        plain = image if image.mode in ("1", "L", "F") or image.mode.startswith("I") else image.convert("RGB")
        if image.format == "JPEG":
            plain = image.convert("L").point(lambda value: 255 * (value > 127))
        if plain.mode.startswith("I;"):  # Pillow below 13 overlooks pixels of 16 bits in getbbox
            plain = Image.fromarray(np.asarray(plain) != 0)
        size = (image.height, image.width)
        window = plain.getbbox()
        if window is None:
            return np.zeros((0, 0), dtype=np.bool_), (0, 0), size
        inside = np.asarray(plain.crop(window)) != 0
    return inside.any(-1) if inside.ndim == 3 else inside, (window[1], window[0]), size


def read_numbers(path: str | Path) -> npt.NDArray[np.int64]:
    """Decode an image whose pixels are integers: gray of any depth, or palette indices.

    Returns:
        int64 ``[H, W]``.

    Raises:
        ImageError: no such file, not an image, truncated, or a colour image.
    """
    with _opened(Path(path)) as image:
        if image.format == "JPEG":
            raise ImageError(f"{path}: JPEG compression changes pixel values: save it as PNG or TIFF.")
        if image.mode == "F":  # as ImageJ writes them
            values = np.asarray(image)
            if not np.array_equal(values, np.trunc(values)):
                raise ImageError(f"{path}: its pixels are fractions; expected integers.")
            return values.astype(np.int64)
        if image.mode not in ("1", "L", "P") and not image.mode.startswith("I"):
            raise ImageError(
                f"{path}: its pixels are colours ({image.mode}); expected integers: save it as an 8-bit "
                "gray or palette PNG."
            )
        return np.asarray(image).astype(np.int64)


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """The image with its header read; any problem of the file raises an :class:`ImageError`."""
    try:
        with path.open("rb") as file:
            with _pillow_limit_lifted():
                image = Image.open(file)
            with image:
                yield image
    except ImageError:
        raise
    except FileNotFoundError as error:
        raise ImageError(f"{path}: there is no such file.") from error
    except IsADirectoryError as error:
        raise ImageError(f"{path}: this is a folder; expected an image file.") from error
    except PermissionError as error:
        raise ImageError(f"{path}: no permission to read the file; change its permissions.") from error
    except UnidentifiedImageError as error:
        found = "the file is empty" if path.stat().st_size == 0 else "this is not an image of a known format"
        raise ImageError(f"{path}: {found}. Save it as PNG, JPEG or TIFF.") from error
    except DECODER_ERRORS as error:
        raise ImageError(
            f"{path}: the image is truncated or damaged ({error}). Copy or export it again."
        ) from error


@contextmanager
def _pillow_limit_lifted() -> Iterator[None]:
    """Disable Pillow's own pixel limit, a global; ours is checked instead."""
    with PILLOW_LIMIT_LOCK:
        limit = Image.MAX_IMAGE_PIXELS
        # Not None: another thread that has just seen a number would multiply None.
        Image.MAX_IMAGE_PIXELS = sys.maxsize
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _sixteen_bit_kind(image: Image.Image) -> str | None:
    """The raw mode in which Pillow reads the lower bytes of 16-bit colours: that of the other byte order."""
    tiles: Any = getattr(image, "tile", ())
    kinds = {str(args if isinstance(args, str) else args[0]) for *_, args in tiles if args}
    if image.mode not in ("RGB", "RGBA") or len(kinds) != 1:
        return None
    layout, _, order = kinds.pop().partition(";16")
    native = "L" if sys.byteorder == "little" else "B"
    other = {"L": "B", "B": "L"}.get(native if order == "N" else order)
    return None if layout not in ("RGB", "RGBA") or other is None else f"{layout};16{other}"


def _orientation(image: Image.Image) -> int:
    if image.format == "PNG" and not _may_be_rotated(image.fp):  # type: ignore[attr-defined]
        return 1
    found = image.getexif().get(ExifTags.Base.Orientation, 1)
    return found if isinstance(found, int) else 1  # Pillow ignores text and bytes


def _may_be_rotated(file: BinaryIO) -> bool:
    """Whether a PNG has a chunk that can hold EXIF, which Pillow finds out only by decoding the pixels."""
    position = file.tell()
    file.seek(8)
    found = False
    while not found and len(head := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", head)
        found = kind in (b"eXIf", b"tEXt", b"zTXt", b"iTXt")
        file.seek(length + 4, 1)
    file.seek(position)
    return found


def to_rgb(image: Image.Image) -> npt.NDArray[np.uint8]:
    """An image of any mode as uint8 ``[H, W, 3]``, see the module docstring; alpha is dropped."""
    if image.mode == "F" or image.mode.startswith("I"):
        return np.repeat(to_eight_bits(np.asarray(image))[:, :, None], 3, axis=2)
    if image.mode in ("P", "PA", "La", "RGBa"):  # Pillow converts these to RGB only via RGBA
        image = image.convert("RGBA")
    return np.array(image.convert("RGB"))


def to_eight_bits(values: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Gray of more than 8 bits as uint8 of the same shape, see the module docstring."""
    gray = np.nan_to_num(values.astype(np.float64), nan=0.0, posinf=65535.0, neginf=0.0).clip(min=0)
    top = float(gray.max())
    if values.dtype.kind == "f" and top <= 1:
        white = 1.0
    else:
        white = next((2.0**bits - 1 for bits in range(8, 17) if 2**bits - 1 >= top), top)
    return np.rint(gray / white * 255).astype(np.uint8)


def as_pixels(image: Any, channels: int = 3) -> npt.NDArray[np.uint8] | npt.NDArray[np.float32]:
    """Any image as uint8, or float32 in [0, 1], ``[H, W, C]``.

    Args:
        image: a path, a PIL image (its EXIF rotation is applied), or an array as :func:`rgb_pixels` takes it.
        channels: C; images other than RGB must be arrays ``[H, W, C]`` (``[H, W]`` for one channel).

    Raises:
        ValueError: an unreadable file, or an array of another shape or range.
    """
    if channels != 3:
        array = np.asarray(image)[:, :, None] if getattr(image, "ndim", 0) == 2 else image
        if not isinstance(array, np.ndarray) or array.ndim != 3 or array.shape[2] != channels:
            got = list(array.shape) if isinstance(array, np.ndarray) else type(array).__name__
            raise ValueError(f"expected an array [H, W, {channels}] as image; got {got}")
        return _pixels(array)
    if isinstance(image, str | Path):
        return read_image(image)
    if isinstance(image, Image.Image):
        return to_rgb(ImageOps.exif_transpose(image))
    if isinstance(image, np.ndarray):
        return rgb_pixels(image)
    raise ValueError(f"expected a path, a PIL image or an array as image; got {type(image).__name__}")


def to_bytes(image: Any) -> npt.NDArray[np.uint8]:
    """Like :func:`as_pixels`, but always uint8; floats are rounded."""
    pixels: npt.NDArray[Any] = as_pixels(image)
    return pixels if pixels.dtype == np.uint8 else np.rint(pixels * 255).astype(np.uint8)


def rgb_pixels(array: npt.NDArray[Any]) -> npt.NDArray[np.uint8] | npt.NDArray[np.float32]:
    """``[H, W]`` or ``[H, W, C]`` of integers, or floats in [0, 1], as uint8 or float32 ``[H, W, 3]``.

    Raises:
        ValueError: another shape, type or range.
    """
    array = array[:, :, None] if array.ndim == 2 else array
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4) or 0 in array.shape:
        raise ValueError(f"an image array must be [H, W], [H, W, 3] or [H, W, 4]; got {list(array.shape)}")
    pixels = _pixels(array[:, :, :3])
    return pixels if pixels.shape[2] == 3 else np.repeat(pixels, 3, axis=2)  # type: ignore[return-value]


def _pixels(array: npt.NDArray[Any]) -> npt.NDArray[np.uint8] | npt.NDArray[np.float32]:
    """The values as uint8, or as float32 in [0, 1]."""
    if array.dtype.kind in "ui":
        return array if array.dtype == np.uint8 else to_eight_bits(array)
    if array.dtype.kind != "f":
        raise ValueError(f"an image array must hold integers or floats; got {array.dtype}")
    low, high = array.min(), array.max()
    if not (low >= -SLACK and high <= 1 + SLACK):
        raise ValueError(
            f"a float image must lie in [0, 1]; got {low:g} to {high:g}: divide, or pass integers"
        )
    return array.astype(np.float32).clip(0, 1)
