"""Common parts of COCO's instances, keypoints and panoptic files: JSON, images and categories."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from rcnn.data.builder import DatasetBuilder, Picture
from rcnn.data.formats.lookup import find_file
from rcnn.data.formats.outlines import is_number
from rcnn.data.problems import shortened
from rcnn.io.images import ImageError, image_size, visible_files

Entry = dict[str, Any]
NO_SIZE = "Give width and height in pixels, or fix the image."


def is_instances(path: Path, images: Path | None = None) -> bool:
    """Whether a path is a COCO file, or a folder with one, that is not panoptic.

    Raises:
        ValueError: a folder with several COCO files.
    """
    file = _coco_file_in(path) if path.is_dir() else path
    return file is not None and _is_json(file) and _marks(file).coco and not _marks(file).panoptic


def is_panoptic_file(path: Path, images: Path | None = None) -> bool:
    """Whether a path is a COCO panoptic JSON file, or a folder with one.

    Raises:
        ValueError: a folder with several COCO files.
    """
    file = _coco_file_in(path) if path.is_dir() else path
    return file is not None and _is_json(file) and _marks(file).panoptic


def is_only_json(path: Path) -> bool:
    """Whether a path is a JSON file, or the folder of only one, in which COCO's reader explains the fault."""
    return len(_json_files(path)) == 1 if path.is_dir() else _is_json(path)


def coco_file(path: Path) -> Path:
    """The COCO file at a path: the path itself, or the file in that folder or in its ``annotations``.

    Raises:
        ValueError: a folder with no or several COCO files.
    """
    if not path.is_dir():
        return path
    files = _json_files(path)
    found = _coco_file_in(path) or (files[0] if len(files) == 1 else None)
    if found is None:
        raise ValueError(f"{path}: expected one COCO file in it or in annotations/; name the file.")
    return found


def _coco_file_in(folder: Path) -> Path | None:
    coco = [file for file in _json_files(folder) if _marks(file).coco]
    if len(coco) > 1:
        names = ", ".join(str(file.relative_to(folder)) for file in coco)
        raise ValueError(f"{folder}: it contains several COCO files; name one of them: {names}.")
    return coco[0] if coco else None


def _json_files(folder: Path) -> list[Path]:
    return [file for part in (folder, folder / "annotations") for file in visible_files(part, "*.json")]


def _is_json(file: Path) -> bool:
    return file.suffix.lower() == ".json" and file.is_file()


class _Marks(NamedTuple):
    """What the bytes of a JSON file reveal before it is parsed."""

    coco: bool
    panoptic: bool


def _marks(file: Path) -> _Marks:
    try:
        return _marks_of(file, file.stat().st_mtime_ns)
    except OSError:
        return _Marks(coco=False, panoptic=False)  # COCO's reader reports why


@lru_cache(maxsize=32)
def _marks_of(file: Path, changed: int) -> _Marks:
    content = file.read_bytes()
    lists = (b'"images"', b'"annotations"', b'"categories"')
    return _Marks(all(name in content for name in lists), b'"segments_info"' in content)


def load_coco(path: Path) -> dict[str, list[Any]]:
    """The content of a COCO file, with its top level checked.

    Raises:
        ValueError: the file is missing, not JSON, or lacks COCO's lists.
    """
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise ValueError(f"{path}: there is no such file.") from error
    except OSError as error:
        raise ValueError(f"{path}: the file cannot be read ({error.strerror}).") from error
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{path}: this is not JSON ({error}). Export the annotations again.") from error
    if not isinstance(content, dict):
        kind = "a list: of predictions?" if isinstance(content, list) else f"a {type(content).__name__}."
        raise ValueError(f"{path}: expected a JSON object with images, annotations, categories; found {kind}")
    if all(isinstance(content.get(k), list) for k in ("images", "annotations", "categories")):
        return content
    entries = content.get("_via_img_metadata", content)
    if isinstance(entries, dict) and any(isinstance(e, dict) and "regions" in e for e in entries.values()):
        raise ValueError(f"{path}: this is a file of the VGG Image Annotator (VIA); export it there as COCO.")
    found = shortened([f"{str(k)[:30]} ({type(v).__name__})" for k, v in content.items()]) or "nothing"
    raise ValueError(f"{path}: expected COCO's lists images, annotations, categories; found {found}.")


def is_panoptic(annotations: list[Any]) -> bool:
    """Whether annotations are COCO's panoptic ones: one per image, with its segments."""
    return any(isinstance(entry, dict) and "segments_info" in entry for entry in annotations)


