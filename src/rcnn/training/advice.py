"""What starting from a published detector would bring, for data that are like those it was trained on."""

from __future__ import annotations

from rcnn.catalogue import PUBLISHED
from rcnn.data.classes import match_names
from rcnn.data.dataset import Dataset
from rcnn.importers.torchvision import coco_labels
from rcnn.io.download import is_at_hand
from rcnn.training.defaults import Reason

MAX_IMAGES = 4000  # with more, heads learn as much from the data themselves
MAX_NAMES_SHOWN = 8
FOR_MODEL = {
    "faster_rcnn": "fasterrcnn_resnet50_fpn_v2_coco",
    "mask_rcnn": "maskrcnn_resnet50_fpn_v2_coco",
    "keypoint_rcnn": "keypointrcnn_resnet50_fpn_coco",
}


def start_advice(model: str, data: Dataset, *, photographs: bool) -> list[Reason]:
    """A line on ``--from``, for few photographs and a model of which there is a published one; else none.

    Args:
        model: the one that is planned.
        data: the training images.
        photographs: whether they are such.
    """
    name = FOR_MODEL.get(model)
    if name is None or not photographs or len(data) > MAX_IMAGES:
        return []
    _, coco = coco_labels()
    known = match_names(data.class_names, coco).known if model != "keypoint_rcnn" else ()
    shown = ", ".join(known[:MAX_NAMES_SHOWN]) + (", …" if len(known) > MAX_NAMES_SHOWN else "")
    classes = f", and {len(known)} of the {len(data.class_names)} classes: {shown}" if known else ""
    url = PUBLISHED[name]
    how = (
        "its weights are on this machine"
        if is_at_hand(url)
        else f"its weights are downloaded from {url}, or put them into the folder that RCNN_WEIGHTS names"
    )
    brings = "brings an RPN and heads trained on photographs of COCO instead of random ones"
    slower = "its ResNet-50 is slower than the default backbone"
    return [Reason("advice", f"--from {name} {brings}{classes}; {slower}", how)]
