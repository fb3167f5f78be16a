"""The published models, one file each."""

from collections.abc import Sequence
from typing import Any

from torch import nn

from rcnn.models.fast_rcnn import FastRCNN
from rcnn.models.faster_rcnn import FasterRCNN
from rcnn.models.fcn import FCN
from rcnn.models.keypoint_rcnn import KeypointRCNN
from rcnn.models.mask_rcnn import MaskRCNN
from rcnn.models.rcnn import RCNN

MODELS: dict[
    str,
    type[RCNN] | type[FastRCNN] | type[FasterRCNN] | type[MaskRCNN] | type[KeypointRCNN] | type[FCN],
] = {
    "rcnn": RCNN,
    "fast_rcnn": FastRCNN,
    "faster_rcnn": FasterRCNN,
    "mask_rcnn": MaskRCNN,
    "keypoint_rcnn": KeypointRCNN,
    "fcn": FCN,
}
"""What recipes and the command line call the models."""


def finds_objects(name: str) -> bool:
    """Whether a model finds objects; FCN alone classifies pixels only."""
    return name != "fcn"


def needs_semantic(name: str) -> bool:
    """Whether a model learns from semantic maps."""
    return name == "fcn"


def build_model(
    name: str, settings: Any, class_names: Sequence[str], semantic_names: Sequence[str] = ()
) -> nn.Module:
    """A model with random weights for data of these classes: of objects, or else of pixels."""
    model: Any = MODELS[name]
    built: nn.Module = model(len(class_names if finds_objects(name) else semantic_names), settings)
    return built
