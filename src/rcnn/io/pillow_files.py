"""Image files by Pillow: opening them with every fault as an :class:`ImageError`, orientation, 16 bits.

Whatever Pillow or a plugin raises for a file, it is an error of that file and never the end of a process.
"""

from __future__ import annotations

import io
import struct
import sys
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from importlib.util import find_spec
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, UnidentifiedImageError

from rcnn.extras import install_command
from rcnn.io.orientation import exif_orientation, turned
from rcnn.io.reading import ImageError

# Formats that people have and that are not read, by the bytes that a file begins with, or has at a place.
FOREIGN = (
    (0, b"%PDF", "a PDF document"), (0, b"<html", "an HTML page"), (0, b"<!DOC", "an HTML page"),
    (0, b"<svg", "an SVG drawing"), (128, b"DICM", "a DICOM file"), (0, b"ZISRAWFILE", "a CZI file of Zeiss"),
    (0, b"\xda\xce\xbe\x0a", "an ND2 file of Nikon"), (0, b"\x70\0\0\0", "a LIF file of Leica"),
    (0, b"\x89HDF", "an HDF5 file"), (0, b"\x93NUMPY", "a NumPy array"), (0, b"PK\x03\x04", "a zip archive"),
    (0, b"version https://git-lfs", "a pointer of Git LFS, whose file was not downloaded (git lfs pull)"),
    (4, b"ftypcrx", "a raw photograph (CR3)"), (4, b"ftypisom", "a video"), (4, b"ftypmp4", "a video"),
)  # fmt: skip
# The decoders that a file may choose among: Pillow has others, of which one starts Ghostscript.
DECODERS = [
    "PNG", "JPEG", "BMP", "WEBP", "GIF", "JPEG2000", "PPM", "TIFF",
    *(["AVIF"] if find_spec("PIL.AvifImagePlugin") else []),  # Pillow 11.3 or later
]  # fmt: skip
HEAD = 12  # bytes that tell TIFF and HEIC from others
HEIC_ENDINGS = (".heic", ".heif", ".hif")
HEIC_BRANDS = (b"ftypheic", b"ftypheix", b"ftyphevc", b"ftypheim", b"ftypheis", b"ftypmif1", b"ftypmsf1")
_HEIC: list[str] = []  # Pillow's name of the format, once it is known
MAX_PIXELS = 200_000_000  # of an image, height times width
PILLOW_LIMIT_LOCK = threading.Lock()
# By EXIF orientation, from stored to upright.
METHODS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # fmt: skip


@contextmanager
def opened(path: Path) -> Iterator[Image.Image]:
    """The image with its header read; any problem of the file raises an :class:`ImageError`."""
    with file_errors(path), path.open("rb") as file, opened_file(path, file, file.read(HEAD)) as image:
        yield image


@contextmanager
def opened_file(path: Path, file: BinaryIO, head: bytes) -> Iterator[Image.Image]:
    """The image in an open file, of which ``head`` was read; errors are Pillow's, see :func:`file_errors`."""
    if head[4:].startswith(HEIC_BRANDS) or path.suffix.lower() in HEIC_ENDINGS:
        _learn_heic(path)
    file.seek(0)
    with image_in(file) as image:
        yield image


def image_in(file: BinaryIO, *kinds: str) -> Image.Image:
    """An open image file with its header read, by one of the decoders that are allowed, whatever its size.

    Every image is opened here: Pillow is never left to choose among all that it has.

    Args:
        file: at its beginning.
        kinds: the only formats that are expected, in Pillow's words; none: all of :data:`DECODERS`.
    """
    with pillow_limit_lifted():
        return Image.open(file, formats=kinds or [*DECODERS, *_HEIC])


def embedded_image(content: bytes, place: str, *kinds: str) -> Image.Image:
    """The image in some bytes, such as those in an annotation file.

    Args:
        content: the image file.
        place: where it was, for messages.
        kinds: the only formats that are expected, in Pillow's words; none: all of :data:`DECODERS`.

    Raises:
        ImageError: its header declares more pixels than are decoded.
        OSError: no image, or another kind; damaged ones may raise anything when they are decoded.
    """
    image = image_in(io.BytesIO(content), *kinds)
    check_pixels(place, (image.height, image.width))
    return image


