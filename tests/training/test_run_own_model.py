"""A model of the user's own, named by its dotted path: trained, saved, resumed, trusted where it may be."""

import sys
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

import rcnn
from rcnn.loading import load_detector
from rcnn.training.recipe import dump_recipe, load_recipe
from rcnn.training.run import rewrite_report, train
from tiny import tiny_recipe, tiny_shapes

OWN = """
import rcnn
from rcnn.training.callbacks import TrainEvent

class Mine(rcnn.MaskRCNN):
    pass

class Stop:
    def on_step(self, event: TrainEvent) -> None:
        if event.iteration == 1:
            raise RuntimeError("stop")
"""
MODEL = "own_nets:Mine"


pytestmark = pytest.mark.usefixtures("no_report")


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a module that is found, and not imported yet."""
    (tmp_path / "own_nets.py").write_text(OWN, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    forget(monkeypatch)
    return tmp_path


def forget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "own_nets", raising=False)


def quiet() -> Console:
    return Console(file=StringIO(), width=200)


def test_it_trains_saves_and_resumes(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its module is imported because the run's own folder names it, in a process that has not imported it."""
    data = tiny_shapes(4).write(own / "data")
    val = tiny_shapes(1, first=9).write(own / "val")
    recipe = replace(tiny_recipe(), model=MODEL)
    out = own / "run"
    with pytest.raises(ValueError, match=r"own_nets\.Stop\.on_step failed after 1 steps"):
        train(data, val=val, recipe=recipe, out=out, console=quiet(), callbacks=["own_nets:Stop"])
    assert load_recipe(out / "recipe.toml").model == MODEL, "imported already"
    forget(monkeypatch)
    with pytest.raises(ValueError, match=r"recipe\.toml: it names own_nets:Mine.*trust"):
        load_recipe(out / "recipe.toml")
    assert load_recipe(out / "recipe.toml", ["own_nets"]).model == MODEL
    forget(monkeypatch)
    with pytest.raises(ValueError, match=r"safetensors: it names own_nets:Mine"):
        load_detector(out, "cpu")
    train(resume=out, console=quiet())
    network = load_detector(out, "cpu").network
    assert type(network).__name__ == "Mine"
    assert isinstance(network, rcnn.MaskRCNN)
    forget(monkeypatch)
    assert rewrite_report(out, quiet()).is_file()


def test_it_is_planned_for(own: Path) -> None:
    """Light settings, checks and the way of training come from the model that it extends."""
    small = [
        "train.batch_size=1", "train.workers=0", "augment.crop=64", "model.box.channels=16",
        "model.fpn.channels=16", "model.rpn.channels=16", "model.mask.channels=8",
    ]  # fmt: skip
    out = train(
        tiny_shapes(2), val=tiny_shapes(1), model=MODEL, epochs=0.5, settings=small, out=own / "run",
        console=quiet(),
    )  # fmt: skip
    recipe = load_recipe(out / "recipe.toml")
    assert recipe.model == MODEL
    assert recipe.settings.mask.convs == 2, "a light head"
    boxes = replace(tiny_shapes(2), records=[replace(r, masks=None) for r in tiny_shapes(2).records])
    with pytest.raises(ValueError, match="objects without masks, which own_nets:Mine needs"):
        train(boxes, val=boxes, model=MODEL, epochs=1, out=own / "other", console=quiet())


def test_a_recipe_file_is_not_trusted(own: Path) -> None:
    file = own / "theirs.toml"
    text = dump_recipe(tiny_recipe()).replace('"mask_rcnn"', f'"{MODEL}"', 1)
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=r"theirs\.toml: it names own_nets:Mine"):
        train(tiny_shapes(2), recipe=file, out=own / "run", console=quiet())
    assert "own_nets" not in sys.modules
    assert not (own / "run").exists()
    out = train(tiny_shapes(2), recipe=file, trust=["own_nets"], out=own / "run", console=quiet())
    assert load_recipe(out / "recipe.toml").model == MODEL


def test_the_old_name_of_backbone(tmp_path: Path) -> None:
    with (
        pytest.warns(FutureWarning, match="trunk is now called backbone"),
        pytest.raises(ValueError, match="backbone 'nothing' is unknown"),
    ):
        train(tiny_shapes(2), trunk="nothing", out=tmp_path / "run", console=quiet())
