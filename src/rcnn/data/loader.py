"""Training batches: endless, and a function of their number alone.

Batch k of a run holds the positions ``k * batch_size`` and following; position p is the image
``permutation(seed, epoch)[p mod n]`` of epoch ``p // n``, varied with the random numbers of ``(seed, p)``. So
a resumed run sees exactly what an uninterrupted one would have seen, whatever the number of workers, and
several processes together see the batches of one. Where images that hold several crops are shown more often
(``Augment.repeat``), an epoch still has n positions, and an image some of them or, now and then, none.

Decoded images are kept as long as there is room: of large ones a crop takes less time than the decoding.
"""

from __future__ import annotations

import itertools
import pickle
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from io import BytesIO
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from rcnn.data.augment import Augment
from rcnn.data.cores import available_cores
from rcnn.data.dataset import Dataset
from rcnn.data.geometry import TrainingSample

if TYPE_CHECKING:
    import numpy.typing as npt

    from rcnn.transform import Transform

# The second word of a seed: which of the independent random streams of a run is meant.
ORDER, VARIATION = 0, 1
CACHE_BYTES = 2**29  # bytes of decoded images that all processes together keep


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
) -> Iterator[list[TrainingSample]]:
    """Yield batches of varied samples without end, from batch ``start`` on.

    Args:
        dataset: the images.
        augment: the variations.
        transform: how prediction resizes an image.
        batch_size: images in a batch of all processes together.
        seed: decides order and variations.
        start: the number of the first batch, for a run that goes on.
        workers: processes that prepare batches, at most one a core; 0 prepares them here.
        process: the rank of this process, which gets its contiguous part of each batch, and how many there
            are.

    Raises:
        ValueError: no images, or a batch that cannot be shared out evenly; while iterating, an image that
            cannot be used, named.
    """
    rank, world_size = process
    if len(dataset) == 0:
        raise ValueError(f"{dataset.source} has no images to train on.")
    if batch_size < 1 or batch_size % world_size:
        advice = "choose a multiple of the number of processes"
        raise ValueError(f"batch_size {batch_size} cannot be shared out to {world_size} processes: {advice}.")
    per_process = batch_size // world_size
    workers = min(workers, available_cores())
    capacity = CACHE_BYTES // max(workers, 1) // world_size
    batches = Batches(
        dataset, augment, transform, seed, batch_size, rank * per_process, per_process, capacity
    )
    return _loaded(batches, start, workers)


@dataclass
class SampleCache:
    """Decoded samples by their index, the first that there is room for.

    Nothing is evicted: every image comes about once an epoch, so that the one not seen for longest is the
    next that is needed.

    Attributes:
        capacity: bytes left.
    """

    capacity: int
    samples: dict[int, TrainingSample] = field(default_factory=dict)

    def get(self, dataset: Dataset, index: int) -> TrainingSample:
        """``dataset[index]``, decoded now or before."""
        if index in self.samples:
            return self.samples[index]
        sample = TrainingSample.from_sample(dataset[index])
        tensors = [sample.image, sample.targets.semantic]
        tensors += [] if sample.targets.masks is None else [sample.targets.masks.pixels]
        size = sum(tensor.nbytes for tensor in tensors if tensor is not None)
        if size <= self.capacity:
            self.samples[index] = sample
            self.capacity -= size
        return sample


