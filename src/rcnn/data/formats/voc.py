"""Pascal VOC: an XML file an image, with boxes, classes and the mark ``difficult``.

Convention:
    VOC's corners are 1-based and inclusive: ``xmin 1, ymin 1, xmax 10, ymax 20`` is the box ``0 0 10 20``.
    Taken by the letter, ``xmin = xmax`` would be one pixel wide; in practice it is a slip of the mouse, so
    such boxes are left out with a warning.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from rcnn.data.check import Box, BoxFault, check_box, size_problem
from rcnn.data.dataset import NOT_READ, Dataset, Problem, Record, nested_files_message, shortened
from rcnn.io.atomic import read_lines
from rcnn.io.images import IMAGE_ENDINGS, ImageError, image_files, image_size, visible_files
from rcnn.structures import Instances, Size

ANNOTATION_FOLDERS = ("Annotations", "annotations", "annots", "xmls")  # the published name first
IMAGE_FOLDERS = ("JPEGImages", "Images", "images")
CORNERS = ("xmin", "ymin", "xmax", "ymax")


def read_voc(folder: str | Path, split: str | None = None) -> Dataset:
    """Open a folder with ``Annotations/*.xml`` and ``JPEGImages`` or ``Images``, or with all files in itself.

    The classes are the names that occur, sorted; names that differ in upper and lower case only are one
    class, called by the most frequent spelling. An image without an XML file is left out: give it one without
    objects if it has none.

    Args:
        folder: the folder that holds ``Annotations``, or the XML files beside their images as labelImg
            leaves them.
        split: a name such as ``train``: only the images listed in ``ImageSets/Main/train.txt``.

    Raises:
        ValueError: the folders are missing, there is no XML file, or no such split.
    """
    source = Path(folder)
    annotations = annotation_folder(source)
    if annotations is None:
        found = ", ".join(sorted(p.name for p in source.iterdir())[:10]) if source.is_dir() else "no folder"
        raise ValueError(
            f"{source}: expected Annotations/*.xml and JPEGImages/ or Images/ in it, or an XML file beside "
            f"each image; found {found}."
        )
    reader = _Reader(source, _images_of(source))
    for xml in _annotation_files(annotations, split, source, reader.problems):
        reader.read(xml)
    if split is None:
        reader.report_unannotated()
    return reader.dataset()


def annotation_folder(source: Path) -> Path | None:
    """Where the XML files of ``source`` lie; None if it does not look like Pascal VOC."""
    for folder in (source / name for name in ANNOTATION_FOLDERS):
        if visible_files(folder, "*.xml"):
            return folder
    # Other programs leave XML files too: one has to be called like an image.
    beside = source.is_dir() and any(f.with_suffix(".xml").is_file() for f in image_files(source))
    return source if beside else None


def _images_of(source: Path) -> dict[str, Path]:
    """The image files by name and, where no other file has that name, by stem."""
    folders = (source / name for name in IMAGE_FOLDERS)
    files = image_files(next((folder for folder in folders if folder.is_dir()), source))
    return {f.stem: f for f in files} | {f.name: f for f in files}


def _annotation_files(folder: Path, split: str | None, source: Path, problems: list[Problem]) -> list[Path]:
    if split is None:
        deeper = nested_files_message(folder, "*.xml") if folder != source else ""
        if deeper:
            problems.append(Problem(folder, deeper, NOT_READ, severity="warning"))
        return visible_files(folder, "*.xml")
    listing = source / "ImageSets" / "Main" / f"{split}.txt"
    if not listing.is_file():
        known = ", ".join(sorted(f.stem for f in listing.parent.glob("*.txt"))) or "none"
        raise ValueError(f"{listing}: there is no such split; available: {known}.")
    names = listed_names(listing, lambda name: (folder / f"{name}.xml").is_file())
    stems = [str(Path(n).with_suffix("")) if n.lower().endswith(IMAGE_ENDINGS) else n for n in names]
    for stem, count in Counter(stems).items():
        if count > 1:
            what = f"The image is listed {count} times."
            problems.append(Problem(listing, what, "It is used once; delete the others.", stem, "warning"))
    return [folder / f"{stem}.xml" for stem in dict.fromkeys(stems)]


def listed_names(listing: Path, known: Callable[[str], bool]) -> list[str]:
    """The names of a list of ``ImageSets``; those of a class have 1, 0 or -1 behind each.

    Names may have spaces: a line that is ``known`` as it stands is one.

    Raises:
        ValueError: no UTF-8.
    """
    lines = [line for line in read_lines(listing) if line]
    return [line if known(line) else re.sub(r"\s+-?[01]$", "", line) for line in lines]


@dataclass
class _Picture:
    """One image with its objects, names as they are spelled."""

    path: Path
    size: Size
    boxes: list[Box]
    names: list[str]
    difficult: list[bool]


class _Reader:
    """Collects what can be used of the files, and every problem on the way."""

    def __init__(self, source: Path, images: dict[str, Path]) -> None:
        self.source = source
        self.images = images
        names = Counter(name.casefold() for name in images)
        self.folded = {n.casefold(): file for n, file in images.items() if names[n.casefold()] == 1}
        self.problems: list[Problem] = []
        self.pictures: list[_Picture] = []
        self.files: dict[Path, Path] = {}  # image → XML

    def read(self, xml: Path) -> None:
        """One annotation file and its image."""
        try:
            root = ElementTree.parse(xml).getroot()
        except FileNotFoundError:
            self.problems.append(Problem(xml, "The annotation file is missing.", "Put it there."))
            return
        except (ElementTree.ParseError, OSError, ValueError, LookupError) as error:  # the last: its encoding
            self.problems.append(Problem(xml, f"This is not XML: {error}.", "Mend or export it anew."))
            return
        if root.tag != "annotation":
            what = f"Expected Pascal VOC's <annotation>; found <{root.tag}>."
            self.problems.append(Problem(xml, what, "Move files of other kinds away."))
            return
        path = self._image(xml, root)
        if path is None:
            return
        try:
            size = image_size(path)
        except ImageError as error:
            what = str(error).removeprefix(f"{path}: ")
            self.problems.append(Problem(path, what, "Replace the image.", xml.name))
            return
        self._compare_size(path, xml, root, size)
        self._read_objects(_Picture(path, size, [], [], []), xml, root)

    def _image(self, xml: Path, root: ElementTree.Element) -> Path | None:
        """The image of an annotation file: called like it and named in it, or else one of the two.

        Files that were renamed in pairs name the image of another.
        """
        named = (root.findtext("filename") or "").strip().replace("\\", "/").rsplit("/", 1)[-1]
        own = self.images.get(xml.stem)
        path = self.images.get(named) or self.folded.get(named.casefold())
        if path is None:
            path = own
        elif own is not None and path.stem != xml.stem:
            what = f"{xml.name} is called like this image, but its <filename> says {named}."
            advice = "The boxes are read as those of this image; rename the files if they are not."
            self.problems.append(Problem(own, what, advice, xml.name, "warning"))
            path = own
        if path is None:
            what = (
                f"Its image is missing: neither {named or '<filename>'} nor {xml.stem} with a known ending "
                f"in {' or '.join(IMAGE_FOLDERS)}/."
            )
            self.problems.append(Problem(xml, what, "Put the image there, or delete the file."))
        elif path in self.files:
            what = f"The image is annotated twice, in {self.files[path].name} and {xml.name}."
            self.problems.append(Problem(path, what, "Keep one of the files.", xml.name))
            return None
        else:
            self.files[path] = xml
        return path

    def _compare_size(self, path: Path, xml: Path, root: ElementTree.Element, size: Size) -> None:
        width, height = root.findtext("size/width"), root.findtext("size/height")
        try:
            annotated = (int(float(height or 0)), int(float(width or 0)))
        except (ValueError, OverflowError):
            what = f"The size annotated is {width} by {height}."
            self.problems.append(Problem(path, what, "Give width and height in pixels.", xml.name))
            return
        if annotated != (0, 0):  # what tools write that do not know it
            problem = size_problem(path, size, annotated)
            if problem is not None:
                self.problems.append(problem)

    def _read_objects(self, picture: _Picture, xml: Path, root: ElementTree.Element) -> None:
        for index, element in enumerate(root.findall("object"), 1):
            name = (element.findtext("name") or "").strip()
            box, fault = _read_box(element, picture.size)
            if not name:
                box, fault = None, BoxFault("The object has no name.", "Give it its class.")
            if fault is not None:
                place = f"{xml.name}, object {index} ({name})"
                self.problems.append(fault.of(picture.path, place))
            if box is not None:
                if (box, name) in zip(picture.boxes, picture.names, strict=True):
                    what = f"The object {name} is there twice, with the same box."
                    place = f"{xml.name}, object {index} ({name})"
                    advice = "Both are used; delete one."
                    self.problems.append(Problem(picture.path, what, advice, place, "warning"))
                picture.boxes.append(box)
                picture.names.append(name)
                picture.difficult.append((element.findtext("difficult") or "0").strip() in ("1", "true"))
        self.pictures.append(picture)

    def report_unannotated(self) -> None:
        """Images that no annotation file belongs to."""
        known = {
            *self.files,
            *(self.images[p.file.stem] for p in self.problems if p.file.stem in self.images),
        }
        bare = sorted(set(self.images.values()) - known)
        if bare:
            what = f"{len(bare)} images have no annotation file: {shortened([f.name for f in bare])}."
            advice = "They are left out; an XML file without objects makes an image without objects."
            self.problems.append(Problem(bare[0].parent, what, advice, severity="warning"))

    def dataset(self) -> Dataset:
        """Everything read, as a data set."""
        spellings = self._merge_spellings()
        class_names = tuple(sorted(set(spellings.values())))
        labels = {name: class_names.index(merged) for name, merged in spellings.items()}
        records = [_record(p, [labels[n] for n in p.names], class_names) for p in self.pictures]
        return Dataset("voc", self.source, class_names, records, tuple(self.problems))

    def _merge_spellings(self) -> dict[str, str]:
        """The class name that each spelling stands for."""
        counts = Counter(name for picture in self.pictures for name in picture.names)
        groups: dict[str, list[str]] = defaultdict(list)
        for name, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
            groups[name.casefold()].append(name)
        for first, *others in groups.values():
            if others:
                spelled = ", ".join(f"{name} ({counts[name]})" for name in (first, *others))
                what = f"Class names differ in upper and lower case only: {spelled}."
                self.problems.append(
                    Problem(self.source, what, f"They are read as {first}.", severity="warning")
                )
        return {name: group[0] for group in groups.values() for name in group}


def _read_box(element: ElementTree.Element, size: Size) -> tuple[Box | None, BoxFault | None]:
    texts = [element.findtext(f"bndbox/{corner}") for corner in CORNERS]
    try:
        x1, y1, x2, y2 = (float(text or "") for text in texts)
    except ValueError:
        shown = " ".join(f"{c}={t}" for c, t in zip(CORNERS, texts, strict=True))
        return None, BoxFault(f"Expected bndbox with four numbers; found {shown}.", "Correct or delete it.")
    if (x1 == x2 and y2 >= y1) or (y1 == y2 and x2 >= x1):
        what = f"The box xmin ymin xmax ymax = {x1:g} {y1:g} {x2:g} {y2:g} has no area."
        return None, BoxFault(what, "It was left out; draw it anew or delete it.", "warning")
    if x2 < x1 or y2 < y1:  # said here: taken as inclusive, corners swapped by one pixel would pass
        what = f"The box xmin ymin xmax ymax = {x1:g} {y1:g} {x2:g} {y2:g} has a negative width or height."
        return None, BoxFault(what, "Swap or correct its corners.")
    return check_box((x1 - 1, y1 - 1, x2, y2), size)


def _record(picture: _Picture, labels: Sequence[int], class_names: tuple[str, ...]) -> Record:
    truth = Instances(
        size=picture.size,
        boxes=np.array(picture.boxes, np.float32).reshape(-1, 4),
        labels=np.array(labels, np.int64),
        difficult=np.array(picture.difficult, np.bool_),
        class_names=class_names,
        path=picture.path,
    )
    return Record(picture.path, picture.path.stem, truth)
