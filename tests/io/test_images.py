"""Every kind of image file arrives as upright uint8 RGB, and every bad one as an error that names it."""

import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rcnn.io.images import ImageError, image_size, read_image, read_mask, read_numbers
from rcnn.io.pillow_files import pillow_limit_lifted
from rcnn.io.reading import Reading

BY_MAXIMUM = Reading(intensity="maximum")
GRADIENT = np.arange(24, dtype=np.uint8).reshape(2, 4, 3) * 10


def saved(folder: Path, image: Image.Image, name: str = "a.png", **options: object) -> Path:
    path = folder / name
    image.save(path, **options)
    return path


def test_rgb_is_read_channels_last(tmp_path: Path) -> None:
    path = saved(tmp_path, Image.fromarray(GRADIENT), "größe und raum 細胞.png")
    image = read_image(path)
    assert image.dtype == np.uint8
    np.testing.assert_array_equal(image, GRADIENT)
    assert image_size(str(path)) == (2, 4)


@pytest.mark.parametrize(
    ("mode", "color", "name", "expected"),
    [
        ("RGBA", (10, 20, 30, 0), "a.png", (10, 20, 30)),  # dropped, not blended with anything
        ("L", 77, "a.png", (77, 77, 77)),
        ("LA", (77, 5), "a.png", (77, 77, 77)),
        ("1", 1, "a.png", (255, 255, 255)),
        ("1", 1, "a.tif", (255, 255, 255)),
        ("CMYK", (255, 0, 0, 0), "a.tif", (0, 255, 255)),
        ("I;16", 65535, "a.png", (255, 255, 255)),
        ("I;16", 4095, "a.tif", (255, 255, 255)),  # a 12-bit camera's white
        ("I;16", 200, "a.tif", (200, 200, 200)),  # 8 bits in a 16-bit file
        ("I", 32768, "a.tif", (128, 128, 128)),
        ("I", 1_000_000, "a.tif", (255, 255, 255)),
        ("F", 0.5, "a.tif", (128, 128, 128)),
        ("F", -3.0, "a.tif", (0, 0, 0)),
    ],
)
def test_modes(
    tmp_path: Path, mode: str, color: float | tuple[int, ...], name: str, expected: tuple[int, int, int]
) -> None:
    image = read_image(saved(tmp_path, Image.new(mode, (3, 2), color), name), reading=BY_MAXIMUM)
    assert image.shape == (2, 3, 3)
    assert tuple(image[1, 2].tolist()) == expected


def test_sixteen_bits_are_scaled_not_saturated(tmp_path: Path) -> None:
    values = np.array([[0, 1000, 2000, 4000]], dtype=np.uint16)  # white is 4095
    image = read_image(saved(tmp_path, Image.fromarray(values), "a.png"), reading=BY_MAXIMUM)
    assert image[0, :, 0].tolist() == [0, 62, 125, 249]


def test_palette_with_partial_transparency_needs_no_warning(tmp_path: Path) -> None:
    image = Image.fromarray(GRADIENT).quantize(8)
    path = saved(tmp_path, image, transparency=bytes(range(8)))
    np.testing.assert_array_equal(read_image(path), GRADIENT)


