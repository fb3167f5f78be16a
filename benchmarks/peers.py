"""The peers of the benchmarks: torchvision's detectors on rcnn's backbones, or with its very weights.

Networks with random weights find nothing, and a time without objects tells little. ``enliven`` scales the
last layers on an image, so that there are proposals and detections of all classes.
"""

import subprocess
import sys
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN, MaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.ops.feature_pyramid_network import FeaturePyramidNetwork, LastLevelMaxPool

from rcnn.importers.torchvision import from_torchvision, torchvision_transform
from rcnn.inference.benchmark import peak_memory
from rcnn.inference.detector import Detector
from rcnn.parts.backbone import BackboneSettings, build_backbone
from rcnn.parts.batch import Targets
from rcnn.parts.pretrained import backbone_normalisation, load_backbone_weights
from rcnn.structures import Size


class PyramidBackbone(nn.Module):
    """An rcnn backbone with torchvision's FPN on top, as torchvision's detectors want their backbone."""

    def __init__(self, name: str, channels: int) -> None:
        super().__init__()
        settings = BackboneSettings(name, frozen_stages=1)
        self.backbone = build_backbone(settings)
        load_backbone_weights(self.backbone, settings)
        self.fpn = FeaturePyramidNetwork(
            list(self.backbone.channels), channels, extra_blocks=LastLevelMaxPool()
        )
        self.out_channels = channels

    def forward(self, images: Tensor) -> OrderedDict[str, Tensor]:
        """Maps by name, finest first."""
        return self.fpn(OrderedDict((str(i), m) for i, m in enumerate(self.backbone(images))))


def torchvision_detector(
    num_classes: int,
    *,
    masks: bool,
    sizes: Sequence[float],
    short_side: int,
    backbone: str = "efficientnet_lite0",
    channels: int = 128,
    detections: int = 100,
) -> nn.Module:
    """Torchvision's Mask or Faster R-CNN with its own default heads, losses and sampling.

    Args:
        num_classes: without the background.
        masks: Mask R-CNN.
        sizes: anchor sizes, one for each of the five levels.
        short_side: the size that its transform resizes to.
        backbone: a backbone of rcnn.
        channels: of the pyramid.
        detections: at most so many an image.
    """
    mean, std = backbone_normalisation(backbone)
    anchors = AnchorGenerator(tuple((s,) for s in sizes), ((0.5, 1.0, 2.0),) * len(sizes))
    make: Any = MaskRCNN if masks else FasterRCNN
    return make(
        PyramidBackbone(backbone, channels), num_classes + 1, rpn_anchor_generator=anchors,
        min_size=short_side, max_size=2 * short_side, image_mean=list(mean), image_std=list(std),
        box_detections_per_img=detections,
    )  # fmt: skip


def lighten(network: Any, num_classes: int) -> None:
    """Give torchvision's detector lighter heads, fewer sampled regions, and a backbone in channels_last."""
    heads, channels = network.roi_heads, network.backbone.out_channels
    heads.fg_bg_sampler.batch_size_per_image = 64
    heads.box_head = TwoMLPHead(channels * heads.box_roi_pool.output_size[0] ** 2, 512)
    heads.box_predictor = FastRCNNPredictor(512, num_classes + 1)
    if heads.has_mask():
        heads.mask_head = MaskRCNNHeads(channels, (96, 96), 1)
        heads.mask_predictor = MaskRCNNPredictor(96, 96, num_classes + 1)
    network.backbone.to(memory_format=torch.channels_last)
    network.backbone.register_forward_pre_hook(
        lambda _, inputs: inputs[0].contiguous(memory_format=torch.channels_last)
    )


def keep_scale(network: Any) -> None:
    """Let torchvision's detector see images as large as they are."""
    network.transform.resize = lambda image, target=None: (image, target)


def torchvision_inputs(
    images: Sequence[Tensor], truths: Sequence[Targets]
) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    """uint8 images and truths as torchvision takes them: floats, and dicts whose labels begin at 1."""
    targets = []
    for truth in truths:
        real = truth if truth.crowd is None else truth[~truth.crowd]
        target = {"boxes": real.boxes, "labels": real.labels + 1}
        if real.masks is not None:
            target["masks"] = torch.from_numpy(real.masks.masks().dense()).to(torch.uint8)
        targets.append(target)
    return [image.float() / 255 for image in images], targets


