"""FiftyOne's exports as JSON, and how its labels are drawn, there and in Python.

    samples.json    {"samples": [{"filepath": "data/a.jpg", "ground_truth": {"_cls": "Detections",
                    "detections": [{"label": "cat", "bounding_box": [0.125, 0.125, 0.25, 0.29]}]}}]}
    labels.json     {"classes": ["cat"], "labels": {"a": [{"label": 0, "bounding_box": […]}]}}
    data/a.jpg

The first is written as FiftyOneDataset, the second as FiftyOneImageDetectionDataset.

Convention:
    Coordinates are fractions of the image: ``bounding_box`` is x, y, width, height. A mask fills its box.

The field of the objects is ``ground_truth``, or the only one. Polylines that are neither closed nor filled
are ignored with a warning. Samples without the field are skipped with a warning; empty ones have no objects.
"""

from __future__ import annotations

import base64
import binascii
import io
import re
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from rcnn.data.builder import Picture
from rcnn.data.dataset import Dataset
from rcnn.data.formats.annotated import AnnotatedImages, Drawn
from rcnn.data.formats.contents import has_one_file, head, one_file, read_json
from rcnn.data.formats.figures import window_code
from rcnn.data.formats.outlines import is_number
from rcnn.data.problems import shortened

KINDS = ("Detections", "Polylines")
USUAL = "ground_truth"
TITLE = "FiftyOne"
MAX_MASK_BYTES = 1 << 28  # of one unpacked mask
SAMPLES = re.compile(r'^\{\s*"samples"\s*:\s*\[')
CLASSES = re.compile(r'^\{\s*"(?:classes|labels)"\s*:\s*(?:\[|\{|null)')


@dataclass(frozen=True)
class Label:
    """One object of FiftyOne.

    Attributes:
        name: its class.
        box: x, y, width, height; None if it is a polyline.
        mask: ``[h, w]`` of any type, not zero inside; it fills the box.
        points: the parts of a polyline, lists of x, y.
        is_area: whether a polyline is closed or filled.
        crowd: whether it is a region of many objects.
    """

    name: str
    box: Any = None
    mask: npt.NDArray[Any] | None = None
    points: Any = ()
    is_area: bool = False
    crowd: bool = False


def field_of(names: Iterable[str], place: str, advice: str) -> str:
    """The field of the objects, of those that have any.

    Raises:
        ValueError: there is none, or one has to be chosen as ``advice`` says.
    """
    found = list(dict.fromkeys(names))
    if len(found) == 1 or USUAL in found:
        return USUAL if USUAL in found else found[0]
    if not found:
        raise ValueError(f"{place}: no field has detections or polylines.")
    raise ValueError(f"{place}: the fields {', '.join(found)} have objects; {advice}")


def draw_label(objects: AnnotatedImages, picture: Picture, label: Label, place: str) -> None:
    """Add an object, whose coordinates are fractions, to an image."""
    height, width = picture.size
    drawn = Drawn(label.name, place, crowd=label.crowd)
    if label.box is not None:
        values = list(label.box) if isinstance(label.box, Sequence) else []
        if len(values) != 4 or not all(map(is_number, values)):
            objects.wrong(
                picture, place, f"Expected a bounding_box of four numbers; found {label.box!r:.60}."
            )
            return
        x, y, w, h = (v * scale for v, scale in zip(values, (width, height) * 2, strict=True))
        drawn.box = (x, y, x + w, y + h)
        if label.mask is not None:
            left, top, right, bottom = round(x), round(y), round(x + w), round(y + h)
            bitmap = _resized(np.asarray(label.mask) != 0, max(right - left, 1), max(bottom - top, 1))
            code = window_code(bitmap, (top, left), picture.size)
            drawn.outline = [] if code is None else code
    elif label.is_area:
        try:
            parts = [np.array(part, np.float64).reshape(-1, 2) for part in label.points]
        except (ValueError, TypeError) as error:
            objects.wrong(picture, place, f"Expected points as lists of pairs x, y ({error}).")
            return
        drawn.outline = [part * np.array([width, height]) for part in parts if len(part) >= 3]
    else:
        objects.ignore("open polylines")
        return
    objects.draw(picture, drawn)


def is_marked(value: Any) -> bool:
    """Whether an attribute says yes, in any of FiftyOne's spellings."""
    return value in (True, 1, "1", "true", "True")


def _resized(mask: npt.NDArray[np.bool_], width: int, height: int) -> npt.NDArray[np.bool_]:
    """A mask in the pixels of its box."""
    if mask.shape == (height, width):
        return mask
    return np.asarray(Image.fromarray(mask).resize((width, height), Image.Resampling.NEAREST))


def is_fiftyone_json(path: Path, images: Path | None = None) -> bool:
    """Whether a file is one of FiftyOne's exports, or a folder has one."""
    return has_one_file(path, ".json", _is_file, TITLE)


