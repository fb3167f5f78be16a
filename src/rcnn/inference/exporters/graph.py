"""The graph of an exported file: a trace of the model's own ``detect``.

Detections are one flat list over a batch, in which ``image_index`` names the image of each. What comes after
the network stays outside (``rcnn.inference.postprocess``), and so do resizing and normalising unless they are
asked for inside.

Legend: B images, C channels, H and W of the padded batch, N detections of all images.
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from rcnn.ops.convolution import SAME, pad_sides
from rcnn.parts.backbone import DepthwiseConv2d

if TYPE_CHECKING:
    from rcnn.inference.detector import Detector
    from rcnn.models.model import Model
    from rcnn.transform import Transform

INPUTS = ("images", "sizes", "min_score", "max_detections")
INPUTS_INSIDE = ("images", "min_score", "max_detections")
COMPUTED_WITH = ("val", "tensor_meta", "unbacked_bindings")  # what a node must know of its result


class DetectionsByName(nn.Module):
    """A model with tensors alone as arguments and results."""

    def __init__(self, network: Model) -> None:
        super().__init__()
        self.network = _statically_padded(copy.deepcopy(network).cpu()).eval()

    def forward(
        self, images: Tensor, sizes: Tensor, min_score: Tensor, max_detections: Tensor
    ) -> dict[str, Tensor]:
        """Find the objects.

        Args:
            images: float32 ``[B, C, H, W]``, normalised and padded.
            sizes: float32 ``[B, 2]``, each image's (height, width) without padding.
            min_score: float32 scalar.
            max_detections: int64 scalar, per image.

        Returns:
            The fields of :class:`rcnn.parts.batch.Detections` that the model fills.
        """
        return self.network.detect(
            images, sizes, min_score=min_score, max_detections=max_detections
        ).tensors()


class GraphWithTransform(nn.Module):
    """A model with its transform in front: images as they are, boxes in their own pixels."""

    mean: Tensor
    std: Tensor

    def __init__(self, network: Model, transform: Transform) -> None:
        super().__init__()
        self.detections, self.transform = DetectionsByName(network), transform
        self.register_buffer("mean", torch.tensor(transform.mean).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(transform.std).view(-1, 1, 1))

    def forward(self, images: Tensor, min_score: Tensor, max_detections: Tensor) -> dict[str, Tensor]:
        """Find the objects in ``images``, uint8 ``[B, C, H, W]``; the rest as in DetectionsByName."""
        divisor, (height, width) = self.transform.size_divisor, images.shape[2:]
        rows, columns = self.transform.resized_symbols(height, width)
        pixels = images.to(torch.float32) / 255
        if self.transform != replace(self.transform, short_side=None, scale=1.0, max_long_side=None):
            pixels = functional.interpolate(
                pixels, (rows, columns), mode="bilinear", antialias=self.transform.antialias
            )
        pixels = (pixels - self.mean) / self.std
        below, right = ((side + divisor - 1) // divisor * divisor - side for side in (rows, columns))
        one = pixels.new_ones(images.shape[0])
        found: dict[str, Tensor] = self.detections(
            functional.pad(pixels, (0, right, 0, below)),
            torch.stack([one * rows, one * columns], 1), min_score, max_detections,
        )  # fmt: skip
        size = torch.stack([one[0] * width, one[0] * height])
        ratio = size / torch.stack([one[0] * columns, one[0] * rows])
        found["boxes"] = torch.minimum(found["boxes"] * ratio.repeat(2), size.repeat(2))
        if "keypoints" in found:
            found["keypoints"] = found["keypoints"] * torch.cat([ratio, one[:1]])
        return found


def trace(detector: Detector) -> torch.export.ExportedProgram:
    """The graph with dynamic batch, height and width."""
    divisor = detector.transform.size_divisor
    side = divisor * math.ceil(192 / divisor)
    images = torch.rand(2, detector.transform.channels, side, side + divisor)
    sizes = torch.tensor([[side - 9.0, side], [side, side - 5.0]])
    batch, rows, columns = (torch.export.Dim(name) for name in ("batch", "rows", "columns"))
    shapes = ({0: batch, 2: divisor * rows, 3: divisor * columns}, {0: batch}, None, None)
    with torch.no_grad(), without_warnings():
        program = torch.export.export(
            DetectionsByName(detector.network).eval(),
            (images, sizes, torch.tensor(0.05), torch.tensor(10)),
            dynamic_shapes=shapes,
        )
    return _without_notes(program)


def trace_with_transform(detector: Detector) -> torch.export.ExportedProgram:
    """The graph with the transform inside; batch, height and width are dynamic."""
    any_size = dict.fromkeys((0, 2, 3), torch.export.Dim.DYNAMIC)
    images = torch.randint(256, (2, detector.transform.channels, 200, 230), dtype=torch.uint8)
    with torch.no_grad(), without_warnings():
        program = torch.export.export(
            GraphWithTransform(detector.network, detector.transform).eval(),
            (images, torch.tensor(0.05), torch.tensor(10)),
            dynamic_shapes=(any_size, None, None),
        )
    return _without_notes(program)


def _without_notes(program: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    """The same program, whose nodes no longer say which lines of which files on this machine made them."""
    for module in program.graph_module.modules():
        for node in module.graph.nodes if isinstance(module, torch.fx.GraphModule) else ():
            node.meta = {name: value for name, value in node.meta.items() if name in COMPUTED_WITH}
    return program


def input_names(program: torch.export.ExportedProgram) -> tuple[str, ...]:
    """What the graph's inputs are called."""
    return INPUTS if len(program.graph_signature.user_inputs) == len(INPUTS) else INPUTS_INSIDE


