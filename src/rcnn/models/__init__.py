"""The published models, one file each."""

from collections.abc import Sequence
from typing import Any

from torch import nn

from rcnn.config import is_dotted_path, resolve
from rcnn.models.fast_rcnn import FastRCNN
from rcnn.models.faster_rcnn import FasterRCNN
from rcnn.models.fcn import FCN
from rcnn.models.keypoint_rcnn import KeypointRCNN
from rcnn.models.mask_rcnn import MaskRCNN
from rcnn.models.panoptic_fpn import PanopticFPN
from rcnn.models.rcnn import RCNN
from rcnn.structures import stuff_names

MODELS: dict[
    str,
    type[RCNN]
    | type[FastRCNN]
    | type[FasterRCNN]
    | type[MaskRCNN]
    | type[KeypointRCNN]
    | type[FCN]
    | type[PanopticFPN],
] = {
    "rcnn": RCNN,
    "fast_rcnn": FastRCNN,
    "faster_rcnn": FasterRCNN,
    "mask_rcnn": MaskRCNN,
    "keypoint_rcnn": KeypointRCNN,
    "fcn": FCN,
    "panoptic_fpn": PanopticFPN,
}
"""What recipes and the command line call the models."""


def has_object_classes(name: str) -> bool:
    """Whether a model finds objects; FCN alone classifies pixels only."""
    return name != "fcn"


def is_box_model(name: str) -> bool:
    """Whether a model learns from boxes alone."""
    return name in ("rcnn", "fast_rcnn", "faster_rcnn")


def needs_pixel_classes(name: str) -> bool:
    """Whether a model learns from semantic maps."""
    return name in ("fcn", "panoptic_fpn")


def model_class(name: str) -> Any:
    """The model of a name in ``MODELS``, or of the dotted path of a user's own, ``my_package.models:Mine``.

    Raises:
        ValueError: there is no such model.
    """
    if name in MODELS:
        return MODELS[name]
    if not is_dotted_path(name):
        raise ValueError(
            f"architecture {name!r} is unknown; expected one of: {', '.join(MODELS)}; or the dotted path of "
            "your own, such as my_package.models:Mine"
        )
    found = resolve(name)
    if not (isinstance(found, type) and issubclass(found, nn.Module) and hasattr(found, "Settings")):
        raise ValueError(f"architecture {name}: no model; expected a class like rcnn.MaskRCNN, with Settings")
    return found


def model_name(network: nn.Module) -> str:
    """What :func:`model_class` finds the class of a network by."""
    kind = type(network)
    own = f"{kind.__module__}:{kind.__qualname__}"
    return next((name for name, model in MODELS.items() if model is kind), own)


def build_model(
    name: str, settings: Any, class_names: Sequence[str], semantic_names: Sequence[str] = ()
) -> nn.Module:
    """A model with random weights for data of these classes: of objects, of pixels, or of both."""
    model = model_class(name)
    if name == "panoptic_fpn":
        stuff = stuff_names(tuple(class_names), tuple(semantic_names))
        return PanopticFPN(len(class_names), settings, num_stuff=len(stuff))
    built: nn.Module = model(len(class_names if has_object_classes(name) else semantic_names), settings)
    return built


def pixel_names(
    network: nn.Module, class_names: Sequence[str], semantic_names: Sequence[str]
) -> tuple[str, ...]:
    """What the classes of pixels are called that a network tells, trained on data with these names."""
    if isinstance(network, PanopticFPN):
        return network.pixel_names(class_names, stuff_names(tuple(class_names), tuple(semantic_names)))
    return tuple(semantic_names) if isinstance(network, FCN) else ()
