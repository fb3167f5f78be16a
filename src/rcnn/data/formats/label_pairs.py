"""Find the label image of each image, whatever the two folders and files are called.

    images/a.png    labels/a.tif, masks/a_mask.png, gt/mask_a.png, masks/a.png.png, …
    a.png           a_label.tif, a_labels.…, a_mask.…, a_masks.…, a_cp_masks.…   in one folder
    a_img.png       a_masks.png

:mod:`rcnn.data.formats.folders` has the names of the folders. Subfolders that both sides share are followed.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePath

from rcnn.data.formats.folders import (
    Sides,
    has_images,
    images_below,
    is_split_into_folders,
    sides_of,
    split_of,
)
from rcnn.data.problems import Problem, shortened
from rcnn.io.images import IMAGE_ENDINGS, image_files, plain_stem

LABEL_MARKS = ("_cp_masks", "_masks", "_mask", "_labels", "_label")  # longest first; in one folder
MORE_LABEL_MARKS = (
    *LABEL_MARKS, "-masks", "-mask", "-labels", "-label", "_gt", "_seg", "_segmentation", "_annotation",
    "_instances", "_instance", "_L", "_GT", "_Mask", "_lab", "_color",
)  # fmt: skip
LABEL_PREFIXES = ("masks_", "mask_", "labels_", "label_", "gt_", "seg_", "mask-", "label-")
IMAGE_MARKS = ("_img", "_image")
IMAGE_PREFIXES = ("img_", "image_", "images_", "img-", "image-")
LISTED_SINGLY = 3  # label images without an image; more are counted

Pair = tuple[Path, Path]


def label_sides(source: Path, images: Path | None = None) -> Sides | None:
    """The folders of images and of label images at a path; None if it has no such folders.

    Args:
        source: as for :func:`rcnn.data.formats.folders.sides_of`; with ``images``, it may also be the folder
            of the label images.
        images: the folder of the images, if it is elsewhere.

    Raises:
        ValueError: two folders of label images, or pairs of folders that are not splits.
    """
    pairs = [sides for sides in sides_of(source, has_images) if not is_split_into_folders(sides.images)]
    if images is not None:
        own = pairs[0].annotations if pairs else source
        # Below the source, the images are no label images.
        beyond = images_below(own) if images not in (own, *own.parents) else image_files(own)
        return Sides(images, own) if any(images not in file.parents for file in beyond) else None
    plain = [sides for sides in pairs if not sides.name] or pairs
    if len(plain) > 1 and len({sides.images for sides in plain}) == 1:
        names = " and ".join(f"{sides.annotations.name}/" for sides in plain)
        raise ValueError(
            f"{source}: both {names} have images; rename or move the one that is not to be read, so that "
            "its name no longer means labels or masks."
        )
    if len(plain) > 1 and not all(split_of(sides.name) for sides in plain):
        names = ", ".join(str(sides.images) for sides in plain)
        raise ValueError(f"{source}: it has several pairs of folders; name one of the images: {names}.")
    return plain[0] if len(plain) == 1 else None


def has_label_names(folder: Path) -> bool:
    """Whether a folder has label images next to its images, by their names."""
    files = image_files(folder)
    names = {plain_stem(file) for file in files if not _is_label(file)}
    images = names | {_without(name, IMAGE_MARKS) for name in names}
    return any(_is_label(file) and _without(plain_stem(file), LABEL_MARKS) in images for file in files)


def label_pairs(source: Path, images: Path | None, problems: list[Problem]) -> list[Pair]:
    """Each image at a path with its label image; files without a partner, or with several, are reported."""
    sides = label_sides(source, images)
    if sides is not None:
        pictures, labels = images_below(sides.images), images_below(sides.annotations)
        if sides.annotations in sides.images.parents:
            labels = [file for file in labels if sides.images not in file.parents]
        return pair_up(pictures, labels, source, problems)
    labels = [file for file in image_files(source) if _is_label(file)]
    return pair_up([f for f in image_files(source) if not _is_label(f)], labels, source, problems)


def pair_up(
    images: Sequence[Path], labels: Sequence[Path], source: Path, problems: list[Problem]
) -> list[Pair]:
    """Each image with the label image of the same name; the rest is reported.

    Names that are equal belong together; otherwise marks such as ``_mask`` do not count. Where several
    images have one name, the folders decide.
    """
    known = _Names(images, problems)
    owners: dict[Path, list[Path]] = defaultdict(list)
    lost = []
    for label in labels:
        image = known.owner(label)
        if image is None:
            lost.append(label)
        else:
            owners[image].append(label)
    for image, group in owners.items():
        if len(group) > 1:
            names = ", ".join(f.name for f in group)
            what = f"There is more than one label image called {plain_stem(image)}: {names}."
            problems.append(Problem(group[0], what, "Keep one of them."))
    bare = [image.name for image in known.images if image not in owners]
    if bare:
        what = f"{len(bare)} images have no label image: {shortened(bare)}."
        advice = "They are skipped; a label image of zeros stands for an image without objects."
        problems.append(Problem(source, what, advice, severity="warning", annotation="images"))
    problems += _without_image(lost)
    return [(image, owners[image][0]) for image in known.images if image in owners]


def label_names(stem: str) -> list[str]:
    """The names that the image of a label image of this name may have, the label image's own first."""
    return list(dict.fromkeys(_shorter(stem, MORE_LABEL_MARKS, LABEL_PREFIXES)))


