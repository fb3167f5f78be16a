"""``rcnn evaluate --ray``: the figures of one process."""

import json
import subprocess
import tempfile
from pathlib import Path

import pytest

from groups import COMMAND, environment
from rcnn.cli.evaluate import evaluate
from rcnn.data.shapes import draw_shapes

pytest.importorskip("ray", reason="needs the extra ray")


def test_actors_measure_what_one_process_does(tmp_path: Path) -> None:
    """Twenty images are two tasks, by two actors."""
    shapes = draw_shapes(20, size=(64, 64), class_names=("disk",), objects=(1, 3), diameter=(16.0, 32.0))
    data = shapes.write(tmp_path / "shapes")
    data.write_text(data.read_text(encoding="utf-8").replace("disk", "nucleus"), encoding="utf-8")
    exact = ["--device", "cpu", "--precision", "float32", "--set", "model.box.nms_iou=0.4"]
    words = [*COMMAND, "evaluate", "nuclei", str(data), *exact, "--json"]
    alone, actors = tmp_path / "alone.json", tmp_path / "actors.json"
    with tempfile.TemporaryDirectory(prefix="r", ignore_cleanup_errors=True) as short:
        ray = {"RAY_TMPDIR": short, "RAY_worker_niceness": "0", "RAY_USAGE_STATS_ENABLED": "0"}
        for command in ([*words, str(alone)], [*words, str(actors), "--ray", "--actors", "2"]):
            done = subprocess.run(
                command, env=environment(**ray), cwd=tmp_path, capture_output=True, text=True, timeout=400,
                check=False,
            )  # fmt: skip
            assert done.returncode == 0, done.stderr[-3000:]
    expected, found = (json.loads(file.read_text(encoding="utf-8")) for file in (alone, actors))
    assert expected["metrics"]["box/AP50"] > 0, "there is something to compare"
    assert found["metrics"] == pytest.approx(expected["metrics"], abs=1e-9, nan_ok=True)
    assert found["seconds"]["predicting"] > 0


def test_options_that_do_not_go_together(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--svd is for one process; remove it, or --ray"):
        evaluate(["nuclei", str(tmp_path)], ray="local", svd="4,4")
    with pytest.raises(ValueError, match="--actors and --gpus-per-actor are for --ray; add --ray"):
        evaluate(["nuclei", str(tmp_path)], actors=2)
