"""What is known of an image, whichever is the latest: a model's objects, annotations, or corrections."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from rcnn.serve.app.collection import Collection, Picture
from rcnn.serve.app.corrections import Corrections, Draft
from rcnn.serve.app.finder import Finder, WorkingModel
from rcnn.serve.app.objects import Object, as_truth, number_in, objects_of
from rcnn.serve.app.partition import pixel_classes_of, without_small_stuff
from rcnn.structures import Instances

Json = dict[str, Any]
PREFIX_FOUND, PREFIX_DATA = "m", "d"  # of the ids of objects that a model found, and of a data set's
PREFIX_REGION = "s"  # of the ids of regions of pixel classes
LARGEST_MAP = 4096  # pixels of a side: browsers draw no larger picture


class Results:
    """The objects and pixel classes of images, as the page shows and downloads them."""

    def __init__(self, collection: Collection, finder: Finder, corrections: Corrections) -> None:
        self._collection, self._finder, self._corrections = collection, finder, corrections

    def found(self, picture: Picture, index: int | None) -> Json:
        """What a model finds in an image, from its lowest score on."""
        model = self._finder.model(index)
        return self.as_json(self._finder.find(picture, model), PREFIX_FOUND)

    def annotated(self, picture: Picture) -> Json | None:
        """What the data set says of an image; None where there is none."""
        truth = self._corrections.truth(picture)
        return None if truth is None else self.as_json(truth, PREFIX_DATA)

    def as_json(self, found: Instances, prefix: str) -> Json:
        """Objects, measured, and whether there is a map of pixel classes besides."""
        objects = objects_of(found, prefix)
        _add_measures(objects, found)
        has_map = found.semantic is not None and not set(found.semantic_names).isdisjoint(
            self._corrections.pixel_classes
        )
        return {"objects": objects, "has_map": has_map}

    def draft_json(self, draft: Draft) -> Json:
        """A draft as the page has it: its objects, measured, and its regions."""
        given = [dict(one) for one in draft.objects.values()]
        objects = [one for one in given if not one.get("stuff")]
        if objects:
            _add_measures(objects, self._corrections.instances(objects, draft.size))
        regions = [one for one in given if one.get("stuff")]
        return {
            "revision": draft.revision, "objects": objects, "regions": regions, "status": draft.status
        }  # fmt: skip

    def pixel_classes(self, picture: Picture, index: int | None) -> npt.NDArray[np.uint8]:
        """The class of every pixel, uint8 ``[h, w]``, at most 4096 pixels wide or high; 255 is void.

        Args:
            picture: the image.
            index: of the model that finds them; None: as annotated.

        Raises:
            ValueError: there is no such model, or there are no annotations.
        """
        found = (
            self._corrections.truth(picture)
            if index is None
            else self._finder.find(picture, self._finder.model(index))
        )
        if found is None:
            raise ValueError(f"{picture.name}: there are no annotations")
        step = max(1, -(-max(found.size) // LARGEST_MAP))
        classes = pixel_classes_of(found, self._corrections.pixel_classes)
        return np.ascontiguousarray(classes[::step, ::step])

    def shown(self, picture: Picture, min_score: float | None) -> Instances | None:
        """The objects of an image as they are shown: corrected, annotated or found; None: none are known."""
        draft = self._corrections.draft(picture)
        if draft is not None:
            found = as_truth(self._corrections.instances(list(draft.objects.values()), draft.size))
            return replace(found, path=picture.path)
        truth = self._corrections.truth(picture)
        if truth is not None:
            return replace(truth, path=picture.path)
        model = self._finder.model() if self._finder.models else None
        known = None if model is None else model.found.get(picture.number)
        if known is None or model is None:
            return None
        return replace(_from_score(known, model, min_score), path=picture.path)

    def beginning(self, picture: Picture, asked: Mapping[str, Any]) -> list[Object]:
        """What a person saw when the first thing was changed: of the model and from the score ``asked``."""
        corrections = self._corrections
        truth = corrections.truth(picture)
        if truth is not None:
            return corrections.beginning(truth, PREFIX_DATA, PREFIX_REGION)
        if not self._finder.models:
            return []
        index = number_in(asked, "model")
        model = self._finder.model(None if index is None else int(index))
        corrections.add_classes(model.detector.class_names, model.detector.semantic_names)
        found = self._finder.find(picture, model)
        found = _from_score(found, model, number_in(asked, "min_score"))
        return corrections.beginning(found, PREFIX_FOUND, PREFIX_REGION)

    def measurements(self, picture: Picture, index: int | None) -> Json:
        """All measurements of the objects of an image, by their ids; see :func:`rcnn.measure`.

        Args:
            picture: the image.
            index: of the model whose objects they are; None: corrected or annotated ones.
        """
        from rcnn.measuring.measurements import measure

        draft, truth = self._corrections.draft(picture), self._corrections.truth(picture)
        if index is not None:
            found = self._finder.find(picture, self._finder.model(index))
            ids = [f"{PREFIX_FOUND}{number}" for number in range(len(found))]
        elif draft is not None:
            objects = [one for one in draft.objects.values() if not one.get("stuff")]
            found, ids = self._corrections.instances(objects, draft.size), [one["id"] for one in objects]
        elif truth is not None:
            found, ids = truth, [f"{PREFIX_DATA}{number}" for number in range(len(truth))]
        else:
            return {"names": [], "values": {}}
        reading = self._collection.reading
        measured = measure(self._collection.measured_image(picture), found, reading=reading)
        names = [name for name, column in measured.columns.items() if column.dtype.kind in "iufb"]
        names = [name for name in names if name not in ("row", "score")]
        columns = [measured.columns[name].astype(float).tolist() for name in names]
        values = [[v if math.isfinite(v) else None for v in row] for row in zip(*columns, strict=True)]
        return {"names": names, "values": dict(zip(ids, values, strict=True))}


def _from_score(found: Instances, model: WorkingModel, min_score: float | None) -> Instances:
    """What is left from a score on; None: the model's own."""
    lowest = model.detector.min_score if min_score is None else min_score
    chosen = found if found.scores is None else found[found.scores >= lowest]
    settings = model.detector.merge
    return chosen if settings is None else without_small_stuff(chosen, settings.min_stuff_area)


def _add_measures(objects: list[Json], found: Instances) -> None:
    """The area and the centroid of each object, in pixels."""
    for one, row in zip(objects, found.measures()[:, 4:].round(1).tolist(), strict=True):
        one["measures"] = dict(zip(("area", "x", "y"), row, strict=True))
