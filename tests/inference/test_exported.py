"""What is opened as an exported model is checked first, and refused with a message that says what to do."""

import hashlib
import io
import json
import re
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rcnn.inference import exported as runtime
from rcnn.inference import exported_metadata as metadata
from rcnn.inference.exporters.onnx_file import OPSET

Edit = Callable[[bytes], bytes]
INFO: dict[str, Any] = {
    "export": 1,
    "model": {},
    "transform": {},
    "opset": OPSET,
    "candidates": 50,
    "class_names": ["a"],
    "min_score": 0.5,
    "versions": {"rcnn": "9.0", "torch": "9.1"},
}
NEWER = INFO | {"export": metadata.FORMAT + 1}


def onnx_model(opset: int) -> bytes:
    helper = pytest.importorskip("onnx").helper
    values = [helper.make_tensor_value_info(name, 1, [1]) for name in ("images", "boxes")]
    graph = helper.make_graph(
        [helper.make_node("Identity", ["images"], ["boxes"])], "same", values[:1], values[1:]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    return bytes(model.SerializeToString())


def openvino_folder(folder: Path, info: dict[str, Any]) -> Path:
    """Of a model that no OpenVINO takes."""
    folder.mkdir()
    sums = {}
    for name in metadata.OPENVINO_FILES:
        (folder / name).write_bytes(b'<net version="99"/>')
        sums[name] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    (folder / "rcnn.json").write_bytes(metadata.metadata_bytes(info | {"sha256": sums}))
    return folder


def torch_program(info: dict[str, Any] | None) -> bytes:
    program = torch.export.export(torch.nn.ReLU(), (torch.zeros(2),))
    content = io.BytesIO()
    torch.export.save(program, content, extra_files=None if info is None else {"rcnn.json": json.dumps(info)})
    return content.getvalue()


def edited(archive: bytes, ending: str, edit: Edit) -> bytes:
    """The archive with another part, under a right checksum."""
    changed = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(archive)) as old, zipfile.ZipFile(changed, "w") as new:
        for name in old.namelist():
            part = old.read(name)
            new.writestr(name, edit(part) if name.endswith(ending) else part)
    return changed.getvalue()


def replaced(old: str, new: str) -> Edit:
    def edit(content: bytes) -> bytes:
        assert old.encode() in content
        return content.replace(old.encode(), new.encode("latin1"))

    return edit


