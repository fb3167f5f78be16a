"""Evaluation in shares: every figure is that of one process."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from groups import COMMAND, Group, environment, succeeded
from rcnn.data.formats.open import open_data
from rcnn.data.shapes import draw_shapes
from rcnn.evaluation.evaluator import evaluate
from rcnn.evaluation.shares import evaluate_shares, predict_images
from rcnn.loading import load

MODEL = "nuclei"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    shapes = draw_shapes(7, size=(64, 64), class_names=("disk",), objects=(1, 3), diameter=(16.0, 32.0))
    file = shapes.write(tmp_path_factory.mktemp("data") / "shapes")
    file.write_text(file.read_text(encoding="utf-8").replace("disk", "nucleus"), encoding="utf-8")
    return file


def figures(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "found.json").read_text(encoding="utf-8"))
    return found


def test_two_processes_measure_what_one_does(tmp_path: Path, data: Path) -> None:
    words = [*COMMAND, "evaluate", MODEL, str(data), "--json", "found.json", "--device", "cpu"]
    folders = [tmp_path / name for name in ("first", "second", "alone")]
    for folder in folders:
        folder.mkdir()
    done = subprocess.run(
        words, env=environment(), cwd=folders[2], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    said, silent = succeeded(Group(words, folders[:2]))
    assert said == done.stdout
    assert silent == ""
    assert not list(folders[1].iterdir())
    alone, together = figures(folders[2]), figures(folders[0])
    assert alone["metrics"]["box/AP50"] > 0, "there is something to compare"
    assert together["metrics"] == pytest.approx(alone["metrics"], abs=1e-9, nan_ok=True)
    assert together.keys() == alone.keys()


def test_shares_by_whoever_predicts(data: Path) -> None:
    dataset = open_data(data)
    detector = load(MODEL, "cpu")
    expected, predictions = evaluate(detector, dataset)
    done = []
    found = evaluate_shares(detector, dataset, share=predict_images, progress=lambda *at: done.append(at))
    assert found is not None
    assert found[0].metrics == pytest.approx(expected.metrics, abs=1e-9, nan_ok=True)
    assert [len(p) for p in found[1]] == [len(p) for p in predictions]
    assert done[-1] == (7, 7)
    assert evaluate_shares(detector, dataset, share=lambda *_: None) is None
    with pytest.raises(ValueError, match="speed is measured by one process"):
        evaluate_shares(detector, dataset, share=predict_images, metrics=["speed"])
