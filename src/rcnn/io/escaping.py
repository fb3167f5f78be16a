"""Names as text: what a class or file is called means nothing to a terminal, a page or a spreadsheet.

One function for each kind of output. HTML is :func:`html.escape`'s.
"""

from __future__ import annotations

import re

# Control characters, halves of surrogate pairs (bytes of file names that are not UTF-8), and what changes the
# direction of the text around it.
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_UNSAFE_BUT_LINES = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)
# A spreadsheet takes a cell that begins so for a formula; a number is what it is.
_FORMULA = re.compile(r"'*[=+\-@\t\r]")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.IGNORECASE)


def for_terminal(text: str, *, lines: bool = False) -> str:
    r"""A text in which no character moves the cursor, changes colours or hides others.

    Convention: ``"a\x1b[31m\n"`` becomes ``r"a\x1b[31m\n"``: escapes as Python writes them.

    Args:
        text: a name, or a whole message.
        lines: keep line breaks and tabs, which messages have of their own.
    """
    unsafe = _UNSAFE_BUT_LINES if lines else _UNSAFE
    return unsafe.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


def for_csv(cell: object) -> object:
    """A cell of a table, marked as text with an apostrophe where a spreadsheet would take it for a formula.

    ``from_csv(for_csv(text)) == text`` for every text: one that begins like a marked one gets another mark.
    """
    is_formula = isinstance(cell, str) and _FORMULA.match(cell) and not _NUMBER.fullmatch(cell)
    return f"'{cell}" if is_formula else cell


def from_csv(cell: str) -> str:
    """A cell without the mark of :func:`for_csv`."""
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell
