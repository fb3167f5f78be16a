"""YOLO: one text file per image with one line per object; classes and splits in ``data.yaml``.

    data.yaml                   names, train, val, test; path; for keypoints kpt_shape, flip_idx, kpt_names
    images/train/a.jpg          or train/images/a.jpg
    labels/train/a.txt          or train/labels/a.txt: the last folder "images" of a path becomes "labels";
                                or text files next to the images

Convention:
    All values are fractions of the image's width or height. On an image of 100 by 50 pixels, the line
    ``0 0.5 0.5 0.2 0.4`` (class, centre, width, height) is the box ``40 15 60 35``; with kpt_shape, keypoints
    follow, as continuous coordinates. ``0 x1 y1 x2 y2 x3 y3 …`` is an outline.

Without ``data.yaml``, a ``classes.txt`` or ``obj.names`` next to ``images`` or in ``labels`` names the
classes. An image without a text file has no objects, as the format defines. Darknet's ``obj.data`` with
``obj_train_data``, as CVAT exports it, is the same with other files (:mod:`rcnn.data.formats.yolo_settings`).
"""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rcnn.data.builder import Annotation, DatasetBuilder, Picture
from rcnn.data.classes import numbered_keypoints
from rcnn.data.dataset import Dataset
from rcnn.data.formats.folders import images_below
from rcnn.data.formats.lookup import reach_of, refuse_outside
from rcnn.data.formats.yolo_layout import NO_NAMES, LabelFinder, YoloPlace, find_yolo
from rcnn.data.formats.yolo_lines import BOX, MIN_OUTLINE_VALUES, Line, Row, fields_of, suspicions
from rcnn.data.formats.yolo_settings import NAMES_FILES, class_numbers, find_by_end, load_settings
from rcnn.data.problems import Problem, shortened
from rcnn.io.atomic import read_lines
from rcnn.io.folders import is_file, is_folder
from rcnn.io.images import visible_files
from rcnn.structures import Skeleton

SLACK = 0.01  # tolerance beyond 0 and 1 for rounding
MOST_KEYPOINTS = 1000  # of an object
LISTED_SINGLY = 3  # text files without an image; more are counted


def read_yolo(path: str | Path, split: str | None = None, images: str | Path | None = None) -> Dataset:
    """Open YOLO data; see :func:`rcnn.data.formats.yolo_layout.find_yolo` for the paths.

    Args:
        path: the settings, a folder, or a list of images.
        split: a split of the settings.
        images: the folder of the images, if it is elsewhere.

    Raises:
        ValueError: no YOLO data, several splits without ``split``, unusable class names, or no image.
    """
    place = find_yolo(Path(path), split, None if images is None else Path(images))
    if place is None:
        raise ValueError(f"{path}: expected data.yaml, or images/ with labels/*.txt and a classes.txt.")
    if place.settings is None:
        other = f" {place.foreign} does not name these images." if place.foreign else ""
        raise ValueError(f"{path}: {NO_NAMES}.{other}")
    reader = _Reader(place, place.settings, load_settings(place.settings))
    for entry in place.images:
        for image in _listed_images(place, entry):
            reader.read_image(image)
    if not reader.builder.pictures and not reader.builder.problems:
        raise ValueError(f"{place.source}: no image in {', '.join(map(str, place.images))}.")
    reader.finish()
    return reader.builder.build()


