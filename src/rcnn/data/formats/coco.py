"""COCO JSON: boxes, outlines (polygons and run-length codes), crowds, keypoints.

Convention:
    ``bbox`` is x, y, width, height: ``[10, 20, 5, 6]`` becomes the box ``10 20 15 26``. Keypoints are pixel
    indices in the file: ``[3, 4, 2]`` becomes ``3.5 4.5 2``; those with visibility 0 become ``0 0 0``.

Outlines are drawn when a sample is used (:meth:`rcnn.Masks.from_outlines`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rcnn.data.builder import Annotation, DatasetBuilder, Picture
from rcnn.data.dataset import Dataset
from rcnn.data.flat import FlatBuilder
from rcnn.data.formats import coco_forms as forms
from rcnn.data.formats.coco_categories import read_categories, usable_categories
from rcnn.data.formats.coco_forms import whole_number, with_whole_numbers
from rcnn.data.formats.coco_images import CocoImages
from rcnn.data.formats.coco_json import CrowdMarks, Entry, coco_file, has_fields, is_panoptic, load_coco
from rcnn.data.formats.coco_keypoints import read_keypoints, read_skeleton
from rcnn.data.formats.coco_large import (
    LARGE_BYTES,
    NotStreamableError,
    arrays_folder,
    keep,
    kept_dataset,
    streamed_lists,
)
from rcnn.data.formats.coco_plain import PlainAnnotations
from rcnn.data.formats.coco_suspicions import Suspicions
from rcnn.data.formats.coco_text import CocoText
from rcnn.data.formats.image_index import image_folder
from rcnn.data.formats.json_stream import no_collections
from rcnn.data.formats.lookup import LISTED_SINGLY
from rcnn.data.formats.outlines import (
    MAX_COORDINATE,
    is_number,
    joined_rle,
    polygon_fault,
    rle_bounds,
    rle_fault,
)
from rcnn.data.formats.writer import Described, DroppedContent, FileWriter, Item, Written
from rcnn.data.problems import Box, shortened
from rcnn.structures import Outline, Skeleton
from rcnn.structures.coco import category_entries


def read_coco(json_path: str | Path, images: str | Path | None = None) -> Dataset:
    """Open a COCO JSON file of instances or keypoints.

    All declared categories become classes, in the order of their ids. Images are searched in the folder of
    the file and in its ``images``, in folders named after the file or the first or last part of its name
    (``train2017`` for ``instances_train2017.json``), and in all of these one level up.

    Args:
        json_path: the annotation file, or the folder that contains it.
        images: the folder to which its file names are relative, if it is elsewhere.

    Raises:
        ValueError: the file is missing or not a COCO instances file, or the images are not found.
    """
    path = coco_file(Path(json_path))
    if path.is_file() and path.stat().st_size >= LARGE_BYTES:
        with contextlib.suppress(NotStreamableError):
            return kept_dataset(path, images) or _read_large(path, images)
    content = load_coco(path)
    if is_panoptic(content["annotations"]):
        raise ValueError(
            f"{path}: this is a panoptic file; expected an instances file (boxes with category_id). "
            "rcnn.open_data reads both."
        )
    builder = DatasetBuilder("coco", path, "crowd", "outlines")
    reader = _reader(builder, content, image_folder(path, content["images"], images))
    read_skeleton(builder, reader.categories, content["annotations"])
    return reader.read(content["annotations"])


def _reader(builder: DatasetBuilder, content: dict[str, list[Any]], folder: Path) -> CocoReader:
    """A reader of the annotations of a file, which knows its categories and images."""
    categories = tuple(usable_categories(builder, content["categories"]))
    images = CocoImages(builder, folder)
    reader = CocoReader(builder, categories, images)
    images.read(content["images"])
    return reader


def _read_large(path: Path, images: str | Path | None) -> Dataset:
    """Open a file without ever having all of it in memory.

    Raises:
        NotStreamableError: it has to be read at once.
        ValueError: the images are not found.
    """
    with arrays_folder(path, images) as folder, no_collections():
        try:
            content, annotations = streamed_lists(path)
            builder = FlatBuilder("coco", path, "crowd", "outlines", folder=folder)
            reader = _reader(builder, content, image_folder(path, content["images"], images))
            read_skeleton(builder, reader.categories, ())
            has_skeleton = builder.skeleton is not None
            dataset = reader.read(annotations, partial(_streamable, has_skeleton=has_skeleton))
        except (ValueError, RecursionError) as error:
            raise NotStreamableError from error  # read at once, it is explained
        # A file that is missing may be there the next time.
        complete = all(problem.file.exists() for problem in dataset.problems)
        return keep(dataset, folder, path, images) if folder is not None and complete else dataset


def _streamable(entry: Any, has_skeleton: bool) -> None:
    """Refuse an annotation that says that the file is of another kind."""
    if isinstance(entry, dict) and (
        "segments_info" in entry or (entry.get("keypoints") and not has_skeleton)
    ):
        raise NotStreamableError


def declare_categories(builder: DatasetBuilder, content: dict[str, list[Any]]) -> dict[int, int]:
    """Set the classes and the skeleton to those of a file; the label of each category id."""
    entries = content["annotations"]
    used = {
        whole_number(e.get("category_id")) for e in entries if has_fields(e, category_id=(int, float, str))
    }
    usable = tuple(usable_categories(builder, content["categories"]))
    categories = read_categories(builder, usable, used)
    builder.declare_classes(categories.names, categories.ids)
    read_skeleton(builder, usable, entries)
    return categories.labels


class CocoReader:
    """Collects usable annotations of instances, and all problems.

    Attributes:
        categories: the usable ones, with their places in the file.
        known: their ids.
        images: the usable images.
        plain: takes the annotations that need no closer look.
    """

    def __init__(
        self, builder: DatasetBuilder, categories: Sequence[tuple[str, Entry]], images: CocoImages
    ) -> None:
        """A reader of annotations that have these categories and images."""
        self.builder = builder
        self.suspicions = Suspicions(self.builder)
        self.crowds = CrowdMarks(self.builder)
        self.repeated: list[str] = []  # ids that occur again
        self.turned: list[str] = []  # annotations with a rotated box
        self.categories = tuple(categories)
        self.known = {entry["id"] for _, entry in self.categories}
        self.undeclared: dict[tuple[Path, int], list[str]] = {}  # annotations by image and category
        self.images = images
        self.plain = PlainAnnotations(builder, self.suspicions, self.images.pictures, self.known)

    def declare(self, place: str, entry: Entry) -> None:
        """Add a usable category, while annotations are being read."""
        self.categories = (*self.categories, (place, entry))
        self.known.add(entry["id"])

    def read(self, entries: Iterable[Any], look: Callable[[Any], None] | None = None) -> Dataset:
        """Read all annotations, report what concerns many of them once, and build the data set.

        Args:
            entries: the annotations.
            look: is called with each of those that are not plain.
        """
        broken: list[tuple[str, Any]] = []
        for index, entry in self._numbered(entries):
            if look is not None:
                look(entry)
            if has_fields(entry, image_id=(int, str), category_id=int):
                self._read(entry, index)
            else:
                broken.append((f"annotations[{index}]", entry))
        self._report_ids(broken, self.plain.total)
        self._report_undeclared()
        self.images.report_unlisted()
        if self.repeated:
            what = f"{len(self.repeated)} annotation ids occur more than once: {shortened(self.repeated)}."
            self.builder.warn(what, "All annotations are used; number them if other programs refuse them.")
        if self.turned:
            what = f"{len(self.turned)} boxes are rotated (attributes.rotation): {shortened(self.turned)}."
            self.builder.warn(what, "The upright boxes around them are used.", "boxes")
        self.crowds.report()
        self.suspicions.report()
        categories = read_categories(self.builder, self.categories, self.plain.used)
        self.builder.declare_classes(categories.names, categories.ids)
        self.builder.relabel(categories.labels)
        return self.builder.build()

    def _numbered(self, entries: Iterable[Any]) -> Iterator[tuple[int, Any]]:
        """The annotations to look at one by one, with their indices."""
        if self.builder.skeleton is None:
            yield from self.plain.rest(entries)
            return
        for index, entry in enumerate(entries):
            self.plain.total = index + 1
            yield index, with_whole_numbers(entry)

    def _read(self, entry: Entry, index: int) -> None:
        """Read one annotation; its index identifies it if it has no id of its own."""
        own = entry.get("id")
        key = own if isinstance(own, int | str) else f"annotations[{index}]"
        name = str(key)
        if key in self.plain.seen:
            self.repeated.append(name)
            name = f"{name} (annotations[{index}])"
        self.plain.seen.add(key)
        self.plain.used.add(entry["category_id"])
        picture = self.images.find(entry["image_id"], name)
        if picture is None:
            return
        if entry["category_id"] not in self.known:
            self.undeclared.setdefault((picture.path, entry["category_id"]), []).append(name)
            return
        found = self._annotation(picture, entry, entry["category_id"], name)
        if found is not None:
            self.builder.put(picture, found)

    def _report_undeclared(self) -> None:
        """Report categories that annotations use and the file does not declare, once per image."""
        known = ", ".join(map(str, sorted(self.known))) or "none"
        for (path, category), names in self.undeclared.items():
            more = f", which {len(names)} annotations of the image give" if len(names) > 1 else ""
            what = f"There is no category with the id {category}{more}."
            advice = f"Declare it or correct category_id; the declared ids are {known}."
            self.builder.report(what, advice, shortened(names), file=path, objects=len(names))

    def _report_ids(self, broken: Sequence[tuple[str, Any]], total: int) -> None:
        """Report annotations without usable ids: one by one, or once if there are many."""
        for place, entry in broken[:LISTED_SINGLY]:
            values = entry if isinstance(entry, dict) else {}
            image_id, category = values.get("image_id"), values.get("category_id")
            found = f"{image_id!r} and {category!r}"
            what = f"Expected an image_id and an integer category_id; found {found}."
            # If the image is known, it can be skipped.
            owner = self.images.pictures.get(image_id) if isinstance(image_id, int | str) else None
            self.builder.report(what, "Complete it.", place, file=None if owner is None else owner.path)
        if rest := len(broken) - LISTED_SINGLY if len(broken) > LISTED_SINGLY else 0:
            what = f"In all, {len(broken)} of {total} annotations lack an image_id or an integer category_id."
            self.builder.report(what, "Complete them.", "annotations", objects=rest)

    def _annotation(self, picture: Picture, entry: Entry, label: int, name: str) -> Annotation | None:
        """The object, None if its box is unusable."""
        outline, bounds = self._outline(forms.outline(entry.get("segmentation")), picture, name)
        box = self._box(entry, bounds, picture, name)
        if box is None or self._is_empty_prediction(entry, picture, name):
            return None
        if bounds is not None:
            kind = "mask" if isinstance(outline, dict) else "polygons"
            self.suspicions.look_at_outline(bounds, box, kind, picture, name)
        area = forms.number(entry.get("area"))
        area = float(area) if isinstance(area, int | float) and 0 <= area < MAX_COORDINATE**2 else None
        points = None
        if self.builder.skeleton is not None:
            points = read_keypoints(self.builder, entry.get("keypoints"), picture, name)
        return Annotation(box, label, name, outline, points, crowd=self.crowds.read(entry, name), area=area)

    def _is_empty_prediction(self, entry: Entry, picture: Picture, name: str) -> bool:
        """Whether a model found a box without a pixel inside; the box alone would not be an object."""
        if "score" not in entry or entry.get("segmentation") != []:
            return False
        what = "The predicted mask is empty."
        self.builder.warn(what, "The object was left out; delete it or draw it.", name, file=picture.path)
        return True

    def _box(self, entry: Entry, bounds: Sequence[float] | None, picture: Picture, name: str) -> Box | None:
        """The usable box; without one of its own, that of the outline, whose ``bounds`` are given."""
        found = forms.box(entry.get("bbox"))
        if bounds is not None and (not found or found == [0, 0, 0, 0]):
            x1, y1, x2, y2 = bounds
            return self.builder.usable_box((x1, y1, x2, y2), picture, name)
        if (
            not isinstance(found, list)
            or len(found) != 4
            or not all(is_number(v, finite=False) for v in found)
        ):
            what = f"Expected bbox as four numbers x, y, width, height; found {found!r:.60}."
            advice = "Correct or delete it."
            if isinstance(found, list) and len(found) == 5:
                advice = "Rotated boxes are not read: give upright ones, or corners as segmentation."
            self.builder.report(what, advice, name, file=picture.path)
            return None
        x, y, w, h = (float(v) for v in found)
        self.suspicions.look_at_box(picture, entry, (x, y, w, h), name)
        if bounds is None and (turned := forms.turned_box((x, y, w, h), entry)) != (x, y, w, h):
            self.turned.append(name)
            x, y, w, h = turned
        return self.builder.usable_box((x, y, x + w, y + h), picture, name)

    def _outline(
        self, found: Any, picture: Picture, name: str
    ) -> tuple[Outline | None, Sequence[float] | None]:
        """The segmentation, checked and compacted, and its x1 y1 x2 y2; None if it is absent or broken."""
        if not found or (isinstance(found, list) and not any(found)):
            return None, None
        codes = found if isinstance(found, list) and isinstance(found[0], dict) else [found]
        if isinstance(codes[0], dict):
            fault = next((f for code in codes if (f := rle_fault(code, picture.size)) is not None), None)
        else:
            fault = polygon_fault(found)
        if fault is not None:
            advice = "Correct or delete the segmentation."
            self.builder.report(fault, advice, name, file=picture.path, is_outline_problem=True)
            return None, None
        if isinstance(codes[0], dict):
            code = joined_rle(codes, picture.size)
            bounds = rle_bounds(code)
            return (None, None) if bounds is None else (code, bounds)
        parts = [np.array(part, dtype=np.float64).reshape(-1, 2) for part in found if len(part) >= 6]
        if len(parts) < len(found):
            what = f"{len(found) - len(parts)} of {len(found)} polygon parts have fewer than three corners."
            self.builder.warn(what, "They were ignored; delete them.", name, file=picture.path)
        return (parts, _bounds(parts)) if parts else (None, None)


def _bounds(parts: Sequence[npt.NDArray[np.float64]]) -> tuple[float, ...]:
    """x1 y1 x2 y2 of polygons."""
    corners = np.concatenate(parts)
    return (*corners.min(0).tolist(), *corners.max(0).tolist())


class CocoWriter(FileWriter):
    """COCO JSON, with outlines as run-length codes, which keep every pixel, holes and parts.

    Predictions have a ``score``, and the number of an object in all images is the id of its annotation.
    """

    holds = frozenset({"crowds", "outlines", "keypoints"})
    keeps_logits = True
    file_name = "annotations.json"

    def __init__(self, folder: Path, dataset: Described, dropped: DroppedContent) -> None:
        super().__init__(folder, dataset, dropped)
        ids = dataset.category_ids or tuple(range(1, len(dataset.class_names) + 1))
        self._text = CocoText(category_entries(dataset.class_names, ids, dataset.skeleton), outlines="rle")
        self._keep_ids = dataset.has_number_ids

    def start(self) -> str:
        """What precedes the objects."""
        return self._text.start()

    def text(self, item: Item) -> str:
        """The objects of one image."""
        return self._text.text(self._id(item.image_id), item.truth)

    def note(self, written: Written) -> None:
        """Count an image, whose entry comes at the end."""
        count = sum(written.counts.values())
        self._text.note(self._id(written.image_id), written.name, written.size, count)
        super().note(written)

    def _id(self, image_id: int | str) -> int | str:
        return image_id if self._keep_ids else self.images + 1

    def end(self) -> str:
        """The images."""
        if self.dataset.skeleton is not None:
            _note_partners(self.dataset.skeleton, self.dropped)
        return self._text.end()


def _note_partners(skeleton: Skeleton, dropped: DroppedContent) -> None:
    """Note mirrored keypoints that readers cannot derive from the names, since COCO does not store them."""
    guessed = Skeleton(skeleton.names).mirror
    for name, ours, theirs in zip(skeleton.names, skeleton.mirror, guessed, strict=True):
        if ours != theirs:
            dropped.note("mirrored keypoints unlike their names", name)
