"""FCN through the commands that all models share: train, resume, evaluate, predict, report."""

import csv
import json
import math
from dataclasses import replace
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from torch.testing import assert_close
from typer.testing import CliRunner

from rcnn.cli import app
from rcnn.data.formats.open import open_data
from rcnn.data.shapes import draw_shapes
from rcnn.evaluation.evaluator import evaluate
from rcnn.io import checkpoint
from rcnn.loading import load_detector
from rcnn.metrics.semantic import SemanticTally
from rcnn.models.fcn import FCN, FCNSettings
from rcnn.parts.backbone import BackboneSettings
from rcnn.structures import Instances
from rcnn.training import trainer as training
from rcnn.training.defaults import plan
from rcnn.training.recipe import Recipe
from rcnn.training.run import rewrite_report, train
from tiny import NAMES, SIDE, tiny_recipe

SETTINGS = FCNSettings(
    BackboneSettings("efficientnet_lite0", (2, 3, 4), frozen_stages=1), pool=False, kernel=1, channels=16,
    dropout=0.1, alignment="centred",
)  # fmt: skip
CLASSES = (*NAMES, "background")


def drawn(count: int, truth: str = "semantic"):
    return draw_shapes(
        count, truth=truth, size=(SIDE, SIDE), class_names=NAMES, objects=(1, 3), diameter=(16.0, 32.0)
    )


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight pictures with label pictures, as a user has them."""
    return drawn(8).write(tmp_path_factory.mktemp("data"))


def recipe(**changes) -> Recipe:
    own = tiny_recipe("faster_rcnn", **{"epochs": 2.0, "eval_images": 1, "lr": 3e-3, **changes})
    return replace(own, model="fcn", settings=SETTINGS)


def quiet() -> Console:
    return Console(file=StringIO(), width=200)


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(data, recipe=recipe(), out=tmp_path_factory.mktemp("runs") / "whole", console=quiet())


def test_it_is_trained_measured_and_reported(whole: Path) -> None:
    detector = load_detector(whole, "cpu")
    assert isinstance(detector.network, FCN)
    assert (detector.class_names, detector.semantic_names) == ((), CLASSES)
    measured = json.loads((whole / "evaluation.json").read_text())
    assert measured["metrics"]["semantic/mIoU"] == detector.info["metrics"]["semantic/mIoU"] > 0.2
    assert measured["semantic"]["names"] == list(CLASSES)
    assert np.array(measured["semantic"]["confusion"]).sum() == SIDE * SIDE  # one image held out
    rows = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    assert all(math.isfinite(row["val/loss"]) for row in rows if "val/loss" in row)
    assert any("semantic/mIoU" in row for row in rows)
    page = (whole / "report.html").read_text(encoding="utf-8")
    for text in ("mean IoU", "Pixel classes in", "Confusion of pixel classes", "Best"):
        assert text in page
    assert "threshold" not in page
    assert "pixels of the semantic maps" in (whole / "log.txt").read_text(encoding="utf-8")


def test_killed_it_is_resumed_to_the_same(
    whole: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = training.Trainer._finish_step

    def killed(self, *given):
        if self.state.iteration == 4:
            self.save()
            raise KeyboardInterrupt
        return step(self, *given)

    with monkeypatch.context() as patch:
        patch.setattr(training.Trainer, "_finish_step", killed)
        with pytest.raises(KeyboardInterrupt):
            train(data, recipe=recipe(), out=tmp_path / "run", console=quiet())
    train(resume=tmp_path / "run", console=quiet())
    one, two = (
        checkpoint.read_checkpoint(folder / "last.safetensors")[0] for folder in (whole, tmp_path / "run")
    )
    assert_close(one, two, rtol=0, atol=0)


def test_a_finer_net_starts_from_the_coarser_run(data: Path, tmp_path: Path) -> None:
    """32s, then 16s from its folder: by one setting, which a resumed run does not follow again."""
    coarse = replace(SETTINGS, backbone=replace(SETTINGS.backbone, levels=(4,)))
    first = train(data, recipe=replace(recipe(), settings=coarse), out=tmp_path / "32s", console=quiet())
    fine = replace(SETTINGS, backbone=replace(SETTINGS.backbone, levels=(3, 4)))
    finer = replace(recipe(epochs=0.1), settings=fine)
    changes = [f"train.start={first}", "train.lr=0.0"]
    begun = train(data, recipe=finer, settings=changes, out=tmp_path / "16s", console=quiet())
    old, new = (load_detector(folder, "cpu").network.state_dict() for folder in (first, begun))
    shared = [key for key in old if key in new]
    assert_close({k: new[k] for k in shared}, {k: old[k] for k in shared})
    assert new["scores.1.weight"].abs().sum() == 0
    (first / "best.safetensors").unlink()
    (first / "last.safetensors").unlink()
    train(resume=begun, console=quiet())


def test_evaluate_and_predict(whole: Path, data: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(
        app, ["evaluate", str(whole), str(data), "--json", str(tmp_path / "e.json")], env={"COLUMNS": "100"}
    )
    assert done.exit_code == 0, done.output
    assert "Pixel classes in 8 images" in done.output
    assert "frequency-weighted IoU" in done.output
    assert json.loads((tmp_path / "e.json").read_text())["metrics"]["semantic/mIoU"] > 0.2
    found = tmp_path / "found"
    done = CliRunner().invoke(app, ["predict", str(whole), str(data / "images"), "--out", str(found)])
    assert done.exit_code == 0, done.output
    assert "background" in done.output
    assert {path.name for path in found.iterdir()} == {"overlays", "maps", "areas.csv", "run.json"}
    rows = list(csv.DictReader((found / "areas.csv").read_text().splitlines()))
    assert len(rows) == 8 * 3
    picture = np.array(Image.open(found / "maps" / "000000.png"))
    assert picture.shape == (SIDE, SIDE)
    counts = [int(row["pixels"]) for row in rows if row["image"] == "000000.png"]
    assert [int((picture == value).sum()) for value in range(3)] == counts
    one = load_detector(whole, "cpu").predict(data / "images" / "000000.png")[0]
    assert np.array_equal(one.semantic, picture)
    assert "class,pixels,fraction" in one.save(tmp_path / "one.csv").read_text()


def test_the_report_can_be_written_again(whole: Path) -> None:
    (whole / "report.html").unlink()
    assert rewrite_report(whole, quiet()).is_file()


def test_it_is_chosen_for_semantic_maps_alone(data: Path) -> None:
    chosen, reasons = plan(open_data(data))
    assert chosen.model == "fcn"
    assert str(reasons[0]) == "model: fcn (the data has a class for every pixel, and no objects)"
    FCN(3, chosen.settings)
    assert plan(drawn(4, "both"))[0].model == "mask_rcnn"
    for backbone in ("vgg16", "resnet50", "mobilenet_v3_large"):
        FCN(3, plan(open_data(data), backbone=backbone)[0].settings)


def test_large_images_without_objects_are_shrunk_to_the_budget() -> None:
    big = draw_shapes(1, truth="semantic", size=(1280, 1280), objects=(1, 1))
    chosen, _ = plan(big)
    assert (chosen.transform.scale, chosen.augment.crop) == (0.5, 640)


def test_data_that_do_not_fit_are_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no semantic maps, which fcn learns from"):
        train(drawn(4, "objects"), recipe=recipe(), out=tmp_path / "a", console=quiet())
    with pytest.raises(ValueError, match="no objects, only semantic maps"):
        train(data, recipe=tiny_recipe("faster_rcnn"), out=tmp_path / "b", console=quiet())


class Remembered:
    """Gives the true maps back, one class wrong."""

    class_names = ()
    semantic_names = ("Background", "disk")

    def __init__(self, data) -> None:
        self.answers = [record.load_truth() for record in data.records]

    def predict(self, images, **_):
        truth = self.answers.pop(0)
        semantic = np.where(truth.semantic == 0, 1, 0)  # disk is 1 here, all else the background
        return [Instances.empty(truth.size, semantic=semantic)]


def test_classes_are_matched_by_name_and_unknown_ones_count_as_wrong() -> None:
    data = drawn(3)
    with pytest.warns(UserWarning, match="pixels of 'square', which the model does not know"):
        evaluation, _ = evaluate(Remembered(data), data)
    assert evaluation.details("semantic").names == ("Background", "disk", "square")
    assert evaluation.per_class["disk"]["semantic/IoU"] == 1.0
    assert evaluation.per_class["square"]["semantic/IoU"] == 0.0
    assert evaluation.headline_metric == "semantic/mIoU"
    with pytest.raises(ValueError, match="no semantic maps, which this model is measured by"):
        evaluate(Remembered(data), drawn(3, "objects"))


def test_a_tally_refuses_a_missing_map() -> None:
    with pytest.raises(ValueError, match="the prediction has none"):
        SemanticTally(("a",)).add(np.zeros((1, 1), np.int64), None)
