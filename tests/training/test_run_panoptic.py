"""Panoptic data from file to partition: recognised, trained on, measured, predicted, reported."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from rcnn.data.augment import Augment
from rcnn.data.check import check
from rcnn.data.formats.open import open_data
from rcnn.data.shapes import draw_shapes
from rcnn.evaluation.evaluator import evaluate
from rcnn.inference.writers import predict_to_files
from rcnn.loading import load_detector
from rcnn.models.panoptic_fpn import PanopticFPN, PanopticFPNSettings
from rcnn.parts.semantic_head import SemanticHeadSettings
from rcnn.structures import OTHER, MergeSettings, true_segments
from rcnn.training.defaults import plan
from rcnn.training.recipe import Recipe
from rcnn.training.run import train
from rcnn.training.trainer import TrainSettings
from rcnn.transform import Transform
from tiny import BOX, MASK, SHARED, SIDE

NAMES, GROUNDS = ("disk", "square"), ("stripes", "checks")


def written(folder: Path, count: int = 6, first: int = 0) -> Path:
    shapes = draw_shapes(
        count, first=first, truth="both", size=(SIDE, SIDE), class_names=NAMES, grounds=GROUNDS,
        objects=(1, 3), diameter=(16.0, 32.0),
    )  # fmt: skip
    return shapes.write(folder)


def tiny(**train_settings) -> Recipe:
    settings = PanopticFPNSettings(
        **SHARED, mask=MASK, semantic=SemanticHeadSettings(8, 2), merge=MergeSettings(0.1, 0.5, 16)
    )
    schedule = TrainSettings(**{"batch_size": 2, "workers": 0, "lr": 1e-3, "epochs": 1.0, **train_settings})
    return Recipe("panoptic_fpn", settings, Transform(), Augment(crop=SIDE), schedule)


def test_drawn_pictures_are_written_as_panoptic_data(tmp_path: Path) -> None:
    data = open_data(written(tmp_path))
    assert data.format == "coco panoptic"
    assert data.semantic_names == (*NAMES, *GROUNDS)
    assert not check(data).errors
    drawn = draw_shapes(
        1, truth="both", size=(SIDE, SIDE), class_names=NAMES, grounds=GROUNDS, objects=(1, 3),
        diameter=(16.0, 32.0),
    )[0].truth  # fmt: skip
    assert (data[0].truth.semantic == drawn.semantic).all()
    assert len(true_segments(drawn)) == len(true_segments(data[0].truth))


def test_the_model_is_chosen_from_the_data(tmp_path: Path) -> None:
    recipe, reasons = plan(open_data(written(tmp_path)))
    assert recipe.model == "panoptic_fpn"
    assert "every pixel a class" in reasons[0].why


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("panoptic")
    data, val = written(folder / "train"), written(folder / "val", count=3, first=6)
    return train(data, val=val, recipe=tiny(), out=folder / "run")


def test_a_run_measures_partitions(run: Path) -> None:
    measured = json.loads((run / "evaluation.json").read_text())
    assert 0 <= measured["metrics"]["panoptic/PQ"] <= 1
    assert {"panoptic/PQ_things", "panoptic/PQ_stuff", "mask/AP", "semantic/mIoU"} <= set(measured["metrics"])
    assert list(measured["panoptic"]["per_class"]) == [*NAMES, *GROUNDS]
    assert "panoptic/PQ" in measured["per_class"]["disk"]
    report = (run / "report.html").read_text()
    assert "PQ of stuff" in report
    assert "Panoptic quality" in report
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert any("panoptic/PQ" in row for row in rows)
    assert any("loss/semantic" in row for row in rows)


def test_a_model_is_opened_as_it_was_saved(run: Path) -> None:
    detector = load_detector(run)
    assert isinstance(detector.network, PanopticFPN)
    assert detector.class_names == NAMES
    assert detector.semantic_names == (OTHER, *GROUNDS)
    assert detector.min_score == 0.1


def test_evaluating_again_gives_the_same(run: Path) -> None:
    measured = json.loads((run / "evaluation.json").read_text())["metrics"]
    val = open_data(run.parent / "val" / "annotations.json")
    evaluation, found = evaluate(load_detector(run), val)
    assert evaluation.metrics["panoptic/PQ"] == pytest.approx(measured["panoptic/PQ"])
    assert evaluation.headline_metric == "panoptic/PQ"
    assert len(found) == 3
    assert evaluation.table() is not None


def test_prediction_writes_a_data_set(run: Path) -> None:
    out = run.parent / "found"
    images = run.parent / "val" / "images"
    predict_to_files(load_detector(run), [images], out)
    assert len(list((out / "overlays").glob("*.png"))) == len(list((out / "panoptic").glob("*.png"))) == 3
    again = open_data(out / "panoptic.json", images=images)
    assert again.semantic_names == (*NAMES, *GROUNDS)
    assert not [p for p in check(again).errors if "segment" in p.what]


def test_its_ids_are_those_of_the_data(run: Path, tmp_path: Path) -> None:
    """Categories of the training data, images of a COCO file."""
    val = run.parent / "val"
    detector = load_detector(run)
    assert detector.category_ids == (1, 2)
    assert detector.info["stuff_ids"] == [3, 4]
    detector.info.update(category_ids=[17, 18], stuff_ids=[92, 193])
    listed = [{"id": 100 + i, "file_name": f.name} for i, f in enumerate(sorted((val / "images").iterdir()))]
    (tmp_path / "ids.json").write_text(json.dumps({"images": listed}))
    predict_to_files(detector, [val / "images"], tmp_path / "out", image_ids=tmp_path / "ids.json")
    found = json.loads((tmp_path / "out" / "panoptic.json").read_text())
    assert [c["id"] for c in found["categories"]] == [17, 18, 92, 193]
    assert (
        [i["id"] for i in found["images"]] == [a["image_id"] for a in found["annotations"]] == [100, 101, 102]
    )


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_partitions_are_whole_or_not_there(run: Path, tmp_path: Path, error: type[BaseException]) -> None:
    def stop(done: int, count: int) -> None:
        if done == 2:
            raise error

    out = tmp_path / "found"
    with pytest.raises(error):
        predict_to_files(load_detector(run), [run.parent / "val" / "images"], out, progress=stop)
    file = out / "panoptic.json"
    assert not file.exists() or json.loads(file.read_text())["images"]


def test_resuming_a_finished_run(run: Path) -> None:
    before = (run / "last.safetensors").read_bytes()
    train(resume=run)
    assert (run / "last.safetensors").read_bytes()[-4096:] == before[-4096:]


def test_what_the_data_lacks_is_named(tmp_path: Path) -> None:
    boxes = draw_shapes(4, size=(SIDE, SIDE), class_names=NAMES)
    with pytest.raises(ValueError, match="no semantic maps"):
        train(boxes, recipe=tiny(), out=tmp_path / "run")


def test_every_thing_may_be_a_class_of_pixels(tmp_path: Path) -> None:
    recipe = tiny()
    semantic = replace(recipe.settings.semantic, things="each")
    recipe = replace(recipe, settings=replace(recipe.settings, semantic=semantic, box=BOX))
    folder = train(written(tmp_path / "data"), recipe=recipe, out=tmp_path / "run")
    assert load_detector(folder).semantic_names == (*NAMES, *GROUNDS)
