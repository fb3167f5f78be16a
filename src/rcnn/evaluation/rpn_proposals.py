"""The proposals of a network's RPN; the only part of the evaluation that needs torch."""

from __future__ import annotations

from typing import Any

import torch

from rcnn.data.dataset import Dataset
from rcnn.data.external_proposals import Boxes, ImageId, Progress
from rcnn.draw import Pixels
from rcnn.inference.detector import Detector
from rcnn.parts.batch import ImageBatch


def rpn_proposals(
    detector: Detector,
    data: Dataset,
    count: int,
    progress: Progress | None = None,
    *,
    min_candidates: int = 0,
) -> dict[ImageId, Boxes]:
    """The proposals of a model's RPN: by image id, ``[P, 4]`` in pixels of the image, best first.

    At least ``min_candidates`` anchors per level are considered.

    Raises:
        ValueError: the model has no RPN.
    """
    network = getattr(detector, "network", None)
    if getattr(network, "rpn", None) is None:
        what = "an exported file" if network is None else type(network).__name__
        raise ValueError(f"{what} has no RPN; expected a checkpoint of Faster or Mask R-CNN")
    found: dict[ImageId, Boxes] = {}
    bare = data.without_masks()
    for index, record in enumerate(data.records):
        found[record.image_id] = _rpn_boxes(detector, bare[index].image, count, min_candidates)
        if progress is not None:
            progress(len(found), len(data))
    return found


@torch.no_grad()
def _rpn_boxes(detector: Detector, image: Pixels, count: int, min_candidates: int) -> Boxes:
    network: Any = detector.network.eval()
    batch = detector.transform([torch.from_numpy(image).permute(2, 0, 1)])
    batch = ImageBatch(batch.tensors.to(detector.device), batch.sizes)
    # A Faster R-CNN whose stages share nothing has a backbone for the RPN.
    backbone = getattr(network, "rpn_backbone", network.backbone)
    neck = getattr(network, "rpn_neck", network.neck)
    output = network.rpn(neck(backbone(batch.tensors)))
    found = network.rpn.decode(output, batch.extents, min_proposals=count, min_candidates=min_candidates)
    (height, width), (h, w) = batch.sizes[0], image.shape[:2]
    scaled: Boxes = (found.boxes[:count].cpu() * torch.tensor([w / width, h / height] * 2)).numpy()
    return scaled
