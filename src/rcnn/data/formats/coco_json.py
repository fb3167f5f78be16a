"""Common parts of COCO's instances, keypoints and panoptic files: JSON, images and categories."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from rcnn.data.builder import DatasetBuilder
from rcnn.data.formats.coco_forms import whole_number
from rcnn.data.formats.contents import ANNOTATION_FOLDERS
from rcnn.data.problems import shortened
from rcnn.io.images import visible_files
from rcnn.io.json_text import parse_json

Entry = dict[str, Any]
SCANNED = 1 << 22  # bytes of a file looked at together


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
    parts = dict.fromkeys(part.resolve() for name in ANNOTATION_FOLDERS if (part := folder / name).is_dir())
    below = [folder / part.name for part in parts]
    return [file for part in (folder, *below) for file in visible_files(part, "*.json")]


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
    names = (b'"images"', b'"annotations"', b'"categories"', b'"segments_info"')
    found: set[bytes] = set()
    with file.open("rb") as content:
        before = b""
        while chunk := content.read(SCANNED):
            window = before + chunk
            found |= {name for name in names if name in window}
            before = window[-max(map(len, names)) :]
    return _Marks(found.issuperset(names[:3]), names[3] in found)


def load_coco(path: Path) -> dict[str, list[Any]]:
    """The content of a COCO file, with its top level checked.

    Raises:
        ValueError: the file is missing, not JSON, or lacks COCO's lists.
    """
    try:
        content = parse_json(path.read_bytes())
    except FileNotFoundError as error:
        raise ValueError(f"{path}: there is no such file.") from error
    except OSError as error:
        raise ValueError(f"{path}: the file cannot be read ({error.strerror}).") from error
    except ValueError as error:
        raise ValueError(f"{path}: this is not JSON ({error}). Export the annotations again.") from error
    if not isinstance(content, dict):
        found = _described(content)
        raise ValueError(
            f"{path}: expected a JSON object with images, annotations, categories; found {found}."
        )
    content |= {key: _as_list(content[key]) for key in ("images", "annotations") if key in content}
    if all(isinstance(content.get(k), list) for k in ("images", "annotations", "categories")):
        content["images"] = [with_file_name(entry) for entry in content["images"]]
        return content
    entries = content.get("_via_img_metadata", content)
    if isinstance(entries, dict) and any(isinstance(e, dict) and "regions" in e for e in entries.values()):
        raise ValueError(f"{path}: this is a file of the VGG Image Annotator; use --format via.")
    found = shortened([f"{str(k)[:30]} ({type(v).__name__})" for k, v in content.items()]) or "nothing"
    raise ValueError(f"{path}: expected COCO's lists images, annotations, categories; found {found}.")


def _described(content: Any) -> str:
    """What a JSON value is that is not an object, and what to do with it."""
    first = content[0] if isinstance(content, list) and content else None
    if not isinstance(first, dict):
        return f"a {type(content).__name__}"
    if "score" in first and "category_id" in first:
        return "a list of predictions: measure them with rcnn evaluate DATA --predictions FILE"
    return f"a list of objects with {shortened([str(key)[:30] for key in first]) or 'nothing in them'}"


def _as_list(entries: Any) -> Any:
    """The entries of an object whose keys are their ids, as LIVECell has it."""
    if not isinstance(entries, dict) or not all(isinstance(entry, dict) for entry in entries.values()):
        return entries
    return [{"id": whole_number(key), **entry} for key, entry in entries.items()]


def with_file_name(entry: Any) -> Any:
    """An image of LVIS, which has an address alone, with a file name: the folder and the file."""
    if not isinstance(entry, dict) or "file_name" in entry or not isinstance(entry.get("coco_url"), str):
        return entry
    path = entry["coco_url"].partition("://")[2] or entry["coco_url"]
    return {**entry, "file_name": "/".join(path.split("/")[-2:])}


def is_panoptic(annotations: list[Any]) -> bool:
    """Whether annotations are COCO's panoptic ones: one per image, with its segments."""
    return any(isinstance(entry, dict) and "segments_info" in entry for entry in annotations)


def is_crowd(entry: Mapping[str, Any]) -> bool:
    """Whether an annotation or segment is marked as crowd, in any spelling of yes and no."""
    marked = entry.get("iscrowd", 0)
    if isinstance(marked, str):
        return marked.strip().lower() not in ("", "0", "0.0", "false", "no", "none")
    return marked not in (0, None, False)


class CrowdMarks:
    """Reads ``iscrowd``, and reports once what is neither 0 nor 1."""

    def __init__(self, builder: DatasetBuilder) -> None:
        self.builder = builder
        self.odd: dict[bool, list[str]] = {False: [], True: []}  # places, by how they are read

    def read(self, entry: Mapping[str, Any], name: str) -> bool:
        """Whether the annotation or segment of this name is a crowd."""
        crowd, marked = is_crowd(entry), entry.get("iscrowd")
        if marked not in (0, 1, None):
            self.odd[crowd].append(f"{name} ({str(marked)[:20]!r})")
        return crowd

    def report(self) -> None:
        """Add the warning, if there is reason."""
        ways = ((True, "crowd regions, which nothing is learned from"), (False, "single objects"))
        said = [
            f"{len(found)} as {what}: {shortened(found)}"
            for crowd, what in ways
            if (found := self.odd[crowd])
        ]
        if said:
            what = f"iscrowd is neither 0 nor 1; read {'; '.join(said)}."
            self.builder.warn(
                what, "Write 1 for regions with objects that are not drawn singly, else 0.", "iscrowd"
            )


def has_fields(entry: Any, **types: type | tuple[type, ...]) -> bool:
    """Whether a JSON value is an object that has these fields with values of these types."""
    if not isinstance(entry, dict):
        return False
    for name, kinds in types.items():
        value = entry.get(name)
        if not isinstance(value, kinds) or isinstance(value, bool):
            return False
    return True
