"""Choose the images that are held out of a data set, so that every class stays in the rest."""

from __future__ import annotations

from collections import Counter

import numpy as np

from rcnn.data.dataset import Dataset


def choose_held_out(data: Dataset, count: int, seed: int) -> list[int]:
    """At most ``count`` images at random, at least one; the last image with objects of a class stays."""
    order = np.random.default_rng([seed, 3]).permutation(len(data)).tolist()
    objects = data.objects
    ends = objects.counts.cumsum()[:-1]
    of_images = zip(np.split(objects.labels, ends), np.split(objects.crowd, ends), strict=True)
    classes = [set(labels[~crowd].tolist()) for labels, crowd in of_images]
    left = Counter(label for of_image in classes for label in of_image)
    held: list[int] = []
    for i in order:
        if len(held) < count and all(left[label] > 1 for label in classes[i]):
            held.append(i)
            left.subtract(classes[i])
    return sorted(held or order[:1])
