"""Images that occur more than once: the same content, or nearly the same picture.

Near-duplicates are found by a difference hash: an image is reduced to 17 by 16 gray pixels, and each bit says
whether a pixel is brighter than its left neighbour. Copies that were resized, compressed again or slightly
retouched keep almost all of their 256 bits. Dark or empty images agree in most bits by chance, so a pair must
also look the same, pixel by pixel, in its reduced form.

Legend: I images.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from rcnn.data.dataset import LazyRecords, Record
from rcnn.data.digests import DIGITS, Digests
from rcnn.data.stored_images import stored_image
from rcnn.io.images import ImageError

SIDE = 16  # pixels of the reduced image
MAX_BITS = 16  # of 256 that may differ
MIN_CORRELATION = 0.99  # of the reduced images' pixels
MIN_CONTRAST = 2.0  # gray levels, std of a reduced image: plainer ones all look the same
ROWS_AT_ONCE = 1024  # images that are compared with all others at once


def content_digest(record: Record) -> str:
    """A digest of the bytes of an image file, or of the pixels of an image that is not a file.

    Raises:
        ImageError: the image cannot be read.
    """
    stored = stored_image(record.image)
    if stored is not None:
        return stored.content_digest
    if record.image is not None:
        pixels = record.image()
        return hashlib.blake2b(repr(pixels.shape).encode() + pixels.tobytes(), digest_size=16).hexdigest()
    try:
        facts = record.path.stat()
        return _file_digest(record.path, facts.st_size, facts.st_mtime_ns)
    except OSError as error:
        raise ImageError(f"{record.path}: the file cannot be read ({error.strerror}).") from error


@lru_cache(maxsize=1 << 16)  # the check of a data set and its division each ask for all
def _file_digest(path: Path, size: int, changed: int) -> str:
    """The digest of a file that was of this size and changed at this time."""
    with path.open("rb") as file:  # in parts: images may be large
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def content_digests(records: Sequence[Record]) -> Digests:
    """A short digest of the content of each image: 16 hexadecimal digits.

    Raises:
        ImageError: an image cannot be read.
    """
    if isinstance(records, LazyRecords) and records.stored is not None:
        kept = records.stored.digests_of(records.indices)
        if kept is not None:  # without making the records, of which each call of a pool would hold one
            return Digests(kept)
    with ThreadPoolExecutor(2) as pool:  # reading and hashing release the interpreter lock
        return Digests.of(digest[:DIGITS] for digest in pool.map(content_digest, records))


def groups_of_equal(digests: Sequence[str]) -> list[list[int]]:
    """The indices of equal digests, where there is more than one; empty digests equal nothing."""
    places: dict[str, list[int]] = defaultdict(list)
    for index, digest in enumerate(digests):
        places[digest].append(index)
    return [found for digest, found in places.items() if digest and len(found) > 1]


@dataclass(frozen=True)
class Looks:
    """How an image looks, reduced.

    Attributes:
        bits: bool ``[256]``, the difference hash.
        pixels: float32 ``[256]``, gray, with mean 0 and norm 1; zeros for an image without contrast.
    """

    bits: npt.NDArray[np.bool_]
    pixels: npt.NDArray[np.float32]

    @classmethod
    def of(cls, image: npt.NDArray[np.uint8]) -> Looks:
        """Those of an image, uint8 ``[H, W, C]``."""
        gray = image if image.shape[2] == 1 else image[..., :3]
        picture = Image.fromarray(gray[..., 0] if gray.shape[2] < 3 else gray).convert("L")
        small = np.asarray(picture.resize((SIDE + 1, SIDE), Image.Resampling.BOX), np.float32)
        bits = (small[:, 1:] > small[:, :-1]).reshape(-1)
        pixels = small[:, 1:].reshape(-1) - small[:, 1:].mean()
        norm = float(np.linalg.norm(pixels))
        flat = norm < MIN_CONTRAST * SIDE
        return cls(bits, np.zeros_like(pixels) if flat else pixels / norm)


def looks_of(
    records: Sequence[Record], progress: Callable[[int, int], None] | None = None
) -> list[Looks | None]:
    """How each image looks; None if it cannot be read."""

    def look(record: Record) -> Looks | None:
        try:
            return Looks.of(record.load_image())
        except ImageError:
            return None

    found = []
    with ThreadPoolExecutor(2) as pool:  # decoding releases the interpreter lock
        for done, looks in enumerate(pool.map(look, records), 1):
            found.append(looks)
            if progress is not None:
                progress(done, len(records))
    return found


def near_pairs(looks: Sequence[Looks | None]) -> list[tuple[int, int]]:
    """The pairs of images (first index smaller) that look alike; those without contrast are in none."""
    known = [index for index, one in enumerate(looks) if one is not None and one.pixels.any()]
    bits = np.array([one.bits for one in looks if one is not None and one.pixels.any()], np.float32)
    pixels = np.array([one.pixels for one in looks if one is not None and one.pixels.any()], np.float32)
    return [(known[a], known[b]) for a, b in _alike(2 * bits - 1, pixels)] if known else []


def connected(pairs: Iterable[tuple[int, int]]) -> list[list[int]]:
    """Groups of images that pairs connect, also by way of others; all sorted."""
    group_of: dict[int, list[int]] = {}
    for a, b in pairs:
        first, second = group_of.setdefault(a, [a]), group_of.setdefault(b, [b])
        if first is not second:
            first += second
            group_of |= dict.fromkeys(second, first)
    return sorted(sorted(group) for group in {id(group): group for group in group_of.values()}.values())


def _alike(signs: npt.NDArray[np.float32], pixels: npt.NDArray[np.float32]) -> Iterator[tuple[int, int]]:
    """Pairs whose ``signs`` ``[I, 256]`` differ in few places and whose ``pixels`` ``[I, 256]`` correlate."""
    for start in range(0, len(signs), ROWS_AT_ONCE):
        rows = slice(start, start + ROWS_AT_ONCE)
        differing = (signs.shape[1] - signs[rows] @ signs[start:].T) / 2
        for a, b in np.argwhere(differing <= MAX_BITS).tolist():
            if a < b and float(pixels[start + a] @ pixels[start + b]) >= MIN_CORRELATION:
                yield start + a, start + b
