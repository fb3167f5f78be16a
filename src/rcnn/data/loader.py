"""Training batches: endless, and a function of the batch number alone.

Batch k of a run covers the positions from ``k * batch_size`` on. Position p is the image
``permutation(seed, epoch)[p mod n]`` of epoch ``p // n``, augmented with the random numbers of ``(seed, p)``.
A resumed run therefore sees exactly what an uninterrupted one would have seen, for any number of workers, and
several processes together see the batches of one. If images that hold several crops are shown more often
(``Augment.repeat``), an epoch still has n positions, of which an image gets several or occasionally none.

Where some images are shown higher than wide and others not, the positions of an epoch are grouped so that a
batch holds one kind (``rcnn.data.grouping``): that is less padding. Each image comes as often as without.

With K recurring views, epoch e has the views of epoch e mod K in another order: a view is a function of the
seed and its number, from 0 to K n - 1, so that what is computed of it can be kept.

A data set in shards has another order, which goes from shard to shard (``rcnn.data.shard_order``); a thread
reads what the next positions need.

Decoded images are cached as long as there is room: decoding a large image takes longer than cropping it.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch.utils.data import DataLoader

from rcnn.data.augment import Augment
from rcnn.data.cores import available_cores
from rcnn.data.dataset import Dataset, LazyRecords
from rcnn.data.feed import arrived
from rcnn.data.geometry import TrainingSample
from rcnn.data.grouping import grouped, upright_views
from rcnn.data.packing import Packet
from rcnn.data.shard_order import KEPT_ORDERS, ShardOrders, shards_of
from rcnn.data.workers import arriving, prepare_worker
from rcnn.device import has_own_memory
from rcnn.parts.batch import without_empty_crowd

if TYPE_CHECKING:
    import numpy.typing as npt

    from rcnn.transform import Transform

# The second word of a seed: one of the independent random streams of a run.
ORDER, VARIATION, RECURRING, GROUPING = 0, 1, 5, 6
HERE = torch.device("cpu")
POSITIONS_AHEAD = 64  # what they need of shards is read meanwhile: all of the next open ones, most likely
CACHE_BYTES = 2**29  # bytes of decoded images cached by all processes together


def training_batches(
    dataset: Dataset,
    augment: Augment,
    transform: Transform,
    *,
    batch_size: int,
    seed: int,
    start: int = 0,
    workers: int = 0,
    process: tuple[int, int] = (0, 1),
    views: int = 0,
    device: torch.device = HERE,
) -> Iterator[list[TrainingSample]]:
    """Yield endless batches of augmented samples, from batch ``start`` on.

    Args:
        dataset: the images.
        augment: the augmentation.
        transform: how prediction resizes an image.
        batch_size: images per batch, over all processes.
        seed: determines the order and the augmentation.
        start: the number of the first batch, for a resumed run.
        workers: number of processes that prepare batches, at most one per core; 0 prepares them here.
        process: the rank of this process and the number of processes; each gets a contiguous part of every
            batch.
        views: of each image, that recur; 0: all are new.
        device: where the batches are to be. One with memory of its own gets images as they are stored, in one
            copy from pinned memory, and resizes and colours them.

    Raises:
        ValueError: no images, or a batch size that is not divisible by the number of processes; while
            iterating, an unusable image, which the message names.
        RuntimeError: while iterating, or anywhere between, a worker was ended (``rcnn.data.workers``).
    """
    rank, world_size = process
    if len(dataset) == 0:
        raise ValueError(f"{dataset.source}: it has no images to train on.")
    if batch_size < 1 or batch_size % world_size:
        advice = "choose a multiple of the number of processes"
        raise ValueError(f"batch_size {batch_size} cannot be split among {world_size} processes: {advice}.")
    per_process = batch_size // world_size
    workers = min(workers, available_cores())
    capacity = CACHE_BYTES // max(workers, 1) // world_size
    batches = Batches(
        dataset, augment, transform, seed, batch_size, rank * per_process, per_process, capacity, views,
        device,
    )  # fmt: skip
    return _loaded(batches, start, workers)


@dataclass
class SampleCache:
    """Decoded samples by index, as many as there is room for.

    Nothing is evicted: every image is needed about once per epoch, so the least recently used one is the
    next to be needed.

    Attributes:
        capacity: remaining bytes.
    """

    capacity: int
    samples: dict[int, TrainingSample] = field(default_factory=dict)

    def get(self, dataset: Dataset, index: int) -> TrainingSample:
        """``dataset[index]``, from the cache if possible."""
        if index in self.samples:
            return self.samples[index]
        sample = TrainingSample.from_sample(dataset.undrawn(index))
        if sample.nbytes <= self.capacity:
            self.samples[index] = sample
            self.capacity -= sample.nbytes
        return sample


@dataclass(frozen=True)
class Batches:
    """The batches of one process by number, ``batches[k]``; picklable, without shared memory.

    Attributes:
        dataset: the images.
        augment: the augmentation.
        transform: how prediction resizes an image.
        seed: determines the order and the augmentation.
        batch_size: number of positions from one batch to the next.
        offset: the first position of this process within a batch.
        per_process: number of positions of this process in a batch.
        capacity: bytes of decoded images to cache.
        views: of each image, that recur; 0: all are new.
        device: that the batches are for.
    """

    dataset: Dataset
    augment: Augment
    transform: Transform
    seed: int
    batch_size: int
    offset: int
    per_process: int
    capacity: int = 0
    views: int = 0
    device: torch.device = HERE
    _kept: SampleCache = field(init=False, repr=False, compare=False)
    _ends: npt.NDArray[np.float64] = field(init=False, repr=False, compare=False)
    _shards: ShardOrders | None = field(init=False, repr=False, compare=False)
    _upright: npt.NDArray[np.bool_] | None = field(init=False, repr=False, compare=False)
    _grouped: dict[int, npt.NDArray[np.int64]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Start with an empty cache; divide the positions of an epoch among the images."""
        shards = shards_of(self.dataset.records)
        orders = None if shards is None else ShardOrders(shards, (self.seed, ORDER))
        object.__setattr__(self, "_shards", orders)
        # Stored images are held as they are stored, several hundred for the memory of one decoded.
        object.__setattr__(self, "_kept", SampleCache(self.capacity if orders is None else 0))
        objects = self.dataset.objects
        kinds, of_image = np.unique(np.c_[objects.sizes, objects.counts], axis=0, return_inverse=True)
        crops = [
            self.augment.crops_of((height, width), count, self.transform)
            for height, width, count in kinds.tolist()
        ]
        ends = np.cumsum((np.array(crops) ** self.augment.repeat)[of_image.reshape(-1)])
        object.__setattr__(self, "_ends", ends * (len(ends) / ends[-1]))
        object.__setattr__(self, "_upright", self._orientations())
        object.__setattr__(self, "_grouped", {})

    def _orientations(self) -> npt.NDArray[np.bool_] | None:
        """Which images are shown upright; None where batches are not grouped by that."""
        if self.views or self.augment.rotate90:  # all of one size; turned at random
            return None
        sizes = self.dataset.objects.sizes
        shown = sizes * self.transform.factors(sizes)[:, None]
        return upright_views(np.minimum(shown, self.augment.crop), self.batch_size)

    @property
    def later(self) -> bool:
        """Whether images are resized and coloured on the device."""
        return has_own_memory(self.device)

    def index(self, position: int) -> int:
        """The image at a position of the endless sequence."""
        count = len(self.dataset)
        epoch, place = divmod(position, count)
        order, offset = self._order(epoch)
        if self.views:
            _, offset = self._order(epoch % self.views)
        return int(self._images(order[place : place + 1] + offset)[0])

    def _images(self, numbers: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.int64]:
        """The images at numbers from 0 to n: a line that is divided among them."""
        indices = np.searchsorted(self._ends, numbers, side="right")
        return np.minimum(indices, len(self._ends) - 1)  # rounding

    def _order(self, epoch: int) -> tuple[npt.NDArray[np.int64], float]:
        """The order of an epoch's positions, and their offset in [0, 1)."""
        count = len(self.dataset)
        if self._shards is None:
            order, offset = _order(self.seed, epoch, count)
            ends = [count]
        else:
            found = self._shards[epoch]
            order, offset, ends = found.order, found.offset, found.ends.tolist()
        if self._upright is None:
            return order, offset
        if epoch not in self._grouped:
            if len(self._grouped) >= KEPT_ORDERS:
                del self._grouped[next(iter(self._grouped))]
            upright = self._upright[self._images(order + offset)]
            self._grouped[epoch] = order[self._grouping(epoch, upright, ends)]
        return self._grouped[epoch], offset

    def _grouping(
        self, epoch: int, upright: npt.NDArray[np.bool_], ends: Sequence[int]
    ) -> npt.NDArray[np.int64]:
        """The order of an epoch's places, grouped between these ends (those of open shards)."""
        rng = np.random.default_rng([self.seed, GROUPING, epoch])
        parts = []
        for number, (start, end) in enumerate(pairwise([0, *ends])):
            first = epoch * len(upright) + start
            last = (epoch * len(ends) + number) % 2 == 0
            parts.append(start + grouped(upright[start:end], first, self.batch_size, rng, last=last))
        return np.concatenate(parts)

    def _other(self, position: int, rng: np.random.Generator) -> int:
        """Another image at random, of what is at hand at a position."""
        if self._shards is None:
            return int(rng.integers(len(self.dataset)))
        epoch, place = divmod(position, len(self.dataset))
        return self._shards[epoch].near(place, rng)

    def _read_ahead(self, position: int) -> None:
        """Begin to read what a later position needs."""
        records = self.dataset.records
        if isinstance(records, LazyRecords) and records.stored is not None:
            records.stored.read_ahead(int(records.indices[self.index(position)]))

    def view(self, position: int) -> int | None:
        """The number of the view at a position of the endless sequence; None if views do not recur."""
        if not self.views:
            return None
        epoch, place = divmod(position, len(self.dataset))
        order, _ = self._order(epoch)
        return epoch % self.views * len(self.dataset) + int(order[place])

    def __getitem__(self, number: int) -> list[TrainingSample]:
        first = number * self.batch_size + self.offset
        return [self.sample(position) for position in range(first, first + self.per_process)]

    def sample(self, position: int) -> TrainingSample:
        """The augmented sample at a position of the endless sequence.

        Raises:
            ValueError: the image or its truth is unusable; the message names the file.
            RuntimeError: anything else failed for this image; the message names the file.
        """
        view = self.view(position)
        stream = (VARIATION, position) if view is None else (RECURRING, view)
        rng = np.random.default_rng([self.seed, *stream])
        index = self.index(position)
        if self._shards is not None:
            self._read_ahead(position + POSITIONS_AHEAD)
        try:
            sample = self._kept.get(self.dataset, index)
            varied = self.augment(
                sample, self.transform, rng, lambda: self._kept.get(self.dataset, self._other(position, rng)),
                later=self.later,
            )  # fmt: skip
            targets = without_empty_crowd(varied.targets) if self.later else varied.targets
            return replace(varied, view=view, targets=targets)
        except Exception as error:
            kind = ValueError if isinstance(error, ValueError | OSError) else RuntimeError
            path = self.dataset.records[index].path
            raise kind(
                f"{path} could not be prepared for training: {type(error).__name__}: {error}"
            ) from error

    def __reduce__(self) -> tuple[Callable[[bytes, bytes], Batches], tuple[bytes, bytes]]:
        values = (
            self.dataset,
            self.augment,
            self.transform,
            self.seed,
            self.batch_size,
            self.offset,
            self.per_process,
            self.capacity,
            self.views,
            self.device,
        )
        # By value: torch would pass each tensor of the data set as an open file.
        return _unpacked_batches, Packet.of(values).by_value()


