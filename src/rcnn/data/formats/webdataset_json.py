"""The JSON of a sample that rcnn writes into WebDataset's shards: what a row of Parquet shards has, as text.

    {"name": "a.jpg", "id": 7, "digest": "…", "height": 480, "width": 640,
     "boxes": [[x1, y1, x2, y2], …], "labels": [0, …], "masks": ["run-length code", …],
     "areas": null, "keypoints": [[[x, y, v], …], …], "crowd": [false, …], "difficult": null,
     "has_mask": null}

Boxes and keypoints are as everywhere in the package, labels index the class names in the shard's first
member, masks are COCO's compressed counts. What no object of an image has is null.

Legend: I images, N objects, K keypoints per object.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from rcnn.data.formats.shard_records import Texts, digest_bytes
from rcnn.data.formats.shard_rows import FLAGS, PER_OBJECT, Meaning, faults_of, small_columns
from rcnn.data.formats.writer import Item
from rcnn.io.json_text import object_of

NAMED = ("name", "digest")
MARK = '"digest"'


def sample_text(item: Item, content: bytes) -> str:
    """The JSON of an image and the bytes of its file."""
    row, truth = small_columns(item, content), item.truth
    found: dict[str, Any] = {
        # Surrogates, of names that are not UTF-8, are written as such and read again.
        "name": item.image.name,
        "id": item.image_id,
        **{name: row[name] for name in ("digest", "height", "width")},
        "boxes": _plain(truth.boxes),
        "labels": truth.labels.tolist(),
        "masks": None if truth.masks is None else [code["counts"] for code in truth.masks.rle()],
    }
    for name in PER_OBJECT:
        value = getattr(truth, name)
        found[name] = None if value is None else _plain(value)
    return json.dumps(found)


def _plain(values: npt.NDArray[Any]) -> Any:
    """Nested lists of numbers, floats as short as their 32 bits allow."""
    if values.dtype.kind != "f":
        return values.tolist()
    short = np.array([float(str(value)) for value in values.reshape(-1)], np.float64)
    return short.reshape(values.shape).tolist()


def stored_masks(text: bytes, place: str) -> Any:
    """The run-length counts of each mask in the JSON of a sample.

    Raises:
        ValueError: it is not JSON any more; the message names ``place``.
    """
    try:
        return object_of(text).get("masks")
    except ValueError as error:
        raise ValueError(f"{place}: its annotations are not JSON ({error})") from error


def small_row(text: bytes, meaning: Meaning) -> dict[str, Any]:
    """What is kept in memory of a sample, in arrays.

    Raises:
        ValueError: not what :func:`sample_text` writes; the message says what, without the file.
    """
    found = object_of(text)
    for name in NAMED:
        if not isinstance(found.get(name), str):
            raise ValueError(f"expected a text as {name}; found {found.get(name)!r:.40}")
    labels = _array(found, "labels", "i", np.int32, (-1,))
    count = len(labels)
    row: dict[str, Any] = {
        "name": os.fsencode(found["name"]),
        "id": json.dumps(found.get("id")).encode(),
        "digest": found["digest"],
        "labels": labels,
        "boxes": _array(found, "boxes", "if", np.float32, (count, 4)),
        "size": [_side(found, "height"), _side(found, "width")],
        "drawn": found.get("masks") is not None,
    }
    for name in PER_OBJECT:
        shape = (count, meaning.num_keypoints, 3) if name == "keypoints" else (count,)
        kinds, kind = ("b", np.bool_) if name in FLAGS else ("if", np.float32)
        present = found.get(name) is not None
        row[f"has_{name}"] = present
        row[name] = _array(found, name, kinds, kind, shape).reshape(-1) if present else np.zeros(0, kind)
    return row


def _side(found: Mapping[str, Any], name: str) -> int:
    value = found.get(name)
    if type(value) is not int or not 0 < value < 2**31:
        raise ValueError(f"expected pixels as {name}; found {value!r:.40}")
    return value


def _array(
    found: Mapping[str, Any], name: str, kinds: str, dtype: type[np.generic], shape: tuple[int, ...]
) -> npt.NDArray[Any]:
    """The numbers of a field.

    Args:
        found: the JSON of a sample.
        name: of the field.
        kinds: NumPy's letters of the numbers that it may have.
        dtype: of the result.
        shape: of the result, with at most one -1.
    """
    try:
        values = np.array(found[name])
        if values.size and values.dtype.kind not in kinds:
            raise ValueError(f"of {values.dtype}")
        return values.astype(dtype).reshape(shape)
    except (KeyError, ValueError, TypeError, OverflowError) as error:
        sides = " x ".join(map(str, shape)) if shape != (-1,) else "any number of"
        raise ValueError(f"expected {sides} values as {name}; found {found.get(name)!r:.60}") from error


def columns_of(rows: Sequence[Mapping[str, Any]], mapped: Sequence[bool], meaning: Meaning) -> dict[str, Any]:
    """Rows as flat arrays, as :class:`rcnn.data.formats.shard_records.ShardRecords` has them.

    Raises:
        ValueError: a row contradicts itself; the message says how, without naming it.
    """
    found: dict[str, Any] = {
        "counts": np.array([len(row["labels"]) for row in rows], np.int64),
        "sizes": np.array([row["size"] for row in rows], np.int32).reshape(-1, 2),
        "boxes": np.concatenate([row["boxes"] for row in rows]),
        "labels": np.concatenate([row["labels"] for row in rows]),
        "drawn": np.array([row["drawn"] for row in rows], np.bool_),
        "mapped": np.array(mapped, np.bool_),
        "digests": digest_bytes([row["digest"] for row in rows]),
        **{name: Texts.of([row[name] for row in rows]) for name in ("name", "id")},
    }
    for name in PER_OBJECT:
        found[f"has_{name}"] = np.array([row[f"has_{name}"] for row in rows], np.bool_)
        found[name] = np.concatenate([row[name] for row in rows])
    if found["digests"] is None:
        raise ValueError("a digest is not 32 hexadecimal digits")
    for fault, is_so in faults_of(found, len(meaning.class_names)).items():
        if is_so:
            raise ValueError(fault)
    return found
