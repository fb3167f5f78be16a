"""Batches of images of one orientation, so that little of them is padding.

A batch is as high as its highest and as wide as its widest image. Three in ten of COCO's photographs are
upright, so that nearly every batch of 16 at random is square, and a third of its pixels are padding.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt


def grouped(
    upright: npt.NDArray[np.bool_], first: int, batch_size: int, rng: np.random.Generator, *, last: bool
) -> npt.NDArray[np.int64]:
    """The order in which items at random are shown, so that batches hold one orientation.

    Each item is shown once. Batches begin at multiples of ``batch_size``; those that do not fill a batch of
    their own are shown in the first and last, incomplete one, and in at most two between them.

    Args:
        upright: bool ``[N]``, of each item in its random order.
        first: the position of the first item.
        batch_size: number of positions in a batch.
        rng: shuffles the batches.
        last: whether upright items come last among what is left over. With the opposite in the next epoch,
            the batch that both share holds one orientation, too.

    Returns:
        int64 ``[N]``, the item at each position.
    """
    count = len(upright)
    head = min(count, -first % batch_size)
    batches = (count - head) // batch_size
    kinds = [np.flatnonzero(~upright), np.flatnonzero(upright)]
    filled = [len(kind) // batch_size for kind in kinds]
    while sum(filled) > batches:
        filled[int(np.argmax(filled))] -= 1
    parts = [
        kind[: number * batch_size].reshape(-1, batch_size)
        for kind, number in zip(kinds, filled, strict=True)
    ]
    rests = [kind[number * batch_size :] for kind, number in zip(kinds, filled, strict=True)]
    rest = np.concatenate(rests if last else rests[::-1])
    mixed = (batches - sum(filled)) * batch_size
    between = rest[head : head + mixed].reshape(-1, batch_size)
    whole = rng.permutation(np.concatenate([*parts, between]))
    return np.concatenate([rest[:head], whole.reshape(-1), rest[head + mixed :]])


def upright_views(shown: npt.NDArray[np.float64], batch_size: int) -> npt.NDArray[np.bool_] | None:
    """Which images are shown higher than wide; None if batches need not be grouped by that.

    Args:
        shown: float64 ``[I, 2]``, (height, width) at which each image is shown.
        batch_size: which there have to be images of each orientation for.
    """
    upright: npt.NDArray[np.bool_] = shown[:, 0] > shown[:, 1]
    fewest = min(int(upright.sum()), int((~upright).sum()))
    return upright if 1 < batch_size <= fewest else None
