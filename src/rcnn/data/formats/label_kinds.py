"""What the numbers in label images mean: objects, foreground and background, or classes.

The files look alike; a sample of them shows the difference. Objects have a number each, mostly in one part.
A foreground mask has two values, or soft edges between them, as drawing programs leave them. A map of classes
has a few numbers that return in most images, each in many separate parts, or no background at all.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from rcnn.data.formats.colours import read_object_numbers
from rcnn.data.problems import Problem, shortened
from rcnn.io.images import ImageError, read_mask_colours, read_numbers

Kind = Literal["objects", "foreground", "classes"]
Numbers = npt.NDArray[np.int64]

SAMPLE = 8  # label images looked at
MAX_NUMBERS = 100  # numbers of a label image looked at
MAX_CLASSES = 60  # more distinct numbers are objects
SEPARATE = 1.5  # mean number of parts from which on a number is no object
SURELY = (3.0, 2.0)  # the same for 1, which numbers objects too: in one image, and in more
SMALLEST_PART, SMALLEST_FRACTION = 4, 0.1  # a part in pixels, and of the largest part of its number
BRIGHT, NEAR = 128, 24  # of 8-bit gray: least brightness of a soft mask, and the width of both ends
COVERED = 0.5  # fraction of its image from which on a mask may be the background
WHITE = 255
EDGE = 8  # pixels from the border in which soft edges are: a block of JPEG
MOST = 0.9  # fraction of the gray pixels that are there
MAX_BETWEEN = 0.25  # fraction of the pixels that may be between black and white
JPEG_ENDINGS = (".jpg", ".jpeg", ".jpe", ".jfif")


class ClassNumbersError(ValueError):
    """Label images whose numbers look like classes, and nothing says that they are."""


@dataclass(frozen=True)
class Meaning:
    """What the numbers of a set of label images mean.

    Attributes:
        kind: objects, foreground, or classes.
        numbers: those that occur in the sample, most frequent first.
        parts: mean number of separate parts of a number in an image.
    """

    kind: Kind
    numbers: tuple[int, ...] = ()
    parts: float = 0.0


def meaning_of(labels: Sequence[Path]) -> Meaning:
    """What the numbers of label images mean, judged by a sample of them."""
    step = max(len(labels) // SAMPLE, 1)
    sample = tuple(labels[::step][:SAMPLE])
    return _meaning_of(sample, tuple(_changed(label) for label in sample))


def read_gray(label: Path) -> Numbers:
    """The numbers of a label image or of its colours; where all are nearly gray, the gray, int64 ``[H, W]``.

    Raises:
        ImageError: the file is unusable, or has the colours of a photograph.
    """
    try:
        return read_numbers(label)
    except ImageError:
        pixels = read_mask_colours(label).astype(np.int64)
        if int(np.ptp(pixels, axis=2).max(initial=0)) > NEAR:
            return read_object_numbers(label)
        return pixels[:, :, 0]


def foreground_of(numbers: Numbers) -> npt.NDArray[np.bool_] | None:
    """Where a label image of two values is not 0; None if it has more values.

    With soft edges, pixels of at least half of the largest value are inside.
    """
    values, counts = np.unique(numbers, return_counts=True)
    found, counts = values[values != 0], counts[values != 0]
    if len(found) <= 1 and (len(values) > len(found) or not len(found)):
        least = 1
    elif is_soft(numbers, found, counts):
        least = (int(found[-1]) + 1) // 2
    else:
        return None
    inside: npt.NDArray[np.bool_] = numbers >= least
    return inside


def is_soft(numbers: Numbers, found: Numbers, counts: Numbers) -> bool:
    """Whether a label image is black and white with gray edges between.

    Args:
        numbers: the label image.
        found: its numbers besides 0, in order.
        counts: how many pixels each has.
    """
    from scipy.ndimage import binary_dilation, binary_erosion

    top = int(found[-1])
    # Of classes and void, 255, none is just below the largest value.
    rising = found[(found > NEAR) & (found < top)]
    if len(rising) < 2 or not BRIGHT <= top <= 255 or found[0] < 0:
        return False
    inside = numbers >= (top + 1) // 2
    bright = int(counts[found >= top - NEAR].sum())
    between = (numbers > NEAR) & (numbers < top - NEAR)
    if 2 * bright < int(inside.sum()) or float(between.mean()) > MAX_BETWEEN:
        return False
    edge = binary_dilation(inside, iterations=EDGE) & ~binary_erosion(inside, iterations=EDGE)
    gray = (numbers > 0) & (numbers < top)
    return int((gray & edge).sum()) >= MOST * int(gray.sum())


def looks_like_background(mask: npt.NDArray[np.bool_]) -> bool:
    """Whether a mask covers most of its image, and all its corners."""
    corners = mask[[0, 0, -1, -1], [0, -1, 0, -1]] if mask.size else np.zeros(1, np.bool_)
    return bool(corners.all()) and float(mask.mean()) > COVERED


def background_problems(source: Path, names: Sequence[str]) -> list[Problem]:
    """The problem of images in which an object covers what a background covers; none without ``names``."""
    if not names:
        return []
    what = (
        f"In {len(names)} images an object covers the corners and most of the image, as a background does: "
        f"{shortened(names)}."
    )
    advice = "If the masks are inverted, swap black and white: 0 is the background."
    return [Problem(source, what, advice, "masks", "warning")]


def separate_parts(mask: npt.NDArray[np.bool_]) -> list[int]:
    """The sizes in pixels of the parts of a mask that do not touch each other, without specks.

    Pixels that touch at a corner are in the same part.
    """
    from scipy.ndimage import label

    numbered, count = label(mask, np.ones((3, 3), np.int8))
    sizes = np.bincount(numbered.reshape(-1), minlength=count + 1)[1:]
    least = max(SMALLEST_PART, SMALLEST_FRACTION * int(sizes.max(initial=0)))
    return [int(size) for size in sizes if size >= least]


@lru_cache(maxsize=64)
def _meaning_of(sample: tuple[Path, ...], changed: tuple[int, ...]) -> Meaning:
    """``changed`` makes the cache follow changes of the files."""
    images = []
    for label in sample:
        try:
            images.append(read_gray(label))
        except ImageError:  # the reader reports it
            continue
    images = [numbers for numbers in images if numbers.any()]
    if not images:
        return Meaning("objects")
    masks = [foreground_of(numbers) for numbers in images]
    known = [mask for mask in masks if mask is not None]
    counts = Counter(value for numbers in images for value in np.unique(numbers).tolist() if value)
    numbers = tuple(value for value, _ in counts.most_common())
    if len(known) == len(images):
        parts = float(np.mean([len(separate_parts(mask)) for mask in known]))
        soft = any(len(np.unique(found)) > 2 for found in images)
        is_jpeg = any(label.suffix.lower() in JPEG_ENDINGS for label in sample)
        # White is no number of an object; a 1 is, and an object may be in two parts.
        least = SEPARATE if numbers == (WHITE,) else SURELY[min(len(images), 2) - 1]
        kind: Kind = "foreground" if soft or is_jpeg or parts >= least else "objects"
        return Meaning(kind, numbers, parts)
    parts = float(np.mean([len(found) for image in images for found in _parts_of_numbers(image)] or [0]))
    recurring = max(counts.values()) >= max(2, len(images) / 2) or len(images) == 1
    full = len(images) > 2 and all(image.all() for image in images) and min(counts.values()) > 1
    suspicious = parts >= SEPARATE or (full and len(counts) < 10)
    few = len(counts) <= MAX_CLASSES and recurring
    return Meaning("classes" if few and suspicious else "objects", numbers, parts)


def _parts_of_numbers(numbers: Numbers) -> list[list[int]]:
    """The parts of each number of a label image that has any but specks."""
    from scipy.ndimage import find_objects

    if numbers.min() < 0 or numbers.max() > 2**31 - 1:
        return []
    values, dense = np.unique(numbers, return_inverse=True)
    dense = dense.reshape(numbers.shape) + int(values[0] != 0)  # the background, if any, is 0
    windows = find_objects(dense.astype(np.int32))[:MAX_NUMBERS]
    found = [
        separate_parts(dense[window] == index)
        for index, window in enumerate(windows, 1)
        if window is not None
    ]
    return [parts for parts in found if parts]


def _changed(file: Path) -> int:
    try:
        return file.stat().st_mtime_ns
    except OSError:
        return 0
