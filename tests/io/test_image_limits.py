"""Decoders are chosen by us, and memory is taken for as many pixels as are allowed."""

import io
import re
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

import rcnn
from rcnn.io import images, pillow_files
from rcnn.io.images import ImageError, image_size, read_image, read_mask, read_mask_colours, read_numbers
from rcnn.io.pillow_files import embedded_image, image_in

POSTSCRIPT = (
    b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n"
    b"(left_a_trace) (w) file dup (x) writestring closefile\nshowpage\n"
)
SOURCES = Path(rcnn.__file__).parent
DOORS: dict[str, Callable[[Path], Any]] = {
    "image": read_image,
    "mask": read_mask,
    "mask in colours": read_mask_colours,
    "numbers": read_numbers,
}


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width: int, height: int, *late: bytes) -> bytes:
    """A gray image with one row of pixels, whatever its header says, and chunks behind them."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    row = zlib.compress(bytes(width + 1))
    parts = [chunk(b"IHDR", header), chunk(b"IDAT", row), *late, chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.parametrize("door", [*DOORS, "size"])
@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tif", "a.eps", "a"])
def test_postscript_is_no_image(
    door: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[Any] = []
    monkeypatch.setattr(subprocess, "Popen", lambda *a, **k: started.append(a))
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_bytes(POSTSCRIPT)
    with pytest.raises(ImageError, match="this is not an image of a known format"):
        {**DOORS, "size": image_size}[door](tmp_path / name)
    assert not started
    assert not (tmp_path / "left_a_trace").exists()


@pytest.mark.parametrize("kind", ["DDS", "SGI", "TGA", "PCX", "ICNS", "MSP", "XBM"])
def test_other_decoders_of_pillow_are_not_asked(kind: str, tmp_path: Path) -> None:
    content = io.BytesIO()
    mode = {"MSP": "1", "XBM": "1", "ICNS": "RGBA", "DDS": "RGBA"}.get(kind, "RGB")
    Image.new(mode, (16, 16)).save(content, kind)
    (tmp_path / "a.png").write_bytes(content.getvalue())
    with pytest.raises(ImageError, match="this is not an image of a known format"):
        read_image(tmp_path / "a.png")


@pytest.mark.parametrize("kind", pillow_files.DECODERS)
def test_the_formats_of_the_documentation_are_read(kind: str) -> None:
    content = io.BytesIO()
    Image.new("RGB", (16, 8), (200, 100, 50)).save(content, kind)
    content.seek(0)
    with image_in(content) as image:
        assert image.size == (16, 8)


def test_pillow_opens_images_in_one_place() -> None:
    """Elsewhere it would choose among all its decoders."""
    calls = [
        f"{file.relative_to(SOURCES)}"
        for file in SOURCES.rglob("*.py")
        for _ in re.findall(r"\bImage\.open\(|(?<!Tiff)\bImageFile\.", file.read_text("utf-8"))
    ]
    assert calls == ["io/pillow_files.py"]


@pytest.mark.parametrize("door", DOORS)
def test_pixels_are_counted_before_they_are_decoded(door: str, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(16_000, 16_000))
    with pytest.raises(ImageError, match=r"a\.png: 16000 by 16000 is 256,000,000 pixels, the limit is 200,0"):
        DOORS[door](tmp_path / "a.png")
    assert image_size(tmp_path / "a.png") == (16_000, 16_000)


@pytest.mark.parametrize("kind", [b"tEXt", b"eXIf"])
def test_late_chunks_of_a_large_png_are_not_looked_for(kind: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(16_000, 16_000, chunk(kind, b"Comment\0a")))
    with pytest.raises(ImageError, match="the limit is 200,000,000"):
        image_size(tmp_path / "a.png")


def test_images_in_annotations_are_counted() -> None:
    with pytest.raises(ImageError, match="imageData: 16000 by 16000"):
        embedded_image(png(16_000, 16_000), "imageData")
    with pytest.raises(OSError, match="cannot identify"):
        embedded_image(POSTSCRIPT, "imageData")


def test_channels_are_counted_too(tmp_path: Path) -> None:
    """100 megapixels of 64 channels in doubles are within the limit of pixels, and 48 GiB."""
    tifffile.imwrite(
        tmp_path / "a.tif", np.zeros((8, 8, 64)), planarconfig="contig", photometric="minisblack"
    )
    content = bytearray((tmp_path / "a.tif").read_bytes())
    with tifffile.TiffFile(tmp_path / "a.tif") as tif:
        places = [tif.pages[0].tags[name].valueoffset for name in ("ImageWidth", "ImageLength")]  # type: ignore[union-attr]
    for place in places:
        content[place : place + 4] = struct.pack("<I", 10_000)
    (tmp_path / "a.tif").write_bytes(content)
    with pytest.raises(ImageError, match=r"a plane of 64 channels takes 47\.7 GiB, the limit is 4"):
        read_image(tmp_path / "a.tif")


def test_tiles_are_counted_too(tmp_path: Path) -> None:
    """A tile is decoded whole, also that of an image of 32 by 32 pixels."""
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.zeros((32, 32), np.uint8), tile=(16, 16), compression="zlib")
    content = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as tif:
        place = tif.pages[0].tags["TileLength"].valueoffset  # type: ignore[union-attr]
        kind = "<H" if tif.pages[0].tags["TileLength"].dtype == 3 else "<I"  # type: ignore[union-attr]
    struct.pack_into(kind, content, place, 2 ** (8 * struct.calcsize(kind)) - 1)
    path.write_bytes(content)
    with pytest.raises(ImageError, match=r"a tile of it takes 64\.0 GiB, the limit is 2"):
        read_image(path)


MEASURED = """
import re, sys
from pathlib import Path
from rcnn.io.images import read_image

def resident(what):
    return int(re.search(rf"{what}:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024

read_image(sys.argv[1])  # what is imported and built once
before = resident("VmRSS")
Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
values = read_image(sys.argv[2])
print((resident("VmHWM") - before) / (values.size / 3))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="counts what Linux counts")
def test_colours_of_sixteen_bits_take_at_most_twenty_bytes_per_pixel(tmp_path: Path) -> None:
    for name, side in (("small.png", 20), ("a.png", 2000)):
        values = np.arange(side * side * 3, dtype=np.uint32).astype(np.uint16).reshape(side, side, 3)
        raw = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
        header = struct.pack(">IIBBBBB", side, side, 16, 2, 0, 0, 0)
        parts = [chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(raw, 1)), chunk(b"IEND", b"")]
        (tmp_path / name).write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    command = [sys.executable, "-c", MEASURED, str(tmp_path / "small.png"), str(tmp_path / "a.png")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert 3 < float(done.stdout) <= 20
    decoded = images.read_intensities(tmp_path / "a.png", images.Reading(), images.MAX_PIXELS)[0]
    np.testing.assert_array_equal(decoded, values)