def _is_file(file: Path) -> bool:
    text = head(file)
    if SAMPLES.match(text):
        return '"filepath"' in text
    return CLASSES.match(text) is not None and '"bounding_box"' in text


def read_fiftyone_json(path: str | Path, images: str | Path | None = None) -> Dataset:
    """Open an export of FiftyOne.

    Args:
        path: ``samples.json``, ``labels.json``, or the folder with one of them.
        images: the image folder, if it is elsewhere.

    Raises:
        ValueError: there is no such file, or it has no objects, or several fields of them; or no image is
            found.
    """
    file = one_file(Path(path), ".json", _is_file, TITLE)
    content = read_json(file)
    objects = AnnotatedImages("fiftyone", file, "crowd", images=images)
    if "samples" in content:
        _read_samples(objects, content["samples"], file)
        objects.warn_of_unlisted()
        return objects.dataset()
    classes = content.get("classes")
    names = list(map(str, classes)) if isinstance(classes, list) else []
    labels = content.get("labels")
    for image, listed in labels.items() if isinstance(labels, dict) else []:
        picture = objects.find(image, place=image)
        for number, entry in enumerate(listed if picture is not None and isinstance(listed, list) else []):
            assert picture is not None
            _read_label(objects, picture, _named(entry, names), f"{image}, {number}")
    objects.warn_of_unlisted()
    return objects.dataset(names or None)


def _named(entry: Any, names: Sequence[str]) -> Any:
    """A label whose class is a number, with the name of the class; without it, if there is no such class."""
    number = entry.get("label") if isinstance(entry, dict) else None
    if isinstance(number, int) and not isinstance(number, bool):
        return {**entry, "label": names[number] if 0 <= number < len(names) else None}
    return entry


def _read_samples(objects: AnnotatedImages, samples: Any, file: Path) -> None:
    listed = [s for s in samples if isinstance(s, dict)] if isinstance(samples, list) else []
    named = (name for s in listed for name, value in s.items() if _kind(value) in KINDS)
    field = field_of(
        named, str(file), "export with label_field=… or select_fields, so that only one is left."
    )
    bare = []
    for index, sample in enumerate(listed):
        name, found = str(sample.get("filepath")), sample.get(field)
        if not isinstance(found, dict):
            bare.append(Path(name).name)
            continue
        picture = objects.find(name, place=f"samples[{index}]")
        entries = found.get("detections") or found.get("polylines") or []
        if picture is None:
            continue
        if not isinstance(entries, list):
            what = f"{field} is a {type(entries).__name__}; a list of labels was expected."
            objects.builder.report(what, "Export the dataset again.", f"samples[{index}]")
            continue
        for number, entry in enumerate(entries):
            _read_label(objects, picture, entry, f"{field} {number}")
    if bare:
        what = f"{len(bare)} samples have no {field}: {shortened(bare)}."
        objects.builder.warn(what, "They are skipped.", "samples")


def _kind(value: Any) -> Any:
    return value.get("_cls") if isinstance(value, dict) else None


def _read_label(objects: AnnotatedImages, picture: Picture, entry: Any, place: str) -> None:
    if not isinstance(entry, dict) or not isinstance(entry.get("label"), str):
        objects.wrong(picture, place, f"Expected an object with a label; found {entry!r:.60}.")
        return
    try:
        mask = None if entry.get("mask") is None else _unpacked(entry["mask"])
    except (ValueError, TypeError, KeyError, zlib.error, binascii.Error, EOFError) as error:
        objects.wrong(picture, place, f"The mask cannot be unpacked ({error}).", "Export it again.")
        return
    if entry.get("mask_path"):
        objects.ignore("masks in files (mask_path); their boxes are used. Export with masks in the JSON file")
    extra = entry.get("attributes")
    attributes = extra if isinstance(extra, dict) else {}
    label = Label(
        entry["label"],
        entry.get("bounding_box"),
        mask,
        entry.get("points") or (),
        bool(entry.get("closed") or entry.get("filled")),
        is_marked(entry.get("iscrowd", attributes.get("iscrowd"))),
    )
    draw_label(objects, picture, label, place)


def _unpacked(found: Any) -> npt.NDArray[Any]:
    """A mask from an array in NumPy's format, compressed, as text.

    Raises:
        ValueError: it is of another kind, or too large.
        zlib.error: it is damaged.
    """
    text = found["$binary"] if isinstance(found, dict) else found
    text = text["base64"] if isinstance(text, dict) else text
    unpacker = zlib.decompressobj()
    content = unpacker.decompress(base64.b64decode(text, validate=True), MAX_MASK_BYTES)
    if unpacker.unconsumed_tail:
        raise ValueError(f"it has more than {MAX_MASK_BYTES} bytes")
    mask = np.load(io.BytesIO(content), allow_pickle=False)
    if mask.ndim != 2 or not mask.size:
        raise ValueError(f"its shape is {mask.shape}")
    return np.asarray(mask)
