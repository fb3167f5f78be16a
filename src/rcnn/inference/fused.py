"""The form of a network that predicts quickest on a CPU: the same weights, the same results, less work.

Batch norms are merged into the convolutions before them. 3x3 convolutions take Winograd's way, and these and
the 1x1 ones are computed in C where that can be built (``rcnn.kernels.kernels``): what is added to their
results,
as in a residual block or a pyramid, and the activation after them come in while these are in registers.
ResNet's first ReLU comes after the max pooling. Box heads take pooled regions as they lie in memory, channels
last, not copied. In half precision there is nothing in C and no WinogradConv, whose differences of neighbours
bfloat16 cannot hold, and the weights are converted once. Nothing of it is for training, and nothing of it is
stored: a checkpoint has the network as it was built.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.resnet import BasicBlock, Bottleneck

from rcnn.kernels import kernels, winograd
from rcnn.kernels.kernels import Activation
from rcnn.parts.backbone import fold_batch_norm
from rcnn.parts.box_head import BoxHead
from rcnn.parts.fpn import Lateral

MIN_REGIONS_AS_CONV = 50  # as a convolution the layer orders its weights anew each time
_ACTIVATIONS: dict[type[nn.Module], Activation] = {
    nn.ReLU: "relu",
    nn.ReLU6: "relu6",
    nn.Hardswish: "hardswish",
}
_FORMS = {"relu": functional.relu_, "relu6": functional.relu6, "hardswish": functional.hardswish}


class FusedCache:
    """The prepared form of one network, made when it is first asked for and again when weights change.

    Changes are seen by the tensors' versions and, as ``tensor.data`` and some optimisers leave these as they
    are, by the size of each vector and of the first row of each matrix.
    """

    def __init__(self) -> None:
        self._state: tuple[Any, ...] = ()
        self._network: nn.Module | None = None

    def __reduce__(self) -> tuple[type[FusedCache], tuple[()]]:
        """Copies and pickles make theirs anew."""
        return (FusedCache, ())

    def get(self, network: nn.Module, *, half: bool = False) -> nn.Module:
        """The network that predicts as ``network`` does; itself where there is nothing to gain.

        Args:
            network: as it was trained.
            half: it will run under autocast to bfloat16; always the same of one network.
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
            self._network, self._state = fuse(network, half=half), state
        return self._network


