"""The images of an annotation tool's files with the objects drawn on them, on their way to the data set.

Readers of tools name images and hand over what was drawn; here images are found, boxes and outlines made,
classes and keypoints collected. What all such formats share:

    - The classes are those that the format declares, otherwise those that occur, sorted.
    - A rectangle is a box without outline; an outline's box is the one around it.
    - Images that are missing are reported together; images without an entry are skipped with a warning.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from rcnn.data.builder import Annotation, Content, DatasetBuilder, Picture, measured
from rcnn.data.dataset import Dataset
from rcnn.data.formats.contents import read_text
from rcnn.data.formats.figures import bounds
from rcnn.data.formats.image_index import ImageIndex
from rcnn.data.problems import Box, Problem, Severity, shortened, size_problem
from rcnn.io.images import image_files, visible_files
from rcnn.structures import Outline, Size, Skeleton

UNNAMED = "object"  # the class of objects in formats or files without classes


@dataclass
class Drawn:
    """One object as a tool has it.

    Attributes:
        label: its class.
        place: how problems refer to it.
        box: x1 y1 x2 y2; None takes the one around the outline.
        outline: a polygon or a run-length code, if it has one.
        keypoints: x, y and visibility by name.
        crowd: as in :class:`rcnn.data.builder.Annotation`.
        difficult: likewise.
    """

    label: str
    place: str
    box: Box | None = None
    outline: Outline | None = None
    keypoints: dict[str, tuple[float, float, float]] = field(default_factory=dict)
    crowd: bool = False
    difficult: bool = False


class AnnotatedImages:
    """Collects images and objects.

    Attributes:
        builder: collects the problems.
        index: finds the images.
    """

    def __init__(self, format: str, source: Path, *holds: Content, images: str | Path | None = None) -> None:
        self.builder = DatasetBuilder(format, source, "outlines", *holds)
        self.index = ImageIndex(source, images)
        self.found: dict[str, Path | None] = {}  # by name: tables repeat it for each object
        self.missing: dict[str, None] = {}  # names, in order
        self.pictures: dict[Path, Picture] = {}
        self.unusable: set[Path] = set()
        self.drawn: list[tuple[Picture, Drawn]] = []
        self.ignored: Counter[str] = Counter()

    def find(self, name: str, *, size: Size | None = None, place: str | None = None) -> Picture | None:
        """The image of that name, added at its first use; None if it is missing or unreadable.

        Args:
            name: as the annotations give it.
            size: (height, width) as annotated, compared with the file's.
            place: how problems refer to the entry.
        """
        if name not in self.found:
            self.found[name] = self.index.find(name)
        path = self.found[name]
        if path is None:
            self.missing.setdefault(name)
            return None
        return self.at(path, size=size, place=place)

    def at(self, path: Path, *, size: Size | None = None, place: str | None = None) -> Picture | None:
        """The image in a file, added at its first use; None if it cannot be read."""
        if path in self.unusable:
            return None
        if path not in self.pictures:
            found = measured(path, place)
            if isinstance(found, Problem):
                self.builder.problems.append(found)
                self.unusable.add(path)
                return None
            problem = None if size is None else size_problem(path, found, size)
            self.builder.problems += [] if problem is None else [problem]
            self.pictures[path] = self.builder.add(Picture(path, found, path.stem))
        return self.pictures[path]

    def lines(self, folder: Path) -> Iterator[tuple[Picture, str, str]]:
        """Image, place and text of each line that is not empty, of a folder with a text file per image."""
        for file in visible_files(folder, "*.txt"):
            picture = self.find(file.stem, place=file.name)
            if picture is None:
                continue
            for number, line in enumerate(read_text(file).splitlines(), 1):
                if line.strip():
                    yield picture, f"{file.name}, line {number}", line

    def is_new(self, picture: Picture, place: str, seen: dict[Path, str]) -> bool:
        """Whether this is the first entry of an image; a second one is reported as an error."""
        first = seen.get(picture.path)
        if first is None:
            seen[picture.path] = place
            return True
        what = f"The image is annotated twice, in {first} and {place}."
        self.builder.report(what, "Keep one of the entries.", place, file=picture.path)
        return False

    def draw(self, picture: Picture, drawn: Drawn) -> None:
        """Add an object; without a class, or without anything drawn, it is reported."""
        drawn.label = drawn.label.strip()
        if not drawn.label:
            self.wrong(picture, drawn.place, "The object has no class.", "Give it one, or delete it.")
        else:
            self.drawn.append((picture, drawn))

    def wrong(self, picture: Picture, place: str, what: str, advice: str = "Correct or delete it.") -> None:
        """Report an object that cannot be used, as an error of its image."""
        self.builder.report(what, advice, place, file=picture.path)

    def ignore(self, kind: str) -> None:
        """Count an object of a kind that is not read."""
        self.ignored[kind] += 1

    def warn_of_unlisted(self, what: str = "are not annotated") -> None:
        """Report the images that are in the same folders but have no entry."""
        folders = dict.fromkeys(path.parent for path in self.pictures)
        listed = {*self.pictures, *self.unusable}
        bare = [file for folder in folders for file in image_files(folder) if file not in listed]
        if bare:
            self.builder.warn(
                f"{len(bare)} images {what}: {shortened([f.name for f in bare])}.",
                "They are skipped.",
                "images",
            )

    def dataset(
        self,
        class_names: Sequence[str] | None = None,
        *,
        skeleton: Skeleton | None = None,
        missing: Severity = "error",
    ) -> Dataset:
        """The data set.

        Args:
            class_names: the declared classes; classes that occur beyond them come last. None sorts those that
                occur.
            skeleton: the declared keypoints; None takes the names that occur.
            missing: how serious missing images are.

        Raises:
            ValueError: none of the images was found.
        """
        self._report_missing(missing)
        self._tell_apart()
        for kind, count in self.ignored.items():
            self.builder.warn(f"{count} {kind}.", "They were ignored.", "objects")
        names = self._class_names(class_names)
        self.builder.declare_classes(names)
        labels = {name: label for label, name in enumerate(names)}
        self.builder.skeleton = skeleton or self._skeleton()
        for picture, drawn in self.drawn:
            self._add(picture, drawn, labels[drawn.label])
        return self.builder.build()

    def _tell_apart(self) -> None:
        """Give images of the same name in different folders different ids: their paths."""
        counts = Counter(picture.image_id for picture in self.builder.pictures)
        for picture in self.builder.pictures:
            if counts[picture.image_id] > 1:
                picture.image_id = picture.path.with_suffix("").as_posix()

    def _class_names(self, declared: Sequence[str] | None) -> list[str]:
        occurring = sorted({drawn.label for _, drawn in self.drawn})
        known = [] if declared is None else list(dict.fromkeys(declared))
        return known + [name for name in occurring if name not in known]

    def _skeleton(self) -> Skeleton | None:
        names = tuple(dict.fromkeys(name for _, drawn in self.drawn for name in drawn.keypoints))
        return Skeleton(names) if names else None

    def _add(self, picture: Picture, drawn: Drawn, label: int) -> None:
        around = drawn.box
        if around is None and drawn.outline is not None:
            around = bounds(drawn.outline)
        if around is None:
            self.builder.warn("The outline is empty.", "It was ignored.", drawn.place, file=picture.path)
            return
        box = self.builder.usable_box(around, picture, drawn.place)
        if box is None:
            return
        found = Annotation(
            box, label, drawn.place, drawn.outline, crowd=drawn.crowd, difficult=drawn.difficult
        )
        if drawn.keypoints and self.builder.skeleton is not None:
            found.keypoints = keypoint_rows(drawn.keypoints, self.builder.skeleton.names)
        picture.annotations.append(found)

    def _report_missing(self, severity: Severity) -> None:
        names = list(self.missing)
        if not names:
            return
        if not self.pictures and not self.unusable:
            raise ValueError(
                f"{self.builder.source}: none of its {len(names)} images was found, for example {names[0]}. "
                f"Searched {self.index.searched}. Name the image folder (--images, or images=…)."
            )
        total = len(names) + len(self.pictures) + len(self.unusable)
        what = (
            f"{len(names)} of {total} images are missing: {shortened(names)}; searched {self.index.searched}."
        )
        advice = "Add them, name their folder (--images), or skip them with --skip-bad."
        if severity == "warning":
            advice = "They are skipped."
        self.builder.report(what, advice, "images", severity=severity)


def keypoint_rows(
    points: Mapping[str, tuple[float, float, float]], names: Iterable[str]
) -> npt.NDArray[np.float32]:
    """float32 ``[K, 3]``: the points with these names; zeros, meaning "not annotated", for the others."""
    rows = [points.get(name, (0, 0, 0)) for name in names]
    return np.array([row if row[2] > 0 else (0, 0, 0) for row in rows], np.float32).reshape(-1, 3)
