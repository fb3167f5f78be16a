"""YOLO: one text file per image with one line per object; classes and splits in ``data.yaml``.

    data.yaml                   names, train, val, test; path; for keypoints kpt_shape, flip_idx, kpt_names
    images/train/a.jpg          or train/images/a.jpg
    labels/train/a.txt          or train/labels/a.txt: the last folder "images" of a path becomes "labels";
                                or text files next to the images

Convention:
    All values are fractions of the image's width or height. On an image of 100 by 50 pixels, the line
    ``0 0.5 0.5 0.2 0.4`` (class, centre, width, height) is the box ``40 15 60 35``; with kpt_shape, keypoints
    follow, as continuous coordinates. ``0 x1 y1 x2 y2 x3 y3 …`` is an outline.

Without ``data.yaml``, a ``classes.txt`` next to ``images`` or in ``labels`` names the classes. An image
without a text file has no objects, as the format defines.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rcnn.data.builder import Annotation, DatasetBuilder, Picture
from rcnn.data.classes import numbered_keypoints
from rcnn.data.dataset import Dataset
from rcnn.data.formats.label_image import NAMES_FILE
from rcnn.data.formats.writer import DroppedContent, Item, Writer
from rcnn.data.formats.yolo_layout import YoloPlace, find_yolo, label_path, load_yaml
from rcnn.data.problems import shortened
from rcnn.io.atomic import read_lines
from rcnn.io.images import image_files, visible_files
from rcnn.structures import DEFAULT_SIGMA, Skeleton
from rcnn.structures.outlines import as_one_polygon, trace

SLACK = 0.01  # tolerance beyond 0 and 1 for rounding
BOX, MIN_OUTLINE_VALUES = 5, 7  # numbers per line

Row = npt.NDArray[np.float64]


def read_yolo(path: str | Path, split: str | None = None) -> Dataset:
    """Open YOLO data; see :func:`rcnn.data.formats.yolo_layout.find_yolo` for the paths.

    Raises:
        ValueError: no YOLO data, several splits without ``split``, unusable class names, or no image.
    """
    place = find_yolo(Path(path), split)
    if place is None:
        raise ValueError(f"{path}: expected data.yaml, or images/ with labels/*.txt and a {NAMES_FILE}.")
    reader = _Reader(place, load_yaml(place.yaml))
    for entry in place.images:
        for image in _listed_images(place, entry):
            reader.read_image(image)
    if not reader.builder.pictures and not reader.builder.problems:
        raise ValueError(f"{place.source}: no image in {', '.join(map(str, place.images))}.")
    reader.finish()
    return reader.builder.build()


class _Reader:
    """Collects the usable content of the text files, and all problems."""

    def __init__(self, place: YoloPlace, settings: dict[str, Any]) -> None:
        self.place = place
        self.builder = DatasetBuilder("yolo", place.source, "crowd", "outlines")
        self.builder.declare_classes(_class_names(place, settings))
        self.per_keypoint = 0
        if settings.get("kpt_shape"):
            self._read_shape(settings)
        self.seen: set[Path] = set()
        self.bare: list[Path] = []
        self.label_files: set[Path] = set()

    def _read_shape(self, settings: dict[str, Any]) -> None:
        shape, partners = settings["kpt_shape"], settings.get("flip_idx") or ()
        pair = isinstance(shape, list) and len(shape) == 2 and all(isinstance(v, int) for v in shape)
        if not pair or shape[0] < 1 or shape[1] not in (2, 3):
            raise ValueError(f"{self.place.yaml}: kpt_shape: {shape}; expected [keypoints, 2 or 3].")
        named = settings.get("kpt_names")
        if isinstance(named, dict):  # one list per class; all classes share one skeleton
            named = next(iter(named.values()), None)
        fits = isinstance(named, list) and len(named) == shape[0]
        names = tuple(map(str, named or ())) if fits else numbered_keypoints(shape[0])
        try:
            self.builder.skeleton = Skeleton(names, mirror=tuple(partners))
        except (ValueError, TypeError) as error:
            raise ValueError(f"{self.place.yaml}: flip_idx: {error}.") from error
        self.per_keypoint = shape[1]

    def read_image(self, path: Path) -> None:
        """Read one image and its text file."""
        if path in self.seen:
            self.builder.warn("The image is listed twice.", "It is used once.", file=path)
            return
        label = label_path(path)
        self.label_files.add(label)
        picture = self.builder.add_file(path, str(path))
        if picture is None:
            return
        self.seen.add(path)
        if not label.is_file():
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
            fields = tuple(line.split())
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
                self.builder.report(what, "Correct or delete the line.", place, file=picture.path)
                continue
            self._read_row(picture, row, place)

    def _read_row(self, picture: Picture, row: Row, place: str) -> None:
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
            picture.annotations.append(Annotation(box, int(row[0]), place, outline, points))

    def _row_fault(self, row: Row, is_outline: bool) -> str | None:
        """The fault of a line of numbers, None if it is usable."""
        count, num_classes = self.builder.num_keypoints, len(self.builder.class_names)
        wanted = BOX + count * self.per_keypoint
        if len(row) != wanted and not is_outline:
            more = "" if count else f", or {MIN_OUTLINE_VALUES}, 9, 11, … for an outline"
            return f"{len(row)} numbers; expected {wanted}{more}."
        if not np.isfinite(row).all():
            return "A value is not a finite number."
        if row[0] not in range(num_classes):
            return f"The class {row[0]:g} is not among 0 to {num_classes - 1}."
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
        points[points[:, 2] <= 0] = 0
        return points

    def finish(self) -> None:
        """Report images without a text file and vice versa; set short image ids."""
        if self.bare:
            what = f"{len(self.bare)} images have no text file: {shortened([p.name for p in self.bare])}."
            self.builder.warn(what, "They count as images without objects.", "images")
        # A list may name only some of the images; text files of the others are fine.
        is_list = any(entry.is_file() for entry in self.place.images)
        for folder in () if is_list else sorted({label.parent for label in self.label_files}):
            for label in visible_files(folder, "*.txt") if folder.is_dir() else ():
                if label not in self.label_files and label.name != NAMES_FILE:
                    self.builder.report("Its image is missing.", "Add it, or delete this file.", file=label)
        pictures = self.builder.pictures
        stems = [picture.path.stem for picture in pictures]
        if len(set(stems)) == len(stems):
            for picture in pictures:
                picture.image_id = picture.path.stem


def _class_names(place: YoloPlace, settings: dict[str, Any]) -> list[str]:
    names = settings["names"]
    numbered = names if isinstance(names, dict) else dict(enumerate(names))
    if sorted(map(str, numbered)) != sorted(map(str, range(len(numbered)))) or not numbered:
        raise ValueError(f"{place.yaml}: names: expected the numbers 0, 1, …; found {list(numbered)}.")
    return [str(name) for _, name in sorted((int(number), name) for number, name in numbered.items())]


def _listed_images(place: YoloPlace, entry: Path) -> list[Path]:
    """The images of a folder and its subfolders, or of a list."""
    if entry.is_dir():
        folders = [entry, *sorted(f for f in entry.rglob("*") if f.is_dir())]
        return [
            file
            for folder in folders
            if not any(part.startswith(".") for part in folder.relative_to(entry).parts)
            for file in image_files(folder)
        ]
    if entry.is_file():
        lines = [line.replace("\\", "/") for line in read_lines(entry) if line]
        return [entry.parent / line.removeprefix("./") for line in lines]
    raise ValueError(f"{place.yaml}: {entry} does not exist; correct the file, or its path.")


class YoloWriter(Writer):
    """YOLO: keypoints with boxes if there are keypoints, else outlines if there are outlines, else boxes."""

    def __init__(self, folder: Path, dataset: Dataset, dropped: DroppedContent) -> None:
        super().__init__(folder, dataset, dropped)
        self.kind = "keypoints" if dataset.skeleton else "outlines" if dataset.has_masks else "boxes"
        self.holds = frozenset({self.kind})

    def write(self, item: Item) -> None:
        """Write one text file."""
        if self.kind == "outlines":
            item = self.with_outlines(item)
            self.note_boxes(item)
        height, width = item.truth.size
        scale = np.array([width, height])
        lines: dict[str, None] = {}  # in order, each once
        for index, fractions in enumerate(self._rows(item, scale)):
            label = int(item.truth.labels[index])
            line = " ".join([str(label), *(f"{value:.10g}" for value in fractions)])
            if line in lines:
                self.dropped.note("objects that occur twice", item.place(index))
            else:
                lines[line] = None
        folder = self.folder / "labels"
        folder.mkdir(exist_ok=True)
        text = "".join(f"{line}\n" for line in lines)
        (folder / f"{item.image.stem}.txt").write_text(text, encoding="utf-8")

    def _rows(self, item: Item, scale: npt.NDArray[np.int64]) -> Iterator[list[float]]:
        """The numbers that follow the class in each line."""
        if self.kind == "outlines":
            assert item.truth.masks is not None
            windows = item.truth.masks.windows.tolist()
            for index, (patch, (x, y, _, _)) in enumerate(
                zip(item.truth.masks.patches(), windows, strict=True)
            ):
                parts, holes = trace(patch.astype(bool), (y, x))
                if holes:
                    self.dropped.note("outlines with holes, which are filled", item.place(index))
                yield (as_one_polygon(parts) / scale).reshape(-1).tolist()
            return
        corners = item.truth.boxes.astype(np.float64)
        boxes = np.concatenate([(corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]], 1)
        for index, box in enumerate(boxes / np.tile(scale, 2)):
            row = box.tolist()
            if self.kind == "keypoints":
                assert item.truth.keypoints is not None
                points = item.truth.keypoints[index].astype(np.float64)
                points[:, :2] /= scale
                row += points.reshape(-1).tolist()
            yield row

    def finish(self) -> None:
        """Write ``data.yaml``."""
        import yaml

        content: dict[str, Any] = {
            "train": "images",
            "names": dict(enumerate(self.dataset.class_names)),
        }
        skeleton = self.dataset.skeleton
        if skeleton is not None:
            names = {label: list(skeleton.names) for label in range(len(self.dataset.class_names))}
            content |= {"kpt_shape": [len(skeleton.names), 3], "flip_idx": list(skeleton.mirror)}
            content["kpt_names"] = names
            for a, b in skeleton.bones:
                self.dropped.note("bones of the skeleton", f"{skeleton.names[a]} to {skeleton.names[b]}")
            for name, sigma in zip(skeleton.names, skeleton.sigmas, strict=True):
                if sigma != DEFAULT_SIGMA:
                    self.dropped.note("sigmas of keypoints", f"{name}: {sigma:g}")
        text = yaml.dump(content, allow_unicode=True, sort_keys=False)
        (self.folder / "data.yaml").write_text(text, encoding="utf-8")
