"""Why a true object is missed: the causes, in the order of the stages at which they arise."""

from __future__ import annotations

from dataclasses import dataclass


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
