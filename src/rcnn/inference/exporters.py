"""Whole detectors as files that run without this package's networks: ONNX, OpenVINO, ``torch.export``.

The exported graph does what a model's ``forward`` and ``decode`` do, for a batch at once: images may differ
in their number of objects, so that detections are one flat list in which ``image_index`` names the image of
each, the best of an image first. Pasting of masks stays outside, in ``rcnn.inference.exported``, and so do
resizing and normalising unless they are asked for inside.

Legend: B images, H and W of the padded batch, N detections of all images, R regions, K classes.
"""

from __future__ import annotations

import copy
import hashlib
import io
import json
import math
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torchvision
from timm.layers.conv2d_same import Conv2dSame
from timm.layers.padding import pad_same
from torch import Tensor, nn
from torch.nn import functional

from rcnn.inference import exported as runtime
from rcnn.io.atomic import write_atomically
from rcnn.models import MODELS
from rcnn.models.mask_rcnn import MaskRCNN
from rcnn.ops import boxes as box_ops
from rcnn.ops.keypoints import find_keypoints
from rcnn.parts.backbone import DepthwiseConv2d
from rcnn.parts.regions import Regions
from rcnn.parts.rpn import RPNOutput

if TYPE_CHECKING:
    from rcnn.inference.detector import Detector
    from rcnn.transform import Transform

ONNX = ("onnx", "onnxscript", "onnxruntime")
FORMATS = {"onnx": ONNX, "openvino": (*ONNX, "openvino"), "torch": ()}
"""The formats, and the packages that each needs beside torch."""
EXPORTABLE = ("faster_rcnn", "mask_rcnn", "keypoint_rcnn")
OPSET = 18
INPUTS = ("images", "sizes", "min_score", "max_detections")
INPUTS_INSIDE = ("images", "min_score", "max_detections")
MAX_INT32 = 2**31 - 1


