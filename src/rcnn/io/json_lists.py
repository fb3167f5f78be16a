"""Long lists in files of JSON, read entry by entry: a file takes the memory of one entry, not of all.

The list is the file's one value, or what a key of its one object holds. What the entries are is the caller's
concern; text that is no JSON is reported as :func:`rcnn.io.json_text.parse_json` reports it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from rcnn.io.json_text import parse_json


class NotJsonError(ValueError):
    """A file's text is no JSON, or has its list twice; the message does not name the file."""


CHUNK = 2**20  # characters that are read at once
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
            text = _Text(file)
            yield from _top(text, key)
            if text.following():
                raise ValueError("something follows its value")
    except (ValueError, RecursionError) as error:
        # Read as a whole, it has a line and a column.
        try:
            parse_json(path.read_bytes().decode(ENCODING))
        except ValueError as fault:
            raise NotJsonError(str(fault)) from fault
        raise NotJsonError(str(error)) from error


def _top(text: _Text, key: str) -> Iterator[tuple[str | None, Any]]:
    first = text.following()
    if first == "[":
        yield LIST, []
        yield from ((None, entry) for entry in _entries(text))
    elif first == "{":
        yield from _members(text, key)
    else:
        yield WHOLE, text.value()


def _members(text: _Text, key: str) -> Iterator[tuple[str | None, Any]]:
    listed = False
    for _ in _separated(text, "}"):
        if text.following() != '"':
            raise ValueError("expected a name in quotes")
        name = text.value()
        text.skip(":")
        if name == key and text.following() == "[":
            if listed:
                raise ValueError(f"it has {key} twice")
            listed = True
            yield name, []
            yield from ((None, entry) for entry in _entries(text))
        else:
            yield name, text.value()


def _entries(text: _Text) -> Iterator[Any]:
    return (text.value() for _ in _separated(text, "]"))


def _separated(text: _Text, end: str) -> Iterator[None]:
    """Once before each of the parts of a list or an object, which are separated by commas."""
    text.skip(text.following())
    if text.following() != end:
        yield
        while text.following() != end:
            text.skip(",")
            yield
    text.skip(end)


class _Text:
    """The text of a file, of which a part is held."""

    def __init__(self, file: TextIO) -> None:
        self.file, self.held, self.place, self.at_end = file, "", 0, False
        self.decoder = json.JSONDecoder()

    def _more(self) -> bool:
        """Hold at least twice as much as is left, so that a long value is not tried again too often."""
        left = self.held[self.place :]
        added = "" if self.at_end else self.file.read(max(CHUNK, len(left)))
        self.held, self.place, self.at_end = left + added, 0, not added
        return bool(added)

    def following(self) -> str:
        """The next character that is no space, without going beyond it; empty at the end."""
        while True:
            for place in range(self.place, len(self.held)):
                if self.held[place] not in " \t\n\r":
                    self.place = place
                    return self.held[place]
            self.place = len(self.held)
            if not self._more():
                return ""

    def skip(self, expected: str) -> None:
        """Go beyond a character.

        Raises:
            ValueError: another one follows.
        """
        if not expected or self.following() != expected:
            raise ValueError(f"expected {expected or 'a value'!r}")
        self.place += 1

    def value(self) -> Any:
        """The next value.

        Raises:
            ValueError: there is none.
        """
        self.following()
        while True:
            try:
                value, end = self.decoder.raw_decode(self.held, self.place)
            except json.JSONDecodeError:
                if not self._more():
                    raise
                continue
            # A number may go on.
            if end < len(self.held) or not self._more():
                self.place = end
                return value
