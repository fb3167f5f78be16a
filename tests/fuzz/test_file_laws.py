"""What is written is read back equal: every pair of a writer and a reader but those of data sets' formats."""

import csv
import io
import json
import math
import tempfile
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from rcnn.config.ranges import RANGE
from rcnn.data.adapters import from_items
from rcnn.data.convert import convert
from rcnn.data.dataset import Dataset, Sample
from rcnn.data.formats.coco_panoptic import write_panoptic
from rcnn.data.formats.coco_results import read_results
from rcnn.data.formats.open import open_data
from rcnn.data.shapes import draw_shapes
from rcnn.inference.exported_metadata import (
    OPENVINO_FILES,
    folder_metadata,
    metadata_bytes,
    onnx_metadata,
    with_checksum,
)
from rcnn.inference.pictures import write_map
from rcnn.io.checkpoint import read_checkpoint, write_checkpoint
from rcnn.io.escaping import from_csv
from rcnn.io.images import read_numbers
from rcnn.models import MODELS
from rcnn.structures import Instances, Masks, Panoptic, Skeleton
from rcnn.structures.instances import table
from rcnn.training.recipe import default_recipe, dump_recipe, load_recipe
from rcnn.transform import Transform

LAW = settings(derandomize=True, deadline=None, max_examples=40, database=None)
FEW = settings(derandomize=True, deadline=None, max_examples=8, database=None)
TEXT = st.text(max_size=12)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
METADATA = st.dictionaries(TEXT, JSON, max_size=4)
SIZE = (24, 32)
SKELETON = Skeleton(("nose", "left_ear", "right_ear"))
DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.uint8, torch.bool)


