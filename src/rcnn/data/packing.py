"""Batches on their way from a worker: small things pickled, all tensors in one block of memory.

A block is shared between processes, copied to a device at once, and read where it arrived. Torch would pass
each tensor as a file of its own, and a few batches of small tensors would exceed what a process may open.
"""

from __future__ import annotations

import math
import os
import pickle
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rcnn.device import moved

ALIGNMENT = 64  # bytes, at which a tensor begins: a multiple of every element's size
SHARED_MEMORY = Path("/dev/shm")  # whose size containers often limit to 64 MB
SPARE = 2  # blocks of each worker that there has to be room for


@dataclass(frozen=True)
class Packet:
    """A value, packed.

    Attributes:
        header: the value, pickled, but for its tensors.
        block: uint8 ``[B]``, the bytes of its tensors.
        shared: whether the block is in memory that processes share.
    """

    header: bytes
    block: Tensor
    shared: bool = False

    @classmethod
    def of(cls, value: object, sharers: int = 0) -> Packet:
        """Pack a value.

        Args:
            value: picklable; its tensors are on the CPU.
            sharers: processes that hand over blocks in shared memory at once; 0: in memory of this process.
        """
        data = BytesIO()
        packer = _Packer(data, protocol=5)
        packer.dump(value)
        shared = sharers > 0 and _room() >= SPARE * sharers * packer.size
        block = _shared_block(packer.size) if shared else torch.empty(packer.size, dtype=torch.uint8)
        for place, tensor in packer.tensors:
            _at(block, place, tensor.dtype, tensor.shape).copy_(tensor)
        return cls(data.getvalue(), block, shared)

    @property
    def portable(self) -> Packet | tuple[bytes, bytes]:
        """What a queue passes on: the packet, if it is in shared memory, else all of its bytes."""
        return self if self.shared else self.by_value()

    def by_value(self) -> tuple[bytes, bytes]:
        """All of its bytes; :meth:`from_value` inverts it."""
        return self.header, self.block.numpy().tobytes()

    @classmethod
    def from_value(cls, header: bytes, data: bytes) -> Packet:
        """The packet of these bytes."""
        # torch.frombuffer takes no empty buffers.
        return cls(header, torch.frombuffer(bytearray(data or b"\0"), dtype=torch.uint8)[: len(data)])

    def here(self) -> Packet:
        """The same in memory of this process, so that what is shared is free again."""
        return replace(self, block=self.block.clone(), shared=False) if self.shared else self

    def to(self, device: torch.device) -> Packet:
        """The same with its block on a device, by one copy that the host does not wait for."""
        return replace(self, block=moved(self.block, device), shared=False)

    def unpacked(self) -> Any:
        """The value, whose tensors are parts of the block, where that is."""
        return _Unpacker(BytesIO(self.header), self.block).load()


def _room() -> int:
    """Bytes of shared memory that are free."""
    if not SHARED_MEMORY.is_dir():
        return 2**62  # not limited by a file system
    free = os.statvfs(SHARED_MEMORY)
    return free.f_bavail * free.f_frsize


def _shared_block(size: int) -> Tensor:
    storage = torch.UntypedStorage._new_shared(size)  # type: ignore[no-untyped-call]
    return torch.empty(0, dtype=torch.uint8).set_(storage)


def _at(block: Tensor, place: int, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    """The tensor at a place of a block, a view."""
    size = math.prod(shape) * dtype.itemsize
    return block[place : place + size].view(dtype).view(shape)


class _Packer(pickle.Pickler):
    """Gives each tensor a place in the block."""

    def __init__(self, file: BytesIO, protocol: int) -> None:
        super().__init__(file, protocol)
        self.tensors: list[tuple[int, Tensor]] = []
        self.size = 0

    def persistent_id(self, value: Any) -> Any:
        if not isinstance(value, Tensor):
            return None
        place, self.size = self.size, self.size + -(-value.nbytes // ALIGNMENT) * ALIGNMENT
        self.tensors.append((place, value))
        return place, value.dtype, tuple(value.shape)


class _Unpacker(pickle.Unpickler):
    def __init__(self, file: BytesIO, block: Tensor) -> None:
        super().__init__(file)
        self.block = block

    def persistent_load(self, pid: Any) -> Tensor:
        return _at(self.block, *pid)
