"""The tracks of CVAT's videos: shapes at key frames, and those between them by interpolation.

As in CVAT, boxes, ellipses, polygons with equal numbers of points and skeletons move linearly between two key
frames, rotations the shorter way; other shapes stay as they are until the next key frame. The last key frame
holds to the end of the video. ``outside`` ends the visibility of an object.

The frames are image files whose names end with the number of the frame, from 0; where all frames are there
and the lowest number is 1, as ffmpeg counts, number 1 is frame 0.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import numpy.typing as npt

from rcnn.data.formats.annotated import AnnotatedImages
from rcnn.data.formats.outlines import is_number
from rcnn.io.images import MAX_PIXELS

VIDEO_ENDINGS = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v")
MEASURES = {
    "box": ("xtl", "ytl", "xbr", "ybr"),
    "ellipse": ("cx", "cy", "rx", "ry"),
    "mask": ("left", "top", "width", "height"),
}


@dataclass(frozen=True)
class Shape:
    """One shape, at one frame if it belongs to a track.

    Attributes:
        kind: the name of its element.
        label: its class.
        values: float64; the numbers of :data:`MEASURES`, or x, y of its points.
        rotation: degrees, clockwise.
        bitmap: of a mask, bool ``[h, w]``.
        keypoints: of a skeleton: x, y, visibility by name.
        outside: whether it is invisible from this frame on.
        attributes: CVAT's attributes.
    """

    kind: str
    label: str
    values: npt.NDArray[np.float64]
    rotation: float = 0.0
    bitmap: npt.NDArray[np.bool_] = field(default_factory=lambda: np.zeros((0, 0), np.bool_))
    keypoints: dict[str, tuple[float, float, float]] = field(default_factory=dict)
    outside: bool = False
    attributes: dict[str, str] = field(default_factory=dict)

    @classmethod
    def from_element(cls, element: ElementTree.Element, label: str) -> Shape:
        """Read an element.

        Raises:
            ValueError: its numbers are missing or broken.
        """
        kind = element.tag
        attributes = {a.get("name") or "": (a.text or "").strip() for a in element.iter("attribute")}
        rotation = float(element.get("rotation") or 0)
        shape = cls(kind, label, np.zeros(0), rotation, outside=element.get("outside") == "1")
        shape = replace(shape, attributes=attributes)
        if kind in MEASURES:
            numbers = numbers_of(element, MEASURES[kind])
            if numbers is None:
                raise ValueError(f"expected the numbers {', '.join(MEASURES[kind])}")
            shape = replace(shape, values=numbers)
            return shape if kind != "mask" else replace(shape, bitmap=_bitmap(element, numbers))
        if kind == "skeleton":
            points = {p.get("label") or "": _keypoint(p) for p in element.findall("points")}
            values = np.array([value[:2] for value in points.values()], np.float64).reshape(-1)
            hidden = bool(points) and all(value[2] == 0 for value in points.values())
            return replace(shape, keypoints=points, values=values, outside=shape.outside or hidden)
        points_text = _points(element.get("points") or "")
        if kind == "polygon" and len(points_text) < 6:
            raise ValueError(f"it has {len(points_text) // 2} points, expected at least 3")
        return replace(shape, values=points_text)

    def towards(self, other: Shape, part: float) -> Shape:
        """The shape on the way to that of the next key frame, at a fraction of the way."""
        if other.outside or self.kind != other.kind or self.values.shape != other.values.shape:
            return self
        if self.kind == "mask":
            return self
        turn = (other.rotation - self.rotation + 180) % 360 - 180
        values = self.values + part * (other.values - self.values)
        places = values.reshape(-1, 2).tolist() if self.keypoints else []
        named = zip(self.keypoints.items(), places, strict=True) if places else ()
        keypoints = {name: (x, y, old[2]) for (name, old), (x, y) in named}
        return replace(self, values=values, rotation=self.rotation + part * turn, keypoints=keypoints)


def numbers_of(element: ElementTree.Element, names: Sequence[str]) -> npt.NDArray[np.float64] | None:
    """The finite numbers in these attributes, None if one is missing or none."""
    try:
        values = [float(element.get(name) or "") for name in names]
    except ValueError:
        return None
    return np.array(values) if all(is_number(value) for value in values) else None


def _points(text: str) -> npt.NDArray[np.float64]:
    """``x1,y1;x2,y2`` as x1, y1, x2, y2."""
    words = [word for word in re.split(r"[;,\s]+", text.strip()) if word]
    values = np.array([float(word) for word in words], np.float64)
    if len(values) % 2 or not all(is_number(value) for value in values.tolist()):
        raise ValueError(f"expected points x,y;x,y;…, found {text[:40]!r}")
    return values


def _keypoint(element: ElementTree.Element) -> tuple[float, float, float]:
    values = _points(element.get("points") or "")
    if element.get("outside") == "1" or len(values) != 2:
        x, y = values.tolist() if len(values) == 2 else (0.0, 0.0)
        return x, y, 0.0
    x, y = values.tolist()
    return x, y, 1.0 if element.get("occluded") == "1" else 2.0


def _bitmap(element: ElementTree.Element, window: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """Bool ``[h, w]`` of the runs of a mask."""
    width, height = int(window[2]), int(window[3])
    counts = np.array([int(word) for word in re.split(r"[,\s]+", (element.get("rle") or "").strip()) if word])
    if not 0 < width * height <= MAX_PIXELS or len(counts) == 0 or counts.min() < 0:
        raise ValueError("expected runs in rle, and a window with pixels")
    if counts.sum() != width * height:
        raise ValueError(f"its runs cover {counts.sum()} pixels, its window has {width * height}")
    inside = np.repeat(np.arange(len(counts)) % 2 == 1, counts)
    return inside.reshape(height, width)


def shapes_by_frame(track: ElementTree.Element, last: int) -> tuple[list[tuple[int, Shape]], str | None]:
    """The visible shapes of a track with their frames up to ``last``, and the fault of a broken one."""
    label = track.get("label") or ""
    found: dict[int, Shape] = {}
    try:
        for element in track:
            if element.tag != "attribute":
                found[int(element.get("frame") or "")] = Shape.from_element(element, label)
    except ValueError as error:
        return [], f"A shape of the track cannot be read ({error})."
    return list(_between(sorted(found.items()), last)), None


def _between(keys: Sequence[tuple[int, Shape]], last: int) -> Iterator[tuple[int, Shape]]:
    for index, (frame, shape) in enumerate(keys):
        if shape.outside:
            continue
        if index + 1 < len(keys):
            following, other = keys[index + 1]
            for between in range(frame, following):
                yield between, shape.towards(other, (between - frame) / (following - frame))
        else:
            yield from ((between, shape) for between in range(frame, max(last, frame) + 1))


def frame_files(
    objects: AnnotatedImages, root: ElementTree.Element, tracks: Sequence[ElementTree.Element]
) -> dict[int, Path]:
    """The image file of each frame.

    Raises:
        ValueError: there are no images, or it is unclear which frame each one shows.
    """
    source = objects.builder.source
    files = objects.index.largest_folder()
    if not files:
        raise ValueError(
            f"{source}: this annotates a video, and no images of its frames were found. Extract them: "
            "ffmpeg -i VIDEO -start_number 0 images/frame_%06d.png"
        )
    size = _number(root, "meta//size")
    first, final = _number(root, "meta//start_frame") or 0, _number(root, "meta//stop_frame")
    total = size or (None if final is None else final - first + 1)
    ends = [re.search(r"(\d+)$", file.stem) for file in files]
    numbers = [int(end[1]) for end in ends if end]
    if len(set(numbers)) < len(files):
        if total != len(files):
            raise ValueError(
                f"{source}: {len(files)} images in {files[0].parent}, {total or 'unknown'} frames: expected "
                "names that end with the number of the frame."
            )
        return {first + index: file for index, file in enumerate(files)}
    used = [int(e.get("frame") or -1) for track in tracks for e in track if (e.get("frame") or "").isdigit()]
    if min(numbers) == 1 and min(used, default=0) >= 0 and total == len(files) and first == 0:
        what = f"The frames are numbered from 1: {files[0].name}."
        objects.builder.warn(what, "Number 1 is read as frame 0.", "frames")
        numbers = [number - 1 for number in numbers]
    elif min(numbers) == 1 and min(used, default=1) == 0:
        raise ValueError(
            f"{source}: frame 0 has objects, but the images in {files[0].parent} begin with "
            f"{files[0].name}: is that frame 0 or frame 1? Number the images from 0."
        )
    frames = dict(zip(numbers, files, strict=True))
    return {frame: file for frame, file in sorted(frames.items()) if final is None or frame <= final}


def _number(root: ElementTree.Element, place: str) -> int | None:
    text = (root.findtext(place) or "").strip()
    return int(text) if text.isdigit() else None
