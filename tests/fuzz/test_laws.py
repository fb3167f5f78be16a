"""Laws that hold for any input, tried on inputs that hypothesis makes: always the same ones."""

import tempfile
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from torch.testing import assert_close

from rcnn.config import build_settings, to_plain
from rcnn.data.adapters import from_items
from rcnn.data.convert import convert
from rcnn.data.dataset import Dataset, Sample
from rcnn.data.external_proposals import read_proposals, write_proposals
from rcnn.data.formats.brush_code import brush_alpha, brush_code
from rcnn.data.formats.open import open_data
from rcnn.data.formats.registry import writable
from rcnn.data.geometry import View
from rcnn.inference.tiles import make_tiles
from rcnn.io.orientation import turned, turned_size, unturned
from rcnn.ops import boxes as box_ops
from rcnn.structures import Instances, Masks, Skeleton
from rcnn.structures.outlines import complete_polygons
from rcnn.transform import Transform

LAW = settings(derandomize=True, deadline=None, max_examples=60, database=None)
FEW = settings(derandomize=True, deadline=None, max_examples=8, database=None)
COORDINATES = st.floats(0, 2000, width=32, allow_subnormal=False)
SIDES = st.floats(0.5, 1000, width=32)
NAMED = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=9)
SIZES = st.tuples(st.integers(1, 40), st.integers(1, 40))


@st.composite
def some_boxes(draw: Any, count: int = 5) -> torch.Tensor:
    rows = [draw(st.tuples(COORDINATES, COORDINATES, SIDES, SIDES)) for _ in range(count)]
    x, y, width, height = torch.tensor(rows, dtype=torch.float64).T
    return torch.stack([x, y, x + width, y + height], 1)


@st.composite
def bitmaps(draw: Any) -> np.ndarray:
    """Up to three masks ``[N, H, W]`` of any form: empty ones, with holes, parts that touch at a corner."""
    height, width = draw(SIZES)
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    fullness = draw(st.sampled_from((0.0, 0.1, 0.5, 0.9, 1.0)))
    return rng.random((draw(st.integers(0, 3)), height, width)) < fullness


# Boxes


@LAW
@given(some_boxes(), some_boxes(), st.tuples(*[st.floats(0.5, 20)] * 4))
def test_decode_inverts_encode(boxes: torch.Tensor, anchors: torch.Tensor, weights: Any) -> None:
    grown = (boxes[:, 2:] - boxes[:, :2]) / (anchors[:, 2:] - anchors[:, :2])
    assume(bool((grown.log() < box_ops.MAX_LOG_SIZE).all()))
    deltas = box_ops.encode(boxes, anchors, weights)
    assert_close(box_ops.decode(deltas[:, None], anchors, weights)[:, 0], boxes, rtol=1e-9, atol=1e-6)


@LAW
@given(some_boxes(), some_boxes())
def test_overlaps_are_symmetric_and_bounded(first: torch.Tensor, second: torch.Tensor) -> None:
    overlap = box_ops.iou(first, second)
    assert_close(overlap, box_ops.iou(second, first).T)
    assert ((overlap >= 0) & (overlap <= 1)).all()
    assert_close(box_ops.iou(first, first).diagonal(), torch.ones(len(first), dtype=first.dtype))


@LAW
@given(some_boxes(count=12), st.integers(0, 9), st.floats(0, 1))
def test_suppression_keeps_the_best_and_those_apart(boxes: torch.Tensor, seed: int, limit: float) -> None:
    rng = torch.Generator().manual_seed(seed)
    groups = torch.randint(0, 2, (len(boxes),), generator=rng)
    scores = torch.rand(len(boxes), generator=rng)
    kept = box_ops.nms(boxes.float(), scores, groups, limit)
    assert int(scores.argmax()) in kept.tolist()
    same = groups[kept][:, None] == groups[kept][None]
    overlap = box_ops.iou(boxes.float()[kept], boxes.float()[kept]).fill_diagonal_(0)
    assert (overlap[same] <= limit + 1e-5).all()


# Masks


@LAW
@given(bitmaps())
def test_masks_run_lengths_and_pixels_are_the_same(dense: np.ndarray) -> None:
    masks = Masks.from_dense(dense)
    assert_array_equal(masks.dense(), dense)
    assert_array_equal(Masks.from_rle(masks.rle(), masks.size).dense(), dense)
    assert_array_equal(masks.areas(), dense.sum((1, 2)))