class DetectionGraph(nn.Module):
    """A network's way from images to detections on tensors alone, without a loop over images."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network: Any = _statically_padded(copy.deepcopy(network).cpu()).eval()

    def forward(
        self, images: Tensor, sizes: Tensor, min_score: Tensor, max_detections: Tensor
    ) -> dict[str, Tensor]:
        """Find the objects.

        Args:
            images: float32 ``[B, 3, H, W]``, normalised and padded.
            sizes: float32 ``[B, 2]``, the (height, width) that each image really covers.
            min_score: float32 scalar.
            max_detections: int64 scalar, of an image.

        Returns:
            ``boxes [N, 4]``, ``labels [N]``, ``scores [N]``, ``image_index [N]``, and what the network has
            of ``mask_maps [N, M, M]``, ``keypoints [N, P, 3]`` and ``keypoint_maps [N, P, S, S]`` (models
            whose keypoints are read off at the resolution of the image).
        """
        network = self.network
        features = network.neck(network.backbone(images))
        own = features
        if not getattr(network.settings, "shared", True):
            own = network.rpn_neck(network.rpn_backbone(images))
        regions = self._proposals(network.rpn(own), sizes, max_detections)
        found = self._detections(features, regions, sizes, min_score, max_detections)
        regions = Regions(found["boxes"], found["image_index"])
        if (branch := getattr(network, "keypoint", None)) is not None:
            maps = branch(features, regions)
            refined = branch.settings.refine
            found |= (
                {"keypoints": find_keypoints(maps, regions.boxes)} if refined else {"keypoint_maps": maps}
            )
        if (branch := getattr(network, "mask", None)) is not None:
            pooled = branch.pool(features, regions)
            if isinstance(network, MaskRCNN):  # whose masks share the box head's stage of the backbone
                pooled = network.box.stage(pooled)
            found["mask_maps"] = branch.probabilities(branch.head(pooled), found["labels"])
        return found

    def _proposals(self, output: RPNOutput, sizes: Tensor, min_proposals: Tensor) -> Regions:
        """As ``RPN.decode``, for all images at once."""
        settings = self.network.rpn.settings
        start, parts = 0, []
        for size in output.num_anchors_per_level:
            parts.append(self._best_of_level(output, start, size, sizes))
            start += size
        boxes, scores, image_indices = (torch.cat(values) for values in zip(*parts, strict=True))
        levels = torch.cat([torch.full_like(part[2], level) for level, part in enumerate(parts)])
        keep = _nms(boxes, scores, image_indices, levels, len(parts), settings.nms_iou, sizes)
        keep = keep[_ranks(image_indices[keep], sizes) < min_proposals.clamp(min=settings.post_nms[1])]
        # Without a bound the exporter asserts one of classes * 2**63, which no file can hold.
        torch._check(keep.shape[0] <= MAX_INT32)
        return Regions(boxes[keep], image_indices[keep])

    def _best_of_level(
        self, output: RPNOutput, start: int, size: int, sizes: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Boxes ``[R, 4]``, logits and image indices ``[R]`` of a level's best anchors in all images."""
        settings = self.network.rpn.settings
        num_candidates = torch.sym_min(candidates(self.network), size)
        scores, index = output.objectness[:, start : start + size].topk(num_candidates, 1)
        image_indices = torch.arange(sizes.shape[0])[:, None].expand_as(scores).flatten()
        index, scores = (index + start).flatten(), scores.flatten()
        boxes = box_ops.decode(output.deltas[image_indices, index][:, None], output.anchors[index])[:, 0]
        boxes = _clip(boxes, sizes[image_indices])
        good = box_ops.larger_than(boxes, settings.min_side) & (scores.sigmoid() >= settings.min_objectness)
        # Flat at once: the sum of the levels' lengths, each the least of two, costs the exporter minutes.
        keep = good.nonzero()[:, 0]
        return boxes[keep], scores[keep], image_indices[keep]

    def _detections(
        self, features: list[Tensor], regions: Regions, sizes: Tensor, min_score: Tensor, count: Tensor
    ) -> dict[str, Tensor]:
        """As ``BoxHead.decode``, for all images at once."""
        head = self.network.box
        logits, deltas = head(features, regions)
        scores = logits.softmax(1)[:, : head.num_classes]
        boxes = box_ops.decode(deltas, regions.boxes, head.settings.weights)
        region, labels = (scores > min_score).nonzero().unbind(1)
        column = torch.zeros_like(labels) if boxes.shape[1] == 1 else labels
        image_indices = regions.image_indices[region]
        boxes, scores = _clip(boxes[region, column], sizes[image_indices]), scores[region, labels]
        large = box_ops.larger_than(boxes, head.settings.min_side).nonzero()[:, 0]
        boxes, scores, labels, image_indices = (
            boxes[large],
            scores[large],
            labels[large],
            image_indices[large],
        )
        keep = _nms(boxes, scores, image_indices, labels, head.num_classes, head.settings.nms_iou, sizes)
        keep = keep[_ranks(image_indices[keep], sizes) < count]
        names = ("boxes", "labels", "scores", "image_index")
        return {name: v[keep] for name, v in zip(names, (boxes, labels, scores, image_indices), strict=True)}


