"""One row per image: the columns of a shard's file, how objects become rows, and rows objects again."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from PIL import Image

from rcnn.bulk.storage import Place, pyarrow_modules
from rcnn.io.pillow_files import image_in
from rcnn.structures import Instances, Masks, Skeleton
from rcnn.structures.coco import segmentations

if TYPE_CHECKING:
    from rcnn.inference.detector import Detector
    from rcnn.inference.exported import ExportedDetector

Outlines = Literal["rle", "polygons"]
PARTS = "parts"
KEY = b"rcnn"  # of the schema's metadata: what labels and keypoints mean

Row = dict[str, Any]


def schema(classes: Mapping[str, Any]) -> Any:
    """The columns of a shard, the same for every model; ``classes`` goes into the metadata as JSON."""
    pa, _, _ = pyarrow_modules()
    box = pa.list_(pa.float32(), 4)
    return pa.schema(
        [
            ("path", pa.string()),
            ("sha256", pa.string()),
            ("height", pa.int32()),
            ("width", pa.int32()),
            ("boxes", pa.list_(box)),
            ("labels", pa.list_(pa.int32())),
            ("scores", pa.list_(pa.float32())),
            ("rle", pa.list_(pa.string())),
            ("polygons", pa.list_(pa.list_(pa.list_(pa.int32())))),
            ("keypoints", pa.list_(pa.list_(pa.float32()))),
            ("semantic", pa.binary()),
            ("error", pa.string()),
        ],
        metadata={KEY: json.dumps(classes).encode()},
    )


def class_metadata(detector: Detector | ExportedDetector) -> dict[str, Any]:
    """What the labels and keypoints of a detector mean."""
    return meaning_of(detector.class_names, detector.category_ids, detector.semantic_names, detector.skeleton)


def meaning_of(
    class_names: Sequence[str],
    category_ids: Sequence[int],
    semantic_names: Sequence[str] = (),
    skeleton: Skeleton | None = None,
) -> dict[str, Any]:
    """What labels and keypoints mean where the classes have these names, ids and keypoints."""
    return {
        "class_names": list(class_names),
        "category_ids": list(category_ids),
        "semantic_names": list(semantic_names),
        "skeleton": None if skeleton is None else asdict(skeleton),
        "boxes": "x0, y0, x1, y1 in pixels of the image",
        "labels": "index into class_names",
        "rle": "compressed counts of COCO, of height and width of the image",
        "polygons": "x0, y0, x1, y1, … of each part of an object",
        "keypoints": "x, y, logit of each keypoint",
        "semantic": "PNG of the class of every pixel, an index into semantic_names",
    }


def row_of(address: str, sha256: str, found: Instances, outlines: Outlines) -> Row:
    """The row of an image that was predicted."""
    row: Row = {
        "path": address,
        "sha256": sha256,
        "height": found.size[0],
        "width": found.size[1],
        "boxes": found.boxes.tolist(),
        "labels": found.labels.tolist(),
        "scores": [] if found.scores is None else found.scores.tolist(),
    }
    if found.masks is not None and outlines == "rle":
        row["rle"] = [code["counts"] for code in found.masks.rle()]
    elif found.masks is not None:
        row["polygons"] = segmentations(found.masks, [False] * len(found), outlines)
    if found.keypoints is not None:
        row["keypoints"] = found.keypoints.reshape(len(found), -1).tolist()
    if found.semantic is not None:
        content = io.BytesIO()
        Image.fromarray(found.semantic.astype(np.uint8)).save(content, "PNG", compress_level=1)
        row["semantic"] = content.getvalue()
    return row


def error_row(address: str, sha256: str | None, error: str) -> Row:
    """The row of an image that could not be predicted."""
    return {"path": address, "sha256": sha256, "error": error}


def part_of(out: Place, shard: int) -> Place:
    """The file of a shard."""
    return out / PARTS / f"{shard:08d}.parquet"


def shards_done(out: Place) -> set[int]:
    """The shards whose files are there."""
    names = [file.name for file in (out / PARTS).files()]
    return {int(name[:8]) for name in names if name.endswith(".parquet") and name[:8].isdigit()}


def write_rows(rows: Sequence[Row], place: Place, classes: Mapping[str, Any]) -> None:
    """Write the file of a shard, in one step."""
    pa, _, pq = pyarrow_modules()
    content = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(list(rows), schema=schema(classes)), content, compression="zstd")
    place.write(content.getvalue())


def read_rows(place: Place) -> list[Row]:
    """The rows of a shard."""
    _, _, pq = pyarrow_modules()
    with place.filesystem.open_input_file(place.path) as file:
        rows: list[Row] = pq.ParquetFile(file).read().to_pylist()
    return rows


@dataclass(frozen=True)
class Prediction:
    """What a job found on one image.

    Attributes:
        path: its address.
        sha256: of its content; None where it could not be read.
        instances: its objects; None where there is an ``error``.
        error: why it could not be predicted.
    """

    path: str
    sha256: str | None
    instances: Instances | None
    error: str | None = None


def read_predictions(out: str) -> Iterator[Prediction]:
    """What a job has found so far, image by image, in the order of its manifest.

    Args:
        out: where the job writes: a folder or ``s3://bucket/folder``.

    Raises:
        ValueError: no results of a job there.
    """
    _, _, pq = pyarrow_modules()
    place = Place.at(out)
    done = sorted(shards_done(place))
    if not done:
        raise ValueError(f"{out}: no results of a bulk prediction there; expected {PARTS}/00000000.parquet")
    for shard in done:
        part = part_of(place, shard)
        with part.filesystem.open_input_file(part.path) as file:
            parquet = pq.ParquetFile(file)
            meant = json.loads(parquet.schema_arrow.metadata[KEY])
            for batch in parquet.iter_batches(batch_size=64):
                yield from (_prediction(row, meant) for row in batch.to_pylist())


def _prediction(row: Row, meant: Mapping[str, Any]) -> Prediction:
    if row["error"] is not None:
        return Prediction(row["path"], row["sha256"], None, row["error"])
    size, count, map_of = (row["height"], row["width"]), len(row["labels"]), row["semantic"]
    points = None if row["keypoints"] is None else np.array(row["keypoints"], np.float32)
    found = Instances(
        size,
        np.array(row["boxes"], np.float32).reshape(count, 4),
        np.array(row["labels"], np.int64),
        np.array(row["scores"], np.float32),
        masks=_masks(row, size),
        keypoints=None if points is None else points.reshape(count, -1, 3),
        semantic=None if map_of is None else np.asarray(image_in(io.BytesIO(map_of), "PNG")),
        class_names=tuple(meant["class_names"]),
        semantic_names=tuple(meant["semantic_names"]),
        skeleton=Skeleton.from_json(meant["skeleton"]),
    )  # fmt: skip
    return Prediction(row["path"], row["sha256"], found)


def _masks(row: Row, size: tuple[int, int]) -> Masks | None:
    if row["rle"] is not None:
        return Masks.from_rle([{"size": list(size), "counts": counts} for counts in row["rle"]], size)
    if row["polygons"] is not None:
        outlines = [
            [np.array(part, np.float64).reshape(-1, 2) for part in parts] for parts in row["polygons"]
        ]
        return Masks.from_outlines(outlines, size)
    return None


def check_outlines(outlines: str) -> None:
    """Raise a ValueError for an unknown form of outlines."""
    if outlines not in get_args(Outlines):
        raise ValueError(f"outlines {outlines!r}: expected one of {', '.join(get_args(Outlines))}")