@dataclass(frozen=True)
class Batches:
    """The batches of one process by number: ``batches[k]``; picklable, without shared memory.

    Attributes:
        dataset: the images.
        augment: the variations.
        transform: how prediction resizes an image.
        seed: decides order and variations.
        batch_size: positions from one batch to the next.
        offset: the first position of this process within a batch.
        per_process: positions of this process in a batch.
        capacity: bytes of decoded images that it keeps.
    """

    dataset: Dataset
    augment: Augment
    transform: Transform
    seed: int
    batch_size: int
    offset: int
    per_process: int
    capacity: int = 0
    _kept: SampleCache = field(init=False, repr=False, compare=False)
    _ends: npt.NDArray[np.float64] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Begin with nothing kept; share out the positions of an epoch among the images."""
        object.__setattr__(self, "_kept", SampleCache(self.capacity))
        crops = [self.augment.crops(record.truth, self.transform) for record in self.dataset.records]
        ends = np.cumsum(np.array(crops) ** self.augment.repeat)
        object.__setattr__(self, "_ends", ends * (len(ends) / ends[-1]))

    def index(self, position: int) -> int:
        """The image at a position of the endless sequence."""
        epoch, place = divmod(position, len(self.dataset))
        order, offset = _order(self.seed, epoch, len(self.dataset))
        # Of the n places of an epoch, an image has those in its share of the line from 0 to n.
        index = int(np.searchsorted(self._ends, order[place] + offset, side="right"))
        return min(index, len(self.dataset) - 1)  # rounding

    def __getitem__(self, number: int) -> list[TrainingSample]:
        first = number * self.batch_size + self.offset
        return [self.sample(position) for position in range(first, first + self.per_process)]

    def sample(self, position: int) -> TrainingSample:
        """The varied sample at a position of the endless sequence.

        Raises:
            ValueError: the image or its truth cannot be used; names the file.
            RuntimeError: anything else went wrong with this image; names the file.
        """
        rng = np.random.default_rng([self.seed, VARIATION, position])
        index, count = self.index(position), len(self.dataset)
        try:
            sample = self._kept.get(self.dataset, index)
            return self.augment(
                sample, self.transform, rng, lambda: self._kept.get(self.dataset, int(rng.integers(count)))
            )
        except Exception as error:
            kind = ValueError if isinstance(error, ValueError | OSError) else RuntimeError
            path = self.dataset.records[index].path
            raise kind(
                f"{path} could not be prepared for training: {type(error).__name__}: {error}"
            ) from error

    def __reduce__(self) -> tuple[Callable[[bytes], Batches], tuple[bytes]]:
        values = (
            self.dataset,
            self.augment,
            self.transform,
            self.seed,
            self.batch_size,
            self.offset,
            self.per_process,
            self.capacity,
        )
        return _unpacked_batches, (_packed(values),)


def _unpacked_batches(data: bytes) -> Batches:
    return Batches(*pickle.loads(data))


@lru_cache(maxsize=2)
def _order(seed: int, epoch: int, count: int) -> tuple[npt.NDArray[np.int64], float]:
    """The order of an epoch's places, and where each lies between 0 and 1; two are kept, as batches do."""
    rng = np.random.default_rng([seed, ORDER, epoch])
    return rng.permutation(count), rng.random()


class _Pickler(pickle.Pickler):
    """Pickles tensors by value.

    Between processes torch would hand over each tensor as a file descriptor of shared memory: a data set of
    some thousand records, or a few batches of small tensors, would exhaust those a process may have.
    """

    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            return torch.from_numpy, (value.numpy(),)
        return NotImplemented


def _packed(value: object) -> bytes:
    data = BytesIO()
    _Pickler(data, protocol=5).dump(value)
    return data.getvalue()


@dataclass(frozen=True)
class _WorkerBatches:
    """What a worker hands over: a batch, or the error that kept it from making one."""

    batches: Batches

    def __getitem__(self, number: int) -> bytes:
        try:
            return _packed(self.batches[number])
        except (ValueError, RuntimeError) as error:
            # Raised in the worker it would come out buried in the worker's own traceback.
            return pickle.dumps(error)


def _loaded(batches: Batches, start: int, workers: int) -> Iterator[list[TrainingSample]]:
    if workers == 0:
        yield from (batches[number] for number in itertools.count(start))
    loader = DataLoader(
        cast(Any, _WorkerBatches(batches)),
        batch_size=None,  # an item is a whole batch already
        sampler=range(start, sys.maxsize),
        num_workers=workers,
        generator=torch.Generator(),  # the default draws from the one that the model's training uses
    )
    for data in loader:
        value = pickle.loads(data)
        if isinstance(value, Exception):
            raise value
        yield value
