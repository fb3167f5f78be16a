"""CVAT's own XML ("CVAT for images 1.1", "CVAT for video 1.1").

    <annotations>
      <image name="a.jpg" width="64" height="48"><box label="cat" xtl="8" …/><mask rle="…" …/></image>
      <track id="0" label="car"><box frame="0" keyframe="1" outside="0" …/></track>
    </annotations>

Convention:
    Coordinates are continuous: ``xtl="8" ytl="6" xbr="24" ybr="20"`` is the box ``8 6 24 20``. ``rotation``
    is in degrees, clockwise, around the centre. The runs of a mask go row by row through its window and begin
    with the pixels outside.

Boxes stay boxes unless they are turned; turned boxes, polygons, ellipses and masks have outlines. Outlines of
one label and ``group_id`` are parts of one object, as in CVAT's other exports. Skeletons are objects with
keypoints. Points, lines and cuboids are ignored with a warning. Tracks are in
:mod:`rcnn.data.formats.cvat_tracks`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import numpy.typing as npt

from rcnn.data.builder import Picture
from rcnn.data.dataset import Dataset
from rcnn.data.formats.annotated import AnnotatedImages, Drawn
from rcnn.data.formats.contents import has_one_file, head, one_file, read_xml
from rcnn.data.formats.cvat_tracks import Shape, frame_files, numbers_of, shapes_by_frame
from rcnn.data.formats.figures import bounds, ellipse, rectangle, turned, window_code
from rcnn.data.formats.writer import FileWriter, Item
from rcnn.data.problems import Box
from rcnn.structures import Masks, Outline, Size, Skeleton

UNREAD = ("points", "polyline", "cuboid")
READ = ("box", "polygon", "ellipse", "mask", "skeleton")
DIFFICULT, CROWD = "difficult", "is_crowd"  # names of attributes, as in CVAT's other exports
YES = ("1", "true", "yes")


def is_cvat(path: Path, images: Path | None = None, split: str | None = None) -> bool:
    """Whether a file is CVAT's XML, or a folder has one."""
    return has_one_file(path, ".xml", _is_file, "CVAT")


def _is_file(file: Path) -> bool:
    text = head(file)
    return "<annotations" in text and ("<image " in text or "<track " in text or "<meta>" in text)


def read_cvat(path: str | Path, images: str | Path | None = None, split: str | None = None) -> Dataset:
    """Open an XML file of CVAT.

    Args:
        path: the file, or the folder that contains it.
        images: the folder of the images, or of a video's frames, if it is elsewhere.
        split: a subset of a project, such as ``Train``.

    Raises:
        ValueError: there is no such file, or it is damaged, or none of its images is found, or a video's
            frames cannot be assigned.
    """
    file = one_file(Path(path), ".xml", _is_file, "CVAT")
    root = read_xml(file)
    if root.tag != "annotations":
        raise ValueError(f"{file}: expected CVAT's <annotations>; found <{root.tag}>.")
    reader = _Reader(file, images)
    entries = reader.chosen(root.findall("image"), split)
    for entry in entries:
        reader.read_image(entry)
    tracks = root.findall("track")
    if tracks or not root.findall("image"):
        reader.read_video(root, tracks)
    elif split is None:
        reader.objects.warn_of_unlisted()
    return reader.dataset(root)


