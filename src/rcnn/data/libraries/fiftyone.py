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

from rcnn.data.dataset import Dataset
from rcnn.data.formats.annotated import AnnotatedImages
from rcnn.data.formats.fiftyone_json import KINDS, Label, draw_label, field_of, is_marked
from rcnn.data.problems import shortened

NAME = "FiftyOne data set"


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
                draw_label(objects, picture, _label(label), f"{field} {number}")
    if bare:
        what = f"{len(bare)} samples have no {field}: {shortened(bare)}."
        objects.builder.warn(what, "They are skipped.", "samples")
    strange = sorted({drawn.label for _, drawn in objects.drawn} - set(class_names or ()))
    if class_names is not None and strange:
        raise ValueError(f"{NAME}: it has objects of the classes {', '.join(strange)}, not in class_names.")
    return objects.dataset(class_names)


def _field(samples: Sequence[Any]) -> str:
    """The field of the objects."""
    names = (name for s in samples for name in s.field_names if type(s[name]).__name__ in KINDS)
    found = list(dict.fromkeys(names))
    return field_of(found, NAME, f"choose one: items.select_fields({next(iter(found), '')!r}).")


def _label(label: Any) -> Label:
    """A label in the form that exports share."""
    return Label(
        str(label.label or ""),
        list(label.bounding_box or ()) if hasattr(label, "bounding_box") else None,
        label.mask if hasattr(label, "bounding_box") else None,
        getattr(label, "points", ()),
        bool(getattr(label, "closed", False) or getattr(label, "filled", False)),
        is_marked(getattr(label, "iscrowd", None)),
    )
