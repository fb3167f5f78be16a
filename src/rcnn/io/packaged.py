"""Data files that come with the package."""

from pathlib import Path


def packaged(name: str) -> Path:
    """The folder ``name`` (``recipes``, ``trained``) of the installed package, or of a source checkout."""
    package = Path(__file__).parents[1]
    installed = package / name
    return installed if installed.is_dir() else package.parents[1] / name
