"""The published models, one file each."""

from torch import nn

from rcnn.models.faster_rcnn import FasterRCNN
from rcnn.models.mask_rcnn import MaskRCNN

MODELS: dict[str, type[nn.Module]] = {"faster_rcnn": FasterRCNN, "mask_rcnn": MaskRCNN}
"""What recipes and the command line call the models."""
