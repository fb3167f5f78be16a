"""TIFF files of every kind: stored values for masks and numbers, intensities for images, plane by plane."""

import contextlib
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from rcnn.io.images import ImageError, image_header, image_size, read_image, read_mask, read_numbers
from rcnn.io.reading import Reading, reading_as

RNG = np.random.default_rng(0)
LABELS = np.zeros((48, 64), np.int64)
LABELS[6:20, 8:24] = 1
LABELS[22:42, 34:56] = 2
RAMP = (np.arange(48 * 64).reshape(48, 64) * 83 % 256).astype(np.uint8)
COLOURS = np.stack([RAMP, RAMP[::-1], 255 - RAMP], axis=-1)
ALL = Reading(low=0, high=100)  # every value between black and white


def written(path: Path, values: np.ndarray, **options: object) -> Path:
    tifffile.imwrite(path, values, **options)
    return path


WAYS: list[dict[str, object]] = [
    {}, {"photometric": "miniswhite"}, {"compression": "zlib"}, {"compression": "zlib", "predictor": True},
    {"tile": (16, 16)}, {"bigtiff": True}, {"byteorder": ">"}, {"rowsperstrip": 7},
]  # fmt: skip


@pytest.mark.parametrize("options", WAYS, ids=str)
@pytest.mark.parametrize("kind", ["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8"])
def test_numbers_are_the_stored_values(tmp_path: Path, kind: str, options: dict[str, object]) -> None:
    if "predictor" in options and kind not in ("u1", "u2", "u4", "i2"):
        options = {"compression": "zlib"}
    path = written(tmp_path / "a.tif", LABELS.astype(kind), **options)
    np.testing.assert_array_equal(read_numbers(path), LABELS)
    patch, origin, size = read_mask(path)
    assert (origin, size) == ((6, 8), (48, 64))
    np.testing.assert_array_equal(patch, LABELS[6:42, 8:56] > 0)


def test_booleans_are_what_was_written_though_tifffile_calls_them_white_is_zero(tmp_path: Path) -> None:
    path = written(tmp_path / "a.tif", LABELS > 0)
    np.testing.assert_array_equal(read_numbers(path), LABELS > 0)


@pytest.mark.parametrize("bits", ["1", "L"])
def test_white_is_zero_is_inverted_in_images_alone(tmp_path: Path, bits: str) -> None:
    inside = LABELS > 0
    values = inside if bits == "1" else inside.astype(np.uint8) * 255
    path = written(tmp_path / "a.tif", values, photometric="miniswhite")
    np.testing.assert_array_equal(read_image(path)[..., 0], np.where(inside, 0, 255))
    assert read_mask(path)[0].sum() == inside.sum()


def test_palettes_are_numbers_or_colours(tmp_path: Path) -> None:
    colormap = np.zeros((3, 256), np.uint16)
    colormap[:, 1], colormap[:, 2] = (65535, 0, 0), (0, 65535, 257)
    path = written(tmp_path / "a.tif", LABELS.astype(np.uint8), photometric="palette", colormap=colormap)
    np.testing.assert_array_equal(read_numbers(path), LABELS)
    assert read_image(path)[10, 10].tolist() == [255, 0, 0]
    assert read_image(path)[30, 40].tolist() == [0, 255, 1]


@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("compression", [None, "zlib", "lzw", "zstd", "packbits"])
@pytest.mark.parametrize("kind", ["u1", "u2", "f4", "f8"])
def test_colours(tmp_path: Path, kind: str, compression: str | None, planar: str) -> None:
    factor = {"u1": 1, "u2": 257, "f4": 1 / 255, "f8": 1 / 255}[kind]
    values = (COLOURS.astype(float) * factor).astype(kind)
    path = written(
        tmp_path / "a.tif", values.transpose(2, 0, 1) if planar == "separate" else values,
        photometric="rgb", planarconfig=planar, compression=compression,
    )  # fmt: skip
    np.testing.assert_array_equal(read_image(path, reading=ALL), COLOURS)
    assert image_header(path) == image_header(path, ALL)
    assert (image_size(path), image_header(path).channels, image_header(path).taken) == ((48, 64), 3, "")


