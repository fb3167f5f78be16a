"""Names that changed since 0.1.0, so that its checkpoints, runs and recipes stay valid.

One table translates the names of tensors (weights, their average), another the keys of settings, in recipes,
in the metadata of files and after ``--set``.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any, TypeVar

Value = TypeVar("Value")

TENSORS = {"trunk": "backbone", "rpn_trunk": "rpn_backbone", "average": "ema"}
"""Parts of a network and of a checkpoint, old name to new: any step of a tensor's dotted name."""

SETTINGS = {
    "append_truth": "append_gt",
    "bad_steps": "max_bad_steps",
    "crowd_share": "max_crowd_overlap",
    "divisor": "size_divisor",
    "drop_cut": "drop_truncated",
    "on_object": "object_crop_fraction",
    "positive_share": "positive_fraction",
    "retrain": "refit_every",
    "trunk": "backbone",
    "trunk_lr": "backbone_lr",
}
"""Keys of settings, old name to new, in whichever table."""
TABLES = ("model", "transform", "augment", "train")
"""The tables that hold settings; other metadata is left as it is."""

READING_BEFORE = {"intensity": "maximum"}
"""``transform.read`` of files that lack it."""

METADATA = {"progress": "train_state"}
"""Entries of a checkpoint's metadata, old name to new."""


def current_tensors(tensors: Mapping[str, Value]) -> dict[str, Value]:
    """Tensors of a checkpoint of 0.1.0 under today's names."""
    return {".".join(TENSORS.get(step, step) for step in name.split(".")): t for name, t in tensors.items()}


def current_metadata(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The metadata of a checkpoint of 0.1.0 under today's names."""
    named = {METADATA.get(key, key): value for key, value in metadata.items()}
    return stored_settings(named)


def stored_settings(document: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a file that was written by this or an earlier version, under today's keys.

    Before 0.2 files did not say how images are read: by the rule of that time, which the model saw.
    """
    settings = current_settings(document, warn=False)
    if isinstance(settings.get("transform"), Mapping):
        settings["transform"] = {"read": dict(READING_BEFORE), **settings["transform"]}
    return settings


def current_settings(document: Mapping[str, Any], *, warn: bool = True) -> dict[str, Any]:
    """Settings under today's keys.

    Args:
        document: tables such as ``model`` and ``train``, as TOML or JSON has them; not changed.
        warn: name each old key and the one that took its place.

    Raises:
        ValueError: a setting is given under both its old and its new name.
    """
    return {key: _current(value, key, warn) if key in TABLES else value for key, value in document.items()}


def _current(value: Any, where: str, warn: bool) -> Any:
    if not isinstance(value, Mapping):
        return value
    current: dict[str, Any] = {}
    for key, item in value.items():
        new = SETTINGS.get(str(key), str(key))
        if new != key and new in value:
            raise ValueError(f"{where}.{key} and {where}.{new} are the same setting; give {new} alone")
        if new != key and warn:
            text = f"{where}.{key} is now called {where}.{new}; the old name will be removed in 0.3"
            warnings.warn(text, FutureWarning, stacklevel=2)
        current[new] = _current(item, f"{where}.{new}", warn)
    return current
