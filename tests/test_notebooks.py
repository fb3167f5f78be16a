"""The notebooks of docs/: run from top to bottom, without a word on stderr, and stored without outputs."""

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from conftest import ROOT

nbclient = pytest.importorskip("nbclient", reason="of the extra docs")
nbformat = pytest.importorskip("nbformat", reason="of the extra docs")
pytest.importorskip("ipykernel", reason="of the extra docs")
NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))
named = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
PICTURES = {"first-steps": 5, "going-on": 5, "lineage": 8}


@named
def test_a_notebook_is_stored_without_outputs(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None


@named
def test_a_notebook_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a copy of docs/: what it writes is left there, and it finds docs/figures.py."""
    work = tmp_path / "docs" / "notebooks"
    work.mkdir(parents=True)
    shutil.copy(ROOT / "docs" / "figures.py", work.parent)
    sources = [str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sources)))
    notebook = nbformat.read(path, as_version=4)
    client = nbclient.NotebookClient(notebook, timeout=240, resources={"metadata": {"path": str(work)}})
    client.execute()
    outputs: list[Any] = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    assert [output.text for output in outputs if output.get("name") == "stderr"] == []
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= PICTURES[path.stem]
    said = [str(output.get("data", {}).get("text/plain", "")) for output in outputs]
    assert not any("ipywidgets" in text for text in said)
    if path.stem == "first-steps":
        assert any(text.startswith("training, loss ") for text in said)
