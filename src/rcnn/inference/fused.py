"""The form of a network that predicts fastest on a CPU: the same weights, the same results, less work.

Batch norms are merged into the convolutions before them. Where there are compiled kernels (``rcnn.kernels``),
3x3, 1x1 and depthwise convolutions are :class:`FusedConv`: padding, what is added to the results, as in a
residual block or a pyramid, and the activation after them need no pass over memory of their own. Without
kernels wide 3x3 convolutions use Winograd's algorithm in torch. ResNet's first ReLU comes after the max
pooling. Box heads take pooled regions as they are in memory, channels last, not copied. In bfloat16
convolutions stay torch's, as bfloat16 cannot hold Winograd's differences of neighbours, and the weights are
converted once. None of this is for training, and none is stored: a checkpoint has the network as it was
built.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, pairwise
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.resnet import BasicBlock, Bottleneck

from rcnn import kernels
from rcnn.kernels import operators
from rcnn.layers import winograd
from rcnn.layers.norm import fold_batch_norm, uses_weights_as_they_are
from rcnn.layers.operator import needs_gradient
from rcnn.ops.convolution import SAME, Activation, activate, convolve
from rcnn.parts.box_head import BoxHead
from rcnn.parts.fpn import Lateral

MIN_REGIONS_AS_CONV = 50  # as a convolution the layer reorders its weights each time
Precision = Literal["bf16", "float32"]
_ACTIVATIONS: dict[type[nn.Module], Activation] = {
    nn.ReLU: "relu",
    nn.ReLU6: "relu6",
    nn.Hardswish: "hardswish",
}


class FusedCache:
    """The prepared form of one network, made when it is first asked for and again when weights change.

    Changes are seen by the tensors' versions and, as ``tensor.data`` and some optimisers leave these as they
    are, by the size of each vector and of the first row of each matrix.
    """

    def __init__(self) -> None:
        self._state: tuple[Any, ...] = ()
        self._network: nn.Module | None = None

    def __reduce__(self) -> tuple[type[FusedCache], tuple[()]]:
        """Copies and pickles start with an empty cache."""
        return (FusedCache, ())

    def get(self, network: nn.Module, *, precision: Precision = "float32") -> nn.Module:
        """The network that predicts as ``network`` does; itself where there is nothing to gain.

        Args:
            network: as it was trained.
            precision: what it will compute in, see :func:`fuse`; always the same for one network.
        """
        tensors = list(chain(network.parameters(), network.buffers()))
        numbers = floats(tensors)
        if any(tensor.device.type != "cpu" or tensor.dtype != torch.float32 for tensor in numbers):
            return network
        rows = [tensor.detach()[:1] if tensor.ndim > 1 else tensor.detach() for tensor in numbers]
        sums = torch.stack(torch._foreach_norm(rows)).nan_to_num().tolist() if rows else []
        # Tensors made in inference mode have no version, and cannot be written to outside it.
        state = (*((t.data_ptr(), 0 if t.is_inference() else t._version) for t in tensors), *sums)
        if self._network is None or state != self._state:
            self._network, self._state = fuse(network, precision=precision), state
        return self._network


def floats(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Those of floating point."""
    return [tensor for tensor in tensors if tensor.is_floating_point()]


@torch.no_grad()
def fuse(network: nn.Module, *, precision: Precision = "float32") -> nn.Module:
    """A copy of ``network`` for prediction on a CPU; it shares the tensors that stay as they are.

    It computes in float32, or under autocast in bfloat16 (``precision`` ``bf16``).

    A network without convolutions is returned as it is.
    """
    if not any(isinstance(module, nn.Conv2d) for module in network.modules()):
        return network
    kernels.register()
    shared = {id(tensor): tensor for tensor in chain(network.parameters(), network.buffers())}
    ready: nn.Module = copy.deepcopy(network, shared).eval()
    fold_batch_norm(ready)
    for module in list(ready.modules()):
        # RoI pooling's own results have the channels first.
        if isinstance(module, BoxHead) and module.settings.pool.pooling == "align":
            _take_channels_last(module)
        if isinstance(module, nn.Sequential):
            _pool_first(module)
    if precision == "bf16":
        for module in ready.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
                # New tensors: `module.to` would convert those of the network.
                for name, tensor in list(module.named_parameters(recurse=False)):
                    setattr(module, name, nn.Parameter(tensor.to(torch.bfloat16), requires_grad=False))
        return ready
    for module in list(ready.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, Lateral) and _are_folded(child[1:]):
                setattr(module, name, FusedConv.of(child[0], added=True) or child)
            elif type(child) in (BasicBlock, Bottleneck):
                setattr(module, name, FusedResidual.of(child) or child)
    for module in list(ready.modules()):
        for (name, child), (next_name, following) in _steps(module):
            activation = _ACTIVATIONS.get(type(following), "none")
            fused = _fuse_conv(child, activation)
            if fused is None and activation != "none":
                activation, fused = "none", _fuse_conv(child, "none")
            if fused is not None:
                setattr(module, name, fused)
                if activation != "none":
                    setattr(module, next_name, nn.Identity())
    return ready.eval()


