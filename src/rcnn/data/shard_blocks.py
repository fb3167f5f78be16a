"""Parts of shards that are read at once, of which each process keeps the ones it read last.

Images are fetched with their neighbours, so that whoever goes through them shard by shard (as
:mod:`rcnn.data.shard_order` does) reads each block once.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import lru_cache
from typing import Any

from rcnn.data.shard_order import OPEN_SHARDS

BLOCKS_KEPT = OPEN_SHARDS + 1
BLOCK_BYTES = 4 * 2**20  # of images in a block


class Block(ABC):
    """A part of a shard; hashable and picklable."""

    @abstractmethod
    def read(self) -> Any:
        """What is in it.

        Raises:
            ValueError: the shard cannot be read any more.
        """


@lru_cache(maxsize=BLOCKS_KEPT)
def fetched(block: Block) -> Any:
    """What is in a block, read once as long as it is among the last ones; errors as :meth:`Block.read`."""
    return block.read()
