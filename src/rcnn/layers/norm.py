"""Normalisation layers: batch norms that are fixed or merged into convolutions, and layer norm of maps.

Legend: B images, C channels.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torchvision.ops import FrozenBatchNorm2d

# Whose modules compute in the order in which they list convolutions and batch norms.
_IN_ORDER = (
    "rcnn.",
    "torchvision.",
    "timm.layers.conv_bn_act",
    "timm.models._efficientnet_blocks",
    "timm.models.resnet",
)


class FrozenBatchNorm(FrozenBatchNorm2d):  # type: ignore[misc]
    """A batch norm that is a fixed affine map, computed in float32; its results have the type of its inputs.

    torchvision's returns float32 under autocast: every map between two convolutions then takes three times
    the memory, once in each type. This one takes inputs of any number of dimensions.
    """

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, …]`` of maps ``[B, C, …]``."""
        fixed = (self.running_mean, self.running_var, self.weight, self.bias)
        if torch.is_grad_enabled() and x.requires_grad:
            result: Tensor = _FrozenNorm.apply(x, *fixed, self.eps)
            return result
        return functional.batch_norm(x, *fixed, eps=self.eps)


class _FrozenNorm(torch.autograd.Function):
    """One pass over the maps in each direction, which keeps none of them for the gradient.

    ``batch_norm`` alone keeps its input for the gradient of weights, and ``x * scale + bias`` takes three
    passes in bfloat16.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, mean: Tensor, var: Tensor, weight: Tensor, bias: Tensor, eps: float
    ) -> Tensor:
        ctx.save_for_backward(var, weight)
        ctx.eps = eps
        return functional.batch_norm(x, mean, var, weight, bias, eps=eps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        var, weight = ctx.saved_tensors
        scaled = functional.batch_norm(gradient, torch.zeros_like(var), var, weight, eps=ctx.eps)
        return scaled, None, None, None, None, None


class FrozenBatchNormAct(FrozenBatchNorm):
    """A frozen batch norm and the activation that timm's ``BatchNormAct2d`` has inside."""

    def __init__(self, num_features: int, eps: float, act: nn.Module) -> None:
        super().__init__(num_features, eps)
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, …]`` of maps ``[B, C, …]``."""
        result: Tensor = self.act(super().forward(x))
        return result


class LayerNorm2d(nn.LayerNorm):
    """Layer norm over the channels of each cell of a map."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=1e-6)

    def forward(self, input: Tensor) -> Tensor:
        """``[B, C, H, W]`` of maps ``[B, C, H, W]``."""
        return super().forward(input.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def has_batch_norm(module: nn.Module) -> bool:
    """Whether there is a batch norm in a module, frozen ones not counted."""
    return any(isinstance(child, _BatchNorm) for child in module.modules())


def freeze_batch_norm(module: nn.Module) -> None:
    """Replace every batch norm inside ``module`` by a frozen one of the same names and values, in place."""
    for name, child in list(module.named_children()):
        if isinstance(child, _BatchNorm):
            setattr(module, name, _frozen(child))
        else:
            freeze_batch_norm(child)


def _frozen(norm: _BatchNorm) -> FrozenBatchNorm:
    act = getattr(norm, "act", None)
    frozen = (
        FrozenBatchNorm(norm.num_features, norm.eps)
        if act is None
        else FrozenBatchNormAct(norm.num_features, norm.eps, act)
    )
    own = norm.state_dict()
    frozen.load_state_dict({key: own.get(key, tensor) for key, tensor in frozen.state_dict().items()})
    return frozen


def uses_weights_as_they_are(convolution: nn.Conv2d) -> bool:
    """Whether a convolution multiplies by ``weight`` itself, as timm's weight-standardised ones do not."""
    kind = type(convolution)
    return kind.__module__.partition(".")[0] in ("torch", "rcnn") or kind.__name__ == "Conv2dSame"


def fold_batch_norm(layers: nn.Module) -> None:
    """Merge batch norms, frozen or not, into the convolutions before them, in place; the activations stay.

    Equal to a batch norm in evaluation, and a pass over memory cheaper, forward and backward. Norms are left
    alone in modules that may compute in another order than they list their layers.
    """
    for module in list(layers.modules()):
        if not _computes_in_order(module):
            continue
        children = list(module.named_children())
        for (conv_name, conv), (norm_name, norm) in pairwise(children):
            if (
                isinstance(conv, nn.Conv2d)
                and uses_weights_as_they_are(conv)
                and isinstance(norm, nn.BatchNorm2d | FrozenBatchNorm2d)
            ):
                activation = getattr(norm, "act", nn.Identity())
                setattr(module, conv_name, fuse_conv_bn_eval(conv.eval(), norm.eval()))
                setattr(module, norm_name, activation)


def _computes_in_order(module: nn.Module) -> bool:
    """Whether a batch norm listed after a convolution normalises what comes out of it, and nothing else.

    RepViT, for one, sums the results of two convolutions first.
    """
    kind = type(module)
    return kind.forward is nn.Sequential.forward or kind.__module__.startswith(_IN_ORDER)
