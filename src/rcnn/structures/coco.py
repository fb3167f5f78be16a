"""The objects of images as COCO's JSON has them: results, annotations, images and categories.

*Results* are the bare list that COCO's evaluation reads. *Annotations* make up a file that other programs
open; those of predictions have a ``score`` besides, which such programs keep or ignore.

Convention:
    ``bbox`` is x, y, width, height: the box ``10 20 15 26`` becomes ``[10, 20, 5, 6]``. Keypoints are pixel
    indices in COCO: ``3.5 4.5`` becomes ``3 4``. By default the category ids of labels 0, 1, … are 1, 2, …
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from rcnn.structures.outlines import complete_polygons

if TYPE_CHECKING:
    from rcnn.structures.instances import Instances
    from rcnn.structures.masks import Masks, Size
    from rcnn.structures.skeleton import Skeleton

Entry = dict[str, Any]
ABSENT, HIDDEN, VISIBLE = 0, 1, 2  # a keypoint in an annotation
INFO = {"description": "written by rcnn"}


def results_of(
    found: Instances, image_id: int | str, category_ids: Sequence[int] | None = None
) -> list[Entry]:
    """COCO results: ``image_id category_id bbox score``, and a run-length code and keypoints if present.

    Objects without scores get a score of 1. The third number of a keypoint is what the model gives: its
    logit.
    """
    results = _boxes(found, image_id, category_ids)
    scores = [1.0] * len(found) if found.scores is None else found.scores.tolist()
    for result, score in zip(results, scores, strict=True):
        result["score"] = score
    codes = [] if found.masks is None else found.masks.rle()
    for result, code, is_known in zip(results, codes, found.outlined, strict=False):
        if is_known:
            result["segmentation"] = code
    for result, points in zip(results, _pixel_indices(found), strict=False):
        result["keypoints"] = points.reshape(-1).tolist()
    return results


def annotations_of(
    found: Instances,
    image_id: int | str,
    category_ids: Sequence[int] | None = None,
    *,
    first: int = 1,
    outlines: Literal["polygons", "rle"] = "polygons",
) -> list[Entry]:
    """COCO annotations: ``id image_id category_id bbox area iscrowd``, and outlines and keypoints if present.

    Predictions have ``score`` too. Their keypoints are visible where they are drawn, where the logit is above
    0, and hidden elsewhere; the logits themselves are ``keypoint_scores``.

    Args:
        found: the objects of one image, truth or predictions.
        image_id: the id of the image.
        category_ids: the id of each class.
        first: the id of the first annotation.
        outlines: ``polygons``, which every program reads, or run-length codes, which are smaller and faster
            to write; both give the same masks pixel for pixel. Crowds always have run-length codes.
    """
    entries = _boxes(found, image_id, category_ids)
    crowd = [False] * len(found) if found.crowd is None else found.crowd.tolist()
    areas = found.measures()[:, 4] if found.areas is None else found.areas
    for number, (entry, area, marked) in enumerate(zip(entries, areas.tolist(), crowd, strict=True)):
        entry |= {"id": first + number, "area": area, "iscrowd": int(marked)}
    if found.scores is not None:
        for entry, score in zip(entries, found.scores.tolist(), strict=True):
            entry["score"] = score
    if found.masks is not None:
        drawn = segmentations(found.masks, crowd, outlines)
        for entry, outline, is_known in zip(entries, drawn, found.outlined, strict=True):
            if is_known:
                entry["segmentation"] = outline
    for entry, points in zip(entries, _pixel_indices(found), strict=False):
        entry |= _keypoints(points, predicted=found.scores is not None)
    return entries


def image_entry(image_id: int | str, file_name: str, size: Size) -> Entry:
    """One of a file's ``images``; ``size`` is (height, width)."""
    return {"id": image_id, "file_name": file_name, "width": size[1], "height": size[0]}


def category_entries(
    class_names: Sequence[str], category_ids: Sequence[int] | None = None, skeleton: Skeleton | None = None
) -> list[Entry]:
    """A file's ``categories``; all have the skeleton, whose bones COCO counts from 1."""
    ids = range(1, len(class_names) + 1) if category_ids is None else category_ids
    points: Entry = {}
    if skeleton is not None:
        bones = [[a + 1, b + 1] for a, b in skeleton.bones]
        points = {"keypoints": list(skeleton.names), "skeleton": bones, "sigmas": list(skeleton.sigmas)}
    return [{"id": i, "name": name, **points} for i, name in zip(ids, class_names, strict=True)]


def file_of(found: Instances, file_name: str) -> Entry:
    """The whole content of a file with the objects of one image."""
    names = found.class_names or [str(label) for label in range(int(found.labels.max(initial=-1)) + 1)]
    return {
        "info": INFO,
        "images": [image_entry(1, file_name, found.size)],
        "annotations": annotations_of(found, 1),
        "categories": category_entries(names, skeleton=found.skeleton),
    }


def _boxes(found: Instances, image_id: int | str, category_ids: Sequence[int] | None) -> list[Entry]:
    """What results and annotations have in common."""
    entries = []
    for (x1, y1, x2, y2), label in zip(found.boxes.tolist(), found.labels.tolist(), strict=True):
        category = label + 1 if category_ids is None else category_ids[label]
        entries.append({"image_id": image_id, "category_id": category, "bbox": [x1, y1, x2 - x1, y2 - y1]})
    return entries


def segmentations(masks: Masks, crowd: Sequence[bool], outlines: Literal["polygons", "rle"]) -> list[Any]:
    """The segmentation of each object, exact in both forms; an empty mask has no polygon."""
    codes = masks.rle() if outlines == "rle" or any(crowd) else []
    if outlines == "rle":
        return codes
    windows = masks.windows.tolist()
    found: list[Any] = []
    for index, (patch, (x, y, _, _)) in enumerate(zip(masks.patches(), windows, strict=True)):
        if crowd[index]:
            found.append(codes[index])
        else:
            parts = complete_polygons(patch.astype(bool), (y, x))
            found.append([part.astype(np.int64).reshape(-1).tolist() for part in parts])
    return found


def _pixel_indices(found: Instances) -> Any:
    """Keypoints float64 ``[N, K, 3]`` as COCO counts pixels; nothing where there are none."""
    return [] if found.keypoints is None else found.keypoints.astype(np.float64) - [0.5, 0.5, 0]


def _keypoints(points: Any, *, predicted: bool) -> Entry:
    """The fields of an annotation that concern its keypoints ``[K, 3]``."""
    if predicted:
        seen = [VISIBLE if logit > 0 else HIDDEN for logit in points[:, 2].tolist()]
    else:
        seen = points[:, 2].astype(np.int64).tolist()
    triples = [
        [x, y, v] if v != ABSENT else [0, 0, 0]
        for (x, y), v in zip(points[:, :2].tolist(), seen, strict=True)
    ]
    fields: Entry = {
        "keypoints": [value for triple in triples for value in triple],
        "num_keypoints": sum(v != ABSENT for v in seen),
    }
    return fields | ({"keypoint_scores": points[:, 2].tolist()} if predicted else {})