def test_a_preview_behind_the_image_is_passed_over(tmp_path: Path) -> None:
    first, second = Image.new("L", (9, 9), 5), Image.new("L", (3, 2), 200)
    path = saved(tmp_path, first, "a.tif", save_all=True, append_images=[second])
    assert np.unique(read_image(path)).tolist() == [5]
    assert image_size(path) == (9, 9)


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation(tmp_path: Path, name: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if name.endswith("webp") else {}
    path = saved(tmp_path, Image.fromarray(GRADIENT), name, exif=exif, **options)
    turned = {
        1: GRADIENT,
        2: GRADIENT[:, ::-1],
        3: GRADIENT[::-1, ::-1],
        4: GRADIENT[::-1],
        5: GRADIENT.transpose(1, 0, 2),
        6: np.rot90(GRADIENT, -1),
        7: GRADIENT[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(GRADIENT, 1),
    }[orientation]
    np.testing.assert_array_equal(read_image(path), turned)
    assert image_size(path) == turned.shape[:2]


def test_exif_rotation_of_sixteen_bits(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    values = np.array([[0, 65535]], dtype=np.uint16)
    path = saved(tmp_path, Image.fromarray(values), "a.png", exif=exif)
    assert read_image(path)[..., 0].tolist() == [[0], [255]]
    assert image_size(path) == (2, 1)


def test_png_rotation_that_stands_behind_the_pixels(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    path = saved(tmp_path, Image.fromarray(GRADIENT), exif=exif)
    data = path.read_bytes()
    start = data.index(b"eXIf") - 4
    end = start + 12 + int.from_bytes(data[start : start + 4], "big")
    tail = data.index(b"IEND") - 4
    path.write_bytes(data[:start] + data[end:tail] + data[start:end] + data[tail:])
    assert image_size(path) == (4, 2)
    assert read_image(path).shape == (4, 2, 3)


@pytest.mark.parametrize(("width", "height"), [(1, 1), (10_000, 50), (50, 10_000)])
def test_odd_shapes(tmp_path: Path, width: int, height: int) -> None:
    path = saved(tmp_path, Image.new("RGB", (width, height), (1, 2, 3)))
    assert read_image(path).shape == (height, width, 3)
    assert image_size(path) == (height, width)


def test_the_pixel_limit_is_named(tmp_path: Path) -> None:
    path = saved(tmp_path, Image.new("L", (20, 30)))
    assert read_image(path, max_pixels=600).shape == (30, 20, 3)
    with pytest.raises(ImageError, match=r"a\.png.*600 pixels.*limit is 599"):
        read_image(path, max_pixels=599)


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.gif", "a.webp"])
def test_pillows_own_limit_is_neither_applied_nor_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    path = saved(tmp_path, Image.new("L", (200, 300)), name)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert image_size(path) == (300, 200)
        assert read_image(path).shape == (300, 200, 3)
    assert Image.MAX_IMAGE_PIXELS == 100


@pytest.mark.parametrize("read", [read_image, image_size])
def test_missing_folder_empty_and_foreign(tmp_path: Path, read: object) -> None:
    assert callable(read)
    with pytest.raises(ImageError, match=r"none\.png: there is no such file"):
        read(tmp_path / "none.png")
    with pytest.raises(ImageError, match="this is a folder"):
        read(tmp_path)
    (tmp_path / "empty.jpg").touch()
    with pytest.raises(ImageError, match=r"empty\.jpg: the file is empty"):
        read(tmp_path / "empty.jpg")
    (tmp_path / "text.jpg").write_text("hello, I am no picture")
    with pytest.raises(ImageError, match=r"text\.jpg: this is not an image"):
        read(tmp_path / "text.jpg")


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tif", "a.webp", "a.bmp"])
def test_truncated(tmp_path: Path, name: str) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    path = saved(tmp_path, Image.fromarray(noise), name)
    path.write_bytes(path.read_bytes()[:-3000])
    with pytest.raises(ImageError, match=rf"{name}: "):
        read_image(path)


def sixteen_bits(path: Path, values: np.ndarray) -> Path:
    """A PNG of 16-bit colours, which Pillow cannot write."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    height, width, channels = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, 16, {3: 2, 4: 6}[channels], 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    return path


@pytest.mark.parametrize("channels", [3, 4])
def test_sixteen_bit_colours_are_scaled(tmp_path: Path, channels: int) -> None:
    values = (np.arange(2 * 5 * channels).reshape(2, 5, channels) * 97) % 4096
    values[0, 0, 0] = 4095
    image = read_image(sixteen_bits(tmp_path / "a.png", values), reading=BY_MAXIMUM)
    expected = np.rint(values[..., :3] / 4095 * 255).astype(np.uint8)
    assert image.tolist() == expected.tolist()


def sixteen_bit_tiff(path: Path, values: np.ndarray, compression: int) -> Path:
    """A TIFF of 16-bit colours in strips of one row: 1 as they are, 8 deflated."""
    height, width, channels = values.shape
    rows = [row.astype("<u2").tobytes() for row in values]
    strips = [zlib.compress(row) if compression == 8 else row for row in rows]
    starts = np.cumsum([8, *map(len, strips)]).tolist()
    tables = starts[-1]
    lists = {
        258: struct.pack(f"<{channels}H", *[16] * channels),
        273: struct.pack(f"<{height}I", *starts[:-1]),
        279: struct.pack(f"<{height}I", *map(len, strips)),
    }
    short, long = 3, 4
    entries: list[tuple[int, int, int, int | None]] = [
        (256, short, 1, width), (257, short, 1, height), (258, short, channels, None),
        (259, short, 1, compression), (262, short, 1, 2), (273, long, height, None),
        (277, short, 1, channels), (278, short, 1, 1), (279, long, height, None),
    ]  # fmt: skip
    if channels == 4:
        entries.append((338, short, 1, 2))
    directory = tables + sum(map(len, lists.values()))
    place, body = tables, b""
    for tag, kind, count, value in entries:
        if value is None:
            value, place = place, place + len(lists[tag])
        body += struct.pack("<HHII", tag, kind, count, value)
    header = struct.pack("<2sHI", b"II", 42, directory)
    end = struct.pack("<H", len(entries)) + body + struct.pack("<I", 0)
    path.write_bytes(header + b"".join(strips) + b"".join(lists.values()) + end)
    return path


@pytest.mark.parametrize("compression", [1, 8], ids=["plain", "deflated"])
@pytest.mark.parametrize("channels", [3, 4])
def test_sixteen_bit_colours_of_a_tiff(tmp_path: Path, channels: int, compression: int) -> None:
    values = (np.arange(3 * 5 * channels).reshape(3, 5, channels) * 97) % 4096
    values[0, 0, 0] = 4095
    image = read_image(sixteen_bit_tiff(tmp_path / "a.tif", values, compression), reading=BY_MAXIMUM)
    expected = np.rint(values[..., :3] / 4095 * 255).astype(np.uint8)
    assert image.tolist() == expected.tolist()


@pytest.mark.parametrize("orientation", ["6", b"\x06\x00"])
def test_a_rotation_that_is_no_number(tmp_path: Path, orientation: str | bytes) -> None:
    kind = 2 if isinstance(orientation, str) else 7  # text, or bytes of no type
    value = (orientation.encode() if isinstance(orientation, str) else orientation).ljust(4, b"\0")
    entry = struct.pack("<HHI", 0x0112, kind, 2) + value
    exif = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 1) + entry + struct.pack("<I", 0)
    path = saved(tmp_path, Image.fromarray(GRADIENT), "a.jpg", exif=exif)
    assert image_size(path) == read_image(path).shape[:2]


def test_whole_numbers_in_floats(tmp_path: Path) -> None:
    path = saved(tmp_path, Image.fromarray(np.array([[0, 3], [300, 1]], np.float32)), "a.tif")
    assert read_numbers(path).tolist() == [[0, 3], [300, 1]]
    path = saved(tmp_path, Image.fromarray(np.array([[0.5]], np.float32)), "b.tif")
    with pytest.raises(ImageError, match=r"b\.tif: its pixels are fractions"):
        read_numbers(path)


def test_jpegs_are_masks_by_half_brightness_and_no_numbers(tmp_path: Path) -> None:
    pixels = np.zeros((40, 60), np.uint8)
    pixels[10:30, 20:50] = 255
    path = saved(tmp_path, Image.fromarray(pixels), "mask.jpg", quality=50)
    inside, corner, size = read_mask(path)
    assert (inside.shape, corner, size) == ((20, 30), (10, 20), (40, 60))
    assert inside.all()
    with pytest.raises(ImageError, match=r"mask\.jpg: JPEG compression changes pixel values"):
        read_numbers(path)


def test_the_lifted_limit_is_a_number() -> None:
    """Another thread's crop asks Pillow whether there is a limit, and then multiplies it."""
    with pillow_limit_lifted():
        assert isinstance(Image.MAX_IMAGE_PIXELS, int)
        Image.new("L", (8, 8)).crop((0, 0, 4, 4))
