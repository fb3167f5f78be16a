"""``--resume auto``: one command that starts a run, and continues it when it is given again."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rcnn.training.options import TrainOptions
from rcnn.training.recipe import Recipe, dump_recipe
from rcnn.training.run_folder import RUN, read_run

AUTO = "auto"
COMMAND = "command"  # of ``run.json``


def is_auto(options: TrainOptions) -> bool:
    """Whether the run is started or continued, whichever is due; a folder of that name is ``./auto``."""
    return str(options.resume) == AUTO


def command_of(options: TrainOptions) -> dict[str, Any]:
    """What was asked for that decides about the run, as ``run.json`` keeps it; where it trains does not."""
    recipe = options.recipe
    if isinstance(recipe, Recipe):
        recipe = f"sha256 {hashlib.sha256(dump_recipe(recipe).encode()).hexdigest()}"
    named = {
        "model": options.model, "backbone": options.backbone,
        "recipe": None if recipe is None else str(recipe),
        "minutes": options.minutes, "epochs": options.epochs, "seed": options.seed,
        "set": list(options.settings), "skip-bad": options.skip_bad,
        "from": None if options.start is None else str(options.start), "rename": dict(options.rename),
        "keep-classes": options.keep_classes, "freeze": list(options.freeze),
    }  # fmt: skip
    return {**options.sources.to_json(), **named}


def run_to_continue(options: TrainOptions) -> Path | None:
    """The run that this command started before; None if it is to start one.

    Raises:
        ValueError: no folder is named, or its run was started by another command, which names the difference.
    """
    if options.out is None:
        raise ValueError("--resume auto continues what is in the run folder: name one with --out")
    folder = Path(options.out)
    if not (folder / RUN).is_file():
        return None
    kept: Mapping[str, Any] | None = read_run(folder).get(COMMAND)
    asked = command_of(options)
    for name, value in asked.items():
        if kept is not None and kept.get(name) != value:
            raise ValueError(
                f"{folder}: its run was started with --{name} {_shown(kept.get(name))}, and this command has "
                f"{_shown(value)}: give the same command, continue the run as it is with --resume {folder}, "
                "or choose another --out"
            )
    return folder


def _shown(value: Any) -> str:
    return "nothing" if value in (None, [], {}, False) else str(value)
