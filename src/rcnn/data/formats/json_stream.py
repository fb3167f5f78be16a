"""Read a large JSON file element by element, in bounded memory."""

from __future__ import annotations

import gc
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from pydantic_core import from_json

CHUNK = 1 << 22  # characters
# An error this far before the end of what was read is not due to text that is still to come.
PENDING = 1 << 16
PIECE = 1 << 16  # characters of a list that are parsed at once; more would leave the processor's cache
BRACES_TRIED = 8  # ends of objects, of which the last that ends an element is searched
BETWEEN = re.compile(r"\s*,\s*\{")
SPACE = re.compile(r"[ \t\n\r]*")  # of JSON
DELIMITERS = tuple(",]}: \t\r\n")


class BrokenJsonError(ValueError):
    """Text that is not JSON, or of another kind than expected."""


@contextmanager
def no_collections() -> Iterator[None]:
    """Without Python's searches for cycles: millions of JSON values have none, and a tenth is saved."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def top_level(path: Path) -> Iterator[tuple[str, Any]]:
    """Yield the values of a file's outermost object by key, without those of lists at once.

    A list is yielded as an iterator over its elements, which must be used up before the next key.

    Raises:
        BrokenJsonError: not JSON, or the outermost value is not an object.
        ValueError: likewise, from the decoders of JSON and of UTF-8.
        OSError: the file cannot be read.
    """
    with path.open(encoding="utf-8-sig") as file:
        yield from Text(file).members()


class Text:
    """A window of a text file that moves on as its values are read."""

    def __init__(self, file: TextIO) -> None:
        self.file = file
        self.decode = json.JSONDecoder().raw_decode
        self.window, self.place = "", 0
        self.chunk = CHUNK

    def _more(self) -> bool:
        """Read on; False at the end of the file."""
        text = self.file.read(self.chunk)
        self.window, self.place = self.window[self.place :] + text, 0
        return bool(text)

    def peek(self) -> str:
        """The next character that is no white space; it stays the next one. Empty at the end of the file."""
        while True:
            self.place = SPACE.match(self.window, self.place).end()  # type: ignore[union-attr]
            if self.place < len(self.window) or not self._more():
                return self.window[self.place : self.place + 1]

    def expect(self, character: str) -> None:
        """Pass over a character.

        Raises:
            BrokenJsonError: there is another one.
        """
        found = self.peek()
        if found != character:
            raise BrokenJsonError(
                f"expected {character!r}; found {found!r}" if found else "the file ends early"
            )
        self.place += 1

    def value(self) -> Any:
        """The next value."""
        if not self.peek():
            raise BrokenJsonError("the file ends early")
        while True:
            try:
                value, end = self.decode(self.window, self.place)
                # A number may go on.
                complete = self.window[end : end + 1] in DELIMITERS or len(self.window) - end > PENDING
            except json.JSONDecodeError as error:
                if len(self.window) - error.pos > PENDING:
                    raise
                complete = False
            if complete:
                self.place = end
                return value
            if not self._more():
                value, self.place = self.decode(self.window, self.place)  # raises, if it is not complete
                return value
            self.chunk *= 2  # an element that is larger than the window is not read again and again

    def members(self) -> Iterator[tuple[str, Any]]:
        """The values by key of the object that comes next, lists as iterators; see :func:`top_level`."""
        self.expect("{")
        while self.peek() != "}":
            key = self.value()
            if not isinstance(key, str):
                raise BrokenJsonError(f"expected a key as text; found {key!r:.40}")
            self.expect(":")
            if self.peek() == "[":
                elements = self.elements()
                yield key, elements
                for _ in elements:  # what the caller left
                    pass
            else:
                yield key, self.value()
            if self.peek() != "}":
                self.expect(",")
                if self.peek() == "}":
                    raise BrokenJsonError("expected a key; found '}'")
        self.expect("}")

    def elements(self) -> Iterator[Any]:
        """The elements of the list that comes next."""
        self.expect("[")
        if self.peek() == "]":
            self.place += 1
            return
        at_once = True
        while True:
            piece = self._piece() if at_once else []
            at_once = piece is not None
            yield from piece or [self.value()]
            self.chunk = CHUNK
            found = self.peek()
            self.place += 1
            if found == "]":
                return
            if found != ",":
                raise BrokenJsonError(f"expected ',' or ']'; found {found!r}")

    def _piece(self) -> list[Any] | None:
        """The next elements, several at once: objects up to one that is followed by another.

        If a text parses as a list, it ends where an element does: within one, a bracket would be open.

        Returns:
            The elements; none if too few are in the window; None if they cannot be read like this.
        """
        self.peek()
        end = self.place + PIECE
        for _ in range(BRACES_TRIED):
            end = self.window.rfind("}", self.place, end)
            if end < 0 or BETWEEN.match(self.window, end + 1):
                break
        else:
            return []
        if end < 0:
            return []
        try:
            found: list[Any] = from_json(f"[{self.window[self.place : end + 1]}]")
        except ValueError:  # cut within an element, or not JSON, which is explained one by one
            return None
        self.place = end + 1
        return found
