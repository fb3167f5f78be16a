"""The form of a network that predicts quickest on a CPU: the same weights, the same results, less work.

Batch norms are merged into the convolutions before them, 3x3 convolutions take Winograd's way
(``rcnn.compiled``, or ``rcnn.ops.winograd``), and the ReLU after one is applied while its results are in the
cache. ResNet's first ReLU comes after the max pooling. Box heads take pooled regions as they lie in memory,
channels last, not copied. In half precision there is no Winograd, whose differences of neighbours bfloat16
cannot hold, and the weights are converted once. Nothing of it is for training, and nothing of it is stored: a
checkpoint has the network as it was built.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from itertools import chain, pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from rcnn.compiled import Convolution
from rcnn.compiled import convolution as compiled_convolution
from rcnn.ops import winograd
from rcnn.parts.backbone import fold_batch_norm
from rcnn.parts.box_head import BoxHead

MANY_REGIONS = 50  # as a convolution the layer orders its weights anew each time


class Prepared:
    """The prepared form of one network, made when it is first asked for and again when weights change.

    Changes are seen by the tensors' versions and, as ``tensor.data`` and some optimisers leave these as they
    are, by the size of the first row of each matrix.
    """

    def __init__(self) -> None:
        self._state: tuple[Any, ...] = ()
        self._network: nn.Module | None = None

    def __reduce__(self) -> tuple[type[Prepared], tuple[()]]:
        """Copies and pickles make theirs anew."""
        return (Prepared, ())

    def of(self, network: nn.Module, *, half: bool = False) -> nn.Module:
        """The network that predicts as ``network`` does; itself where there is nothing to gain.

        Args:
            network: as it was trained.
            half: it will run under autocast to bfloat16; always the same of one network.
        """
        tensors = list(chain(network.parameters(), network.buffers()))
        numbers = floats(tensors)
        if any(tensor.device.type != "cpu" or tensor.dtype != torch.float32 for tensor in numbers):
            return network
        rows = [tensor.detach()[:1] for tensor in numbers if tensor.ndim > 1]
        sums = torch.stack(torch._foreach_norm(rows)).nan_to_num().tolist() if rows else []
        # Tensors made in inference mode have no version, and cannot be written to outside it.
        state = (*((t.data_ptr(), 0 if t.is_inference() else t._version) for t in tensors), *sums)
        if self._network is None or state != self._state:
            self._network, self._state = prepare(network, half=half), state
        return self._network


def floats(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Those of floating point."""
    return [tensor for tensor in tensors if tensor.is_floating_point()]


@torch.no_grad()
def prepare(network: nn.Module, *, half: bool = False) -> nn.Module:
    """A copy of ``network`` for prediction on a CPU; it shares the tensors that stay as they are.

    It computes in float32, or under autocast in bfloat16 (``half``).

    A network without convolutions is returned as it is.
    """
    if not any(isinstance(module, nn.Conv2d) for module in network.modules()):
        return network
    shared = {id(tensor): tensor for tensor in chain(network.parameters(), network.buffers())}
    ready: nn.Module = copy.deepcopy(network, shared).eval()
    fold_batch_norm(ready)
    for module in list(ready.modules()):
        # RoI pooling's own results have the channels first.
        if isinstance(module, BoxHead) and module.settings.pool.pooling == "align":
            _take_channels_last(module)
        if isinstance(module, nn.Sequential):
            _pool_first(module)
    if half:
        for module in ready.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
                # New tensors: `module.to` would convert those of the network.
                for name, tensor in list(module.named_parameters(recurse=False)):
                    setattr(module, name, nn.Parameter(tensor.to(torch.bfloat16), requires_grad=False))
        return ready
    for module in list(ready.modules()):
        children = [*module.named_children(), ("", nn.Identity())]
        for (name, child), (next_name, following) in pairwise(children):
            if isinstance(child, nn.Conv2d) and _is_wide(child):
                # In a Sequential the next module is the next step; elsewhere the order says nothing.
                fuse = isinstance(module, nn.Sequential) and isinstance(following, nn.ReLU)
                setattr(module, name, Winograd(child, relu=fuse))
                if fuse:
                    setattr(module, next_name, nn.Identity())
    return ready