@st.composite
def found(draw: Any, *, keypoints: bool = False) -> Instances:
    """Up to four objects with scores and masks, or keypoints."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    count = draw(st.integers(0, 4))
    masks = Masks.from_dense(rng.random((count, *SIZE)) < draw(st.sampled_from((0.05, 0.5, 1.0))))
    scores = np.sort(rng.random(count).astype(np.float32))[::-1].copy()
    masks = masks[masks.areas() > 0]
    count = len(masks)
    truth = Instances(SIZE, masks.boxes(), rng.integers(0, 2, count), scores=scores[:count])
    if not keypoints:
        return replace(truth, masks=masks)
    points = rng.random((count, 3, 3)).astype(np.float32) * [32, 24, 1]
    return replace(truth, keypoints=points.astype(np.float32))


def data_of(*truths: Instances) -> Dataset:
    pixels = np.zeros((*SIZE, 3), np.uint8)
    items = [
        Sample(pixels, replace(one, scores=None, keypoints=None), f"p{i}") for i, one in enumerate(truths)
    ]
    return from_items(items, ("cat", "dog"), first_label=0)


# Predictions


@LAW
@given(found(), found())
def test_results_are_read_back(first: Instances, second: Instances) -> None:
    data = data_of(first, second)
    entries = [
        entry
        for one, record in zip((first, second), data.records, strict=True)
        for entry in one.to_coco(record.image_id)
    ]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "results.json"
        path.write_text(json.dumps(entries))
        back = read_results(path, data)
    for mine, theirs in zip((first, second), back, strict=True):
        assert_allclose(theirs.scores, mine.scores, atol=1e-5)
        assert_array_equal(theirs.labels, mine.labels)
        assert_allclose(theirs.boxes, mine.boxes, atol=0.01)
        if len(mine):
            assert_array_equal(theirs.masks.dense(), mine.masks.dense())


@LAW
@given(st.integers(0, 2**32), st.integers(0, 5))
def test_partitions_are_read_back(seed: int, count: int) -> None:
    """Segments of any form in an image; things are objects, stuff is in the map."""
    rng = np.random.default_rng(seed)
    segments = rng.integers(0, count + 1, SIZE)
    present, segments = np.unique(segments, return_inverse=True)
    segments = segments.reshape(SIZE) + (present[0] != 0)
    total = int(segments.max())
    labels = np.sort(rng.permutation(4)[:total])[:total] if total <= 4 else rng.integers(0, 2, total)
    partition = Panoptic(segments, labels, np.zeros(total, bool), ("cat", "dog", "sky", "grass"), 2)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_map(np.zeros(SIZE, np.int64), ("a",), folder / "p.png")
        data = open_data(write_panoptic(folder / "parts.json", [(1, "p.png", partition)]), folder)
        (record,) = data.records
        truth = record.load_truth()
    things = np.flatnonzero(labels < 2)
    assert truth.names == [partition.names[labels[i]] for i in things]
    for mask, index in zip(truth.masks.dense(), things, strict=True):
        assert_array_equal(mask, segments == index + 1)
    names = np.array([*data.semantic_names])
    covered = segments > 0
    assert_array_equal((truth.semantic == 255), ~covered)
    assert_array_equal(
        names[truth.semantic[covered]], np.array(partition.names)[labels][segments[covered] - 1]
    )


@LAW
@given(st.integers(0, 2**32), st.integers(1, 255))
def test_maps_are_read_back(seed: int, count: int) -> None:
    classes = np.random.default_rng(seed).integers(0, count, SIZE)
    with tempfile.TemporaryDirectory() as folder:
        path = write_map(classes, [str(i) for i in range(count)], Path(folder) / "a.png")
        assert_array_equal(read_numbers(path), classes)


@LAW
@given(st.lists(st.lists(TEXT, min_size=2, max_size=2), max_size=5))
def test_cells_of_tables_are_read_back(rows: list[list[str]]) -> None:
    text = table(rows)
    assert [[from_csv(cell) for cell in row] for row in csv.reader(io.StringIO(text, newline=""))] == rows


# Data sets that are drawn


@pytest.mark.parametrize("truth", ["objects", "semantic", "both"])
@FEW
@given(seed=st.integers(0, 1000))
def test_drawn_pictures_are_read_back(truth: Any, seed: int) -> None:
    shapes = draw_shapes(2, truth=truth, size=(40, 48), diameter=(10.0, 20.0), seed=seed)
    with tempfile.TemporaryDirectory() as folder:
        back = open_data(shapes.write(folder))
        for mine, theirs in ((shapes[i], back[i]) for i in range(2)):
            assert_array_equal(theirs.image, mine.image, "the picture, not its map or its segments")
            assert theirs.truth.names == mine.truth.names
            if mine.truth.masks is not None:
                assert_array_equal(theirs.truth.masks.dense(), mine.truth.masks.dense())
            if mine.truth.semantic is not None:
                assert_array_equal(theirs.truth.semantic, mine.truth.semantic)


@pytest.mark.parametrize("key", ["coco", "yolo", "label-studio"])
@FEW
@given(found(keypoints=True))
def test_formats_that_hold_keypoints_give_them_back(key: str, truth: Instances) -> None:
    assume(len(truth) > 0)
    points = truth.keypoints.copy()
    points[..., 2] = 2
    item = Sample(np.zeros((*SIZE, 3), np.uint8), replace(truth, scores=None, keypoints=points), "p")
    data = from_items([item], ("cat", "dog"), first_label=0, skeleton=SKELETON)
    with tempfile.TemporaryDirectory() as folder:
        written = convert(data, Path(folder) / "out", to=key)
        assert not any("keypoints" in kind for kind in written.lost)
        back = open_data(written.out, format=key)[0].truth
    assert_allclose(_sorted(back.keypoints), _sorted(points), atol=0.02)


def _sorted(points: Any) -> Any:
    return points[np.lexsort(points[:, 0, :2].round(1).T)]


# Models


@LAW
@given(
    st.dictionaries(
        TEXT.filter(lambda name: name != "__metadata__" and name.isprintable()),
        st.tuples(st.lists(st.integers(0, 4), max_size=3), st.sampled_from(DTYPES)),
        max_size=4,
    ),
    METADATA,
)
def test_checkpoints_are_read_back(shapes: dict[str, Any], metadata: dict[str, Any]) -> None:
    rng = np.random.default_rng(0)
    tensors = {
        name: torch.from_numpy(np.array(rng.random(shape) * 100)).to(dtype)
        for name, (shape, dtype) in shapes.items()
    }
    with tempfile.TemporaryDirectory() as folder:
        back, theirs = read_checkpoint(write_checkpoint(Path(folder) / "a.safetensors", tensors, metadata))
    assert theirs == metadata
    assert back.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert back[name].dtype == tensor.dtype
        assert torch.equal(back[name], tensor)


@LAW
@given(METADATA, st.binary(max_size=20))
def test_metadata_of_exported_files_is_read_back(metadata: dict[str, Any], model: bytes) -> None:
    metadata = metadata | {"export": 2, "versions": {}, "sha256": {}}
    content = with_checksum(model, metadata)
    assert onnx_metadata(content, Path("a.onnx")) == metadata
    for place in range(0, len(content), 7):
        changed = content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]
        with pytest.raises(ValueError, match=r"a\.onnx"):
            onnx_metadata(changed, Path("a.onnx"))


@FEW
@given(METADATA)
def test_metadata_of_exported_folders_is_read_back(metadata: dict[str, Any]) -> None:
    from hashlib import sha256

    empty = sha256(b"").hexdigest()
    metadata = metadata | {"export": 2, "versions": {}, "sha256": dict.fromkeys(OPENVINO_FILES, empty)}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for file in OPENVINO_FILES:
            (folder / file).touch()
        (folder / "rcnn.json").write_bytes(metadata_bytes(metadata))
        assert folder_metadata(folder) == metadata


# Recipes


def changed(table: Any, draw: Any) -> Any:
    """A dataclass of settings with numbers from the ranges of its fields, wherever they go together."""
    for spec in fields(table):
        value, allowed = getattr(table, spec.name), spec.metadata.get(RANGE)
        new: Any = value
        if is_dataclass(value):
            new = changed(value, draw)
        elif allowed is not None and type(value) is float:
            low, high = max(allowed.low, -1e6), min(allowed.high, 1e6)
            new = draw(st.floats(low, high, exclude_min=allowed.above, exclude_max=allowed.below))
        elif allowed is not None and type(value) is int:
            low, high = math.ceil(allowed.low) + allowed.above, min(allowed.high, 10**6)
            new = draw(st.integers(low, int(high)))
        elif type(value) is bool:
            new = draw(st.booleans())
        try:
            table = replace(table, **{spec.name: new}) if spec.init else table
        except ValueError:
            continue  # it does not go together with others
    return table


@pytest.mark.parametrize("model", MODELS)
@FEW
@given(data=st.data())
def test_recipes_are_read_back(model: str, data: Any) -> None:
    recipe = default_recipe(model)
    parts = {
        name: changed(getattr(recipe, name), data.draw)
        for name in ("settings", "transform", "augment", "train")
    }
    recipe = replace(recipe, **parts)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.toml"
        path.write_text(dump_recipe(recipe), encoding="utf-8")
        assert load_recipe(path) == recipe


# Boxes there and back


@pytest.mark.parametrize("size", [(1, 1), (7, 300), (480, 640), (3000, 17)])
@LAW
@given(
    short=st.none() | st.integers(1, 1500),
    scale=st.floats(0.1, 8),
    corners=st.tuples(*[st.floats(0, 0.4)] * 2, *[st.floats(0.6, 1)] * 2),
)
def test_boxes_are_resized_and_back(
    size: tuple[int, int], short: int | None, scale: float, corners: tuple[float, ...]
) -> None:
    """To what the network sees, and by the same ratio of sides back to the image."""
    transform = Transform(short_side=short, scale=scale if short is None else 1.0)
    height, width = size
    boxes = torch.tensor([corners], dtype=torch.float64) * torch.tensor([width, height] * 2)
    seen_height, seen_width = transform.resized(size)
    seen = transform.resize_boxes(boxes, size)
    assume(len(seen) == 1)  # boxes without area are left out
    assert (seen <= torch.tensor([seen_width, seen_height] * 2) + 1e-6).all()
    back = seen * torch.tensor([width / seen_width, height / seen_height] * 2, dtype=torch.float64)
    torch.testing.assert_close(back, boxes, rtol=1e-6, atol=1e-6)
