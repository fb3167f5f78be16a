"""Pascal VOC: one XML file per image, with boxes, classes and the flag ``difficult``.

    Annotations/a.xml   JPEGImages/a.jpg     or folders of other names (:mod:`rcnn.data.formats.folders`)
    a.xml               a.jpg                in one folder, as labelImg saves them

Both sides may have folders below them. :mod:`rcnn.data.formats.voc_objects` lists the forms of objects.

Convention:
    VOC's corners are 1-based and inclusive: ``xmin 1, ymin 1, xmax 10, ymax 20`` is the box ``0 0 10 20``.
    Strictly, ``xmin = xmax`` would be one pixel wide; in practice it is an accidental click, so such boxes
    are ignored with a warning.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from xml.etree import ElementTree

from rcnn.data.builder import Annotation, DatasetBuilder, Picture
from rcnn.data.dataset import Dataset
from rcnn.data.formats.contents import head
from rcnn.data.formats.folders import (
    Sides,
    folders_below,
    has_file,
    has_file_itself,
    has_images,
    images_below,
    is_annotation_folder,
    is_split_into_folders,
    sides_of,
    subfolders,
)
from rcnn.data.formats.lookup import ImagesByName, reach_of, refuse_outside
from rcnn.data.formats.voc_objects import parsed, shapes_of
from rcnn.data.problems import NOT_READ, BoxFault, Problem, nested_files_message, shortened, size_problem
from rcnn.io.atomic import read_lines
from rcnn.io.folders import is_file
from rcnn.io.images import IMAGE_ENDINGS, image_files, visible_files

OFFICIAL = "Annotations"
IMAGE_FOLDERS = ("JPEGImages", "Images", "images")
LOOKED_AT = 5  # XML files read to recognise a folder


def read_voc(folder: str | Path, split: str | None = None, images: str | Path | None = None) -> Dataset:
    """Open a folder with ``Annotations/*.xml`` and ``JPEGImages`` or ``Images``, or with all files together.

    The classes are the names that occur, sorted; names that differ only in case are one class, named by the
    most frequent spelling. An image without an XML file is skipped; an XML file without objects stands for an
    image without objects.

    Args:
        folder: the folder that contains ``Annotations``, or the XML files next to their images, as labelImg
            saves them; or one of the lists in its ``ImageSets/Main``.
        split: a name such as ``train``, for the images listed in ``ImageSets/Main/train.txt``.
        images: the folder of the images, if it is elsewhere.

    Raises:
        ValueError: the folders are missing, there is no XML file, or no such split.
    """
    source = Path(folder)
    if is_list_in(source, "Main"):
        source, split = source.parents[2], split or source.stem
    image_folder = None if images is None else Path(images)
    sides = voc_sides(source, image_folder)
    if sides is None:
        found = ", ".join(sorted(p.name for p in source.iterdir())[:10]) if source.is_dir() else "no folder"
        raise ValueError(
            f"{source}: expected Annotations/*.xml with JPEGImages/ or Images/, or an XML file next to "
            f"each image; found {found}."
        )
    reader = _Reader(source, sides)
    for xml in _annotation_files(sides, split, source, reader.builder.problems):
        reader.read(xml)
    if split is None:
        reader.report_unannotated()
    return reader.dataset()


def is_voc(path: Path, split: str | None = None, images: Path | None = None) -> bool:
    """Whether a folder has VOC's XML files, or a path names a list of ``ImageSets/Main``."""
    if is_list_in(path, "Main"):
        return True
    sides = voc_sides(path, images)
    return sides is not None and not _is_split(sides)


def is_list_in(path: Path, folder: str) -> bool:
    """Whether a path names a list in a folder of ``ImageSets``; it need not exist."""
    return path.suffix == ".txt" and path.parent.name == folder and path.parent.parent.name == "ImageSets"


def voc_sides(source: Path, images: Path | None = None) -> Sides | None:
    """The folders of the images and of the XML files; None if it does not look like Pascal VOC."""
    folders = sorted(subfolders(source), key=lambda folder: folder.name != OFFICIAL)
    filled = [f for f in folders if is_annotation_folder(f.name) and has_voc_files(f)]
    if images is not None:
        own = [*filled, source] if has_voc_files(source) else filled
        return Sides(images, own[0]) if own else None
    official = source / OFFICIAL
    if has_file(official, (".xml",)) and not all(map(_is_foreign, islice(_xml_files(official), LOOKED_AT))):
        named = [source / name for name in IMAGE_FOLDERS if has_images(source / name)]
        return Sides(named[0] if named else source, official)
    pairs = sides_of(source, has_voc_files)
    if pairs:
        return pairs[0]
    if len(filled) == 1 and image_files(source):
        return Sides(source, filled[0])
    # Other programs save XML files, too: one must have the name of an image.
    own = [f for f in visible_files(source) if f.suffix.lower() == ".xml"] if source.is_dir() else []
    stems = {f.stem for f in image_files(source)} if own else set()
    beside = any(f.stem in stems and not _is_foreign(f) for f in own)
    return Sides(source, source) if beside else None


def has_voc_files(folder: Path) -> bool:
    """Whether the first XML file in a folder, or below it, looks like one of Pascal VOC."""
    file = next(_xml_files(folder), None)
    return (
        file is not None
        and not _is_foreign(file)
        and re.search(r"<(\w+:)?annotation\b", head(file), re.I) is not None
    )


def _xml_files(folder: Path) -> Iterator[Path]:
    return (f for place in folders_below(folder) for f in visible_files(place) if _is_xml(f))


def _is_xml(file: Path) -> bool:
    """Whether a file has the extension .xml; or none, as those of Stanford Dogs, and begins like VOC's."""
    if file.suffix.lower() == ".xml":
        return True
    return not file.suffix and head(file).startswith("<annotation>")


def _is_foreign(xml: Path) -> bool:
    """Whether the first element of an XML file is another than VOC's; broken files may be VOC's."""
    first = re.search(r"<(?:[\w.-]+:)?([A-Za-z_][\w.-]*)", head(xml))
    return first is not None and first[1].lower() != "annotation"


def _is_split(sides: Sides) -> bool:
    """Whether both folders have those of the splits, which are opened one by one."""
    return is_split_into_folders(sides.images) and not has_file_itself(sides.annotations, ".xml")


def _annotation_files(sides: Sides, split: str | None, source: Path, problems: list[Problem]) -> list[Path]:
    folder = sides.annotations
    if split is None:
        if folder == sides.images:
            problems += _nested(folder)
            return [f for f in visible_files(folder) if f.suffix.lower() == ".xml"]
        return list(_xml_files(folder))
    listing = source / "ImageSets" / "Main" / f"{split}.txt"
    if not listing.is_file():
        known = ", ".join(sorted(f.stem for f in listing.parent.glob("*.txt"))) or "none"
        raise ValueError(f"{listing}: no such split; available: {known}.")
    names = listed_names(listing, lambda name: is_file(folder / f"{name}.xml"))
    stems = [str(Path(n).with_suffix("")) if n.lower().endswith(IMAGE_ENDINGS) else n for n in names]
    for stem, count in Counter(stems).items():
        if count > 1:
            what = f"The image is listed {count} times."
            problems.append(Problem(listing, what, "It is used once; delete the others.", stem, "warning"))
    files = [folder / f"{stem}.xml" for stem in dict.fromkeys(stems)]
    for file in files:
        refuse_outside(listing, file, reach_of(folder))
    return files


def _nested(folder: Path) -> list[Problem]:
    deeper = nested_files_message(folder, "*.xml")
    return [Problem(folder, deeper, NOT_READ, severity="warning")] if deeper else []


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

    def __init__(self, source: Path, sides: Sides) -> None:
        self.builder = DatasetBuilder("voc", source, "difficult")
        self.sides = sides
        below = images_below(sides.images) if sides.images != sides.annotations else image_files(source)
        self.images = ImagesByName(sides.images, below)
        self.files: dict[Path, Path] = {}  # image → XML
        self.turned: list[str] = []
        self.off: list[str] = []

    def read(self, xml: Path) -> None:
        """Read one annotation file and its image."""
        if not is_file(xml):
            self.builder.report("The annotation file is missing.", "Add it.", file=xml)
            return
        try:
            root = parsed(xml)
        except ValueError as error:
            what = str(error).removeprefix(f"{xml}: ")
            self.builder.report(what[0].upper() + what[1:], "", file=xml)
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
        named = (root.findtext("filename") or "").strip().replace("\\", "/")
        own = self.images.beside(xml.relative_to(self.sides.annotations))
        path = self.images.find(named)
        if path is None:
            path = own
        elif own is not None and path != own and path.stem != xml.stem:
            name = named.rsplit("/", 1)[-1]
            what = f"{xml.name} has the name of this image, but its <filename> is {name}."
            advice = "The boxes are assigned to this image; rename the files if this is wrong."
            self.builder.warn(what, advice, xml.name, file=own)
            path = own
        if path is None:
            what = (
                f"Its image is missing: there is neither {named or '<filename>'} nor {xml.stem} with a known "
                f"extension in {self.sides.images}."
            )
            advice = "Add the image, name its folder (--images), or delete this file."
            self.builder.report(what, advice, file=xml)
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
        if annotated == (0, 0):  # written by tools that do not know the size
            self.builder.note_unsized(picture.path)
        else:
            problem = size_problem(picture.path, picture.size, annotated)
            self.builder.problems += [] if problem is None else [problem]

    def _read_object(self, picture: Picture, element: ElementTree.Element, place: str) -> None:
        name = (element.findtext("name") or "").strip()
        place = f"{place} ({name})"
        difficult = (element.findtext("difficult") or "0").strip().lower() in ("1", "true")
        for shape in shapes_of(element):
            fault = shape.fault if name else BoxFault("The object has no name.", "Give it its class.")
            if fault is not None:
                self.builder.problems.append(fault.of(picture.path, place))
                continue
            box = self.builder.usable_box(shape.corners, picture, place)
            if box is None:
                continue
            self.turned += [place] if shape.is_turned else []
            self.off += [place] if shape.is_off else []
            if any((other.box, other.label) == (box, name) for other in picture.annotations):
                what = f"The object {name} occurs twice, with the same box."
                self.builder.warn(what, "Both are used; delete one.", place, file=picture.path)
            outline = None if shape.outline is None else [shape.outline]
            picture.annotations.append(Annotation(box, name, place, outline, difficult=difficult))

    def report_unannotated(self) -> None:
        """Report images without an annotation file."""
        reported = {problem.file.stem for problem in self.builder.problems}
        bare = [f for f in self.images.files if f not in self.files and f.stem not in reported]
        if bare:
            what = f"{len(bare)} images have no annotation file: {shortened([f.name for f in bare])}."
            advice = "They are skipped; an XML file without objects stands for an image without objects."
            self.builder.warn(what, advice, file=bare[0].parent)

    def dataset(self) -> Dataset:
        """The data set; only now are the classes known."""
        self.builder.declare_occurring_classes()
        self._report_forms()
        self.builder.name_images()
        return self.builder.build()

    def _report_forms(self) -> None:
        """Say what was read other than as plain boxes."""
        objects = [annotation for p in self.builder.pictures for annotation in p.annotations]
        if any(annotation.outline is not None for annotation in objects):
            self.builder.holds |= {"outlines"}
        if self.turned:
            what = f"{len(self.turned)} boxes are rotated: {shortened(self.turned, 3)}."
            self.builder.warn(what, "Read are the upright boxes around them, and their outlines.", "boxes")
        if self.off:
            what = f"{len(self.off)} polygons are not at their boxes: {shortened(self.off, 3)}."
            self.builder.warn(what, "These polygons are ignored and the boxes used.", "polygons")
        if objects and all(annotation.difficult for annotation in objects):
            what = f"All {len(objects)} objects are marked as difficult."
            self.builder.warn(what, "Evaluation ignores difficult objects: remove the mark.", "difficult")
