"""Texts read, and files written whole or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import os
import sys
from pathlib import Path

STDOUT = "-"
PART_ENDING = ".part"
STREAMS = ("/dev/std", "/dev/fd/", "/proc/self/fd/")


def read_lines(path: Path) -> list[str]:
    """The lines of a text, without blanks around them.

    Raises:
        ValueError: no UTF-8.
    """
    try:
        return [line.strip() for line in path.read_text("utf-8-sig").strip().splitlines()]
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: the text is not UTF-8 ({error}); save it as UTF-8.") from error


def write_atomically(path: Path, content: bytes, *, writer: str = "") -> None:
    """Put ``content`` at ``path`` in one step; on any failure the previous file stays, alone.

    Only regular files are replaced. The target of a link is, and the link stays; a device, a pipe or the
    ``/dev/fd/63`` of a shell's ``>(command)`` is written into, and so is standard output, ``-``.

    Args:
        path: the file; its folder is made where missing.
        content: all of it.
        writer: who writes, where several may write the same file at once and must not disturb each other.
    """
    if str(path) == STDOUT:
        sys.stdout.flush()
        sys.stdout.buffer.write(content)
        sys.stdout.flush()
        return
    if str(path).startswith(STREAMS) or (path.exists() and not path.is_file()):
        with path.open("wb") as stream:  # a folder is refused here
            stream.write(content)
        return
    path = path.resolve() if path.is_symlink() else path
    path.parent.mkdir(parents=True, exist_ok=True)
    # One fixed name: what a killed process left is overwritten by the next save. 255 bytes is the most.
    name = path.name.encode(errors="surrogateescape")
    short = path.name if len(name) + len(writer) < 249 else hashlib.sha256(name).hexdigest()
    part = path.with_name(f".{short}{writer}{PART_ENDING}")
    try:
        with part.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        if isinstance(error, OSError):
            error.filename = str(path)  # the file that the user knows of
            error.filename2 = None
        raise
