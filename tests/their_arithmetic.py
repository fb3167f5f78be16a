"""Detectron2's arithmetic in prediction, written out in a few lines of torch.

Facts: github.com/facebookresearch/detectron2 at 02b5c4e2, ``modeling/``: ``anchor_generator.py``,
``box_regression.py``, ``proposal_generator/proposal_utils.py``, ``poolers.py``, ``roi_heads/fast_rcnn.py``.
"""

import math
from typing import Any

import torch
import torchvision
from torch import Tensor
from torch.nn import functional

from their_states import State, pair


def normed(x: Tensor, state: State, name: str) -> Tensor:
    keys = ("running_mean", "running_var", "weight", "bias")
    return functional.batch_norm(x, *(state[f"{name}.{key}"] for key in keys), eps=1e-5)


def conv_norm(x: Tensor, state: State, name: str, stride: int = 1) -> Tensor:
    weight = state[f"{name}.weight"]
    return normed(functional.conv2d(x, weight, None, stride, weight.shape[2] // 2), state, f"{name}.norm")


def their_stage(x: Tensor, state: State, name: str, stride: int, *, in_1x1: bool = True) -> Tensor:
    """``BottleneckBlock``; ``stride_in_1x1`` is the default of its configuration."""
    for b in range(len({k.split(".")[-3 if "norm" not in k else -4] for k in state if k.startswith(name)})):
        step, block = (stride if b == 0 else 1), f"{name}.{b}"
        y = functional.relu(conv_norm(x, state, f"{block}.conv1", step if in_1x1 else 1))
        y = functional.relu(conv_norm(y, state, f"{block}.conv2", 1 if in_1x1 else step))
        y = conv_norm(y, state, f"{block}.conv3")
        x = functional.relu(y + (conv_norm(x, state, f"{block}.shortcut", step) if b == 0 else x))
    return x


def their_maps(image: Tensor, state: State, stages: int, body: str, **stride: bool) -> list[Tensor]:
    """res2 and on of an image ``[1, 3, H, W]`` as they get it: BGR, 0 to 255."""
    mean = torch.tensor([103.530, 116.280, 123.675]).view(3, 1, 1)
    return maps_of_normalised(image - mean, state, stages, body, **stride)


def maps_of_normalised(x: Tensor, state: State, stages: int, body: str, **stride: bool) -> list[Tensor]:
    """res2 and on of what ``preprocess_image`` returns."""
    x = functional.relu(conv_norm(x, state, f"{body}.stem.conv1", 2))
    x = functional.max_pool2d(x, 3, 2, 1)
    maps = []
    for number in range(stages):
        x = their_stage(x, state, f"{body}.res{number + 2}", 1 if number == 0 else 2, **stride)
        maps.append(x)
    return maps


def their_pyramid(maps: list[Tensor], state: State) -> list[Tensor]:
    def conv(x: Tensor, name: str) -> Tensor:
        weight, bias = state[f"backbone.{name}.weight"], state[f"backbone.{name}.bias"]
        return functional.conv2d(x, weight, bias, padding=weight.shape[2] // 2)

    merged = conv(maps[-1], "fpn_lateral5")
    levels = [conv(merged, "fpn_output5")]
    for level in (4, 3, 2):
        larger = functional.interpolate(merged, scale_factor=2.0, mode="nearest")
        merged = conv(maps[level - 2], f"fpn_lateral{level}") + larger
        levels.insert(0, conv(merged, f"fpn_output{level}"))
    return [*levels, functional.max_pool2d(levels[-1], 1, 2)]


def their_anchors(sizes: list[float], ratios: list[float], stride: int, shape: Any, offset: float) -> Tensor:
    """``DefaultAnchorGenerator``: ``[H * W * A, 4]``, size by size."""
    cells = []
    for size in sizes:
        for ratio in ratios:
            width = math.sqrt(size**2 / ratio)
            height = ratio * width
            cells.append([-width / 2, -height / 2, width / 2, height / 2])
    rows, columns = (torch.arange(n) * stride + offset * stride for n in shape)
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    shifts = torch.stack([x, y, x, y], -1).reshape(-1, 1, 4)
    return (shifts + torch.tensor(cells)).reshape(-1, 4)


def their_decoding(deltas: Tensor, boxes: Tensor, weights: list[float]) -> Tensor:
    """``Box2BoxTransform.apply_deltas``: ``[N, 4 * K]`` of boxes ``[N, 4]``."""
    width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    x, y = boxes[:, 0] + width / 2, boxes[:, 1] + height / 2
    dx, dy, dw, dh = (deltas[:, i::4] / weights[i] for i in range(4))
    dw, dh = dw.clamp(max=math.log(1000 / 16)), dh.clamp(max=math.log(1000 / 16))
    x, y = dx * width[:, None] + x[:, None], dy * height[:, None] + y[:, None]
    w, h = dw.exp() * width[:, None], dh.exp() * height[:, None]
    return torch.stack([x - w / 2, y - h / 2, x + w / 2, y + h / 2], -1).flatten(1)


def clipped(boxes: Tensor, shape: Any) -> Tensor:
    height, width = shape
    return torch.stack([boxes[:, i].clamp(0, (width, height)[i % 2]) for i in range(4)], 1)


def their_proposals(levels: list[Tensor], state: State, shape: Any, config: dict[str, Any]) -> Tensor:
    """``find_top_rpn_proposals`` of one image."""
    rpn, found = config["RPN"], []
    for i, level in enumerate(levels):
        head = "proposal_generator.rpn_head"
        hidden = functional.relu(functional.conv2d(level, *pair(state, f"{head}.conv"), padding=1))
        logits = functional.conv2d(hidden, *pair(state, f"{head}.objectness_logits"))
        deltas = functional.conv2d(hidden, *pair(state, f"{head}.anchor_deltas"))
        generator = config["ANCHOR_GENERATOR"]
        ratios, offset = generator["ASPECT_RATIOS"][0], generator["OFFSET"]
        anchors = their_anchors(generator["SIZES"][i], ratios, 2 ** (i + 2), level.shape[2:], offset)
        scores = logits[0].permute(1, 2, 0).flatten()
        deltas = deltas[0].unflatten(0, (-1, 4)).permute(2, 3, 0, 1).reshape(-1, 4)
        best = scores.topk(min(rpn["PRE_NMS_TOPK_TEST"], len(scores))).indices
        boxes = clipped(their_decoding(deltas[best], anchors[best], [1, 1, 1, 1]), shape)
        found.append((boxes, scores[best], torch.full((len(best),), i)))
    boxes, scores, owners = (torch.cat(parts) for parts in zip(*found, strict=True))
    there = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])  # Boxes.nonempty
    boxes, scores, owners = boxes[there], scores[there], owners[there]
    kept = torchvision.ops.batched_nms(boxes, scores, owners, rpn["NMS_THRESH"])
    return boxes[kept[: rpn["POST_NMS_TOPK_TEST"]]]


def their_pooling(levels: list[Tensor], boxes: Tensor, head: dict[str, Any]) -> Tensor:
    """``ROIPooler``: ``[R, C, P, P]`` from p2 to p5."""
    sides = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).sqrt()
    owners = (4 + torch.log2(sides / 224 + 1e-8)).floor().clamp(2, 5).long() - 2
    size, samples = head["POOLER_RESOLUTION"], head["POOLER_SAMPLING_RATIO"]
    pooled = torch.zeros(len(boxes), levels[0].shape[1], size, size)
    for i, level in enumerate(levels):
        own = owners == i
        aligned = head["POOLER_TYPE"] == "ROIAlignV2"
        scale = 1 / 2 ** (i + 2)
        pooled[own] = torchvision.ops.roi_align(level, [boxes[own]], size, scale, samples, aligned)
    return pooled


