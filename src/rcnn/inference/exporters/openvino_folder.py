"""Folders of OpenVINO models, in float32 or, fitted to images, in eight-bit integers."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rcnn.inference.exported import ExportedDetector
from rcnn.inference.exported_metadata import METADATA_FILE, OPENVINO_FILES, metadata_bytes
from rcnn.inference.exporters import onnx_file
from rcnn.inference.exporters.graph import without_warnings
from rcnn.inference.predictor import Request
from rcnn.io.atomic import write_atomically
from rcnn.io.telemetry import without_telemetry
from rcnn.structures import Array


def write(
    program: torch.export.ExportedProgram, metadata: Mapping[str, Any], out: Path, images: Sequence[Array]
) -> None:
    """Write the program as an OpenVINO model; with ``images``, in integers of the ranges met on them."""
    with without_telemetry("openvino"):
        import openvino

    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "model.onnx"
        source.write_bytes(onnx_file.to_bytes(program))
        model = openvino.Core().read_model(source)
        _keep_antialias(model)
        if images:
            model = _quantised(model, ExportedDetector(dict, metadata), images)
        openvino.save_model(model, Path(folder) / "model.xml", compress_to_fp16=False)
        sums = {}
        for name in OPENVINO_FILES:
            content = (Path(folder) / name).read_bytes()
            sums[name] = hashlib.sha256(content).hexdigest()
            write_atomically(out / name, content)
    write_atomically(out / METADATA_FILE, metadata_bytes({**metadata, "sha256": sums}))


def _keep_antialias(model: Any) -> None:
    """Let an OpenVINO model antialias as its source does, which its reader of ONNX leaves out."""
    from openvino import opset11

    for node in model.get_ordered_ops():
        if node.get_type_name() == "Interpolate" and node.get_attributes()["antialias"]:
            axes = np.array([2, 3])
            sizes = opset11.gather(node.input_value(1), axes, np.array(0))
            resized = opset11.interpolate(node.input_value(0), sizes, "bilinear_pillow", "sizes", axes=axes)
            node.output(0).replace(resized.output(0))


def _quantised(model: Any, exported: ExportedDetector, images: Sequence[Array]) -> Any:
    """An OpenVINO model whose convolutions take eight-bit integers, scaled as images need it.

    Branches of masks and keypoints stay in floats, and the fully connected layers of the box head: on nuclei
    their integers cost eleven and ten points of mask AP.
    """
    with without_telemetry("nncf"):
        import nncf

    request = Request(exported.min_score, exported.max_detections)

    def inputs(image: Array) -> dict[str, Any]:
        return exported.inputs([exported.prepare(image)], request)

    outputs = {output.any_name: output.node for output in model.outputs}
    branches = {name for name in outputs if name.endswith("maps") or name == "keypoints"}
    found = [ancestors(outputs[name]) for name in outputs.keys() - branches]
    exact = set().union(*(ancestors(outputs[name]) for name in branches)) - set().union(*found)
    exact |= {node.get_friendly_name() for node in model.get_ops() if node.get_type_name() == "MatMul"}
    with without_warnings():
        return nncf.quantize(
            model, nncf.Dataset(images, inputs), preset=nncf.QuantizationPreset.MIXED,
            subset_size=len(images), ignored_scope=nncf.IgnoredScope(names=sorted(exact), validate=False),
        )  # fmt: skip


def ancestors(node: Any) -> set[str]:
    """The names of all operations that a node of an OpenVINO model depends on."""
    names: set[str] = set()
    left = [node]
    while left:
        node = left.pop()
        if node.get_friendly_name() not in names:
            names.add(node.get_friendly_name())
            left += [value.get_source_output().get_node() for value in node.inputs()]
    return names
