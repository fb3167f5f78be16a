"""What is said about each stage, and about the whole, in sentences."""

from __future__ import annotations

from collections.abc import Mapping

from rcnn.evaluation.explain.chain import Step
from rcnn.evaluation.explain.explanation import Subject
from rcnn.metrics.causes import CAUSES

Facts = Mapping[str, str]
"""Numbers of the explanation as texts, by name."""

LEFT = {
    "external": "Proposals that cover the object: {own} of {entering}. They overlap it with IoU ≥ 0.5, or "
    "become boxes that do.",
    "anchors": "Anchors that match: {own} of {entering}. They overlap the object with IoU ≥ 0.5, or the "
    "network makes such boxes of them.",
    "rpn_boxes": "The RPN moves and resizes its anchors. Boxes on the object: {own}; the best has IoU {iou}.",
    "top_k": "Each level keeps its {rpn_pre_nms} anchors with the highest objectness, {leaving} in all. On "
    "the object: {own}.",
    "rpn_nms": "Boxes of one level that overlap a better one by more than IoU {rpn_nms_iou} are dropped; "
    "{leaving} of {entering} stay. On the object: {own}.",
    "proposals": "The {leaving} boxes with the highest objectness become proposals. On the object: {own}.",
    "box": "The second stage reads {entering} regions, and moves and resizes each. Good boxes for the "
    "object: {own}; the best has IoU {iou}.",
    "not_background": "Regions with a good box that are more likely an object than background, or score "
    "above the threshold: {own}.",
    "class": "Classified as {class_name}: {own}.",
    "threshold": "Above the threshold of {min_score}: {own}. The highest score is {own_score}.",
    "per_class": "Among the best regions of their class: {own}.",
    "nms": "Detections of one class that overlap a better one by more than IoU {nms_iou} are dropped as "
    "duplicates; {leaving} of {entering} stay. On the object: {own}.",
    "cap": "At most {max_detections} detections are kept; here {leaving} of {entering}.",
    "tiles": "The detection is one of those that this tile reports.",
    "tile_nms": "No better detection of another tile overlaps it.",
    "tile_cap": "It is among the detections of the image that are kept.",
    "mask": "The map of the predicted class, {map} cells, is pasted into the box; it is cut at 0.5.",
}
LOST = {
    "external": "None of the {entering} proposals overlaps the object with IoU ≥ 0.5; the best reaches "
    "{iou}.",
    "anchors": "None of the {entering} anchors overlaps the object with IoU ≥ 0.5, nor does a box that the "
    "RPN makes of one; the best reaches {iou}.",
    "rpn_boxes": "Anchors match, but the RPN turns none of them into a box on the object; the best box has "
    "IoU {iou}.",
    "top_k": "Boxes on the object: {own_entering}. None is among the {rpn_pre_nms} of its level with the "
    "highest objectness; the best has {objectness}.",
    "rpn_nms": "Boxes on the object: {own_entering}. All are dropped because they overlap a better box by "
    "more than IoU {rpn_nms_iou}.",
    "proposals": "Boxes on the object: {own_entering}. None is among the {rpn_post_nms} with the highest "
    "objectness, which become proposals; the best has {objectness}.",
    "box": "Regions near the object: {own_entering}. The second stage makes no box of them that overlaps it "
    "with IoU ≥ 0.5; the best reaches {iou}.",
    "not_background": "Regions with a good box: {own_entering}. All are classified as background; the best "
    "one has {own_score} for {class_name}, and {background}.",
    "class": "Regions with a good box: {own_entering}. They are taken for {top_class}, the best one with "
    "{top_score}; {class_name} has {own_score} there.",
    "threshold": "The score for {class_name} is {own_score} at best, below the threshold of {min_score}.",
    "per_class": "Too many other regions have a higher score for {class_name}.",
    "nms": "Its detection, with a score of {own_score}, is dropped as a duplicate: {neighbour}.",
    "cap": "The {max_detections} detections that are kept have higher scores than this one, which has "
    "{own_score}.",
    "tiles": "The middle of the detection lies in a part of the image that another tile reports.",
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
