"""Archives of torch.export are opened without running anything that they hold."""

import io
import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from rcnn.inference.exported import open_exported
from rcnn.inference.torch_archive import (
    CONSTANTS,
    EXAMPLES,
    MODEL,
    WEIGHTS,
    ArchiveError,
    _inspect_expression,
    safe_copy,
)

pytestmark = pytest.mark.export

Parts = dict[str, bytes]
TRACE = "left_a_trace"  # what a payload would make in the working folder
CODE = f"__import__('os').mkdir('{TRACE}')"


class Payload:
    """Reading its pickle makes a folder."""

    def __reduce__(self) -> Any:
        return os.mkdir, (TRACE,)


class Doubled(torch.nn.Module):
    """A small program with a weight, a constant and sizes that depend on the input."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(3, 2)

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        rows = images.new_zeros(images.shape[0] * 2 + 1, 2)
        return {"boxes": self.linear(images) + torch.tensor([1.0, 2.0]), "rows": rows}


@pytest.fixture(scope="module")
def parts() -> Parts:
    dynamic = ({0: torch.export.Dim("batch")},)
    program = torch.export.export(Doubled(), (torch.rand(4, 3),), dynamic_shapes=dynamic)
    content = io.BytesIO()
    torch.export.save(program, content, extra_files={"rcnn.json": json.dumps({"export": 2})})
    with zipfile.ZipFile(content) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def zipped(parts: Parts) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, part in parts.items():
            archive.writestr(name, part)
    return content.getvalue()


def with_json(parts: Parts, name: str, change: Callable[[Any], Any]) -> Parts:
    value = json.loads(parts[f"archive/{name}"])
    change(value)
    return {**parts, f"archive/{name}": json.dumps(value).encode()}


def pickled(parts: Parts, table: str, file: str) -> Parts:
    """A table whose first tensor is the payload."""
    content = io.BytesIO()
    torch.save(Payload(), content)

    def change(value: Any) -> None:
        entry = next(iter(value["config"].values()))
        entry.update(path_name=file, use_pickle=True)

    folder = f"archive/{table.rpartition('/')[0]}"
    return {**with_json(parts, table, change), f"{folder}/{file}": content.getvalue()}


def graph(value: Any) -> Any:
    return value["graph_module"]["graph"]


def first_call(parts: Parts, target: str) -> Parts:
    return with_json(parts, MODEL, lambda value: graph(value)["nodes"][0].update(target=target))


def sized(parts: Parts, expression: str) -> Parts:
    def change(value: Any) -> None:
        next(iter(graph(value)["sym_int_values"].values()))["as_expr"]["expr_str"] = expression

    return with_json(parts, MODEL, change)


def renamed_input(parts: Parts) -> Parts:
    text = parts[f"archive/{MODEL}"].replace(b'"images"', json.dumps(f"a={CODE}").encode())
    return {**parts, f"archive/{MODEL}": text}


def of_own_class(value: Any) -> None:
    signature = value["graph_module"]["module_call_graph"][0]["signature"]
    signature["in_spec"] = signature["in_spec"].replace("builtins.tuple", "os.system")


def opaque(parts: Parts) -> Parts:
    changed = pickled(parts, CONSTANTS, "opaque_obj_0")
    return {**changed, "archive/data/constants/opaque_obj_0": pickle.dumps(Payload())}


def empty_tensor(value: Any) -> None:
    entry = next(iter(value["config"].values()))
    entry["tensor_meta"]["sizes"] = [{"as_int": 2_000_000_000}, {"as_int": 3}]


LIMITS, BRANCH = {"min_val": 1, "max_val": 2}, {"as_graph": {}}
REFUSED: dict[str, tuple[Callable[[Parts], Parts], str]] = {
    "a pickled weight": (lambda p: pickled(p, WEIGHTS, "weight_0"), "is a pickle, and reading one can run"),
    "a pickled constant": (lambda p: pickled(p, CONSTANTS, "tensor_0"), "is a pickle"),
    "an opaque object": (opaque, "entry 'archive/data/constants/opaque_obj_0'"),
    "old weights": (lambda p: {**p, "archive/data/weights/model.pt": b""}, "weights/model.pt"),
    "compiled code": (lambda p: {**p, "archive/data/aotinductor/model/a.so": b""}, "aotinductor"),
    "a name outside": (lambda p: {**p, "archive/../../a": b""}, r"entry 'archive/\.\./\.\./a'"),
    "a function of Python": (lambda p: first_call(p, "torch.serialization.os.system"), "calls 'torch.serial"),
    "a method": (lambda p: first_call(p, "torch.ops.aten.add.__call__"), "calls 'torch.ops.aten.add.__call"),
    "a reader of files": (lambda p: first_call(p, "torch.ops.aten.from_file.default"), "from_file"),
    "a library's own operator": (lambda p: first_call(p, "#mine:run"), "calls '#mine:run'"),
    "code as a size": (lambda p: sized(p, CODE), "where a size is expected"),
    "code without quotes": (lambda p: sized(p, "exit(chr(97))"), "where a size is expected"),
    "a power without end": (lambda p: sized(p, "Pow(Integer(9), Pow(Integer(9), Integer(9)))"), "a size is"),
    "and as an operator": (lambda p: sized(p, "9**9**9**9"), "where a size is expected"),
    "code as a range": (
        lambda p: with_json(p, MODEL, lambda v: v.update(range_constraints={CODE: LIMITS})),
        "where a size is expected",
    ),
    "code as a name": (renamed_input, "where a name is expected"),
    "a class of its own": (lambda p: with_json(p, MODEL, of_own_class), "of the type 'os.system'"),
    "a graph in an argument": (
        lambda p: with_json(p, MODEL, lambda v: graph(v)["nodes"][0]["inputs"][0].update(arg=BRANCH)),
        "argument of the kind 'as_graph'",
    ),
    "no numbers": (
        lambda p: {**with_json(p, WEIGHTS, empty_tensor), "archive/data/weights/weight_0": b""},
        "declares the size",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_could_run_code_is_refused(
    case: str, parts: Parts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    change, message = REFUSED[case]
    file = tmp_path / "a.pt2"
    file.write_bytes(zipped(change(parts)))
    with pytest.raises(ValueError, match=message) as error:
        open_exported(file)
    assert str(error.value).startswith(f"{file}: ")
    assert not (tmp_path / TRACE).exists()


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_an_entry_that_is_there_twice_is_refused(parts: Parts) -> None:
    content = io.BytesIO(zipped(parts))
    with zipfile.ZipFile(content, "a") as archive:
        archive.writestr(f"archive/{MODEL}", b"{}")
    with pytest.raises(ArchiveError, match="is there twice"):
        safe_copy(content.getvalue())


def test_what_a_model_does_not_need_is_left_out(
    parts: Parts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    guarded = with_json(parts, MODEL, lambda value: value.update(guards_code=[f"{CODE} is None"]))
    noted = with_json(
        guarded, MODEL, lambda value: graph(value)["nodes"][0].update(metadata={"stack_trace": f"\n{CODE}"})
    )
    content = io.BytesIO()
    torch.save((Payload(),), content)
    content = zipped({**noted, f"archive/{EXAMPLES}": content.getvalue()})  # type: ignore[assignment]
    program: Any = torch.export.load(safe_copy(content)).module()  # type: ignore[arg-type]
    found = program(torch.ones(5, 3))
    assert found["rows"].shape == (11, 2)
    torch.testing.assert_close(
        found["boxes"],
        torch.nn.functional.linear(torch.ones(5, 3), program.linear.weight, program.linear.bias)
        + torch.tensor([1.0, 2.0]),
    )
    assert not (tmp_path / TRACE).exists()


@pytest.mark.parametrize(
    "text",
    [
        "Mul(Integer(32), Pow(Symbol('s18', positive=True, integer=True), Integer(2)))",
        "Min(50, 192*s18*s30**2 + 1)",
        "FloorDiv(s0, 2) >= 1",
        "Mul(Float('0.5', precision=53), Rational(1, 2), Symbol('u0', integer=True))",
    ],
)
def test_expressions_of_every_torch_are_read(text: str) -> None:
    _inspect_expression(text)


@pytest.mark.parametrize("text", ["s0**9", "s0**2**9", "9**2", "s0.__class__", "exec", "[s0]", "'os'"])
def test_other_expressions_are_not(text: str) -> None:
    with pytest.raises(ArchiveError, match="a size is expected"):
        _inspect_expression(text)


def test_the_payload_would_run(parts: Parts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch by itself reads the pickle of a weight: the tests above can fail."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.pt2").write_bytes(zipped(pickled(parts, WEIGHTS, "weight_0")))
    with pytest.raises(Exception, match=r".*"):
        torch.export.load(tmp_path / "a.pt2")
    assert (tmp_path / TRACE).exists()
