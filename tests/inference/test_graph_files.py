"""Graphs in ONNX's and OpenVINO's formats that refer to more than themselves are refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rcnn.inference import exported
from rcnn.inference.exported_metadata import with_checksum
from rcnn.inference.graph_files import inspect_onnx, inspect_openvino

INFO = {"export": 1, "opset": 18, "class_names": ["a"], "min_score": 0.5, "transform": {}}
LAYER = '<net version="11"><layers><layer name="a" type="Result" version="{}"/></layers></net>'


def model(external: bool = False, domain: str = "", inside: bool = False) -> bytes:
    """A graph that adds a constant; ``inside`` puts the constant into a branch of a condition."""
    onnx = pytest.importorskip("onnx")
    helper = onnx.helper
    weight = onnx.numpy_helper.from_array(np.ones(1, np.float32), "w")
    if external:
        weight.ClearField("raw_data")
        weight.data_location = onnx.TensorProto.EXTERNAL
        entry = weight.external_data.add()
        entry.key, entry.value = "location", "../../secret"
    values = [helper.make_tensor_value_info(name, 1, [1]) for name in ("images", "boxes")]
    nodes = [helper.make_node("Add", ["images", "w"], ["boxes"], domain=domain)]
    if inside:
        constant = helper.make_node("Constant", [], ["c"], value=weight)
        branch = helper.make_graph([constant], "branch", [], [helper.make_tensor_value_info("c", 1, [1])])
        condition: Any = onnx.numpy_helper.from_array(np.array(True), "w")
        nodes = [helper.make_node("If", ["w"], ["boxes"], then_branch=branch, else_branch=branch)]
        weight = condition
    graph = helper.make_graph(nodes, "sum", values[:1], values[1:], [weight])
    opset = [helper.make_opsetid("", 18)]
    return bytes(helper.make_model(graph, opset_imports=opset, ir_version=10).SerializeToString())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"external": True}, "weights are said to lie in another file"),
        ({"external": True, "inside": True}, "weights are said to lie in another file"),
        ({"domain": "com.example"}, "has operators of 'com.example'"),
    ],
    ids=["external weights", "external weights in a branch", "another library"],
)
def test_what_refers_to_more_than_the_file(settings: Any, message: str, tmp_path: Path) -> None:
    file = tmp_path / "models" / "a.onnx"
    file.parent.mkdir()
    (tmp_path / "secret").write_bytes(np.ones(1, np.float32).tobytes())
    file.write_bytes(with_checksum(model(**settings), INFO))
    with pytest.raises(ValueError, match=rf"a\.onnx: .*{message}"):
        exported.open_exported(file)


@pytest.mark.parametrize("inside", [False, True])
def test_a_graph_of_standard_operators_passes(inside: bool) -> None:
    inspect_onnx(model(inside=inside), Path("a.onnx"))


@pytest.mark.parametrize("content", [b"\x3a\xff", b"\x3a\x7f", b"\x0b", b"\x80" * 12, b"\x08"])
def test_damaged_messages_are_named(content: bytes) -> None:
    with pytest.raises(ValueError, match=r"a\.onnx: not an ONNX file, or damaged"):
        inspect_onnx(content, Path("a.onnx"))


def test_openvino_graphs(tmp_path: Path) -> None:
    file = tmp_path / "model.xml"
    file.write_text(LAYER.format("opset15"))
    inspect_openvino(file)
    for version in ("extension", "opset1 ", ""):
        file.write_text(LAYER.format(version))
        with pytest.raises(ValueError, match=r"model\.xml: its layer 'a' is an operator of"):
            inspect_openvino(file)
    file.write_text('<!DOCTYPE net [<!ENTITY a SYSTEM "file:///etc/hostname">]><net>&a;</net>')
    with pytest.raises(ValueError, match="declares a document type"):
        inspect_openvino(file)
