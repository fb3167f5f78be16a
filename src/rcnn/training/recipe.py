"""Recipes: everything a training run is made of, as one TOML file checked into frozen dataclasses.

A recipe names its ``architecture`` and has the tables ``[model] [transform] [augment] [train]``; what it
leaves out keeps its default. TOML has no null: the text ``"none"`` stands for None.
"""

from __future__ import annotations

import difflib
import json
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass, replace
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import tomli_w
from pydantic import ConfigDict, TypeAdapter, ValidationError

from rcnn.io.packaged import packaged
from rcnn.io.renamed import current_settings

if TYPE_CHECKING:
    from rcnn.data.augment import Augment
    from rcnn.training.trainer import TrainSettings
    from rcnn.transform import Transform

T = TypeVar("T")
NONE = "none"


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
    # All at once: what belongs together, such as the two lists of a cascade, may come one by one.
    document: dict[str, Any] = {}
    for assignment in assignments:
        document = _merged(document, _document(assignment))
    return _updated(recipe, document)


def with_model_settings(
    model: str, settings: Any, transform: Transform, assignments: Sequence[str]
) -> tuple[Any, Transform]:
    """A trained model's settings and transform with some changed; raises as :func:`with_settings`."""
    for assignment in assignments:
        if assignment.partition(".")[0].strip() not in ("model", "transform"):
            raise ValueError(f"--set {assignment}: a trained model has the tables model and transform")
    changed = replace(default_recipe(model), settings=settings, transform=transform)
    changed = with_settings(changed, assignments)
    return changed.settings, changed.transform


def apply_assignments(base: T, assignments: Sequence[str], where: str) -> T:
    """A frozen dataclass with some settings changed, each given as ``key=value``; raises as with_settings."""
    document: dict[str, Any] = {}
    for assignment in assignments:
        document = _merged(document, _document(assignment))
    return build_settings(base, document, where)


def _merged(below: Any, above: Any) -> Any:
    """Nested tables, of which the later ones win."""
    if not (isinstance(below, Mapping) and isinstance(above, Mapping)):
        return above
    return {**below, **{key: _merged(below.get(key), value) for key, value in above.items()}}


def _document(assignment: str) -> Any:
    """Nested tables from ``table.key=value``."""
    key, equals, text = assignment.partition("=")
    if not equals:
        raise ValueError(f"{assignment!r} is no setting; expected key=value, for example train.lr=0.01")
    document: Any = _value(text.strip())
    for part in reversed(key.strip().split(".")):
        document = {part: document}
    return document


def build_settings(base: T, values: Mapping[str, Any], where: str) -> T:
    """A frozen dataclass with some fields replaced by ``values``, which are checked.

    Args:
        base: the instance whose fields are kept where ``values`` has none, nested dataclasses included.
        values: plain data as TOML or JSON has it; lists for tuples, tables for nested dataclasses.
        where: what the instance is called in messages, for example ``transform``.

    Raises:
        ValueError: an unknown key or a wrong type; the message names the key, what was got and expected.
    """
    return _built(base, values, where, list(_keys(type(base), where)))


def to_plain(settings: Any) -> dict[str, Any]:
    """A dataclass as TOML and JSON can hold it: None is left out where it is the default, else ``"none"``."""
    values: dict[str, Any] = {}
    for spec in _init_fields(type(settings)):
        value = getattr(settings, spec.name)
        if value is None and _default(spec) is None:
            continue
        values[spec.name] = _plain_value(value)
    return values


def _plain_value(value: Any) -> Any:
    if is_dataclass(value):
        return to_plain(value)
    if isinstance(value, tuple | list):
        return [_plain_value(v) for v in value]
    if isinstance(value, Path):
        return str(value)
    return NONE if value is None else value


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
    document = current_settings(document)
    tables = _tables(recipe)
    known = [*tables, *(key for name, table in tables.items() for key in _keys(type(table), name))]
    for name, values in document.items():
        if name == "architecture":
            raise ValueError(
                "architecture cannot be changed by a setting: choose the model or another recipe"
            )
        if name not in tables:
            raise _unknown(name, known)
        tables[name] = _built(tables[name], values, name, known)
    return Recipe(recipe.model, tables["model"], tables["transform"], tables["augment"], tables["train"])


