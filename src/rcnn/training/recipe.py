"""Recipes: everything a training run is made of, as one TOML file checked into frozen dataclasses.

A recipe names its ``architecture`` and has the tables ``[model] [transform] [augment] [train]``; what it
leaves out keeps its default. TOML has no null: the text ``"none"`` stands for None.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tomli_w

from rcnn.config import override_tables, parse_assignments, to_plain
from rcnn.io.packaged import packaged
from rcnn.io.renamed import current_settings

if TYPE_CHECKING:
    from rcnn.data.augment import Augment
    from rcnn.training.trainer import TrainSettings
    from rcnn.transform import Transform


@dataclass(frozen=True)
class Recipe:
    """What a run is made of.

    Attributes:
        model: a key of ``rcnn.models.MODELS``; ``architecture`` in the file.
        settings: the model's own settings, ``MODELS[model].Settings``; the table ``[model]``.
        transform: how images become what the network sees.
        augment: the random variations of training.
        train: optimiser, schedule, batches.
    """

    model: str
    settings: Any
    transform: Transform
    augment: Augment
    train: TrainSettings


def default_recipe(model: str) -> Recipe:
    """The recipe of a model with every setting at its default.

    Raises:
        ValueError: no model has this name.
    """
    # Imported here: rcnn.training.trainer reads recipes, and a recipe holds its settings.
    from rcnn.data.augment import Augment
    from rcnn.models import MODELS
    from rcnn.training.trainer import TrainSettings
    from rcnn.transform import Transform

    if model not in MODELS:
        raise ValueError(f"architecture {model!r} is unknown; expected one of: {', '.join(MODELS)}")
    model_class: Any = MODELS[model]
    return Recipe(model, model_class.Settings(), Transform(), Augment(), TrainSettings())


def named_recipes() -> dict[str, Path]:
    """The recipes that come with the package: name to file."""
    return {path.stem: path for path in sorted(packaged("recipes").glob("*.toml"))}


def load_recipe(path: str | Path) -> Recipe:
    """Read a recipe: a TOML file, or the name of one that comes with the package.

    Raises:
        FileNotFoundError: neither a file nor a known name.
        ValueError: not TOML, an unknown key or a wrong type; the message names file and key.
    """
    named = named_recipes()
    file = named.get(str(path), Path(path))
    if not file.is_file():
        raise FileNotFoundError(
            f"{path}: no such recipe file; recipes known by name: {', '.join(named) or 'none'}"
        )
    try:
        document = tomllib.loads(file.read_text(encoding="utf-8"))
        return _recipe(document)
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ValueError(f"{file}: not a TOML file: {error}") from error
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error


def dump_recipe(recipe: Recipe) -> str:
    """The recipe as TOML, complete; :func:`load_recipe` gives an equal one back."""
    tables = {name: to_plain(value) for name, value in _tables(recipe).items()}
    text = tomli_w.dumps({"architecture": recipe.model} | tables)
    # The writer gives every item of a list its own line; only inside lists are lines indented.
    text = re.sub(r",\n *\]", "]", re.sub(r"\[\n +", "[", text))
    return re.sub(r",\n +", ", ", text)


def with_settings(recipe: Recipe, assignments: Sequence[str]) -> Recipe:
    """The recipe with some settings changed, each given as ``table.key=value`` (a TOML value or bare text).

    Raises:
        ValueError: no ``=``, an unknown key (the nearest valid one is named), or a value of a wrong type.
    """
    return _updated(recipe, parse_assignments(assignments))


def _tables(recipe: Recipe) -> dict[str, Any]:
    return {
        "model": recipe.settings,
        "transform": recipe.transform,
        "augment": recipe.augment,
        "train": recipe.train,
    }


def _recipe(document: Mapping[str, Any]) -> Recipe:
    model = document.get("architecture")
    if not isinstance(model, str):
        raise ValueError(f'expected a line like: architecture = "mask_rcnn"; got {model!r}')
    tables = {key: value for key, value in document.items() if key != "architecture"}
    return _updated(default_recipe(model), tables)


def _updated(recipe: Recipe, document: Mapping[str, Any]) -> Recipe:
    """The recipe with the tables of ``document`` laid over it."""
    if "architecture" in document:
        raise ValueError("architecture cannot be changed by a setting: choose the model or another recipe")
    tables = override_tables(_tables(recipe), current_settings(document))
    return Recipe(recipe.model, tables["model"], tables["transform"], tables["augment"], tables["train"])
