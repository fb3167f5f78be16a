"""What the metadata of a trained model are, in checkpoints and exported files alike."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rcnn.config import check_fields

MODEL_FIELDS: dict[str, Any] = {
    "architecture": str,
    "model": dict[str, Any],
    "class_names": tuple[str, ...],
    "semantic_names": tuple[str, ...],
    "transform": dict[str, Any],
    "skeleton": dict[str, Any] | None,
    "min_score": float,
    "category_ids": tuple[int, ...] | None,
}
"""The type of each entry that the package reads."""


def check_model_fields(
    metadata: Mapping[str, Any], where: str, more: Mapping[str, Any] | None = None
) -> None:
    """Check the metadata of a trained model by type and range.

    Args:
        metadata: as JSON has them; entries for people are not looked at.
        where: the file, for messages.
        more: the types of entries that only this kind of file has.

    Raises:
        ValueError: an entry of another type or out of range.
    """
    check_fields(metadata, {**MODEL_FIELDS, **(more or {})}, where)
    score, ids = metadata.get("min_score", 0), metadata.get("category_ids")
    if not 0 <= score <= 1:
        raise ValueError(f"{where}: min_score: got {score}, expected a number from 0 to 1")
    if ids is not None and len(ids) != len(metadata.get("class_names", ids)):
        raise ValueError(f"{where}: category_ids: got {len(ids)}, expected one for each class")
    for name in ("max_detections", "candidates"):
        if (metadata.get(name) or 1) < 1:
            raise ValueError(f"{where}: {name}: got {metadata[name]}, expected a number above 0")
