"""Match the classes and keypoints of data and model by name."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from rcnn.data.classes import keypoint_order, matching_label, matching_labels
from rcnn.structures import Instances, Skeleton

UNNAMED = ("object",)  # the class in formats without class names


def all_have(predictions: Sequence[Instances], field: str) -> bool:
    """Whether a detector makes this field: some predictions have it, and all of those with objects."""
    there = [getattr(p, field) is not None for p in predictions]
    return any(there) and all(has for has, p in zip(there, predictions, strict=True) if len(p))


def align_truth_classes(
    truths: Sequence[Instances], data_names: Sequence[str], model_names: Sequence[str]
) -> tuple[list[Instances], tuple[str, ...]]:
    """The truths with a model's labels, and the names that these index.

    Names that differ only in case are one class. A class that has objects in the data but is unknown to the
    model is added after the model's own, with a warning: its objects will count as missed. Objects of formats
    without class names (mask folders, label images: ``object``) belong to a model's class if it has just one.
    """
    data_names = named_as(data_names, model_names)
    names = list(model_names)
    used = sorted({label for truth in truths for label in truth.labels.tolist()})
    unknown = []
    for name in (data_names[label] for label in used):
        if matching_label(names, name) is None:
            names.append(name)
            unknown.append(name)
    if unknown:
        warnings.warn(
            f"the data has objects of {', '.join(map(repr, unknown))}, which the model does not know "
            f"(it knows {', '.join(map(repr, model_names))}): they count as missed.",
            stacklevel=2,
        )
    found = matching_labels(names, data_names)
    new_labels = np.array([-1 if label is None else label for label in found], np.int64)
    aligned = [replace(t, labels=new_labels[t.labels], class_names=tuple(names)) for t in truths]
    return aligned, tuple(names)


def named_as(data_names: Sequence[str], model_names: Sequence[str]) -> Sequence[str]:
    """The class names of the data, or the one class of a model if the format has no names."""
    return model_names if tuple(data_names) == UNNAMED and len(model_names) == 1 else data_names


def align_keypoints(predictions: Sequence[Instances], skeleton: Skeleton | None) -> list[Instances] | None:
    """The predictions with the keypoints of the data's ``skeleton``, selected by name, in its order.

    None if there is nothing to compare: keypoints on one side only or, with a warning, a keypoint in the data
    that the model does not predict.
    """
    if skeleton is None or not all_have(predictions, "keypoints"):
        return None
    own = next((p.skeleton.names for p in predictions if p.skeleton is not None), skeleton.names)
    order = keypoint_order(skeleton.names, own)
    if order is None:
        warnings.warn(
            f"the data has the keypoints {', '.join(skeleton.names)}, but the model predicts only "
            f"{', '.join(own)}: keypoints are not measured.",
            stacklevel=2,
        )
        return None
    if order == list(range(len(own))):
        return list(predictions)
    return [
        p if p.keypoints is None else replace(p, keypoints=p.keypoints[:, order], skeleton=skeleton)
        for p in predictions
    ]
