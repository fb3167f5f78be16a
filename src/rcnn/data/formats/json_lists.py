"""Long lists in files of JSON, read entry by entry: a file takes the memory of one entry, not of all.

The list is the file's one value, or what a key of its one object holds. What the entries are is the caller's
concern; text that is no JSON is reported as :func:`rcnn.io.json_text.parse_json` reports it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rcnn.data.formats.json_stream import Text
from rcnn.io.json_text import parse_json


class NotJsonError(ValueError):
    """A file's text is no JSON, or has its list twice; the message does not name the file."""


ENCODING = "utf-8-sig"


def list_entries(path: Path, key: str) -> Iterator[Any]:
    """The entries of a file's list, or of the list that ``key`` of its object holds; none without one.

    Raises:
        NotJsonError: not JSON, or two lists of that name. Entries before the fault have been given by then.
        OSError: the file cannot be read.
    """
    return (value for name, value in _parts(path, key) if name is None)


def value_without_list(path: Path, key: str) -> Any:
    """A file's value with an empty list in place of its list, or of the list that ``key`` holds.

    Raises:
        NotJsonError: as :func:`list_entries`; of a file that is a list, what follows is not looked at.
        OSError: the file cannot be read.
    """
    found: dict[str, Any] = {}
    for name, value in _parts(path, key):
        if name in (WHOLE, LIST):
            return value
        if name is not None:
            found[name] = value
    return found


WHOLE, LIST = "\0value", "\0list"
"""Names of what is no member of an object: a value of another kind, and the beginning of a list."""


def _parts(path: Path, key: str) -> Iterator[tuple[str | None, Any]]:
    """The members of a file's object by name, and the entries of its list with the name None.

    Raises:
        NotJsonError: as :func:`list_entries`.
    """
    try:
        with path.open(encoding=ENCODING) as file:
            text = Text(file)
            yield from _top(text, key)
            if text.peek():
                raise ValueError("something follows its value")
    except (ValueError, RecursionError) as error:
        # Read as a whole, it has a line and a column.
        try:
            parse_json(path.read_bytes().decode(ENCODING))
        except ValueError as fault:
            raise NotJsonError(str(fault)) from fault
        raise NotJsonError(str(error)) from error


def _top(text: Text, key: str) -> Iterator[tuple[str | None, Any]]:
    first = text.peek()
    if first == "[":
        yield LIST, []
        yield from ((None, entry) for entry in text.elements())
    elif first == "{":
        yield from _members(text, key)
    else:
        yield WHOLE, text.value()


def _members(text: Text, key: str) -> Iterator[tuple[str | None, Any]]:
    listed = False
    for name, value in text.members():
        if not isinstance(value, Iterator):
            yield name, value
        elif name != key:
            yield name, list(value)
        elif listed:
            raise ValueError(f"it has {key} twice")
        else:
            listed = True
            yield name, []
            yield from ((None, entry) for entry in value)
