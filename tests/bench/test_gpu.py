"""The check of a GPU, rehearsed on a CPU, so that it works where there is one."""

import json
from pathlib import Path

import pytest
from benchmarks import gpu


def rows(out: Path) -> dict[str, dict[str, object]]:
    return json.loads((out / "gpu.json").read_text(encoding="utf-8"))["rows"]


def test_rehearsal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny = ["--device", "cpu", "--tiny", "--out", str(tmp_path)]
    gpu.main([*tiny, "--only", "same,prediction"])
    found = rows(tmp_path)
    assert not any("failed" in row for row in found.values()), found
    (same,) = (row for name, row in found.items() if name.startswith("same"))
    assert same["loss"] == same["gradient"] == 0.0
    table = (tmp_path / "gpu.md").read_text(encoding="utf-8")
    assert all(name in table for name in found)
    capsys.readouterr()
    gpu.main([*tiny, "--seconds", "-1"])
    assert "training, rcnn, float32: not begun" in capsys.readouterr().out
    assert rows(tmp_path) == found, "nothing is measured twice"
    gpu.main([*tiny, "--only", "training"])
    assert rows(tmp_path)["training, rcnn, float32"]["images/s"] > 0


def test_a_part_that_fails_is_a_row_and_is_tried_again(tmp_path: Path) -> None:
    def broken() -> dict[str, object]:
        raise RuntimeError("out of memory")

    jobs = {"a": broken, "b": lambda: {"s": 1.0}}
    gpu.run(jobs, tmp_path, float("inf"), {})
    assert rows(tmp_path) == {"a": {"failed": "RuntimeError: out of memory"}, "b": {"s": 1.0}}
    gpu.run({**jobs, "a": lambda: {"s": 2.0}}, tmp_path, float("inf"), {})
    assert rows(tmp_path)["a"] == {"s": 2.0}


def test_unknown_parts_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        gpu.main(["--only", "trainig"])
    assert "--only trainig: expected some of same, training, prediction" in capsys.readouterr().err
