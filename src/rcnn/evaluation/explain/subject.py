"""What an explanation follows: a true object, a given box, or what the model itself sees at a place."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rcnn.config import did_you_mean
from rcnn.data.classes import matching_label
from rcnn.evaluation.explain.explanation import Subject
from rcnn.evaluation.explain.passes import Bools, Floats, Pass, Watched
from rcnn.structures import Instances, box_ious

Place = Sequence[float]
"""``x, y``, or a box ``x1, y1, x2, y2``, in pixels of the image."""


def true_object(truth: Instances, index: int) -> Subject:
    """An annotated object.

    Raises:
        ValueError: no such object.
    """
    if not 0 <= index < len(truth):
        raise ValueError(f"object {index}: the image has {len(truth)} objects, counted from 0")
    name = truth.names[index]
    return Subject(truth.boxes[index].tolist(), int(truth.labels[index]), name, True, index)


def object_at(truth: Instances, place: Place) -> Subject | None:
    """The smallest annotated object whose box has the place inside; None where there is none.

    A box as the place means the object that it overlaps most.
    """
    if not len(truth):
        return None
    centre = _centre(place)
    inside = _contain(truth.boxes, centre)
    if not inside.any():
        return None
    sides = truth.boxes[:, 2:] - truth.boxes[:, :2]
    index = int(np.where(inside, sides.prod(1), np.inf).argmin())
    subject = true_object(truth, index)
    return Subject(subject.box, subject.label, subject.class_name, True, index, centre.tolist())


def at_place(watched: Watched, place: Place | None, class_name: str | None = None) -> Subject:
    """What the model sees at a place without truth: the box given, or the model's own best box there.

    Args:
        watched: the detection.
        place: a point or a box; None: the whole image, of which the best detection is followed.
        class_name: the class that is looked for; None: the one that the model finds most likely.

    Raises:
        ValueError: a place outside the image, or a class that the model does not know.
    """
    names = watched.found.class_names
    label = None
    if class_name is not None:
        label = matching_label(names, class_name)
        if label is None:
            hint = did_you_mean(class_name, names)
            raise ValueError(f"class {class_name!r}: {hint}expected one of {', '.join(names)}")
    point = None if place is None else _checked(watched, place)
    if place is not None and len(place) == len(("x1", "y1", "x2", "y2")):
        box = np.array(place, np.float32)
        label = _likeliest(watched.passes[watched.home(box)], box) if label is None else label
        return Subject(box.tolist(), label, names[label], True)
    found_box, found_label = _own_box(watched, point, label)
    return Subject(
        found_box.tolist(), found_label, names[found_label], False,
        point=None if point is None else point.tolist(),
    )  # fmt: skip


def _checked(watched: Watched, place: Place) -> Floats:
    """The middle of a place in the image.

    Raises:
        ValueError: neither two nor four numbers, a box without an area, or a place outside the image.
    """
    shown = ",".join(f"{value:g}" for value in place)
    if len(place) not in (2, 4) or not np.isfinite(place).all():
        raise ValueError(f"place {shown}: expected X,Y or a box X1,Y1,X2,Y2 in pixels")
    if len(place) == len(("x1", "y1", "x2", "y2")) and (place[2] <= place[0] or place[3] <= place[1]):
        raise ValueError(f"place {shown}: expected a box X1,Y1,X2,Y2 with X1 < X2 and Y1 < Y2")
    (x, y), (height, width) = (centre := _centre(place)), watched.found.size
    if not (0 <= x <= width and 0 <= y <= height):
        raise ValueError(f"place {shown}: outside the image, which is {width} x {height} pixels")
    return centre


def _centre(place: Place) -> Floats:
    numbers = np.array(place, np.float32)
    is_point = len(numbers) == len(("x", "y"))
    return numbers if is_point else ((numbers[:2] + numbers[2:]) / 2).astype(np.float32)


def _contain(boxes: Floats, point: Floats) -> Bools:
    """Which boxes ``[N, 4]`` have a point inside."""
    x, y = point
    inside: Bools = (boxes[:, 0] <= x) & (boxes[:, 1] <= y) & (x <= boxes[:, 2]) & (y <= boxes[:, 3])
    return inside


def _likeliest(own: Pass, box: Floats) -> int:
    """The class with the highest score in the region that overlaps a box most; the first without regions."""
    if not len(own.regions):
        return 0
    row = int(box_ious(own.regions, box[None])[:, 0].argmax())
    return int(own.scores[row].argmax())


def _own_box(watched: Watched, point: Floats | None, label: int | None) -> tuple[Floats, int]:
    """The model's best box at a point: of what it returns, else of its regions, else of its anchors.

    Raises:
        ValueError: no box has the point inside.
    """
    found = watched.found
    scores = np.zeros(0, np.float32) if found.scores is None else found.scores
    inside = np.ones(len(found), np.bool_) if point is None else _contain(found.boxes, point)
    chosen = inside & np.isin(found.labels, found.labels if label is None else [label])
    if chosen.any():
        row = int(np.where(chosen, scores, -1).argmax())
        return found.boxes[row], int(found.labels[row])
    around = point if point is not None else np.array(found.size[::-1], np.float32) / 2
    own = watched.passes[watched.home(np.tile(around, 2))]
    if len(own.regions):
        column = own.scores.argmax(1) if label is None else np.full(len(own.regions), label)
        every = np.arange(len(column))
        boxes, values = own.boxes[every, column], own.scores[every, column]
        row_or_none = _best_near(boxes, values, point)
        if row_or_none is not None:
            return boxes[row_or_none], int(column[row_or_none])
    if own.anchoring is not None:
        row_or_none = _best_near(own.anchoring.moved, own.anchoring.scores, point)
        if row_or_none is not None:
            return own.anchoring.moved[row_or_none], 0 if label is None else label
    raise ValueError(
        "no box of the model, not even of an anchor or a proposal, has this place inside; give the box of "
        "the object, X1,Y1,X2,Y2"
    )


def _best_near(boxes: Floats, scores: Floats, point: Floats | None) -> int | None:
    """The best box with a point inside, if possible in its inner half; None where none has it inside."""
    if point is None:
        return int(scores.argmax()) if len(scores) else None
    inside = _contain(boxes, point)
    quarter = (boxes[:, 2:] - boxes[:, :2]) / 4
    inner = _contain(np.concatenate([boxes[:, :2] + quarter, boxes[:, 2:] - quarter], 1), point)
    chosen = inner if inner.any() else inside
    return int(np.where(chosen, scores, -1).argmax()) if chosen.any() else None
