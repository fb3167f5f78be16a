"""Recipes: everything a training run is made of, as one TOML file checked into frozen dataclasses.

A recipe names its ``architecture`` and has the tables ``[model] [transform] [augment] [train]``; what it
leaves out keeps its default. TOML has no null: the text ``"none"`` stands for None.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tomli_w

from rcnn.config import did_you_mean, override_tables, parse_assignments, require_trust, to_plain
from rcnn.io.packaged import packaged
from rcnn.io.renamed import current_settings, stored_settings

if TYPE_CHECKING:
    from rcnn.data.augment import Augment
    from rcnn.training.settings import TrainSettings
    from rcnn.transform import Transform

RECIPE = "recipe.toml"
"""What it is called in a run folder."""


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
    # Imported here: recipes can be listed without torch.
    from rcnn.data.augment import Augment
    from rcnn.models import model_class
    from rcnn.training.settings import TrainSettings
    from rcnn.transform import Transform

    return Recipe(model, model_class(model).Settings(), Transform(), Augment(), TrainSettings())


def named_recipes() -> dict[str, Path]:
    """The recipes that come with the package: name to file."""
    return {path.stem: path for path in sorted(packaged("recipes").glob("*.toml"))}


def recipe_summaries() -> dict[str, tuple[str, str]]:
    """The recipes that come with the package: name to model and backbone, read without torch."""
    documents = {name: _read(file) for name, file in named_recipes().items()}
    return {name: (d["architecture"], d["model"]["backbone"]["name"]) for name, d in documents.items()}


def load_recipe(path: str | Path, trust: bool | Iterable[str] = ()) -> Recipe:
    """Read a recipe: a TOML file, or the name of one that comes with the package.

    Args:
        path: of the file, or the name. Settings that have another name by now give a ``FutureWarning``.
        trust: packages whose code the file may name by dotted path; modules that are imported already need
            not be named; True: any package.

    Raises:
        FileNotFoundError: neither a file nor a known name.
        ValueError: not TOML, an unknown key, a wrong type, or code that is not trusted; the message names
            file and key.
    """
    named = named_recipes()
    file = named.get(str(path), Path(path))
    if not file.is_file():
        raise FileNotFoundError(
            f"{path}: no such recipe file; {did_you_mean(str(path), named)}recipes known by name: "
            f"{', '.join(named) or 'none'}"
        )
    document = _read(file)
    require_trust(document, str(file), trust)
    return _checked(file, document, warn=True)


def load_run_recipe(folder: Path) -> Recipe:
    """The recipe of a run folder.

    Its code is trusted, since its user named it, and it may be one of an earlier rcnn.

    Raises:
        ValueError: as :func:`load_recipe`.
        OSError: it cannot be read.
    """
    file = folder / RECIPE
    return _checked(file, stored_settings(_read(file)), warn=False)


def _read(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except RecursionError as error:
        raise ValueError(f"{file}: not a TOML file: its values are nested too deeply") from error
    except ValueError as error:  # of UTF-8, of TOML, of integers of thousands of digits
        raise ValueError(f"{file}: not a TOML file: {error}") from error


def _checked(file: Path, document: Mapping[str, Any], *, warn: bool) -> Recipe:
    try:
        model = document.get("architecture")
        if not isinstance(model, str):
            raise ValueError(f'expected a line like: architecture = "mask_rcnn"; got {model!r}')
        tables = {key: value for key, value in document.items() if key != "architecture"}
        return _updated(default_recipe(model), tables, warn=warn)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error


def dump_recipe(recipe: Recipe) -> str:
    """The recipe as TOML, complete; :func:`load_recipe` gives an equal one back."""
    text = tomli_w.dumps(recipe_tables(recipe))
    # The writer gives every item of a list its own line; only inside lists are lines indented.
    text = re.sub(r",\n *\]", "]", re.sub(r"\[\n +", "[", text))
    return re.sub(r",\n +", ", ", text)


def with_settings(recipe: Recipe, assignments: Sequence[str]) -> Recipe:
    """The recipe with some settings changed, each given as ``table.key=value`` (a TOML value or bare text).

    Raises:
        ValueError: no ``=``, an unknown key (the nearest valid one is named), or a value of a wrong type.
    """
    return _updated(recipe, parse_assignments(assignments))


def recipe_tables(recipe: Recipe) -> dict[str, Any]:
    """The recipe as its file has it: plain data in tables, complete."""
    tables = {name: to_plain(value) for name, value in _tables(recipe).items()}
    return {"architecture": recipe.model, **tables}


def _tables(recipe: Recipe) -> dict[str, Any]:
    return {
        "model": recipe.settings,
        "transform": recipe.transform,
        "augment": recipe.augment,
        "train": recipe.train,
    }


def _updated(recipe: Recipe, document: Mapping[str, Any], *, warn: bool = True) -> Recipe:
    """The recipe with the tables of ``document`` laid over it."""
    if "architecture" in document:
        raise ValueError("architecture cannot be changed by a setting: choose the model or another recipe")
    tables = override_tables(_tables(recipe), current_settings(document, warn=warn))
    return Recipe(recipe.model, tables["model"], tables["transform"], tables["augment"], tables["train"])
