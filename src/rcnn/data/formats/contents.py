"""Read annotation files safely: JSON, XML without entities, and tables of comma-separated values.

Every fault raises a :class:`ValueError` that names the file.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from rcnn.io.folders import is_there
from rcnn.io.images import visible_files
from rcnn.io.json_text import parse_json
from rcnn.io.xml import parse_xml

HEAD = 65536  # bytes that are looked at to recognise a file
LOOKED_AT = 100  # files that are looked at to recognise a folder
ANNOTATION_FOLDERS = (
    "annotations", "Annotations", "annotation", "labels", "ann", "json", "xml", "csv", "geojson", "rois",
    "ROIs",
)  # fmt: skip
DELIMITERS = ",;\t|"


def head(path: Path) -> str:
    """The beginning of a file as text; empty if it cannot be read."""
    try:
        return _head(path, path.stat().st_mtime_ns) if path.is_file() else ""
    except OSError:
        return ""


@lru_cache(maxsize=256)
def _head(path: Path, changed: int) -> str:
    with path.open("rb") as file:
        return decoded(file.read(HEAD)).lstrip()


def decoded(content: bytes) -> str:
    """Bytes as text: UTF-8 or UTF-16 with their marks, otherwise UTF-8 with what is invalid replaced."""
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        return content.decode("utf-16", errors="replace")
    return content.decode("utf-8-sig", errors="replace")


def files_with(
    path: Path, ending: str, is_ours: Callable[[Path], bool], limit: int | None = LOOKED_AT
) -> list[Path]:
    """The files that ``is_ours`` accepts: the path itself, or those in the folder or its annotation folders.

    Args:
        path: a file or a folder.
        ending: of the files, such as ``.json``; upper and lower case are the same.
        is_ours: recognises a file by its content.
        limit: the number of files of a folder that are looked at; None looks at all.
    """
    if path.is_file():
        return [path] if path.suffix.lower() == ending and is_ours(path) else []
    folders = [path, *(path / name for name in ANNOTATION_FOLDERS)]
    found: dict[Path, Path] = {}  # a file system that ignores case shows some folders twice
    for folder in folders:
        files = visible_files(folder) if folder.is_dir() else []
        for file in [f for f in files if f.suffix.lower() == ending][:limit]:
            if file.is_file() and is_ours(file):
                found.setdefault(file.resolve(), file)
        if found:
            break
    return list(found.values())


def has_one_file(path: Path, ending: str, is_ours: Callable[[Path], bool], kind: str) -> bool:
    """Whether there is such a file, as in :func:`files_with`.

    Raises:
        ValueError: there is more than one.
    """
    return bool(files_with(path, ending, is_ours)) and one_file(path, ending, is_ours, kind).is_file()


def one_file(path: Path, ending: str, is_ours: Callable[[Path], bool], kind: str) -> Path:
    """The only file as in :func:`files_with`.

    Raises:
        ValueError: there is none, or more than one.
    """
    found = files_with(path, ending, is_ours)
    if len(found) > 1:
        names = ", ".join(str(file.relative_to(path)) for file in found)
        raise ValueError(f"{path}: it contains several {kind} files; name one of them: {names}.")
    if found:
        return found[0]
    if not is_there(path):
        raise ValueError(f"{path}: there is no such file or folder.")
    raise ValueError(f"{path}: expected a {kind} file (*{ending}); found none.")


def read_text(path: Path) -> str:
    """A text in UTF-8 or UTF-16.

    Raises:
        ValueError: the file cannot be read, or is in another encoding.
    """
    try:
        content = path.read_bytes()
        if content.startswith((b"\xff\xfe", b"\xfe\xff")):
            return content.decode("utf-16")
        return content.decode("utf-8-sig")
    except OSError as error:
        raise ValueError(f"{path}: the file cannot be read ({error.strerror}).") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: the text is not UTF-8 ({error}); save it as UTF-8.") from error


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        ValueError: the file cannot be read, or is not JSON.
    """
    text = read_text(path)
    try:
        return parse_json(text)
    except ValueError as error:
        raise ValueError(f"{path}: this is not JSON ({error}). Export the annotations again.") from error


def read_xml(path: Path) -> ElementTree.Element:
    """The root of an XML file; document types, which can define entities, are refused.

    Raises:
        ValueError: the file cannot be read, is not XML, or declares a document type.
    """
    try:
        return parse_xml(path.read_bytes(), path)
    except OSError as error:
        raise ValueError(f"{path}: the file cannot be read ({error.strerror}).") from error


@dataclass(frozen=True)
class Row:
    """One line of a table.

    Attributes:
        number: of the line in the file, from 1.
        values: the cells, without blanks around them.
    """

    number: int
    values: tuple[str, ...]


def delimiter_of(text: str) -> str:
    """The one of ``, ; tab |`` that occurs most often in the first line of a table."""
    lines = text.splitlines()
    first = next((line for line in lines if line.strip() and not line.lstrip().startswith("# ")), "")
    outside = first.split('"')[::2]  # not within quotation marks
    return max(DELIMITERS, key="".join(outside).count)


def table_rows(text: str) -> list[Row]:
    """The lines of a table, without empty ones and without comments that begin with ``#``.

    The delimiter is that of :func:`delimiter_of`.
    """
    delimiter = delimiter_of(text)
    csv.field_size_limit(2**31 - 1)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True)
    rows = []
    for cells in reader:
        if any(cell.strip() for cell in cells) and not cells[0].lstrip().startswith("# "):
            rows.append(Row(reader.line_num, tuple(cell.strip() for cell in cells)))
    return rows


def first_row(path: Path) -> tuple[str, ...]:
    """The cells of the first line of a table; empty if there is none."""
    text = head(path)
    complete = text[: text.rfind("\n") + 1] if len(text) >= HEAD // 4 else text
    try:
        rows = table_rows(complete)
    except csv.Error:
        return ()
    return rows[0].values if rows else ()


def read_table(path: Path) -> list[Row]:
    """The lines of a table.

    Raises:
        ValueError: the file cannot be read, or is not a table.
    """
    text = read_text(path)
    try:
        return table_rows(text)
    except csv.Error as error:
        raise ValueError(f"{path}: this is not a table of comma-separated values ({error}).") from error
