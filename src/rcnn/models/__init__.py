"""The published models, one file each."""

from rcnn.models.fast_rcnn import FastRCNN
from rcnn.models.faster_rcnn import FasterRCNN
from rcnn.models.keypoint_rcnn import KeypointRCNN
from rcnn.models.mask_rcnn import MaskRCNN
from rcnn.models.rcnn import RCNN

MODELS: dict[str, type[RCNN] | type[FastRCNN] | type[FasterRCNN] | type[MaskRCNN] | type[KeypointRCNN]] = {
    "rcnn": RCNN,
    "fast_rcnn": FastRCNN,
    "faster_rcnn": FasterRCNN,
    "mask_rcnn": MaskRCNN,
    "keypoint_rcnn": KeypointRCNN,
}
"""What recipes and the command line call the models."""
