"""XML without entities: nothing in a file refers to another, and none of it expands."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree
from xml.parsers import expat

DEEPEST = 200  # elements within one another; annotation files have about six


def parse_xml(content: bytes, path: Path) -> ElementTree.Element:
    """The root of an XML document.

    Args:
        content: the document, in any encoding that it declares.
        path: the file, for messages.

    Raises:
        ValueError: not XML, it declares a document type, or has more levels than :data:`DEEPEST`.
    """
    builder, depth = ElementTree.TreeBuilder(), 0

    def start(name: str, attributes: dict[str, str]) -> None:
        nonlocal depth
        depth += 1
        if depth > DEEPEST:
            raise ValueError(f"it has more than {DEEPEST} elements within one another")
        builder.start(name, attributes)

    def end(name: str) -> None:
        nonlocal depth
        depth -= 1
        builder.end(name)

    parser = expat.ParserCreate("utf-8")
    parser.buffer_text = True
    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.CharacterDataHandler = builder.data
    parser.StartDoctypeDeclHandler = _refuse_doctype
    try:
        parser.Parse(_as_utf8(content), True)
        return builder.close()
    except (expat.ExpatError, ValueError, LookupError) as error:  # LookupError: unknown encoding
        raise ValueError(f"{path}: this is not usable XML ({error}). Export it again.") from error


def _as_utf8(content: bytes) -> bytes:
    """XML as UTF-8 from any encoding that it declares: expat knows only a few.

    Raises:
        ValueError: it is in another encoding than it declares, or in none that is known.
    """
    declared = re.match(rb"""\s*<\?xml[^>]*encoding\s*=\s*["']([\w.-]+)""", content)
    marked = content.startswith((b"\xff\xfe", b"\xfe\xff"))
    encoding = "utf-16" if marked else declared[1].decode("ascii") if declared else "utf-8"
    try:
        return content.decode(encoding).removeprefix("\ufeff").encode()
    except UnicodeDecodeError as error:
        said = f"declares {encoding}" if declared else "declares no encoding"
        raise ValueError(f"the text {said}, but is in another: {error.reason}; save it as UTF-8") from error


def _refuse_doctype(*_: Any) -> None:
    raise ValueError("it declares a document type, which is not read")
