"""Tables of boxes: a line per box, as TensorFlow, Roboflow, keras-retinanet, SKU110K and others write them.

    filename,width,height,class,xmin,ymin,xmax,ymax            TensorFlow, Roboflow
    path,x1,y1,x2,y2,class                                     keras-retinanet, with or without this header
    image_name,x1,y1,x2,y2,class,image_width,image_height      SKU110K, without a header
    label_name,bbox_x,bbox_y,bbox_width,bbox_height,image_name,image_width,image_height     makesense.ai
    ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsGroupOf,…                     Open Images
    image_id,width,height,bbox                                 wheat: bbox is "[x, y, width, height]"
    image_name,BoxesString,domain                              wheat 2021: "x1 y1 x2 y2;…", or no_box

The columns are recognised by their names, in any order. A line with an image and neither box nor class stands
for an image without objects.

Convention:
    Corners are continuous pixels: ``10,10,30,30`` is the box ``10 10 30 30``. Values that are all between 0
    and 1, as in Open Images, are fractions of the image's width and height. In a table whose delimiter is no
    comma, ``10,5`` is the number 10.5, as spreadsheets of many languages write it.
"""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rcnn.data.builder import Picture
from rcnn.data.dataset import Dataset
from rcnn.data.formats.annotated import UNNAMED, AnnotatedImages, Drawn
from rcnn.data.formats.coco_suspicions import Suspicions
from rcnn.data.formats.contents import Row, delimiter_of, first_row, has_one_file, head, one_file, read_table
from rcnn.data.formats.writer import FileWriter, Item
from rcnn.data.problems import Box
from rcnn.io.escaping import for_csv, from_csv
from rcnn.io.images import IMAGE_ENDINGS
from rcnn.structures import Size

# Names of columns, in lower case with underscores; the first that is there counts.
IMAGE = (
    "filename", "file_name", "image_name", "imagename", "image_path", "img_path", "imagepath", "filepath",
    "path", "image", "img", "file", "image_id", "imageid", "image_file", "img_name", "id",
    "patientid", "patient_id", "image_filename",
)  # fmt: skip
CLASS = (
    "class_name", "label_name", "category_name", "class", "label", "category", "classname", "labelname",
    "annotation_tag", "object_name", "object", "type", "species", "name", "class_id", "classid", "label_id",
    "category_id",
)  # fmt: skip
CORNERS = (
    ("xmin", "x_min", "x1", "left", "roi_x1", "bbox_x1", "xtl", "bbox_xmin", "upper_left_corner_x"),
    ("ymin", "y_min", "y1", "top", "roi_y1", "bbox_y1", "ytl", "bbox_ymin", "upper_left_corner_y"),
    ("xmax", "x_max", "x2", "right", "roi_x2", "bbox_x2", "xbr", "bbox_xmax", "lower_right_corner_x"),
    ("ymax", "y_max", "y2", "bottom", "roi_y2", "bbox_y2", "ybr", "bbox_ymax", "lower_right_corner_y"),
)
SIDES = (
    ("bbox_x", "x", "xmin", "x_min", "left"),
    ("bbox_y", "y", "ymin", "y_min", "top"),
    ("bbox_width", "w", "box_width", "bbox_w", "width"),
    ("bbox_height", "h", "box_height", "bbox_h", "height"),
)
WIDTH = ("image_width", "img_width", "imagewidth", "width")
HEIGHT = ("image_height", "img_height", "imageheight", "height")
BOX, BOXES = ("bbox", "box", "bounding_box"), ("boxesstring", "boxes_string")
NO_BOX = ("", "no_box", "nan", "none", "[]")
RETINANET = ("filename", "x1", "y1", "x2", "y2", "class")
SKU110K = ("image_name", "x1", "y1", "x2", "y2", "class", "image_width", "image_height")
MAKESENSE = ("label_name", "bbox_x", "bbox_y", "bbox_width", "bbox_height", "image_name", "image_width",
             "image_height")  # fmt: skip
OPEN_IMAGES = {"imageid", "labelname", "xmin", "isgroupof"}
NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"


def is_csv_boxes(path: Path, images: Path | None = None) -> bool:
    """Whether a file is a table of boxes, or a folder has one."""
    return has_one_file(path, ".csv", _is_table, "box table")


def read_csv_boxes(path: str | Path, images: str | Path | None = None) -> Dataset:
    """Open a table of boxes.

    Args:
        path: the file, or the folder that contains it.
        images: the image folder, if it is elsewhere.

    Raises:
        ValueError: there is no such file, or its columns are not known, or none of its images is found.
    """
    file = one_file(Path(path), ".csv", _is_table, "box table")
    rows = read_table(file)
    layout = _layout(rows[0].values if rows else ())
    if layout is None:
        raise ValueError(f"{file}: its columns are not those of a known table of boxes.")
    reader = _Reader(file, layout, images)
    for row in rows[layout.header :]:
        reader.read(row)
    return reader.dataset()


