"""What published weights bring on a device and for data: a backbone, and a detector to start from."""

from __future__ import annotations

import torch

from rcnn.catalogue import IMAGENET, PUBLISHED
from rcnn.data.classes import match_names
from rcnn.data.dataset import Dataset
from rcnn.importers.torchvision import coco_labels
from rcnn.io.download import can_be_had, is_at_hand
from rcnn.training.defaults import DEFAULT_BACKBONE, MIN_IMAGES_FOR_ORIENTATION, Reason
from rcnn.training.recipe import Recipe

GPU_BACKBONE = "resnet50"
MAX_IMAGES = 4000  # with more, heads learn as much from the data themselves
MAX_NAMES_SHOWN = 8
FOR_MODEL = {
    "faster_rcnn": "fasterrcnn_resnet50_fpn_v2_coco",
    "mask_rcnn": "maskrcnn_resnet50_fpn_v2_coco",
    "keypoint_rcnn": "keypointrcnn_resnet50_fpn_coco",
}


def choose_backbone(device: torch.device) -> tuple[str, str]:
    """The backbone of a plan for a device, and why: ResNet-50 on a GPU where its weights can be had."""
    if device.type == "cpu":
        return DEFAULT_BACKBONE, "a light one for a CPU"
    url = IMAGENET[GPU_BACKBONE]
    if can_be_had(url):
        return GPU_BACKBONE, f"for a GPU ({device})"
    name = url.rsplit("/", 1)[-1]
    why = (
        f"{device} is fast enough for {GPU_BACKBONE}, but its weights are not on this machine and {url} does "
        f"not answer: put {name} into the folder that RCNN_WEIGHTS names"
    )
    return DEFAULT_BACKBONE, why


def are_photographs(recipe: Recipe, data: Dataset) -> bool | None:
    """Whether a plan took the images for photographs; None where too few show it."""
    if recipe.augment.rotate90:
        return False
    return True if len(data) >= MIN_IMAGES_FOR_ORIENTATION else None


def start_advice(recipe: Recipe, data: Dataset) -> list[Reason]:
    """A line on ``--from``, for few photographs and a model of which there is a published one; else none.

    Args:
        recipe: what is planned.
        data: the training images.
    """
    photographs, name = are_photographs(recipe, data), FOR_MODEL.get(recipe.model)
    if name is None or photographs is False or len(data) > MAX_IMAGES:
        return []
    _, coco = coco_labels()
    known = match_names(data.class_names, coco).known if recipe.model != "keypoint_rcnn" else ()
    shown = ", ".join(known[:MAX_NAMES_SHOWN]) + (", …" if len(known) > MAX_NAMES_SHOWN else "")
    classes = f", and {len(known)} of the {len(data.class_names)} classes: {shown}" if known else ""
    url = PUBLISHED[name]
    how = (
        "its weights are on this machine"
        if is_at_hand(url)
        else f"its weights are downloaded from {url}, or put them into the folder that RCNN_WEIGHTS names"
    )
    brings = f"--from {name} brings an RPN and heads trained on photographs of COCO instead of random ones"
    if photographs is None:
        brings = f"if these are photographs, {brings}"
    light = recipe.settings.backbone.name != GPU_BACKBONE
    slower = "; its ResNet-50 is slower than the light backbone" if light else ""
    return [Reason("advice", f"{brings}{classes}{slower}", how)]
