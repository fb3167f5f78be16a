"""Where the samples of tar shards are, in flat arrays, and their content, read with that of their neighbours.

Legend: I images, B bytes of text.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from rcnn.data.formats.shard_records import StoredRow, Texts
from rcnn.data.formats.tar_shards import MAPS, Span, TarSample, explained
from rcnn.data.formats.webdataset_json import stored_masks
from rcnn.data.shard_blocks import BLOCK_BYTES, Block, fetched, read_ahead

ABSENT = -1  # the size of what a sample does not have


@dataclass(frozen=True)
class TarBlock(Block):
    """Samples that lie together.

    Attributes:
        file: the shard.
        first: where they begin.
        end: where they end.
    """

    file: str
    first: int
    end: int

    def read(self) -> bytes:
        """Their bytes.

        Raises:
            ValueError: the shard cannot be read any more, or has become shorter.
        """
        path = Path(self.file)
        with explained(path), path.open("rb") as opened:
            opened.seek(self.first)
            content = opened.read(self.end - self.first)
        if len(content) < self.end - self.first:
            raise ValueError(f"{self.file}: it has become shorter since it was opened")
        return content


@dataclass(frozen=True)
class TarRow(StoredRow):
    """A sample.

    Attributes:
        block: where it is.
        key: what its members share.
        image: the place of its image.
        annotations: that of its annotations.
        semantic: that of the class of every pixel; None if there is none.
    """

    block: TarBlock
    key: str
    image: Span
    annotations: Span
    semantic: Span | None

    @property
    def file(self) -> str:
        """The shard."""
        return self.block.file

    @property
    def place(self) -> str:
        """The key."""
        return f"sample {self.key}"

    def value(self, column: str) -> object:
        """The bytes of the image, the counts of its masks, or the PNG of the class of every pixel.

        Raises:
            ValueError: the file cannot be read any more.
        """
        if column == "masks":
            return stored_masks(self._content(self.annotations), f"{self.file}: {self.place}")
        span = self.image if column == "image" else self.semantic
        return None if span is None else self._content(span)

    def _content(self, span: Span) -> bytes:
        block: bytes = fetched(self.block)
        return block[span.offset - self.block.first : span.end - self.block.first]


class TarPlaces:
    """The places of many samples.

    Attributes:
        blocks: those that samples are read in.
        block: int32 ``[I]``, that of each sample.
        spans: int64 ``[I, 3, 2]``, offset and size of image, annotations and semantic map.
        keys: of the samples.
    """

    def __init__(
        self,
        blocks: tuple[TarBlock, ...],
        block: npt.NDArray[np.int32],
        spans: npt.NDArray[np.int64],
        keys: Texts,
    ) -> None:
        self.blocks, self.block, self.spans, self.keys = blocks, block, spans, keys

    def __len__(self) -> int:
        return len(self.block)

    def row(self, number: int) -> TarRow:
        """Where a sample is."""
        image, annotations, semantic = (Span(*span) for span in self.spans[number].tolist())
        return TarRow(
            self.blocks[int(self.block[number])], self.keys[number].decode("utf-8", "surrogateescape"), image,
            annotations, None if semantic.size == ABSENT else semantic,
        )  # fmt: skip

    def read_ahead(self, number: int) -> None:
        """Begin to read the block of a sample."""
        read_ahead(self.blocks[int(self.block[number])])

    def shards_of(self, indices: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """The block of each of some samples, which are read together."""
        return self.block[indices].astype(np.int64)

    def repeated(self) -> list[int]:
        """The samples whose keys others had before."""
        hashes = np.array([hash(key) for key in self.keys], np.int64)
        _, first, group = np.unique(hashes, return_index=True, return_inverse=True)
        return np.flatnonzero(first[group] != np.arange(len(group))).tolist()


@dataclass
class PlacesBuilder:
    """Collects the places of samples, in their order."""

    blocks: list[TarBlock] = field(default_factory=list)
    block: array[int] = field(default_factory=lambda: array("i"))
    spans: array[int] = field(default_factory=lambda: array("q"))
    keys: list[bytes] = field(default_factory=list)

    def add(self, file: Path, sample: TarSample, image: Span, annotations: Span) -> None:
        """Add a sample of a shard, which follows the one before."""
        last = self.blocks[-1] if self.blocks else None
        if last is None or last.file != str(file) or last.end - last.first >= BLOCK_BYTES:
            self.blocks.append(TarBlock(str(file), sample.first, sample.end))
        else:
            self.blocks[-1] = TarBlock(last.file, last.first, sample.end)
        self.block.append(len(self.blocks) - 1)
        semantic = sample.members.get(MAPS, Span(0, ABSENT))
        for span in (image, annotations, semantic):
            self.spans.extend((span.offset, span.size))
        self.keys.append(sample.key.encode("utf-8", "surrogateescape"))

    def build(self) -> TarPlaces:
        """All of them."""
        spans = np.array(self.spans, np.int64).reshape(-1, 3, 2)
        return TarPlaces(tuple(self.blocks), np.array(self.block, np.int32), spans, Texts.of(self.keys))