def picture(size: Size, seed: int = 0) -> Tensor:
    """Smooth colour with some noise, float ``[3, H, W]`` in [0, 1]."""
    draw = torch.Generator().manual_seed(seed)
    coarse = torch.rand((1, 3, size[0] // 20, size[1] // 20), generator=draw)
    smooth = nn.functional.interpolate(coarse, size, mode="bicubic")[0]
    return (0.8 * smooth + 0.2 * torch.rand((3, *size), generator=draw)).clamp(0, 1)


def published_pair(name: str, image: Tensor) -> tuple[Any, Detector]:
    """One of torchvision's detectors of COCO with random, lively weights, and ours with the same weights."""
    torch.manual_seed(0)
    theirs: Any = getattr(torchvision.models.detection, name)(weights=None, weights_backbone=None)
    _settle(theirs, image)
    heads = theirs.roi_heads
    last = {theirs.rpn.head.cls_logits: 2.0, theirs.rpn.head.bbox_pred: 0.3}
    last |= {heads.box_predictor.cls_score: 2.0, heads.box_predictor.bbox_pred: 1.0}
    if heads.has_mask():
        last[heads.mask_predictor.mask_fcn_logits] = 2.0
    if heads.has_keypoint():
        last[heads.keypoint_predictor.kps_score_lowres] = 2.0
    enliven(theirs, last, [image])
    network = from_torchvision(name, theirs.state_dict())
    names = tuple(f"class {i}" for i in range(network.box.num_classes))
    return theirs, Detector(network.eval(), torchvision_transform(name), names, min_score=0.05)


@torch.no_grad()
def _settle(model: Any, image: Tensor) -> None:
    """Give batch norms the statistics of an image; residual branches are weak, as they are once trained."""
    for path, module in model.backbone.named_modules():
        if isinstance(module, nn.BatchNorm2d | torchvision.ops.FrozenBatchNorm2d):
            module.weight.fill_(0.2 if path.endswith("bn3") else 1.0)
            module.register_forward_pre_hook(_take_statistics)
    model.eval().backbone(model.transform([image])[0].tensors)
    for module in model.backbone.modules():
        module._forward_pre_hooks.clear()


def _take_statistics(norm: Any, inputs: tuple[Tensor, ...]) -> None:
    norm.running_mean.copy_(inputs[0].mean((0, 2, 3)))
    norm.running_var.copy_(inputs[0].var((0, 2, 3)) + 1e-3)


def print_peaks(module: str, arguments: Sequence[str]) -> None:
    """Run ``python -m module arguments --side SIDE`` for each side; it calls :func:`print_peak`."""
    for side in ("rcnn", "torchvision"):
        command = [sys.executable, "-m", module, *arguments, "--side", side]
        print(subprocess.run(command, check=True, capture_output=True, text=True).stdout, end="", flush=True)


def print_peak(side: str, run: Callable[[], object]) -> None:
    """Print the memory that ``run`` takes above what the process has."""
    peak = peak_memory(run)
    shown = "unknown on this system" if peak is None else f"{peak / 2**20:.0f} MB"
    print(f"{side:12} peak memory above the model {shown}")


@torch.no_grad()
def enliven(model: nn.Module, layers: dict[nn.Module, float], call: Any) -> None:
    """Scale each of ``layers``: in ``model(call)`` its channels get mean 0 and this deviation."""

    def rescale(module: Any, _: Any, output: Tensor) -> Tensor:
        handles.pop(module).remove()
        dims = [d for d in range(output.ndim) if d != 1]
        mean, factor = output.mean(dims), layers[module] / output.std(dims)
        outputs = 1 if isinstance(module, nn.ConvTranspose2d) else 0
        shape = [-1 if d == outputs else 1 for d in range(module.weight.ndim)]
        module.weight.mul_(factor.view(shape))
        module.bias.sub_(mean).mul_(factor)
        along = (1, -1, *[1] * (output.ndim - 2))
        return (output - mean.view(along)) * factor.view(along)

    handles = {layer: layer.register_forward_hook(rescale) for layer in layers}
    model.eval()(call)
    if handles:
        raise ValueError(f"layers that a call does not reach: {list(handles)}")
