"""The published models, one file each."""

from rcnn.models.faster_rcnn import FasterRCNN
from rcnn.models.mask_rcnn import MaskRCNN

MODELS: dict[str, type[FasterRCNN] | type[MaskRCNN]] = {"faster_rcnn": FasterRCNN, "mask_rcnn": MaskRCNN}
"""What recipes and the command line call the models."""
