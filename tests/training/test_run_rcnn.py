"""R-CNN through the commands that all models share: train, resume, evaluate, predict, report."""

from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from rich.console import Console
from torch.testing import assert_close
from typer.testing import CliRunner

from rcnn.cli import app
from rcnn.data.external_proposals import write_proposals
from rcnn.data.formats.open import open_data
from rcnn.inference import detector as predict_module
from rcnn.io import checkpoint
from rcnn.loading import load_detector
from rcnn.models.rcnn import RCNN, RCNNSettings
from rcnn.parts.backbone import BackboneSettings
from rcnn.parts.pretrained import load_pretrained
from rcnn.parts.regions import SamplingSettings
from rcnn.training import results, schemes, svms, validation
from rcnn.training.recipe import Recipe
from rcnn.training.run import rewrite_report, train
from tiny import tiny_recipe, tiny_shapes

pytest.importorskip("sklearn")

SETTINGS = RCNNSettings(
    BackboneSettings("efficientnet_lite0", (2,), frozen_stages=1),
    side=32, context=4, pool=2, layers=0, sampling=SamplingSettings(count=8), chunk=64,
)  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight pictures as a user has them."""
    return tiny_shapes(8).write(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def boxes(data: Path) -> Path:
    """Proposals: each object moved a little, and four corners."""
    corners = np.array([[0, 0, 20, 20], [40, 0, 64, 24], [0, 40, 30, 64], [30, 30, 64, 64]], np.float32)
    opened = open_data(data)
    found = {r.image_id: np.concatenate([corners, r.truth.boxes + 2, r.truth.boxes]) for r in opened.records}
    return write_proposals(data.parent / "boxes.npz", found)


def recipe() -> Recipe:
    return replace(tiny_recipe("faster_rcnn", epochs=1.0, eval_images=1), model="rcnn", settings=SETTINGS)


def quiet() -> Console:
    return Console(file=StringIO(), width=200)


@pytest.fixture(scope="module")
def whole(data: Path, boxes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "whole"
    return train(data, proposals=boxes, recipe=recipe(), out=folder, console=quiet())


def test_the_best_model_has_svms_and_its_threshold(whole: Path) -> None:
    detector = load_detector(whole, "cpu")
    assert bool(detector.network.fitted)
    assert detector.network.svms.weight.abs().sum() > 0
    assert detector.network.deltas.weight.abs().sum() > 0
    log = (whole / "log.txt").read_text(encoding="utf-8")
    assert "SVM of disk" in log
    assert "features: 7 of 7 images" in log
    assert "proposals: " in log
    assert (whole / "report.html").is_file()
    assert detector.info["metrics"]["box/AP50"] > 0


def test_killed_while_it_is_fitted_it_is_resumed_to_the_same(
    whole: Path, data: Path, boxes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(svms, "fit", killed)
        with pytest.raises(KeyboardInterrupt):
            train(data, proposals=boxes, recipe=recipe(), out=tmp_path / "run", console=quiet())
    train(resume=tmp_path / "run", console=quiet())
    one, two = (
        checkpoint.read_checkpoint(folder / "best.safetensors")[0] for folder in (whole, tmp_path / "run")
    )
    assert_close(one, two, rtol=0, atol=0)


def test_on_features_of_imagenet_alone(data: Path, boxes: Path, tmp_path: Path) -> None:
    plain = replace(recipe(), settings=replace(SETTINGS, finetune=False))
    folder = train(data, proposals=boxes, recipe=plain, out=tmp_path / "run", console=quiet())
    network = load_detector(folder, "cpu").network
    untouched = RCNN(2, SETTINGS)
    load_pretrained(untouched)
    assert_close(network.backbone.state_dict(), untouched.backbone.state_dict())
    assert bool(network.fitted)
    assert (folder / "report.html").is_file()
    assert "best at 0" in (folder / "report.html").read_text(encoding="utf-8")
    train(resume=folder, console=quiet())


def test_all_validation_images_are_looked_at_once(
    data: Path, boxes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_at, evaluate = [], results.evaluate

    def counted(detector: Any, dataset: Any, **options: Any) -> Any:
        looked_at.append((len(dataset), bool(detector.network.fitted)))
        return evaluate(detector, dataset, **options)

    monkeypatch.setattr(results, "evaluate", counted)
    monkeypatch.setattr(validation, "evaluate_shares", counted)
    short = replace(recipe(), train=replace(recipe().train, eval_every=1.0))
    folder = train(data, val=data, proposals=boxes, recipe=short, out=tmp_path / "run", console=quiet())
    assert looked_at == [(1, False), (8, True)]
    in_the_loop = checkpoint.read_metadata(folder / "last.safetensors")["train_state"]["seconds"]
    assert load_detector(folder, "cpu").info["training_seconds"] > in_the_loop


def test_the_report_can_be_written_again(whole: Path) -> None:
    (whole / "report.html").unlink()
    assert rewrite_report(whole, quiet()).is_file()


def test_evaluate_and_predict(
    whole: Path, data: Path, boxes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = CliRunner().invoke(app, ["evaluate", str(whole), str(data), "--proposals", str(boxes)])
    assert done.exit_code == 0, done.output
    assert "8 images" in done.output
    asked = []

    def search(image: object, settings: object) -> npt.NDArray[np.float32]:
        asked.append(settings)
        return np.array([[0, 0, 20, 20], [20, 20, 50, 50]], np.float32)

    monkeypatch.setattr(predict_module, "selective_search", search)
    image = next(data.parent.rglob("*.png"))
    done = CliRunner().invoke(app, ["predict", str(whole), str(image), "--out", str(tmp_path / "found")])
    assert done.exit_code == 0, done.output
    assert asked == [SETTINGS.search]
    assert (tmp_path / "found" / "predictions.json").is_file()


def test_proposals_for_a_model_that_makes_its_own_are_refused(
    data: Path, boxes: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="faster_rcnn generates its own: remove it"):
        train(data, proposals=boxes, recipe=tiny_recipe("faster_rcnn"), out=tmp_path / "r", console=quiet())


def test_without_sklearn_it_does_not_begin(
    data: Path, boxes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing() -> None:
        raise ValueError("no scikit-learn")

    monkeypatch.setattr(svms, "require_sklearn", missing)
    monkeypatch.setattr(schemes, "Trainer", None)
    with pytest.raises(ValueError, match="no scikit-learn"):
        train(data, proposals=boxes, recipe=recipe(), out=tmp_path / "r", console=quiet())
