"""The keypoints of COCO's annotations, and the skeleton that its categories declare."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rcnn.data.builder import DatasetBuilder, Picture
from rcnn.data.classes import numbered_keypoints
from rcnn.data.formats.coco_json import Entry
from rcnn.data.formats.outlines import is_number
from rcnn.structures import Skeleton

PERSON_KEYPOINTS = (
    "nose", "left_eye", "right_eye", "left_ear", "right_ear", "left_shoulder", "right_shoulder", "left_elbow",
    "right_elbow", "left_wrist", "right_wrist", "left_hip", "right_hip", "left_knee", "right_knee",
    "left_ankle", "right_ankle",
)  # fmt: skip
# As pycocotools has them.
PERSON_SIGMAS = (
    0.026, 0.025, 0.025, 0.035, 0.035, 0.079, 0.079, 0.072, 0.072, 0.062, 0.062, 0.107, 0.107, 0.087, 0.087,
    0.089, 0.089,
)  # fmt: skip
PERSON_BONES = (
    (0, 1), (0, 2), (1, 2), (1, 3), (2, 4), (3, 5), (4, 6), (5, 6), (5, 7), (6, 8), (7, 9), (8, 10), (5, 11),
    (6, 12), (11, 12), (11, 13), (12, 14), (13, 15), (14, 16),
)  # fmt: skip
PERSON = Skeleton(PERSON_KEYPOINTS, PERSON_BONES, sigmas=PERSON_SIGMAS)
"""COCO's person."""


def read_skeleton(
    builder: DatasetBuilder, categories: Sequence[tuple[str, Entry]], annotations: Sequence[Any]
) -> None:
    """Set the skeleton that categories declare; without one, keypoints of one number get default names.

    Of several categories with keypoints, the longest list counts.
    """
    for place, entry in categories:
        _read_declared(builder, entry, place)
    if builder.skeleton is not None:
        return
    counts = sorted({count for entry in annotations if (count := _num_keypoints(entry))})
    if not counts:
        return
    what = "The annotations have keypoints, but no category names them"
    if len(counts) > 1:
        what = f"{what}, and their numbers differ: {', '.join(map(str, counts))} per object."
        builder.warn(what, "They were ignored. List keypoints in the category.", "keypoints")
        return
    builder.skeleton = Skeleton(numbered_keypoints(counts[0]))
    builder.warn(
        f"{what}.", "They are called keypoint_0, … here; list keypoints in the category.", "keypoints"
    )


def _read_declared(builder: DatasetBuilder, entry: Entry, place: str) -> None:
    names = entry.get("keypoints")
    if not isinstance(names, list) or not names:
        return
    names = list(map(str, names))
    known = () if builder.skeleton is None else builder.skeleton.names
    short = min(len(names), len(known))
    if list(known[:short]) != names[:short]:
        what = f"Its keypoints {', '.join(names)} differ from {', '.join(known)} of another category."
        advice = "All categories share one skeleton: for keypoint models, split the file by category."
        builder.warn(what, advice, place)
    if len(names) <= len(known):
        return
    bones = entry.get("skeleton") or []
    usual = PERSON_SIGMAS if names == list(PERSON_KEYPOINTS) else ()
    try:
        # COCO counts the ends of its bones from 1.
        pairs = tuple((int(a) - 1, int(b) - 1) for a, b in bones)
        sigmas = tuple(map(float, entry.get("sigmas") or usual))
        builder.skeleton = Skeleton(tuple(names), pairs, sigmas=sigmas)
    except (TypeError, ValueError) as error:
        builder.report(f"The skeleton cannot be used: {error}.", "Correct it.", place)
        builder.skeleton = Skeleton(tuple(names))


def _num_keypoints(entry: Any) -> int:
    """The number of keypoints of an annotation that has any with a visibility above 0; else 0."""
    values = entry.get("keypoints") if isinstance(entry, dict) else None
    if not isinstance(values, list) or len(values) % 3 or not all(map(is_number, values)):
        return 0
    return len(values) // 3 if any(values[2::3]) else 0


def read_keypoints(
    builder: DatasetBuilder, found: Any, picture: Picture, name: str
) -> npt.NDArray[np.float32]:
    """float32 ``[K, 3]``; zeros, meaning "not annotated", if they are missing or broken."""
    count = builder.num_keypoints
    points = np.zeros((count, 3), dtype=np.float32)
    if found is None:
        return points
    fine = isinstance(found, list) and len(found) % 3 == 0 and len(found) <= points.size
    if not fine or not all(is_number(v) for v in found):
        what = f"Expected keypoints as up to {count} triples of x, y, visibility."
        builder.report(what, "Correct or delete them.", name, file=picture.path)
        return points
    values = np.array(found, dtype=np.float64).reshape(-1, 3)
    values[:, :2] += 0.5
    values[values[:, 2] == 0] = 0
    _report_outside(builder, values, picture.size, picture.path, name)
    points[: len(values)] = values
    return points


def _report_outside(
    builder: DatasetBuilder, values: npt.NDArray[np.float64], size: tuple[int, int], path: Path, name: str
) -> None:
    height, width = size
    outside = (values[:, :2] < 0).any(1) | (values[:, 0] > width + 1) | (values[:, 1] > height + 1)
    if (outside & (values[:, 2] > 0)).any():
        what = f"{int(outside.sum())} keypoints are outside the image of {width} by {height} pixels."
        builder.warn(what, "Correct them. Do they belong to another image?", name, file=path)