@LAW
@given(bitmaps())
def test_polygons_give_masks_back(dense: np.ndarray) -> None:
    full = dense[dense.any((1, 2))]
    outlines = [complete_polygons(mask, (0, 0)) for mask in full]
    assert_array_equal(Masks.from_outlines(outlines, dense.shape[1:]).dense(), full)


@LAW
@given(bitmaps())
def test_brush_codes_give_masks_back(dense: np.ndarray) -> None:
    for mask in dense:
        assert_array_equal(brush_alpha(brush_code(mask), mask.shape) > 0, mask)


# Transforms


@st.composite
def views(draw: Any) -> tuple[View, View]:
    """A view of a whole image in its own size, in any orientation, and the one that undoes it."""
    height, width = draw(SIZES)
    swap, x, y = draw(st.tuples(st.booleans(), st.booleans(), st.booleans()))
    view = View((0, 0, width, height), (height, width), swap, x, y)
    undone = (swap, y, x) if swap else (swap, x, y)
    h, w = view.size
    return view, View((0, 0, w, h), (h, w), *undone)


@LAW
@given(views(), st.integers(0, 2**32))
def test_orientations_have_inverses(pair: tuple[View, View], seed: int) -> None:
    view, back = pair
    height, width = view.resized
    rng = np.random.default_rng(seed)
    image = torch.from_numpy(rng.random((3, height, width)).astype(np.float32))
    assert_close(back.image(view.image(image)), image)
    classes = torch.from_numpy(rng.integers(0, 9, (height, width)))
    assert_close(back.semantic(view.semantic(classes)), classes)
    corners = np.sort(rng.random((4, 2, 2)), 1) * [width, height]
    boxes = torch.from_numpy(corners.reshape(4, 4))
    assert_close(back.boxes(view.boxes(boxes)), boxes)
    points = torch.cat([boxes.reshape(4, 2, 2), torch.full((4, 2, 1), 2.0)], -1)
    assert_close(back.keypoints(view.keypoints(points)), points)


@LAW
@given(SIZES, st.integers(1, 8))
def test_exif_orientations_have_inverses(size: tuple[int, int], orientation: int) -> None:
    values = np.arange(size[0] * size[1]).reshape(size)
    assert turned(values, orientation).shape == turned_size(size, orientation)
    assert_array_equal(unturned(turned(values, orientation), orientation), values)


@LAW
@given(st.tuples(st.integers(1, 3000), st.integers(1, 3000)), st.integers(16, 2000), st.integers(16, 3000))
def test_resizing_keeps_sides_and_their_limit(size: tuple[int, int], short: int, longest: int) -> None:
    transform = Transform(short_side=short, max_long_side=longest)
    height, width = transform.resized(size)
    assert min(height, width) <= short
    assert max(height, width) <= max(longest, 1)
    factor = Fraction(transform.factor(size))
    for old, new in zip(size, (height, width), strict=True):
        assert new == 1 or abs(old * factor - new) < 1 + Fraction(transform.margin)
    assert all(side % transform.size_divisor == 0 for side in transform.padded((height, width)))


@LAW
@given(st.tuples(st.integers(1, 300), st.integers(1, 300)), st.integers(8, 100), st.data())
def test_tiles_cover_an_image_and_their_cores_do_once(size: tuple[int, int], side: int, data: Any) -> None:
    overlap = data.draw(st.integers(0, side - 1))
    seen, counted = np.zeros(size, int), np.zeros(size, int)
    for tile in make_tiles(size, side, overlap):
        assert max(tile.size) <= side
        seen[tile.rows, tile.columns] += 1
        left, top, right, bottom = tile.core
        y, x = np.arange(size[0]) + 0.25, np.arange(size[1]) + 0.25
        counted += ((y >= top) & (y < bottom))[:, None] & ((x >= left) & (x < right))[None]
    assert seen.min() >= 1
    assert (counted == 1).all()


@LAW
@given(
    st.one_of(st.none(), st.integers(1, 5000)),
    st.floats(0.01, 100),
    st.lists(st.floats(0.01, 1), min_size=1, max_size=5),
)
def test_settings_are_read_back_equal(short: int | None, scale: float, mean: list[float]) -> None:
    transform = Transform(short, scale, mean=tuple(mean), std=tuple(mean))
    assert build_settings(Transform(), to_plain(transform), "transform") == transform


# Readers and writers

OUTLINES = {
    "coco",
    "parquet",
    "webdataset",
    "masks",
    "labels",
    "cvat",
    "label-studio",
    "geojson",
    "imagej",
}  # pixel by pixel
WITHOUT_CLASSES = {"masks", "labels"}
NAMES = ("cat", "a dog", "élan")


