"""Writers of annotation formats: what each can hold, and what of the objects it cannot.

Every writer is given the images one by one, their files being copied already to where ``image_folder`` says.
What it leaves out it says to :class:`DroppedContent`, object by object.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar
from xml.etree import ElementTree

import numpy as np
import numpy.typing as npt
from PIL import Image

from rcnn.data.dataset import Dataset
from rcnn.structures import DEFAULT_SIGMA, Instances, Skeleton
from rcnn.structures.outlines import as_one_polygon, trace

MAX_UINT16 = 65535
APART = 0.5  # pixels between a box and its outline's beyond which they differ


@dataclass
class DroppedContent:
    """What was left out, kind by kind: the places.

    Attributes:
        places: of each kind, where; an image and the number of an object in it, counted from 1, or a class.
    """

    places: dict[str, list[str]] = field(default_factory=dict)

    def note(self, kind: str, place: str) -> None:
        """Count one more of a kind."""
        self.places.setdefault(kind, []).append(place)


@dataclass(frozen=True)
class Item:
    """One image on its way.

    Attributes:
        image: the copied file; its stem is unlike that of all others.
        truth: its objects, with masks where there are any.
        numbers: what each object is called in :class:`DroppedContent`.
        image_id: as in the record.
    """

    image: Path
    truth: Instances
    numbers: tuple[int, ...]
    image_id: int | str

    def place(self, index: int) -> str:
        """What an object is called."""
        return f"{self.image.name}, object {self.numbers[index]}"

    def only(self, wanted: npt.NDArray[np.bool_]) -> Item:
        """The image with some of its objects."""
        numbers = tuple(n for n, keep in zip(self.numbers, wanted.tolist(), strict=True) if keep)
        return replace(self, truth=self.truth[wanted], numbers=numbers)


class Writer:
    """One format; ``add`` every image, then ``finish``."""

    holds: frozenset[str] = frozenset()  # of: crowds, difficult, outlines, keypoints
    image_folder: ClassVar[str] = "images"

    def __init__(self, folder: Path, dataset: Dataset, dropped: DroppedContent) -> None:
        self.folder = folder
        self.dataset = dataset
        self.dropped = dropped

    def image_path(self, name: str) -> Path:
        """Where an image of this name belongs."""
        return self.folder / self.image_folder / name

    def add(self, item: Item) -> None:
        """Write one image's objects."""
        self.write(self._sifted(item))

    def write(self, item: Item) -> None:
        """Write what the format can hold."""
        raise NotImplementedError

    def finish(self) -> None:
        """Write what belongs to all images together."""

    def _sifted(self, item: Item) -> Item:
        """The image without the marks and the objects that the format has no place for, each noted."""
        truth = item.truth
        marks = {
            "difficult": ("marks difficult", truth.difficult),
            "keypoints": (
                "keypoints",
                None if truth.keypoints is None else (truth.keypoints != 0).any(2).any(1),
            ),
            "outlines": ("outlines", None if truth.masks is None else np.ones(len(truth), np.bool_)),
            "crowds": ("crowd regions", truth.crowd),
        }
        for held, (kind, present) in marks.items():
            if held not in self.holds and present is not None:
                for index in np.flatnonzero(present).tolist():
                    self.dropped.note(kind, item.place(index))
        if truth.semantic is not None:
            self.dropped.note("semantic maps", item.image.name)
        if "crowds" not in self.holds and truth.crowd is not None:
            return item.only(~truth.crowd)
        return item

    def _drop(self, item: Item, wrong: npt.NDArray[np.bool_], kind: str) -> Item:
        """The image without some objects that are lost as a whole."""
        for index in np.flatnonzero(wrong).tolist():
            self.dropped.note(kind, item.place(index))
        return item.only(~wrong)

    def _with_outline(self, item: Item) -> Item:
        """The image with those objects that have an outline with a pixel."""
        masks = item.truth.masks
        if masks is None:
            return self._drop(item, np.ones(len(item.truth), dtype=np.bool_), "objects without outline")
        return self._drop(item, masks.areas() == 0, "objects with an empty outline")

    def _note_boxes(self, item: Item) -> None:
        """Boxes that are not those around their outlines, which is what such formats give back."""
        assert item.truth.masks is not None
        away = np.abs(item.truth.boxes - item.truth.masks.boxes())
        for index in np.flatnonzero((away > APART).any(1)).tolist():
            self.dropped.note("boxes other than around the outline", item.place(index))

    def _note_classes(self) -> None:
        """The names of the classes, where the format has one without a name."""
        counts = Counter(int(v) for r in self.dataset.records for v in r.truth.labels.tolist())
        if self.dataset.class_names != ("object",):
            for label, name in enumerate(self.dataset.class_names):
                self.dropped.note("names of classes", f"{name} ({counts[label]} objects)")


