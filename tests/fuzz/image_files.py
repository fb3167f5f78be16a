"""Image files of every format that is read, as photographs, masks and object numbers."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image

from annotated_images import HEIGHT, WIDTH
from fuzz.seeds import numbers
from rcnn.io.images import image_header, read_image, read_mask, read_numbers
from rcnn.io.pillow_files import DECODERS

SIZE = (HEIGHT, WIDTH)
PIXELS = np.random.default_rng(0).integers(0, 255, (*SIZE, 3), np.uint8)
DEEP = np.random.default_rng(1).integers(0, 2**16, SIZE, np.uint16)


def _exif() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


def _pillow(name: str, mode: str = "RGB", **options: object) -> Callable[[Path], Path]:
    def save(folder: Path) -> Path:
        path = folder / name
        image = Image.fromarray(DEEP) if mode == "I;16" else Image.fromarray(PIXELS).convert(mode)
        image.save(path, **options)  # type: ignore[arg-type]
        return path

    return save


def _tiff(name: str, values: np.ndarray, **options: object) -> Callable[[Path], Path]:
    def save(folder: Path) -> Path:
        tifffile.imwrite(folder / name, values, **options)  # type: ignore[arg-type]
        return folder / name

    return save


def _heic(folder: Path) -> Path:
    from pillow_heif import from_pillow

    from_pillow(Image.fromarray(PIXELS)).save(folder / "a.heic", quality=90)
    return folder / "a.heic"


KINDS: dict[str, Callable[[Path], Path]] = {
    "png": _pillow("a.png", exif=_exif()),
    "png palette": _pillow("a.png", "P"),
    "png 16 bit": _pillow("a.png", "I;16"),
    "png gray alpha": _pillow("a.png", "LA"),
    "jpeg": _pillow("a.jpg", exif=_exif()),
    "jpeg cmyk": _pillow("a.jpg", "CMYK", progressive=True),
    "tiff": _tiff("a.tif", PIXELS, photometric="rgb"),
    "tiff deflated tiles": _tiff(
        "a.tif", PIXELS, photometric="rgb", tile=(16, 16), compression="zlib", predictor=True
    ),
    "tiff ome": _tiff("a.ome.tif", np.stack([DEEP] * 3), metadata={"axes": "CYX"}, photometric="minisblack"),
    "tiff imagej": _tiff("a.tif", DEEP, imagej=True),
    "bigtiff float": _tiff("a.tif", DEEP / np.float32(2**16), bigtiff=True),
    "bmp": _pillow("a.bmp"),
    "webp": _pillow("a.webp"),
    "gif": _pillow("a.gif", "P"),
    "jpeg 2000": _pillow("a.jp2"),
    **({"avif": _pillow("a.avif")} if "AVIF" in DECODERS else {}),
    **({"heic": _heic} if find_spec("pillow_heif") else {}),
    "ppm": _pillow("a.ppm"),
    "pgm": _pillow("a.pgm", "L"),
}
"""Each writes a file into a folder and returns its path."""


def make(folder: Path, save: Callable[[Path], Path]) -> Path:
    return save(folder)


def make_mask(folder: Path) -> Path:
    path = folder / "a.png"
    Image.fromarray(numbers().astype(np.uint16)).save(path)
    return path


def open_whole(path: Path) -> int:
    """Header and pixels agree."""
    header, pixels = image_header(path), read_image(path)
    assert pixels.dtype == np.uint8
    assert pixels.shape == (*header.size, header.channels)
    return pixels.size


def open_mask(path: Path) -> int:
    """The window lies in the mask and is tight."""
    inside, (y, x), size = read_mask(path)
    assert inside.dtype == np.bool_
    assert inside.ndim == 2
    assert y >= 0
    assert x >= 0
    assert (np.add((y, x), inside.shape) <= size).all()
    if inside.size:
        assert all(edge.any() for edge in (inside[0], inside[-1], inside[:, 0], inside[:, -1]))
    return int(inside.sum())


def open_numbers(path: Path) -> int:
    found = read_numbers(path)
    assert found.dtype == np.int64
    assert found.ndim == 2
    return len(np.unique(found)) - 1