def _built(base: T, values: Any, where: str, known: Sequence[str]) -> T:
    if not isinstance(values, Mapping):
        raise ValueError(f"{where}: got {values!r}, expected a table of settings")
    hints = get_type_hints(type(base))
    valid = {spec.name for spec in _init_fields(type(base))}
    checked = {}
    for name, value in values.items():
        key = f"{where}.{name}"
        if name not in valid:
            raise _unknown(key, known)
        nested = _nested(hints[name])
        if nested is not None and not _is_none(value, hints[name]):
            checked[name] = _built(getattr(base, name) or nested(), value, key, known)
        else:
            checked[name] = _checked(value, hints[name], key)
    try:
        changed: T = replace(base, **checked)  # type: ignore[type-var]
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    return changed


def _checked(value: Any, hint: Any, key: str) -> Any:
    """The value in the hint's type; strict, but lists become tuples and integers floats."""
    if _is_none(value, hint):
        return None
    try:
        # As JSON, for there strictness allows an array where a tuple is wanted.
        text = json.dumps(value, default=str)
        return TypeAdapter(hint, config=ConfigDict(strict=True)).validate_json(text)
    except ValidationError as error:
        got = f"{value!r} ({type(value).__name__})"
        raise ValueError(f"{key}: got {got}, expected {_described(hint)}") from error


def _is_none(value: Any, hint: Any) -> bool:
    return (value is None or value == NONE) and NoneType in get_args(hint)


def _nested(hint: Any) -> type | None:
    """The dataclass that a field holds, alone or beside None."""
    candidates = [hint, *get_args(hint)]
    return next((c for c in candidates if isinstance(c, type) and is_dataclass(c)), None)


def _keys(cls: Any, where: str) -> Iterator[str]:
    """Every dotted key below ``where``."""
    hints = get_type_hints(cls)
    for spec in _init_fields(cls):
        key = f"{where}.{spec.name}"
        yield key
        nested = _nested(hints[spec.name])
        if nested is not None:
            yield from _keys(nested, key)


def _init_fields(cls: Any) -> list[Field[Any]]:
    return [spec for spec in fields(cls) if spec.init]


def _default(spec: Field[Any]) -> Any:
    return spec.default if spec.default_factory is MISSING else spec.default_factory()


def _unknown(key: str, known: Sequence[str]) -> ValueError:
    """The error for a key that does not exist, with the nearest that does, by its last word first."""
    word = key.rpartition(".")[2]
    words = difflib.get_close_matches(word, [k.rpartition(".")[2] for k in known], n=1)
    alike = [k for k in known if k.rpartition(".")[2] in words]
    nearest = difflib.get_close_matches(key, alike, n=1, cutoff=0.0)
    hint = (
        f"did you mean {nearest[0]}?" if nearest else f"expected one of: {', '.join(_siblings(key, known))}"
    )
    return ValueError(f"{key}: no such setting; {hint}")


def _siblings(key: str, known: Sequence[str]) -> list[str]:
    table = key.rpartition(".")[0]
    return [k for k in known if k.rpartition(".")[0] == table]


def _described(hint: Any) -> str:
    """A type in the words of a settings file."""
    words = {bool: "true or false", int: "an integer", float: "a number", str: "a text", NoneType: '"none"'}
    if hint in words:
        return words[hint]
    arguments = get_args(hint)
    if get_origin(hint) is Literal:
        return "one of " + ", ".join(repr(a) for a in arguments)
    if get_origin(hint) is tuple:
        return _described_list(arguments)
    if arguments:
        return " or ".join(_described(a) for a in arguments)
    return str(getattr(hint, "__name__", hint))


def _described_list(items: tuple[Any, ...]) -> str:
    if len(items) == 2 and items[1] is Ellipsis:
        return f"a list, each item {_described(items[0])}"
    return f"a list of {len(items)}: [{', '.join(_described(i) for i in items)}]"


def _value(text: str) -> Any:
    """A TOML value, or the text itself where it is none (``train.optimizer=sgd`` needs no quotes)."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
