"""Pascal VOC: one XML file per image, with boxes, classes and the flag ``difficult``.

Convention:
    VOC's corners are 1-based and inclusive: ``xmin 1, ymin 1, xmax 10, ymax 20`` is the box ``0 0 10 20``.
    Strictly, ``xmin = xmax`` would be one pixel wide; in practice it is an accidental click, so such boxes
    are ignored with a warning.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import numpy.typing as npt

from rcnn.data.builder import Annotation, DatasetBuilder, Picture
from rcnn.data.dataset import Dataset
from rcnn.data.formats.writer import Item, Writer
from rcnn.data.problems import NOT_READ, Box, BoxFault, Problem, nested_files_message, shortened, size_problem
from rcnn.io.atomic import read_lines
from rcnn.io.images import IMAGE_ENDINGS, image_files, visible_files

ANNOTATION_FOLDERS = ("Annotations", "annotations", "annots", "xmls")  # the official name first
IMAGE_FOLDERS = ("JPEGImages", "Images", "images")
CORNERS = ("xmin", "ymin", "xmax", "ymax")


def read_voc(folder: str | Path, split: str | None = None) -> Dataset:
    """Open a folder with ``Annotations/*.xml`` and ``JPEGImages`` or ``Images``, or with all files together.

    The classes are the names that occur, sorted; names that differ only in case are one class, named by the
    most frequent spelling. An image without an XML file is skipped; an XML file without objects stands for an
    image without objects.

    Args:
        folder: the folder that contains ``Annotations``, or the XML files next to their images, as labelImg
            saves them; or one of the lists in its ``ImageSets/Main``.
        split: a name such as ``train``, for the images listed in ``ImageSets/Main/train.txt``.

    Raises:
        ValueError: the folders are missing, there is no XML file, or no such split.
    """
    source = Path(folder)
    if is_list_in(source, "Main"):
        source, split = source.parents[2], split or source.stem
    annotations = annotation_folder(source)
    if annotations is None:
        found = ", ".join(sorted(p.name for p in source.iterdir())[:10]) if source.is_dir() else "no folder"
        raise ValueError(
            f"{source}: expected Annotations/*.xml with JPEGImages/ or Images/, or an XML file next to "
            f"each image; found {found}."
        )
    reader = _Reader(source, _images_of(source))
    for xml in _annotation_files(annotations, split, source, reader.builder.problems):
        reader.read(xml)
    if split is None:
        reader.report_unannotated()
    return reader.dataset()


def is_voc(path: Path, split: str | None = None) -> bool:
    """Whether a folder has VOC's XML files, or a path names a list of ``ImageSets/Main``."""
    return is_list_in(path, "Main") or annotation_folder(path) is not None


def is_list_in(path: Path, folder: str) -> bool:
    """Whether a path names a list in a folder of ``ImageSets``; it need not exist."""
    return path.suffix == ".txt" and path.parent.name == folder and path.parent.parent.name == "ImageSets"


def annotation_folder(source: Path) -> Path | None:
    """The folder of the XML files of ``source``; None if it does not look like Pascal VOC."""
    for folder in (source / name for name in ANNOTATION_FOLDERS):
        if visible_files(folder, "*.xml"):
            return folder
    # Other programs save XML files, too: one must have the name of an image.
    beside = source.is_dir() and any(f.with_suffix(".xml").is_file() for f in image_files(source))
    return source if beside else None


def _images_of(source: Path) -> dict[str, Path]:
    """The image files by name and by stem; names take precedence."""
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
        raise ValueError(f"{listing}: no such split; available: {known}.")
    names = listed_names(listing, lambda name: (folder / f"{name}.xml").is_file())
    stems = [str(Path(n).with_suffix("")) if n.lower().endswith(IMAGE_ENDINGS) else n for n in names]
    for stem, count in Counter(stems).items():
        if count > 1:
            what = f"The image is listed {count} times."
            problems.append(Problem(listing, what, "It is used once; delete the others.", stem, "warning"))
    return [folder / f"{stem}.xml" for stem in dict.fromkeys(stems)]


def listed_names(listing: Path, known: Callable[[str], bool]) -> list[str]:
    """The names in a list of ``ImageSets``; in lists of a class, each is followed by 1, 0 or -1.

    Names may contain spaces: a complete line that is ``known`` is a name.

    Raises:
        ValueError: the file is not UTF-8.
    """
    lines = [line for line in read_lines(listing) if line]
    return [line if known(line) else re.sub(r"\s+-?[01]$", "", line) for line in lines]


class _Reader:
    """Collects the usable content of the files, and all problems."""

    def __init__(self, source: Path, images: dict[str, Path]) -> None:
        self.builder = DatasetBuilder("voc", source, "difficult")
        self.images = images
        names = Counter(name.casefold() for name in images)
        self.folded = {n.casefold(): file for n, file in images.items() if names[n.casefold()] == 1}
        self.files: dict[Path, Path] = {}  # image → XML

    def read(self, xml: Path) -> None:
        """Read one annotation file and its image."""
        try:
            root = ElementTree.parse(xml).getroot()
        except FileNotFoundError:
            self.builder.report("The annotation file is missing.", "Add it.", file=xml)
            return
        except (ElementTree.ParseError, OSError, ValueError, LookupError) as error:  # LookupError: encoding
            self.builder.report(f"This is not XML: {error}.", "Fix it or export it again.", file=xml)
            return
        if root.tag != "annotation":
            what = f"Expected Pascal VOC's <annotation>; found <{root.tag}>."
            self.builder.report(what, "Move other kinds of files elsewhere.", file=xml)
            return
        path = self._image(xml, root)
        picture = None if path is None else self.builder.add_file(path, path.stem, xml.name)
        if picture is not None:
            self._compare_size(picture, xml, root)
            for index, element in enumerate(root.findall("object"), 1):
                self._read_object(picture, element, f"{xml.name}, object {index}")

    def _image(self, xml: Path, root: ElementTree.Element) -> Path | None:
        """The image of an annotation file: the one named in it, or else the one with the same name.

        If both exist and differ, the name of the file decides: pairs of files are often renamed together.
        """
        named = (root.findtext("filename") or "").strip().replace("\\", "/").rsplit("/", 1)[-1]
        own = self.images.get(xml.stem)
        path = self.images.get(named) or self.folded.get(named.casefold())
        if path is None:
            path = own
        elif own is not None and path.stem != xml.stem:
            what = f"{xml.name} has the name of this image, but its <filename> is {named}."
            advice = "The boxes are assigned to this image; rename the files if this is wrong."
            self.builder.warn(what, advice, xml.name, file=own)
            path = own
        if path is None:
            what = (
                f"Its image is missing: there is neither {named or '<filename>'} nor {xml.stem} with a known "
                f"extension in {' or '.join(IMAGE_FOLDERS)}/."
            )
            self.builder.report(what, "Add the image, or delete this file.", file=xml)
        elif path in self.files:
            what = f"The image is annotated twice, in {self.files[path].name} and {xml.name}."
            self.builder.report(what, "Keep one of the files.", xml.name, file=path)
            return None
        else:
            self.files[path] = xml
        return path

    def _compare_size(self, picture: Picture, xml: Path, root: ElementTree.Element) -> None:
        width, height = root.findtext("size/width"), root.findtext("size/height")
        try:
            annotated = (int(float(height or 0)), int(float(width or 0)))
        except (ValueError, OverflowError):
            what = f"The annotated size is {width} by {height}."
            self.builder.report(what, "Give width and height in pixels.", xml.name, file=picture.path)
            return
        if annotated != (0, 0):  # written by tools that do not know the size
            problem = size_problem(picture.path, picture.size, annotated)
            self.builder.problems += [] if problem is None else [problem]

    def _read_object(self, picture: Picture, element: ElementTree.Element, place: str) -> None:
        name = (element.findtext("name") or "").strip()
        place = f"{place} ({name})"
        corners, fault = _read_corners(element)
        if not name:
            fault = BoxFault("The object has no name.", "Give it its class.")
        if fault is not None:
            self.builder.problems.append(fault.of(picture.path, place))
            return
        box = self.builder.usable_box(corners, picture, place)
        if box is None:
            return
        if any((other.box, other.label) == (box, name) for other in picture.annotations):
            what = f"The object {name} occurs twice, with the same box."
            self.builder.warn(what, "Both are used; delete one.", place, file=picture.path)
        difficult = (element.findtext("difficult") or "0").strip() in ("1", "true")
        picture.annotations.append(Annotation(box, name, place, difficult=difficult))

    def report_unannotated(self) -> None:
        """Report images without an annotation file."""
        stems = (problem.file.stem for problem in self.builder.problems)
        known = {*self.files, *(self.images[stem] for stem in stems if stem in self.images)}
        bare = sorted(set(self.images.values()) - known)
        if bare:
            what = f"{len(bare)} images have no annotation file: {shortened([f.name for f in bare])}."
            advice = "They are skipped; an XML file without objects stands for an image without objects."
            self.builder.warn(what, advice, file=bare[0].parent)

    def dataset(self) -> Dataset:
        """The data set; only now are the classes known."""
        spellings = self._merge_spellings()
        self.builder.class_names = tuple(sorted(set(spellings.values())))
        self.builder.name_labels(spellings)
        return self.builder.build()

    def _merge_spellings(self) -> dict[str, str]:
        """The class name that each spelling stands for."""
        found = (annotation.label for p in self.builder.pictures for annotation in p.annotations)
        counts = Counter(str(name) for name in found)
        groups: dict[str, list[str]] = defaultdict(list)
        for name, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
            groups[name.casefold()].append(name)
        for first, *others in groups.values():
            if others:
                spelled = ", ".join(f"{name} ({counts[name]})" for name in (first, *others))
                what = f"Class names differ only in case: {spelled}."
                self.builder.warn(what, f"They are read as {first}.")
        return {name: group[0] for group in groups.values() for name in group}


def _read_corners(element: ElementTree.Element) -> tuple[Box, BoxFault | None]:
    """The box, converted from VOC's 1-based inclusive corners, and its fault by VOC's rules."""
    texts = [element.findtext(f"bndbox/{corner}") for corner in CORNERS]
    try:
        x1, y1, x2, y2 = (float(text or "") for text in texts)
    except ValueError:
        shown = " ".join(f"{c}={t}" for c, t in zip(CORNERS, texts, strict=True))
        fault = BoxFault(f"Expected bndbox with four numbers; found {shown}.", "Correct or delete it.")
        return (0, 0, 0, 0), fault
    shown = f"The box xmin ymin xmax ymax = {x1:g} {y1:g} {x2:g} {y2:g}"
    corners = (x1 - 1, y1 - 1, x2, y2)
    if (x1 == x2 and y2 >= y1) or (y1 == y2 and x2 >= x1):
        advice = "It was ignored; redraw or delete it."
        return corners, BoxFault(f"{shown} has no area.", advice, "warning")
    if x2 < x1 or y2 < y1:  # checked here: as inclusive, corners swapped by one pixel would pass
        return corners, BoxFault(f"{shown} has a negative width or height.", "Swap or correct its corners.")
    return corners, None


class VocWriter(Writer):
    """Pascal VOC boxes; corners that are not between pixels have decimals."""

    holds = frozenset({"difficult"})
    image_folder = "JPEGImages"

    def write(self, item: Item) -> None:
        """Write one XML file."""
        sides = item.truth.boxes[:, 2:] - item.truth.boxes[:, :2]
        narrow: npt.NDArray[np.bool_] = np.any(sides <= 1, axis=1)
        item = self.drop(item, narrow, "boxes of at most one pixel, which VOC readers ignore")
        truth = item.truth
        root = ElementTree.Element("annotation")
        _leaf(root, "folder", self.image_folder)
        _leaf(root, "filename", item.image.name)
        size = ElementTree.SubElement(root, "size")
        for name, value in zip(("height", "width", "depth"), (*truth.size, 3), strict=True):
            _leaf(size, name, value)
        hard = [False] * len(truth) if truth.difficult is None else truth.difficult.tolist()
        for name, box, difficult in zip(truth.names, truth.boxes.tolist(), hard, strict=True):
            thing = ElementTree.SubElement(root, "object")
            _leaf(thing, "name", name)
            _leaf(thing, "difficult", int(difficult))
            corners = ElementTree.SubElement(thing, "bndbox")
            x1, y1, x2, y2 = box
            for corner, value in zip(("xmin", "ymin", "xmax", "ymax"), (x1 + 1, y1 + 1, x2, y2), strict=True):
                _leaf(corners, corner, f"{value:.10g}")
        ElementTree.indent(root)
        folder = self.folder / "Annotations"
        folder.mkdir(exist_ok=True)
        ElementTree.ElementTree(root).write(folder / f"{item.image.stem}.xml", "utf-8")

    def finish(self) -> None:
        """Note the classes that are lost or merged, since VOC stores class names only with objects."""
        seen = {label for r in self.dataset.records for label in r.truth.labels.tolist()}
        folded = Counter(name.casefold() for name in self.dataset.class_names)
        for label, name in enumerate(self.dataset.class_names):
            if label not in seen:
                self.dropped.note("classes without an object", name)
            elif folded[name.casefold()] > 1:
                self.dropped.note("classes that differ only in case", name)


def _leaf(parent: ElementTree.Element, name: str, value: object) -> None:
    ElementTree.SubElement(parent, name).text = str(value)