def check_pixels(path: Path | str, size: tuple[int, int], max_pixels: int | None = None) -> None:
    """Refuse an image of too many pixels before it is decoded.

    Raises:
        ImageError: it has more than ``max_pixels``, by default :data:`MAX_PIXELS`.
    """
    (height, width), most = size, MAX_PIXELS if max_pixels is None else max_pixels
    if height * width > most:
        raise ImageError(
            f"{path}: {width} by {height} is {height * width:,} pixels, the limit is {most:,}. "
            f"Split the image into tiles or reduce its size."
        )


def opened_bytes(path: Path, content: bytes | None) -> BinaryIO:
    """A file, or its content, to be read."""
    return path.open("rb") if content is None else io.BytesIO(content)


@contextmanager
def file_errors(path: Path, content: bytes | None = None) -> Iterator[None]:
    """Whatever is raised while a file, or its content, is read, as an :class:`ImageError` that names it."""
    try:
        yield
    except ImageError:
        raise
    except FileNotFoundError as error:
        raise ImageError(f"{path}: there is no such file.") from error
    except IsADirectoryError as error:
        raise ImageError(f"{path}: this is a folder; expected an image file.") from error
    except PermissionError as error:
        raise ImageError(f"{path}: no permission to read the file; change its permissions.") from error
    except UnidentifiedImageError as error:
        raise ImageError(f"{path}: {_foreign(path, content)}. Save it as PNG, JPEG or TIFF.") from error
    except Exception as error:  # decoders and their plugins raise anything for damaged files
        raise ImageError(
            f"{path}: the image is truncated or damaged ({str(error) or type(error).__name__}). Copy "
            "or export it again."
        ) from error


def _foreign(path: Path, content: bytes | None) -> str:
    """What a file is that is not an image, as far as its first bytes show."""
    with opened_bytes(path, content) as file:
        head = file.read(512)
    if not head:
        return "the file is empty"
    if head[4:].startswith(HEIC_BRANDS):
        return "a HEIC photograph that cannot be decoded"
    known = (name for place, mark, name in FOREIGN if head[place:].lstrip().lower().startswith(mark.lower()))
    name = next(known, None)
    return "this is not an image of a known format" if name is None else f"this is {name}, not an image"


def _learn_heic(path: Path) -> None:
    """Teach Pillow to read HEIC.

    Raises:
        ImageError: pillow-heif is not installed.
    """
    try:
        import pillow_heif
    except ImportError as error:
        raise ImageError(
            f"{path}: a HEIC photograph, which needs pillow-heif: {install_command('heic')}, or save it as "
            "JPEG."
        ) from error
    pillow_heif.register_heif_opener()
    _HEIC[:] = ["HEIF"]


@contextmanager
def pillow_limit_lifted() -> Iterator[None]:
    """Disable Pillow's own pixel limit, a global; ours is checked instead."""
    with PILLOW_LIMIT_LOCK:
        limit = Image.MAX_IMAGE_PIXELS
        # Not None: another thread that has just seen a number would multiply None.
        Image.MAX_IMAGE_PIXELS = sys.maxsize
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def above_pillows_limit(pixels: int) -> bool:
    """Whether Pillow would warn of an image of so many pixels while decoding it."""
    with PILLOW_LIMIT_LOCK:  # another thread may have lifted it
        limit = Image.MAX_IMAGE_PIXELS
    return limit is not None and pixels > limit


def orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; 1 where there is none that can be read.

    Of a PNG, whose orientation may stand behind the pixels, they are decoded only if it can have one; the
    caller has checked their number.
    """
    is_undecoded = image.format == "PNG" and getattr(image, "fp", None) is not None
    if is_undecoded and not is_decoded_for_orientation(image):
        return 1
    try:
        found = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # Pillow's parser raises anything for a damaged block
        found = exif_orientation(image.info.get("exif", b""))
    return found if isinstance(found, int) and 1 <= found <= 8 else 1  # Pillow ignores text and bytes


def is_decoded_for_orientation(image: Image.Image) -> bool:
    """Whether an image is a PNG with a chunk that can hold EXIF, found only by decoding the pixels."""
    file: BinaryIO | None = getattr(image, "fp", None)
    if image.format != "PNG" or file is None:
        return False
    position = file.tell()
    file.seek(8)
    found = False
    while not found and len(head := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", head)
        found = kind in (b"eXIf", b"tEXt", b"zTXt", b"iTXt")
        file.seek(length + 4, 1)
    file.seek(position)
    return found


def upright(image: Image.Image) -> Image.Image:
    """The image turned by its EXIF orientation alone; the other tags are left behind."""
    method = METHODS.get(orientation(image))
    # Pillow's TIFF reader has turned the pixels already.
    return image if method is None or image.format == "TIFF" else image.transpose(method)


def decoded(path: Path, image: Image.Image, *, turn: bool) -> npt.NDArray[Any]:
    """The intensities of an image ``[H, W, C]``, C 1 or 3, of its own depth.

    RGB, gray and 16-bit RGB are as they are; palettes, CMYK and the rest become uint8 RGB; transparency is
    dropped, not blended.

    Args:
        path: the file.
        image: the same, as :func:`opened` gives it.
        turn: apply the EXIF orientation.
    """
    # Pillow warns about large images again while decoding some formats.
    large = above_pillows_limit(image.width * image.height)
    # Pillow keeps the upper eight of sixteen bits: the lower ones need a second pass.
    modes = _raw_modes(image)
    kind = _other_sixteen_bits(image.mode, modes)
    with pillow_limit_lifted() if large else nullcontext():
        if "LA;16B" in modes:
            return turned(_sixteen_bit_gray(path), orientation(image) if turn else 1)
        if kind is None:
            return channels_of(upright(image) if turn else image)
        found = orientation(image) if turn else 1
        values = channels_of(image).astype(np.uint16)
        image.close()  # its pixels would stay in memory beside those of the second pass
    values <<= 8
    with opened(path) as again, pillow_limit_lifted() if large else nullcontext():
        tiles: Any = again.tile  # type: ignore[attr-defined]
        again.tile = [  # type: ignore[attr-defined]
            tile._replace(args=kind if isinstance(tile.args, str) else (kind, *tile.args[1:]))
            for tile in tiles
        ]
        values |= channels_of(again)
    return turned(values, found)


def channels_of(image: Image.Image) -> npt.NDArray[Any]:
    """The intensities of an image of any mode, as :func:`decoded` returns them."""
    if image.mode == "F" or image.mode.startswith("I"):
        return np.array(image)[:, :, None]
    if image.mode in ("1", "L", "LA"):
        return np.array(image if image.mode == "L" else image.convert("L"))[:, :, None]
    if image.mode in ("P", "PA", "La", "RGBa"):  # Pillow converts these to RGB only via RGBA
        image = image.convert("RGBA")
    return np.array(image if image.mode == "RGB" else image.convert("RGB"))


def _raw_modes(image: Image.Image) -> set[str]:
    """How the pixels lie in the file, in Pillow's words."""
    tiles: Any = getattr(image, "tile", ())
    return {str(args if isinstance(args, str) else args[0]) for *_, args in tiles if args}


def _other_sixteen_bits(mode: str, modes: set[str]) -> str | None:
    """The raw mode in which Pillow reads the lower bytes of 16-bit colours: that of the other byte order."""
    if mode not in ("RGB", "RGBA") or len(modes) != 1:
        return None
    layout, _, order = next(iter(modes)).partition(";16")
    native = "L" if sys.byteorder == "little" else "B"
    other = {"L": "B", "B": "L"}.get(native if order == "N" else order)
    return None if layout not in ("RGB", "RGBA") or other is None else f"{layout};16{other}"


def _sixteen_bit_gray(path: Path) -> npt.NDArray[np.uint16]:
    """Gray ``[H, W, 1]`` of a PNG with 16 bits of gray and of transparency.

    Pillow drops the lower eight bits. The four bytes of a pixel are those of an RGBA image of 8 bits, which
    the header is made to say.
    """
    content = path.read_bytes()
    header = b"IHDR" + content[16:24] + b"\x08\x06" + content[26:29]
    content = content[:12] + header + struct.pack(">I", zlib.crc32(header)) + content[33:]
    with file_errors(path), image_in(io.BytesIO(content), "PNG") as image:
        pair = np.asarray(image)[:, :, :2].astype(np.uint16)
    return pair[:, :, :1] * np.uint16(256) + pair[:, :, 1:]
