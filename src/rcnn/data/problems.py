"""Problems of data sets, and the rules for boxes and sizes that all readers share."""

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

SMALLEST_SIDE = 0.5  # pixels: keeps objects of one pixel, drops accidental clicks
# Pixels by which a box may extend beyond the image without a report: 0-based and 1-based tools differ.
ROUNDING = 1.0
LISTED = 20  # errors listed in full; the rest are counted
NOT_READ = "They are not read. Move them up, or open each folder as a separate data set."


@dataclass(frozen=True)
class Problem:
    """One problem of a data set.

    Attributes:
        file: the affected file.
        what: what was found and what was expected, in one sentence.
        advice: what to do about it.
        annotation: the id, name or index of the affected annotation, if any.
        severity: an ``error`` excludes the image from training; a ``warning`` was handled as ``advice``
            states.
        is_outline_problem: an outline is wrong or missing, which does not affect models that learn from
            boxes.
        objects: the number of objects that an error keeps from being read; None: one, if it concerns an
            annotation.
        annotated_size: (height, width) as annotated, where it is not that of the image.
    """

    file: Path
    what: str
    advice: str
    annotation: str | None = None
    severity: Severity = "error"
    is_outline_problem: bool = False
    objects: int | None = None
    annotated_size: Size | None = None

    @property
    def lost_objects(self) -> int:
        """The number of objects that could not be read because of it."""
        if self.severity == "warning" or self.is_outline_problem:
            return 0
        return int(self.annotation is not None) if self.objects is None else self.objects

    @property
    def place(self) -> str:
        """The file and the annotation."""
        return f"{self.file}" + (f", annotation {self.annotation}" if self.annotation is not None else "")

    def __str__(self) -> str:
        return f"{self.severity}: {self.place}: {self.what} {self.advice}".rstrip()


class DataError(ValueError):
    """A data set that cannot be used in its present state.

    Attributes:
        problems: all errors, including those that the message only counts.
    """

    def __init__(self, source: Path, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        lines = [str(p) for p in self.problems[:LISTED]]
        if len(self.problems) > LISTED:
            lines.append(f"… and {len(self.problems) - LISTED} more errors; `rcnn data check` lists all.")
        super().__init__(f"{source}: {len(self.problems)} error(s) in the data set.\n" + "\n".join(lines))


@dataclass(frozen=True)
class BoxFault:
    """Why a box is rejected or changed; the fields are those of :class:`Problem`."""

    what: str
    advice: str
    severity: Severity = "error"

    def of(self, file: Path, annotation: str) -> Problem:
        """The same fault as a problem of one annotation in ``file``."""
        return Problem(file, self.what, self.advice, annotation, self.severity)


def check_box(box: Box, size: Size) -> tuple[Box | None, BoxFault | None]:
    """The usable part of a box, None if there is none, and its fault, if any.

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
        return None, BoxFault(f"{shown} has no area.", "It was ignored; redraw or delete it.", "warning")
    if x2 <= 0 or y2 <= 0 or x1 >= width or y1 >= height:
        what = f"{shown} is outside the image of {width} by {height} pixels."
        return None, BoxFault(what, "Correct or delete it.")
    cut = (max(x1, 0.0), max(y1, 0.0), min(x2, float(width)), min(y2, float(height)))
    if min(cut[2] - cut[0], cut[3] - cut[1]) < SMALLEST_SIDE:
        what = f"{shown} is almost entirely outside the image of {width} by {height} pixels."
        return None, BoxFault(what, "It was ignored; correct or delete it.", "warning")
    if max(abs(a - b) for a, b in zip(box, cut, strict=True)) > ROUNDING:
        what = f"{shown} extends beyond the image of {width} by {height} pixels."
        return cut, BoxFault(
            what, "It was clipped to the image; correct it if it belongs to another image.", "warning"
        )
    return cut, None


def size_problem(path: Path, found: Size, annotated: Size) -> Problem | None:
    """The problem of an upright (height, width) that differs from the annotated one; None if it does not."""
    if found == annotated:
        return None
    what = f"The image has {found[1]} by {found[0]} pixels, its annotation {annotated[1]} by {annotated[0]}."
    advice = "Annotate the image in the file, or replace the file by the annotated image."
    if found == annotated[::-1]:
        advice = (
            "Width and height are swapped in the annotation, or the annotation ignores the image's EXIF "
            "rotation: correct the size, or read the pixels as they are stored (--exif stored)."
        )
    return Problem(path, what, advice, annotated_size=annotated)


def turned_problem(found: Sequence[Path]) -> Problem:
    """The warning about images that EXIF turns, where annotations do not tell whether they were drawn so."""
    names = shortened([path.name for path in found])
    what = (
        f"{len(found)} images are turned by EXIF, and their annotations do not tell whether they were drawn "
        f"on the turned pixels: {names}."
    )
    advice = (
        "They are read turned. Look at them with rcnn data show; if the objects are in wrong places, use "
        "--exif stored, else --exif turned."
    )
    return Problem(found[0].parent, what, advice, severity="warning")


def shortened(names: Sequence[str], limit: int = 5) -> str:
    """The first names, with an ellipsis if there are more."""
    return ", ".join(names[:limit]) + (", …" if len(names) > limit else "")


def nested_files_message(folder: Path, pattern: str) -> str:
    """A message about files in subfolders, which a reader does not search; empty if there are none."""
    found = visible_files(folder, f"*/{pattern}")
    return f"{len(found)} files are in subfolders, for example {found[0]}." if found else ""
