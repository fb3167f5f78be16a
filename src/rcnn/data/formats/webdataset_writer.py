"""WebDataset's tar shards written: each image file with the JSON of all that is annotated on it."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

from rcnn.data.formats.shard_rows import ShardWriter, map_content, meaning_of
from rcnn.data.formats.tar_shards import ENDING, MAPS, META
from rcnn.data.formats.webdataset_json import sample_text
from rcnn.data.formats.writer import Described, DroppedContent, Item

SHARD_BYTES = 256 * 2**20  # of images in a file
SHARD_SAMPLES = 10_000


class WebdatasetWriter(ShardWriter):
    """Writes data sets as tar shards; a file is complete before the next one begins."""

    def __init__(self, folder: Path, dataset: Described, dropped: DroppedContent) -> None:
        super().__init__(folder, dataset, dropped)
        self.meaning = meaning_of(dataset)
        self.tar: tarfile.TarFile | None = None
        self.bytes = self.samples = self.shards = self.total = 0

    def put(self, item: Item, content: bytes) -> None:
        """Add the sample of an image; its key is a number, which no name of a file can break."""
        tar, key = self._opened(), f"{self.total:09d}"
        _add(tar, f"{key}{item.image.suffix.lower()}", content)
        _add(tar, f"{key}.json", sample_text(item, content).encode())
        if item.truth.semantic is not None:
            _add(tar, f"{key}.{MAPS}", map_content(item.truth.semantic))
        self.bytes, self.samples, self.total = self.bytes + len(content), self.samples + 1, self.total + 1
        if self.bytes >= SHARD_BYTES or self.samples >= SHARD_SAMPLES:
            self._complete()

    def close(self) -> None:
        """Complete the last file."""
        if self.tar is None and not self.shards:
            self._opened()
        self._complete()

    def _opened(self) -> tarfile.TarFile:
        if self.tar is None:
            self.tar = tarfile.open(self.folder / f"shard-{self.shards:06d}{ENDING}", "w")  # noqa: SIM115
            _add(self.tar, META, self.meaning.encode())
        return self.tar

    def _complete(self) -> None:
        if self.tar is not None:
            self.tar.close()
            self.tar, self.bytes, self.samples, self.shards = None, 0, 0, self.shards + 1


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))
