"""Choose the images that are held out of a data set, so that every class stays in the rest."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Sequence

import numpy as np

from rcnn.data.dataset import Dataset
from rcnn.data.digests import Digests, DigestSet


def choose_held_out(data: Dataset, count: int, seed: int) -> list[int]:
    """At most ``count`` images at random, at least one; the last image with objects of a class stays."""
    order = np.random.default_rng([seed, 3]).permutation(len(data)).tolist()
    classes = ImageClasses(data)
    held: list[int] = []
    for i in order:
        if len(held) < count and classes.take([i]):
            held.append(i)
    return sorted(held or order[:1])


def choose_by_content(
    data: Dataset, digests: Sequence[str], fraction: float, seed: int, never: Collection[str] = ()
) -> list[int]:
    """About a ``fraction`` of the images, each chosen by its own content: other images have no say in it.

    So images that are added later move none of the earlier ones from one part to the other, but for these:
    the last image with objects of a class stays, and at least one image is chosen if any may be. Copies of an
    image are in the same part.

    Args:
        data: the images.
        digests: of their content.
        fraction: 0 to 1.
        seed: another one chooses other images.
        never: digests of images that are not to be chosen.
    """
    given = digests if isinstance(digests, Digests) else Digests.of(digests)
    numbers, which = np.unique(given.numbers, return_inverse=True)
    free = np.flatnonzero(~DigestSet.of(never).holds(Digests(numbers)))
    places = np.fromiter((_place(digest, seed) for digest in Digests(numbers[free])), np.float64)
    order = np.argsort(places, kind="stable")  # of equal places the lower number is first
    # The images of each number, side by side.
    images = np.argsort(which, kind="stable")
    ends = np.cumsum(np.bincount(which, minlength=len(numbers)))
    classes = ImageClasses(data)
    held: list[int] = []
    for place, number in zip(places[order], free[order], strict=True):
        if held and place >= fraction:
            break
        copies = images[ends[number - 1] if number else 0 : ends[number]].tolist()
        if classes.take(copies):
            held += copies
    if held or not len(order):
        return sorted(held)
    first: list[int] = np.flatnonzero(which == free[order[0]]).tolist()
    return first if len(first) < len(data) else first[:1]


def _place(digest: str, seed: int) -> float:
    """A number from 0 to 1 that an image has by itself."""
    found = hashlib.blake2b(f"{seed}:{digest}".encode(), digest_size=8).digest()
    return int.from_bytes(found) / 2**64


class ImageClasses:
    """The classes of the objects of each image, crowds not counted, and in how many images each is left."""

    def __init__(self, data: Dataset) -> None:
        objects = data.objects
        real = ~objects.crowd
        self._labels = objects.labels[real]
        counts = np.bincount(objects.images[real], minlength=len(objects.counts))
        self._first = np.r_[0, np.cumsum(counts)]
        names = 1 + int(self._labels.max(initial=0))
        pairs = np.unique(objects.images[real] * names + self._labels)
        self.left = np.bincount(pairs % names, minlength=names)

    def take(self, images: Sequence[int]) -> bool:
        """Count some images as gone, if every class of theirs is in others that are left; whether it is."""
        own = (self._labels[self._first[i] : self._first[i + 1]].tolist() for i in images)
        lost = Counter(label for labels in own for label in set(labels))
        if any(self.left[label] <= count for label, count in lost.items()):
            return False
        for label, count in lost.items():
            self.left[label] -= count
        return True
