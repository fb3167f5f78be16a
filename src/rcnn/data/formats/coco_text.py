"""The text of a COCO file, or of the bare list of COCO's results, image by image.

``predictions.json`` and all COCO files of data sets and predictions are made here.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from rcnn.structures import Instances, Size
from rcnn.structures.coco import INFO, annotations_of, image_entry

Entry = dict[str, Any]


class CocoText:
    """Makes the file's text in pieces, so that the objects of all images need not be kept.

    ``start``, then ``text`` and ``note`` of each image, then ``end``: images come at the end of a COCO file.
    """

    def __init__(
        self,
        categories: Sequence[Entry],
        *,
        results_only: bool = False,
        outlines: Literal["polygons", "rle"] = "polygons",
    ) -> None:
        """Prepare the text.

        Args:
            categories: of the file, one per label; see :func:`rcnn.structures.coco.category_entries`.
            results_only: the bare list instead of a COCO file.
            outlines: as :func:`rcnn.structures.coco.annotations_of` takes it; results have run-length codes.
        """
        self.categories, self.results_only, self.outlines = categories, results_only, outlines
        self.category_ids = [int(category["id"]) for category in categories]
        self.images: list[str] = []
        self.count = 0

    def start(self) -> str:
        """What precedes the objects."""
        if self.results_only:
            return "["
        return f'{{"info": {_json(INFO)},\n"categories": [{_lines(self.categories)}],\n"annotations": ['

    def text(self, image_id: int | str, found: Instances, first: int | None = None) -> str:
        """The objects of one image; :meth:`note` then counts them.

        Args:
            image_id: the id of the image.
            found: its objects.
            first: the number of the first; None: the next one.
        """
        first = self.count + 1 if first is None else first
        if self.results_only:
            entries = found.to_coco(image_id, self.category_ids)
        else:
            entries = annotations_of(found, image_id, self.category_ids, first=first, outlines=self.outlines)
        return ("," if first > 1 and entries else "") + _lines(entries)

    def note(self, image_id: int | str, name: str, size: Size, count: int) -> None:
        """Count the objects of an image that is written."""
        self.count += count
        self.images.append(_json(image_entry(image_id, name, size)))

    def end(self) -> str:
        """What follows the objects."""
        if self.results_only:
            return "\n]\n"
        return '\n],\n"images": [' + ",".join(f"\n{image}" for image in self.images) + "\n]}\n"


def _lines(entries: Iterable[Mapping[str, Any]]) -> str:
    """Entries of a JSON list, each on a line of its own."""
    return ",".join(f"\n{_json(entry)}" for entry in entries)


def _json(entry: Mapping[str, Any]) -> str:
    return json.dumps(entry)
