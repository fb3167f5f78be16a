"""Folders for what is written, and never over what is there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path


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
