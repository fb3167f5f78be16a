"""WebDataset's tar shards with annotations as COCO has them, one JSON file per image.

    a.json: {"image": {"width": 640, "height": 480}, "annotations": [{"bbox": [x, y, w, h], …}, …]}   SA-1B
    a.instances.json: [{"bbox": …, "category_id": 18, "segmentation": …}, …]
    a.json: {"objects": {"bbox": [[x, y, w, h], …], "category": ["cat", …]}}

Conventions:
    Boxes, outlines and flags are those of :mod:`rcnn.data.formats.coco`. A class is the ``category_id`` of a
    category that ``categories.json`` beside the shards declares, or the JSON itself (``categories``); or a
    name (``category``, ``category_name``, ``label``, …). Without any, all objects are of one class. Without a
    size, that of the image counts.

Legend: I images.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt

from rcnn.data.builder import Picture
from rcnn.data.dataset import Dataset, LazyRecords, Record
from rcnn.data.flat import Facts, FlatBuilder, FlatRecords, FlatStore
from rcnn.data.formats.annotated import UNNAMED
from rcnn.data.formats.coco import CocoReader
from rcnn.data.formats.coco_categories import usable_categories
from rcnn.data.formats.coco_forms import number, whole_number
from rcnn.data.formats.coco_images import CocoImages
from rcnn.data.formats.coco_keypoints import read_skeleton
from rcnn.data.formats.image_folder import BOXES, CLASSES, objects_of
from rcnn.data.formats.json_stream import no_collections
from rcnn.data.formats.outlines import is_number
from rcnn.data.formats.shard_records import RowImage
from rcnn.data.formats.tar_places import PlacesBuilder, TarPlaces
from rcnn.data.formats.tar_shards import Span, TarSample, explained, samples_of
from rcnn.data.problems import Problem, shortened
from rcnn.io.images import ImageError, image_size
from rcnn.io.json_text import parse_json

CATEGORIES = "categories.json"
NAMES = ("category_name", "class_name", *CLASSES)  # of what says the class of an annotation
EXPECTED = (
    "Expected a list of COCO's annotations, or an object with annotations, or with objects that have bbox "
    "and category"
)


class Annotated(NamedTuple):
    """What the JSON of a sample says.

    Attributes:
        image: of the image: ``width``, ``height``, ``id``.
        annotations: as in COCO.
        categories: likewise, if it declares any.
    """

    image: Mapping[str, Any]
    annotations: Sequence[Any]
    categories: Sequence[Any]


def read_coco_samples(format: str, path: Path, files: Sequence[Path]) -> Dataset:
    """Open shards whose samples have annotations as COCO has them.

    Args:
        format: the name of the format.
        path: what was named.
        files: the shards.

    Raises:
        ValueError: a damaged shard, or categories that cannot be read; the message names the file.
    """
    builder = FlatBuilder(format, path, "crowd", "outlines")
    samples = _Samples(builder, files)
    with no_collections():
        dataset = samples.read()
    records = dataset.records
    assert isinstance(records, LazyRecords)
    assert isinstance(records.source, FlatRecords)
    source = records.source
    return replace(
        dataset, records=LazyRecords(TarFlatRecords(source.store, source.facts, samples.places.build()))
    )


class TarFlatRecords(FlatRecords):
    """Records of a store, with their images in tar files."""

    def __init__(self, store: FlatStore, facts: Facts, places: TarPlaces) -> None:
        """Records of the samples at these places."""
        super().__init__(store, facts)
        self.places = places

    def folders(self) -> set[Path]:
        """None: no image is a file of its own."""
        return set()

    def record(self, number: int) -> Record:
        """The record of an image."""
        found, row = super().record(number), self.places.row(number)
        return replace(found, image=RowImage(row, str(found.path.relative_to(row.file))))

    def read_ahead(self, number: int) -> None:
        """Begin to read the block of an image."""
        self.places.read_ahead(number)

    def shards_of(self, indices: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """The block of each of some images, which are read together."""
        return self.places.shards_of(indices)


class _Content(NamedTuple):
    """A part of an open file, not read yet."""

    opened: BinaryIO
    span: Span

    def read(self) -> bytes:
        """Its bytes."""
        self.opened.seek(self.span.offset)
        return self.opened.read(self.span.size)


class _Samples:
    """Reads samples one after the other, and hands their annotations to COCO's reader.

    Attributes:
        builder: collects images, objects and problems.
        places: where the usable samples are.
        has_list: whether there is a file of categories.
        declared: the ids of categories that samples declare.
        ids: of categories, by their names.
        keys: of the samples of a shard.
        bare: samples without annotations.
        numbered: whether classes are called by numbers, for want of names.
        pointed: samples whose objects have keypoints that no category names.
    """

    def __init__(self, builder: FlatBuilder, files: Sequence[Path]) -> None:
        self.builder, self.files = builder, files
        self.places = PlacesBuilder()
        self.images = CocoImages(builder, builder.source)
        declared = tuple(usable_categories(builder, _declared(files[0].parent / CATEGORIES)))
        self.reader = CocoReader(builder, declared, self.images)
        read_skeleton(builder, declared, ())
        self.has_list = bool(declared)
        self.ids = {entry["name"]: entry["id"] for _, entry in declared}
        self.declared: set[int] = set()
        self.keys: set[str] = set()
        self.bare: list[str] = []
        self.numbered = False
        self.pointed: list[str] = []

    def read(self) -> Dataset:
        """The data set, with all problems."""
        dataset = self.reader.read(self._annotations())
        problems = list(dataset.problems)
        source = self.builder.source
        if self.bare:
            what = f"{len(self.bare)} samples have an image and no JSON: {shortened(self.bare)}."
            advice = "They are skipped; an image without objects has an empty list. Are members that share a "
            advice += "key next to each other (tar --sort=name)?"
            problems.append(Problem(source, what, advice, severity="warning"))
        if self.numbered:
            what = f"Objects have numbers as classes, and there is no {CATEGORIES} beside the shards."
            advice = "Classes are called by their numbers; name them there, as the categories of a COCO file."
            problems.append(Problem(source, what, advice, severity="warning"))
        if self.pointed:
            what = f"{len(self.pointed)} samples have keypoints that no category names: "
            what += f"{shortened(self.pointed)}."
            advice = f"They are ignored; list the keypoints in {CATEGORIES}, as in a COCO file."
            problems.append(Problem(source, what, advice, "keypoints", severity="warning"))
        return replace(dataset, problems=tuple(problems))

    def _annotations(self) -> Iterator[Any]:
        """Yield the annotations of all usable samples, whose images are known by then."""
        for file in self.files:
            self.keys.clear()
            with explained(file), file.open("rb") as opened:
                for sample in samples_of(file):
                    yield from self._of_sample(file, opened, sample)

    def _of_sample(self, file: Path, opened: BinaryIO, sample: TarSample) -> Iterator[Any]:
        image, annotations = sample.image(), sample.annotations()
        name = sample.key if image is None else f"{sample.key}.{image[0]}"
        path = Path(file, name)
        if image is None and annotations is None and not sample.faults:
            return  # such as a text about all of them
        if sample.key in self.keys:
            what = f"The key {sample.key} occurs again in this shard."
            advice = "Members of a sample have to be next to each other (tar --sort=name), and keys unique."
            self._report(path, what, advice)
            return
        self.keys.add(sample.key)
        if image is None:
            sample.faults.append("It has annotations and no image.")
        if sample.faults:
            self._report(path, " ".join(sample.faults), "Write the shard again.")
            return
        if annotations is None:
            self.bare.append(sample.key)
            return
        assert image is not None
        found = self._parsed(path, _Content(opened, annotations).read())
        if found is None:
            return
        picture = self._picture(path, sample.key, found, _Content(opened, image[1]))
        if picture is None:
            return
        self.places.add(file, sample, image[1], annotations)
        for index, entry in enumerate(found.annotations):
            yield self._entry(entry, picture, f"{picture.image_id}[{index}]")

    def _parsed(self, path: Path, text: bytes) -> Annotated | None:
        """The content of the JSON of a sample; None, with a problem, if it cannot be used."""
        try:
            value = parse_json(text)
        except ValueError as error:
            self._report(path, f"Its annotations are not JSON ({error}).", "Write them again.")
            return None
        found = annotated(value)
        if found is None:
            self._report(path, f"{EXPECTED}; found {value!r:.80}.", "Write the annotations so.")
            return None
        self._declare(path, found.categories)
        return found

    def _declare(self, path: Path, categories: Sequence[Any]) -> None:
        """Take the categories that a sample declares."""
        new = [entry for entry in categories if entry not in [known for _, known in self.reader.categories]]
        for place, entry in usable_categories(self.builder, new):
            known = next((c for _, c in self.reader.categories if c["id"] == entry["id"]), None)
            if known is None:
                self.declared.add(entry["id"])
                self._add_category(place, entry)
            elif known["name"] != entry["name"]:
                what = f"The category {entry['id']} is {entry['name']!r}, and {known['name']!r} elsewhere."
                self._report(path, what, "Give each class its own id in all samples.")

    def _add_category(self, place: str, entry: dict[str, Any]) -> None:
        self.reader.declare(place, entry)
        self.ids.setdefault(entry["name"], entry["id"])

    def _picture(self, path: Path, key: str, found: Annotated, content: _Content) -> Picture | None:
        """The image of a sample, added; None, with a problem, if it cannot be used."""
        given: Iterator[Any] = (found.image.get(name) for name in ("id", "image_id"))
        # Other shards may have the same keys.
        own = key if key not in self.images.pictures else f"{Path(content.opened.name).stem}/{key}"
        image_id: int | str = next((value for value in given if type(value) in (int, str)), own)
        if image_id in self.images.pictures:
            what = f"The image id {image_id} is that of {self.images.pictures[image_id].path}, too."
            self._report(path, what, "Give each image its own id.")
            return None
        height, width = number(found.image.get("height")), number(found.image.get("width"))
        if not (is_number(height) and is_number(width) and height >= 1 and width >= 1):
            try:
                height, width = image_size(path, content=content.read())
            except ImageError as error:
                self._report(path, str(error).removeprefix(f"{path}: "), "Fix the image.")
                return None
            self.builder.note_unsized(path, content.read())
        picture = self.builder.add(Picture(path, (int(height), int(width)), image_id))
        self.images.pictures[image_id] = picture
        return picture

    def _entry(self, entry: Any, picture: Picture, name: str) -> Any:
        """An annotation as COCO's reader takes it: with its image, a name of its own and a known category."""
        if not isinstance(entry, dict):
            return entry
        if self.builder.skeleton is None and entry.get("keypoints"):
            self.pointed.append(name)
            entry = {key: value for key, value in entry.items() if key != "keypoints"}
        return {**entry, "id": name, "image_id": picture.image_id, "category_id": self._category(entry)}

    def _category(self, entry: Mapping[str, Any]) -> Any:
        """The id of a category that is known; what is written, if it cannot be one."""
        written = whole_number(entry.get("category_id"))
        if type(written) is int and (self.has_list or written in self.declared):
            return written
        found = next((entry[name] for name in NAMES if isinstance(entry.get(name), str)), None)
        if found is None:
            found = next((entry[name] for name in NAMES if entry.get(name) is not None), UNNAMED)
            if type(found) is not int and found != UNNAMED:
                return found
            self.numbered |= type(found) is int
        name = str(found)
        if name not in self.ids and self.has_list:
            return name  # which is reported
        if name not in self.ids:
            free = type(written) is int and written not in self.reader.known
            own = written if free else max(self.reader.known, default=0) + 1
            self._add_category("categories", {"id": own, "name": name})
        return self.ids[name]

    def _report(self, path: Path, what: str, advice: str) -> None:
        self.builder.report(what, advice, file=path)