class _Reader:
    """Collects the objects of all images."""

    def __init__(self, file: Path, images: str | Path | None) -> None:
        self.objects = AnnotatedImages("cvat", file, "crowd", "difficult", images=images)
        self.seen: dict[Path, str] = {}
        self.framed = 0  # skeletons, whose boxes are derived

    def chosen(self, entries: list[ElementTree.Element], split: str | None) -> list[ElementTree.Element]:
        """The images of a subset; without a choice, all."""
        subsets = list(dict.fromkeys(e.get("subset") for e in entries if e.get("subset")))
        if split is None:
            if len(subsets) > 1:
                what = f"The file has the subsets {', '.join(map(str, subsets))}."
                self.objects.builder.warn(what, "All are read; --split takes one of them.", "subsets")
            return entries
        kept = [entry for entry in entries if (entry.get("subset") or "").casefold() == split.casefold()]
        if not kept:
            known = ", ".join(map(str, subsets)) or "none"
            raise ValueError(f"{self.objects.builder.source}: no subset {split}; available: {known}.")
        return kept

    def read_image(self, entry: ElementTree.Element) -> None:
        """Read the objects of one image."""
        name, subset = entry.get("name") or "", entry.get("subset")
        found = self.objects.index.find(f"{subset}/{name}") if subset else None
        if found is None:
            picture = self.objects.find(name, size=_size(entry), place=name)
        else:
            picture = self.objects.at(found, size=_size(entry), place=name)
        if picture is None or not self.objects.is_new(picture, f"<image id={entry.get('id')}>", self.seen):
            return
        groups: dict[tuple[str, str], Drawn] = {}
        for number, element in enumerate(entry, 1):
            if element.tag in READ:
                drawn = self._drawn(picture, element, f"{name}, {element.tag} {number}")
                group = element.get("group_id") or "0"
                whole = groups.get((element.get("label") or "", group)) if group != "0" else None
                if drawn is None or drawn.outline is None or drawn.box is not None:
                    whole = None
                elif whole is not None:
                    whole.outline = _together(whole.outline, drawn.outline, picture.size)
                elif group != "0":
                    groups[drawn.label, group] = drawn
                if drawn is not None and whole is None:
                    self.objects.draw(picture, drawn)
            elif element.tag in UNREAD:
                self.objects.ignore(f"shapes of the type {element.tag}")

    def read_video(self, root: ElementTree.Element, tracks: list[ElementTree.Element]) -> None:
        """Read the frames of a video, with those objects of the tracks that are visible."""
        files = frame_files(self.objects, root, tracks)
        pictures = {frame: self.objects.at(file, place=f"frame {frame}") for frame, file in files.items()}
        last = max(files, default=-1)
        lost: set[int] = set()
        for track in tracks:
            place = f"track {track.get('id')}"
            shapes, fault = shapes_by_frame(track, last)
            if fault is not None:
                self.objects.builder.report(fault, "Correct or delete the track.", place)
            for frame, shape in shapes:
                if shape.kind in UNREAD:
                    self.objects.ignore(f"shapes of the type {shape.kind}")
                elif frame not in files:
                    lost.add(frame)
                elif (picture := pictures[frame]) is not None:
                    drawn = self._from_shape(picture, shape, f"{place}, frame {frame}")
                    if drawn is not None:
                        self.objects.draw(picture, drawn)
        if lost:
            what = f"{len(lost)} frames with objects have no image, for example frame {min(lost)}."
            self.objects.builder.report(what, "Extract all frames, or skip them with --skip-bad.", "frames")

    def _drawn(self, picture: Picture, element: ElementTree.Element, place: str) -> Drawn | None:
        try:
            shape = Shape.from_element(element, element.get("label") or "")
        except ValueError as error:
            self.objects.wrong(picture, place, f"The {element.tag} cannot be read ({error}).")
            return None
        return self._from_shape(picture, shape, place)

    def _from_shape(self, picture: Picture, shape: Shape, place: str) -> Drawn | None:
        drawn = Drawn(shape.label, place)
        drawn.difficult = shape.attributes.get(DIFFICULT, "").casefold() in YES
        drawn.crowd = shape.attributes.get(CROWD, "").casefold() in YES
        values, angle = shape.values, math.radians(shape.rotation)
        if shape.kind == "skeleton":
            drawn.keypoints = shape.keypoints
            shown = np.array([p[:2] for p in shape.keypoints.values() if p[2] > 0], np.float64).reshape(-1, 2)
            drawn.box = bounds([shown])
            self.framed += 1
        elif shape.kind == "box":
            box: Box = (values[0], values[1], values[2], values[3])
            centre = ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
            drawn.box = None if angle else box
            drawn.outline = [turned(rectangle(box), angle, centre)] if angle else None
        elif shape.kind == "ellipse":
            drawn.outline = [ellipse((values[0], values[1]), (values[2], values[3]), angle)]
        elif shape.kind == "mask":
            code = window_code(shape.bitmap, (int(values[1]), int(values[0])), picture.size)
            drawn.outline = [] if code is None else code
        else:
            drawn.outline = [values.reshape(-1, 2)]
        return drawn

    def dataset(self, root: ElementTree.Element) -> Dataset:
        """The data set, with the labels of the task in its order."""
        if self.framed:
            what = f"The boxes of {self.framed} skeletons are those around their keypoints."
            self.objects.builder.warn(what, "CVAT's skeletons have no boxes of their own.", "skeletons")
        labels = root.findall("meta//labels/label")
        parts = [_text(label, "name") for label in labels if label.find("parent") is not None]
        used = {drawn.label for _, drawn in self.objects.drawn}
        drawable = [
            name
            for label in labels
            if label.find("parent") is None
            # Without objects, a label is a class only if it can have any.
            and ((name := _text(label, "name")) in used or _text(label, "type") not in ("tag", *UNREAD))
        ]
        points = {name for _, drawn in self.objects.drawn for name in drawn.keypoints}
        skeleton = Skeleton(tuple(dict.fromkeys(parts))) if points and points <= set(parts) else None
        return self.objects.dataset(drawable or None, skeleton=skeleton)


