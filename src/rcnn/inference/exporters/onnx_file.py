"""ONNX files, with standard operators only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from rcnn.inference.exported_metadata import with_checksum
from rcnn.inference.exporters.graph import input_names, output_names, without_warnings
from rcnn.io.atomic import write_atomically
from rcnn.structures import Array

OPSET = 18


def write(
    program: torch.export.ExportedProgram, metadata: Mapping[str, Any], out: Path, images: Sequence[Array]
) -> None:
    """Write the program as ONNX, its metadata in front and a checksum behind."""
    write_atomically(out, with_checksum(to_bytes(program), metadata))


def to_bytes(program: torch.export.ExportedProgram) -> bytes:
    """The program as an ONNX model."""
    with without_warnings():
        written = torch.onnx.export(
            program, dynamo=True, opset_version=OPSET, input_names=input_names(program),
            output_names=output_names(program), verbose=False,
        )  # fmt: skip
    assert written is not None
    model = written.model_proto
    _drop_notes(model.graph)
    content: bytes = model.SerializeToString()
    return content


def _drop_notes(graph: Any) -> None:
    """Remove how a graph was made, addresses in memory among it: the same model gives the same file."""
    del graph.metadata_props[:]
    for part in (graph.node, graph.input, graph.output, graph.value_info, graph.initializer):
        for item in part:
            del item.metadata_props[:]
    for attribute in (attribute for node in graph.node for attribute in node.attribute):
        for inner in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])):
            _drop_notes(inner)
