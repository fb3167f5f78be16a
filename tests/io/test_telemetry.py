"""No library that the package loads reports its use, or prepares to."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import ROOT
from rcnn.io.telemetry import REPORTERS, SWITCHES, without_telemetry

REPORTING = {*SWITCHES, *REPORTERS}
# Inside a process that Ray has started, and that has its settings.
LOADED_ALREADY = {"bulk/ray_evaluation.py"}


@pytest.mark.parametrize("library", ["onnxruntime", "openvino"])
def test_nothing_is_kept_for_a_report(library: str, tmp_path: Path) -> None:
    pytest.importorskip(library)
    folders = {name: tmp_path / name for name in ("HOME", "TMPDIR")}
    for folder in folders.values():
        folder.mkdir()
    environment = {**os.environ, **{name: str(folder) for name, folder in folders.items()}}
    for name in ("CI", "TF_BUILD", "GITHUB_ACTIONS", *(switch for switch, _ in SWITCHES.values())):
        environment.pop(name, None)  # which would silence them anyhow
    code = f"""
from rcnn.io.telemetry import without_telemetry
with without_telemetry({library!r}):
    import {library}
"""
    subprocess.run([sys.executable, "-B", "-c", code], env=environment, cwd=tmp_path, check=True)
    assert [path for folder in folders.values() for path in folder.rglob("*") if path.is_file()] == []


def test_what_the_user_set_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORT_DISABLE_TELEMETRY", "0")
    with without_telemetry("onnxruntime"):
        assert os.environ["ORT_DISABLE_TELEMETRY"] == "0"


def test_every_import_of_such_a_library_is_told() -> None:
    bare = []
    for path in sorted((ROOT / "src" / "rcnn").rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        told = {
            node
            for block in ast.walk(tree)
            if isinstance(block, ast.With) and "without_telemetry" in ast.unparse(block.items[0])
            for node in ast.walk(block)
        }
        for node in ast.walk(tree):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            loads = REPORTING.intersection(name.partition(".")[0] for name in names)
            if loads and node not in told:
                bare.append(f"{path.relative_to(ROOT / 'src' / 'rcnn').as_posix()}: {loads}")
    assert [one for one in bare if one.partition(":")[0] not in LOADED_ALREADY] == []
