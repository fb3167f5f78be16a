"""Choose the images that are held out of a data set, so that every class stays in the rest."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Sequence

import numpy as np

from rcnn.data.dataset import Dataset


def choose_held_out(data: Dataset, count: int, seed: int) -> list[int]:
    """At most ``count`` images at random, at least one; the last image with objects of a class stays."""
    order = np.random.default_rng([seed, 3]).permutation(len(data)).tolist()
    classes = _classes_of_images(data)
    left = Counter(label for of_image in classes for label in of_image)
    held: list[int] = []
    for i in order:
        if len(held) < count and all(left[label] > 1 for label in classes[i]):
            held.append(i)
            left.subtract(classes[i])
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
    copies: dict[str, list[int]] = {}
    for index, digest in enumerate(digests):
        copies.setdefault(digest, []).append(index)
    classes = _classes_of_images(data)
    left = Counter(label for of_image in classes for label in of_image)
    held: list[int] = []
    order = sorted((_place(digest, seed), digest) for digest in copies if digest not in never)
    for place, digest in order:
        lost = Counter(label for index in copies[digest] for label in classes[index])
        if (place < fraction or not held) and all(left[label] > count for label, count in lost.items()):
            held += copies[digest]
            left -= lost
    if held or not order:
        return sorted(held)
    first = copies[order[0][1]]
    return first if len(first) < len(data) else first[:1]


def _place(digest: str, seed: int) -> float:
    """A number from 0 to 1 that an image has by itself."""
    found = hashlib.blake2b(f"{seed}:{digest}".encode(), digest_size=8).digest()
    return int.from_bytes(found) / 2**64


def _classes_of_images(data: Dataset) -> list[set[int]]:
    """The classes of the objects of each image, crowds not counted."""
    objects = data.objects
    ends = objects.counts.cumsum()[:-1]
    of_images = zip(np.split(objects.labels, ends), np.split(objects.crowd, ends), strict=True)
    return [set(labels[~crowd].tolist()) for labels, crowd in of_images]