class _Reader:
    """Collects the usable content of the text files, and all problems."""

    def __init__(self, place: YoloPlace, file: Path, settings: dict[str, Any]) -> None:
        self.place = place
        self.file = file
        self.builder = DatasetBuilder("yolo", place.source, "crowd", "outlines")
        for note in place.notes:
            self.builder.warn(note, "Correct the paths in the file.", "paths", file=file)
        names = class_numbers(file, settings)
        self.labels = {number: label for label, number in enumerate(names)}
        self.builder.declare_classes(names.values())
        self._compare_count(settings.get("nc"))
        self.per_keypoint = 0
        if settings.get("kpt_shape"):
            self._read_shape(settings)
        self.finder = LabelFinder(place.images[0], place.labels)
        self.seen: set[Path] = set()
        self.bare: list[Path] = []
        self.lines: list[Line] = []
        self.images_of: dict[Path, list[Path]] = defaultdict(list)  # by text file

    def _compare_count(self, count: Any) -> None:
        if isinstance(count, int) and count != len(self.labels):
            what = f"nc is {count}, but names has {len(self.labels)} classes."
            self.builder.warn(what, "The names are used; correct one of them.", "nc", file=self.file)

    def _read_shape(self, settings: dict[str, Any]) -> None:
        shape, partners = settings["kpt_shape"], settings.get("flip_idx") or ()
        pair = isinstance(shape, list) and len(shape) == 2 and all(isinstance(v, int) for v in shape)
        if not pair or not 1 <= shape[0] <= MOST_KEYPOINTS or shape[1] not in (2, 3):
            raise ValueError(
                f"{self.file}: kpt_shape: {shape}; expected [keypoints, 2 or 3], with 1 to {MOST_KEYPOINTS} "
                "keypoints."
            )
        named = settings.get("kpt_names")
        if isinstance(named, dict):  # one list per class; all classes share one skeleton
            named = next(iter(named.values()), None)
        fits = isinstance(named, list) and len(named) == shape[0]
        names = tuple(map(str, named or ())) if fits else numbered_keypoints(shape[0])
        try:
            self.builder.skeleton = Skeleton(names, mirror=tuple(partners))
        except (ValueError, TypeError) as error:
            raise ValueError(f"{self.file}: flip_idx: {error}.") from error
        self.per_keypoint = shape[1]

    def read_image(self, path: Path) -> None:
        """Read one image and its text file."""
        if path in self.seen:
            self.builder.warn("The image is listed twice.", "It is used once.", file=path)
            return
        label = self.finder.find(path)
        self.images_of[label].append(path)
        picture = self.builder.add_file(path, str(path))
        if picture is None:
            return
        self.seen.add(path)
        if not is_file(label):
            self.bare.append(path)
            return
        try:
            lines = label.read_text("utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            what = f"{label.name} cannot be read ({error})."
            self.builder.report(what, "Export it again.", label.name, file=path)
            return
        self._read_lines(picture, label, lines)

    def _read_lines(self, picture: Picture, label: Path, lines: list[str]) -> None:
        seen: dict[tuple[str, ...], int] = {}
        for number, line in enumerate(lines, 1):
            fields = fields_of(line)
            if not fields:
                continue
            place = f"{label.name}, line {number}"
            if fields in seen:
                what = f"It is identical to line {seen[fields]}."
                self.builder.warn(what, "It was ignored; delete it.", place, file=picture.path)
                continue
            seen[fields] = number
            try:
                row = np.array([float(field) for field in fields])
            except ValueError:
                what = f"Expected numbers; found {line[:60]!r}."
                decimal = re.search(r"\d,\d", line) and "." not in line
                advice = "Write decimal points, not commas." if decimal else "Correct or delete the line."
                self.builder.report(what, advice, place, file=picture.path)
                continue
            self.lines.append(Line(picture, place, row))

    def _read_row(self, line: Line) -> None:
        picture, place, row = line.picture, line.place, line.row
        count = self.builder.num_keypoints
        is_outline = not count and len(row) >= MIN_OUTLINE_VALUES and len(row) % 2 == 1
        fault = self._row_fault(row, is_outline)
        if fault is not None:
            self.builder.report(fault, "Correct or delete the line.", place, file=picture.path)
            return
        outline, points = None, None
        if is_outline:
            outline = [row[1:].reshape(-1, 2) * picture.size[::-1]]
            (x1, y1), (x2, y2) = outline[0].min(0).tolist(), outline[0].max(0).tolist()
        else:
            height, width = picture.size
            x, y, w, h = (row[1:BOX] * [width, height, width, height]).tolist()
            x1, y1, x2, y2 = x - w / 2, y - h / 2, x + w / 2, y + h / 2
            points = self._points(picture, row[BOX:]) if count else None
        box = self.builder.usable_box((x1, y1, x2, y2), picture, place)
        if box is not None:
            label = self.labels[int(row[0])]
            picture.annotations.append(Annotation(box, label, place, outline, points))

    def _row_fault(self, row: Row, is_outline: bool) -> str | None:
        """The fault of a line of numbers, None if it is usable."""
        count = self.builder.num_keypoints
        wanted = BOX + count * self.per_keypoint
        if len(row) != wanted and not is_outline:
            more = "" if count else f", or {MIN_OUTLINE_VALUES}, 9, 11, … for an outline"
            confidence = " Is the last one a confidence?" if len(row) == wanted + 1 else ""
            return f"{len(row)} numbers; expected {wanted}{more}.{confidence}"
        if not np.isfinite(row).all():
            return "A value is not a finite number."
        if row[0] not in self.labels:
            first, last = min(self.labels), max(self.labels)
            return f"The class {row[0]:g} is not among {first} to {last}."
        fractions = row[1:] if is_outline or not count else np.r_[row[1:BOX], self._shown(row)]
        if fractions.min() < -SLACK or fractions.max() > 1 + SLACK:
            worst = fractions[np.abs(fractions - 0.5).argmax()]
            return f"{worst:g} is not a fraction of the image, 0 to 1. Are these pixels?"
        return None

    def _shown(self, row: Row) -> Row:
        """X and y of the annotated keypoints."""
        given = row[BOX:].reshape(-1, self.per_keypoint)
        return (given if self.per_keypoint == 2 else given[given[:, 2] > 0])[:, :2].reshape(-1)

    def _points(self, picture: Picture, values: Row) -> npt.NDArray[np.float32]:
        """float32 ``[K, 3]``; without visibility, those at 0 0 are not annotated and the others visible."""
        given = values.reshape(-1, self.per_keypoint)
        points = np.zeros((len(given), 3), dtype=np.float32)
        points[:, :2] = given[:, :2] * picture.size[::-1]
        points[:, 2] = given[:, 2] if self.per_keypoint == 3 else 2 * given[:, :2].any(1)
        points[points[:, 2] == 0] = 0
        return points

    def finish(self) -> None:
        """Read the lines, report what is suspicious and what lacks its partner, and set short image ids."""
        self.builder.problems[:0] = suspicions(self.builder.source, self.lines, self.per_keypoint > 0)
        for line in self.lines:
            self._read_row(line)
        if self.bare:
            self._report_bare()
        for label, images in self.images_of.items():
            if len(images) > 1 and is_file(label):
                names = " and ".join(image.name for image in images)
                what = f"{names} share the text file {label.name}; both get its objects."
                self.builder.warn(what, "Rename or remove one image if that is wrong.", file=images[0])
        # A list may name only some of the images; text files of the others are fine.
        if not any(is_file(entry) for entry in self.place.images):
            self._report_lost_texts()
        pictures = self.builder.pictures
        stems = [picture.path.stem for picture in pictures]
        if len(set(stems)) == len(stems):
            for picture in pictures:
                picture.image_id = picture.path.stem

    def _report_bare(self) -> None:
        what = f"{len(self.bare)} images have no text file: {shortened([p.name for p in self.bare])}."
        if len(self.bare) < len(self.builder.pictures):
            self.builder.warn(what, "They count as images without objects.", "images")
            return
        looked = ", ".join(dict.fromkeys(str(self.finder.find(p).parent) for p in self.bare))
        what = f"No image has a text file, for example {self.bare[0].name}. Searched {looked}."
        self.builder.report(what, "Put the text files into that folder.", "labels")

    def _report_lost_texts(self) -> None:
        lost = [
            label
            for folder in sorted({label.parent for label in self.images_of})
            for label in (visible_files(folder) if folder.is_dir() else ())
            if label.suffix.lower() == ".txt"
            and label not in self.images_of
            and label.name not in NAMES_FILES
        ]
        folders = {image.parent for images in self.images_of.values() for image in images}
        others = {f.stem: f for folder in folders for f in visible_files(folder) if f.is_file()}
        if len(lost) <= LISTED_SINGLY:
            for label in lost:
                self.builder.problems.append(_lost(label, others.get(label.stem)))
        else:
            names = shortened([label.name for label in lost])
            what = f"The images of {len(lost)} text files are missing: {names}."
            self.builder.report(what, "Add them, or delete the text files.", "labels", file=lost[0].parent)


def _lost(label: Path, other: Path | None) -> Problem:
    """A text file without an image; ``other`` is a file of its name where the images are."""
    if other is None or other.suffix == ".txt":
        return Problem(label, "Its image is missing.", "Add it, or delete this file.")
    kind = other.suffix.lstrip(".").upper()
    return Problem(other, f"This is a {kind} file, which is not read.", "Save it as JPEG or PNG.", label.name)


def _listed_images(place: YoloPlace, entry: Path) -> list[Path]:
    """The images of a folder and its subfolders, or of a list."""
    if is_folder(entry):
        return images_below(entry)
    if is_file(entry):
        roots = tuple(dict.fromkeys((entry.parent, *(f.parent for f in (place.settings,) if f))))
        lines = [line.replace("\\", "/").removeprefix("./") for line in read_lines(entry) if line]
        reach = reach_of(entry)
        found = [find_by_end(line, roots, reach)[0] for line in lines]
        for line, path in zip(lines, found, strict=True):
            if path is None:
                refuse_outside(entry, entry.parent / line, reach)
        return [path or entry.parent / line for line, path in zip(lines, found, strict=True)]
    raise ValueError(f"{place.settings}: {entry} does not exist; correct the file, or its path.")
