"""COCO's run-length codes of many masks at once, without a full bitmap of any.

A code lists the lengths of the runs of 0, 1, 0, … of a bitmap read column by column. As text, each length is
written in groups of five bits, lowest first; a character minus 48 holds a group and, as its sixth bit,
whether another one follows. From the fourth length on it is the difference to the length before the previous
one that is written (pycocotools, ``rleToString``).

Legend: N masks, R lengths of all of them, B characters of all of them, h and w of a mask's window, H and W of
an image. The lengths, or characters, of mask i end at ``ends[i]``.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

Integers = npt.NDArray[np.int64]
Bytes = npt.NDArray[np.uint8]

FIRST = 48  # the character of no bits
BITS = 5  # in a character
MORE = 32  # another character follows
SIGN = 16  # of the last group: the number is negative
PLAIN = 3  # lengths that are written as they are, before differences begin


def run_lengths(
    patches: Iterable[Bytes], windows: Integers, size: tuple[int, int]
) -> tuple[Integers, Integers]:
    """The lengths of the runs of masks that are placed in an image.

    Args:
        patches: of 0 and 1, ``[h, w]`` each.
        windows: ``[N, 4]``: x1 y1 x2 y2 of the place of each.
        size: (height, width) of the image.

    Returns:
        The lengths ``[R]`` and where those of each mask end ``[N]``.

    Convention: the pixel at (y, x) = (1, 1) of an image of 2 by 3 gives the lengths 3, 1, 2.
    """
    owner, begins, ends = _runs(patches, windows, size[0])
    counts = np.bincount(owner, minlength=len(windows))
    # Of each mask: 0, where its first run begins and ends, …, and the number of pixels.
    last = (2 * counts + 2).cumsum() - 1
    edges = np.zeros(2 * len(owner) + 2 * len(windows), np.int64)
    place = 2 * np.arange(len(owner)) + 2 * owner + 1
    edges[place], edges[place + 1], edges[last] = begins, ends, size[0] * size[1]
    lengths = np.diff(edges)
    kept = np.ones(len(lengths), bool)
    kept[last[:-1]] = False  # from one mask to the next
    full = last[lengths[last - 1] == 0] - 1 if len(last) else last
    kept[full] = False  # nothing is left behind the last run
    return lengths[kept], kept.cumsum()[last - 1] if len(last) else last


def _runs(patches: Iterable[Bytes], windows: Integers, height: int) -> tuple[Integers, Integers, Integers]:
    """The mask of each run of ones, and the pixels of the image where it begins and where it has ended."""
    flat = np.concatenate([np.zeros(0, np.uint8), *(patch.T.reshape(-1) for patch in patches)])
    x, y = windows[:, 0], windows[:, 1]
    w, h = windows[:, 2] - x, windows[:, 3] - y
    areas = w * h
    offsets = areas.cumsum() - areas
    columns = np.where(h > 0, w, 0)
    of_column = np.repeat(np.arange(len(windows)), columns)
    number = np.arange(len(of_column)) - np.repeat(columns.cumsum() - columns, columns)
    tops = offsets[of_column] + number * h[of_column]
    above, below = np.zeros_like(flat), np.zeros_like(flat)
    above[1:], below[:-1] = flat[:-1], flat[1:]
    above[tops] = below[tops + h[of_column] - 1] = 0
    begins, lasts = np.flatnonzero(flat > above), np.flatnonzero(flat > below)
    owner = np.searchsorted(areas.cumsum(), begins, side="right")
    column, row = np.divmod(begins - offsets[owner], h[owner])
    ends = lasts - begins + 1
    begins = (x[owner] + column) * height + y[owner] + row
    ends += begins
    # A run that ends at the bottom of the image and one that begins at the top of the next column are one.
    apart = np.r_[True, (begins[1:] != ends[:-1]) | (owner[1:] != owner[:-1])][: len(owner)]
    return owner[apart], begins[apart], ends[np.r_[apart[1:], True][: len(owner)]]


def to_text(lengths: Integers, ends: Integers) -> tuple[Bytes, Integers]:
    """The characters ``[B]`` of run lengths, and where those of each mask end ``[N]``."""
    first = starts_of(ends)
    place = np.arange(len(lengths)) - np.repeat(first, ends - first)
    numbers = lengths.copy()
    later = np.flatnonzero(place >= PLAIN)
    numbers[later] -= lengths[later - 2]
    groups: list[Bytes] = []
    written: list[npt.NDArray[np.bool_]] = []
    active = np.ones(len(numbers), bool)
    while active.any():
        group = numbers & (2**BITS - 1)
        numbers >>= BITS
        more = np.where(group & SIGN, numbers != -1, numbers != 0)
        groups.append((group + MORE * more + FIRST).astype(np.uint8))
        written.append(active)
        active = active & more
    if not groups:
        return np.zeros(0, np.uint8), np.zeros(len(ends), np.int64)
    used = np.stack(written, 1)
    text = np.stack(groups, 1)[used]
    return text, np.r_[0, used.sum(1).cumsum()][ends]


def numbers_of(text: Bytes) -> tuple[Integers, Integers]:
    """The numbers in valid codes, lengths and differences as they are written, and where each one ends."""
    codes = text.astype(np.int64) - FIRST
    ends = np.flatnonzero((codes & MORE) == 0) + 1
    starts = starts_of(ends)
    digits = ends - starts
    if not len(ends):
        return starts, ends
    place = np.arange(len(codes)) - np.repeat(starts, digits)
    numbers = np.add.reduceat((codes & (2**BITS - 1)) << (BITS * place), starts)
    numbers -= ((codes[ends - 1] & SIGN) != 0) * (1 << (BITS * digits))
    return numbers, ends


def from_text(text: Bytes, ends: Integers) -> tuple[Integers, Integers]:
    """The run lengths ``[R]`` of valid codes, and where those of each mask end ``[N]``; inverts to_text."""
    numbers, characters = numbers_of(text)
    number_ends = np.searchsorted(characters, ends, side="right")
    first = starts_of(number_ends)
    mask = np.repeat(np.arange(len(ends)), number_ends - first)
    within = np.arange(len(numbers)) - first[mask]
    # Three chains of differences in each mask: its first length, and the others of odd and of even place.
    chain = 3 * mask + np.where(within == 0, 0, 1 + within % 2)
    order = np.argsort(chain, kind="stable")
    sums = numbers[order].cumsum()
    begins = np.flatnonzero(np.diff(chain[order], prepend=-1))
    before = np.r_[0, sums][begins]
    lengths = np.empty_like(numbers)
    lengths[order] = sums - np.repeat(before, np.diff(np.r_[begins, len(numbers)]))
    return lengths, number_ends


def starts_of(ends: Integers) -> Integers:
    """Where each of a row of parts begins, from where they end."""
    return np.concatenate([np.zeros(1, np.int64), ends])[:-1]


def areas_of(lengths: Integers, ends: Integers) -> Integers:
    """The number of pixels ``[N]`` in each mask."""
    first = starts_of(ends)
    mask = np.repeat(np.arange(len(ends)), ends - first)
    ones = (np.arange(len(lengths)) - first[mask]) % 2
    total = np.r_[0, (lengths * ones).cumsum()]
    areas: Integers = total[ends] - total[first]
    return areas


def drawn(lengths: Integers, window: tuple[int, int, int, int], height: int) -> Bytes:
    """The part ``[h, w]`` of a mask's bitmap that is inside a window, of 0 and 1.

    Args:
        lengths: of the mask's runs in an image of ``height``.
        window: x1 y1 x2 y2.
        height: of the image.
    """
    x1, y1, x2, y2 = window
    # The columns of the window, from the top of the image to its bottom.
    ends = (lengths.cumsum() - x1 * height).clip(0, (x2 - x1) * height)
    strip = np.repeat(np.arange(len(lengths), dtype=np.uint8) & 1, np.diff(ends, prepend=0))
    return np.ascontiguousarray(strip.reshape(x2 - x1, height)[:, y1:y2].T)