def output_names(program: torch.export.ExportedProgram) -> list[str]:
    """What the graph's outputs are called."""
    spec = program.call_spec.out_spec
    assert spec is not None
    names: list[str] = list(spec.context)
    return names


class _PadSame(nn.Module):
    """TensorFlow's "same" padding of maps whose size is known when the graph is traced."""

    def __init__(self, side: int, stride: int) -> None:
        super().__init__()
        self.side, self.stride = side, stride

    def forward(self, maps: Tensor) -> Tensor:
        """``[R, C, H, W]`` with rows and columns of zeros around."""
        rows, columns = (pad_sides(length, self.side, self.stride, SAME) for length in maps.shape[2:])
        return functional.pad(maps, (*columns, *rows))


def _statically_padded(network: Model) -> Model:
    """The network, changed in place, with plain convolutions, and TensorFlow's "same" padding as a constant.

    The padding follows from the size of the map; where the stride divides that, it is kernel - stride. So it
    is in the backbone, but not where a head runs a stage of the backbone on pooled maps, whose size is fixed.
    """
    stage: nn.Module | None = getattr(getattr(network, "box", None), "stage", None)
    pooled = set() if stage is None else set(stage.modules())
    for module in list(network.modules()):
        for name, conv in list(module.named_children()):
            pads_same = type(conv).__name__ == "Conv2dSame" or getattr(conv, "same_padding", False)
            if isinstance(conv, nn.Conv2d) and (pads_same or isinstance(conv, DepthwiseConv2d)):
                settings: Any = {k: getattr(conv, k) for k in ("kernel_size", "stride", "padding", "groups")}
                settings |= {"padding": 0} if pads_same else {}
                plain = nn.Conv2d(conv.in_channels, conv.out_channels, **settings, bias=conv.bias is not None)
                plain.weight, plain.bias = conv.weight, conv.bias
                side, stride = conv.kernel_size[0], conv.stride[0]
                rest = side - stride
                pad: nn.Module = nn.ZeroPad2d((rest // 2, rest - rest // 2) * 2)
                if module in pooled:
                    pad = _PadSame(side, stride)
                setattr(module, name, nn.Sequential(pad, plain) if pads_same else plain)
    return network


@contextmanager
def without_warnings() -> Iterator[None]:
    """Without the exporters' own warnings, which are about their internals."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