class RegionLinear(nn.Linear):
    """A fully connected layer on regions ``[R, C, P, P]``, its inputs ordered as channels_last lie in memory.

    No region is copied; of many, torch computes it a sixth quicker as the convolution with one result that it
    also is.
    """

    def forward(self, pooled: Tensor) -> Tensor:
        """``[R, K]``."""
        _, channels, height, width = pooled.shape
        quick = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        if len(pooled) < MANY_REGIONS or not quick:
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
    """Let a box head's first fully connected layer be a :class:`RegionLinear`."""
    cells = head.settings.pool.size**2
    children = list(head.layers.named_children())
    for (name, flatten), (next_name, linear) in pairwise(children):
        if isinstance(flatten, nn.Flatten) and isinstance(linear, nn.Linear):
            moved = RegionLinear(linear.in_features, linear.out_features, device="meta")
            weight = linear.weight.view(linear.out_features, -1, cells).transpose(1, 2).flatten(1)
            moved.weight, moved.bias = nn.Parameter(weight, requires_grad=False), linear.bias
            setattr(head.layers, name, nn.Identity())
            setattr(head.layers, next_name, moved)


def _is_wide(convolution: nn.Conv2d) -> bool:
    """Whether it may take Winograd's way: 3x3, of enough channels for the implementation there is."""
    channels, kernels = convolution.in_channels, convolution.out_channels
    if (
        (convolution.kernel_size, convolution.stride, convolution.dilation) != ((3, 3), (1, 1), (1, 1))
        or (convolution.padding, convolution.padding_mode, convolution.groups) != ((1, 1), "zeros", 1)
    ):  # fmt: skip
        return False
    return min(channels, kernels) >= winograd.LEAST_CHANNELS or _compiled_for(convolution) is not None


def _compiled_for(convolution: nn.Conv2d) -> Convolution | None:
    """The compiled implementation, where there is one for so many channels and kernels."""
    found = compiled_convolution()
    fits = found is not None and found.fits(convolution.in_channels, convolution.out_channels)
    return found if fits else None


class Winograd(nn.Module):
    """A 3x3 convolution that takes Winograd's way on maps with enough tiles: compiled, or else with torch."""

    def __init__(self, convolution: nn.Conv2d, *, relu: bool) -> None:
        super().__init__()
        self.convolution = convolution
        self.relu = relu
        self._kernels: Tensor | None = None  # as the implementation of this machine wants them

    def forward(self, images: Tensor) -> Tensor:
        """``[B, K, H, W]`` of maps ``[B, C, H, W]``."""
        plain = self.convolution
        differentiated = torch.is_grad_enabled() and (images.requires_grad or plain.weight.requires_grad)
        if not differentiated and not torch.compiler.is_compiling():
            compiled = self.compiled()
            if compiled is not None and compiled.pays(images):
                if self._kernels is None:
                    self._kernels = compiled.pack(plain.weight)
                return compiled(images, self._kernels, plain.bias, relu=self.relu)
            if compiled is None and winograd.pays(images, plain.out_channels):
                if self._kernels is None:
                    self._kernels = winograd.transform_kernels(plain.weight)
                return winograd.convolve(images, self._kernels, plain.bias, relu=self.relu)
        output: Tensor = plain(images)
        return output.relu_() if self.relu else output

    def compiled(self) -> Convolution | None:
        """What computes it, where that is compiled."""
        return _compiled_for(self.convolution)

    def __getstate__(self) -> dict[str, Any]:
        """Without the kernels of this machine: another may compute otherwise."""
        return {**self.__dict__, "_kernels": None}
