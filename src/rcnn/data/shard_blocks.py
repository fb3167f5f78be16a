"""Parts of shards that are read at once, of which each process keeps the ones it read last.

Images are fetched with their neighbours, so that whoever goes through them shard by shard (as
:mod:`rcnn.data.shard_order` does) reads each block once. Who knows which block is next has it read ahead, by
one thread of the process.
"""

from __future__ import annotations

import os
import threading
from abc import ABC, abstractmethod
from collections import OrderedDict
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from rcnn.data.shard_order import OPEN_SHARDS

BLOCK_BYTES = 4 * 2**20  # of images in a block
BLOCKS_KEPT = 2 * OPEN_SHARDS + 1  # the open shards, and the next ones while they are read ahead


class Block(ABC):
    """A part of a shard; hashable and picklable."""

    @abstractmethod
    def read(self) -> Any:
        """What is in it.

        Raises:
            ValueError: the shard cannot be read any more.
        """


class _Kept:
    """The blocks of this process, the one that was used last at the end."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.blocks: OrderedDict[Block, Future[Any]] = OrderedDict()
        self.reader: ThreadPoolExecutor | None = None

    def entry(self, block: Block) -> tuple[Future[Any], bool]:
        """What will be in a block, and whether it is still to be read, which is up to the caller."""
        with self.lock:
            known = self.blocks.get(block)
            if known is not None:
                self.blocks.move_to_end(block)
                return known, False
            made: Future[Any] = Future()
            self.blocks[block] = made
            if len(self.blocks) > BLOCKS_KEPT:
                self.blocks.popitem(last=False)
            return made, True

    def fill(self, block: Block, made: Future[Any]) -> None:
        """Read a block; one that cannot be read is not kept."""
        try:
            made.set_result(block.read())
        except Exception as error:
            with self.lock:
                self.blocks.pop(block, None)
            made.set_exception(error)

    def submit(self, block: Block, made: Future[Any]) -> None:
        """Have a block read by the thread."""
        with self.lock:
            self.reader = self.reader or ThreadPoolExecutor(1, "shards")
        self.reader.submit(self.fill, block, made)


_kept = _Kept()


def fetched(block: Block) -> Any:
    """What is in a block, read once as long as it is among the last ones; errors as :meth:`Block.read`."""
    found, is_new = _kept.entry(block)
    if is_new:
        _kept.fill(block, found)
    return found.result()


def read_ahead(block: Block) -> None:
    """Begin to read a block that is needed soon; errors are raised where it is used."""
    found, is_new = _kept.entry(block)
    if is_new:
        _kept.submit(block, found)


def forget_blocks() -> None:
    """Keep none of what was read: shards have changed, or the thread is that of another process."""
    global _kept  # the one cache of the process
    _kept = _Kept()


if hasattr(os, "register_at_fork"):  # a thread is not forked, and would be waited for
    os.register_at_fork(after_in_child=forget_blocks)