def refused(path: Path, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        runtime.open_exported(path)
    assert str(path) in str(caught.value)


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none.onnx: no such file or folder"):
        runtime.open_exported(tmp_path / "none.onnx")
    refused(tmp_path, r"no rcnn.json in this folder; expected one that rcnn export wrote")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"min_score": 1.5}, "min_score must be between 0 and 1"),
        ({"max_detections": 51}, "max_detections must be 1 to 50, not 51: .* with a higher rpn.pre_nms"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
    ],
    ids=["score", "detections", "batch"],
)
def test_what_cannot_be_asked_for(settings: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        runtime.ExportedDetector(dict, INFO).predict(np.zeros((8, 8, 3), np.uint8), **settings)


def test_the_runtime_reports_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxruntime

    asked: list[bool] = []
    monkeypatch.setattr(onnxruntime, "disable_telemetry_events", lambda: asked.append(True))
    (tmp_path / "a.onnx").write_bytes(metadata.with_checksum(onnx_model(OPSET), INFO))
    runtime.open_exported(tmp_path / "a.onnx")
    assert asked


def test_an_opset_that_the_runtime_does_not_know(tmp_path: Path) -> None:
    file = tmp_path / "a.onnx"
    file.write_bytes(metadata.with_checksum(onnx_model(OPSET), INFO))
    ones = {"images": np.ones(1, np.float32)}
    assert runtime.open_exported(file).run(ones) == {"boxes": ones["images"]}
    file.write_bytes(metadata.with_checksum(onnx_model(99), INFO | {"opset": 99}))
    refused(
        file,
        r"ONNX Runtime \S+ cannot open it \(opset 99\): pip install --upgrade onnxruntime; .*[Oo]pset 99",
    )


def test_a_representation_that_the_runtime_does_not_know(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    refused(
        openvino_folder(tmp_path / "a", INFO),
        r"OpenVINO \S+ cannot open it: pip install --upgrade openvino; it says",
    )


@pytest.mark.parametrize(
    ("name", "edit", "message"),
    [
        ("rcnn.json", replaced("9.0", "9.7"), "rcnn.json: changed since its export; export"),
        ("rcnn.json", lambda part: part[:-9], "rcnn.json: truncated or damaged; export"),
        ("rcnn.json", replaced("opset", "opse\xf4"), "rcnn.json: truncated or damaged; export"),
        ("rcnn.json", lambda _: b"[1]", "rcnn.json: not written by rcnn export"),
        ("rcnn.json", lambda _: json.dumps(INFO).encode(), "model.xml: missing, truncated or changed"),
        ("rcnn.json", lambda _: b'{"export": 99}', r"newer rcnn \(unknown, layout 99; this one reads 2\)"),
        ("model.bin", lambda part: part[:-1], "model.bin: missing, truncated or changed"),
    ],
    ids=["changed", "truncated", "no text", "another JSON", "no sums", "newer", "weights"],
)
def test_a_damaged_folder(name: str, edit: Edit, message: str, tmp_path: Path) -> None:
    part = openvino_folder(tmp_path / "a", INFO) / name
    part.write_bytes(edit(part.read_bytes()))
    refused(tmp_path / "a", message)


def another_schema(part: bytes) -> bytes:
    return re.sub(rb'"major": \d+', b'"major": 99', part)


THEIRS = rf"torch {re.escape(torch.__version__)} cannot open what 9.1 wrote: export the model again"


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda content: content[:-9], "truncated, damaged, or not written by rcnn export"),
        (lambda _: b"no archive", "truncated, damaged, or not written by rcnn export"),
        (replaced("/byteorder", "/byteorde\xf2"), "truncated, damaged, or not written by rcnn export"),
        (replaced("relu.default", "silu.default"), "models/model.json in it is damaged"),
        (lambda _: torch_program(None), "not written by rcnn export"),
        (
            lambda _: torch_program(NEWER),
            r"newer rcnn \(9.0, layout 3; this one reads 2\): update rcnn and run pip install \.",
        ),
        (lambda content: edited(content, "archive_version", lambda _: b"99"), THEIRS + ".* version 99"),
        (lambda content: edited(content, "model.json", another_schema), THEIRS),
        (lambda content: edited(content, "model.json", lambda _: b"{}"), THEIRS),
    ],
    ids=["truncated", "no archive", "names", "graph", "not ours", "newer", "archive", "schema", "no schema"],
)
@pytest.mark.export
def test_a_program_that_torch_cannot_run(edit: Edit, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.pt2").write_bytes(edit(torch_program(INFO)))
    refused(tmp_path / "a.pt2", message)


@pytest.mark.export
def test_a_runtime_that_is_not_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "a.onnx").write_bytes(metadata.with_checksum(b"", INFO))
    (tmp_path / "a.pt2").write_bytes(torch_program(INFO))
    openvino_folder(tmp_path / "a", INFO)
    for package in ("onnxruntime", "openvino", "torch"):
        monkeypatch.setitem(sys.modules, package, None)
    refused(tmp_path / "a.onnx", r'needs ONNX Runtime: pip install "\.\[runtime\]"')
    refused(tmp_path / "a", r'needs OpenVINO: pip install "\.\[runtime\]"')
    refused(tmp_path / "a.pt2", "needs torch: pip install torch torchvision")


@pytest.mark.parametrize(
    ("precision", "units", "floats"), [("int8", True, True), ("int8", False, False), (None, True, False)]
)
def test_integers_are_computed_in_floats_where_they_would_end_the_process(
    precision: str | None, units: bool, floats: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    openvino = pytest.importorskip("openvino")
    folder = openvino_folder(tmp_path / "a", INFO | ({"precision": precision} if precision else {}))
    given: dict[str, Any] = {}
    monkeypatch.setattr(
        openvino.Core, "compile_model", lambda self, model, device, settings: given.update(settings)
    )
    monkeypatch.setattr(runtime, "_has_matrix_units", lambda: units)
    runtime.open_exported(folder)
    assert (given.get("LP_TRANSFORMS_MODE") is False) == floats


def test_a_limit_of_instructions_keeps_the_integers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    monkeypatch.setattr(
        Path, "read_text", lambda self, **options: "flags\t\t: fpu amx_tile amx_int8 flush_l1d"
    )
    assert runtime._has_matrix_units()
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_VNNI")
    assert not runtime._has_matrix_units()
