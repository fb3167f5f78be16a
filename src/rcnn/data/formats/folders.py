"""The names that people give folders: of images, of annotations, and of the splits of a data set.

    images/      masks/            the words of ``IMAGE_WORDS`` and ``ANNOTATION_WORDS``, in any case
    train_images/  train_masks/    a word with a name that both folders share
    images/train/  masks/train/    the same folders below both
    train/ valid/ test/            splits: the words of ``SPLIT_WORDS``, also as part of a name

Nothing is decided by names alone: a reader also asks whether the folder has files of its kind.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from rcnn.io.images import IMAGE_ENDINGS, image_files, visible_files

# fmt: off
IMAGE_WORDS = frozenset((
    "image", "images", "img", "imgs", "jpegimages", "pngimages", "original", "originals", "photo", "photos",
    "picture", "pictures", "raw", "input", "inputs", "rawimage", "rawimages", "frames", "data",
))
ANNOTATION_WORDS = frozenset((
    "label", "labels", "mask", "masks", "pedmasks", "gt", "gts", "groundtruth", "annotation", "annotations",
    "annots", "annot", "ann", "anns", "xml", "xmls", "json", "jsons", "seg", "segs", "segmentation",
    "segmentations", "target", "targets", "instance", "instances",
))
# fmt: on
SPLIT_WORDS = {
    "train": "train",
    "training": "train",
    "trainset": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
    "testset": "test",
}  # fmt: skip
NOT_DATA = ("__MACOSX",)  # what zip programs add
LEVELS_ABOVE = 3  # number of folders above an image folder that may have their counterpart

HasFiles = Callable[[Path], bool]


class Sides(NamedTuple):
    """The two folders of a data set.

    Attributes:
        images: the folder of the images.
        annotations: the folder of the label images or text files.
        name: what the names of both have in common (``train`` for ``train_images``), otherwise empty.
    """

    images: Path
    annotations: Path
    name: str = ""


def split_of(name: str) -> str | None:
    """The split that a name stands for: ``train``, ``val`` or ``test``; None if it names none or several.

    >>> split_of("instances_train2017"), split_of("Valid"), split_of("trainval"), split_of("constrain")
    ('train', 'val', None, None)
    """
    words = {SPLIT_WORDS[word] for word in _words(name) if word in SPLIT_WORDS}
    return words.pop() if len(words) == 1 else None


def without_split(name: str) -> str:
    """What files of several splits have in common: the name without the word for its split, in lower case.

    >>> without_split("instances_Validation"), without_split("train2017_labels")
    ('instances', 'labels')
    """
    return " ".join(word for word in _words(name) if word not in SPLIT_WORDS)


def subfolders(folder: Path) -> list[Path]:
    """The visible folders in a folder, sorted."""
    if not folder.is_dir():
        return []
    return sorted(
        f for f in folder.iterdir() if f.is_dir() and not f.name.startswith(".") and f.name not in NOT_DATA
    )


def folders_below(folder: Path) -> Iterator[Path]:
    """The folder and all visible folders below it."""
    yield folder
    for below in subfolders(folder):
        yield from folders_below(below)


def images_below(folder: Path) -> list[Path]:
    """The image files of a folder and of all visible folders below it."""
    return [file for place in folders_below(folder) for file in image_files(place)]


def files_below(folder: Path, pattern: str) -> list[Path]:
    """The visible files of a folder, and of all visible folders below it, that match a pattern."""
    return [file for place in folders_below(folder) for file in visible_files(place, pattern)]


def has_file(folder: Path, endings: tuple[str, ...]) -> bool:
    """Whether a folder, or a folder below it, has a visible file with one of these extensions."""
    if not folder.is_dir():
        return False
    for _, folders, files in os.walk(folder):
        folders[:] = sorted(f for f in folders if not f.startswith(".") and f not in NOT_DATA)
        if any(name.lower().endswith(endings) and not name.startswith(".") for name in files):
            return True
    return False


def has_images(folder: Path) -> bool:
    """Whether a folder, or a folder below it, has an image file."""
    return has_file(folder, IMAGE_ENDINGS)


def sides_of(source: Path, has_files: HasFiles) -> list[Sides]:
    """The pairs of folders of images and of annotations at a path, best first.

    Args:
        source: the folder with both; or a folder of images whose counterpart is next to it, or next to a
            folder above it (``images/train`` with ``masks/train``).
        has_files: whether a folder contains annotations of the kind looked for.
    """
    folders = _with_roles(subfolders(source))
    images = {f: name for f, role, name in folders if role == "images" and has_images(f)}
    others = {f: name for f, role, name in folders if role == "annotations" and has_files(f)}
    pairs = [Sides(i, a, n) for i, n in images.items() for a, m in others.items() if n == m]
    if not pairs and len(images) == 1 and len(others) == 1:
        (image, name), (annotation, other) = *images.items(), *others.items()
        pairs = [] if name and other else [Sides(image, annotation)]
    opposite = None if pairs or not has_images(source) else opposite_of(source, has_files)
    return pairs if opposite is None else [Sides(source, opposite)]


def opposite_of(folder: Path, has_files: HasFiles) -> Path | None:
    """The folder of annotations that mirrors a folder of images; None if there is none or are several.

    Convention: ``cells/images/train`` has ``cells/masks/train``; ``cells/train_images`` has
    ``cells/train_masks``.
    """
    for level in (folder, *list(folder.parents)[:LEVELS_ABOVE]):
        siblings = _with_roles(subfolders(level.parent))
        own = next((name for other, role, name in siblings if other == level and role == "images"), None)
        mirrored = [
            other / folder.relative_to(level)
            for other, role, name in siblings
            if role == "annotations" and name == own
        ]
        found = [f for f in mirrored if f.is_dir() and has_files(f)]
        if len(found) == 1:
            return found[0]
    return None


def _with_roles(folders: list[Path]) -> list[tuple[Path, str, str]]:
    """Folders with what they are, and the rest of their names.

    Convention: next to ``train_masks``, a folder ``train`` is one of images.
    """
    found = [(folder, *_role(folder.name)) for folder in folders]
    named = {name for _, role, name in found if role == "annotations" and split_of(name)}
    return [(f, role or ("images" if name in named else ""), name) for f, role, name in found]


def is_image_folder(name: str) -> bool:
    """Whether a folder is one of images by its name."""
    return _role(name)[0] == "images"


def is_annotation_folder(name: str) -> bool:
    """Whether a folder is one of annotations by its name."""
    return _role(name)[0] == "annotations"


def has_file_itself(folder: Path, ending: str) -> bool:
    """Whether a folder has a visible file with an extension, not counting the folders below it."""
    return any(file.suffix.lower() == ending for file in visible_files(folder) if file.is_file())


def is_split_into_folders(folder: Path) -> bool:
    """Whether a folder has no images itself, but folders named as splits."""
    return not image_files(folder) and any(split_of(below.name) for below in subfolders(folder))


def _words(name: str) -> list[str]:
    """The words of a name, in lower case and without digits at their ends."""
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z][a-z])", " ", name)
    return [word for part in re.split(r"[\W_]+", spaced.lower()) if (word := part.rstrip("0123456789"))]


def _role(name: str) -> tuple[str, str]:
    """What a folder is by its name, ``images`` or ``annotations``, and the rest of the name.

    >>> _role("train_images"), _role("Ground Truth"), _role("label_images"), _role("notes")
    (('images', 'train'), ('annotations', ''), ('annotations', ''), ('', 'notes'))
    """
    if re.sub(r"[\W_]+", "", name.lower()) in ANNOTATION_WORDS:
        return "annotations", ""
    words = [word for word in re.split(r"[\W_]+", name.lower()) if word]
    rest = " ".join(word for word in words if word not in IMAGE_WORDS | ANNOTATION_WORDS)
    if ANNOTATION_WORDS.intersection(words):
        return "annotations", rest
    return ("images" if IMAGE_WORDS.intersection(words) else ""), rest
