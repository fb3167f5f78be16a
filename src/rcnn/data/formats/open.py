"""One door for every format: looks what lies there and calls the reader for it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

from rcnn.data.dataset import Dataset
from rcnn.data.formats.cityscapes import find_split, read_cityscapes
from rcnn.data.formats.coco import read_coco
from rcnn.data.formats.coco_panoptic import read_coco_panoptic
from rcnn.data.formats.label_image import is_label_folder, read_label_images
from rcnn.data.formats.labelme import is_labelme_folder, read_labelme
from rcnn.data.formats.mask_folder import read_mask_folders
from rcnn.data.formats.semantic import is_semantic_folder, read_semantic
from rcnn.data.formats.voc import annotation_folder, read_voc
from rcnn.data.formats.voc_masks import read_voc_masks
from rcnn.data.formats.yolo import find_yolo, read_yolo
from rcnn.io.images import visible_files

TELLING = {"ImageSets", "images", "gtFine"}  # folders whose name is needed to know what lies in them
MAX_FOLDERS_PROBED = 20  # folders that are looked into for a message
LAYOUTS = """What can be opened:
  COCO          instances.json, its images beside it (or named by --images, images=…); a panoptic.json
                likewise, its PNGs in panoptic/
  Pascal VOC    DATA/Annotations/*.xml, DATA/JPEGImages/ or DATA/Images/, or an a.xml beside each a.jpg;
                one of its splits by the file DATA/ImageSets/Main/trainval.txt
  mask folders  DATA/<id>/images/<one image>, DATA/<id>/masks/*.png, one object each
  label images  DATA/images/*, DATA/labels/ or masks/*.png or .tif, whose pixels are numbers of objects;
                or DATA/a.png with DATA/a_label.tif, a_masks.png, …
  YOLO          data.yaml; of several parts DATA/images/train, with DATA/labels/train/*.txt
  LabelMe       DATA/*.json, one an image
  Cityscapes    DATA/gtFine/train, with DATA/leftImg8bit/train
  semantic      DATA/classes.txt, DATA/images/*, DATA/labels/*.png, whose pixels are numbers of classes;
                of Pascal VOC the file DATA/ImageSets/Segmentation/train.txt, with objects if it has some"""


def open_data(
    path: str | Path | Dataset, images: str | Path | None = None, *, split: str | None = None
) -> Dataset:
    """Open annotated images, whatever their format.

    A ``.json`` file is read as COCO, a ``.yaml`` file as YOLO; a folder by what lies in it, as ``LAYOUTS``
    lists it; what could be two formats is refused. Of Pascal VOC a list in ``ImageSets/Main`` names a part
    with its boxes, one in ``ImageSets/Segmentation`` a part with its masks and semantic maps. Problems of
    single images and objects do not raise: they are in ``Dataset.problems``, and
    :func:`rcnn.data.check.check` looks for more.

    Args:
        path: the file or folder; an opened data set is given back as it is.
        images: the folder of the images, for COCO, where it is not found beside the file.
        split: for Pascal VOC, one of ``ImageSets/Main``; naming the file itself as ``path`` does the same.
            For YOLO, a part that ``data.yaml`` names; naming its images does the same.

    Returns:
        The data set; ``dataset[i]`` decodes an image with its truth.

    Raises:
        ValueError: nothing known lies there, or what could be two formats, or what cannot be read at all; or
            an option does not belong to its format.

    Example:
        >>> from rcnn import open_data
        >>> data = open_data("nuclei/train")  # doctest: +SKIP
        >>> data.format, len(data), data.class_names  # doctest: +SKIP
        ('mask folders', 486, ('object',))
    """
    if isinstance(path, Dataset):
        return path
    source = Path(path)
    if TELLING & (set(source.absolute().parts) - set(source.parts)):
        source = source.absolute()  # from within such a folder
    of_voc = source.suffix == ".txt" and source.parent.parent.name == "ImageSets"
    if of_voc and source.parent.name == "Main":
        source, split = source.parents[2], split or source.stem
    segmentation = of_voc and source.parent.name == "Segmentation"
    if not source.exists() and not segmentation:  # whose reader names the lists that there are
        raise ValueError(f"{source}: there is no such file or folder.\n{LAYOUTS}")
    kind, open_it = (
        ("voc segmentation", partial(read_voc_masks, source))
        if segmentation
        else _sniff(source, images, split)
    )
    if images is not None and kind != "coco":
        raise ValueError(f"{source}: images={images} is for COCO files only, this is {kind}. Leave it out.")
    if split is not None and kind not in ("voc", "yolo"):
        raise ValueError(
            f"{source}: split={split} is for Pascal VOC and YOLO only, this is {kind}. Leave it out."
        )
    return open_it()


Candidate = tuple[str, Callable[[], Dataset]]


def _sniff(source: Path, images: str | Path | None, split: str | None) -> Candidate:
    """The format, and what opens it."""
    if source.is_file():
        if source.suffix.lower() == ".json":
            return "coco", partial(_read_json, source, images)
        yolo = find_yolo(source, split)
        if yolo is not None:
            return "yolo", partial(read_yolo, yolo)
        raise ValueError(f"{source}: a {source.suffix or 'nameless'} file is no annotation file.\n{LAYOUTS}")
    found = _found_in(source, images, split)
    if len(found) > 1:
        kinds = " and ".join(kind for kind, _ in found)
        raise ValueError(
            f"{source}: this could be {kinds}. Name the file of the one you mean (a .json, .yaml or list), "
            "or move the others away."
        )
    if not found:
        there = ", ".join(sorted(f.name for f in source.iterdir())[:10]) or "nothing"
        raise ValueError(
            f"{source}: no annotations of a known format. Found: {there}.{_parts(source)}\n{LAYOUTS}"
        )
    return found[0]


def _found_in(source: Path, images: str | Path | None, split: str | None) -> list[Candidate]:
    found = _in_folder(source, split)
    return found + _coco_in(source, images, alone=not found)


def _parts(source: Path) -> str:
    """Which of a folder's folders can be opened, as exports have one for each part."""
    known = []
    for folder in sorted(f for f in source.iterdir() if f.is_dir())[:MAX_FOLDERS_PROBED]:
        with contextlib.suppress(ValueError, OSError):
            known += [str(folder)] if len(_found_in(folder, None, None)) == 1 else []
    return f" One of these can be opened: {', '.join(known)}." if known else ""


def _in_folder(source: Path, split: str | None) -> list[Candidate]:
    """Every format whose signs a folder shows, COCO apart."""
    found: list[Candidate] = []
    if annotation_folder(source) is not None:
        found.append(("voc", partial(read_voc, source, split)))
    if any((f.parent / "masks").is_dir() for f in source.glob("*/images")):
        found.append(("mask folders", partial(read_mask_folders, source)))
    if is_semantic_folder(source):
        found.append(("semantic", partial(read_semantic, source)))
    elif is_label_folder(source):
        found.append(("label images", partial(read_label_images, source)))
    if is_labelme_folder(source):
        found.append(("labelme", partial(read_labelme, source)))
    cityscapes = find_split(source)
    if cityscapes is not None:
        found.append(("cityscapes", partial(read_cityscapes, cityscapes)))
    yolo = find_yolo(source, split)
    if yolo is not None:
        found.append(("yolo", partial(read_yolo, yolo)))
    return found


def _coco_in(source: Path, images: str | Path | None, *, alone: bool) -> list[Candidate]:
    """The COCO files of a folder; a single JSON is taken for one unseen where nothing else was found."""
    files = [f for folder in (source, source / "annotations") for f in visible_files(folder, "*.json")]
    certain = alone and len(files) == 1
    coco = files if certain else [f for f in files if _looks_like_coco(f)]
    if len(coco) > 1:
        names = ", ".join(str(f.relative_to(source)) for f in coco)
        raise ValueError(f"{source}: several COCO files lie there, name one of them: {names}.")
    return [("coco", partial(_read_json, file, images)) for file in coco]


def _read_json(file: Path, images: str | Path | None) -> Dataset:
    return (read_coco_panoptic if _is_panoptic(file) else read_coco)(file, images)


def _looks_like_coco(file: Path) -> bool:
    content = file.read_bytes()
    return all(key in content for key in (b'"images"', b'"annotations"', b'"categories"'))


def _is_panoptic(file: Path) -> bool:
    try:
        return b'"segments_info"' in file.read_bytes()
    except OSError:
        return False  # COCO's reader says why