def _are_folded(norms: Iterable[nn.Module]) -> bool:
    """Whether nothing is left of these norms; a SyncBatchNorm, say, stays."""
    return all(type(norm) is nn.Identity for norm in norms)


def _steps(module: nn.Module) -> Iterator[tuple[tuple[str, nn.Module], tuple[str, nn.Module]]]:
    """Each child that computes something and the next step after it, nothing where that is not known.

    In a Sequential that is the next module, elsewhere what came in the place of a batch norm: the order of
    others says nothing.
    """
    nothing = ("", nn.Identity())
    # Not named_children, which names a module that comes twice once.
    steps = ((name, child) for name, child in module._modules.items() if child is not None)
    children = [(name, child) for name, child in steps if type(child) is not nn.Identity]
    for one, (name, following) in pairwise([*children, nothing]):
        known = isinstance(module, nn.Sequential) or name.startswith("bn")
        yield one, (name, following) if known else nothing


def _fuse_conv(layer: nn.Module, activation: Activation) -> _Replacement | None:
    """A faster form of a convolution and the activation after it, where there is one."""
    return FusedConv.of(layer, activation) or WinogradConv.of(layer, activation)


class _Replacement(nn.Conv2d):
    """A convolution with another's parameters, and the activation after it."""

    def __init__(self, convolution: nn.Conv2d, activation: Activation = "none") -> None:
        names = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "groups")
        settings: dict[str, Any] = {name: getattr(convolution, name) for name in names}
        # On no device: weights that are replaced at once need not be drawn.
        super().__init__(**settings, bias=convolution.bias is not None, device="meta")
        self.weight, self.bias = convolution.weight, convolution.bias
        self.activation = activation
        self._packed: list[Tensor] | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Without the weights as this machine wants them: another may compute otherwise."""
        return {**self.__dict__, "_packed": None}


class FusedConv(_Replacement):
    """A convolution by :func:`rcnn.ops.convolution.convolve`, with its weights prepared for the kernels."""

    def __init__(
        self, convolution: nn.Conv2d, activation: Activation = "none", *, added: bool = False
    ) -> None:
        super().__init__(convolution, activation)
        self.added = added
        self.pads = SAME if _has_same_padding(convolution) else int(self.padding[0])

    @staticmethod
    def of(layer: nn.Module, activation: Activation = "none", *, added: bool = False) -> FusedConv | None:
        """The form of a convolution to whose results a map is ``added``; None where it gains nothing."""
        if not isinstance(layer, nn.Conv2d) or isinstance(layer, _Replacement) or not _is_regular(layer):
            return None
        fused = FusedConv(layer, activation, added=added)
        return fused if fused.packed else None

    @property
    def packed(self) -> list[Tensor]:
        """The weights for the kernels; empty where torch computes."""
        if self._packed is None:
            self._packed = operators.pack(self, self.activation, added=self.added)
        return self._packed

    def forward(self, images: Tensor, addend: Tensor | None = None) -> Tensor:
        """``[B, K, h, w]`` of maps ``[B, C, H, W]``; ``addend`` is resized if need be, to the nearest."""
        # A graph that is traced has no place for weights that only this machine can read.
        packed = [] if torch.compiler.is_compiling() else self.packed
        return convolve(
            images, self.weight, self.bias, packed, addend, self.stride[0], self.pads, self.activation
        )


class WinogradConv(_Replacement):
    """A wide 3x3 convolution by Winograd's algorithm in torch, on maps with enough tiles."""

    @staticmethod
    def of(layer: nn.Module, activation: Activation) -> WinogradConv | None:
        """The form of a convolution without compiled kernels; None where it gains nothing."""
        if not isinstance(layer, nn.Conv2d) or isinstance(layer, _Replacement) or not _is_regular(layer):
            return None
        if (layer.kernel_size, layer.stride, layer.padding, layer.groups) != ((3, 3), (1, 1), (1, 1), 1):
            return None
        wide = min(layer.in_channels, layer.out_channels) >= winograd.MIN_CHANNELS
        return WinogradConv(layer, activation) if wide and activation in ("none", "relu") else None

    def forward(self, images: Tensor) -> Tensor:
        """``[B, K, H, W]`` of maps ``[B, C, H, W]``."""
        recorded = torch.compiler.is_compiling() or needs_gradient(images, self.weight, self.bias)
        if recorded or not winograd.is_faster(images, self.out_channels):
            return activate(super().forward(images), self.activation)
        if self._packed is None:
            self._packed = [winograd.transform_kernels(self.weight)]
        return winograd.convolve(images, self._packed[0], self.bias, relu=self.activation == "relu")


