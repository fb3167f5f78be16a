"""Custom data sets: any object with ``__len__`` and ``__getitem__``.

Items are :class:`rcnn.Sample` or follow torchvision: an image and a dict with ``boxes`` (x1 y1 x2 y2),
``labels`` and optionally ``masks``, ``keypoints``, ``iscrowd``, ``area`` and ``image_id``. Images are PIL
images, arrays ``[H, W, 3]`` or tensors ``[3, H, W]``; values are tensors, arrays or lists.

Opening a data set reads every item once, for the sizes, boxes and labels that statistics and checks need.
Pixels and masks are not kept; they are read again when an item is used.

Labels:
    Those of :class:`rcnn.Sample` are indices. In torchvision, 0 is the background and labels start at 1,
    which is the default here; ``first_label=0`` overrides it. ``first_label=None`` applies a rule and records
    the result in ``Dataset.problems``: labels start at 0 if one of them is 0; at 1 if none is 0 and the
    largest is the number of classes; anything else is an error. Without class names, the labels become the
    names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image

from rcnn.data.builder import Annotation, Content, DatasetBuilder, Picture
from rcnn.data.classes import numbered_keypoints
from rcnn.data.dataset import Dataset, Sample
from rcnn.io.images import all_channels, to_rgb
from rcnn.structures import Array, Instances, Masks, Size, Skeleton

CUSTOM = "Python object"
"""The ``format`` of such data sets."""
BACKGROUNDS = {"background", "__background__", "_background_"}
SHOWN = 8  # labels in a message
MARKS: tuple[Content, ...] = ("crowd", "difficult", "areas")
FIELDS = {"keypoints": np.float32, "iscrowd": np.bool_, "area": np.float32}  # of torchvision, but for boxes

Labels = npt.NDArray[np.int64]


class Items(Protocol):
    """A custom data set."""

    def __len__(self) -> int:
        """Number of items."""

    def __getitem__(self, index: int, /) -> Any:
        """An item: a :class:`rcnn.Sample`, or an image and its dict."""


def from_items(
    items: Items,
    class_names: Sequence[str] | None = None,
    *,
    first_label: int | None = 1,
    skeleton: Skeleton | None = None,
) -> Dataset:
    """Open a custom data set; the module docstring has the rules.

    Args:
        items: the data set, without random transforms, and picklable if several processes read it. Its
            attributes ``class_names`` and ``first_label``, if present, are the defaults of the arguments.
        class_names: the classes, in the order of their labels, without a background.
        first_label: the label of the first class, 0 or 1; None applies the rule. Ignored for
            :class:`rcnn.Sample`.
        skeleton: the keypoints; without their names, left and right cannot be told apart in mirrored images.

    Raises:
        ValueError: an item of another form, or labels that do not fit or are ambiguous; the message names the
            item.
    """
    source = _Source(items)
    source.read_all()
    class_names = getattr(items, "class_names", None) if class_names is None else class_names
    if first_label == 1:
        first_label = getattr(items, "first_label", first_label)
    truths = [facts.truth for facts in source.facts]
    builder = DatasetBuilder(CUSTOM, Path(source.name))
    names, labels, note = _numbered(source, tuple(class_names or ()), first_label)
    builder.declare_classes(names)
    if note is not None:
        builder.warn(note, "Pass first_label=0 or first_label=1 to set it explicitly.", "labels")
    builder.semantic_names = truths[0].semantic_names
    builder.skeleton = skeleton or _skeleton(truths)
    builder.holds = frozenset(mark for mark in MARKS if any(getattr(t, mark) is not None for t in truths))
    for index, own in enumerate(labels):
        builder.add(_picture(builder, source, index, own))
    data = builder.build()
    records = [
        replace(record, truth=replace(record.truth, proposals=truth.proposals))
        for record, truth in zip(data.records, truths, strict=True)
    ]
    return replace(data, records=records)


@dataclass(frozen=True)
class _Facts:
    """What is kept of an item: everything but pixels and masks."""

    truth: Instances
    image_id: int | str
    is_ours: bool
    has_masks: bool
    has_semantic: bool


class _Source:
    """The items as samples, with the facts about each."""

    def __init__(self, items: Items) -> None:
        self.items = items
        self.name = f"{type(items).__module__}.{type(items).__qualname__}"
        self.facts: list[_Facts] = []
        self._last: tuple[int, Sample] | None = None  # the image and the masks of an item are read in turn

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_last": None}

    def place(self, index: int) -> str:
        """How messages refer to an item."""
        return f"{self.name}, item {index}"

    def read_all(self) -> None:
        """Read every item and fill ``facts``."""
        for index in range(len(self.items)):
            item = self.items[index]
            sample = _sample(item, index, self.place(index))
            truth, is_ours = sample.truth, isinstance(item, Sample)
            has_masks, has_semantic = truth.masks is not None, truth.semantic is not None
            bare = replace(truth, masks=None, semantic=None)
            self.facts.append(_Facts(bare, sample.image_id, is_ours, has_masks, has_semantic))
        if not self.facts:
            raise ValueError(f"{self.name}: it has no items.")
        if len({facts.image_id for facts in self.facts}) < len(self.facts):
            self.facts = [replace(facts, image_id=index) for index, facts in enumerate(self.facts)]

    def sample(self, index: int) -> Sample:
        """An item, read again.

        Raises:
            ValueError: it has changed since the data set was opened.
        """
        last = self._last
        if last is None or last[0] != index:
            last = index, _sample(self.items[index], index, self.place(index))
            known, truth = self.facts[index].truth, last[1].truth
            if truth.size != known.size or not np.array_equal(truth.boxes, known.boxes):
                raise ValueError(
                    f"{self.place(index)}: its size or boxes have changed since the data set was opened. "
                    "Remove random transforms from it; rcnn augments images itself (augment.*)."
                )
            self._last = last
        return last[1]

    def pixels(self, index: int) -> npt.NDArray[np.uint8]:
        """The image of an item."""
        return self.sample(index).image

    def masks(self, index: int, kept: Sequence[int]) -> Masks:
        """The masks of the usable objects of an item."""
        masks = self.sample(index).truth.masks
        assert masks is not None
        chosen: Masks = masks[np.array(kept, np.int64)]
        return chosen

    def semantic(self, index: int) -> npt.NDArray[np.integer[Any]]:
        """The semantic map of an item."""
        semantic = self.sample(index).truth.semantic
        assert semantic is not None
        return semantic


def _numbered(
    source: _Source, names: tuple[str, ...], first_label: int | None
) -> tuple[tuple[str, ...], list[Labels], str | None]:
    """The classes, the labels of every item as class indices, and what the rule decided if it was applied."""
    labels = [facts.truth.labels for facts in source.facts]
    kinds = {facts.is_ours for facts in source.facts}
    if len(kinds) > 1:
        raise ValueError(f"{source.name}: some items are rcnn.Sample and others are not; expected one kind.")
    ours = kinds == {True}
    if ours and not names:
        names = _names_of_samples(source)
    values = np.unique(np.concatenate(labels))
    if not names:
        return tuple(map(str, values.tolist())), [np.searchsorted(values, own) for own in labels], None
    if not ours and names[0].casefold() in BACKGROUNDS:
        raise ValueError(f"{source.name}: class_names start with {names[0]!r}: omit the background.")
    first, note = (0, None) if ours else _first_label(source, values, names, first_label)
    for index, own in enumerate(labels):
        wrong = own[(own < first) | (own >= first + len(names))]
        if len(wrong):
            what = f"expected {first} to {first + len(names) - 1}, for {len(names)} class names"
            if first == 1 and wrong[0] == 0:
                what = "0 is the background, as in torchvision; pass first_label=0 if it is a class here"
            raise ValueError(f"{source.place(index)}: an object has the label {wrong[0]}; {what}.")
    return names, [own - first for own in labels], note


def _first_label(
    source: _Source, values: Labels, names: tuple[str, ...], first_label: int | None
) -> tuple[int, str | None]:
    """The label of the first class, and the rule that decided it, if any."""
    if first_label is not None:
        if first_label not in (0, 1):
            raise ValueError(f"{source.name}: first_label is {first_label!r}; expected 0, 1 or None.")
        return first_label, None
    if 0 in values:
        return 0, "Labels start at 0: there is a label 0."
    if len(values) == 0:
        return 1, None
    if values[-1] == len(names):
        return 1, "Labels start at 1, as in torchvision: none is 0 and the largest is the number of classes."
    shown = ", ".join(map(str, values[:SHOWN].tolist())) + (", …" if len(values) > SHOWN else "")
    raise ValueError(
        f"{source.name}: the labels are {shown}, and there are {len(names)} class names: the first class "
        "could have the label 0 or 1. Pass first_label=0 or first_label=1."
    )


def _names_of_samples(source: _Source) -> tuple[str, ...]:
    """The class names of all samples."""
    names = source.facts[0].truth.class_names
    for index, facts in enumerate(source.facts):
        if facts.truth.class_names != names:
            raise ValueError(
                f"{source.place(index)}: its class names are {list(facts.truth.class_names)}, those of item "
                f"0 are {list(names)}; expected the same in all items."
            )
    return names


def _skeleton(truths: Sequence[Instances]) -> Skeleton | None:
    known = [truth for truth in truths if truth.keypoints is not None]
    if not known:
        return None
    own = next((truth.skeleton for truth in known if truth.skeleton is not None), None)
    counts = {truth.keypoints.shape[1] for truth in known if truth.keypoints is not None}
    return own or Skeleton(numbered_keypoints(max(counts)))


def _picture(builder: DatasetBuilder, source: _Source, index: int, labels: Labels) -> Picture:
    """An item with its usable objects."""
    facts = source.facts[index]
    truth = facts.truth
    path = truth.path or Path(source.name) / f"item_{index}"
    picture = Picture(path, truth.size, facts.image_id, image=partial(source.pixels, index))
    kept = []
    for number, ((x1, y1, x2, y2), label) in enumerate(
        zip(truth.boxes.tolist(), labels.tolist(), strict=True)
    ):
        name = f"object {number}"
        box = builder.usable_box((x1, y1, x2, y2), picture, name)
        if box is not None:
            kept.append(number)
            found = Annotation(box, label, name)
            found.keypoints = None if truth.keypoints is None else truth.keypoints[number]
            found.crowd = truth.crowd is not None and bool(truth.crowd[number])
            found.difficult = truth.difficult is not None and bool(truth.difficult[number])
            found.area = None if truth.areas is None else float(truth.areas[number])
            picture.annotations.append(found)
    picture.masks = partial(source.masks, index, kept) if facts.has_masks else None
    picture.semantic = partial(source.semantic, index) if facts.has_semantic else None
    return picture


def _sample(item: Any, index: int, place: str) -> Sample:
    """An item of any form as a sample, with unchanged labels.

    Raises:
        ValueError: it has another form.
    """
    if isinstance(item, Sample):
        return item
    if not isinstance(item, tuple | list) or len(item) != 2 or not isinstance(item[1], Mapping):
        raise ValueError(
            f"{place}: expected an rcnn.Sample, or an image and a dict with boxes and labels; found "
            f"{type(item).__name__}. Wrap torchvision's own data sets by wrap_dataset_for_transforms_v2."
        )
    image, target = _pixels(item[0], place), item[1]
    size = (int(image.shape[0]), int(image.shape[1]))
    masks = _masks(target.get("masks"), size, place)
    boxes = _boxes(target.get("boxes"), masks, place)
    if "labels" not in target:
        raise ValueError(
            f"{place}: its dict has no labels; it has {', '.join(map(str, target)) or 'nothing'}."
        )
    labels = _array(target["labels"]).reshape(-1)
    if len(labels) and labels.dtype.kind not in "iu":
        raise ValueError(f"{place}: expected labels as whole numbers; found {labels.dtype}.")
    present: dict[str, Array] = {
        name: _array(target[name]).astype(kind) for name, kind in FIELDS.items() if name in target
    }
    lengths = {"labels": labels, **present} | ({} if masks is None else {"masks": masks})
    for name, values in lengths.items():
        if len(values) != len(boxes):
            raise ValueError(f"{place}: {len(values)} {name}, but {len(boxes)} boxes; expected one for each.")
    points = present.get("keypoints")
    truth = Instances(
        size, boxes, labels.astype(np.int64), masks=masks, keypoints=None if points is None else points,
        crowd=present.get("iscrowd"), areas=present.get("area"),
    )  # fmt: skip
    return Sample(image, truth, _image_id(target, index))


def _image_id(target: Mapping[str, Any], index: int) -> int | str:
    found = target.get("image_id", index)
    return found if isinstance(found, str) else int(_array(found).reshape(-1)[0])


def _pixels(image: Any, place: str) -> npt.NDArray[np.uint8]:
    """uint8 ``[H, W, 3]``."""
    if isinstance(image, Image.Image):
        return to_rgb(image)
    array = _array(image)
    if hasattr(image, "detach") and array.ndim == 3:  # a tensor: channels first
        array = array.transpose(1, 2, 0)
    try:
        return all_channels(array)
    except ValueError as error:
        raise ValueError(f"{place}: {error}") from error


def _boxes(found: Any, masks: Masks | None, place: str) -> npt.NDArray[np.float32]:
    """float32 ``[N, 4]``; without boxes, those of the masks."""
    if found is None:
        if masks is None:
            raise ValueError(f"{place}: its dict has neither boxes nor masks.")
        return masks.boxes()
    layout = getattr(getattr(found, "format", None), "value", "XYXY")  # of torchvision's tv_tensors
    boxes = _array(found).astype(np.float32)
    if layout != "XYXY" or (boxes.size and (boxes.ndim != 2 or boxes.shape[1] != 4)):
        raise ValueError(f"{place}: expected boxes [N, 4], x1 y1 x2 y2; found {layout} {list(boxes.shape)}.")
    return boxes.reshape(-1, 4)


def _masks(found: Any, size: Size, place: str) -> Masks | None:
    if found is None:
        return None
    bitmaps = _array(found)
    if bitmaps.size == 0:
        return Masks.empty(size)
    if bitmaps.shape[1:] != size:
        raise ValueError(
            f"{place}: expected masks [N, {size[0]}, {size[1]}], as its image; found {list(bitmaps.shape)}."
        )
    return Masks.from_dense(bitmaps)


def _array(value: Any) -> Array:
    """A tensor, array or list as an array; a tensor on the CPU shares its memory."""
    return np.asarray(value.detach().cpu().numpy() if hasattr(value, "detach") else value)
