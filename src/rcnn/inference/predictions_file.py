"""The text of ``predictions.json``, image by image: a COCO file, or the bare list of COCO's results."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rcnn.structures import Instances
from rcnn.structures.coco import INFO, annotations_of, category_entries, image_entry

if TYPE_CHECKING:
    from rcnn.inference.detector import Detector
    from rcnn.inference.exported import ExportedDetector


class PredictionsText:
    """Makes the file's text in pieces, so that the objects of all images need not be kept.

    ``start``, then ``text`` and ``note`` of each image, then ``end``: images come at the end of a COCO file.
    """

    def __init__(
        self,
        detector: Detector | ExportedDetector,
        image_ids: Mapping[str, int | str],
        *,
        results_only: bool = False,
    ) -> None:
        """Prepare the text.

        Args:
            detector: what predicts; its class names, category ids and skeleton are written.
            image_ids: the id of each image by its name; an image that is not there has its name as its id.
            results_only: the bare list instead of a COCO file.
        """
        self.image_ids, self.results_only = image_ids, results_only
        self.category_ids = detector.category_ids
        self.categories = category_entries(detector.class_names, self.category_ids, detector.skeleton)
        self.images: list[str] = []
        self.count = 0

    def start(self) -> str:
        """What precedes the objects."""
        if self.results_only:
            return "["
        return f'{{"info": {json.dumps(INFO)},\n"categories": [{_lines(self.categories)}],\n"annotations": ['

    def text(self, name: str, found: Instances) -> tuple[str, int]:
        """The objects of one image, and how many; :meth:`note` then counts them."""
        image_id = self.image_ids.get(name, name)
        if self.results_only:
            entries = found.to_coco(image_id, self.category_ids)
        else:
            entries = annotations_of(found, image_id, self.category_ids, first=self.count + 1)
        return ("," if self.count and entries else "") + _lines(entries), len(entries)

    def note(self, name: str, size: Sequence[int], count: int) -> None:
        """Count the objects of an image of ``size`` (height, width) that is written."""
        self.count += count
        image_id = self.image_ids.get(name, name)
        self.images.append(json.dumps(image_entry(image_id, name, (size[0], size[1]))))

    def end(self) -> str:
        """What follows the objects."""
        if self.results_only:
            return "\n]\n"
        return '\n],\n"images": [' + ",".join(f"\n{image}" for image in self.images) + "\n]}\n"


def _lines(entries: Iterable[Mapping[str, Any]]) -> str:
    """Entries of a JSON list, each on a line of its own."""
    return ",".join(f"\n{json.dumps(entry)}" for entry in entries)
