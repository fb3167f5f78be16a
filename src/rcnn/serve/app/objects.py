"""Objects as the browser has them: JSON with a text as id, and masks as runs inside their windows.

Convention: the mask ``[[0, 1], [1, 1]]`` at x 5, y 2 is ``{"window": [5, 2, 2, 2], "runs": [1, 3]}``: the
lengths of runs of 0, 1, 0, … row by row; the window is x, y, width, height.

A *region* is all that has one pixel class in an image, for example sky: an object with a mask and the mark
``stuff``. Objects lie above regions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from rcnn.structures import VOID, Instances, Masks, Size, Skeleton

Object = dict[str, Any]
MAX_OBJECTS = 200_000  # of one image
TEXTS = ("id", "class")


def objects_of(found: Instances, prefix: str) -> list[Object]:
    """The objects of an image as the page has them, each with the id ``prefix`` and its number from 0."""
    objects: list[Object] = []
    scores = None if found.scores is None else found.scores.astype(float).round(4).tolist()
    boxes = found.boxes.astype(float).round(2).tolist()
    for number, (name, box) in enumerate(zip(found.names, boxes, strict=True)):
        one: Object = {"id": f"{prefix}{number}", "class": name, "box": box}
        if scores is not None:
            one["score"] = scores[number]
        if found.keypoints is not None:
            one["points"] = found.keypoints[number].astype(float).round(2).tolist()
        if found.crowd is not None and found.crowd[number]:
            one["crowd"] = True
        objects.append(one)
    if found.masks is not None:
        known = found.outlined
        for number, (patch, window) in enumerate(
            zip(found.masks.patches(), found.masks.windows.tolist(), strict=True)
        ):
            if known[number]:
                objects[number]["mask"] = _mask(patch, window)
    return objects


def regions_of(classes: npt.NDArray[np.uint8], names: Sequence[str], prefix: str) -> list[Object]:
    """The regions of a map ``[H, W]`` of indices into ``names``; their ids are ``prefix`` and the index."""
    regions: list[Object] = []
    for value in np.unique(classes[classes != VOID]).tolist():
        inside = classes == value
        rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
        x1, y1, x2, y2 = int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
        regions.append(
            {
                "id": f"{prefix}{value}", "class": names[value], "stuff": True,
                "box": [float(x1), float(y1), float(x2), float(y2)],
                "mask": _mask(inside[y1:y2, x1:x2], (x1, y1, x2, y2)),
            }
        )  # fmt: skip
    return regions


def map_of(regions: Sequence[Mapping[str, Any]], size: Size, names: Sequence[str]) -> npt.NDArray[np.uint8]:
    """The map ``[H, W]`` of indices into ``names`` that regions describe; 255 where there is none."""
    classes = np.full(size, VOID, np.uint8)
    for one in regions:
        patch, (y, x) = _patch(one["mask"])
        window = classes[y : y + patch.shape[0], x : x + patch.shape[1]]
        window[patch == 1] = names.index(one["class"])
    return classes


def _mask(patch: npt.NDArray[Any], window: Sequence[int]) -> dict[str, Any]:
    x1, y1, x2, y2 = window
    flat = np.concatenate(([0], patch.reshape(-1).astype(np.int8)))
    edges = np.flatnonzero(np.diff(flat))
    runs = np.diff(np.concatenate(([0], edges, [patch.size])))
    return {"window": [x1, y1, x2 - x1, y2 - y1], "runs": runs.tolist()}


def _patch(mask: Mapping[str, Any]) -> tuple[npt.NDArray[np.uint8], Size]:
    """The bitmap of a mask in its window, and the window's corner (y, x)."""
    x, y, width, height = mask["window"]
    values = np.repeat(np.arange(len(mask["runs"]), dtype=np.int64) % 2, mask["runs"])
    return values.reshape(height, width).astype(np.uint8), (y, x)


def instances_of(
    objects: Sequence[Mapping[str, Any]],
    size: Size,
    class_names: Sequence[str],
    skeleton: Skeleton | None = None,
    pixel_classes: Sequence[str] = (),
) -> Instances:
    """The objects of a page as instances of an image of ``size`` (height, width).

    Where there are ``pixel_classes``, they have the map of the regions, too.

    Raises:
        ValueError: something that is not such an object; the message names it and says what is expected.
    """
    given = [checked_object(one, size, skeleton) for one in objects]
    checked = [one for one in given if not one.get("stuff")]
    regions = [one for one in given if one.get("stuff")]
    for known, ones in ((class_names, checked), (pixel_classes, regions)):
        unknown = sorted({one["class"] for one in ones} - set(known))
        if unknown:
            raise ValueError(f"class {unknown[0]!r}: expected one of {', '.join(known) or 'no class'}")
    places = {name: label for label, name in enumerate(class_names)}
    boxes = np.array([one["box"] for one in checked], np.float32).reshape(-1, 4)
    labels = np.array([places[one["class"]] for one in checked], np.int64)
    fields: dict[str, Any] = {}
    if any("mask" in one for one in checked):
        fields["has_mask"] = np.array(["mask" in one for one in checked], np.bool_)
        fields["masks"] = _masks(checked, size)
    if skeleton is not None:
        absent = [[0.0, 0.0, 0.0]] * len(skeleton.names)
        points = [one.get("points", absent) for one in checked]
        fields["keypoints"] = np.array(points, np.float32).reshape(-1, len(skeleton.names), 3)
    if any(one.get("crowd") for one in checked):
        fields["crowd"] = np.array([bool(one.get("crowd")) for one in checked], np.bool_)
    if any("score" in one for one in checked):
        fields["scores"] = np.array([one.get("score", 1.0) for one in checked], np.float32)
    if pixel_classes:
        fields["semantic"] = map_of(regions, size, pixel_classes)
        fields["semantic_names"] = tuple(pixel_classes)
    return Instances(size, boxes, labels, class_names=tuple(class_names), skeleton=skeleton, **fields)


