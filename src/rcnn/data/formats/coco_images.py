"""The images of a COCO file, and where their files are."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from rcnn.data.builder import DatasetBuilder, Picture
from rcnn.data.formats.coco_forms import number, with_whole_numbers
from rcnn.data.formats.coco_json import Entry, has_fields
from rcnn.data.formats.image_index import find_below
from rcnn.data.formats.lookup import (
    FILES_ONLY_BELOW,
    find_file,
    find_other_extension,
    is_outside,
    leads_out,
    missing_files,
    reach_of,
)
from rcnn.data.formats.outlines import is_number
from rcnn.io.images import ImageError, image_size

NO_SIZE = "Give width and height in pixels, or fix the image."


def _file_names(folder: Path) -> set[str]:
    """The names of the files in a folder, which are found without looking for each."""
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries if entry.is_file()}
    except OSError:
        return set()


@dataclass
class CocoImages:
    """The images of a file by their ids.

    Attributes:
        builder: collects images and problems.
        folder: the folder to which file names are relative.
        pictures: the usable images.
        dropped: ids of unusable images, which are reported once and not again for each annotation.
        unlisted: annotations of images that are not listed, by the image id that they give.
    """

    builder: DatasetBuilder
    folder: Path
    pictures: dict[int | str, Picture] = field(default_factory=dict)
    dropped: set[int | str] = field(default_factory=set)
    unlisted: dict[int | str, list[str]] = field(default_factory=dict)

    def read(self, entries: Iterable[object]) -> None:
        """Read the images of a file."""
        listed: dict[Path, int | str] = {}
        missing: list[Path] = []
        reach = reach_of(self.builder.source, self.folder)
        elsewhere: list[Path] = []
        renamed: list[Path] = []
        there = _file_names(self.folder)
        for index, entry in enumerate(map(with_whole_numbers, entries)):
            if not has_fields(entry, id=(int, str), file_name=str):
                what = f"An image needs an id and a file_name; found {entry!r:.80}."
                self.builder.report(what, "Complete it.", f"images[{index}]", objects=0)
                continue
            image_id, name = entry["id"], entry["file_name"]
            path = self.folder / name if name in there else find_file(self.folder, name, reach)
            if path is None:
                path = find_below(self.folder, self.builder.source, name)
                elsewhere += [] if path is None else [path]
            if path is None:
                path = find_other_extension(self.folder, name)
                renamed += [] if path is None else [path]
            place = f"image id {image_id}"
            if image_id in self.pictures or image_id in self.dropped:
                what = f"The image id {image_id} occurs twice; its annotations could belong to either image."
                files = [path or self.folder / name]
                files += [self.pictures[image_id].path] if image_id in self.pictures else []
                for file in files:
                    self.builder.report(what, "Give each image its own id.", place, file=file, objects=0)
            elif path is None and is_outside(self.folder / name, reach):
                self.dropped.add(image_id)
                what = leads_out(name, reach)
                self.builder.report(what, FILES_ONLY_BELOW, place, objects=0)
            elif path is None:
                self.dropped.add(image_id)
                missing.append(self.folder / name)
            else:
                if path in listed:
                    what = f"The file is listed twice, with the ids {listed[path]} and {image_id}."
                    self.builder.report(what, "Keep one entry.", place, file=path, objects=0)
                listed[path] = image_id
                self._add(path, entry, image_id)
        self.builder.problems += missing_files(missing, len(missing) + len(listed))
        if renamed:
            what = (
                f"{len(renamed)} images have another extension than their entry, such as {renamed[0].name}."
            )
            self.builder.warn(what, "They are read; if these are the wrong files, rename them.")
        if elsewhere:
            what = f"{len(elsewhere)} images were found by name in other folders, such as {elsewhere[0]}."
            self.builder.warn(what, "If these are the wrong files, name the folder (--images).")

    def _add(self, path: Path, entry: Entry, image_id: int | str) -> None:
        height, width = number(entry.get("height")), number(entry.get("width"))
        place = f"image id {image_id}"
        if not (is_number(height) and is_number(width) and height >= 1 and width >= 1):
            if height is not None or width is not None:
                what = f"The annotated size is {width!r} by {height!r}."
                self.builder.report(what, NO_SIZE, place, file=path, objects=0)
            try:
                height, width = image_size(path)
                self.builder.note_unsized(path)
            except ImageError as error:
                self.dropped.add(image_id)
                what = str(error).removeprefix(f"{path}: ")
                self.builder.report(what, NO_SIZE, place, file=path, objects=0)
                return
        picture = Picture(path, (int(height), int(width)), image_id)
        self.pictures[image_id] = self.builder.add(picture)

    def find(self, image_id: int | str, annotation: str) -> Picture | None:
        """The image of an annotation, whose ids may be a number on one side and text on the other."""
        if image_id in self.pictures:
            return self.pictures[image_id]
        same = (image_id, str(image_id), *([number(image_id)] if isinstance(image_id, str) else []))
        found = next((self.pictures[one] for one in same if one in self.pictures), None)
        if found is None and isinstance(image_id, str):
            found = self._named.get(image_id)
        if found is None and not any(one in self.dropped for one in same):
            self.unlisted.setdefault(image_id, []).append(annotation)
        return found

    @cached_property
    def _named(self) -> dict[str, Picture]:
        """The images by their file names with and without extension, if these are unique."""
        names: dict[str, list[Picture]] = defaultdict(list)
        for picture in self.pictures.values():
            for name in dict.fromkeys((picture.path.name, picture.path.stem)):
                names[name].append(picture)
        return {name: found[0] for name, found in names.items() if len(found) == 1}

    def report_unlisted(self) -> None:
        """Report the annotations whose images the file does not list, once per image."""
        for image_id, names in self.unlisted.items():
            more = f", which {len(names)} annotations give" if len(names) > 1 else ""
            what = f"There is no image with the id {image_id!r}{more}."
            advice = "Add the image, correct image_id, or delete the annotations."
            self.builder.report(what, advice, names[0], objects=len(names))