@st.composite
def data_sets(draw: Any) -> Dataset:
    """One or two images with objects that do not touch, in one part, without holes; and some without any."""
    items = []
    for number in range(draw(st.integers(1, 2))):
        size = draw(st.tuples(st.integers(20, 60), st.integers(20, 60)))
        rng = np.random.default_rng(draw(st.integers(0, 2**32)))
        masks, labels = [], []
        for y, x in [(0, 0), (0, size[1] // 2), (size[0] // 2, 0)][: draw(st.integers(1 - number, 3))]:
            mask = np.zeros(size, np.bool_)
            height, width = size[0] // 2 - 2, size[1] // 2 - 2
            dy, dx = rng.integers(0, height - 3), rng.integers(0, width - 3)
            mask[y + dy : y + height, x + dx : x + width] = True
            mask[y + dy + 2 : y + height, x + dx : x + dx + 1] = False  # an L
            masks.append(mask)
            labels.append(int(rng.integers(0, len(NAMES))))
        found = Masks.from_dense(np.array(masks).reshape(-1, *size))
        truth = Instances(size, found.boxes(), np.array(labels, np.int64), masks=found)
        pixels = rng.integers(0, 255, (*size, 3), np.uint8)
        items.append(Sample(pixels, truth, f"p{number}"))
    return from_items(items, NAMES, first_label=0)


@pytest.mark.parametrize("key", sorted(writable()))
@FEW
@given(data=data_sets())
def test_what_is_written_is_read_back(key: str, data: Dataset) -> None:
    with tempfile.TemporaryDirectory() as folder:
        back = open_data(convert(data, Path(folder) / "out", to=key).out, format=key)
        order = sorted(range(len(back)), key=lambda i: back.records[i].path.name)
        assert [p for p in back.problems if p.severity == "error"] == []
        assert len(order) == len(data)
        for sample, other in ((data[i], back[place]) for i, place in enumerate(order)):
            assert_array_equal(other.image, sample.image)
            mine, theirs = (_in_order(s.truth) for s in (sample, other))
            assert_allclose(theirs.boxes, mine.boxes, atol=0.02)
            if key not in WITHOUT_CLASSES:
                assert theirs.names == mine.names
            if key in OUTLINES:
                assert_array_equal(theirs.masks.dense(), mine.masks.dense())


def _in_order(truth: Instances) -> Instances:
    return truth[np.lexsort(truth.boxes.round().T)]


@FEW
@given(st.lists(st.tuples(*[st.integers(0, 30)] * 3), min_size=1, max_size=4), st.integers(0, 2**32))
@pytest.mark.parametrize("key", ["coco", "yolo"])
def test_keypoints_are_read_back(key: str, points: list[tuple[int, int, int]], seed: int) -> None:
    skeleton = Skeleton(("nose", "left_ear", "right_ear"))
    rng = np.random.default_rng(seed)
    keypoints = np.zeros((len(points), 3, 3), np.float32)
    keypoints[..., :2] = rng.integers(0, 30, (len(points), 3, 2)) + 0.5
    keypoints[..., 2] = rng.integers(1, 3, (len(points), 3))
    low, high = keypoints[..., :2].min(1) - 0.5, keypoints[..., :2].max(1) + 0.5
    boxes = np.concatenate([low, high], 1)
    truth = Instances((40, 50), boxes, np.zeros(len(points), np.int64), keypoints=keypoints)
    item = Sample(np.zeros((40, 50, 3), np.uint8), truth, "p")
    data = from_items([item], ("cat",), first_label=0, skeleton=skeleton)
    with tempfile.TemporaryDirectory() as folder:
        back = open_data(convert(data, Path(folder) / "out", to=key).out, format=key)
        assert back.skeleton.names == skeleton.names
        assert_allclose(back[0].truth.keypoints, keypoints, atol=0.02)


@LAW
@given(
    st.dictionaries(
        st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=9), some_boxes(3), max_size=4
    )
)
@pytest.mark.parametrize("ending", [".npz", ".json"])
def test_proposals_are_read_back(ending: str, content: dict[str, torch.Tensor]) -> None:
    proposals = {name: rows.numpy().astype(np.float32) for name, rows in content.items()}
    with tempfile.TemporaryDirectory() as folder:
        found = read_proposals(write_proposals(Path(folder) / f"a{ending}", proposals))
    assert list(found) == list(proposals)
    for name, rows in proposals.items():
        assert_allclose(found[name], rows, rtol=1e-5)
