"""The table of libraries whose data sets are opened as they are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rcnn.data.dataset import Dataset
from rcnn.data.libraries import detectron2, fiftyone, hugging_face, supervision


@dataclass(frozen=True)
class Library:
    """One library.

    Attributes:
        name: of the library.
        recognises: whether an object is its data set.
        read: opens it, with class names if they were given.
    """

    name: str
    recognises: Callable[[Any], bool]
    read: Callable[[Any, Sequence[str] | None], Dataset]


LIBRARIES = (
    Library("Detectron2", detectron2.is_detectron2, detectron2.read_detectron2),
    Library("FiftyOne", fiftyone.is_fiftyone, fiftyone.read_fiftyone),
    Library("supervision", supervision.is_supervision, supervision.read_supervision),
    Library("Hugging Face datasets", hugging_face.is_hugging_face, hugging_face.read_hugging_face),
)


def library_of(items: Any) -> Library | None:
    """The library whose data set an object is; None if it is another kind of object."""
    return next((library for library in LIBRARIES if library.recognises(items)), None)
