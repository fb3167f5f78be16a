"""What is said about each stage, and about the whole, in sentences."""

from __future__ import annotations

from collections.abc import Mapping

from rcnn.evaluation.explain.causes import CAUSES
from rcnn.evaluation.explain.chain import Step
from rcnn.evaluation.explain.explanation import Subject

Facts = Mapping[str, str]
"""Numbers of the explanation as texts, by name."""

LEFT = {
    "external": "{own} of the {entering} proposals overlap the object with IoU ≥ 0.5, or become boxes that "
    "do.",
    "anchors": "{own} of the {entering} anchors match: they overlap the object with IoU ≥ 0.5, or the "
    "network turns them into boxes that do.",
    "rpn_boxes": "The RPN moves and resizes its anchors. {own} candidates remain; the best box has IoU "
    "{iou}.",
    "top_k": "Each level keeps at most {rpn_pre_nms} anchors with the highest objectness: {leaving} in all, "
    "{own} of them candidates.",
    "rpn_nms": "Of boxes on one level that overlap by more than IoU {rpn_nms_iou}, the best stays: "
    "{leaving} of {entering}, {own} of them candidates.",
    "proposals": "The {leaving} best boxes become proposals, {own} of them candidates.",
    "box": "The second stage reads {entering} regions and moves the box of each. {own} candidates remain; "
    "the best box has IoU {iou}.",
    "not_background": "{own} of these regions are more likely an object than background.",
    "class": "{own} of them are classified as {class_name}.",
    "threshold": "{own} of them reach the threshold of {min_score}; the highest score is {own_score}.",
    "per_class": "{own} of them are among the best regions of their class.",
    "nms": "Detections of one class that overlap by more than IoU {nms_iou} count as duplicates: {leaving} "
    "of {entering} stay, {own} of them on this object.",
    "cap": "At most {max_detections} detections are kept: {leaving} of {entering}.",
    "tiles": "The centre of the detection lies in the part of the image that this tile reports.",
    "tile_nms": "No better detection of another tile overlaps it.",
    "tile_cap": "It is among the detections of the image that are kept.",
    "mask": "The mask overlaps the annotated one with IoU ≥ 0.5.",
}
LOST = {
    "external": "None of the {entering} proposals overlaps the object with IoU ≥ 0.5; the best reaches "
    "{iou}.",
    "anchors": "None of the {entering} anchors overlaps the object with IoU ≥ 0.5, nor does a box that the "
    "RPN makes of one; the best reaches {iou}.",
    "rpn_boxes": "Anchors match, but the RPN moves all of them away: their best box has IoU {iou}.",
    "top_k": "None of the {own_entering} candidates is among the {rpn_pre_nms} anchors of its level with "
    "the highest objectness; theirs is {objectness} at most.",
    "rpn_nms": "All {own_entering} candidates overlap better boxes of a neighbour by more than IoU "
    "{rpn_nms_iou} and are dropped.",
    "proposals": "None of the {own_entering} candidates is among the {rpn_post_nms} best boxes that become "
    "proposals; their objectness is {objectness} at most.",
    "box": "The second stage moves the boxes of {own_entering} candidates, but none overlaps the object "
    "with IoU ≥ 0.5; the best reaches {iou}.",
    "not_background": "All {own_entering} regions with a good box are classified as background, the "
    "likeliest object among them with {background}; {class_name} has {own_score}.",
    "class": "The regions with a good box are taken for {top_class}, with a score of {top_score}; "
    "{class_name} has {own_score}.",
    "threshold": "The score for {class_name} is {own_score}, and the threshold {min_score}.",
    "per_class": "More regions than are kept of each class have a higher score.",
    "nms": "Its detection, with a score of {own_score}, is dropped as a duplicate: {neighbour}.",
    "cap": "The {max_detections} detections that are kept have higher scores than this one, which has "
    "{own_score}.",
    "tiles": "The centre of the detection lies in the part of the image that another tile reports.",
    "tile_nms": "A better detection of another tile overlaps it.",
    "tile_cap": "The detections of the image that are kept have higher scores.",
    "mask": "The box is found, but the mask overlaps the annotated one with IoU < 0.5.",
}
NOTHING_LEFT = "No candidate is left at this stage."


def stage_text(step: Step, facts: Facts) -> str:
    """What a stage did."""
    if not step.own_entering:
        return NOTHING_LEFT
    numbers = {
        "entering": f"{step.entering:,}",
        "leaving": f"{step.leaving:,}",
        "own": f"{step.own_leaving:,}",
        "own_entering": f"{step.own_entering:,}",
        "iou": f"{step.best_iou:.2f}",
    }
    return (LEFT if step.own_leaving else LOST)[step.key].format(**numbers, **facts)


def verdict(subject: Subject, cause: str | None, lost: str, score: float | None) -> str:
    """The result in one or two sentences.

    Args:
        subject: what was followed.
        cause: why it is missed; None: it was found.
        lost: what the stage did that lost the last candidate.
        score: of the detection.
    """
    if cause is None:
        own = "" if score is None else f" with a score of {score:.2f}"
        return f"Found: {subject.class_name}{own}."
    kind = "Missed" if subject.known else "Not detected"
    return f"{kind}: {CAUSES[cause].title}. {lost or CAUSES[cause].meaning}"