def floats(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Those of floating point."""
    return [tensor for tensor in tensors if tensor.is_floating_point()]


@torch.no_grad()
def fuse(network: nn.Module, *, half: bool = False) -> nn.Module:
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
        for name, child in list(module.named_children()):
            if isinstance(child, Lateral) and _are_folded(child[1:]):
                setattr(module, name, _fuse_conv(child[0], added=True) or child)
            elif type(child) in (BasicBlock, Bottleneck):
                setattr(module, name, FusedResidual.of(child) or child)
    for module in list(ready.modules()):
        for (name, child), (next_name, following) in _steps(module):
            activation = _ACTIVATIONS.get(type(following), "none")
            fused = _fuse_conv(child, activation)
            if fused is None and activation != "none":
                activation, fused = "none", _fuse_conv(child)
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


def _fuse_conv(layer: nn.Module, activation: Activation = "none", *, added: bool = False) -> FusedConv | None:
    """A quicker form of a convolution, what is added to it, and the activation, where there is one."""
    if isinstance(layer, nn.Conv2d) and not isinstance(layer, FusedConv):
        for form in (WinogradConv, PointwiseConv):
            if form.supports(layer, activation, added=added):
                return form(layer, activation)
    return None


class FusedConv(nn.Conv2d):
    """A convolution with another's parameters, what is added to its results, and the activation after it."""

    def __init__(self, convolution: nn.Conv2d, activation: Activation = "none") -> None:
        names = ("in_channels", "out_channels", "kernel_size", "stride", "padding")
        same: dict[str, Any] = {name: getattr(convolution, name) for name in names}
        # On no device: weights that are replaced at once need not be drawn.
        super().__init__(**same, bias=convolution.bias is not None, device="meta")
        self.weight, self.bias = convolution.weight, convolution.bias
        self.activation = activation
        self._packed: Any = None  # the weights as the kernels of this machine want them

    @staticmethod
    def supports(convolution: nn.Conv2d, activation: Activation, *, added: bool) -> bool:
        """Whether there is such a form of these on this machine; ``added``: with a map to be added."""
        raise NotImplementedError

    def fast_forward(self, images: Tensor, addend: Tensor | None) -> Tensor | None:
        """The results, if there is a quicker way for these maps than torch's."""
        raise NotImplementedError

    def forward(self, images: Tensor, addend: Tensor | None = None) -> Tensor:
        """``[B, K, h, w]`` of maps ``[B, C, H, W]``; ``addend`` is resized if need be, to the nearest."""
        read = [each for each in (images, self.weight, self.bias, addend) if each is not None]
        found = self.fast_forward(images, addend) if kernels.is_usable(*read) else None
        if found is not None:
            return found
        output = super().forward(images)
        if addend is not None:
            same = addend.shape[-2:] == output.shape[-2:]
            output = output + (addend if same else functional.interpolate(addend, size=output.shape[-2:]))
        return _FORMS[self.activation](output) if self.activation in _FORMS else output

    def __getstate__(self) -> dict[str, Any]:
        """Without the weights as this machine wants them: another may compute otherwise."""
        return {**self.__dict__, "_packed": None}


class WinogradConv(FusedConv):
    """A 3x3 convolution that takes Winograd's way on maps with enough tiles: compiled, or else with torch."""

    @staticmethod
    def supports(convolution: nn.Conv2d, activation: Activation, *, added: bool) -> bool:
        """3x3, of enough channels for the implementation there is; no activation but ReLU."""
        channels, count = convolution.in_channels, convolution.out_channels
        if (
            (convolution.kernel_size, convolution.stride, convolution.dilation) != ((3, 3), (1, 1), (1, 1))
            or (convolution.padding, convolution.padding_mode, convolution.groups) != ((1, 1), "zeros", 1)
            or activation not in ("none", "relu")
        ):  # fmt: skip
            return False
        compiled = kernels.kernels()
        if compiled is not None and compiled.supports_3x3(channels, count):
            return True
        return not added and min(channels, count) >= winograd.MIN_CHANNELS

    def fast_forward(self, images: Tensor, addend: Tensor | None) -> Tensor | None:
        """In C where that is built, else as products of torch."""
        relu, compiled = self.activation == "relu", kernels.kernels()
        if compiled is not None and compiled.supports_3x3(self.in_channels, self.out_channels):
            if not compiled.is_faster_3x3(images):
                return None
            if self._packed is None:
                self._packed = compiled.pack_3x3(self.weight)
            return compiled.convolve_3x3(images, self._packed, self.bias, addend=addend, relu=relu)
        if addend is not None or not winograd.is_faster(images, self.out_channels):
            return None
        if self._packed is None:
            self._packed = winograd.transform_kernels(self.weight)
        return winograd.convolve(images, self._packed, self.bias, relu=relu)


class PointwiseConv(FusedConv):
    """A 1x1 convolution in C, on maps that are not tiny."""

    @staticmethod
    def supports(convolution: nn.Conv2d, activation: Activation, *, added: bool) -> bool:
        """1x1, not in groups, where C is built."""
        compiled = kernels.kernels()
        return (
            compiled is not None
            and convolution.kernel_size == (1, 1)
            and convolution.stride[0] == convolution.stride[1]
            and (convolution.padding, convolution.groups) == ((0, 0), 1)
            and compiled.supports_1x1(convolution.in_channels, convolution.out_channels, added=added)
        )

    def fast_forward(self, images: Tensor, addend: Tensor | None) -> Tensor | None:
        """In C."""
        compiled = kernels.kernels()
        if compiled is None or not compiled.is_faster_1x1(images):
            return None
        if self._packed is None:
            self._packed = compiled.pack_1x1(self.weight, self.bias)
        return compiled.convolve_1x1(
            images, self._packed, self.out_channels, stride=self.stride[0], addend=addend,
            activation=self.activation,
        )  # fmt: skip


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
        last = _fuse_conv(convolutions[-1], "relu", added=True) if _are_folded(norms) else None
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

    No region is copied; of many, torch computes it a sixth quicker as the convolution with one result that it
    also is.
    """

    def forward(self, pooled: Tensor) -> Tensor:
        """``[R, K]``."""
        _, channels, height, width = pooled.shape
        quick = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        if len(pooled) < MIN_REGIONS_AS_CONV or not quick:
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
    cells = head.settings.pool.size**2
    children = list(head.layers.named_children())
    for (name, flatten), (next_name, linear) in pairwise(children):
        if isinstance(flatten, nn.Flatten) and isinstance(linear, nn.Linear):
            moved = ChannelsLastLinear(linear.in_features, linear.out_features, device="meta")
            weight = linear.weight.view(linear.out_features, -1, cells).transpose(1, 2).flatten(1)
            moved.weight, moved.bias = nn.Parameter(weight, requires_grad=False), linear.bias
            setattr(head.layers, name, nn.Identity())
            setattr(head.layers, next_name, moved)