class CocoWriter(Writer):
    """COCO JSON; outlines as run-length codes, which hold every pixel, holes and parts."""

    holds = frozenset({"crowds", "outlines", "keypoints"})

    def __init__(self, folder: Path, dataset: Dataset, dropped: DroppedContent) -> None:
        super().__init__(folder, dataset, dropped)
        self.images: list[dict[str, Any]] = []
        self.annotations: list[dict[str, Any]] = []
        self.ids = dataset.category_ids or tuple(range(1, len(dataset.class_names) + 1))
        self.keep_ids = all(isinstance(r.image_id, int) for r in dataset.records)

    def write(self, item: Item) -> None:
        """Collect one image and its objects."""
        image_id = item.image_id if self.keep_ids else len(self.images) + 1
        height, width = item.truth.size
        entry = {"id": image_id, "file_name": item.image.name, "height": height, "width": width}
        self.images.append(entry)
        truth = item.truth
        areas = (truth.boxes[:, 2:] - truth.boxes[:, :2]).prod(1)
        if truth.areas is not None:
            areas = truth.areas
        elif truth.masks is not None:
            areas = truth.masks.areas()
        crowd = np.zeros(len(truth), np.bool_) if truth.crowd is None else truth.crowd
        for result, area, is_crowd in zip(
            truth.to_coco(image_id, self.ids), areas.tolist(), crowd.tolist(), strict=True
        ):
            del result["score"]
            if truth.keypoints is not None:
                self._fix_points(result)
            number = len(self.annotations) + 1
            self.annotations.append({"id": number, "iscrowd": int(is_crowd), "area": area, **result})

    def _fix_points(self, result: dict[str, Any]) -> None:
        """Points that are not annotated are 0 0 0 in COCO, and counted out."""
        values = result["keypoints"]
        triples = [values[i : i + 3] for i in range(0, len(values), 3)]
        triples = [[x, y, int(seen)] if seen else [0, 0, 0] for x, y, seen in triples]
        result["keypoints"] = [v for triple in triples for v in triple]
        result["num_keypoints"] = sum(triple[2] > 0 for triple in triples)

    def finish(self) -> None:
        """Write the JSON file."""
        skeleton = self.dataset.skeleton
        points: dict[str, Any] = {}
        if skeleton is not None:
            _note_partners(skeleton, self.dropped)
            bones = [[a + 1, b + 1] for a, b in skeleton.bones]
            points = {"keypoints": skeleton.names, "skeleton": bones, "sigmas": skeleton.sigmas}
        categories = [
            {"id": number, "name": name, **points}
            for number, name in zip(self.ids, self.dataset.class_names, strict=True)
        ]
        content = {"images": self.images, "annotations": self.annotations, "categories": categories}
        target = self.folder / "annotations.json"
        target.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


def _note_partners(skeleton: Skeleton, dropped: DroppedContent) -> None:
    """COCO has no mirrored keypoints; readers take them from the names."""
    guessed = Skeleton(skeleton.names).mirror
    for name, ours, theirs in zip(skeleton.names, skeleton.mirror, guessed, strict=True):
        if ours != theirs:
            dropped.note("mirrored keypoints unlike their names", name)


