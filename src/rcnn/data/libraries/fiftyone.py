"""FiftyOne's data sets and views: detections with boxes and masks, and polylines.

Convention:
    Coordinates are fractions of the image: ``bounding_box`` is x, y, width, height. A mask fills its box.

The field of the objects is the only one, or ``ground_truth``. Polylines that are neither closed nor filled
are ignored with a warning. Samples without the field are skipped with a warning; empty ones have no objects.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from rcnn.data.builder import Picture
from rcnn.data.dataset import Dataset
from rcnn.data.formats.annotated import AnnotatedImages, Drawn
from rcnn.data.formats.figures import window_code
from rcnn.data.formats.outlines import is_number
from rcnn.data.problems import shortened

NAME = "FiftyOne data set"
KINDS = ("Detections", "Polylines")
USUAL = "ground_truth"


def is_fiftyone(items: Any) -> bool:
    """Whether an object is a data set or a view of FiftyOne."""
    return hasattr(items, "iter_samples") and hasattr(items, "media_type")


def read_fiftyone(items: Any, class_names: Sequence[str] | None = None) -> Dataset:
    """Open a data set or view of images.

    Args:
        items: the data set; ``items.select_fields("predictions")`` chooses another field.
        class_names: the classes and their order; None takes those that occur.

    Raises:
        ValueError: no images, or no objects, or several fields of them.
    """
    if items.media_type != "image":
        raise ValueError(f"{NAME}: its media type is {items.media_type}; expected image.")
    samples = list(items.iter_samples())
    field = _field(samples)
    objects = AnnotatedImages("Python object", Path(NAME), "crowd")
    bare = []
    for sample in samples:
        found = sample[field] if field in sample.field_names else None
        path = Path(sample.filepath)
        if found is None:
            bare.append(path.name)
            continue
        picture = objects.at(path, place=str(sample.id))
        if picture is not None:
            for number, label in enumerate(
                getattr(found, "detections", None) or getattr(found, "polylines", [])
            ):
                _draw(objects, picture, label, f"{field} {number}")
    if bare:
        what = f"{len(bare)} samples have no {field}: {shortened(bare)}."
        objects.builder.warn(what, "They are skipped.", "samples")
    strange = sorted({drawn.label for _, drawn in objects.drawn} - set(class_names or ()))
    if class_names is not None and strange:
        raise ValueError(f"{NAME}: it has objects of the classes {', '.join(strange)}, not in class_names.")
    return objects.dataset(class_names)


def _field(samples: Sequence[Any]) -> str:
    """The field of the objects."""
    found = dict.fromkeys(
        name for sample in samples for name in sample.field_names if type(sample[name]).__name__ in KINDS
    )
    if len(found) == 1 or USUAL in found:
        return USUAL if USUAL in found else next(iter(found))
    if not found:
        raise ValueError(f"{NAME}: no field has detections or polylines.")
    advice = f"choose one: items.select_fields({next(iter(found))!r})"
    raise ValueError(f"{NAME}: the fields {', '.join(found)} have objects; {advice}.")


def _draw(objects: AnnotatedImages, picture: Picture, label: Any, place: str) -> None:
    height, width = picture.size
    drawn = Drawn(str(label.label or ""), place, crowd=bool(_extra(label, "iscrowd")))
    if hasattr(label, "bounding_box"):
        values = list(label.bounding_box or ())
        if len(values) != 4 or not all(map(is_number, values)):
            objects.wrong(picture, place, f"Expected a bounding_box of four numbers; found {values!r:.60}.")
            return
        x, y, w, h = (v * scale for v, scale in zip(values, (width, height) * 2, strict=True))
        drawn.box = (x, y, x + w, y + h)
        mask = label.mask
        if mask is not None:
            left, top, right, bottom = round(x), round(y), round(x + w), round(y + h)
            bitmap = _resized(np.asarray(mask) != 0, max(right - left, 1), max(bottom - top, 1))
            code = window_code(bitmap, (top, left), picture.size)
            drawn.outline = [] if code is None else code
    elif label.closed or label.filled:
        parts = [np.array(part, np.float64) * np.array([width, height]) for part in label.points]
        drawn.outline = [part for part in parts if len(part) >= 3]
    else:
        objects.ignore("open polylines")
        return
    objects.draw(picture, drawn)


def _extra(label: Any, name: str) -> Any:
    """An attribute that a label may have."""
    return getattr(label, name, None) in (True, 1, "1", "true")


def _resized(mask: Any, width: int, height: int) -> Any:
    """A mask in the pixels of its box."""
    if mask.shape == (height, width):
        return mask
    return np.asarray(Image.fromarray(mask).resize((width, height), Image.Resampling.NEAREST))