def their_detections(image: Tensor, state: State, config: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes, scores and classes in an image ``[3, H, W]`` of 0 to 255, in the order of INPUT.FORMAT."""
    model = config["MODEL"]
    mean, std = (torch.tensor(model[key]).view(3, 1, 1) for key in ("PIXEL_MEAN", "PIXEL_STD"))
    stride = model["RESNETS"]["STRIDE_IN_1X1"]
    body = "backbone.bottom_up"
    maps = maps_of_normalised(((image - mean) / std)[None], state, 4, body, in_1x1=stride)
    levels, shape = their_pyramid(maps, state), image.shape[1:]
    boxes = their_proposals(levels, state, shape, model)
    x = their_pooling(levels[:4], boxes, model["ROI_BOX_HEAD"]).flatten(1)
    for name in ("fc1", "fc2"):
        x = functional.relu(functional.linear(x, *pair(state, f"roi_heads.box_head.{name}")))
    scores = functional.linear(x, *pair(state, "roi_heads.box_predictor.cls_score")).softmax(1)[:, :-1]
    deltas = functional.linear(x, *pair(state, "roi_heads.box_predictor.bbox_pred"))
    moved = their_decoding(deltas, boxes, model["ROI_BOX_HEAD"]["BBOX_REG_WEIGHTS"]).unflatten(1, (-1, 4))
    regions, labels = (scores > model["ROI_HEADS"]["SCORE_THRESH_TEST"]).nonzero().unbind(1)
    boxes, scores = clipped(moved[regions, labels], shape), scores[regions, labels]
    kept = torchvision.ops.batched_nms(boxes, scores, labels, model["ROI_HEADS"]["NMS_THRESH_TEST"])
    kept = kept[: config["TEST"]["DETECTIONS_PER_IMAGE"]]
    return boxes[kept], scores[kept], labels[kept]