class VocWriter(Writer):
    """Pascal VOC's boxes; corners with decimals where they do not lie between pixels."""

    holds = frozenset({"difficult"})
    image_folder = "JPEGImages"

    def write(self, item: Item) -> None:
        """Write one XML file."""
        sides = item.truth.boxes[:, 2:] - item.truth.boxes[:, :2]
        narrow: npt.NDArray[np.bool_] = np.any(sides <= 1, axis=1)
        item = self._drop(item, narrow, "boxes of one pixel or less, which VOC takes for slips")
        truth = item.truth
        root = ElementTree.Element("annotation")
        _leaf(root, "folder", self.image_folder)
        _leaf(root, "filename", item.image.name)
        size = ElementTree.SubElement(root, "size")
        for name, value in zip(("height", "width", "depth"), (*truth.size, 3), strict=True):
            _leaf(size, name, value)
        hard = [False] * len(truth) if truth.difficult is None else truth.difficult.tolist()
        for name, box, difficult in zip(truth.names, truth.boxes.tolist(), hard, strict=True):
            thing = ElementTree.SubElement(root, "object")
            _leaf(thing, "name", name)
            _leaf(thing, "difficult", int(difficult))
            corners = ElementTree.SubElement(thing, "bndbox")
            x1, y1, x2, y2 = box
            for corner, value in zip(("xmin", "ymin", "xmax", "ymax"), (x1 + 1, y1 + 1, x2, y2), strict=True):
                _leaf(corners, corner, f"{value:.10g}")
        ElementTree.indent(root)
        folder = self.folder / "Annotations"
        folder.mkdir(exist_ok=True)
        ElementTree.ElementTree(root).write(folder / f"{item.image.stem}.xml", "utf-8")

    def finish(self) -> None:
        """Log which classes do not come back as they are: VOC has only the names at the objects."""
        seen = {label for r in self.dataset.records for label in r.truth.labels.tolist()}
        folded = Counter(name.casefold() for name in self.dataset.class_names)
        for label, name in enumerate(self.dataset.class_names):
            if label not in seen:
                self.dropped.note("classes without an object", name)
            elif folded[name.casefold()] > 1:
                self.dropped.note("classes that differ in upper and lower case only", name)


def _leaf(parent: ElementTree.Element, name: str, value: object) -> None:
    ElementTree.SubElement(parent, name).text = str(value)


class YoloWriter(Writer):
    """YOLO: keypoints with boxes if there are any, else outlines if there are any, else boxes."""

    def __init__(self, folder: Path, dataset: Dataset, dropped: DroppedContent) -> None:
        super().__init__(folder, dataset, dropped)
        self.kind = "keypoints" if dataset.skeleton else "outlines" if dataset.has_masks else "boxes"
        self.holds = frozenset({self.kind})

    def write(self, item: Item) -> None:
        """Write one text file."""
        if self.kind == "outlines":
            item = self._with_outline(item)
            self._note_boxes(item)
        height, width = item.truth.size
        scale = np.array([width, height])
        lines: dict[str, None] = {}  # in order, each once
        for index, fractions in enumerate(self._rows(item, scale)):
            label = int(item.truth.labels[index])
            line = " ".join([str(label), *(f"{value:.10g}" for value in fractions)])
            if line in lines:
                self.dropped.note("objects that occur twice", item.place(index))
            else:
                lines[line] = None
        folder = self.folder / "labels"
        folder.mkdir(exist_ok=True)
        text = "".join(f"{line}\n" for line in lines)
        (folder / f"{item.image.stem}.txt").write_text(text, encoding="utf-8")

    def _rows(self, item: Item, scale: npt.NDArray[np.int64]) -> Iterator[list[float]]:
        """What follows the class in each line."""
        if self.kind == "outlines":
            assert item.truth.masks is not None
            windows = item.truth.masks.windows.tolist()
            for index, (patch, (x, y, _, _)) in enumerate(
                zip(item.truth.masks.patches(), windows, strict=True)
            ):
                parts, holes = trace(patch.astype(bool), (y, x))
                if holes:
                    self.dropped.note("outlines with holes, which are filled", item.place(index))
                yield (as_one_polygon(parts) / scale).reshape(-1).tolist()
            return
        corners = item.truth.boxes.astype(np.float64)
        boxes = np.concatenate([(corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]], 1)
        for index, box in enumerate(boxes / np.tile(scale, 2)):
            row = box.tolist()
            if self.kind == "keypoints":
                assert item.truth.keypoints is not None
                points = item.truth.keypoints[index].astype(np.float64)
                points[:, :2] /= scale
                row += points.reshape(-1).tolist()
            yield row

    def finish(self) -> None:
        """Write ``data.yaml``."""
        import yaml

        content: dict[str, Any] = {
            "train": "images",
            "names": dict(enumerate(self.dataset.class_names)),
        }
        skeleton = self.dataset.skeleton
        if skeleton is not None:
            names = {label: list(skeleton.names) for label in range(len(self.dataset.class_names))}
            content |= {"kpt_shape": [len(skeleton.names), 3], "flip_idx": list(skeleton.mirror)}
            content["kpt_names"] = names
            for a, b in skeleton.bones:
                self.dropped.note("bones of the skeleton", f"{skeleton.names[a]} to {skeleton.names[b]}")
            for name, sigma in zip(skeleton.names, skeleton.sigmas, strict=True):
                if sigma != DEFAULT_SIGMA:
                    self.dropped.note("sigmas of keypoints", f"{name}: {sigma:g}")
        text = yaml.dump(content, allow_unicode=True, sort_keys=False)
        (self.folder / "data.yaml").write_text(text, encoding="utf-8")