@dataclass(frozen=True)
class _Layout:
    """The columns of a table.

    Attributes:
        header: 1 if the first line names the columns.
        image: the column of the image's name.
        label: that of the class.
        coordinates: those of the box: four, or one that holds all of a box or of several.
        kind: ``corners``; or ``sides`` for x, y, width, height; or ``boxes`` for several with corners.
        size: those of the image's width and height.
        group: that of Open Images' mark for regions of many objects.
    """

    header: int
    image: int
    label: int | None
    coordinates: tuple[int, ...]
    kind: str
    size: tuple[int, int] | None
    group: int | None
    is_open_images: bool


def _is_table(file: Path) -> bool:
    return _layout(first_row(file)) is not None


def _layout(first: Sequence[str]) -> _Layout | None:
    """The columns by the first line, None if they are not those of a table of boxes."""
    names = _headerless(first)
    header = int(names is None)
    if names is None:
        names = [re.sub(r"[^a-z0-9]+", "_", cell.strip().casefold()).strip("_") for cell in first]

    def column(known: Sequence[str]) -> int | None:
        return next((names.index(name) for name in known if name in names), None)

    image = column(IMAGE)
    found = _coordinates(names)
    if image is None or found is None:
        return None
    kind, coordinates = found
    label = column([name for name in CLASS if name in names and names.index(name) != image])
    width, height = column(WIDTH), column(HEIGHT)
    known = width is not None and height is not None and width not in coordinates
    size = (width, height) if known and width is not None and height is not None else None
    group = column(["isgroupof"])
    return _Layout(header, image, label, coordinates, kind, size, group, set(names) >= OPEN_IMAGES)


def _coordinates(names: Sequence[str]) -> tuple[str, tuple[int, ...]] | None:
    """The kind of the boxes, and their columns."""
    for kind, choices in (("corners", CORNERS), ("sides", SIDES)):
        columns = [next((names.index(n) for n in known if n in names), None) for known in choices]
        present = tuple(c for c in columns if c is not None)
        if len(present) == 4:
            return kind, present
    for kind, known in (("sides", BOX), ("boxes", BOXES)):
        single = next((names.index(name) for name in known if name in names), None)
        if single is not None:
            return kind, (single,)
    return None


def _headerless(first: Sequence[str]) -> list[str] | None:
    """The names of the columns of a table that begins with a box, None if it begins with names."""
    for names, image, corners in (
        (RETINANET, 0, slice(1, 5)),
        (SKU110K, 0, slice(1, 5)),
        (MAKESENSE, 5, slice(1, 5)),
    ):
        if len(first) == len(names) and first[image].lower().endswith(IMAGE_ENDINGS):
            numbers = [re.fullmatch(NUMBER, cell) is not None for cell in first[corners]]
            if all(numbers) or not any(first[1:]):
                return list(names)
    return None


@dataclass(frozen=True)
class _Line:
    """One box as written.

    Attributes:
        picture: its image.
        label: its class.
        values: its four numbers.
        number: the line.
        crowd: it is a region of many objects.
    """

    picture: Picture
    label: str
    values: Box
    number: int
    crowd: bool


