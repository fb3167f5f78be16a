"""The check of a GPU, rehearsed on a CPU, so that it works where there is one."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from benchmarks import gpu

from rcnn.structures import Instances, Masks


def rows(out: Path) -> dict[str, dict[str, object]]:
    return json.loads((out / "gpu.json").read_text(encoding="utf-8"))["rows"]


def assert_the_same(found: dict[str, dict[str, object]]) -> None:
    """A CPU is the same as itself."""
    assert not any("failed" in row for row in found.values()), found
    for name, row in found.items():
        if name.startswith("same"):
            assert row["loss"] == row["gradient"] == row.get("unmatched objects", 0) == 0.0, name
            assert row.get("other pixels", 0.0) == 0.0, name


def test_rehearsal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu, "RECIPES", gpu.RECIPES[:1])
    tiny = ["--device", "cpu", "--tiny", "--out", str(tmp_path)]
    gpu.main([*tiny, "--only", "same,prediction"])
    found = rows(tmp_path)
    assert_the_same(found)
    table = (tmp_path / "gpu.md").read_text(encoding="utf-8")
    assert all(name in table for name in found)
    capsys.readouterr()
    gpu.main([*tiny, "--seconds", "-1"])
    assert "training, rcnn, float32: not begun" in capsys.readouterr().out
    assert rows(tmp_path) == found, "nothing is measured twice"
    gpu.main([*tiny, "--only", "training,feed"])
    found = rows(tmp_path)
    assert_the_same(found)
    for name in ("training, rcnn, float32", "batches from files: light_mask_rcnn"):
        assert found[name]["images/s"] > 0
    assert any(name.startswith("training from files: light_mask_rcnn, ") for name in found)


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
    assert "--only trainig: expected some of same, training, feed, prediction" in capsys.readouterr().err


@pytest.mark.slow
def test_rehearsal_of_every_architecture(tmp_path: Path) -> None:
    gpu.main(["--device", "cpu", "--tiny", "--out", str(tmp_path), "--only", "same"])
    found = rows(tmp_path)
    assert len(found) == len(gpu.RECIPES)
    assert_the_same(found)


def objects() -> Instances:
    """Four squares with masks and keypoints, and a semantic map."""
    corners = np.array([[i * 10.0, 5.0] for i in range(4)], np.float32)
    masks = np.zeros((4, 40, 50), bool)
    for i in range(4):
        masks[i, 5:13, i * 10 : i * 10 + 8] = True
    return Instances(
        (40, 50), np.concatenate([corners, corners + 8], 1), np.arange(4) % 2,
        scores=np.linspace(0.9, 0.6, 4, dtype=np.float32), masks=Masks.from_dense(masks),
        keypoints=np.full((4, 17, 3), 7.0, np.float32), semantic=np.zeros((40, 50), np.int64),
    )  # fmt: skip


def test_detections_are_compared_in_any_order_and_all_of_them() -> None:
    one = objects()
    same = {"objects": "4 and 4", "unmatched objects": 0.0, "other pixels": 0.0}
    assert gpu.compared(one, one) == gpu.compared(one, one[[2, 0, 3, 1]]) == same
    assert gpu.compared(one, replace(one, boxes=one.boxes + 0.9))["unmatched objects"] == 0.0
    assert gpu.compared(one, one[:3])["unmatched objects"] == pytest.approx(1 / 7)
    semantic = one.semantic.copy() if one.semantic is not None else None
    assert semantic is not None
    semantic[:20] = 1
    assert gpu.compared(one, replace(one, semantic=semantic))["other pixels"] == 0.5


@pytest.mark.parametrize("field", ["boxes", "labels", "scores", "masks", "keypoints"])
def test_one_object_that_differs_in_anything_has_no_counterpart(field: str) -> None:
    one = objects()
    changed = {
        "boxes": one.boxes + np.array([[2.0], [0], [0], [0]], np.float32),
        "labels": one.labels + np.array([2, 0, 0, 0]),
        "scores": None if one.scores is None else one.scores + np.float32([0.05, 0, 0, 0]),
        "masks": None if one.masks is None else Masks.from_dense(np.roll(one.masks.dense(), 1, axis=2)),
        "keypoints": None if one.keypoints is None else one.keypoints + np.float32([5, 0, 0]),
    }[field]
    count = 4 if field in ("masks", "keypoints") else 1
    assert gpu.compared(one, replace(one, **{field: changed}))["unmatched objects"] == count / 4


def test_what_is_beyond_a_tolerance_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "compared", lambda one, other: {"unmatched objects": 0.06})
    monkeypatch.setattr(gpu, "RECIPES", gpu.RECIPES[:1])
    gpu.main(["--device", "cpu", "--tiny", "--out", str(tmp_path), "--only", "same"])
    (row,) = rows(tmp_path).values()
    wanted = "ValueError: loss 0, gradient 0, unmatched objects 0.06; too much of: unmatched objects"
    assert str(row["failed"]).startswith(wanted)