def is_crowd(entry: Mapping[str, Any]) -> bool:
    """Whether an annotation or segment is marked as crowd, in any spelling of yes and no."""
    return entry.get("iscrowd", 0) not in (0, "0", None, False)


def has_fields(entry: Any, **types: type | tuple[type, ...]) -> bool:
    """Whether a JSON value is an object that has these fields with values of these types."""
    return isinstance(entry, dict) and all(
        isinstance(entry.get(k), t) and not isinstance(entry[k], bool) for k, t in types.items()
    )


def with_whole_numbers(entry: Any) -> Any:
    """An entry with integer ids where they are written as 1.0, as in exported tables."""
    if not isinstance(entry, dict):
        return entry
    ids = {k: entry[k] for k in ("id", "image_id", "category_id") if isinstance(entry.get(k), float)}
    return {**entry, **{k: int(v) for k, v in ids.items() if v.is_integer()}} if ids else entry


def usable_categories(builder: DatasetBuilder, entries: list[Any]) -> Iterator[tuple[str, Entry]]:
    """Yield the usable categories with their places in the file, and report the others."""
    seen: set[int] = set()
    for index, entry in enumerate(map(with_whole_numbers, entries)):
        place = f"categories[{index}]"
        if not has_fields(entry, id=int, name=str):
            what = f"A category needs an integer id and a text as name; found {entry!r:.80}."
            builder.report(what, "Complete it.", place)
        elif entry["id"] in seen:
            builder.report(f"The category id {entry['id']} occurs twice.", "Give each its own.", place)
        else:
            seen.add(entry["id"])
            yield place, entry


@dataclass
class CocoImages:
    """The images of a file by their ids.

    Attributes:
        builder: collects images and problems.
        folder: the folder to which file names are relative.
        pictures: the usable images.
        dropped: ids of unusable images, which are reported once and not again for each annotation.
    """

    builder: DatasetBuilder
    folder: Path
    pictures: dict[int | str, Picture] = field(default_factory=dict)
    dropped: set[int | str] = field(default_factory=set)

    def read(self, entries: list[Any]) -> None:
        """Read the images of a file."""
        listed: dict[Path, int | str] = {}
        for index, entry in enumerate(map(with_whole_numbers, entries)):
            if not has_fields(entry, id=(int, str), file_name=str):
                what = f"An image needs an id and a file_name; found {entry!r:.80}."
                self.builder.report(what, "Complete it.", f"images[{index}]")
                continue
            image_id, expected = entry["id"], self.folder / entry["file_name"]
            path = find_file(self.folder, entry["file_name"])
            place = f"image id {image_id}"
            if image_id in self.pictures or image_id in self.dropped:
                what = f"The image id {image_id} occurs twice; its annotations could belong to either image."
                files = [path or expected]
                files += [self.pictures[image_id].path] if image_id in self.pictures else []
                for file in files:
                    self.builder.report(what, "Give each image its own id.", place, file=file)
            elif path is None:
                self.dropped.add(image_id)
                what, advice = "The image file is missing.", "Add it, or delete its entry."
                self.builder.report(what, advice, place, file=expected)
            else:
                if path in listed:
                    what = f"The file is listed twice, with the ids {listed[path]} and {image_id}."
                    self.builder.report(what, "Keep one entry.", place, file=path)
                listed[path] = image_id
                self._add(path, entry, image_id)

    def _add(self, path: Path, entry: Entry, image_id: int | str) -> None:
        height, width = entry.get("height"), entry.get("width")
        place = f"image id {image_id}"
        if not (is_number(height) and is_number(width) and height >= 1 and width >= 1):
            if height is not None or width is not None:
                what = f"The annotated size is {width!r} by {height!r}."
                self.builder.report(what, NO_SIZE, place, file=path)
            try:
                height, width = image_size(path)
            except ImageError as error:
                self.dropped.add(image_id)
                self.builder.report(str(error).removeprefix(f"{path}: "), NO_SIZE, place, file=path)
                return
        picture = Picture(path, (int(height), int(width)), image_id)
        self.pictures[image_id] = self.builder.add(picture)

    def find(self, image_id: int | str, annotation: str) -> Picture | None:
        """The image of an annotation; an image that is not listed at all is reported."""
        picture = self.pictures.get(image_id)
        if picture is None and image_id not in self.dropped:
            what = f"There is no image with the id {image_id!r}."
            advice = "Add the image, correct image_id, or delete the annotation."
            self.builder.report(what, advice, annotation)
        return picture
