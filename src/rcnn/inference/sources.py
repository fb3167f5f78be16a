"""Which images are to be predicted: files and folders, each image under a name of its own."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

from rcnn.io.folders import is_there
from rcnn.io.images import IMAGE_ENDINGS
from rcnn.io.json_text import parse_json

# How data sets name the folders of their images, and those of the masks beside them.
IMAGE_FOLDERS = ("images", "Images", "PNGImages", "JPEGImages", "leftImg8bit")
RUN = "run.json"  # says of a folder what was predicted into it
PROGRESS = ".progress.jsonl"  # how far a prediction is
TRUTH_FOLDERS = ("masks", "labels", "PedMasks", "SegmentationClass", "SegmentationObject", "gtFine")


def find_images(inputs: Sequence[str | Path], exclude: Path | None = None) -> dict[str, Path]:
    """The image files among files and in folders, each under a unique name.

    The name is the path below the given folder with ``/`` between its parts. Where two names are equal, or
    differ only in upper and lower case, which some file systems ignore, the folder's own name is put before
    it, then a number. A file reached twice counts once. Hidden files, everything below ``exclude``, pictures
    that an earlier prediction wrote into a folder below, and the masks of a data set beside its images are
    left out.

    Raises:
        FileNotFoundError: an input that does not exist.
        ValueError: an input folder without images, or one inside ``exclude``.
    """
    named: dict[str, Path] = {}
    taken: set[str] = set()
    seen: set[Path] = set()
    for given in map(Path, inputs):
        for path in _images_of(given, exclude):
            if path.resolve() in seen:
                continue
            seen.add(path.resolve())
            below = path.relative_to(given if given.is_dir() else given.parent).as_posix()
            folder = (given if given.is_dir() else given.parent).resolve().name
            numbered = (f"{folder}-{i}/{below}" for i in itertools.count(2))
            names = itertools.chain((below, f"{folder}/{below}"), numbered)
            name = next(name for name in names if name.casefold() not in taken)
            named[name] = path
            taken.add(name.casefold())
    return named


def _images_of(given: Path, exclude: Path | None) -> list[Path]:
    """The file itself, or the image files at every depth of the folder."""
    if not is_there(given):
        raise FileNotFoundError(f"{given}: no such image or folder")
    if not given.is_dir():
        return [given]
    hidden = None if exclude is None else exclude.resolve()
    if hidden is not None and hidden in (given.resolve(), *given.resolve().parents):
        raise ValueError(f"{given}: these images are in the output folder {exclude}; choose another")
    is_written = cache(holds_predictions)
    found = [
        path
        for path in sorted(given.rglob("*"))
        if path.suffix.lower() in IMAGE_ENDINGS
        and not any(part.startswith(".") for part in path.relative_to(given).parts)
        and (hidden is None or hidden not in path.resolve().parents)
        and not any(is_written(given / folder) for folder in list(path.relative_to(given).parents)[:-1])
        and path.is_file()
    ]
    if not found:
        endings = " ".join(sorted(IMAGE_ENDINGS))
        raise ValueError(f"{given}: no images in this folder; looked for {endings}")
    return [path for path in found if not _is_truth(path, given)] or found


def _is_truth(path: Path, given: Path) -> bool:
    """Whether ``path`` is below ``given`` in a folder of masks that has a folder of images beside it."""
    folders = list(path.relative_to(given).parents)[:-1]
    return any(
        folder.name in TRUTH_FOLDERS and any((given / folder.parent / f).is_dir() for f in IMAGE_FOLDERS)
        for folder in folders
    )


def holds_predictions(folder: Path) -> bool:
    """Whether a folder was written by a prediction, whose ``run.json`` names the version of rcnn."""
    if (folder / PROGRESS).is_file():
        return True
    try:
        content = parse_json((folder / RUN).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and {"rcnn", "precision", "images"} <= content.keys()


def _image_id(value: object) -> int | str:
    """The id of an image as results have it.

    Raises:
        TypeError: a value of another type.
    """
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise TypeError(f"the id {value!r}")
    return value


def listed_ids(file: Path, images: Mapping[str, Path]) -> dict[str, int | str]:
    """The ids that a COCO file gives to images, by the images' names in :func:`find_images`.

    An image is found by its ``file_name``: whole or, if that is unique, without folders.

    Raises:
        ValueError: no COCO file, or images that it does not list.
    """
    try:
        entries = parse_json(file.read_text(encoding="utf-8"))["images"]
        listed = {str(entry["file_name"]): _image_id(entry["id"]) for entry in entries}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file}: expected a COCO file with images that have id and file_name") from error
    short = Counter(Path(name).name for name in listed)
    bare = {Path(name).name: i for name, i in listed.items() if short[Path(name).name] == 1}

    def id_of(name: str, path: Path) -> int | str | None:
        # A folder's own name may stand before the path below it.
        names = (name, name.partition("/")[2], path.name)
        return next((listed[n] for n in names[:2] if n in listed), bare.get(path.name))

    ids = {name: id_of(name, path) for name, path in images.items()}
    given: dict[int | str, str] = {}
    for name, found in ids.items():
        if found is not None and (other := given.setdefault(found, name)) != name:
            raise ValueError(
                f"{file}: {other} and {name} both match its image {found}; pass only one of them"
            )
    missing = [name for name, found in ids.items() if found is None]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise ValueError(f"{file}: does not list {missing[0]}{more}; pass only images that it lists")
    return {name: found for name, found in ids.items() if found is not None}