def _is_regular(layer: nn.Conv2d) -> bool:
    """Whether a convolution is square, dense, padded with zeros, and uses its weights as they are."""
    square = all(len({*pair}) == 1 for pair in (layer.kernel_size, layer.stride, layer.padding))
    return (
        square
        and not isinstance(layer.padding, str)
        and (layer.dilation, layer.padding_mode) == ((1, 1), "zeros")
        and uses_weights_as_they_are(layer)
    )


def _has_same_padding(layer: nn.Conv2d) -> bool:
    """Whether a convolution pads as TensorFlow's "same" does: ours that say so, and timm's."""
    return getattr(layer, "same_padding", False) or type(layer).__name__ == "Conv2dSame"


class FusedResidual(nn.Module):
    """A residual block (He et al. 2015, fig. 5) whose last convolution adds the shortcut itself."""

    def __init__(self, steps: Sequence[nn.Module], last: FusedConv, shortcut: nn.Module) -> None:
        super().__init__()
        self.steps, self.last, self.shortcut = nn.Sequential(*steps), last, shortcut

    @staticmethod
    def of(block: BasicBlock | Bottleneck) -> FusedResidual | None:
        """The form of a block of torchvision whose batch norms are folded; None where it gains nothing."""
        convolutions = [block.conv1, block.conv2, *([block.conv3] if isinstance(block, Bottleneck) else [])]
        norms = (norm for name, norm in block.named_children() if name.startswith("bn"))
        last = FusedConv.of(convolutions[-1], "relu", added=True) if _are_folded(norms) else None
        if last is None:
            return None
        steps = [step for each in convolutions[:-1] for step in (each, nn.ReLU(inplace=True))]
        return FusedResidual(steps, last, block.downsample or nn.Identity())

    def forward(self, images: Tensor) -> Tensor:
        """``[B, K, h, w]`` of maps ``[B, C, H, W]``."""
        result: Tensor = self.last(self.steps(images), self.shortcut(images))
        return result


class ChannelsLastLinear(nn.Linear):
    """A fully connected layer on regions ``[R, C, P, P]``, its inputs ordered as channels_last lie in memory.

    No region is copied; of many, torch computes it a sixth faster as the convolution with one result that it
    also is.
    """

    def forward(self, pooled: Tensor) -> Tensor:
        """``[R, K]``."""
        _, channels, height, width = pooled.shape
        has_onednn = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        if len(pooled) < MIN_REGIONS_AS_CONV or not has_onednn:
            return super().forward(pooled.permute(0, 2, 3, 1).flatten(1))
        kernels = self.weight.view(-1, height, width, channels).permute(0, 3, 1, 2)
        return functional.conv2d(pooled, kernels, self.bias).flatten(1)


def _pool_first(layers: nn.Sequential) -> None:
    """Let a ReLU and the max pooling after it, as in ResNet's stem, change places: on fewer cells."""
    for (name, relu), (next_name, pool) in pairwise(list(layers.named_children())):
        if isinstance(relu, nn.ReLU) and isinstance(pool, nn.MaxPool2d) and not pool.return_indices:
            setattr(layers, name, pool)
            setattr(layers, next_name, relu)


def _take_channels_last(head: BoxHead) -> None:
    """Let a box head's first fully connected layer be a :class:`ChannelsLastLinear`."""
    if head.settings.head is not None:  # a user's own layers, whatever they do
        return
    cells = head.settings.pool.size**2
    children = list(head.layers.named_children())
    for (name, flatten), (next_name, linear) in pairwise(children):
        if isinstance(flatten, nn.Flatten) and isinstance(linear, nn.Linear):
            moved = ChannelsLastLinear(linear.in_features, linear.out_features, device="meta")
            weight = linear.weight.view(linear.out_features, -1, cells).transpose(1, 2).flatten(1)
            moved.weight, moved.bias = nn.Parameter(weight, requires_grad=False), linear.bias
            setattr(head.layers, name, nn.Identity())
            setattr(head.layers, next_name, moved)