class GraphWithTransform(nn.Module):
    """A detection graph with the transform in it: images as they are, boxes in their own pixels.

    Sides are computed in whole numbers, of which a file's 32-bit floats lose none. They are those of
    ``Transform``, but with a margin of 0 (torchvision's models) a side may be a pixel longer.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, detections: DetectionGraph, transform: Transform) -> None:
        super().__init__()
        self.detections, self.transform = detections, transform
        self.register_buffer("mean", torch.tensor(transform.mean).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(transform.std).view(3, 1, 1))

    def forward(self, images: Tensor, min_score: Tensor, max_detections: Tensor) -> dict[str, Tensor]:
        """Find the objects in RGB ``images``, uint8 ``[B, 3, H, W]``; the rest as in DetectionGraph."""
        size_divisor, (height, width) = self.transform.size_divisor, images.shape[2:]
        rows, columns = self._resized(height, width)
        pixels = images.to(torch.float32) / 255
        if self.transform != replace(self.transform, short_side=None, scale=1.0, max_long_side=None):
            pixels = functional.interpolate(
                pixels, (rows, columns), mode="bilinear", antialias=self.transform.antialias
            )
        pixels = (pixels - self.mean) / self.std
        below, right = (
            (side + size_divisor - 1) // size_divisor * size_divisor - side for side in (rows, columns)
        )
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

    def _resized(self, height: Any, width: Any) -> list[Any]:
        """As ``Transform.resized``, of sides that are symbols."""
        transform, sides = self.transform, (height, width)
        halves = round(2 * transform.margin)  # 1 where sides are rounded, 0 where they are cut

        def share(side: Any, of: Any, whole: Any) -> Any:
            return (2 * side * of + halves * whole) // (2 * whole)

        if transform.short_side is None:
            scale = _fraction(transform.scale)
            resized = [share(side, scale.numerator, scale.denominator) for side in sides]
        else:
            shortest = torch.sym_min(height, width)
            resized = [share(side, transform.short_side, shortest) for side in sides]
        if transform.max_long_side is not None:
            longest = torch.sym_max(height, width)
            limits = (share(side, transform.max_long_side, longest) for side in sides)
            resized = [torch.sym_min(*pair) for pair in zip(resized, limits, strict=True)]
        return [torch.sym_max(1, side) for side in resized]


def _fraction(scale: float) -> Fraction:
    """A resize factor as a fraction that integers of 32 bits, times the side of an image, have room for."""
    return Fraction(scale).limit_denominator(1000)


def candidates(network: Any) -> int:
    """Anchors of a level that a file looks at, and so the most detections that it can be asked for."""
    return int(max(network.rpn.settings.pre_nms[1], network.box.settings.max_detections))


def _clip(boxes: Tensor, sizes: Tensor) -> Tensor:
    """Boxes ``[R, 4]`` cut to the (height, width) ``[R, 2]`` of the image of each."""
    return torch.minimum(boxes.clamp(min=0), sizes.flip(1).repeat(1, 2))


def _nms(
    boxes: Tensor,
    scores: Tensor,
    image_indices: Tensor,
    groups: Tensor,
    count: int,
    max_iou: float,
    sizes: Tensor,
) -> Tensor:
    """Suppression inside each of ``count`` groups of each image, the best score of all first.

    Every group is moved to a cell of its own, in rows and columns: in one row, eighty classes of a large
    image would leave its coordinates a hundredth of a pixel.
    """
    columns = math.ceil(math.sqrt(count))
    row = image_indices * math.ceil(count / columns) + torch.div(groups, columns, rounding_mode="floor")
    shift = torch.stack([groups % columns, row], 1) * (sizes.max() + 1)
    # To torch.export torchvision declares that at least two boxes are kept. Two more make it true: apart from
    # all others and worse than they, so that they come last.
    apart = boxes.new_tensor([[-2.0, -2.0, -1.0, -1.0], [-4.0, -4.0, -3.0, -3.0]])
    worst = scores.new_full((2,), torch.finfo(scores.dtype).min / 2)
    moved = torch.cat([boxes + shift.repeat(1, 2), apart])
    kept: Tensor = torchvision.ops.nms(moved, torch.cat([scores, worst]), max_iou)
    return kept[:-2]


def _ranks(image_indices: Tensor, sizes: Tensor) -> Tensor:
    """How many of the same image stand before each, int64 ``[N]``."""
    own = (image_indices[:, None] == torch.arange(sizes.shape[0])).to(torch.int64)
    return (own.cumsum(0) * own).sum(1) - 1


class _PadSame(nn.Module):
    """TensorFlow's "same" padding of maps whose size is known when the graph is traced."""

    def __init__(self, kernel_size: Sequence[int], stride: Sequence[int]) -> None:
        super().__init__()
        self.kernel_size, self.stride = list(kernel_size), list(stride)

    def forward(self, maps: Tensor) -> Tensor:
        """``[R, C, H, W]`` with rows and columns of zeros around."""
        padded: Tensor = pad_same(maps, self.kernel_size, self.stride)
        return padded