class _Reader:
    """Collects the lines of a table."""

    def __init__(self, file: Path, layout: _Layout, images: str | Path | None) -> None:
        holds = ("crowd",) if layout.is_open_images else ()
        self.objects = AnnotatedImages("csv", file, *holds, images=images)
        self.decimal_commas = delimiter_of(head(file)) != ","
        self.layout = layout
        self.lines: list[_Line] = []
        self.seen: set[tuple[Any, ...]] = set()
        self.repeated: Counter[str] = Counter()

    def read(self, row: Row) -> None:
        """Read one line."""
        layout, cells = self.layout, tuple(map(from_csv, row.values))
        place = f"line {row.number}"
        needed = max(layout.image, layout.label or 0, *layout.coordinates)
        if len(cells) <= needed:
            what = f"The line has {len(cells)} cells; expected at least {needed + 1}."
            self.objects.builder.report(what, "Complete or delete it.", place)
            return
        picture = self.objects.find(cells[layout.image], size=self._size(cells), place=place)
        if picture is None:
            return
        label = UNNAMED if layout.label is None else cells[layout.label]
        texts = [cells[column] for column in layout.coordinates]
        if self.decimal_commas and len(texts) > 1:
            texts = [text.replace(",", ".") if text.count(",") == 1 else text for text in texts]
        if all(text.casefold() in NO_BOX for text in texts):
            return  # an image without objects
        crowd = layout.group is not None and len(cells) > layout.group and cells[layout.group] == "1"
        for values in self._boxes(texts):
            if values is None:
                what = f"Expected four numbers as box; found {', '.join(texts)[:60]!r}."
                self.objects.wrong(picture, place, what)
            elif (key := (picture.path, label, values, crowd)) in self.seen:
                self.repeated[picture.path.name] += 1
            else:
                self.seen.add(key)
                self.lines.append(_Line(picture, label, values, row.number, crowd))

    def _size(self, cells: Sequence[str]) -> Size | None:
        if self.layout.size is None:
            return None
        width, height = (cells[c] if c < len(cells) else "" for c in self.layout.size)
        try:
            return (int(float(height)), int(float(width)))
        except (ValueError, OverflowError):
            return None

    def _boxes(self, texts: Sequence[str]) -> Iterator[Box | None]:
        """The four numbers of each box of a line, None for one that has others."""
        parts = texts[0].split(";") if self.layout.kind == "boxes" else [" ".join(texts)]
        for part in filter(str.strip, parts):
            words = re.split(r"[\s,;\[\]()]+", part.strip(" \t[]()"))
            if len(words) == 4 and all(re.fullmatch(NUMBER, word) for word in words):
                x, y, a, b = map(float, words)
                yield x, y, a, b
            else:
                yield None

    def dataset(self) -> Dataset:
        """The data set; only now is it known whether the boxes are fractions."""
        builder = self.objects.builder
        fractions = self._are_fractions()
        suspicions = Suspicions(builder)
        for line in self.lines:
            x, y, a, b = line.values
            if self.layout.kind == "sides":
                suspicions.look_at_numbers(line.values, line.picture.size)
                a, b = x + a, y + b
            if fractions:
                height, width = line.picture.size
                x, y, a, b = x * width, y * height, a * width, b * height
            place = f"line {line.number}"
            self.objects.draw(line.picture, Drawn(line.label, place, (x, y, a, b), crowd=line.crowd))
        if not fractions:
            suspicions.report()
        if self.repeated:
            count, first = sum(self.repeated.values()), next(iter(self.repeated))
            what = f"{count} boxes occur twice, for example in {first}."
            builder.warn(what, "They are used once; delete the repeated lines.", "boxes")
        self.objects.warn_of_unlisted("have no line in the table")
        self._name_classes()
        return self.objects.dataset(missing="warning" if self.layout.is_open_images else "error")

    def _are_fractions(self) -> bool:
        values = [value for line in self.lines for value in line.values]
        if not values or max(values) > 1 or min(values) < 0:
            return False
        if not self.layout.is_open_images:
            what = f"All {len(self.lines)} boxes are between 0 and 1."
            advice = "They are read as fractions of the image's width and height."
            self.objects.builder.warn(what, advice, "boxes")
        return True

    def _name_classes(self) -> None:
        """Replace Open Images' codes of classes (``/m/01g317``) by the names in its file of descriptions."""
        if not self.layout.is_open_images:
            return
        file = self.objects.builder.source
        names: dict[str, str] = {}
        for folder in (file.parent, file.parent.parent):
            for found in sorted(folder.glob("*class-descriptions*.csv")):
                names |= {row.values[0]: row.values[1] for row in read_table(found) if len(row.values) == 2}
        for _, drawn in self.objects.drawn:
            drawn.label = names.get(drawn.label, drawn.label)


class CsvWriter(FileWriter):
    """A table of boxes in TensorFlow's columns; an image without objects has a line without box.

    Predictions have the columns ``score`` and ``row`` besides, the number of the object.
    """

    holds: frozenset[str] = frozenset()
    file_name = "annotations.csv"

    def start(self) -> str:
        """The names of the columns."""
        names = ["filename", "width", "height", "class", "xmin", "ymin", "xmax", "ymax"]
        return _lines([[*names, *(("score", "row") if self.dataset.has_scores else ())]])

    def text(self, item: Item) -> str:
        """The lines of one image."""
        height, width = item.truth.size
        begin = [f"{self.image_folder}/{item.image.name}", width, height]
        rows: list[list[object]] = []
        for index, (name, box) in enumerate(zip(item.truth.names, item.truth.boxes.tolist(), strict=True)):
            rows.append([*begin, name, *(f"{value:.9g}" for value in box)])
            if self.dataset.has_scores and item.truth.scores is not None:
                rows[-1] += [f"{item.truth.scores[index]:.6g}", item.numbers[index]]
        return _lines(rows or [[*begin, *[""] * (7 if self.dataset.has_scores else 5)]])


def _lines(rows: Sequence[Sequence[object]]) -> str:
    """Rows as lines of a CSV file."""
    text = io.StringIO()
    csv.writer(text).writerows([for_csv(cell) for cell in row] for row in rows)
    return text.getvalue()
