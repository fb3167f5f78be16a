"""The published models, one file each, and the table of them.

What a model needs, finds and how it is trained it declares itself, see :class:`rcnn.models.model.Model`. A
model of a user's own is named by the dotted path of its class, ``my_package.nets:Mine``, wherever a name of
the table is.
"""

from collections.abc import Sequence
from typing import Any

from rcnn.config import did_you_mean, is_dotted_path, resolve
from rcnn.models.fast_rcnn import FastRCNN
from rcnn.models.faster_rcnn import FasterRCNN
from rcnn.models.fcn import FCN
from rcnn.models.keypoint_rcnn import KeypointRCNN
from rcnn.models.mask_rcnn import MaskRCNN
from rcnn.models.model import Model
from rcnn.models.panoptic_fpn import PanopticFPN
from rcnn.models.rcnn import RCNN
from rcnn.structures import Skeleton

MODELS: dict[str, type[Model]] = {
    "rcnn": RCNN,
    "fast_rcnn": FastRCNN,
    "faster_rcnn": FasterRCNN,
    "mask_rcnn": MaskRCNN,
    "keypoint_rcnn": KeypointRCNN,
    "fcn": FCN,
    "panoptic_fpn": PanopticFPN,
}
"""What recipes and the command line call the models."""


def model_class(name: str) -> type[Model]:
    """The model of this name: a key of ``MODELS``, or a dotted path.

    Raises:
        ValueError: no such model, or what the path names is none.
    """
    if name in MODELS:
        return MODELS[name]
    if not is_dotted_path(name):
        raise ValueError(
            f"architecture {name!r} is unknown; {did_you_mean(name, MODELS)}expected one of: "
            f"{', '.join(MODELS)}; or a class of your own, such as my_package.nets:Mine"
        )
    found = resolve(name)
    if not (isinstance(found, type) and issubclass(found, Model)):
        raise ValueError(
            f"{name}: expected a class that inherits from rcnn.models.model.Model, or from a model"
        )
    return found


def model_name(model: Model | type[Model]) -> str:
    """The name of a model: its key in ``MODELS``, or the dotted path of its class."""
    kind = model if isinstance(model, type) else type(model)
    names = [name for name, known in MODELS.items() if known is kind]
    return names[0] if names else f"{kind.__module__}:{kind.__qualname__}"


def build_model(
    name: str,
    settings: Any,
    class_names: Sequence[str],
    semantic_names: Sequence[str] = (),
    skeleton: Skeleton | None = None,
) -> Model:
    """The model of this name with random weights, see :meth:`rcnn.models.model.Model.build`."""
    return model_class(name).build(settings, class_names, semantic_names, skeleton)
