"""The demonstration: drawn pictures in, a report and the next steps out."""

import csv
from collections import Counter
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from rcnn.data.dataset import Dataset
from rcnn.data.formats.open import open_data
from rcnn.training import demo, run
from tiny import tiny_recipe, tiny_shapes


def shown() -> tuple[Console, StringIO]:
    text = StringIO()
    return Console(file=text, width=200), text


def test_the_demo_from_pictures_to_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a network and a schedule of a second; all else is what ``rcnn demo`` does."""
    asked: dict[str, Any] = {}

    real_train = run.train

    def train(data: Path, *, val: Path, minutes: float, out: Path, console: Console) -> Path:
        asked.update(data=open_data(data), val=open_data(val), minutes=minutes)
        return real_train(data, val=val, recipe=tiny_recipe(), out=out, console=console)

    monkeypatch.setattr(run, "train", train)
    monkeypatch.setattr(demo, "IMAGES", 6)
    monkeypatch.setattr(demo, "NUM_VAL_IMAGES", 2)
    narrow = tiny_shapes(1).scenes

    def drawn(count: int, *, first: int = 0, size: tuple[int, int]) -> Dataset:
        assert size == (demo.SIDE, demo.SIDE)
        return tiny_shapes(count, first=first)

    monkeypatch.setattr(demo, "draw_shapes", drawn)
    console, text = shown()
    report = demo.run(tmp_path / "demo", minutes=0.5, console=console)
    assert report == tmp_path / "demo" / "report.html"
    assert "<html" in report.read_text(encoding="utf-8")
    assert asked["minutes"] == 0.5
    assert not {r.path for r in asked["data"].records} & {r.path for r in asked["val"].records}
    assert (len(asked["data"]), len(asked["val"])) == (6, 2)
    output = text.getvalue()
    found = tmp_path / "demo" / "found"
    with (found / "objects.csv").open() as file:
        objects = list(csv.DictReader(file))
    counts = Counter(row["image"] for row in objects)
    assert sorted(counts) == ["fluorescence.png", "stained.png"]
    for name, count in counts.items():
        assert f"{count} nuclei in {name}; open {found / 'overlays' / name}" in output
        assert (found / "overlays" / name).is_file()
    assert str(found / "counts.csv") in output
    assert output.index("nuclei in") < output.index("6 images of shapes"), "first results come first"
    assert "6 images of shapes to train on and 2 to test on" in output
    assert "for 0.5 minutes" in output
    assert "In the first test image it finds {" in output
    assert all(name in narrow.class_names for name in ("disk", "square"))
    for verb in ("rcnn data check MY_DATA", "rcnn train MY_DATA", "rcnn predict runs/my MY_IMAGES"):
        assert verb in output


def test_a_run_that_is_there_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(ValueError, match="already holds a run"):
        demo.run(tmp_path, console=shown()[0])
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]


@pytest.mark.slow
def test_the_demo_reaches_what_it_promises(tmp_path: Path) -> None:
    import json

    demo.run(tmp_path / "demo", console=shown()[0])
    evaluation = json.loads((tmp_path / "demo" / "evaluation.json").read_text(encoding="utf-8"))
    assert evaluation["metrics"]["mask/AP50"] >= 0.85
