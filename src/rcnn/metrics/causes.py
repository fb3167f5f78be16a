"""Why true objects are missed: the causes, in the order of the stages at which they arise, and their numbers.

``rcnn.evaluation.explain`` finds the cause of each missed object.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

from rcnn.metrics.shown import MetricTable


@dataclass(frozen=True)
class Cause:
    """One reason for a missed object.

    Attributes:
        title: its name in tables.
        meaning: what happened to the object.
        advice: what may help.
    """

    title: str
    meaning: str
    advice: str


CAUSES: dict[str, Cause] = {
    "unknown_class": Cause(
        "class unknown to the model",
        "The model was not trained on this class.",
        "train on data with this class: rcnn train DATA --from MODEL",
    ),
    "anchors": Cause(
        "never proposed: no anchor fits",
        "No anchor overlaps the object with IoU ≥ 0.5, nor does any box that the RPN makes of one.",
        "anchors of the object's size and shape: model.rpn.sizes and model.rpn.ratios, or a larger image",
    ),
    "external": Cause(
        "never proposed: no external proposal fits",
        "No external proposal overlaps the object with IoU ≥ 0.5.",
        "more proposals, or a model with an RPN",
    ),
    "rpn_score": Cause(
        "never proposed: RPN score or its top-k",
        "The RPN has boxes on the object, but gives all of them too low an objectness to be kept.",
        "higher model.rpn.pre_nms and model.rpn.post_nms; more training",
    ),
    "rpn_suppression": Cause(
        "never proposed: RPN suppression",
        "The RPN drops its boxes on the object because they overlap better ones of a neighbour.",
        "a higher model.rpn.nms_iou",
    ),
    "loose": Cause(
        "box too loose",
        "Anchors or proposals cover the object, but no box made of them reaches IoU 0.5.",
        "longer training, finer feature maps (a pyramid), or a cascade",
    ),
    "background": Cause(
        "classified as background",
        "Regions with a good box are there, but the background is likelier than any class in all of them.",
        "more examples like it in the training data; check that none is left unannotated",
    ),
    "other_class": Cause(
        "taken for another class",
        "Regions with a good box are there, but another class is likelier in all that are no background.",
        "more examples of both classes; check their annotations",
    ),
    "threshold": Cause(
        "below the threshold",
        "A region has a good box and the right class, with a score below the threshold.",
        "a lower --min-score",
    ),
    "suppressed": Cause(
        "suppressed by a neighbour",
        "Its detection overlaps a better one that belongs to another object, and is dropped as a duplicate.",
        "a higher model.box.nms_iou",
    ),
    "cap": Cause(
        "dropped by the cap",
        "It is detected, but more detections than the cap allows have a higher score.",
        "a higher --max-detections",
    ),
    "tiles": Cause(
        "lost between tiles",
        "The image is seen in tiles, and the detection's centre lies in the part that another tile reports.",
        "a smaller transform.scale or transform.short_side, so that the image is seen whole",
    ),
    "outline": Cause(
        "mask too poor",
        "Its box is found, but the mask overlaps the true one with IoU < 0.5.",
        "longer training; check the outlines of the annotations",
    ),
}


@dataclass(frozen=True)
class MissedObject:
    """One object that no detection found.

    Attributes:
        image: the image file.
        number: the index of the image in the data set.
        object: the index of the object in its image.
        class_name: its class.
        box: where it is, x1 y1 x2 y2 in pixels.
        cause: why it was missed, a key of ``CAUSES``.
        stage: the stage at which its last candidate was lost; empty for a class that the model does not know.
    """

    image: str
    number: int
    object: int
    class_name: str
    box: list[float]
    cause: str
    stage: str


@dataclass(frozen=True)
class Causes:
    """The missed objects of a data set by their causes, which add up to all of them.

    Attributes:
        missed: every missed object, image by image.
        num_objects: objects that had to be found: all but crowds and those marked as difficult.
        num_images: the images that were looked at.
        kind: what was compared, ``mask`` or ``box``: an object is missed without a detection of its class at
            IoU ≥ 0.5 that is not another object's.
        min_score: the score threshold.
        max_detections: the cap on detections per image; None: the model's own.
        class_names: of data and model.
    """

    missed: list[MissedObject]
    num_objects: int
    num_images: int
    kind: str
    min_score: float
    max_detections: int | None
    class_names: list[str]

    @property
    def counts(self) -> dict[str, int]:
        """The number of objects of each cause that occurs, in the order of the stages."""
        counted = Counter(one.cause for one in self.missed)
        return {cause: counted[cause] for cause in CAUSES if counted[cause]}

    def to_json(self) -> dict[str, Any]:
        """All fields by name, and ``counts``."""
        return {"counts": self.counts, **asdict(self)}

    def table(self) -> MetricTable:
        """The causes with their numbers."""
        total = len(self.missed)
        rows: list[tuple[str | float, ...]] = [
            (CAUSES[cause].title, str(count), count / total) for cause, count in self.counts.items()
        ]
        rows.append(("all missed objects", str(total), 1.0 if total else math.nan))
        compared = "masks" if self.kind == "mask" else "boxes"
        return MetricTable(
            f"Why {total} objects were missed",
            ("cause", "objects", "of all missed"),
            rows,
            caption=f"Of {self.num_objects} objects in {self.num_images} images; {compared} compared at IoU "
            f"0.5, score ≥ {self.min_score:.3g}",
            bold=(len(rows) - 1,),
            bars=(2,),
        )

    def lines(self, most: int) -> list[str]:
        """The first missed objects in a line each, and how many more there are."""
        lines = []
        for one in self.missed[:most]:
            x1, y1, x2, y2 = one.box
            where = f"object {one.object + 1}, {one.class_name}, at {(x1 + x2) / 2:.0f},{(y1 + y2) / 2:.0f}"
            lines.append(f"{one.image}: {where}: {CAUSES[one.cause].title}")
        more = len(self.missed) - most
        return [*lines, f"… and {more} more"] if more > 0 else lines

    def advice(self) -> dict[str, str]:
        """What may help against each cause that occurs, the most frequent first."""
        return {cause: CAUSES[cause].advice for cause in sorted(self.counts, key=lambda c: -self.counts[c])}