def _unpacked_batches(header: bytes, data: bytes) -> Batches:
    return Batches(*Packet.from_value(header, data).unpacked())


@lru_cache(maxsize=4)
def _order(seed: int, epoch: int, count: int) -> tuple[npt.NDArray[np.int64], float]:
    """The order of an epoch's positions, and their offset in [0, 1); a batch may span two epochs."""
    rng = np.random.default_rng([seed, ORDER, epoch])
    return rng.permutation(count), rng.random()


@dataclass(frozen=True)
class _WorkerBatches:
    """What a worker returns: a packed batch, or the error that prevented it."""

    batches: Batches
    workers: int

    def __getitem__(self, number: int) -> Packet | tuple[bytes, bytes] | Exception:
        try:
            return Packet.of(self.batches[number], self.workers).portable
        except (ValueError, RuntimeError) as error:
            # Raised in the worker, it would be buried in the worker's traceback.
            return error


def _loaded(batches: Batches, start: int, workers: int) -> Iterator[list[TrainingSample]]:
    """Batches as this process makes them or, packed by workers, as they arrive."""
    device = batches.device
    if workers == 0:
        for number in itertools.count(start):
            yield arrived(Packet.of(batches[number]), device) if batches.later else batches[number]
    loader = DataLoader(
        cast(Any, _WorkerBatches(batches, workers)),
        batch_size=None,  # an item is a whole batch already
        sampler=range(start, sys.maxsize),
        num_workers=workers,
        collate_fn=_as_it_is,
        generator=torch.Generator(),  # the default draws from the one that the model's training uses
        worker_init_fn=prepare_worker,
    )
    for value in arriving(loader):
        if isinstance(value, Exception):
            raise value
        packet = value if isinstance(value, Packet) else Packet.from_value(*value)
        yield arrived(packet, device) if batches.later else packet.here().unpacked()


def _as_it_is(value: Any) -> Any:
    return value
