"""The order in which a data set in shards is trained on: shard by shard, mixed among a few that are open.

An order of all images at random would fetch a shard for each of them. So the shards are shuffled, a few are
taken at a time, and the images of these are shuffled: each shard is read about once per epoch. As everywhere,
the order is a function of the seed and the epoch alone, so that a run that is resumed sees the same images.

Legend: I images.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from rcnn.data.dataset import LazyRecords

if TYPE_CHECKING:
    import numpy.typing as npt

OPEN_SHARDS = 16  # among which images are mixed; so many are held in memory, as they are stored
KEPT_ORDERS = 4  # of epochs: a batch may span two, with recurring views in two cycles


@dataclass(frozen=True)
class EpochOrder:
    """The images of an epoch.

    Attributes:
        order: int64 ``[I]``, the image at each place.
        offset: in [0, 1), for images that recur (``rcnn.data.loader``).
        ends: where the images of one group of open shards end, and those of the next begin.
    """

    order: npt.NDArray[np.int64]
    offset: float
    ends: npt.NDArray[np.int64]

    def near(self, place: int, rng: np.random.Generator) -> int:
        """An image of a shard that is open at a place, at random."""
        number = int(np.searchsorted(self.ends, place, side="right"))
        first = int(self.ends[number - 1]) if number else 0
        return int(self.order[rng.integers(first, int(self.ends[number]))])


def shards_of(records: Any) -> npt.NDArray[np.int64] | None:
    """The shard of each image, int64 ``[I]``; None where images are files of their own."""
    stored = records.stored if isinstance(records, LazyRecords) else None
    return None if stored is None else stored.shards_of(records.indices)


def mixed(shards: npt.NDArray[np.int64], rng: np.random.Generator) -> EpochOrder:
    """The order of an epoch.

    Args:
        shards: int64 ``[I]``, the shard of each image.
        rng: draws it.
    """
    by_shard = np.argsort(shards, kind="stable")
    _, counts = np.unique(shards, return_counts=True)
    members = np.split(by_shard, np.cumsum(counts)[:-1])
    shuffled = rng.permutation(len(members)).tolist()
    parts = [
        rng.permutation(np.concatenate([members[shard] for shard in shuffled[first : first + OPEN_SHARDS]]))
        for first in range(0, len(shuffled), OPEN_SHARDS)
    ]
    return EpochOrder(np.concatenate(parts), float(rng.random()), np.cumsum([len(part) for part in parts]))


class ShardOrders:
    """The orders of all epochs of a run; the last ones that were asked for are kept."""

    def __init__(self, shards: npt.NDArray[np.int64], seed: tuple[int, ...]) -> None:
        """Orders of these images; an epoch's is drawn with ``(*seed, epoch)``."""
        self.shards, self.seed = shards, seed
        self._kept: dict[int, EpochOrder] = {}

    def __getitem__(self, epoch: int) -> EpochOrder:
        if epoch not in self._kept:
            if len(self._kept) >= KEPT_ORDERS:
                del self._kept[next(iter(self._kept))]
            self._kept[epoch] = mixed(self.shards, np.random.default_rng([*self.seed, epoch]))
        return self._kept[epoch]
