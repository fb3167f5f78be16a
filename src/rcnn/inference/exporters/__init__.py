"""Whole detectors as files that run without this package's networks: ONNX, OpenVINO, ``torch.export``.

The graph is the same for all of them (``rcnn.inference.exporters.graph``); a row of ``EXPORTERS`` writes it
in one format.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.export import ExportedProgram

from rcnn.config import did_you_mean, is_dotted_path, resolve
from rcnn.extras import install_command
from rcnn.inference.exported_metadata import FORMAT
from rcnn.inference.exporters import onnx_file, openvino_folder, torch_program
from rcnn.inference.exporters.graph import trace, trace_with_transform
from rcnn.io.destinations import refuse_unwritable_file, refuse_unwritable_folder
from rcnn.models import MODELS
from rcnn.structures import Array

if TYPE_CHECKING:
    from rcnn.inference.detector import Detector

Write = Callable[[ExportedProgram, Mapping[str, Any], Path, Sequence[Array]], None]


@dataclass(frozen=True)
class Exporter:
    """A format of exported files.

    Attributes:
        write: takes the traced program, the metadata (plain JSON values), the path and the calibration images
            ``[H, W, C]``, and writes the file.
        ending: of its files; none for folders; None: any.
        packages: what it needs beside torch.
        calibrates: whether it can compute in eight-bit integers, with images to fit them to.
    """

    write: Write
    ending: str | None = None
    packages: tuple[str, ...] = ()
    calibrates: bool = False


OLDEST_TORCH = (2, 9)
"""The first whose exporter writes our graphs; the extra ``export`` asks for it."""

_ONNX = ("onnx", "onnxscript", "onnxruntime")
EXPORTERS: dict[str, Exporter] = {
    "onnx": Exporter(onnx_file.write, ".onnx", _ONNX),
    "openvino": Exporter(openvino_folder.write, "", (*_ONNX, "openvino"), calibrates=True),
    "torch": Exporter(torch_program.write, ".pt2"),
}
"""The formats by name."""


def exporter(format: str) -> Exporter:
    """The row of a format: a key of ``EXPORTERS``, or the dotted path of an :class:`Exporter` or a function.

    Raises:
        ValueError: no such format, or what the path names is none.
    """
    if format in EXPORTERS:
        return EXPORTERS[format]
    if not is_dotted_path(format):
        raise ValueError(
            f"format {format!r}: {did_you_mean(format, EXPORTERS)}expected one of {', '.join(EXPORTERS)}, or "
            "one of your own, such as my_package.exporters:write"
        )
    found = resolve(format)
    if isinstance(found, Exporter):
        return found
    if not callable(found):
        raise ValueError(f"format {format}: expected a function, or an Exporter; got {type(found).__name__}")
    return Exporter(found)


def export(
    detector: Detector,
    out: str | Path,
    format: str = "onnx",
    *,
    transform_inside: bool = False,
    calibration: Sequence[Array] = (),
) -> Path:
    """Write a detector so that ``rcnn.load`` and other programs can run it.

    Args:
        detector: of any model that is exportable.
        out: the file (``.onnx``, ``.pt2``), or for OpenVINO the folder of ``model.xml`` and ``model.bin``.
        format: ``onnx``, ``openvino``, ``torch``, or a dotted path, see :func:`exporter`.
        transform_inside: the file takes bytes and does the resizing and normalising itself, which otherwise
            happen beside it. Images of a batch then have one size.
        calibration: uint8 images ``[H, W, C]`` such as the model will see; with them, an OpenVINO model
            computes in eight-bit integers, whose ranges are those met on these images.

    Raises:
        ValueError: another model or format, a transform that does not pad to the strides or cannot be put
            inside, a package that is not installed, a torch below 2.9, or a path that cannot be written.
    """
    out, row = Path(out), check_export(out, format, calibrates=bool(calibration))
    metadata = describe(detector, format, transform_inside=transform_inside)
    if calibration:
        metadata["precision"] = "int8"
    program = trace_with_transform(detector) if transform_inside else trace(detector)
    row.write(program, metadata, out, calibration)
    return out


def check_export(out: str | Path, format: str = "onnx", *, calibrates: bool = False) -> Exporter:
    """The row of a format in which a file can be written here, asked before a model is loaded.

    Args:
        out: as of :func:`export`.
        format: likewise.
        calibrates: the model is to compute in eight-bit integers.

    Raises:
        ValueError: no such format, another ending, a path that cannot be written, a format without
            eight-bit integers, a package that is not installed, or a torch below 2.9.
    """
    out, row = Path(out), exporter(format)
    if row.ending is not None and out.suffix != row.ending:
        wanted = f"a file *{row.ending}" if row.ending else "a folder, without an extension"
        raise ValueError(f"{out}: expected {wanted}")
    (refuse_unwritable_file if row.ending else refuse_unwritable_folder)(out)
    if calibrates and not row.calibrates:
        able = ", ".join(name for name, one in EXPORTERS.items() if one.calibrates)
        raise ValueError(f"format {format}: eight-bit integers are for {able}; leave them out")
    _require_torch()
    _require_packages(*row.packages, *(("nncf",) if calibrates else ()))
    return row


def describe(detector: Detector, format: str, *, transform_inside: bool = False) -> dict[str, Any]:
    """The metadata of an exported file, once it is known that it can be made."""
    content, network = detector.describe(), detector.network
    if not network.exportable:
        able = ", ".join(name for name, model in MODELS.items() if model.exportable)
        raise ValueError(f"{content['architecture']} cannot be exported; expected one of {able}")
    _check_transform(detector, inside=transform_inside)
    content.pop("trained_on", None)  # for those who train on; a million images take 11 MB
    return content | {
        # With the transform beside, files are as they were in the first layout.
        "export": FORMAT if transform_inside else 1,
        "format": format,
        "opset": onnx_file.OPSET,
        "transform": asdict(detector.transform),
        "transform_inside": transform_inside,
        "max_detections": detector.max_detections,
        "candidates": network.candidates,
        "conventions": (INSIDE if transform_inside else BESIDE) + CONVENTIONS,
    }


def _check_transform(detector: Detector, *, inside: bool) -> None:
    """Refuse a transform that does not fit the graph."""
    network, transform = detector.network, detector.transform
    backbone: Any = network.backbone
    coarsest = max((*backbone.strides, 2))
    if transform.size_divisor % coarsest:
        raise ValueError(
            f"transform.size_divisor {transform.size_divisor}: an exported file needs a multiple of the "
            f"backbone's stride, {coarsest}: set transform.size_divisor"
        )
    if inside and network.reads_resized_image:
        raise ValueError(
            "this model's keypoints or classes of pixels are read at the resolution of the resized image: "
            "leave its transform outside the file"
        )
    if inside and float(transform.scale_fraction) != transform.scale:
        raise ValueError(
            f"transform.scale {transform.scale} is not a fraction with a denominator of at most 1000: "
            "leave the transform outside the file, or round the scale"
        )


BESIDE = (
    "images: float32 [B, C, H, W], resized, (x - mean) / std of x in [0, 1], zeros to multiples of "
    "the divisor; sizes: float32 [B, 2], (height, width) without padding; boxes x1 y1 x2 y2 of the "
    "resized image, "
)
INSIDE = "images: uint8 [B, C, H, W], as they are; boxes x1 y1 x2 y2 of these, "
CONVENTIONS = (
    "pixel i covers [i, i + 1); labels index class_names; image_index: the image of each detection; "
    "the best of an image first; mask_maps: probabilities inside the box; keypoints: x y logit; "
    "semantic_logits: [B, classes, H, W], padding included"
)


def _require_torch() -> None:
    found = tuple(int(part) for part in torch.__version__.split(".")[:2])
    if found < OLDEST_TORCH:
        oldest = ".".join(map(str, OLDEST_TORCH))
        raise ValueError(
            f"exporting needs torch {oldest} or later, found {torch.__version__}: {install_command('export')}"
        )


def _require_packages(*packages: str) -> None:
    missing = [name for name in packages if find_spec(name) is None]
    if missing:
        extra = "int8" if "nncf" in missing else "export"
        raise ValueError(f"{', '.join(missing)} not installed: {install_command(extra)}")