def _text(element: ElementTree.Element, name: str) -> str:
    return (element.findtext(name) or "").strip()


def _size(entry: ElementTree.Element) -> Size | None:
    found = numbers_of(entry, ("height", "width"))
    return None if found is None else (int(found[0]), int(found[1]))


def _together(one: Outline | None, other: Outline, size: Size) -> Outline:
    """The union of two outlines."""
    assert one is not None
    if isinstance(one, list) and isinstance(other, list):
        return [*one, *other]
    drawn = Masks.from_outlines([outline for outline in (one, other) if outline], size)
    union: npt.NDArray[np.bool_] = np.any(drawn.dense(), axis=0, keepdims=True)
    return Masks.from_dense(union).rle()[0]


class CvatWriter(FileWriter):
    """CVAT's XML for images: a mask for each object with an outline, a box for the others.

    Predictions have the source ``auto`` and the attributes ``row``, the number of the object, and ``score``;
    CVAT keeps attributes that a task's labels have, and ignores others.
    """

    holds = frozenset({"crowds", "difficult", "outlines"})
    file_name = "annotations.xml"

    def start(self) -> str:
        """The version and the labels."""
        labels = ElementTree.Element("labels")
        for name in self.dataset.class_names:
            ElementTree.SubElement(ElementTree.SubElement(labels, "label"), "name").text = name
        meta = ElementTree.Element("meta")
        ElementTree.SubElement(meta, "task").append(labels)
        return (
            "<?xml version='1.0' encoding='utf-8'?>\n<annotations>\n  <version>1.1</version>\n"
            + _indented(meta)
        )

    def text(self, item: Item) -> str:
        """One image and its objects."""
        if item.truth.masks is not None:
            item = self.with_outlines(item)
            self.note_boxes(item)
        truth = item.truth
        values = {"name": item.image.name, "width": truth.size[1], "height": truth.size[0]}
        image = ElementTree.Element("image", _texts(id=self.images, **values))
        patches = [None] * len(truth) if truth.masks is None else list(truth.masks.patches())
        source = "manual" if truth.scores is None else "auto"
        for index, (name, patch) in enumerate(zip(truth.names, patches, strict=True)):
            shared = {"label": name, "source": source, "occluded": 0}
            if truth.masks is None or patch is None:
                corners = zip(("xtl", "ytl", "xbr", "ybr"), truth.boxes[index].tolist(), strict=True)
                box = {key: f"{value:.9g}" for key, value in corners}
                element = ElementTree.SubElement(image, "box", _texts(**shared, **box, z_order=0))
            else:
                left, top, right, bottom = truth.masks.windows[index].tolist()
                window = {"left": left, "top": top, "width": right - left, "height": bottom - top}
                runs = ", ".join(map(str, _runs(patch.reshape(-1))))
                element = ElementTree.SubElement(
                    image, "mask", _texts(**shared, rle=runs, **window, z_order=0)
                )
            for key, value in _attributes(item, index).items():
                ElementTree.SubElement(element, "attribute", {"name": key}).text = value
        return _indented(image)

    def end(self) -> str:
        """The end of the file."""
        return "</annotations>\n"


def _attributes(item: Item, index: int) -> dict[str, str]:
    """The attributes of an object."""
    truth = item.truth
    flags = {DIFFICULT: truth.difficult, CROWD: truth.crowd}
    found = {key: "true" for key, marked in flags.items() if marked is not None and marked[index]}
    if truth.scores is not None:
        found |= {"row": str(item.numbers[index]), "score": f"{truth.scores[index]:.6g}"}
    return found


def _indented(element: ElementTree.Element) -> str:
    """An element as text, inside of the root."""
    ElementTree.indent(element, level=1)
    return "  " + ElementTree.tostring(element, "unicode") + "\n"


def _texts(**values: object) -> dict[str, str]:
    return {key: str(value) for key, value in values.items()}


def _runs(pixels: npt.NDArray[np.uint8]) -> Sequence[int]:
    """Lengths of the runs of 0, 1, 0, … of pixels."""
    edges = np.flatnonzero(np.diff(pixels != 0)) + 1
    counts: list[int] = np.diff(np.r_[0, edges, len(pixels)]).tolist()
    return [0, *counts] if len(pixels) and pixels[0] else counts