def annotated(value: Any) -> Annotated | None:
    """What the JSON of a sample says; None if it is of no known form."""
    if isinstance(value, list):
        return Annotated({}, value, ()) if all(isinstance(entry, dict) for entry in value) else None
    if not isinstance(value, dict):
        return None
    images = value.get("images")
    first = images[0] if isinstance(images, list) and len(images) == 1 else value.get("image")
    image = first if isinstance(first, dict) else value
    categories = value.get("categories")
    declared = categories if isinstance(categories, list) and _are_categories(categories) else ()
    if isinstance(value.get("annotations"), list):
        return Annotated(image, value["annotations"], declared)
    if not isinstance(value.get("objects"), list | dict) and not any(name in value for name in BOXES):
        return None
    found = objects_of(value)
    if found is None:
        return None
    entries = [{"bbox": box, "category": label, "iscrowd": crowd} for box, label, crowd in found]
    return Annotated(image, entries, ())


def _are_categories(entries: Sequence[Any]) -> bool:
    return all(isinstance(entry, dict) and "name" in entry for entry in entries)


def _declared(file: Path) -> Sequence[Any]:
    """The categories in a file beside the shards; none if there is no such file.

    Raises:
        ValueError: it has none.
    """
    if not file.is_file():
        return ()
    try:
        found = parse_json(file.read_bytes())
    except (OSError, ValueError) as error:
        raise ValueError(f"{file}: it cannot be read as JSON ({error})") from error
    entries = found.get("categories") if isinstance(found, dict) else found
    if not isinstance(entries, list):
        raise ValueError(f"{file}: expected a list of categories, or a COCO file; found {found!r:.60}")
    return entries
