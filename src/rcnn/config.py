"""Objects by dotted path: how a user's own classes and functions are named on a command line or in a file."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from importlib import import_module
from typing import Any

_DOTTED_PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")
_PREFIXES = ("timm:",)  # names of other programs' models, which look alike and run no code of a user's


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
        raise ValueError(f"{path!r} is no dotted path; expected module:name, such as my_package.nets:build")
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


def require_trust(values: Any, where: str, trust: Iterable[str] = ()) -> None:
    """Refuse dotted paths in what a file says, unless their modules are imported already or trusted.

    Importing runs code, so a file must not decide what is imported.

    Args:
        values: plain data as JSON or TOML has it; every text in it is looked at.
        where: the file, for the message.
        trust: packages or modules that the caller allows, with all modules below them.

    Raises:
        ValueError: a path that is neither imported nor trusted, or one of Python's standard library.
    """
    trusted = tuple(trust)
    for path in _dotted_paths(values):
        module = path.partition(":")[0]
        root = module.partition(".")[0]
        allowed = module in sys.modules or any(f"{module}.".startswith(f"{name}.") for name in trusted)
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
