"""What is shown, as files to keep: pictures, tables, maps, or a data set in any format that is written."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from rcnn.data.convert import convert
from rcnn.data.dataset import Dataset, Record
from rcnn.data.formats.coco_panoptic import write_panoptic
from rcnn.data.formats.registry import for_predictions, formats
from rcnn.data.output_folder import copy_image, file_name
from rcnn.inference.pictures import write_map
from rcnn.io.reading import Reading
from rcnn.serve.app.collection import Picture
from rcnn.serve.app.partition import partition_of, with_classes
from rcnn.serve.app.truth_files import Classes
from rcnn.structures import Instances, Masks
from rcnn.structures.instances import OBJECT_COLUMNS, table

OVERLAY, TABLE, PARQUET, MAPS, PANOPTIC = "overlay", "table", "parquet", "maps", "panoptic"
TITLES = {
    OVERLAY: "Pictures with the objects drawn (PNG)",
    TABLE: "Table of objects (CSV)",
    PARQUET: "Table of images with their objects (Parquet)",
    MAPS: "Maps of pixel classes (PNG)",
    PANOPTIC: "COCO panoptic",
}

Shown = Sequence[tuple[Picture, Instances]]
Pixels = Callable[[Picture], npt.NDArray[np.uint8]]


@dataclass(frozen=True, repr=False)
class ShownData(Dataset):
    """What is shown as a data set; its objects are predictions where none of them was corrected."""

    @property
    def has_scores(self) -> bool:
        """Whether all objects have scores."""
        return all(record.truth.scores is not None for record in self.records if len(record.truth))


def choices(has_pixels: bool = False) -> list[dict[str, str]]:
    """The kinds of files: ``name`` and ``title`` of each; with ``has_pixels`` those of pixel classes, too."""
    rows = {name: row.title or row.name for name, row in formats().items() if name in for_predictions()}
    own = {name: title for name, title in TITLES.items() if has_pixels or name not in (MAPS, PANOPTIC)}
    return [{"name": name, "title": title} for name, title in (own | rows).items()]


def written(shown: Shown, to: str, classes: Classes, pixels: Pixels) -> Path:
    """A file with the objects of some images, in a temporary folder of its own that the caller removes.

    Args:
        shown: the images and what is shown of each, with their files as ``path``.
        to: one of :func:`choices`.
        classes: of all of them; what is shown may have fewer, in another order.
        pixels: an image as it is shown, uint8 ``[H, W, 3]``.

    Raises:
        ValueError: there is nothing to write, or the format cannot hold it.
        OSError: it cannot be written.
    """
    known = [one["name"] for one in choices(has_pixels=bool(classes.pixels))]
    if to not in known:
        raise ValueError(f"download {to!r:.80}: expected one of {', '.join(known)}")
    if not shown:
        raise ValueError("nothing to download yet: no image has been looked at")
    alike = [(one, with_classes(found, classes.objects, classes.pixels)) for one, found in shown]
    folder = Path(tempfile.mkdtemp(prefix="rcnn-"))
    try:
        if to == TABLE:
            return _table(alike, folder)
        if to == OVERLAY:
            return _overlays(shown, folder, pixels)
        if to == PARQUET:
            return _parquet(alike, folder, classes)
        if to == MAPS:
            return _maps(alike, folder)
        if to == PANOPTIC:
            return _panoptic(alike, folder)
        return _data_set(alike, folder, to, classes)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _table(shown: Shown, folder: Path) -> Path:
    rows: list[Sequence[object]] = [OBJECT_COLUMNS]
    for picture, found in shown:
        rows += [[number, picture.name, *row] for number, row in enumerate(found.rows(), 1)]
    path = folder / "objects.csv"
    path.write_text(table(rows), encoding="utf-8", errors="surrogateescape")
    return path


def _parquet(shown: Shown, folder: Path, classes: Classes) -> Path:
    from rcnn.bulk.results import meaning_of, row_of, write_rows
    from rcnn.bulk.storage import Place, address_of

    meaning = meaning_of(
        classes.objects, range(1, len(classes.objects) + 1), classes.pixels, classes.skeleton
    )
    rows = [
        row_of(address_of(picture.path.absolute()), _digest(picture), found, "rle")
        for picture, found in shown
    ]
    path = folder / "objects.parquet"
    write_rows(rows, Place.at(address_of(path)), meaning)
    return path


def _digest(picture: Picture) -> str:
    """The SHA-256 of an image's file; of the pixels where it is inside an annotation file."""
    if picture.record is not None and picture.record.image is not None:
        return hashlib.sha256(picture.record.load_image().tobytes()).hexdigest()
    with picture.path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _overlays(shown: Shown, folder: Path, pixels: Pixels) -> Path:
    pictures = folder / "overlays"
    for picture, found in shown:
        found.save(_picture_path(pictures, picture), image=pixels(picture))
    return _packed(pictures)


def _maps(shown: Shown, folder: Path) -> Path:
    maps = folder / "maps"
    for picture, found in shown:
        assert found.semantic is not None
        write_map(found.semantic, found.semantic_names, _picture_path(maps, picture))
    names = "".join(f"{name}\n" for name in shown[0][1].semantic_names)
    (maps / "classes.txt").write_text(names, encoding="utf-8")
    return _packed(maps)


def _panoptic(shown: Shown, folder: Path) -> Path:
    target, taken = folder / PANOPTIC, set[str]()
    partitions = []
    for picture, found in shown:
        record = _record(picture, found)
        name = f"images/{file_name(record, taken)}"
        copy_image(record, target / name)
        partitions.append((record.image_id, name, partition_of(found)))
    write_panoptic(target / "panoptic.json", partitions)
    return _packed(target)


def _data_set(shown: Shown, folder: Path, to: str, classes: Classes) -> Path:
    records = [_record(picture, found) for picture, found in shown]
    data = ShownData("page", folder, classes.objects, records, skeleton=classes.skeleton)
    convert(data, folder / to, to=to)
    return _packed(folder / to)


def _record(picture: Picture, found: Instances) -> Record:
    own = picture.record
    return Record(
        picture.path, picture.number + 1, replace(found, masks=None, semantic=None, semantic_names=()),
        None if found.masks is None else partial(_same, found.masks),
        image=None if own is None else own.image, reading=Reading() if own is None else own.reading,
    )  # fmt: skip


def _same(masks: Masks) -> Masks:
    return masks


def _picture_path(folder: Path, picture: Picture) -> Path:
    folder.mkdir(exist_ok=True)
    return folder / f"{picture.number + 1:05d}-{Path(picture.name).stem}.png"


def _packed(folder: Path) -> Path:
    """A folder as an archive; a single file as it is."""
    files = [path for path in folder.iterdir() if path.is_file()]
    if len(files) == 1 and len(list(folder.iterdir())) == 1:
        return files[0]
    return Path(shutil.make_archive(str(folder), "zip", folder))
