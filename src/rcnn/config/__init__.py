"""What a user types or a file says: objects by dotted path, and settings laid over frozen dataclasses.

TOML has no null: the text ``"none"`` stands for None.
"""

from __future__ import annotations

import difflib
import json
import re
import reprlib
import sys
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, fields, is_dataclass, replace
from importlib import import_module
from pathlib import Path
from types import NoneType
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError

T = TypeVar("T")
NONE = "none"
SHOWN = 80  # characters of a wrong value in a message
EVERY_PACKAGE = "all"

_DOTTED_PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")
_PREFIXES = ("timm:",)  # names of other programs' models, which look alike and run no code of a user's


def nearest_names(name: str, known: Iterable[str], *, number: int = 1, cutoff: float = 0.6) -> list[str]:
    """Those of the known names that ``name`` may be a misspelling of, the nearest first.

    Args:
        name: what a user typed; upper and lower case count as equal.
        known: the names that there are.
        number: how many names to return at most.
        cutoff: 0 to 1, how alike two names have to be; 1 is equal.
    """
    by_key = {one.casefold(): one for one in known}
    return [by_key[key] for key in difflib.get_close_matches(name.casefold(), by_key, number, cutoff)]


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The start of an advice on a misspelt name, ``did you mean nuclei? ``, empty where none is near."""
    nearest = nearest_names(name, known)
    return f"did you mean {nearest[0]}? " if nearest else ""


def is_dotted_path(value: object) -> bool:
    """Whether a value names a Python object as ``my_package.nets:build``."""
    return (
        isinstance(value, str)
        and _DOTTED_PATH.fullmatch(value) is not None
        and not value.startswith(_PREFIXES)
    )


def resolve(path: str) -> Any:
    """The object that a dotted path names: ``my_package.nets:build``.

    Raises:
        ValueError: no such module or object; it names what was not found, what there is, and what to do.
    """
    module_name, _, name = path.partition(":")
    if not is_dotted_path(path):
        raise ValueError(
            f"{path!r} is not a dotted path; expected module:name, such as my_package.nets:build"
        )
    try:
        module = import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise  # the module is there, and imports another that is not
        raise ValueError(
            f"{path}: there is no module {error.name}; install its package, or name its folder in PYTHONPATH"
        ) from error
    if not hasattr(module, name):
        public = ", ".join(key for key in vars(module) if not key.startswith("_")) or "nothing"
        raise ValueError(f"{path}: {module_name} has no {name}; it has {public}")
    return getattr(module, name)


def require_trust(values: Any, where: str, trust: bool | Iterable[str] = ()) -> None:
    """Refuse dotted paths in what a file says, unless their modules are imported already or trusted.

    Importing runs code, so a file must not decide what is imported.

    Args:
        values: plain data as JSON or TOML has it; every text in it is looked at.
        where: the file, for the message.
        trust: packages or modules that the caller allows, with all modules below them; True, or ``all`` among
            them: every one but Python's own.

    Raises:
        ValueError: a path that is neither imported nor trusted, or one of Python's standard library.
    """
    trusted = () if isinstance(trust, bool) else tuple(trust)
    for path in _dotted_paths(values):
        module = path.partition(":")[0]
        root = module.partition(".")[0]
        allowed = trust is True or module in sys.modules
        allowed = allowed or any(
            name == EVERY_PACKAGE or f"{module}.".startswith(f"{name}.") for name in trusted
        )
        if not allowed or root in sys.stdlib_module_names:
            raise ValueError(
                f"{where}: it names {path}, and code is never imported because a file says so; if you trust "
                f'it, import {module} first, or give --trust {root} (in Python: trust=["{root}"])'
            )


def _dotted_paths(values: Any) -> Iterator[str]:
    if isinstance(values, Mapping):
        values = list(values.values())
    if isinstance(values, list | tuple):
        for value in values:
            yield from _dotted_paths(value)
    elif is_dotted_path(values):
        yield values


def parse_assignments(assignments: Sequence[str]) -> dict[str, Any]:
    """Nested tables from settings that are each given as ``table.key=value`` (a TOML value or bare text).

    Raises:
        ValueError: no ``=``.
    """
    # All at once: what belongs together, such as the two lists of a cascade, may come one by one.
    document: dict[str, Any] = {}
    for assignment in assignments:
        document = _merged(document, _document(assignment))
    return document


def override_tables(tables: Mapping[str, Any], document: Mapping[str, Any]) -> dict[str, Any]:
    """Frozen dataclasses, each under the name of its table, with the tables of ``document`` laid over them.

    Raises:
        ValueError: an unknown table or key (the nearest valid one is named), or a value of a wrong type.
    """
    known = setting_keys(tables)
    changed = dict(tables)
    for name, values in document.items():
        if name not in tables:
            raise _unknown(name, known)
        changed[name] = _built(tables[name], values, name, known)
    return changed


def setting_keys(tables: Mapping[str, Any]) -> list[str]:
    """Every table and every dotted key of some tables of settings."""
    return [*tables, *(key for name, table in tables.items() for key in _keys(type(table), name))]


def apply_assignments(base: T, assignments: Sequence[str], where: str) -> T:
    """A frozen dataclass with some settings changed, each given as ``key=value``.

    Raises:
        ValueError: no ``=``, an unknown key, or a value of a wrong type.
    """
    return build_settings(base, parse_assignments(assignments), where)


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


def check_fields(
    values: Mapping[str, Any], hints: Mapping[str, Any], where: str, *, required: Sequence[str] = ()
) -> None:
    """Check the plain values of a file by type; those without a type are left alone.

    Args:
        values: as JSON or TOML has them.
        hints: the type of each value that is read, by name.
        where: the file, for messages.
        required: the names that have to be there.

    Raises:
        ValueError: a name is not there, or its value of another type.
    """
    missing = [name for name in required if name not in values]
    if missing:
        raise ValueError(f"{where}: its metadata lacks {', '.join(missing)}")
    for name in hints.keys() & values.keys():
        _checked(values[name], hints[name], f"{where}: {name}")


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


def _merged(below: Any, above: Any) -> Any:
    """Nested tables, of which the later ones win."""
    if not (isinstance(below, Mapping) and isinstance(above, Mapping)):
        return above
    return {**below, **{key: _merged(below.get(key), value) for key, value in above.items()}}


def _document(assignment: str) -> Any:
    """Nested tables from ``table.key=value``."""
    key, equals, text = assignment.partition("=")
    if not equals:
        raise ValueError(f"{assignment!r} is not a setting; expected key=value, for example train.lr=0.01")
    document: Any = _value(text.strip())
    for part in reversed(key.strip().split(".")):
        document = {part: document}
    return document


def _built(base: T, values: Any, where: str, known: Sequence[str]) -> T:
    if not isinstance(values, Mapping):
        raise ValueError(f"{where}: got {_shortened(values)}, expected a table of settings")
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
        plain = ConfigDict(strict=True, allow_inf_nan=False)
        return TypeAdapter(hint, config=plain).validate_json(text)
    except (ValidationError, ValueError, RecursionError) as error:
        got = f"{_shortened(value)} ({type(value).__name__})"
        suggestion = did_you_mean(value, _choices(hint)) if isinstance(value, str) else ""
        raise ValueError(f"{key}: got {got}, {suggestion}expected {_described(hint)}") from error


def _shortened(value: Any) -> str:
    """A value as messages show it."""
    text = reprlib.repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"


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
    words = nearest_names(word, [k.rpartition(".")[2] for k in known])
    alike = [k for k in known if k.rpartition(".")[2] in words]
    nearest = nearest_names(key, alike, cutoff=0.0)
    hint = (
        f"did you mean {nearest[0]}?" if nearest else f"expected one of: {', '.join(_siblings(key, known))}"
    )
    return ValueError(f"{key}: no such setting; {hint}")


def _siblings(key: str, known: Sequence[str]) -> list[str]:
    table = key.rpartition(".")[0]
    return [k for k in known if k.rpartition(".")[0] == table]


def _choices(hint: Any) -> list[str]:
    """The texts that a type allows, where it lists them."""
    arguments = get_args(hint)
    if get_origin(hint) is Literal:
        return [value for value in arguments if isinstance(value, str)]
    return [text for argument in arguments for text in _choices(argument)]


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
    except (ValueError, RecursionError):  # no TOML, or beyond what its parser reads
        return text
