"""What `rcnn bench` measures."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from rcnn.cli import app
from rcnn.inference import benchmark as bench
from rcnn.inference.detector import Detector
from tiny import NAMES, tiny_network, tiny_recipe


def test_sides_alternate_and_the_first_round_does_not_count() -> None:
    calls: list[str] = []
    seconds = bench.alternate({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, rounds=2)
    assert calls == ["a", "b"] * 3
    assert [len(values) for values in seconds.values()] == [2, 2]


def test_ratios_and_spread() -> None:
    found = bench.ratios({"slow": [4.0, 6, 8], "fast": [2.0, 2, 2]}, "slow", "fast")
    assert found == [2, 3, 4]
    assert bench.spread(found) == "3 (2 to 4)"


def test_the_peak_is_what_was_taken_on_the_way() -> None:
    code = (
        "import torch; from rcnn.inference.benchmark import peak_memory;"
        "print(peak_memory(lambda: torch.ones(100 * 2**20, dtype=torch.uint8)))"
    )
    # In a process of its own: an allocator that has memory left takes none.
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert out.strip() == "None" or 90 < int(out) / 2**20 < 150


@pytest.mark.parametrize("fast", [True, False])
def test_a_detector_is_measured(fast: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "fast_bfloat16", lambda device: fast)
    torch.manual_seed(0)
    recipe = tiny_recipe()
    detector = Detector(tiny_network(recipe), recipe.transform, NAMES, min_score=0.0)
    result = bench.bench(detector, [np.zeros((48, 64, 3), np.uint8)] * 2, rounds=1)
    assert (result.images, len(result.seconds), len(result.unfused), len(result.other)) == (
        2,
        1,
        1,
        int(fast),
    )
    assert result.precision == detector.used_precision
    assert list(result.stages) == ["backbone", "neck", "rpn", "box", "mask", "images, pasting"]
    assert all(seconds > 0 for seconds in result.stages.values())


def test_the_command_prints_a_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = tiny_recipe()
    Detector(tiny_network(recipe), recipe.transform, NAMES).save(tmp_path / "m.safetensors")
    monkeypatch.setattr(bench, "NOISE", (48, 64))
    result = CliRunner().invoke(app, ["bench", str(tmp_path / "m.safetensors"), "--rounds", "1"])
    assert result.exit_code == 0, result.output
    assert "images per second" in result.output
    assert "backbone" in result.output