def _statically_padded(network: Any) -> Any:
    """The network, changed in place, with plain convolutions, and TensorFlow's "same" padding as a constant.

    The padding follows from the size of the map; where the stride divides that, it is kernel - stride. So it
    is in the backbone, but not where a head runs a stage of the backbone on pooled maps, whose size is fixed.
    """
    pooled = set(network.box.stage.modules())
    for module in list(network.modules()):
        for name, conv in list(module.named_children()):
            if isinstance(conv, Conv2dSame | DepthwiseConv2d):
                same = isinstance(conv, Conv2dSame) or conv.same_padding
                rest = conv.kernel_size[0] - conv.stride[0] if same else 0
                pad: nn.Module = nn.ZeroPad2d((rest // 2, rest - rest // 2) * 2)
                if module in pooled:
                    pad = _PadSame(conv.kernel_size, conv.stride)
                settings: Any = {k: getattr(conv, k) for k in ("kernel_size", "stride", "padding", "groups")}
                settings |= {"padding": 0} if same else {}
                plain = nn.Conv2d(conv.in_channels, conv.out_channels, **settings, bias=conv.bias is not None)
                plain.weight, plain.bias = conv.weight, conv.bias
                setattr(module, name, nn.Sequential(pad, plain) if same else plain)
    return network


def export(
    detector: Detector,
    out: str | Path,
    format: str = "onnx",
    *,
    transform_inside: bool = False,
    calibration: Sequence[Tensor] = (),
) -> Path:
    """Write a detector so that ``rcnn.inference.exported`` and other programs can run it.

    Args:
        detector: a Faster, Mask or Keypoint R-CNN.
        out: the file (``.onnx``, ``.pt2``), or for OpenVINO the folder of ``model.xml`` and ``model.bin``.
        format: ``onnx``, ``openvino`` or ``torch``.
        transform_inside: the file takes bytes and does the resizing and normalising itself, which otherwise
            stand beside it. Images of a batch then have one size.
        calibration: uint8 images ``[3, H, W]`` such as the model will see; where there are any, an OpenVINO
            model computes in eight-bit integers, whose ranges are those met on these images.

    Raises:
        ValueError: another model or format, a transform that does not pad to the strides or cannot be put
            inside, or a package that is not installed.
        OSError: the file cannot be written.
    """
    out = Path(out)
    metadata = describe(detector, format, out, transform_inside=transform_inside)
    if calibration:
        if format != "openvino":
            raise ValueError(f"format {format}: eight-bit integers are for openvino; leave them out")
        metadata["precision"] = "int8"
    _require_packages(*FORMATS[format], *(("nncf",) if calibration else ()))
    program = trace_with_transform(detector) if transform_inside else trace(detector)
    if format == "torch":
        _write_torch(program, metadata, out)
        return out
    body = _onnx_bytes(program)
    if format == "onnx":
        write_atomically(out, runtime.with_checksum(body, metadata))
    else:
        _write_openvino(body, metadata, out, calibration)
    return out


def describe(detector: Detector, format: str, out: Path, *, transform_inside: bool = False) -> dict[str, Any]:
    """The metadata of an exported file, once it is known that it can be made."""
    content = detector.describe()
    network: Any = detector.network
    if format not in FORMATS:
        raise ValueError(f"format {format!r}: expected one of {', '.join(FORMATS)}")
    ending = {"onnx": ".onnx", "torch": ".pt2", "openvino": ""}[format]
    if out.suffix != ending:
        raise ValueError(
            f"{out}: expected " + (f"a file *{ending}" if ending else "a folder, without an ending")
        )
    if content["architecture"] not in EXPORTABLE:
        raise ValueError(
            f"{content['architecture']} cannot be exported; expected one of {', '.join(EXPORTABLE)}"
        )
    if network.settings.box.cascade is not None:
        raise ValueError("a cascade (model.box.cascade) cannot be exported; expected a single box head")
    coarsest = max((*network.backbone.strides, 2))
    if detector.transform.size_divisor % coarsest:
        raise ValueError(
            f"transform.size_divisor {detector.transform.size_divisor}: an exported file needs a multiple of "
            f"the "
            f"backbone's stride, {coarsest}: set transform.size_divisor"
        )
    keypoint = getattr(network, "keypoint", None)
    if transform_inside and keypoint is not None and not keypoint.settings.refine:
        raise ValueError(
            "this model's keypoints are read off at the resolution of the resized image: leave its transform "
            "beside the file"
        )
    if transform_inside and float(_fraction(detector.transform.scale)) != detector.transform.scale:
        raise ValueError(
            f"transform.scale {detector.transform.scale} is no fraction of at most a thousandth: leave the "
            "transform beside the file, or round the scale"
        )
    return content | {
        # With the transform beside, files are as they were in the first layout.
        "export": runtime.FORMAT if transform_inside else 1,
        "format": format,
        "opset": OPSET,
        "transform": asdict(detector.transform),
        "transform_inside": transform_inside,
        "max_detections": network.settings.box.max_detections,
        "candidates": candidates(network),
        "conventions": (INSIDE if transform_inside else BESIDE) + CONVENTIONS,
    }


BESIDE = (
    "images: float32 [B, 3, H, W], RGB, resized, (x - mean) / std of x in [0, 1], zeros to multiples of "
    "the divisor; sizes: float32 [B, 2], (height, width) without padding; boxes x1 y1 x2 y2 of the "
    "resized image, "
)
INSIDE = "images: uint8 [B, 3, H, W], RGB, as they are; boxes x1 y1 x2 y2 of these, "
CONVENTIONS = (
    "pixel i covers [i, i + 1); labels index class_names; image_index: the image of each detection; "
    "the best of an image first; mask_maps: probabilities inside the box; keypoints: x y logit"
)


def trace(detector: Detector) -> torch.export.ExportedProgram:
    """The graph with dynamic batch, height and width."""
    graph = DetectionGraph(detector.network).eval()
    size_divisor = detector.transform.size_divisor
    side = size_divisor * math.ceil(192 / size_divisor)
    images, sizes = (
        torch.rand(2, 3, side, side + size_divisor),
        torch.tensor([[side - 9.0, side], [side, side - 5.0]]),
    )
    batch, rows, columns = (torch.export.Dim(name) for name in ("batch", "rows", "columns"))
    shapes = ({0: batch, 2: size_divisor * rows, 3: size_divisor * columns}, {0: batch}, None, None)
    with torch.no_grad(), _without_warnings():
        return torch.export.export(
            graph, (images, sizes, torch.tensor(0.05), torch.tensor(10)), dynamic_shapes=shapes
        )


def trace_with_transform(detector: Detector) -> torch.export.ExportedProgram:
    """The graph with the transform inside; batch, height and width are dynamic."""
    graph = GraphWithTransform(DetectionGraph(detector.network), detector.transform).eval()
    any_size = dict.fromkeys((0, 2, 3), torch.export.Dim.DYNAMIC)
    images = torch.randint(256, (2, 3, 200, 230), dtype=torch.uint8)
    with torch.no_grad(), _without_warnings():
        return torch.export.export(
            graph, (images, torch.tensor(0.05), torch.tensor(10)), dynamic_shapes=(any_size, None, None)
        )


def _onnx_bytes(program: torch.export.ExportedProgram) -> bytes:
    taken = len(program.graph_signature.user_inputs)
    with _without_warnings():
        written = torch.onnx.export(
            program, dynamo=True, opset_version=OPSET,
            input_names=INPUTS if taken == len(INPUTS) else INPUTS_INSIDE,
            output_names=_output_names(program), verbose=False,
        )  # fmt: skip
    assert written is not None
    content: bytes = written.model_proto.SerializeToString()
    return content


def _output_names(program: torch.export.ExportedProgram) -> list[str]:
    spec = program.call_spec.out_spec
    assert spec is not None
    names: list[str] = list(spec.context)
    return names


def _write_openvino(
    body: bytes, metadata: dict[str, Any], out: Path, calibration: Sequence[Tensor] = ()
) -> None:
    import openvino

    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "model.onnx"
        source.write_bytes(body)
        model = openvino.Core().read_model(source)
        _keep_antialias(model)
        if calibration:
            model = _quantised(model, runtime.ExportedDetector(dict, metadata), calibration)
        openvino.save_model(model, Path(folder) / "model.xml", compress_to_fp16=False)
        sums = {}
        for name in runtime.OPENVINO_FILES:
            content = (Path(folder) / name).read_bytes()
            sums[name] = hashlib.sha256(content).hexdigest()
            write_atomically(out / name, content)
    write_atomically(out / runtime.METADATA_FILE, runtime.metadata_bytes(metadata | {"sha256": sums}))


def _keep_antialias(model: Any) -> None:
    """Let an OpenVINO model antialias as its source does, which its reader of ONNX leaves out."""
    from openvino import opset11

    for node in model.get_ordered_ops():
        if node.get_type_name() == "Interpolate" and node.get_attributes()["antialias"]:
            axes = np.array([2, 3])
            sizes = opset11.gather(node.input_value(1), axes, np.array(0))
            resized = opset11.interpolate(node.input_value(0), sizes, "bilinear_pillow", "sizes", axes=axes)
            node.output(0).replace(resized.output(0))


def _quantised(model: Any, exported: runtime.ExportedDetector, images: Sequence[Tensor]) -> Any:
    """An OpenVINO model whose convolutions take eight-bit integers, scaled as images need it.

    Branches of masks and keypoints stay in floats, and the fully connected layers of the box head: on nuclei
    their integers cost eleven and ten points of mask AP.
    """
    import nncf

    count = exported.max_detections

    def inputs(image: Tensor) -> dict[str, Any]:
        return exported.inputs([image.permute(1, 2, 0).numpy()], exported.min_score, count)

    outputs = {output.any_name: output.node for output in model.outputs}
    branches = {name for name in outputs if name.endswith("maps") or name == "keypoints"}
    found = [_ancestors(outputs[name]) for name in outputs.keys() - branches]
    exact = set().union(*(_ancestors(outputs[name]) for name in branches)) - set().union(*found)
    exact |= {node.get_friendly_name() for node in model.get_ops() if node.get_type_name() == "MatMul"}
    with _without_warnings():
        return nncf.quantize(
            model, nncf.Dataset(images, inputs), preset=nncf.QuantizationPreset.MIXED,
            subset_size=len(images), ignored_scope=nncf.IgnoredScope(names=sorted(exact), validate=False),
        )  # fmt: skip


def _ancestors(node: Any) -> set[str]:
    """The names of all operations that a node of an OpenVINO model hangs on."""
    names: set[str] = set()
    left = [node]
    while left:
        node = left.pop()
        if node.get_friendly_name() not in names:
            names.add(node.get_friendly_name())
            left += [value.get_source_output().get_node() for value in node.inputs()]
    return names


def _write_torch(program: torch.export.ExportedProgram, metadata: dict[str, Any], out: Path) -> None:
    content = io.BytesIO()
    with _without_warnings():
        torch.export.save(program, content, extra_files={runtime.METADATA_FILE: json.dumps(metadata)})
    write_atomically(out, content.getvalue())


def _require_packages(*packages: str) -> None:
    from importlib.util import find_spec

    missing = [name for name in packages if find_spec(name) is None]
    if missing:
        extra = "int8" if "nncf" in missing else "export"
        raise ValueError(f'{", ".join(missing)} not installed; needed is: pip install "rcnn[{extra}]"')


@contextmanager
def _without_warnings() -> Iterator[None]:
    """Without the exporters' own warnings, which are about their insides."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


assert set(EXPORTABLE) <= set(MODELS)
