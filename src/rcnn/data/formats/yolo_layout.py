"""The layout of YOLO data: where its settings, images and text files are."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field, replace
from pathlib import Path

from rcnn.data.formats.folders import (
    SPLIT_WORDS,
    Sides,
    has_file,
    has_images,
    is_split_into_folders,
    opposite_of,
    sides_of,
)
from rcnn.data.formats.lookup import plain_name, reach_of, without_code
from rcnn.data.formats.yolo_lines import fields_of
from rcnn.data.formats.yolo_settings import (
    DATA_ENDING,
    NAMES_FILES,
    YAML_ENDINGS,
    existing_splits,
    find_by_end,
    load_settings,
    names_in,
    settings_in,
    split_entries,
)
from rcnn.io.atomic import read_lines
from rcnn.io.folders import is_file, is_folder
from rcnn.io.images import IMAGE_ENDINGS, image_files, visible_files

ABOVE = 4  # number of folders above the images that are searched for settings
NO_NAMES = "YOLO labels without class names; add a data.yaml, or classes.txt with one name per line"
LOOKED_AT = 20  # text files read to recognise a folder of them
CODED = "*-"  # stands for the code of Label Studio in the names of text files


@dataclass(frozen=True)
class YoloPlace:
    """The files of a data set.

    Attributes:
        source: the given path: the settings, a folder of images, or a list of images.
        settings: the file of :mod:`rcnn.data.formats.yolo_settings`; None if there is none.
        images: the folders and lists of the images.
        labels: the folder of the text files, if it does not follow from that of the images.
        notes: what is worth a warning.
        foreign: settings nearby that do not name these images.
    """

    source: Path
    settings: Path | None
    images: tuple[Path, ...]
    labels: Path | None = None
    notes: tuple[str, ...] = ()
    foreign: Path | None = None


@dataclass
class LabelFinder:
    """Finds the text file of an image.

    Attributes:
        images: the folder of all images, if the text files are in a folder that does not mirror its name.
        labels: that folder.
    """

    images: Path | None = None
    labels: Path | None = None
    folders: dict[Path, Path] = field(default_factory=dict)
    texts: dict[Path, dict[str, list[Path]]] = field(default_factory=dict)

    def find(self, image: Path) -> Path:
        """The text file of an image; it need not exist.

        Otherwise, the only one whose name differs just in case, in the Unicode form of accents, or in the
        image's extension before ``.txt``; or in the code that Label Studio puts before one of the names.
        """
        named = self._named(image)
        if is_file(named):
            return named
        texts = self._texts_in(named.parent)
        bare = without_code(image.stem)
        other = f"{CODED}{bare}" if bare == image.stem else bare  # one of the two has a code
        alike = texts.get(plain_name(image.stem)) or texts.get(plain_name(other)) or []
        return alike[0] if len(alike) == 1 else named

    def _texts_in(self, folder: Path) -> dict[str, list[Path]]:
        """The text files of a folder by their plain names without extensions."""
        if folder not in self.texts:
            found: dict[str, list[Path]] = defaultdict(list)
            files = visible_files(folder) if is_folder(folder) else []
            for file in (f for f in files if f.suffix.lower() == ".txt" and f.is_file()):
                stem = file.with_suffix("")
                name = stem.stem if stem.suffix.lower() in IMAGE_ENDINGS else stem.name
                if file.name not in NAMES_FILES:
                    found[plain_name(name)].append(file)
                    if (bare := without_code(name)) != name:
                        found[plain_name(f"{CODED}{bare}")].append(file)
            self.texts[folder] = dict(found)
        return self.texts[folder]

    def _named(self, image: Path) -> Path:
        beside = image.with_suffix(".txt")
        if is_file(beside):
            return beside
        if self.labels is not None:
            within = self.images is not None and self.images in image.parents
            below = image.relative_to(self.images) if within and self.images else Path(image.name)
            mirrored = (self.labels / below).with_suffix(".txt")
            return mirrored if is_file(mirrored) else self.labels / f"{image.stem}.txt"
        return self._folder(image.parent, label_path(image).parent) / f"{image.stem}.txt"

    def _folder(self, images: Path, usual: Path) -> Path:
        if images not in self.folders:
            there = usual != images and usual.is_dir()
            self.folders[images] = usual if there else opposite_of(images, has_texts) or usual
        return self.folders[images]


def find_yolo(path: Path, split: str | None = None, images: Path | None = None) -> YoloPlace | None:
    """The YOLO data at a path, None if there are none.

    A path may be the settings, their folder, a folder of images with its text files, or a list of images.
    With ``images``, it is the folder of the text files.

    Raises:
        ValueError: unusable settings, or several splits without ``split``.
    """
    if images is not None:
        return _of_labels(path, images)
    if path.suffix.lower() in (*YAML_ENDINGS, DATA_ENDING):
        return _of_settings(path, split)
    if path.is_file():
        return _of_list(path)
    if not path.is_dir():
        return None
    own = settings_in(path)
    sides = _sides(path)
    if own is not None and (existing_splits(own) or len(sides) != 1):
        return _of_settings(own, split)
    if own is not None:
        note = f"No path in {own.name} exists; read were {sides[0].images.name}/ and its text files."
        return YoloPlace(path, own, (sides[0].images,), sides[0].annotations, notes=(note,))
    if len(sides) == 1:
        names = names_in(path) or names_in(sides[0].annotations)
        return replace(_with_names(path, sides[0].images, names), labels=sides[0].annotations)
    if (path / "images").is_dir() and not has_images(path / "images") and has_texts(path / "labels"):
        return _with_names(path, path / "images", names_in(path) or names_in(path / "labels"))
    if _texts_beside(path) or opposite_of(path, has_texts) is not None:
        return _with_names(path, path, names_in(path))
    return None


def is_yolo(path: Path, split: str | None = None, images: Path | None = None) -> bool:
    """Whether a path is YOLO data with class names; see :func:`find_yolo`."""
    place = _place(path, split, images)
    return place is not None and place.settings is not None


def lacks_names(path: Path) -> bool:
    """Whether a path is YOLO data of which only the class names are missing."""
    place = _place(path, None, None)
    return place is not None and place.settings is None


def label_path(image: Path) -> Path:
    """The text file of an image: next to it, or with ``labels`` for the last ``images`` of its path."""
    beside = image.with_suffix(".txt")
    if is_file(beside):
        return beside
    parts = list(image.parts)
    for index in range(len(parts) - 2, -1, -1):
        if parts[index] == "images":
            parts[index] = "labels"
            break
    return Path(*parts).with_suffix(".txt")


def has_texts(folder: Path) -> bool:
    """Whether a folder, or a folder below it, has text files that look like labels."""
    if not has_file(folder, (".txt",)):
        return False
    files = (f for f in sorted(folder.rglob("*.[tT][xX][tT]")) if not f.name.startswith("."))
    texts = [
        f for f, _ in zip((f for f in files if f.name not in NAMES_FILES), range(LOOKED_AT), strict=False)
    ]
    return bool(texts) and (folder.name == "labels" or any(map(_looks_like_labels, texts)))


def _looks_like_labels(file: Path) -> bool:
    """Whether the first line of a text file is a class and numbers, or the file is empty."""
    try:
        with file.open(encoding="utf-8-sig") as lines:
            words = fields_of(next((line for line in lines if line.strip()), ""))
    except (OSError, UnicodeDecodeError):
        return False
    return not words or (len(words) >= 5 and all(_is_number(word) for word in words))


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _place(path: Path, split: str | None, images: Path | None) -> YoloPlace | None:
    # A list of VOC may have a yaml file above it.
    if not path.exists() or path.parent.parent.name == "ImageSets":
        return None
    return find_yolo(path, split, images)


def _texts_beside(folder: Path) -> bool:
    """Whether images have text files next to them that look like labels, as labelImg and darknet save."""
    texts = [f.with_suffix(".txt") for f in image_files(folder)[: 10 * LOOKED_AT]]
    found = [f for f in texts if f.is_file()][:LOOKED_AT]
    return any(map(_looks_like_labels, found))


def _sides(path: Path) -> list[Sides]:
    """The pairs of folders below a path; those of a data set in splits are opened one by one."""
    found = [sides for sides in sides_of(path, has_texts) if sides.images != path]
    return [sides for sides in found if not is_split_into_folders(sides.images)]


def _of_labels(path: Path, images: Path) -> YoloPlace | None:
    sides = sides_of(path, has_texts)
    labels = sides[0].annotations if sides else path
    names = names_in(labels) or names_in(path) or settings_in(path)
    place = _with_names(path, images, names, start=labels) if has_texts(labels) else None
    return None if place is None else replace(place, labels=labels)


def _of_list(path: Path) -> YoloPlace | None:
    """The images of a list, if it has lines that are paths of images."""
    if path.suffix != ".txt" or path.name in NAMES_FILES:
        return None
    try:
        listed = next((line for line in read_lines(path) if line), "")
    except ValueError:  # another encoding
        return None
    if not listed.lower().endswith(IMAGE_ENDINGS):
        return None
    image, _ = find_by_end(listed, (path.parent, path.parent.parent), reach_of(path))
    settings, foreign = _settings_above(path, image)
    settings = names_in(path.parent) if settings is None else settings
    return None if settings is None else YoloPlace(path, settings, (path,), foreign=foreign)


def _with_names(source: Path, images: Path, names: Path | None, start: Path | None = None) -> YoloPlace:
    """A folder of images with the settings above it that name it, or with a list of names."""
    if names is not None:
        return YoloPlace(source, names, (images,))
    settings, foreign = _settings_above((start or images) / "image")
    return YoloPlace(source, settings, (images,), foreign=foreign)


def _of_settings(file: Path, split: str | None) -> YoloPlace:
    entries = split_entries(file, load_settings(file))
    there = existing_splits(file)
    if split is None and len(there or entries) > 1:
        places = [path for name in there or entries for path in entries[name].paths]
        parts = ", ".join(str(place.resolve() if there else place) for place in places)
        raise ValueError(f"{file}: YOLO data with several splits; name one of their images: {parts}.")
    if not entries:
        raise ValueError(f"{file}: expected train: or val: with a folder or list of images.")
    name = split or next(iter(there or entries))
    if name not in entries:
        raise ValueError(f"{file}: there is no split {name}; available: {', '.join(entries)}.")
    found, notes = entries[name], []
    if found.is_moved and file.suffix != DATA_ENDING:  # CVAT writes data/ before every path
        shown = ", ".join(map(str, found.paths))
        notes.append(f"{', '.join(found.named)} does not exist on this machine; read as {shown}.")
    gone = [other for other in entries if other not in there and other != name]
    if split is None and gone:
        notes.append(f"The images of {', '.join(gone)} do not exist; only {name} is read.")
    return YoloPlace(file, file, found.paths, notes=tuple(notes))


def _settings_above(path: Path, image: Path | None = None) -> tuple[Path | None, Path | None]:
    """The nearest settings or names above a path; and settings that are not about it, or about ``image``."""
    foreign = None
    for folder in list(path.parents)[:ABOVE]:
        file = settings_in(folder)
        if file is not None and _names_images(file, image or path):
            return file, None
        foreign = foreign or file
        names = names_in(folder)
        if names is not None:
            return names, None
    return None, foreign


def _names_images(file: Path, path: Path) -> bool:
    """Whether settings are about a path: it is in one of their splits, or they have none that exist."""
    try:
        splits = [found for found in split_entries(file, load_settings(file)).values() if found.exist]
    except ValueError:
        return False
    whole = path.resolve()
    if splits:
        roots = [entry.resolve() for found in splits for entry in found.paths]
        lists = any(is_file(root) for root in roots)
        return lists or any(root == whole or root in whole.parents for root in roots)
    # Without images of their own they can be meant for the folders next to them.
    near = file.parent.resolve()
    return whole.parent == near or whole.parents[1] == near or _role_between(near, whole)


def _role_between(near: Path, path: Path) -> bool:
    """Whether only folders such as ``train/images`` are between a folder and a path below it."""
    if near not in path.parents:
        return False
    between = path.relative_to(near).parts[:-1]
    return all(part.lower() in (*SPLIT_WORDS, "images", "labels") for part in between)
