"""Which files are the masks of which image, for formats with one mask file per object.

<id>/images/<one image>   <id>/masks/*.png     as in the 2018 Data Science Bowl; the image is the <id>
images/a.png              masks/a/*.png        a folder per image
images/a.png              masks/a_0.png, …     the image's name, then anything
a.png                     a_mask_0.png, …      in one folder
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rcnn.data.formats.folders import has_images, images_below, split_of, subfolders
from rcnn.data.formats.label_pairs import label_names, label_sides
from rcnn.data.problems import Problem, shortened
from rcnn.io.images import image_files

SEPARATORS = "_-. "
LOOKED_AT = 20  # folders examined to recognise the layout
BESIDE = re.compile(r"(.+)[_-](?:mask|masks|instance|object|obj|cell)[_-]?\d+", re.IGNORECASE)


@dataclass
class MaskFiles:
    """An image with the files of its masks.

    Attributes:
        image: the image file.
        name: of the image, unique.
        folder: of the masks, for messages.
        masks: one file per object.
    """

    image: Path
    name: str
    folder: Path
    masks: list[Path] = field(default_factory=list)


def has_mask_files(source: Path, images: Path | None = None) -> bool:
    """Whether a path has one of the layouts, with one mask per object."""
    if not source.is_dir():
        return False
    return _has_folders(source, images) or bool(_masks_by_image(source, images))


def find_mask_files(source: Path, images: Path | None, problems: list[Problem]) -> list[MaskFiles]:
    """The images at a path with their masks; those that lack either are reported."""
    if _has_folders(source, images):
        folders = [f for f in subfolders(source) if (f / "images").is_dir() or (f / "masks").is_dir()]
        found = [_of_folder(folder, images, problems) for folder in folders]
        return [item for item in found if item is not None]
    groups = _masks_by_image(source, images)
    bare = [image.name for image, masks in groups.items() if not masks]
    if bare:
        what = f"{len(bare)} images have no mask: {shortened(bare)}."
        advice = "They are skipped; an empty folder masks/NAME/ stands for an image without objects."
        problems.append(Problem(source, what, advice, "images", "warning"))
    return [MaskFiles(i, i.stem, masks[0].parent, masks) for i, masks in groups.items() if masks]


def _has_folders(source: Path, images: Path | None) -> bool:
    """Whether a path has folders of one image with its masks, and none of images and their label images."""
    kinds = {_kind_of(folder, images) for folder in subfolders(source)[:LOOKED_AT]}
    return "masks" in kinds or ("either" in kinds and "labels" not in kinds)


def _kind_of(folder: Path, images: Path | None) -> str:
    """What a folder with ``images`` and ``masks`` has: masks of one image, label images, or either."""
    own, masks = folder / "images", folder / "masks"
    if not masks.is_dir():
        return ""
    if images is not None:
        return "masks" if any(file.stem == folder.name for file in image_files(images)) else ""
    if not own.is_dir():
        return ""
    pictures, names = image_files(own), {file.stem for file in image_files(masks)}
    if not pictures and has_images(own):
        return "labels"
    if not pictures and not names and any(own.iterdir()):
        return ""  # arrays, or other files that are no images
    if not pictures or not all(file.stem in names for file in pictures):
        return "masks"
    # One mask named like the image: of the only object of the image <id>, or a label image?
    single = len(names) == 1 and pictures[0].stem == folder.name and split_of(folder.name) is None
    return "either" if single else "labels"


def _of_folder(folder: Path, images: Path | None, problems: list[Problem]) -> MaskFiles | None:
    """The image of a folder with its masks; None, and a problem, if there is not exactly one."""
    own = folder / "images"
    if images is None:
        found = image_files(own)
    else:
        found = [file for file in image_files(images) if file.stem == folder.name]
    if len(found) != 1:
        names = f" ({shortened([file.name for file in found])})" if found else ""
        what = f"Expected one image in images/; found {len(found)}{names}."
        advice = "Add it, or move those elsewhere that the masks do not belong to."
        if len(found) > 1:
            advice = (
                "If masks/ has one label image for each, open this folder itself (--format labels); "
                "otherwise move those elsewhere that the masks do not belong to."
            )
        problems.append(Problem(folder, what, advice))
        return None
    if not (folder / "masks").is_dir():
        advice = "Annotate the image; an empty folder masks/ stands for an image without objects."
        problems.append(Problem(found[0], "The folder masks/ is missing.", advice))
        return None
    return MaskFiles(found[0], folder.name, folder / "masks", image_files(folder / "masks"))


def _masks_by_image(source: Path, images: Path | None) -> dict[Path, list[Path]]:
    """The masks of each image; empty if most mask files belong to no image, or one to each."""
    sides = label_sides(source, images)
    if sides is None:
        files = image_files(source)
        owned = {file: match[1] for file in files if (match := BESIDE.fullmatch(file.stem))}
        by_stem = {file.stem: file for file in files if file not in owned}
        owners = {mask: by_stem.get(stem) for mask, stem in owned.items()}
    else:
        pictures, masks = images_below(sides.images), images_below(sides.annotations)
        by_stem = {file.stem: file for file in pictures}
        owners = _owners(masks, by_stem)
    known = {mask: image for mask, image in owners.items() if image is not None}
    if 2 * len(known) <= len(owners):
        return {}
    groups: dict[Path, list[Path]] = {image: [] for image in by_stem.values()}
    for mask, image in known.items():
        groups[image].append(mask)
    return groups


def _owners(masks: Sequence[Path], by_stem: dict[str, Path]) -> dict[Path, Path | None]:
    """The image of each mask: named like its folder, or like the beginning of its name."""
    folders: dict[str, list[Path]] = defaultdict(list)
    for mask in masks:
        folders[mask.parent.name].append(mask)
    by_folder = sum(len(files) for name, files in folders.items() if name in by_stem)
    if 2 * by_folder > len(masks):
        return {mask: by_stem.get(mask.parent.name) for mask in masks}
    ordered = sorted(by_stem)
    numbered = [mask for mask in masks if not any(name in by_stem for name in label_names(mask.stem))]
    begun = {mask: by_stem.get(_beginning(mask.stem, ordered)) for mask in numbered}
    return {mask: begun.get(mask) for mask in masks}


def _beginning(stem: str, ordered: Sequence[str]) -> str:
    """The longest of the sorted names that a name begins with, followed by a separator; otherwise empty."""
    for end in range(len(stem) - 1, 0, -1):
        if stem[end] in SEPARATORS:
            place = bisect_right(ordered, stem[:end]) - 1
            if place >= 0 and ordered[place] == stem[:end]:
                return stem[:end]
    return ""
