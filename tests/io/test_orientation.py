"""EXIF turns images by the orientation alone; other blocks may be damaged in any way."""

import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rcnn.io.images import ImageError, image_header, image_size, read_image
from rcnn.io.orientation import exif_orientation, turned, turned_size, unturned
from rcnn.io.reading import Reading

PIXELS = (np.arange(40 * 60 * 3).reshape(40, 60, 3) % 251).astype(np.uint8)


def exif_block(orientation: int, order: str = ">") -> bytes:
    """An EXIF block with a GPS block in which text stands where a fraction belongs."""
    mark = b"MM\0*" if order == ">" else b"II*\0"
    gps = struct.pack(f"{order}HHHIII", 1, 31, 2, 5, 56, 0)
    return (
        mark
        + struct.pack(f"{order}IH", 8, 2)
        + struct.pack(f"{order}HHIHH", 274, 3, 1, orientation, 0)
        + struct.pack(f"{order}HHII", 0x8825, 4, 1, 38)
        + struct.pack(f"{order}I", 0)
        + gps
        + b"65/1\0"
    )


@pytest.mark.parametrize("orientation", range(1, 9))
def test_turning_has_an_inverse(orientation: int) -> None:
    upright = turned(PIXELS, orientation)
    assert upright.shape[:2] == turned_size((40, 60), orientation)
    np.testing.assert_array_equal(unturned(upright, orientation), PIXELS)


@pytest.mark.parametrize("order", [">", "<"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_photographs_with_a_damaged_gps_block(tmp_path: Path, orientation: int, order: str) -> None:
    block = exif_block(orientation, order)
    assert exif_orientation(block) == orientation
    path = tmp_path / "a.jpg"
    Image.fromarray(PIXELS).save(path, exif=b"Exif\0\0" + block)
    stored = read_image(path, reading=Reading(exif="stored"))
    np.testing.assert_array_equal(read_image(path), turned(stored, orientation))
    assert image_size(path) == turned_size((40, 60), orientation)
    assert image_size(path, Reading(exif="stored")) == (40, 60)
    assert image_header(path).orientation == orientation


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's own about the block
@pytest.mark.parametrize("ending", ["jpg", "png", "webp"])
def test_exif_damaged_anywhere_is_never_the_end_of_the_process(tmp_path: Path, ending: str) -> None:
    rng = np.random.default_rng(0)
    path = tmp_path / f"a.{ending}"
    for _ in range(100):
        block = bytearray(exif_block(6))
        for place in rng.integers(8, len(block), 4):
            block[place] = rng.integers(256)
        Image.fromarray(PIXELS).save(path, exif=b"Exif\0\0" + bytes(block[: rng.integers(8, len(block))]))
        assert sorted(read_image(path).shape) == [3, 40, 60]


def test_whatever_a_decoder_raises_is_an_error_of_the_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise KeyError("anything")

    path = tmp_path / "a.png"
    Image.fromarray(PIXELS).convert("P").save(path)
    monkeypatch.setattr(Image.Image, "convert", fail)
    with pytest.raises(ImageError, match=r"a\.png: the image is truncated or damaged \('anything'\)"):
        read_image(path)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "the file is empty"),
        (b"<html>404</html>", "an HTML page"),
        (b"\0" * 128 + b"DICM", "a DICOM file"),
        (b"version https://git-lfs.github.com/spec/v1", "git lfs pull"),
        (b"\0\0\0\x18ftypheic", "HEIC"),
        (b"anything", "not an image of a known format"),
    ],
)
def test_other_files_are_named(tmp_path: Path, content: bytes, what: str) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(content)
    with pytest.raises(ImageError, match=rf"a\.jpg: .*{what}"):
        read_image(path)


def test_gray_with_transparency_has_all_sixteen_bits(tmp_path: Path) -> None:
    import zlib

    gray = (np.arange(4 * 5).reshape(4, 5) * 113).astype(">u2")  # 12 bits
    rows = np.stack([gray, np.full_like(gray, 65535)], axis=-1).astype(">u2")
    lines = b"".join(b"\0" + row.tobytes() for row in rows)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 5, 4, 16, 4, 0, 0, 0)
    path = tmp_path / "a.png"
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(lines))
        + chunk(b"IEND", b"")
    )
    found = read_image(path, reading=Reading(low=0, high=100))
    np.testing.assert_array_equal(found[..., 1], np.rint(gray / gray.max() * 255))
