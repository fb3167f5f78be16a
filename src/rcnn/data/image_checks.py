"""The problems of image files: unusable ones, copies, channels that differ, EXIF rotation in doubt.

All are looked at once, by two threads: decoding is C code that releases the interpreter lock, and small
machines have two cores.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from rcnn.data.dataset import Record
from rcnn.data.problems import Problem, shortened, size_problem, turned_problem
from rcnn.data.stored_images import stored_image
from rcnn.data.twins import content_digest
from rcnn.io.images import ImageError, ImageHeader, image_header, read_image
from rcnn.io.reading import ChoiceError, Reading

# Of transparency, the fraction of pixels that are neither opaque nor clear: in a band of light, nearly all.
MAX_BETWEEN = 0.5


@dataclass(frozen=True)
class ImageFacts:
    """What the image files of a data set are.

    Attributes:
        channels: C of the images, as most of them have it.
        taken: what is taken of files with more than is usual, and of how many.
        problems: of the files.
    """

    channels: int
    taken: dict[str, int]
    problems: tuple[Problem, ...]


@dataclass(frozen=True)
class _Look:
    """One file: its header, its problem, a digest of its bytes ("" if it is not decoded)."""

    header: ImageHeader | None
    problem: Problem | None
    digest: str = ""
    hides_band: bool = False


def look_at_images(records: Sequence[Record], *, decode: bool, has_sizes: bool) -> ImageFacts:
    """The facts about the image files of these records.

    Args:
        records: those with files, of their own or inside shards.
        decode: decode every image, which finds truncated ones; otherwise only headers are read.
        has_sizes: whether the annotations have the sizes of the images.
    """
    with ThreadPoolExecutor(2) as pool:
        looks = list(pool.map(partial(_look, decode=decode), records))
    problems = [look.problem for look in looks if look.problem is not None]
    problems += _copies(records, looks)
    headers = [(r, look.header) for r, look in zip(records, looks, strict=True) if look.header is not None]
    counts = Counter(header.channels for _, header in headers)
    usual = counts.most_common(1)[0][0] if counts else 3
    problems += _other_channels(headers, usual)
    problems += _turned(headers, has_sizes)
    problems += _hidden_bands([r.path for r, look in zip(records, looks, strict=True) if look.hides_band])
    taken = Counter(header.taken for _, header in headers if header.taken)
    return ImageFacts(usual, dict(taken.most_common()), tuple(problems))


def _look(record: Record, *, decode: bool) -> _Look:
    path, reading, stored = record.path, record.reading, stored_image(record.image)
    try:
        content = None if stored is None else stored.content()
        header = image_header(path, reading, content)
        size = header.size
        hides_band = False
        if decode:
            size = read_image(path, reading=reading, content=content).shape[:2]
            hides_band = header.has_alpha and _is_band(path, reading, content)
        digest = content_digest(record) if decode else ""
    except ValueError as error:  # an ImageError, or what a shard says that cannot be read
        if stored is None and not isinstance(error, ImageError):
            raise
        what = str(error).removeprefix(f"{path}: ") + ("" if stored is None else f" ({stored.place})")
        advice = "" if isinstance(error, ChoiceError) else "Replace the file, or skip it with --skip-bad."
        return _Look(None, Problem(path, what, advice))
    return _Look(header, size_problem(path, size, record.truth.size), digest, hides_band)


def _is_band(path: Path, reading: Reading, content: bytes | None) -> bool:
    """Whether what a TIFF file calls transparency has values as light has: few are 0 or the largest."""
    from rcnn.io.tiff import opened_tiff

    with opened_tiff(path, content) as tif:
        chosen = Reading(channels=tif.alpha, plane=reading.plane)
        values = tif.read(chosen).values
    between = (values != values.min(initial=0)) & (values != values.max(initial=0))
    return bool(np.mean(between) > MAX_BETWEEN)


def _copies(records: Sequence[Record], looks: Sequence[_Look]) -> list[Problem]:
    problems = []
    first: dict[str, Path] = {}
    for record, look in zip(records, looks, strict=True):
        twin = first.setdefault(look.digest, record.path) if look.digest else record.path
        if twin != record.path:
            what = f"It is the same image as {twin}."
            advice = "Both are used; delete one, especially if they are in different splits."
            problems.append(Problem(record.path, what, advice, severity="warning"))
    return problems


def _other_channels(headers: Sequence[tuple[Record, ImageHeader]], usual: int) -> list[Problem]:
    """Images with another number of channels than most."""
    problems = []
    for record, header in headers:
        if header.channels != usual:
            what = f"It has {header.channels} channels, most images have {usual}."
            least = ",".join(map(str, range(min(usual, header.channels))))
            advice = f"Choose channels that all have, such as --channels {least}, or skip it with --skip-bad."
            problems.append(Problem(record.path, what, advice))
    return problems


def _turned(headers: Sequence[tuple[Record, ImageHeader]], has_sizes: bool) -> list[Problem]:
    """One warning about all images of which the sizes do not tell whether they were annotated turned."""
    found = []
    for record, header in headers:
        height, width = header.size
        tells = header.orientation >= 5 and height != width and has_sizes
        if header.orientation != 1 and not tells and record.reading.exif is None:
            found.append(record.path)
    if not found:
        return []
    return [turned_problem(found)]


def _hidden_bands(paths: Sequence[Path]) -> list[Problem]:
    if not paths:
        return []
    names = shortened([path.name for path in paths])
    what = (
        f"{len(paths)} images have a channel that they call transparency and that looks like light: {names}."
    )
    advice = "It is not read; if it is a band such as infrared, take it with --channels 0,1,2,3."
    return [Problem(paths[0].parent, what, advice, severity="warning")]
