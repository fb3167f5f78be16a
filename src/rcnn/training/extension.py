"""A run that gets another length: a finished one goes on, with its schedule spread over the new length."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from rcnn.io import checkpoint
from rcnn.io.atomic import write_atomically
from rcnn.training.recipe import RECIPE, dump_recipe, load_run_recipe
from rcnn.training.run_folder import LAST, read_run
from rcnn.training.schemes import scheme_of


def extend_run(folder: Path, *, minutes: float | None = None, epochs: float | None = None) -> str:
    """Give a run a new length in all; training then goes on from where it is.

    The learning rate is that of the same progress in a run of the new length: after a cosine that had fallen
    to zero it rises again.

    Args:
        folder: of the run, which nothing else writes to.
        minutes: the new training time in all, of a run by the clock.
        epochs: the new number of epochs in all, of a run by epochs.

    Returns:
        A line that says what changed.

    Raises:
        ValueError: a length of the other kind, or one that is done already; a scheme that cannot be extended.
        OSError: the folder cannot be written.
    """
    recipe, info = load_run_recipe(folder), read_run(folder)
    train = recipe.train
    unit, new = ("minutes", minutes) if minutes is not None else ("epochs", epochs)
    old = getattr(train, unit)
    if old is None or new is None:
        other = "epochs" if unit == "minutes" else "minutes"
        raise ValueError(
            f"{folder}: its length is {getattr(train, other):g} {other}: give --{other}, not --{unit}"
        )
    if not scheme_of(recipe).extends:
        raise ValueError(
            f"{folder}: alternating training divides its length among four steps, one after the other, and "
            "cannot be extended: start a new run"
        )
    metadata = checkpoint.read_metadata(folder / LAST) if (folder / LAST).is_file() else {}
    state: dict[str, Any] = metadata.get("train_state", {})
    done = _done(state, unit, train.batch_size, info)
    if not new > done:
        raise ValueError(
            f"{folder}: it has trained for {done:g} {unit}: give its length in all, --{unit} above {done:g}"
        )
    if state:
        tensors, metadata = checkpoint.read_checkpoint(folder / LAST)
        # Progress is a fraction of the length; evaluations come at fractions.
        state |= {"next_eval": state["next_eval"] * old / new, "stale": 0}
        checkpoint.write_checkpoint(folder / LAST, tensors, {**metadata, "train_state": state})
    length: dict[str, Any] = {unit: float(new)}
    recipe = replace(recipe, train=replace(train, **length))
    write_atomically(folder / RECIPE, dump_recipe(recipe).encode())
    return f"length: {new:g} {unit} in all, {old:g} before"


def _done(state: Mapping[str, Any], unit: str, batch_size: int, info: Mapping[str, Any]) -> float:
    """The minutes or epochs that a run has trained."""
    if not state:
        return 0.0
    if unit == "minutes":
        return float(state["seconds"]) / 60
    images = (info.get("split") or info["parts"])["training"]["images"]
    return float(state["iteration"]) * batch_size / float(images)
