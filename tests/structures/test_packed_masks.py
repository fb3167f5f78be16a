"""Masks held as run-length codes: everything that plain masks give, without their pixels."""

import pickle
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from pycocotools import mask as coco_mask

from rcnn.structures import Masks, PackedMasks
from rcnn.structures.run_lengths import areas_of, from_text, run_lengths, to_text

SIZE = (23, 31)


def bitmaps(kind: str) -> np.ndarray:
    """Bool ``[N, H, W]``."""
    rng = np.random.default_rng(3)
    made = rng.random((7, *SIZE)) > np.linspace(0.02, 0.98, 7)[:, None, None]
    if kind == "blobs":
        y, x = np.mgrid[: SIZE[0], : SIZE[1]]
        centres = rng.random((7, 2)) * SIZE
        made = np.stack([(y - cy) ** 2 + (x - cx) ** 2 < 30 for cy, cx in centres])
    if kind == "gaps":
        made[[0, 3, 6]] = False
    if kind == "whole":
        made[:] = True
    return made[:0] if kind == "none" else made


@pytest.fixture(params=["noise", "blobs", "gaps", "whole", "none"])
def masks(request: pytest.FixtureRequest) -> Masks:
    return Masks.from_dense(bitmaps(request.param))


def same(found: Masks, expected: Masks) -> None:
    assert isinstance(found, PackedMasks)
    assert len(found) == len(expected)
    assert found.size == expected.size
    assert_array_equal(found.windows, expected.windows)
    assert_array_equal(found.pixels, expected.pixels)


def test_packing_keeps_every_pixel_and_window(masks: Masks) -> None:
    same(masks.packed(), masks)
    assert masks.packed().packed() is not None
    for one, other in zip(masks.packed().patches(), masks.patches(), strict=True):
        assert one.dtype == np.uint8
        assert one.flags.c_contiguous
        assert_array_equal(one, other)


@pytest.mark.parametrize(
    "window", [(0, 0, 31, 23), (3, 2, 9, 23), (3, 0, 9, 5), (4, 4, 4, 9), (4, 9, 8, 9), (30, 22, 31, 23)]
)
def test_windows_of_any_place_are_kept(window: tuple[int, int, int, int]) -> None:
    x1, y1, x2, y2 = window
    pixels = (np.random.default_rng(0).random((y2 - y1) * (x2 - x1)) < 0.6).astype(np.uint8)
    windows = np.array([window, (0, 0, 1, 1), window], np.int64)
    masks = Masks(np.concatenate([pixels, np.ones(1, np.uint8), pixels]), windows, SIZE)
    same(masks.packed(), masks)
    assert_array_equal(masks.packed().dense(), masks.dense())


def test_codes_are_pycocotools(masks: Masks) -> None:
    expected = [coco_mask.encode(np.asfortranarray(one.astype(np.uint8))) for one in masks.dense()]
    assert [code["counts"] for code in masks.rle()] == [code["counts"].decode() for code in expected]
    assert masks.packed().rle() == masks.rle()


def test_measures_are_those_of_plain_masks(masks: Masks) -> None:
    packed = masks.packed()
    for name in ("areas", "boxes", "centroids", "dense"):
        found, expected = getattr(packed, name)(), getattr(masks, name)()
        assert found.dtype == expected.dtype
        assert_array_equal(found, expected)
    assert_array_equal(packed.window_areas, masks.window_areas)
    assert packed.shape == masks.shape


@pytest.mark.parametrize(
    "index",
    [slice(None), slice(5, 1, -2), [6, 0, 0], np.array([True, False] * 3 + [True]), [], -1, np.int64(2)],
)
@pytest.mark.parametrize("kind", ["noise", "gaps"])
def test_indexing(kind: str, index: Any) -> None:
    masks = Masks.from_dense(bitmaps(kind))
    found, expected = masks.packed()[index], masks[index]
    if isinstance(expected, Masks):
        same(found, expected)
    else:
        assert_array_equal(found, expected)


def test_parts_and_unions(masks: Masks) -> None:
    packed = masks.packed()
    same(PackedMasks.concatenate([packed, masks], SIZE), Masks.concatenate([masks, masks], SIZE))
    same(PackedMasks.concatenate([], SIZE), Masks.empty(SIZE))
    owner = np.arange(len(masks)) % 3
    assert_array_equal(packed.united(owner, 3).dense(), masks.united(owner, 3).dense())


def test_what_makes_masks_makes_packed_ones(masks: Masks) -> None:
    lists = [{"size": list(SIZE), "counts": coco_lengths(one)} for one in masks.dense()]
    for codes in (masks.rle(), lists):
        assert_array_equal(PackedMasks.from_rle(codes, SIZE).dense(), masks.dense())
        assert_array_equal(PackedMasks.from_outlines(codes, SIZE).dense(), masks.dense())
    same(PackedMasks.from_dense(masks.dense()), Masks.from_dense(masks.dense()))
    same(PackedMasks.empty(SIZE), Masks.empty(SIZE))
    outlines = [*masks.rle(), [np.array([[2.0, 3], [12, 3], [12, 9], [2, 9]])]]
    same(PackedMasks.from_outlines(outlines, SIZE), Masks.from_outlines(outlines, SIZE))


def coco_lengths(bitmap: np.ndarray) -> list[int]:
    """The run lengths of a bitmap, one pixel after the other."""
    lengths, value = [0], False
    for pixel in bitmap.T.reshape(-1).tolist():
        if pixel != value:
            lengths.append(0)
            value = pixel
        lengths[-1] += 1
    return lengths


def test_run_lengths_are_counted(masks: Masks) -> None:
    lengths, ends = run_lengths(masks.patches(), masks.windows, masks.size)
    found = [part.tolist() for part in np.split(lengths, ends)[: len(masks)]]
    assert found == [coco_lengths(one) for one in masks.dense()]
    assert_array_equal(areas_of(lengths, ends), masks.areas())


def test_text_inverts_whatever_the_lengths() -> None:
    rng = np.random.default_rng(1)
    counts = rng.integers(1, 9, 200)
    lengths = (2 ** rng.uniform(0, 33, counts.sum())).astype(np.int64) - 1
    text, ends = to_text(lengths, counts.cumsum())
    back, back_ends = from_text(text, ends)
    assert_array_equal(back, lengths)
    assert_array_equal(back_ends, counts.cumsum())


def test_codes_with_empty_runs_are_drawn() -> None:
    code = {"size": [2, 3], "counts": [1, 2, 0, 1, 2]}
    assert_array_equal(PackedMasks.from_rle([code], (2, 3)).dense()[0], [[0, 1, 0], [1, 1, 0]])


def test_a_pickle_holds_the_codes_alone(masks: Masks) -> None:
    both = PackedMasks.concatenate([masks, masks], SIZE)
    same(pickle.loads(pickle.dumps(both[len(masks) :])), masks)


def test_they_are_small() -> None:
    y, x = np.mgrid[:480, :640]
    disks = np.stack([(y - 240) ** 2 + (x - 320) ** 2 < r**2 for r in range(40, 200, 40)])
    packed = Masks.from_dense(disks).packed()
    held = sum(value.nbytes for value in vars(packed).values() if isinstance(value, np.ndarray))
    assert held < 4000
    assert "pixels" not in vars(packed)
    assert repr(packed) == f"PackedMasks(4 masks of (480, 640), {packed.text.nbytes} bytes)"
