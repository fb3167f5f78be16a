"""The timeline benchmark: its sequence of runs, its clock and its table, with trainings of no length."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from benchmarks import timeline
from benchmarks.timeline import NAMES, STAGES, Row, main, parsed, ratios, seconds_of, settings_of

from rcnn.data.dataset import Dataset
from rcnn.inference.detector import Detector
from rcnn.models import MODELS
from rcnn.transform import Transform
from tiny import NAMES as CLASSES
from tiny import tiny_recipe, tiny_shapes


def detector(**info: Any) -> Detector:
    torch.manual_seed(0)
    network = MODELS["faster_rcnn"](2, tiny_recipe("faster_rcnn").settings)
    return Detector(network.eval(), Transform(), CLASSES, info=info)


def test_means_and_deviations() -> None:
    row = Row(runs=[{"a": 0.5}, {"a": 0.7}])
    assert row.shown("a", scale=100) == "60.0 ± 14.1"
    assert Row(runs=[{"a": 0.5}]).shown("a", 2) == "0.50"


def test_the_stages_of_a_prediction_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter(range(1000))
    monkeypatch.setattr(timeline.time, "perf_counter", lambda: float(next(ticks)))
    seconds = seconds_of(detector(), tiny_shapes(1)[0].image)
    # A tick at each look at the clock: backbone and pyramid one each, the RPN one, with two before it here;
    # the heads are what is left of all.
    assert (seconds["proposals"], seconds["backbone"]) == (3.0, 2.0)
    assert sum(seconds.values()) == next(ticks) - 1
    assert list(seconds) == list(STAGES)


def test_what_each_step_made_quicker() -> None:
    def row(*seconds: float) -> Row:
        return Row(seconds=dict(zip(STAGES, seconds, strict=True)))

    rows = {"rcnn": row(3.0, 11.0, 1.0), "fast_rcnn": row(2.0, 0.3, 0.2)}
    assert ratios(rows) == ["Without its proposals Fast R-CNN takes 24.0 times less than R-CNN."]
    rows["faster_rcnn_joint"] = row(0.1, 0.3, 0.2)
    assert ratios(rows)[1] == "Faster R-CNN's proposals take 20.0 times less than selective search."
    assert ratios({"rcnn": rows["rcnn"]}) == []


def test_the_settings_of_each_model() -> None:
    options = parsed(["d", "--val", "v", "--out", "o", "--svm-images", "5", "--proposals", "300"])
    assert settings_of("faster_rcnn_alternating", options) == (
        "faster_rcnn", ["train.workers=1", "model.scheme=alternating"],
    )  # fmt: skip
    assert settings_of("faster_rcnn_joint", options)[1][-1] == "model.scheme=joint"
    assert "model.search.count=300" in settings_of("fast_rcnn", options)[1]
    assert "model.svm.images=5" in settings_of("rcnn", options)[1]
    assert {settings_of(name, options)[0] for name in NAMES} <= set(MODELS)


def test_from_runs_to_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = replace(tiny_shapes(3), records=[replace(r, masks=None) for r in tiny_shapes(3).records])
    asked: list[str] = []

    def train(_: Dataset, *, out: Path | None = None, resume: Path | None = None, **options: Any) -> Path:
        folder = out or resume
        assert folder is not None
        asked.append(f"{folder.name}{'' if resume is None else ' resumed'}")
        folder.mkdir(parents=True, exist_ok=True)
        if resume is None and folder.name == "faster_rcnn_joint-seed1":
            (folder / "run.json").touch()
            raise ValueError("as luck would have it")
        metrics = {"voc07/mAP": 0.5, "box/AP": 0.25, "box/AP50": 0.4}
        detector(metrics=metrics, training_seconds=90.0).save(folder / "best.safetensors")
        (folder / "report.html").touch()
        return folder

    monkeypatch.setattr(timeline, "train", train)
    monkeypatch.setattr(timeline, "open_data", lambda _: data)
    out = tmp_path / "out"
    models = ["faster_rcnn_alternating", "faster_rcnn_joint"]
    arguments = [
        "d",
        "--val",
        "v",
        "--out",
        str(out),
        "--seeds",
        "0",
        "1",
        "--images",
        "2",
        "--models",
        *models,
    ]
    main(arguments)
    text = (out / "timeline.md").read_text(encoding="utf-8")
    assert "| Faster R-CNN, four steps (2015) | 50.0 ± 0.0 | 25.0 ± 0.0 | 1.5 ± 0.0 |" in text
    assert "| Faster R-CNN, jointly (2015) | 50.0 | 25.0 | 1.5 |" in text
    assert "Left out: faster_rcnn_joint, seed 1: as luck would have it" in text
    assert "Traceback" in (out / "log.txt").read_text(encoding="utf-8")
    assert (out / "timeline.png").stat().st_size > 1000
    content = json.loads((out / "timeline.json").read_text(encoding="utf-8"))
    (first, second) = content["models"]["faster_rcnn_alternating"]["runs"]
    assert first == second
    assert first["proposals"] == pytest.approx(30, abs=20)
    assert 0 <= first["recall70"] <= first["recall50"] <= 1
    assert set(content["models"]["faster_rcnn_joint"]["seconds"]) == set(STAGES)
    assert len(asked) == 4

    asked.clear()
    main(arguments)
    assert asked == ["faster_rcnn_joint-seed1 resumed"], "what is finished is not trained again"
    assert "Left out" not in (out / "timeline.md").read_text(encoding="utf-8")

    asked.clear()
    with pytest.raises(SystemExit, match=r'alternating-seed0: not made with {"minutes": 3\.0'):
        main([*arguments, "--minutes", "3"])
    assert not asked
