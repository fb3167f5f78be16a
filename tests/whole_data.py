"""A data set with all that a truth may have, and the comparison of two data sets."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from rcnn.data.dataset import Dataset
from rcnn.data.formats.open import open_data
from rcnn.data.shapes import draw_shapes
from rcnn.data.twins import content_digests
from rcnn.structures import Instances, Masks, Skeleton

SKELETON = Skeleton(("left ear", "right ear", "nose"))


def everything(folder: Path) -> Dataset:
    """Images of several kinds, with all that a truth may have, and one without objects."""
    data = open_data(
        draw_shapes(
            5, size=(40, 60), class_names=("disk", "square"), objects=(1, 3), diameter=(10.0, 20.0)
        ).write(folder)
    )
    rng = np.random.default_rng(0)
    records = []
    for index, record in enumerate(data.records):
        truth = record.load_truth()
        if index == 1:
            truth, kept = truth[:0], None
        else:
            kept = truth.masks
        count = len(truth)
        points = rng.uniform(0, 40, (count, 3, 3)).astype(np.float32)
        points[..., 2] = rng.integers(0, 3, (count, 3))
        full = replace(
            truth, masks=None, keypoints=points, crowd=rng.random(count) < 0.3,
            difficult=rng.random(count) < 0.3 if index != 2 else None, has_mask=rng.random(count) < 0.8,
            areas=rng.uniform(1, 99, count).astype(np.float32), semantic_names=("disk", "void", "sky"),
            skeleton=SKELETON,
        )  # fmt: skip
        semantic = rng.integers(0, 3, truth.size)
        path = record.path
        if index == 3:  # a JPEG that is stored on its side
            path = path.with_suffix(".jpg")
            exif = Image.Exif()
            exif[0x0112] = 6
            Image.fromarray(rng.integers(0, 255, (60, 40, 3), np.uint8)).save(path, exif=exif)
        records.append(
            replace(
                record, path=path, truth=replace(full, path=path), masks=None if kept is None else Kept(kept),
                semantic=None if index == 4 else Kept(semantic), image_id="x" if index == 2 else index + 7,
            )
        )  # fmt: skip
    return replace(
        data, records=records, skeleton=SKELETON, semantic_names=("disk", "void", "sky"),
        category_ids=(3, 90), semantic_ids=(3, 1, 4),
    )  # fmt: skip


class Kept:
    """What a record loads."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __call__(self) -> Any:
        return self.value


def assert_equal(one: Any, other: Any, name: str) -> None:
    if isinstance(one, Masks):
        np.testing.assert_array_equal(one.dense(), other.dense(), err_msg=name)
    elif isinstance(one, np.ndarray):
        np.testing.assert_array_equal(one, other, err_msg=name)
        assert one.dtype.kind == other.dtype.kind, name
    elif name == "path":
        assert one.name == other.name
    else:
        assert one == other, name


def assert_same_data(one: Dataset, other: Dataset) -> None:
    for name in ("class_names", "category_ids", "semantic_names", "semantic_ids", "skeleton"):
        assert getattr(one, name) == getattr(other, name), name
    assert len(one) == len(other)
    for first, second in zip(one.records, other.records, strict=True):
        assert (first.image_id, first.path.name) == (second.image_id, second.path.name)
        np.testing.assert_array_equal(first.load_image(), second.load_image())
        mine, theirs = first.load_truth(), second.load_truth()
        for name in Instances.__dataclass_fields__:
            assert_equal(getattr(mine, name), getattr(theirs, name), name)
    assert content_digests(one.records) == content_digests(other.records)
