"""What can be wrong with a data set, and the rules that all readers judge boxes and sizes by."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rcnn.io.images import visible_files
from rcnn.structures import Size

Box = tuple[float, float, float, float]
Severity = Literal["error", "warning"]

SMALLEST_SIDE = 0.5  # pixels: one-pixel objects stay, slips of the mouse go
# Pixels a box may reach beyond the image without being reported: 0-based and 1-based tools differ.
ROUNDING = 1.0
LISTED = 20  # errors told in full before the rest is only counted
NOT_READ = "They are not read; move them up, or open each folder as a data set of its own."


@dataclass(frozen=True)
class Problem:
    """Something wrong with a data set.

    Attributes:
        file: the file concerned.
        what: what was found and what was expected, one sentence.
        advice: what to do about it.
        annotation: the annotation's id, name or index in the file, where one is concerned.
        severity: an ``error`` keeps the image out of training; a ``warning`` was dealt with as ``advice``
            says.
        is_outline_problem: it is an outline that is wrong or missing; models that learn from boxes alone can
            do without.
    """

    file: Path
    what: str
    advice: str
    annotation: str | None = None
    severity: Severity = "error"
    is_outline_problem: bool = False

    def __str__(self) -> str:
        place = f"{self.file}" + (f", annotation {self.annotation}" if self.annotation is not None else "")
        return f"{self.severity}: {place}: {self.what} {self.advice}"


class DataError(ValueError):
    """A data set that cannot be used as it is.

    Attributes:
        problems: all errors, also those that the message only counts.
    """

    def __init__(self, source: Path, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        lines = [str(p) for p in self.problems[:LISTED]]
        if len(self.problems) > LISTED:
            lines.append(f"… and {len(self.problems) - LISTED} more errors; `rcnn data check` lists all.")
        super().__init__(f"{source}: {len(self.problems)} error(s) in the data set.\n" + "\n".join(lines))


@dataclass(frozen=True)
class BoxFault:
    """Why a box is not taken as it stands; the fields are those of :class:`Problem`."""

    what: str
    advice: str
    severity: Severity = "error"

    def of(self, file: Path, annotation: str) -> Problem:
        """The problem of one annotation in ``file``."""
        return Problem(file, self.what, self.advice, annotation, self.severity)


def check_box(box: Box, size: Size) -> tuple[Box | None, BoxFault | None]:
    """The part of a box that can be used, None if nothing can, and what is wrong with it.

    Convention: on an image 10 high and 20 wide, ``(-3, 2, 5, 8)`` becomes ``(0, 2, 5, 8)`` with a warning.

    Args:
        box: x1 y1 x2 y2 as in :mod:`rcnn.structures`.
        size: (height, width) of the image.
    """
    x1, y1, x2, y2 = box
    height, width = size
    shown = f"The box x1 y1 x2 y2 = {x1:g} {y1:g} {x2:g} {y2:g}"
    if not all(math.isfinite(v) for v in box):
        return None, BoxFault(f"{shown} has a value that is not a finite number.", "Correct or delete it.")
    if x2 < x1 or y2 < y1:
        return None, BoxFault(f"{shown} has a negative width or height.", "Swap or correct its corners.")
    if min(x2 - x1, y2 - y1) < SMALLEST_SIDE:
        return None, BoxFault(
            f"{shown} has no area.", "It was left out; draw it anew or delete it.", "warning"
        )
    if x2 <= 0 or y2 <= 0 or x1 >= width or y1 >= height:
        what = f"{shown} lies outside the image of {width} by {height} pixels."
        return None, BoxFault(what, "Correct or delete it.")
    cut = (max(x1, 0.0), max(y1, 0.0), min(x2, float(width)), min(y2, float(height)))
    if min(cut[2] - cut[0], cut[3] - cut[1]) < SMALLEST_SIDE:
        what = f"{shown} has next to nothing inside the image of {width} by {height} pixels."
        return None, BoxFault(what, "It was left out; correct or delete it.", "warning")
    if max(abs(a - b) for a, b in zip(box, cut, strict=True)) > ROUNDING:
        what = f"{shown} reaches beyond the image of {width} by {height} pixels."
        return cut, BoxFault(
            what, "It was cut at the border; correct it if the image is another one.", "warning"
        )
    return cut, None


def size_problem(path: Path, found: Size, annotated: Size) -> Problem | None:
    """The problem of an image whose upright (height, width) is not the annotated one, None if it is."""
    if found == annotated:
        return None
    what = f"The image has {found[1]} by {found[0]} pixels, annotated are {annotated[1]} by {annotated[0]}."
    advice = "Annotate the image that is in the file, or put the annotated one there."
    if found == annotated[::-1]:
        advice = (
            "Width and height are swapped in the annotation, or it was made without the image's EXIF "
            "rotation: correct the size, or turn the pixels and drop the EXIF mark."
        )
    return Problem(path, what, advice)


def shortened(names: Sequence[str], limit: int = 5) -> str:
    """The first names, and dots where there are more."""
    return ", ".join(names[:limit]) + (", …" if len(names) > limit else "")


def nested_files_message(folder: Path, pattern: str) -> str:
    """What to say of files in the folders of a folder, which a reader does not look into; else nothing."""
    found = visible_files(folder, f"*/{pattern}")
    return f"{len(found)} files lie in folders below, {found[0]} for one." if found else ""