def as_truth(found: Instances) -> Instances:
    """Corrected objects as truth: without scores, keypoints as visible where they are placed."""
    points = found.keypoints
    if points is not None and found.scores is not None:
        points = points.copy()
        points[..., 2] = np.where(points[..., 2] > 0, 2, points[..., 2])
    return replace(found, scores=None, keypoints=points)


def _masks(checked: Sequence[Object], size: Size) -> Masks:
    patches, origins = [], []
    for one in checked:
        if "mask" in one:
            patch, origin = _patch(one["mask"])
        else:  # the filled box stands in for it
            patch, origin = filled_box(one["box"], size)
        patches.append(patch)
        origins.append(origin)
    return Masks.from_patches(patches, origins, size)


def filled_box(box: Sequence[float], size: Size) -> tuple[npt.NDArray[np.uint8], Size]:
    """The pixels that a box touches, as a bitmap of ones and its corner (y, x)."""
    x1, y1, x2, y2 = box
    x, y = max(0, math.floor(x1)), max(0, math.floor(y1))
    right, bottom = min(size[1], math.ceil(x2)), min(size[0], math.ceil(y2))
    return np.ones((max(0, bottom - y), max(0, right - x)), np.uint8), (y, x)


def checked_object(given: Any, size: Size, skeleton: Skeleton | None = None) -> Object:
    """An object as the page sent it, if it is one of an image of ``size``; what is not known is left out.

    Raises:
        ValueError: it is not.
    """
    if not isinstance(given, Mapping) or any(not isinstance(given.get(name), str) for name in TEXTS):
        raise ValueError(f"object {given!r:.80}: expected an id and a class")
    name = f"object {given['id']!r:.40}"
    box = numbers_of(given.get("box"), 4, f"{name}: box")
    if not (box[0] < box[2] and box[1] < box[3]):
        raise ValueError(f"{name}: the box {box} has no area; expected x1 y1 x2 y2")
    if box[2] <= 0 or box[3] <= 0 or box[0] >= size[1] or box[1] >= size[0]:
        raise ValueError(f"{name}: the box {box} is outside of the image, {size[1]} x {size[0]} pixels")
    one: Object = {"id": given["id"], "class": given["class"], "box": _clipped(box, size)}
    if given.get("score") is not None:
        one["score"] = min(1.0, max(0.0, numbers_of([given["score"]], 1, f"{name}: score")[0]))
    if given.get("mask") is not None:
        one["mask"] = _checked_mask(given["mask"], size, name)
    if given.get("points") is not None and skeleton is not None:
        points = given["points"]
        if not isinstance(points, list) or len(points) != len(skeleton.names):
            raise ValueError(f"{name}: expected {len(skeleton.names)} keypoints")
        one["points"] = [numbers_of(point, 3, f"{name}: keypoint") for point in points]
    if given.get("crowd"):
        one["crowd"] = True
    if given.get("stuff"):
        if "mask" not in one:
            raise ValueError(f"{name}: expected a region with a mask")
        one["stuff"] = True
    return one


def _clipped(box: Sequence[float], size: Size) -> list[float]:
    height, width = size
    x1, y1, x2, y2 = box
    return [max(0.0, x1), max(0.0, y1), min(float(width), x2), min(float(height), y2)]


def _checked_mask(given: Any, size: Size, name: str) -> dict[str, Any]:
    window, runs = (given.get("window"), given.get("runs")) if isinstance(given, Mapping) else (None, None)
    x, y, width, height = (int(value) for value in numbers_of(window, 4, f"{name}: mask window"))
    if min(x, y) < 0 or min(width, height) < 1 or x + width > size[1] or y + height > size[0]:
        raise ValueError(f"{name}: the mask's window {window} is not inside {size[1]} x {size[0]} pixels")
    if not isinstance(runs, list) or any(not isinstance(run, int) or run < 0 for run in runs):
        raise ValueError(f"{name}: expected runs of the mask as whole numbers")
    if sum(runs) != width * height or not sum(runs[1::2]):
        raise ValueError(f"{name}: expected a mask of {width * height} pixels that is not empty")
    return {"window": [x, y, width, height], "runs": runs}


def number_in(sent: Mapping[str, Any], name: str) -> float | None:
    """A number that the page sent under a name; None where there is none.

    Raises:
        ValueError: something else was sent.
    """
    return None if sent.get(name) is None else numbers_of([sent[name]], 1, name)[0]


def numbers_of(given: Any, count: int, what: str) -> list[float]:
    """As many finite numbers as expected.

    Raises:
        ValueError: something else; the message begins with ``what``.
    """
    is_right = isinstance(given, list | tuple) and len(given) == count
    if not is_right or any(isinstance(v, bool) or not isinstance(v, int | float) for v in given):
        raise ValueError(f"{what}: expected {count} numbers; found {given!r:.80}")
    values = [float(value) for value in given]
    if not all(map(math.isfinite, values)):
        raise ValueError(f"{what}: expected finite numbers; found {given!r:.80}")
    return values
