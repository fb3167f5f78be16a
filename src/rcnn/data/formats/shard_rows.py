"""The row of an image in a shard of any kind: what is written of it, and what it means.

Legend: I images, N objects, K keypoints per object.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from PIL import Image

from rcnn.data.formats.writer import Item, Writer
from rcnn.structures import Skeleton

VERSION = 1
FLAGS = ("crowd", "difficult", "has_mask")
PER_OBJECT = ("areas", "keypoints", *FLAGS)
DIGEST_BYTES = 16  # of an image file


@dataclass(frozen=True)
class Meaning:
    """What the rows of all shards have in common; fields as in :class:`rcnn.data.dataset.Dataset`."""

    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]
    semantic_names: tuple[str, ...]
    semantic_ids: tuple[int, ...]
    skeleton: Skeleton | None

    @property
    def num_keypoints(self) -> int:
        """K, 0 if there are no keypoints."""
        return 0 if self.skeleton is None else len(self.skeleton.names)

    @classmethod
    def of_json(cls, text: str | bytes, file: Path) -> Meaning:
        """That in the metadata of a shard, see :func:`meaning_of`.

        Raises:
            ValueError: they are damaged.
        """
        try:
            values = json.loads(text)
            if values["version"] != VERSION:
                raise ValueError(f"version {values['version']}")
            names, semantic = _texts(values["class_names"]), _texts(values["semantic_names"])
            ids, semantic_ids = _numbers(values["category_ids"]), _numbers(values["semantic_ids"])
            if len(ids) not in (0, len(names)) or len(semantic_ids) not in (0, len(semantic)):
                raise ValueError("ids that are not one per class")
            return cls(names, ids, semantic, semantic_ids, Skeleton.from_json(values["skeleton"]))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError(f"{file}: its metadata are not those of a shard ({error})") from error


def _texts(values: Any) -> tuple[str, ...]:
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise ValueError(f"{values!r} instead of a list of names")
    return tuple(values)


def _numbers(values: Any) -> tuple[int, ...]:
    if not isinstance(values, list) or not all(type(value) is int for value in values):
        raise ValueError(f"{values!r} instead of a list of numbers")
    return tuple(values)


def meaning_of(dataset: Any) -> str:
    """What labels, ids and keypoints of a data set mean, as JSON for the metadata of its shards."""
    skeleton: Skeleton | None = dataset.skeleton
    return json.dumps(
        {
            "version": VERSION,
            "class_names": list(dataset.class_names),
            "category_ids": list(dataset.category_ids),
            "semantic_names": list(getattr(dataset, "semantic_names", ())),
            "semantic_ids": list(getattr(dataset, "semantic_ids", ())),
            "skeleton": None if skeleton is None else asdict(skeleton),
        }
    )


class ShardWriter(Writer):
    """Base of the writers of shards, which take the copied image files in; nothing is lost."""

    holds = frozenset({"crowds", "difficult", "outlines", "keypoints"})
    image_folder: ClassVar[str] = ".images"  # where they are copied to, and taken from again
    for_predictions: ClassVar[bool] = False

    def sifted(self, item: Item) -> Item:
        """The image as it is: nothing is lost."""
        return item

    def write(self, item: Item) -> None:
        """Add an image, whose file is then in a shard."""
        content = item.image.read_bytes()
        item.image.unlink()
        self.put(item, content)

    def put(self, item: Item, content: bytes) -> None:
        """Add an image and the bytes of its file."""
        raise NotImplementedError

    def finish(self) -> None:
        """Write the last shard."""
        self.close()
        copies = self.folder / self.image_folder
        if copies.is_dir():
            copies.rmdir()

    def close(self) -> None:
        """Write what is not written yet, so that there is at least one shard."""
        raise NotImplementedError


def small_columns(item: Item, content: bytes) -> dict[str, Any]:
    """What the row of an image has besides the image, masks and the class of every pixel."""
    truth = item.truth
    height, width = truth.size
    row: dict[str, Any] = {
        "id": json.dumps(item.image_id),
        "digest": hashlib.blake2b(content, digest_size=DIGEST_BYTES).hexdigest(),
        "height": height,
        "width": width,
        "boxes": truth.boxes.reshape(-1),
        "labels": truth.labels.astype(np.int32),
        "drawn": truth.masks is not None,
        "mapped": truth.semantic is not None,
    }
    for name in PER_OBJECT:
        value = getattr(truth, name)
        row[name] = None if value is None else value.reshape(-1)
    return row


def map_content(semantic: np.ndarray[Any, Any]) -> bytes:
    """The class of every pixel ``[H, W]`` as a PNG."""
    stored = io.BytesIO()
    small = semantic.max(initial=0) <= np.iinfo(np.uint8).max
    Image.fromarray(semantic.astype(np.uint8 if small else np.uint16)).save(stored, "PNG")
    return stored.getvalue()


def is_row_name(name: bytes, image_id: str) -> bool:
    """Whether a name is that of a file, and an id a number or a text, as JSON."""
    try:
        value = json.loads(image_id)
    except ValueError:
        return False
    is_file = name not in (b"", b".", b"..") and b"/" not in name and b"\0" not in name
    return is_file and isinstance(value, int | str) and not isinstance(value, bool)


def faults_of(found: Mapping[str, Any], classes: int) -> dict[str, bool]:
    """What may be impossible about some rows, and whether it is so.

    Args:
        found: their small columns in flat arrays, as :class:`rcnn.data.formats.shard_records.ShardRecords`
            has them.
        classes: number of classes.
    """
    sizes, boxes, labels = found["sizes"], found["boxes"], found["labels"]
    limits = np.repeat(sizes[:, ::-1], found["counts"], axis=0)
    numbers = [boxes, found["areas"], found["keypoints"]]
    return {
        "the size of an image is 0 or less": bool((sizes < 1).any()),
        "a number is not finite": not all(np.isfinite(values).all() for values in numbers),
        f"a label is not one of {classes} classes": bool(((labels < 0) | (labels >= classes)).any()),
        "a box is empty or lies outside of its image": bool(
            (boxes < 0).any() or (boxes[:, 2:] > limits).any() or (boxes[:, :2] >= boxes[:, 2:]).any()
        ),
        "a name is not that of a file, or an id neither a number nor a text": not all(
            is_row_name(name, image_id) for name, image_id in zip(found["name"], found["id"], strict=True)
        ),
    }
