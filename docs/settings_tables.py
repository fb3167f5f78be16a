"""Writes the tables of settings in docs/recipes.md from the dataclasses that recipes are checked into.

python docs/settings_tables.py
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterator
from dataclasses import Field, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from rcnn.config import NONE
from rcnn.data.augment import Augment
from rcnn.models import MODELS
from rcnn.training.settings import TrainSettings
from rcnn.transform import Transform

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "recipes.md"
BEGIN, END = (
    "<!-- tables of settings: python docs/settings_tables.py -->",
    "<!-- end of the tables of settings -->",
)
_ROLE = re.compile(r":\w+:`~?(?:[\w.]+\.)?(\w+)`")


def tables() -> str:
    """A section per dataclass: the tables it is used for, and a row per setting."""
    places = _places()
    return "\n\n".join(_section(kind, places[kind], places) for kind in places)


def page() -> str:
    """The page with the tables as they should be."""
    text = PAGE.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{tables()}\n\n{END}{after}"


def _places() -> dict[type, dict[str, list[str]]]:
    """Every dataclass of a recipe: where it is used, and by which models (none: by all)."""
    found: dict[type, dict[str, list[str]]] = {}
    for name, kind in (("train", TrainSettings), ("augment", Augment), ("transform", Transform)):
        for place, inner in _nested(kind, name):
            found[inner] = {place: []}
    for model in MODELS:
        for place, kind in _nested(MODELS[model].Settings, "model"):
            found.setdefault(kind, {}).setdefault(place, []).append(model)
    return found


def _nested(kind: type, place: str) -> Iterator[tuple[str, type]]:
    """A dataclass of settings and those in it, each with its place."""
    yield place, kind
    for field in fields(kind):
        inner = _table_of(kind, field)
        if inner is not None:
            yield from _nested(inner, f"{place}.{field.name}")


def _table_of(kind: type, field: Field[Any]) -> type | None:
    """The dataclass of a field that is a table; None for a value."""
    hint = get_type_hints(kind)[field.name]
    return next((one for one in (hint, *get_args(hint)) if isinstance(one, type) and is_dataclass(one)), None)


def _section(kind: type, places: dict[str, list[str]], everything: dict[type, Any]) -> str:
    """Heading, what the table is, other places and defaults, and the rows."""
    first = next(iter(places))
    about = _text((inspect.getdoc(kind) or "").partition("\n\n")[0])
    models = sorted({model for names in places.values() for model in names})
    heading = f"### `[{first}]`" if first != "model" else f"### `[model]` of {', '.join(models)}"
    lines = [heading, "", f"{about} Class: `{kind.__module__}.{kind.__name__}`."]
    others = [f"`[{place}]`" for place in places if place != first]
    if others:
        lines += ["", f"The same settings are in {', '.join(others)}."]
    different = list(_other_defaults(kind, places))
    if different:
        lines += ["", f"Other defaults: {'; '.join(different)}."]
    lines += ["", "| setting | type | default | meaning |", "|---|---|---|---|"]
    meanings, hints, defaults = attributes(kind), get_type_hints(kind), kind()
    for field in fields(kind):
        inner = _table_of(kind, field)
        if inner is None:
            what, default = _type(hints[field.name]), f"`{_value(getattr(defaults, field.name))}`"
        else:
            what, default = (
                f"[table](#{_anchor(inner, everything)})",
                _presence(getattr(defaults, field.name)),
            )
        lines.append(f"| `{first}.{field.name}` | {what} | {default} | {meanings[field.name]} |")
    return "\n".join(lines)


def _other_defaults(kind: type, places: dict[str, list[str]]) -> Iterator[str]:
    """Where a model has other defaults than the dataclass: key, value and models."""
    found: dict[str, list[str]] = {}
    standard = kind()
    for place, models in places.items():
        for model in models:
            used: Any = {"model": MODELS[model].Settings()}["model"]
            for step in place.split(".")[1:]:
                used = getattr(used, step, None)
            for field in fields(kind) if used is not None else ():
                value = getattr(used, field.name)
                if _table_of(kind, field) is None and value != getattr(standard, field.name):
                    found.setdefault(f"`{place}.{field.name}` `{_value(value)}`", []).append(model)
    yield from (f"{text} ({', '.join(models)})" for text, models in found.items())


def attributes(kind: type) -> dict[str, str]:
    """The meaning of each field, from the section ``Attributes`` of the docstring.

    Raises:
        ValueError: a field without one.
    """
    _, _, section = (inspect.getdoc(kind) or "").partition("Attributes:\n")
    section = re.split(r"\n\n(?=\S)", section)[0]
    found = {name: _text(said) for name, said in re.findall(r"^    (\w+): (.*(?:\n {8}.*)*)", section, re.M)}
    missing = [field.name for field in fields(kind) if field.name not in found]
    if missing:
        raise ValueError(f"{kind.__name__}: its docstring does not say what {', '.join(missing)} means")
    return found


def _text(docstring: str) -> str:
    """Markdown of a piece of a docstring, on one line of a table."""
    text = _ROLE.sub(r"`\1`", " ".join(docstring.split())).replace("``", "`").replace("|", "\\|")
    text = re.sub(r"\b(None|True|False)\b", lambda word: f"`{word[0].lower()}`", text)
    return text[:1].upper() + text[1:] if re.match(r"[a-z]{2,}\b|a ", text) else text


def _type(hint: Any) -> str:
    """A type in words: ``float or none``, or the texts that are allowed."""
    options = get_args(hint)
    if type(None) in options:
        return " or ".join([*(_type(one) for one in options if one is not type(None)), NONE])
    if get_origin(hint) is Literal:
        return ", ".join(f"`{_value(one)}`" for one in options)
    if get_origin(hint) is tuple:
        inner = _type(options[0])
        return f"list of {inner}" if options[-1] is Ellipsis else f"{len(options)} of {inner}"
    return {"str": "text", "int": "integer", "float": "number", "bool": "boolean"}[hint.__name__]


def _value(value: Any) -> str:
    """A default as it is written after ``--set KEY=``."""
    if value is None:
        return NONE
    if isinstance(value, bool | str):
        return str(value).lower() if isinstance(value, bool) else value
    if isinstance(value, tuple):
        return f"[{', '.join(_value(one) for one in value)}]"
    return f"{value:.6g}" if isinstance(value, float) else json.dumps(value)


def _presence(value: Any) -> str:
    return f"`{NONE}`" if value is None else "a table"


def _anchor(kind: type, everything: dict[type, Any]) -> str:
    """The address of a section, as Markdown makes it of the heading."""
    return next(iter(everything[kind])).replace(".", "")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