def picture_ids(pairs: Iterable[Pair]) -> list[str]:
    """The names of the images without extensions; with their folders where two would be equal."""
    paths = [image for image, _ in pairs]
    counts = Counter(plain_stem(path) for path in paths)
    return [
        plain_stem(p) if counts[plain_stem(p)] == 1 else f"{p.parent.name}/{plain_stem(p)}" for p in paths
    ]


class _Names:
    """Images by the names that their label images may have."""

    def __init__(self, images: Sequence[Path], problems: list[Problem]) -> None:
        self.images: list[Path] = []
        groups: dict[tuple[str, str], list[Path]] = defaultdict(list)
        for image in images:
            groups[(str(image.parent), plain_stem(image))].append(image)
        for (_, stem), group in groups.items():
            self.images.append(group[0])
            if len(group) > 1:
                what = f"There is more than one image called {stem}: {', '.join(f.name for f in group)}."
                problems.append(Problem(group[0], what, "Keep one of them."))
        self.exact: dict[str, list[Path]] = defaultdict(list)
        self.plain: dict[str, list[Path]] = defaultdict(list)
        for image in self.images:
            self.exact[plain_stem(image)].append(image)
            for name in dict.fromkeys(_shorter(plain_stem(image), IMAGE_MARKS, IMAGE_PREFIXES)):
                self.plain[name].append(image)

    def owner(self, label: Path) -> Path | None:
        """The image that a label image belongs to."""
        for known in (self.exact, self.plain):
            for name in label_names(plain_stem(label)):
                if name in known:
                    return _nearest(label, known[name])
        return None


def _shorter(stem: str, marks: Sequence[str], prefixes: Sequence[str]) -> Iterator[str]:
    """A name, and what is left of it without an extension inside it and without a mark."""
    yield stem
    inner = PurePath(stem)
    if inner.suffix.lower() in (*IMAGE_ENDINGS, ".ome"):
        stem = plain_stem(inner)
        yield stem
    yield _without(stem, marks)
    yield from (stem.removeprefix(prefix) for prefix in prefixes if stem.startswith(prefix))


def _nearest(label: Path, images: Sequence[Path]) -> Path | None:
    """The image whose folders have most in common with those of a label image; None if that is not one."""
    if len(images) == 1:
        return images[0]

    def shared(image: Path) -> int:
        pairs = zip(image.parent.parts[::-1], label.parent.parts[::-1], strict=False)
        return next((i for i, (a, b) in enumerate(pairs) if a != b), 0)

    first, second, *_ = sorted(images, key=shared, reverse=True)
    return first if shared(first) > shared(second) else None


def _without_image(labels: Sequence[Path]) -> list[Problem]:
    if len(labels) <= LISTED_SINGLY:
        advice = "Add it, or delete this file."
        return [Problem(label, "Its image is missing.", advice) for label in labels]
    names = shortened([label.name for label in labels])
    what = f"The images of {len(labels)} label images are missing: {names}."
    return [Problem(labels[0].parent, what, "Add them, or delete the label images.", "label images")]


def _is_label(file: Path) -> bool:
    return plain_stem(file).endswith(LABEL_MARKS)


def _without(stem: str, marks: Sequence[str]) -> str:
    return next((stem.removesuffix(mark) for mark in marks if stem.endswith(mark)), stem)
