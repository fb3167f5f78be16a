"""Region Proposal Network (Faster R-CNN §3.1), on one map or on a pyramid (FPN §4.1).

Legend: B images, L levels, H and W a map's height and width, A anchors per cell, N all anchors of an image
(over levels, rows, columns and cell anchors, in this order).

Differs from the paper: one logit of objectness per anchor with a sigmoid instead of two with a softmax, as in
every later code; the two are equivalent.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from rcnn.config.ranges import check_ranges, ranged
from rcnn.device import constant, moved
from rcnn.layers.conv import Conv3x3
from rcnn.layers.operator import is_exporting
from rcnn.ops import boxes as box_ops
from rcnn.ops.anchors import Rounding, cell_anchors, grid_anchors
from rcnn.ops.losses import Losses, MeanLoss, smooth_l1
from rcnn.ops.matching import ANCHORS, IGNORED, Sample, match_chunks, random_keys, sample
from rcnn.parts.batch import Regions, Targets
from rcnn.parts.fpn import separable
from rcnn.parts.regions import GT_CHUNK_SIZE, ignore_in_crowds
from rcnn.parts.truth_batch import TruthBatch
from rcnn.structures import Size
from rcnn.structures.trace import watched

MAX_OVERLAPS = 2**27  # numbers in the overlaps of a device's images, half a gigabyte
MAX_CANDIDATES_AT_ONCE = 2**16  # suppressed together by a device, half a gigabyte


@dataclass(frozen=True)
class RPNSettings:
    """The RPN; the defaults are those of FPN and Mask R-CNN.

    Attributes:
        sizes: anchor sides in pixels, one list per level.
        ratios: height / width of the anchors.
        rounding: ``none``: anchors have exact areas; ``torchvision`` and ``caffe`` round as these programs
            do, see :func:`rcnn.ops.anchors.cell_anchors`.
        offset: where in its cell an anchor is centred, as a fraction of the stride: 0 is the corner, 0.5 the
            middle; see :func:`rcnn.ops.anchors.grid_anchors`.
        strides: distance between the anchors of a level. ``exact``: the level's own. ``inferred``: the padded
            image's side over the map's, rounded down (torchvision: 13 cells on 800 pixels have 61 instead of
            64).
        convs: 3x3 convolutions before the two outputs (torchvision's v2 models: 2).
        conv: full or separable convolutions, as in the FPN.
        channels: width of the convolutions; None keeps the maps' own (the paper: 512 for VGG-16).
        positive_iou: IoU from which an anchor is positive (§3.1.2).
        negative_iou: IoU below which an anchor is negative (§3.1.2).
        cross_boundary: train on anchors that cross the image's border (FPN: yes; Faster R-CNN §3.1.3: no).
        count: number of anchors in the loss, per image.
        positive_fraction: at most this fraction of them is positive.
        beta: distance up to which smooth L1 is quadratic; 1/9 is py-faster-rcnn's sigma 3.
        normaliser: ``sampled``: both losses are divided by the anchors sampled, lambda 1 (all codes);
            ``paper``: eq. 1, the classification by 256 per image and the boxes by the number of anchor
            positions, times ``box_weight``.
        box_weight: weight of the loss of the boxes, lambda in eq. 1 (the paper: 10 with its normaliser, which
            makes both terms alike).
        pre_nms: proposals kept per level before suppression, in training and in prediction.
        post_nms: proposals kept per image after it.
        nms_iou: a proposal that overlaps a better one by more is dropped (§3.3).
        min_objectness: proposals with a lower probability are dropped (torchvision's MobileNet models: 0.05).
        min_side: smaller proposals are dropped, in pixels of the resized image.
        max_crowd_overlap: a negative anchor with more of its area inside a crowd region is ignored.
    """

    sizes: tuple[tuple[float, ...], ...] = ranged(
        ((32,), (64,), (128,), (256,), (512,)), 0, 100000, above=True
    )
    ratios: tuple[float, ...] = ranged((0.5, 1.0, 2.0), 0, 1000, above=True)
    rounding: Rounding = "none"
    offset: float = ranged(0.0, 0, 1)
    strides: Literal["exact", "inferred"] = "exact"
    convs: int = ranged(1, 1, 64)
    conv: Literal["conv", "separable"] = "conv"
    channels: int | None = ranged(None, 1, 65536)
    positive_iou: float = ranged(0.7, 0, 1)
    negative_iou: float = ranged(0.3, 0, 1)
    cross_boundary: bool = True
    count: int = ranged(256, 1, 1e7)
    positive_fraction: float = ranged(0.5, 0, 1)
    beta: float = ranged(1 / 9, 0, 1000)
    normaliser: Literal["sampled", "paper"] = "sampled"
    box_weight: float = ranged(1.0, 0, 1e6)
    pre_nms: tuple[int, int] = ranged((2000, 1000), 1, 1e7)
    post_nms: tuple[int, int] = ranged((2000, 1000), 1, 1e7)
    nms_iou: float = ranged(0.7, 0, 1)
    min_objectness: float = ranged(0.0, 0, 1)
    min_side: float = ranged(1e-3, 0, 100000)
    max_crowd_overlap: float = ranged(0.7, 0, 1)

    def __post_init__(self) -> None:
        """Check the ranges."""
        check_ranges(self)


@dataclass(frozen=True)
class RPNOutput:
    """The RPN's outputs for every anchor of a batch.

    Attributes:
        objectness: logits ``[B, N]``.
        deltas: ``[B, N, 4]``.
        anchors: ``[N, 4]``, in image pixels.
        num_anchors_per_level: the number of anchors on each level.
    """

    objectness: Tensor
    deltas: Tensor
    anchors: Tensor
    num_anchors_per_level: tuple[int, ...]


class RPN(nn.Module):
    """A small network slid over every level: objectness and box deltas for each anchor."""

    def __init__(self, in_channels: int, strides: Sequence[int], settings: RPNSettings) -> None:
        super().__init__()
        if len(settings.sizes) != len(strides):
            raise ValueError(
                f"rpn.sizes has {len(settings.sizes)} levels, but the feature maps have {len(strides)} "
                f"(strides {list(strides)}): give one tuple of sizes for each"
            )
        if not settings.ratios or not all(settings.sizes):
            raise ValueError(
                f"rpn.sizes {settings.sizes}, rpn.ratios {settings.ratios}: expected at least one of each"
            )
        self.settings = settings
        self.strides = tuple(strides)
        width = settings.channels or in_channels
        layers: list[nn.Module] = []
        for i in range(settings.convs):
            channels = in_channels if i == 0 else width
            conv = Conv3x3(channels, width)
            block = (
                separable(channels, width, 3, "none") if settings.conv == "separable" else nn.Sequential(conv)
            )
            layers.append(block.append(nn.ReLU(inplace=True)))
        self.conv = nn.Sequential(*layers)
        num_anchors = len(settings.sizes[0]) * len(settings.ratios)
        self.objectness = nn.Conv2d(width, num_anchors, 1)
        self.deltas = nn.Conv2d(width, num_anchors * 4, 1)
        for layer in (
            *(c for c in self.conv.modules() if settings.conv == "conv"),
            self.objectness,
            self.deltas,
        ):
            if isinstance(layer, nn.Conv2d):
                nn.init.normal_(layer.weight, std=0.01)  # Faster R-CNN §3.1.3
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)

    def forward(self, features: Sequence[Tensor]) -> RPNOutput:
        """Objectness and deltas of every anchor on maps ``[B, C, H, W]``, one per level."""
        objectness, deltas, anchors = [], [], []
        for feature, stride, sizes in zip(features, self.strides, self.settings.sizes, strict=True):
            hidden = self.conv(feature)
            batch, _, height, width = hidden.shape
            objectness.append(self.objectness(hidden).permute(0, 2, 3, 1).reshape(batch, -1))
            deltas.append(self.deltas(hidden).permute(0, 2, 3, 1).reshape(batch, -1, 4))
            cell = cell_anchors(sizes, self.settings.ratios, self.settings.rounding)
            # Numbers of a graph that is traced cannot be listed; those of a device are copied once.
            if cell.device != feature.device and not is_exporting():
                cell = constant(tuple(map(tuple, cell.tolist())), feature.new_empty(0, dtype=cell.dtype))
            step = (stride, stride)
            if self.settings.strides == "inferred":
                step = (self._image_side(features, 2) // height, self._image_side(features, 3) // width)
            anchors.append(grid_anchors(cell, height, width, step, self.settings.offset))
        num_anchors_per_level = tuple(a.shape[0] for a in anchors)
        return RPNOutput(
            torch.cat(objectness, 1).float(),
            torch.cat(deltas, 1).float(),
            torch.cat(anchors),
            num_anchors_per_level,
        )

    def _image_side(self, features: Sequence[Tensor], dim: int) -> int:
        """Height (2) or width (3) of the padded image, a multiple of the finest stride."""
        return features[0].shape[dim] * self.strides[0]

    @torch.no_grad()
    def match(self, anchors: Tensor, truths: Sequence[Targets]) -> tuple[Tensor, Tensor]:
        """The object that each anchor is responsible for, and its label (§3.1.2), both ``[B, N]``.

        Labels are 1, 0 and -1, see :func:`rcnn.ops.matching.match`; objects are those of the anchor's image.
        """
        at_once = 1
        if anchors.device.type != "cpu":  # where one image alone does not fill the cores
            at_once = max(1, MAX_OVERLAPS // max(1, len(anchors) * GT_CHUNK_SIZE))
        found = [
            self._match(anchors, TruthBatch.from_targets(truths[first : first + at_once]))
            for first in range(0, len(truths), at_once)
        ]
        index, labels = zip(*found, strict=True)
        return torch.cat(index), torch.cat(labels)

    def _match(self, anchors: Tensor, truth: TruthBatch) -> tuple[Tensor, Tensor]:
        outside = self._outside(anchors, truth.sizes)  # [B, N]

        def overlap(boxes: Tensor, real: Tensor) -> Tensor:
            found = box_ops.iou(boxes, anchors)  # [B, g, N]
            if not self.settings.cross_boundary:
                # Each object's best anchor is sought among those that may train, as py-faster-rcnn does.
                found = found.masked_fill_(outside[:, None], 0)
            return found if truth.full else found.masked_fill_(~real[..., None], -1)

        parts = zip(
            torch.split(truth.boxes, GT_CHUNK_SIZE, 1), torch.split(truth.real, GT_CHUNK_SIZE, 1), strict=True
        )
        index, labels = match_chunks(
            (overlap(boxes, real) for boxes, real in parts), anchors.new_zeros((len(truth), len(anchors))),
            self.settings.positive_iou, self.settings.negative_iou, keep_best=True,
        )  # fmt: skip
        labels = ignore_in_crowds(labels, anchors, truth, self.settings.max_crowd_overlap)
        return index, labels if self.settings.cross_boundary else labels.masked_fill(outside, IGNORED)

    def _outside(self, anchors: Tensor, sizes: Sequence[Size]) -> Tensor:
        """Bool ``[B, N]``: anchors that cross the border of images of these sizes; none where all train."""
        if self.settings.cross_boundary:
            return anchors.new_zeros((len(sizes), 0), dtype=torch.bool)
        limits = moved(torch.tensor([[width, height] for height, width in sizes]), anchors.device)
        beyond = anchors[None, :, 2:] > limits[:, None]
        return (anchors[:, :2] < 0).any(1) | beyond.any(2)

    def loss(self, output: RPNOutput, truths: Sequence[Targets], seeds: Tensor) -> Losses:
        """Both losses of eq. 1 over the anchors sampled from each image, with its seed of ``seeds`` [B]."""
        index, labels = self.match(output.anchors, truths)
        numbers = torch.arange(len(output.anchors), device=labels.device)
        keys = random_keys(seeds, numbers, ANCHORS)
        drawn = sample(labels, keys, self.settings.count, self.settings.positive_fraction)
        truth = TruthBatch.from_targets(truths)
        images = torch.arange(len(truth), device=labels.device)[:, None]
        gt_boxes = truth.boxes[images, index[images, drawn.index]]  # [B, S, 4]
        return self.sampled_loss(output, drawn, gt_boxes)

    def sampled_loss(self, output: RPNOutput, drawn: Sample, gt_boxes: Tensor) -> Losses:
        """The losses over given anchors.

        Args:
            output: of :meth:`forward`.
            drawn: anchors of each image, ``[B, S]``.
            gt_boxes: ``[B, S, 4]``, what the positives should become; the others' are not looked at.
        """
        images = torch.arange(len(drawn.index), device=drawn.index.device)[:, None]
        logits, deltas = output.objectness[images, drawn.index], output.deltas[images, drawn.index]
        objectness = functional.binary_cross_entropy_with_logits(
            logits, drawn.positive.to(logits.dtype), drawn.chosen.to(logits.dtype), reduction="sum"
        )
        wanted = box_ops.encode(gt_boxes, output.anchors[drawn.index])
        # At no distance there is neither a loss nor a gradient.
        wanted = torch.where(drawn.positive[..., None], wanted, deltas.detach())
        boxes = smooth_l1(deltas, wanted, self.settings.beta) * self.settings.box_weight
        batch = len(output.objectness)
        if self.settings.normaliser == "paper":
            positions = output.anchors.shape[0] / (len(self.settings.sizes[0]) * len(self.settings.ratios))
            return {
                "rpn_objectness": objectness / (self.settings.count * batch),
                "rpn_boxes": boxes / (positions * batch),
            }
        count = drawn.chosen.sum()
        return {"rpn_objectness": MeanLoss(objectness, count), "rpn_boxes": MeanLoss(boxes, count)}

    @torch.no_grad()
    def decode(
        self,
        output: RPNOutput,
        sizes: Tensor,
        *,
        min_proposals: int | Tensor = 0,
        min_candidates: int = 0,
    ) -> Regions:
        """Proposals, the best of an image first: top-k per level, clip, suppression, top-k (§3.3).

        Args:
            output: of :meth:`forward`.
            sizes: the images' true (height, width), float32 ``[B, 2]``.
            min_proposals: raises both top-k to this number, so that a caller who wants more detections can
                have them; a tensor, in exported graphs, only the second.
            min_candidates: raises the first top-k alone.
        """
        mode = 0 if self.training else 1
        pre, post = max(self.settings.pre_nms[mode], min_candidates), self.settings.post_nms[mode]
        if isinstance(min_proposals, Tensor):
            most: int | Tensor = min_proposals.clamp(min=post)
        else:
            pre, most = max(pre, min_proposals), max(post, min_proposals)
        at_once = self._images_at_once(output, pre)
        if at_once is not None and at_once < len(output.objectness):
            return self._decode_in_parts(output, sizes, at_once, min_proposals, min_candidates)
        start, parts = 0, []
        for size in output.num_anchors_per_level:
            parts.append(
                self._best_of_level(output, slice(start, start + size), torch.sym_min(pre, size), sizes)
            )
            start += size
        boxes, logits, images = (torch.cat(values) for values in zip(*parts, strict=True))
        levels = torch.cat([torch.full_like(own, level) for level, (_, _, own) in enumerate(parts)])
        unsuppressed = box_ops.nms(boxes, logits, images * len(parts) + levels, self.settings.nms_iou)
        keep = unsuppressed[box_ops.first_of_each(images[unsuppressed], sizes.shape[0], most)]
        if (trace := watched()) is not None:
            trace.note(
                "rpn", "Faster R-CNN §3.3", output=output, sizes=sizes, strides=self.strides,
                nms_iou=self.settings.nms_iou, unsuppressed=unsuppressed, kept=keep, pre_nms=pre,
                post_nms=most,
            )  # fmt: skip
        bound = None if isinstance(most, Tensor) else most
        return Regions(boxes[keep], images[keep], most=bound)

    def _images_at_once(self, output: RPNOutput, pre: int) -> int | None:
        """The images whose candidates a device suppresses together, in memory as their number squared.

        None: all. A graph that is traced must not ask how many there are.
        """
        if output.objectness.device.type == "cpu" or is_exporting():
            return None
        candidates = sum(min(pre, size) for size in output.num_anchors_per_level)
        return max(1, MAX_CANDIDATES_AT_ONCE // max(1, candidates))

    def _decode_in_parts(
        self, output: RPNOutput, sizes: Tensor, at_once: int, min_proposals: int | Tensor, min_candidates: int
    ) -> Regions:
        """As :meth:`decode`, of some images after the others."""
        found = []
        for first in range(0, len(sizes), at_once):
            some = slice(first, first + at_once)
            part = replace(output, objectness=output.objectness[some], deltas=output.deltas[some])
            own = self.decode(part, sizes[some], min_proposals=min_proposals, min_candidates=min_candidates)
            found.append(replace(own, image_indices=own.image_indices + first))
        boxes, images = (torch.cat(v) for v in zip(*((f.boxes, f.image_indices) for f in found), strict=True))
        return Regions(boxes, images, most=found[0].most)

    def _best_of_level(
        self, output: RPNOutput, level: slice, count: int | torch.SymInt, sizes: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Boxes ``[R, 4]``, logits and images ``[R]`` of the best anchors of a level in all images."""
        logits, index = output.objectness[:, level].topk(count, 1)  # [B, count]
        images = torch.arange(sizes.shape[0], device=index.device)[:, None].expand_as(index).flatten()
        index, logits = (index + level.start).flatten(), logits.flatten()
        boxes = box_ops.decode(output.deltas[images, index][:, None], output.anchors[index])[:, 0]
        boxes = box_ops.clip(boxes, sizes[images])
        good = box_ops.larger_than(boxes, self.settings.min_side)
        good &= logits.sigmoid() >= self.settings.min_objectness
        if boxes.device.type != "cpu" and not is_exporting():
            # A device would have to be waited for: the others stay, as those of no image.
            return boxes, logits, torch.where(good, images, sizes.shape[0])
        # Filtered per level: concatenating first, where each length is the least of two symbols, costs the
        # exporter minutes.
        keep = good.nonzero()[:, 0]
        if (trace := watched()) is not None:
            trace.note("rpn.level", "FPN §4.1", anchors=index, kept=keep)
        return boxes[keep], logits[keep], images[keep]
