"""The objects of Pascal VOC's XML files, in the forms that tools give them.

    <bndbox> xmin ymin xmax ymax       1-based, inclusive corners; several are several objects
    <polygon> x1 y1 x2 y2 …            Roboflow's outline; or <pt> with <x> and <y>
    <robndbox> cx cy w h angle         roLabelImg's rotated box, the angle in radians, clockwise
    <polygon> without <bndbox>         LabelMe's old XML: 0-based points; <deleted> 1 is no object
    <attributes> … rotation            CVAT's: degrees, clockwise, about the centre of the <bndbox>

Tags are compared in lower case, without namespaces.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from rcnn.data.formats.contents import read_xml
from rcnn.data.formats.figures import Part, bounds, rectangle, turned
from rcnn.data.formats.outlines import MIN_OVERLAP
from rcnn.data.problems import Box, BoxFault
from rcnn.structures import paired_box_ious

CORNERS = ("xmin", "ymin", "xmax", "ymax")
TURNED = ("cx", "cy", "w", "h", "angle")
MIN_POINTS = 3


@dataclass(frozen=True)
class VocShape:
    """One box of an object element.

    Attributes:
        corners: x1 y1 x2 y2, continuous; of a rotated box, the upright box around it.
        fault: why it is not used, or a warning.
        outline: its polygon.
        is_turned: it is a rotated box.
        is_off: it has a polygon that is not at its box.
    """

    corners: Box = (0.0, 0.0, 0.0, 0.0)
    fault: BoxFault | None = None
    outline: Part | None = None
    is_turned: bool = False
    is_off: bool = False


def parsed(xml: Path) -> ElementTree.Element:
    """The root of an annotation file, its tags in lower case and without namespaces.

    Raises:
        ValueError: it is missing, or not XML.
    """
    root = read_xml(xml)
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2].rpartition(":")[2].lower()
    return root


def shapes_of(element: ElementTree.Element) -> Iterator[VocShape]:
    """The boxes of an object: usually one."""
    rotated, boxes = element.findall("robndbox"), element.findall("bndbox")
    if rotated:
        yield from map(_turned_shape, rotated)
        return
    polygon = _polygon(element.find("polygon")) if len(boxes) < 2 else None
    if (element.findtext("deleted") or "0").strip() == "1":
        return
    if not boxes and polygon is not None:
        yield VocShape(bounds([polygon]) or (0, 0, 0, 0), outline=polygon)
        return
    angle = _rotation(element)
    for box in boxes or [ElementTree.Element("bndbox")]:
        corners, fault = _corners(box)
        if fault is not None:
            yield VocShape(corners, fault)
        elif angle:
            centre = ((corners[0] + corners[2]) / 2, (corners[1] + corners[3]) / 2)
            outline = turned(rectangle(corners), math.radians(angle), centre)
            yield VocShape(bounds([outline]) or corners, outline=outline, is_turned=True)
        elif polygon is not None and _is_apart(bounds([polygon]), corners):
            yield VocShape(corners, is_off=True)
        else:
            yield VocShape(corners, outline=polygon)


def _corners(box: ElementTree.Element) -> tuple[Box, BoxFault | None]:
    """The box, converted from VOC's 1-based inclusive corners, and its fault by VOC's rules."""
    texts = [box.findtext(corner) for corner in CORNERS]
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


def _turned_shape(box: ElementTree.Element) -> VocShape:
    texts = [box.findtext(name) for name in TURNED]
    try:
        x, y, width, height, angle = (float(text or "") for text in texts)
    except ValueError:
        shown = " ".join(f"{c}={t}" for c, t in zip(TURNED, texts, strict=True))
        what = f"Expected robndbox with five numbers; found {shown}."
        return VocShape(fault=BoxFault(what, "Correct or delete it."))
    upright = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
    outline = turned(rectangle(upright), angle, (x, y))
    return VocShape(bounds([outline]) or upright, outline=outline, is_turned=True)


def _rotation(element: ElementTree.Element) -> float:
    """CVAT's rotation in degrees, 0 if there is none."""
    for attribute in element.iterfind("attributes/attribute"):
        if (attribute.findtext("name") or "").strip().lower() == "rotation":
            try:
                return float(attribute.findtext("value") or 0) % 360
            except ValueError:
                return 0.0
    return 0.0


def _polygon(element: ElementTree.Element | None) -> Part | None:
    """The points ``[P, 2]`` of a polygon, None if it has too few."""
    if element is None:
        return None
    named = {child.tag: child.text or "" for child in element if re.fullmatch(r"[xy]\d+", child.tag)}
    pairs = [(named[f"x{k}"], named.get(f"y{k}", "")) for k in _numbers(named)]
    pairs = pairs or [(p.findtext("x") or "", p.findtext("y") or "") for p in element.iter("pt")]
    try:
        points = np.array([(float(x), float(y)) for x, y in pairs], np.float64).reshape(-1, 2)
    except ValueError:
        return None
    return points if len(points) >= MIN_POINTS and np.isfinite(points).all() else None


def _numbers(named: dict[str, str]) -> list[int]:
    return sorted(int(tag[1:]) for tag in named if tag.startswith("x"))


def _is_apart(outline: Box | None, box: Box) -> bool:
    """Whether the box of an outline hardly overlaps the annotated one."""
    return outline is None or bool(paired_box_ious(np.array(outline), np.array(box)) < MIN_OVERLAP)