@pytest.mark.parametrize("kind", [0, 1, 2], ids=["unspecified", "associated", "unassociated"])
def test_a_fourth_channel_is_dropped_only_if_it_is_transparency(tmp_path: Path, kind: int) -> None:
    values = np.concatenate([COLOURS, RAMP.T.reshape(48, 64, 1)], axis=-1)
    path = written(tmp_path / "a.tif", values, photometric="rgb", extrasamples=[kind])
    expected = values if kind == 0 else COLOURS
    np.testing.assert_array_equal(read_image(path), expected)
    assert image_header(path).channels == expected.shape[2]
    assert image_header(path).has_alpha == (kind != 0)
    np.testing.assert_array_equal(read_image(path, reading=Reading(channels=(0, 1, 2, 3))), values)
    np.testing.assert_array_equal(read_image(path, reading=Reading(channels=(3, 1))), values[..., [3, 1]])


@pytest.mark.parametrize("planar", ["contig", "separate", "not said"])
@pytest.mark.parametrize("count", [2, 5, 7])
def test_any_number_of_channels(tmp_path: Path, count: int, planar: str) -> None:
    values = RNG.integers(0, 256, (48, 64, count)).astype(np.uint8)
    options: dict[str, object] = {"photometric": "minisblack"}
    if planar != "not said":
        options["planarconfig"] = planar
    path = written(
        tmp_path / "a.tif", values.transpose(2, 0, 1).copy() if planar == "separate" else values, **options
    )
    np.testing.assert_array_equal(read_image(path), values)
    assert image_header(path).channels == count
    assert str(count) in image_header(path).taken


def test_another_number_of_channels_than_the_model_takes(tmp_path: Path) -> None:
    path = written(tmp_path / "a.tif", np.zeros((20, 20, 5), np.uint8), photometric="minisblack",
                   planarconfig="contig")  # fmt: skip
    with pytest.raises(ImageError, match=r"a\.tif: it has 5 channels, and the model takes 3.*--channels"):
        read_image(path, channels=3)
    with pytest.raises(ImageError, match=r"a\.tif: it has 5 channels, .*no channel 5"):
        read_image(path, reading=Reading(channels=(0, 5)))


STACK = np.stack([LABELS * factor for factor in (0, 1, 3, 2)]).astype(np.uint8)


@pytest.mark.parametrize(
    "written_as", ["pages", "imagej", "ome", "compressed", "one piece", "pillow", "appended"]
)
def test_stacks_are_refused_until_a_plane_is_chosen(tmp_path: Path, written_as: str) -> None:
    path = tmp_path / ("a.ome.tif" if written_as == "ome" else "a.tif")
    if written_as == "pillow":
        first, *rest = map(Image.fromarray, STACK)
        first.save(path, save_all=True, append_images=rest)
    elif written_as == "appended":
        for page in STACK:
            tifffile.imwrite(path, page, append=path.exists())
    else:
        axes = {"axes": "ZYX"}
        options: dict[str, dict[str, object]] = {
            "imagej": {"imagej": True, "metadata": axes}, "ome": {"ome": True, "metadata": axes},
            "compressed": {"compression": "zlib"}, "one piece": {"truncate": True},
        }  # fmt: skip
        tifffile.imwrite(path, STACK, **{"photometric": "minisblack", **options.get(written_as, {})})
    for read in (read_image, read_mask, read_numbers, image_size):
        with pytest.raises(ImageError, match=r"a stack of 4 .* 64 by 48 pixels.*--plane 0 to 3.*--plane max"):
            read(path)
    for plane in range(4):
        with reading_as(Reading(plane=plane)):
            np.testing.assert_array_equal(read_numbers(path), STACK[plane])
            np.testing.assert_array_equal(read_image(path)[..., 0], STACK[plane])
    with reading_as(Reading(plane="max")):
        np.testing.assert_array_equal(read_numbers(path), STACK[2])
    mean = read_image(path, reading=Reading(plane="mean"))[..., 0]
    np.testing.assert_array_equal(mean, np.rint(STACK.mean(0)).astype(np.uint8))
    with pytest.raises(ImageError, match="there is no plane 4; it has 4, numbered from 0"):
        image_size(path, Reading(plane=4))
    with reading_as(Reading(plane="mean")), pytest.raises(ImageError, match="object numbers have no mean"):
        read_numbers(path)


def test_a_stack_of_label_images_may_be_called_channels(tmp_path: Path) -> None:
    path = written(tmp_path / "a.tif", STACK, imagej=True)  # tifffile takes the first axis for C
    with pytest.raises(ImageError, match=r"a stack of 4 pages, .*--plane 0 to 3"):
        read_numbers(path)
    with reading_as(Reading(plane=2)):
        np.testing.assert_array_equal(read_numbers(path), STACK[2])