class MaskFolderWriter(Writer):
    """A folder an image, a picture an object."""

    holds = frozenset({"outlines"})

    def image_path(self, name: str) -> Path:
        """In a folder of its own."""
        return self.folder / Path(name).stem / "images" / name

    def write(self, item: Item) -> None:
        """Write the pictures of one image's objects."""
        item = self._with_outline(item)
        folder = self.folder / item.image.stem / "masks"
        folder.mkdir(parents=True)
        if item.truth.masks is None:
            return
        self._note_boxes(item)
        for number in range(len(item.truth)):
            bitmap = item.truth.masks[number].astype(np.uint8) * 255
            Image.fromarray(bitmap).save(folder / f"{number + 1:05d}.png")

    def finish(self) -> None:
        """Log which names are gone."""
        self._note_classes()


class LabelImageWriter(Writer):
    """A picture an image: small objects are drawn over larger ones."""

    holds = frozenset({"outlines"})

    def write(self, item: Item) -> None:
        """Write one picture of numbers, of 16 bits or, with more objects than these hold, of 32."""
        item = self._with_outline(item)
        numbers = np.zeros(item.truth.size, dtype=np.int32)
        masks = item.truth.masks
        if masks is not None:
            self._note_boxes(item)
            areas, windows = masks.areas(), masks.windows.tolist()
            patches = list(masks.patches())
            for index in np.argsort(-areas, kind="stable").tolist():
                x1, y1, x2, y2 = windows[index]
                numbers[y1:y2, x1:x2][patches[index].astype(bool)] = index + 1
            seen = np.bincount(numbers.reshape(-1), minlength=len(areas) + 1)[1:]
            self._note_hidden(item, seen, areas)
        folder = self.folder / "labels"
        folder.mkdir(exist_ok=True)
        if len(item.truth) > MAX_UINT16:
            Image.fromarray(numbers).save(folder / f"{item.image.stem}.tif")
        else:
            Image.fromarray(numbers.astype(np.uint16)).save(folder / f"{item.image.stem}.png")

    def _note_hidden(self, item: Item, seen: npt.NDArray[np.int64], areas: npt.NDArray[np.float32]) -> None:
        for index in np.flatnonzero(seen < areas).tolist():
            whole = "wholly hidden by others" if seen[index] == 0 else "that lose pixels to those over them"
            self.dropped.note(f"objects {whole}", item.place(index))

    def finish(self) -> None:
        """Log which names are gone."""
        self._note_classes()


WRITERS: dict[str, type[Writer]] = {
    "coco": CocoWriter,
    "voc": VocWriter,
    "yolo": YoloWriter,
    "masks": MaskFolderWriter,
    "labels": LabelImageWriter,
}
