"""Any model of timm as a backbone, as ``timm:NAME``, through timm's own ``features_only``.

Levels are numbered by stride, as those of the other backbones: level i has stride 2 ** (i + 1). Maps that
come channels last (Swin) are permuted. Models with one map only, as plain vision transformers, get a
``SimplePyramid``. A model must take images of any size; whether it does is tried when it is built.

This module imports timm, which takes a second or two: import it only where such a backbone is built.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import timm
from timm.layers.format import Format
from timm.layers.patch_embed import PatchEmbed
from timm.models import split_model_name_tag
from torch import Tensor, nn

from rcnn.config import nearest_names
from rcnn.io.download import local_weights
from rcnn.layers.norm import freeze_batch_norm, has_batch_norm
from rcnn.parts.simple_pyramid import SimplePyramid

Channels = tuple[float, float, float]
# Arguments by which models of a fixed image size take any; each knows one of them or none.
_ANY_SIZE: tuple[dict[str, bool], ...] = ({"dynamic_img_size": True}, {"strict_img_size": False}, {})
_PATCH_SIZE = 16


class TimmMaps(nn.Module):
    """The maps of a timm model at chosen strides; ``forward`` returns them finest first, channels first.

    Attributes:
        channels: of each map.
        strides: likewise.
    """

    def __init__(self, name: str, levels: Sequence[int], *, pretrained: bool = False) -> None:
        """Build the model.

        Args:
            name: as timm has it, with or without the tag of its weights.
            levels: level i is the map of stride 2 ** (i + 1).
            pretrained: with the weights that timm publishes, else random ones.

        Raises:
            ValueError: no such model, or it has no maps of these strides.
            OSError: the weights could not be fetched.
        """
        super().__init__()
        strides = tuple(2 ** (level + 1) for level in sorted(levels))
        net = _feature_net(name, pretrained=pretrained)
        found: list[int] = net.feature_info.reduction()
        single = len(set(found)) == 1
        if single and not _is_power_of_two(found[-1]) and _has_patches(net):
            # timm resamples pretrained patch embeddings, and size divisors are powers of two.
            net = _feature_net(name, pretrained=pretrained, patch_size=_PATCH_SIZE)
            found = net.feature_info.reduction()
        if single and _is_power_of_two(found[-1]):
            picked = [len(found) - 1]
        else:
            picked = [_position(stride, found, name) for stride in strides]
            if max(picked) < len(found) - 1:  # without what comes after the last map wanted
                indices = net.feature_info.out_indices
                kept = tuple(indices[i] for i in range(max(picked) + 1))
                net = _feature_net(name, pretrained=pretrained, out_indices=kept)
        self.name, self.net, self.picked = name, net, tuple(picked)
        self.channels_last = getattr(net, "output_fmt", Format.NCHW) == Format.NHWC
        widths = net.feature_info.channels()
        self.pyramid = SimplePyramid(widths[-1], found[-1], strides) if single else None
        self.channels = self.pyramid.channels if self.pyramid else tuple(widths[i] for i in picked)
        self.strides = strides
        self._frozen: tuple[nn.Module, ...] = ()

    def freeze_stages(self, count: int) -> None:
        """Let the layers that come before the end of the first ``count`` stages keep their weights.

        Stage i ends with the map of stride 2 ** (i + 1).

        Raises:
            ValueError: it cannot be told which layers these are.
        """
        if not count:
            return
        info = self.net.feature_info
        names = [_comparable(name) for name, _ in self.net.named_modules()]
        ends = [
            _comparable(module)
            for module, stride in zip(info.module_name(), info.reduction(), strict=True)
            if stride <= 2**count
        ]
        inside = [i for i, name in enumerate(names) if ends and f"{name}_".startswith(f"{ends[-1]}_")]
        if self.pyramid is not None or (ends and not inside):
            raise ValueError(
                f"backbone.frozen_stages {count}: timm:{self.name} is not divided into stages; set it to 0"
            )
        if inside:
            self._frozen = tuple(self.net.modules())[: inside[-1] + 1]
        for module in self._frozen:
            for parameter in module.parameters(recurse=False):
                parameter.requires_grad_(False)

    def train(self, mode: bool = True) -> TimmMaps:
        """Switch to training; frozen stages stay as they are, the statistics of their batch norm included."""
        super().train(mode)
        for module in self._frozen:
            module.training = False
        return self

    def forward(self, images: Tensor) -> list[Tensor]:
        """Maps ``[B, C, H / stride, W / stride]`` of images ``[B, 3, H, W]``."""
        maps: list[Tensor] = self.net(images)
        if self.channels_last:
            maps = [features.permute(0, 3, 1, 2) for features in maps]
        return self.pyramid(maps[-1]) if self.pyramid is not None else [maps[i] for i in self.picked]


def build_maps(name: str, levels: Sequence[int], *, frozen_stages: int, norm: str) -> TimmMaps:
    """The maps of a timm model with random weights, its first stages and its batch norms frozen if so.

    Raises:
        ValueError: no such model, it has no maps of these levels, or it does not know one of the settings.
    """
    maps = TimmMaps(name, levels)
    if norm == "frozen":
        freeze_batch_norm(maps.net)
    elif not has_batch_norm(maps.net):
        raise ValueError(f'backbone.norm "{norm}": timm:{name} has no batch norm; leave it at "frozen"')
    maps.freeze_stages(frozen_stages)
    return maps


def normalisation(name: str) -> tuple[Channels, Channels]:
    """Mean and std, RGB of images in [0, 1], that the weights of a timm model expect.

    Raises:
        ValueError: no such model.
    """
    _require_model(name)
    try:
        config: Any = timm.get_pretrained_cfg(name)
    except RuntimeError as error:
        raise ValueError(_unknown_tag(name)) from error
    (r, g, b), (r_std, g_std, b_std) = config.mean, config.std
    return (r, g, b), (r_std, g_std, b_std)


def _feature_net(name: str, *, pretrained: bool, **options: Any) -> Any:
    """A model of timm that returns feature maps, for images of any size where it can be had so."""
    _require_model(name)
    if pretrained:
        options |= {"pretrained": True}
        placed = local_weights(f"{name}.safetensors")
        if placed is not None:
            options |= {"pretrained_cfg_overlay": {"file": str(placed)}}
    for any_size in _ANY_SIZE:
        create: Any = timm.create_model
        try:
            return create(name, features_only=True, **options, **any_size)
        except TypeError as error:
            refused = any_size and re.search(rf"unexpected keyword.*{next(iter(any_size))}", str(error))
            if not refused:
                raise ValueError(f"timm:{name} gives no feature maps: {error}") from error
        except Exception as error:  # of timm, of the hub and its HTTP client: they share no base class
            raise _creation_error(name, error, pretrained=pretrained) from error
    raise AssertionError


def _creation_error(name: str, error: Exception, *, pretrained: bool) -> Exception:
    text = str(error)
    if "Invalid pretrained tag" in text:
        return ValueError(_unknown_tag(name))
    if not pretrained:
        return ValueError(f"timm:{name} gives no feature maps: {text}")
    if "No pretrained weights" in text or "size mismatch" in text:
        return ValueError(f"timm:{name}: {text}")
    return OSError(
        f"timm:{name}: its weights could not be fetched ({type(error).__name__}: {text}). Check the "
        f"network connection, or put them as {name}.safetensors into the folder that RCNN_WEIGHTS names"
    )


def _require_model(name: str) -> None:
    if not timm.is_model(name):
        base = split_model_name_tag(name)[0]
        close = nearest_names(base, timm.list_models(), number=3)
        hint = f"did you mean {' or '.join(close)}?" if close else "timm.list_models() has their names"
        raise ValueError(f"timm:{name}: timm {timm.__version__} has no such model; {hint}")


def _unknown_tag(name: str) -> str:
    base = split_model_name_tag(name)[0]
    tags = ", ".join(timm.list_pretrained(f"{base}.*")) or "no weights at all"
    return f"timm:{name}: timm has no weights of this name; it has {tags}"


def _position(stride: int, found: Sequence[int], name: str) -> int:
    """Which of the maps has this stride: the last, which has seen most."""
    places = [i for i, own in enumerate(found) if own == stride]
    if not places:
        usable = [own.bit_length() - 2 for own in sorted(set(found)) if own > 1 and _is_power_of_two(own)]
        remedy = f"set backbone.levels to some of {usable}" if usable else "choose another model"
        raise ValueError(f"timm:{name} has no map of stride {stride}; it has {sorted(set(found))}: {remedy}")
    return places[-1]


def _is_power_of_two(number: int) -> bool:
    return number & (number - 1) == 0


def _has_patches(net: nn.Module) -> bool:
    """Whether a model cuts images into patches whose embedding timm can resample."""
    return any(type(module) is PatchEmbed for module in net.modules())


def _comparable(name: str) -> str:
    """A module's name as in the model and in what timm makes of it, which joins its steps otherwise."""
    return name.removeprefix("model.").replace(".", "_")