def test_unnamed_pages_can_be_channels(tmp_path: Path) -> None:
    path = written(tmp_path / "a.tif", STACK, photometric="minisblack")
    reading = Reading(channels=(3, 1))
    np.testing.assert_array_equal(read_image(path, reading=reading), STACK[[3, 1]].transpose(1, 2, 0))
    assert image_header(path, reading).channels == 2
    assert image_header(path, reading).taken == "pages 3, 1 of 4 as channels"


@pytest.mark.parametrize("order", ["TZCYX", "ZTCYX", "CTZYX"])
@pytest.mark.parametrize("options", [{}, {"compression": "zlib"}], ids=["plain", "deflated"])
def test_hyperstacks(tmp_path: Path, order: str, options: dict[str, object]) -> None:
    sizes = {"T": 2, "Z": 3, "C": 4, "Y": 20, "X": 30}
    values = RNG.integers(0, 256, [sizes[axis] for axis in order]).astype(np.uint8)
    path = written(tmp_path / "a.ome.tif", values, ome=True, metadata={"axes": order}, **options)
    moved = np.moveaxis(values, order.index("C"), -1).reshape(6, 20, 30, 4)
    for plane in range(6):
        np.testing.assert_array_equal(read_image(path, reading=Reading(plane=plane)), moved[plane])
    projected = read_image(path, reading=Reading(plane="max", channels=(2, 0)))
    np.testing.assert_array_equal(projected, moved.max(0)[..., [2, 0]])
    assert "channels 0, 1, 2, 3 of 4" in image_header(path, Reading(plane=1)).taken


@pytest.mark.parametrize("kind", ["imagej", "ome"])
def test_composites_have_their_channels(tmp_path: Path, kind: str) -> None:
    values = RNG.integers(0, 60_000, (3, 20, 30)).astype(np.uint16)
    path = written(tmp_path / "a.tif", values, **{kind: True}, metadata={"axes": "CYX"})
    low, high = values.min((1, 2)), values.max((1, 2))
    expected = np.rint((values.transpose(1, 2, 0) - low) / (high - low).astype(float) * 255)
    np.testing.assert_array_equal(read_image(path, reading=ALL), expected)
    assert image_header(path).taken == "channels 0, 1, 2 of 3"


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("compression", [None, "jpeg"])
def test_orientation(tmp_path: Path, orientation: int, compression: str | None) -> None:
    smooth = np.linspace(0, 255, 48 * 64).reshape(48, 64).astype(np.uint8)
    path = written(
        tmp_path / "a.tif", smooth, compression=compression, extratags=[(274, 3, 1, orientation, True)]
    )
    stored = read_image(path, reading=Reading(exif="stored"))[..., 0]
    assert np.abs(stored.astype(int) - smooth).max() <= 3
    expected = {
        1: stored, 2: stored[:, ::-1], 3: stored[::-1, ::-1], 4: stored[::-1], 5: stored.T,
        6: np.rot90(stored, -1), 7: stored[::-1, ::-1].T, 8: np.rot90(stored),
    }[orientation]  # fmt: skip
    np.testing.assert_array_equal(read_image(path)[..., 0], expected)
    assert image_size(path) == expected.shape
    if compression is None:
        np.testing.assert_array_equal(read_numbers(path), expected)


