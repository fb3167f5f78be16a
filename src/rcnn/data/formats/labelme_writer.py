"""Write LabelMe's JSON files; :mod:`rcnn.data.formats.labelme` describes them."""

from __future__ import annotations

import json
from typing import Any

from rcnn.data.formats.writer import Item, Writer
from rcnn.structures.outlines import complete_polygons

VERSION = "5.5.0"  # of LabelMe, whose files have these fields


class LabelmeWriter(Writer):
    """A JSON file beside each image: polygons along the borders of pixels, or rectangles; keypoints.

    The parts of an object and its keypoints have its number as their ``group_id``. Every shape of a
    prediction has one, and a ``score``, which LabelMe keeps.
    """

    holds = frozenset({"outlines", "keypoints"})
    image_folder = ""

    def write(self, item: Item) -> None:
        """Write one file."""
        if item.truth.masks is not None:
            item = self.with_outlines(item)
            self.note_boxes(item)
        height, width = item.truth.size
        content: dict[str, Any] = {
            "version": VERSION,
            "flags": {},
            "shapes": [shape for index in range(len(item.truth)) for shape in _shapes(item, index)],
            "imagePath": item.image.name,
            "imageData": None,
            "imageHeight": height,
            "imageWidth": width,
        }
        text = json.dumps(content, ensure_ascii=False)
        (self.folder / f"{item.image.stem}.json").write_text(text, encoding="utf-8")


def _shapes(item: Item, index: int) -> list[dict[str, Any]]:
    """The shapes of an object: its parts or its box, then its keypoints."""
    truth, label = item.truth, item.truth.names[index]
    if truth.masks is None:
        x1, y1, x2, y2 = truth.boxes[index].tolist()
        found = [(label, "rectangle", [[x1, y1], [x2, y2]])]
    else:
        x, y = truth.masks.windows[index, :2].tolist()
        patch = next(truth.masks[[index]].patches()) != 0
        found = [(label, "polygon", part.tolist()) for part in complete_polygons(patch, (y, x))]
    if truth.keypoints is not None and truth.skeleton is not None:
        rows = zip(truth.skeleton.names, truth.keypoints[index].tolist(), strict=True)
        found += [(name, "point", [[x, y]]) for name, (x, y, seen) in rows if seen > 0]
    is_group = truth.scores is not None or len(found) > 1
    score = {} if truth.scores is None else {"score": round(float(truth.scores[index]), 6)}
    return [
        {
            "label": name,
            "points": points,
            "group_id": item.numbers[index] if is_group else None,
            "description": "",
            "shape_type": kind,
            "flags": {},
            **score,
        }
        for name, kind, points in found
    ]
