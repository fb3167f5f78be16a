"""One door for every format: looks what lies there and calls the reader for it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from rcnn.data.coco import read_coco
from rcnn.data.coco_panoptic import read_coco_panoptic
from rcnn.data.dataset import Dataset
from rcnn.data.mask_folder import read_mask_folders
from rcnn.data.semantic import is_semantic_folder, read_semantic, read_voc_segmentation
from rcnn.data.voc import read_voc

LAYOUTS = """What can be opened:
  COCO          instances.json, its images beside it (or named by --images, images=…); a panoptic.json
                likewise, its PNGs in panoptic/
  Pascal VOC    DATA/Annotations/*.xml, DATA/JPEGImages/ or DATA/Images/; one of its splits by the file
                DATA/ImageSets/Main/trainval.txt
  mask folders  DATA/<id>/images/<one image>, DATA/<id>/masks/*.png, one object each
  semantic      DATA/classes.txt, DATA/images/*, DATA/labels/*.png, whose pixels are numbers of classes;
                of Pascal VOC the file DATA/ImageSets/Segmentation/train.txt"""


def open_data(
    path: str | Path | Dataset, images: str | Path | None = None, *, split: str | None = None
) -> Dataset:
    """Open annotated images, whatever their format.

    A ``.json`` file is read as COCO; a folder as Pascal VOC if it has ``Annotations/*.xml``, as mask folders
    if the folders in it have ``images`` and ``masks``, as semantic maps if it has ``classes.txt``, ``images``
    and ``labels``, as COCO if just one COCO JSON file lies in it or in its ``annotations``. Of Pascal VOC a
    list in ``ImageSets/Main`` names a part with its boxes, one in ``ImageSets/Segmentation`` a part with its
    semantic maps. Problems of single images and objects do not raise: they are in ``Dataset.problems``,
    and :func:`rcnn.data.check.check` looks for more.

    Args:
        path: the file or folder; an opened data set is given back as it is.
        images: the folder of the images, for COCO, where it is not found beside the file.
        split: for Pascal VOC, one of ``ImageSets/Main``; naming the file itself as ``path`` does the same.

    Returns:
        The data set; ``dataset[i]`` decodes an image with its truth.

    Raises:
        ValueError: nothing known lies there, what lies there cannot be read at all, or an option does not
            belong to its format.

    Example:
        >>> from rcnn import open_data
        >>> data = open_data("nuclei/train")  # doctest: +SKIP
        >>> data.format, len(data), data.class_names  # doctest: +SKIP
        ('mask folders', 486, ('object',))
    """
    if isinstance(path, Dataset):
        return path
    source = Path(path)
    of_voc = source.suffix == ".txt" and source.parent.parent.name == "ImageSets"
    if of_voc and source.parent.name == "Main":
        source, split = source.parents[2], split or source.stem
    segmentation = of_voc and source.parent.name == "Segmentation"
    if not source.exists() and not segmentation:  # whose reader names the lists that there are
        raise ValueError(f"{source}: there is no such file or folder.\n{LAYOUTS}")
    kind, place = ("voc segmentation", source) if segmentation else _sniff(source)
    if images is not None and kind != "coco":
        raise ValueError(f"{source}: images={images} is for COCO files only, this is {kind}. Leave it out.")
    if split is not None and kind != "voc":
        raise ValueError(f"{source}: split={split} is for Pascal VOC only, this is {kind}. Leave it out.")
    if kind == "coco":
        return (read_coco_panoptic if _is_panoptic(place) else read_coco)(place, images)
    if kind == "voc":
        return read_voc(place, split)
    return READERS[kind](place)


READERS: dict[str, Callable[[Path], Dataset]] = {
    "mask folders": read_mask_folders,
    "semantic": read_semantic,
    "voc segmentation": read_voc_segmentation,
}


def _sniff(source: Path) -> tuple[str, Path]:
    """The format and the file or folder to hand to its reader."""
    if source.is_file():
        if source.suffix.lower() != ".json":
            raise ValueError(
                f"{source}: a {source.suffix or 'nameless'} file is no annotation file.\n{LAYOUTS}"
            )
        return "coco", source
    if next((source / "Annotations").glob("*.xml"), None) is not None:
        return "voc", source
    if any((f.parent / "masks").is_dir() for f in source.glob("*/images")):
        return "mask folders", source
    if is_semantic_folder(source):
        return "semantic", source
    files = [f for folder in (source, source / "annotations") for f in sorted(folder.glob("*.json"))]
    coco = [f for f in files if _looks_like_coco(f)] if len(files) > 1 else files
    if len(coco) == 1:
        return "coco", coco[0]
    if coco:
        names = ", ".join(str(f.relative_to(source)) for f in coco)
        raise ValueError(f"{source}: several COCO files lie there, name one of them: {names}.")
    found = ", ".join(sorted(f.name for f in source.iterdir())[:10]) or "nothing"
    raise ValueError(f"{source}: no annotations of a known format. Found: {found}.\n{LAYOUTS}")


def _looks_like_coco(file: Path) -> bool:
    content = file.read_bytes()
    return all(key in content for key in (b'"images"', b'"annotations"', b'"categories"'))


def _is_panoptic(file: Path) -> bool:
    try:
        return b'"segments_info"' in file.read_bytes()
    except OSError:
        return False  # COCO's reader says why