@pytest.mark.parametrize(
    ("mode", "compression"),
    [(mode, compression)
     for mode in ("1", "L", "I;16", "I", "F", "RGB", "RGBA", "CMYK", "P")
     for compression in ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits", "lzma", "zstd")]
    + [("1", "group3"), ("1", "group4"), ("1", "tiff_ccitt"), ("L", "jpeg"),
       ("RGB", "jpeg"), ("CMYK", "jpeg"), ("LAB", "raw"), ("YCbCr", "raw"), ("LA", "tiff_lzw")],
)  # fmt: skip
def test_what_pillow_writes_is_read_as_by_pillow(tmp_path: Path, mode: str, compression: str) -> None:
    values = RAMP if mode in ("1", "L", "P", "LA") else COLOURS
    if mode in ("I;16", "I", "F"):
        image = Image.fromarray(RAMP.astype({"I;16": "u2", "I": "i4", "F": "f4"}[mode]))
    else:
        source = Image.fromarray(values)
        image = source.convert("P") if mode == "P" else source.convert(mode)
    path = tmp_path / "a.tif"
    image.save(path, compression=compression)
    with Image.open(path) as again:
        deep = mode in ("I;16", "I", "F")
        expected = np.asarray(again).astype(np.uint8) if deep else np.asarray(again.convert("RGB"))
    found = read_image(path, reading=ALL)
    np.testing.assert_array_equal(found if not deep else found[..., 0], expected)
    if mode in ("1", "L", "I;16", "I", "F", "P") and compression != "jpeg":
        np.testing.assert_array_equal(read_numbers(path), np.asarray(image))


def test_jpeg_compression_is_refused_for_numbers(tmp_path: Path) -> None:
    path = written(tmp_path / "a.tif", RAMP, compression="jpeg")
    with pytest.raises(ImageError, match=r"a\.tif: JPEG compression changes pixel values"):
        read_numbers(path)


def test_colours_and_fractions_are_no_numbers(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"its pixels are colours \(3 channels\)"):
        read_numbers(written(tmp_path / "a.tif", COLOURS, photometric="rgb"))
    with pytest.raises(ImageError, match="its pixels are fractions"):
        read_numbers(written(tmp_path / "b.tif", LABELS / 2))
    with pytest.raises(ImageError, match="no object numbers"):
        read_numbers(written(tmp_path / "c.tif", np.full((9, 9), 2**63, np.uint64)))


def test_one_plane_of_a_stack_takes_the_memory_of_one(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as tif:
        for _ in range(60):
            tif.write(RNG.integers(0, 4096, (512, 512)).astype(np.uint16), contiguous=True)
    one = 512 * 512 * 2
    image_size(path, Reading(plane=0))  # imports
    for plane, factor in ((30, 12), ("max", 12)):
        tracemalloc.start()
        read_image(path, reading=Reading(plane=plane))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < factor * one


@pytest.mark.parametrize("cut", [4, 100, 250, 300, 1000])
def test_truncated_files_are_named(tmp_path: Path, cut: int) -> None:
    path = written(tmp_path / "a.tif", RAMP)
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(ImageError, match=r"a\.tif"):
        read_image(path)


def test_damaged_bytes_never_raise_anything_else(tmp_path: Path) -> None:
    path = written(tmp_path / "a.tif", COLOURS, photometric="rgb", compression="zlib")
    content = path.read_bytes()
    for _ in range(200):
        damaged = bytearray(content)
        for place in RNG.integers(0, len(content), 3):
            damaged[place] = RNG.integers(256)
        path.write_bytes(damaged)
        with contextlib.suppress(ImageError):
            read_image(path, max_pixels=100_000)


WITHOUT_CODECS = """
import sys
sys.modules["imagecodecs"] = None
import numpy as np
from rcnn.io.images import ImageError, read_image, read_numbers
from rcnn.io.reading import Reading
for name in sys.argv[1:]:
    try:
        whole = Reading(low=0, high=100)
        values = read_numbers(name) if "numbers" in name else read_image(name, reading=whole)
        print(int(values.astype(np.int64).sum()))
    except ImageError as error:
        print(error)
"""


def test_without_imagecodecs_pillow_decodes_and_the_rest_is_named(tmp_path: Path) -> None:
    files, expected = [], []
    for compression in ("lzw", "zstd", "zlib", "packbits"):
        for kind in ("u1", "u2", "u4", "i2"):
            files.append(written(tmp_path / f"numbers_{compression}_{kind}.tif", LABELS.astype(kind),
                                 compression=compression, predictor=compression != "packbits"))  # fmt: skip
            expected.append(str(LABELS.sum()))
        white = tmp_path / f"numbers_white_{compression}.tif"
        files.append(written(white, LABELS.astype("u1"), compression=compression, photometric="miniswhite"))
        expected.append(str(LABELS.sum()))
        rgb = tmp_path / f"rgb_{compression}.tif"
        files.append(written(rgb, COLOURS, compression=compression, photometric="rgb"))
        expected.append(str(COLOURS.astype(int).sum()))
    files.append(written(tmp_path / "numbers_bool.tif", LABELS > 0, compression="lzw"))
    expected.append(str((LABELS > 0).sum()))
    files.append(written(tmp_path / "numbers_i8.tif", LABELS, compression="lzw"))
    expected.append(f"{files[-1]}: LZW compression of 1 x 64 bits needs imagecodecs: pip install")
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_CODECS, *map(str, files)], capture_output=True, text=True
    )
    found = done.stdout.splitlines()
    assert len(found) == len(expected), done.stderr
    for file, line, wanted in zip(files, found, expected, strict=True):
        assert line.startswith(wanted), (file.name, line)
