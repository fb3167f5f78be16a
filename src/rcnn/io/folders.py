"""Folders for what is written, and never over what is there."""

from __future__ import annotations

import os.path
from collections.abc import Callable
from pathlib import Path


def is_file(path: Path) -> bool:
    """Whether there is such a file; False for names that no file can have, for which ``Path`` raises.

    To be asked of every path that comes out of a file.
    """
    return os.path.isfile(path)  # noqa: PTH113


def is_folder(path: Path) -> bool:
    """Whether there is such a folder; otherwise as :func:`is_file`."""
    return os.path.isdir(path)  # noqa: PTH112


def is_there(path: Path) -> bool:
    """Whether there is anything of this name; otherwise as :func:`is_file`."""
    return os.path.exists(path)  # noqa: PTH110


def is_link(path: Path) -> bool:
    """Whether there is a link of this name, wherever it leads; otherwise as :func:`is_file`."""
    return os.path.islink(path)  # noqa: PTH114


def free_folder(folder: Path, is_taken: Callable[[Path], bool]) -> Path:
    """``folder``, or ``folder-2`` and so on: the first that is not taken."""
    found, number = folder, 1
    while is_taken(found):
        number += 1
        found = folder.with_name(f"{folder.name}-{number}")
    return found


def has_content(folder: Path) -> bool:
    """Whether there is a file of this name, or a folder that is not empty."""
    return folder.exists() and (not folder.is_dir() or any(folder.iterdir()))
