"""A finished run gets another length and goes on."""

from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from typer.testing import CliRunner

from rcnn.cli import app
from rcnn.io import checkpoint
from rcnn.training.recipe import load_run_recipe
from rcnn.training.run import train
from rcnn.training.run_folder import read_history
from tiny import tiny_recipe, tiny_shapes

pytestmark = pytest.mark.usefixtures("no_report")


def run(data: Any = None, **options: Any) -> tuple[Path, str]:
    text = StringIO()
    return train(data, console=Console(file=text, width=300), **options), text.getvalue()


def state_of(folder: Path) -> dict[str, Any]:
    state: dict[str, Any] = checkpoint.read_metadata(folder / "last.safetensors")["train_state"]
    return state


def test_a_run_by_epochs_goes_on_as_one_of_the_new_length(tmp_path: Path) -> None:
    """With a constant learning rate the two ends are the same, bit for bit."""
    data = tiny_shapes(6)
    how = {"schedule": "steps", "steps": (), "warmup": 0.0, "eval_every": 0.5}
    recipe = tiny_recipe("faster_rcnn", epochs=1.0, **how)
    longer = replace(recipe, train=replace(recipe.train, epochs=2.0))
    folder, _ = run(data, recipe=recipe, out=tmp_path / "a")
    half = state_of(folder)["iteration"]
    _, text = run(data, resume=folder, epochs=2)
    assert "length: 2 epochs in all, 1 before" in text
    whole, _ = run(data, recipe=longer, out=tmp_path / "b")
    one, two = (checkpoint.read_checkpoint(f / "last.safetensors")[0] for f in (folder, whole))
    assert [name for name in one if not torch.equal(one[name], two[name])] == []
    assert state_of(folder)["iteration"] == state_of(whole)["iteration"] > half
    assert load_run_recipe(folder).train.epochs == 2.0
    assert [row["iteration"] for row in read_history(folder) if "val/loss" in row][-1] > half


def test_a_run_by_the_clock_trains_for_the_rest(tmp_path: Path) -> None:
    data = tiny_shapes(4)
    folder, _ = run(data, recipe=tiny_recipe("faster_rcnn", minutes=0.01), out=tmp_path / "a")
    before = state_of(folder)
    done = CliRunner().invoke(app, ["train", "--resume", str(folder), "--seed", "1", "--minutes", "0.02"])
    assert "remove --seed" in done.output
    assert "--minutes" not in done.output
    run(data, resume=folder, minutes=0.02)
    after = state_of(folder)
    assert after["iteration"] > before["iteration"]
    assert 1.2 <= after["seconds"] < 6
    assert 0 < after["next_eval"] < 1.6


@pytest.mark.parametrize(
    ("length", "message"),
    [
        ({"minutes": 3}, "its length is 1 epochs: give --epochs, not --minutes"),
        ({"epochs": 1}, "it has trained for 1 epochs: give its length in all, --epochs above 1"),
        ({"epochs": 0.5}, "above 1"),
    ],
)
def test_lengths_that_are_refused(length: Any, message: str, tmp_path: Path) -> None:
    recipe = tiny_recipe("faster_rcnn", epochs=1.0, batch_size=1)
    folder, _ = run(tiny_shapes(3), recipe=recipe, out=tmp_path / "a")
    before = (folder / "last.safetensors").read_bytes()
    with pytest.raises(ValueError, match=message):
        run(tiny_shapes(3), resume=folder, **length)
    assert (folder / "last.safetensors").read_bytes() == before


def test_the_four_steps_are_refused(tmp_path: Path) -> None:
    recipe = tiny_recipe("faster_rcnn")
    folder, _ = run(tiny_shapes(3), recipe=recipe, out=tmp_path / "a")
    text = (folder / "recipe.toml").read_text(encoding="utf-8")
    (folder / "recipe.toml").write_text(text.replace('"joint"', '"alternating"'), encoding="utf-8")
    with pytest.raises(ValueError, match=r"alternating training .* cannot be extended"):
        run(tiny_shapes(3), resume=folder, epochs=5)
