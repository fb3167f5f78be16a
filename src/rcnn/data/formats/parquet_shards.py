"""Parquet shards: image files and all that is annotated on them, for sets that outgrow a folder of files.

``DATA/00000000.parquet`` and so on hold a row per image: the bytes of its file with their digest, its
objects, masks as COCO's run-length counts, the class of every pixel as a PNG. What labels and keypoints mean
is in the metadata of each file. Nothing is lost, and a data set that is written and read is the same.

Legend: I images, N objects, K keypoints per object.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from rcnn.data.formats.shard_rows import FLAGS, ShardWriter, map_content, meaning_of, small_columns
from rcnn.data.formats.writer import Described, DroppedContent, Item
from rcnn.data.shard_blocks import BLOCK_BYTES
from rcnn.extras import install_command
from rcnn.structures import Masks
from rcnn.structures.masks import column_runs

KEY = b"rcnn.data"  # of the schema's metadata
ENDING = ".parquet"
TAIL_BYTES = 1 << 20  # of a file, in which its metadata are
SHARD_BYTES = 32 * 2**20  # of images in a file
SHARD_ROWS = 10_000


def parquet_modules() -> tuple[Any, Any]:
    """``pyarrow`` and its Parquet, which come with the extra ``bulk``.

    Raises:
        ValueError: they are not installed.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise ValueError(f"Parquet shards need pyarrow: {install_command('bulk')}") from error
    return pa, pq


def is_parquet_shards(path: Path, images: str | Path | None = None) -> bool:
    """Whether a folder has such files, or the path is one; answered without pyarrow."""
    files = shard_files(path)
    return bool(files) and images is None and _has_key(files[0])


def shard_files(path: Path) -> list[Path]:
    """The shards of a data set, in order."""
    if path.is_file():
        return [path] if path.suffix == ENDING else []
    return sorted(f for f in path.glob(f"*{ENDING}") if f.is_file() and not f.name.startswith("."))


def _has_key(file: Path) -> bool:
    try:
        with file.open("rb") as opened:
            opened.seek(max(0, file.stat().st_size - TAIL_BYTES))
            return KEY in opened.read()
    except OSError:
        return False


def schema(meaning: str) -> Any:
    """The columns; ``meaning`` goes into the metadata."""
    pa, _ = parquet_modules()
    numbers, flags = pa.list_(pa.float32()), pa.list_(pa.bool_())
    return pa.schema(
        [
            ("name", pa.binary()),  # a name of a file need not be UTF-8
            ("id", pa.string()),
            ("image", pa.large_binary()),
            ("digest", pa.string()),
            ("height", pa.int32()),
            ("width", pa.int32()),
            ("boxes", numbers),
            ("labels", pa.list_(pa.int32())),
            ("areas", numbers),
            ("keypoints", numbers),
            *((name, flags) for name in FLAGS),
            ("drawn", pa.bool_()),  # whether there are masks
            ("mapped", pa.bool_()),  # whether there is a class of every pixel
            ("masks", pa.list_(pa.list_(pa.int32()))),
            ("semantic", pa.large_binary()),
        ],
        metadata={KEY: meaning.encode()},
    )


class ParquetWriter(ShardWriter):
    """Writes data sets as Parquet shards; a file is complete before the next one begins."""

    def __init__(self, folder: Path, dataset: Described, dropped: DroppedContent) -> None:
        super().__init__(folder, dataset, dropped)
        self.schema = schema(meaning_of(dataset))
        self.rows: list[dict[str, Any]] = []
        self.bytes = self.shards = 0

    def put(self, item: Item, content: bytes) -> None:
        """Add the row of an image."""
        self.rows.append(_row(item, content))
        self.bytes += len(content)
        if self.bytes >= SHARD_BYTES or len(self.rows) >= SHARD_ROWS:
            self.write_shard()

    def close(self) -> None:
        """Write the last file."""
        if self.rows or not self.shards:
            self.write_shard()

    def write_shard(self) -> None:
        """Write the rows so far as one file."""
        pa, pq = parquet_modules()
        table = pa.Table.from_pylist(self.rows, schema=self.schema)
        own = {name: "none" if name in ("image", "semantic") else "zstd" for name in table.column_names}
        target = self.folder / f"{self.shards:08d}{ENDING}"
        groups = max(1, round(self.bytes / BLOCK_BYTES))
        rows = max(1, math.ceil(len(self.rows) / groups))
        pq.write_table(table, target, compression=own, row_group_size=rows)
        self.rows, self.bytes, self.shards = [], 0, self.shards + 1


def _row(item: Item, content: bytes) -> dict[str, Any]:
    truth = item.truth
    name = item.image.name.encode("utf-8", "surrogateescape")
    row = {**small_columns(item, content), "name": name, "image": content}
    if truth.masks is not None:
        row["masks"] = _counts(truth.masks)
    if truth.semantic is not None:
        row["semantic"] = map_content(truth.semantic)
    return row


def _counts(masks: Masks) -> list[list[int]]:
    """COCO's run-length counts of each mask."""
    windows = masks.windows.tolist()
    return [
        column_runs(patch, y, x, *masks.size)
        for patch, (x, y, _, _) in zip(masks.patches(), windows, strict=True)
    ]
