"""The pictures of a prediction: overlays, maps of pixel classes, and partitions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from rcnn.data.formats.coco_panoptic import PanopticWriter
from rcnn.draw import semantic_colours
from rcnn.inference.measured import ImageMeasured
from rcnn.inference.output_files import OutputFiles, noted
from rcnn.io.picture_files import write_image
from rcnn.structures import Array, Instances, merge

if TYPE_CHECKING:
    from rcnn.inference.detector import Detector
    from rcnn.inference.exported import ExportedDetector

MEASURED_OPACITY = 0.6  # of masks whose colours are to be compared with a colour bar


@dataclass
class PictureNotes:
    """What is noted of the pictures of one image.

    Attributes:
        failed: what could not be written.
        partition: its entries in ``panoptic.json``, of a panoptic model.
    """

    failed: list[str] = field(default_factory=list)
    partition: dict[str, Any] | None = None


class Pictures:
    """Writes the pictures of a prediction; several threads may write those of different images."""

    def __init__(
        self,
        detector: Detector | ExportedDetector,
        out: Path,
        ids: Mapping[str, int | str],
        files: OutputFiles,
    ) -> None:
        self.out, self.ids, self.files = out, ids, files
        # The objects were chosen by their scores before.
        self._settings = None if detector.merge is None else replace(detector.merge, min_score=0.0)
        stuff = detector.info.get("stuff_ids")
        self._ids_of_both = () if stuff is None else (*detector.category_ids, *stuff)

    def write(
        self,
        image_id: str,
        name: str,
        first: int,
        *,
        image: Array,
        found: Instances,
        measured: ImageMeasured | None = None,
    ) -> PictureNotes:
        """Write those of one image, whose first object has the row ``first``.

        What cannot be written is noted, unless nothing can be.

        Raises:
            OSError: the disk is full or broken.
        """
        notes = PictureNotes()
        pictured, indices = found, np.arange(len(found))
        with noted(f"{image_id}: its partition", notes.failed):
            pictured, indices, notes.partition = self._partitioned(image_id, found, name)
        if self.files.overlays:
            with noted(f"{image_id}: its overlay", notes.failed):
                numbers = (first + indices).tolist()
                options: dict[str, Any] = {"scale": self.files.overlay_scale, "numbers": numbers}
                if measured is None or measured.colours is None:
                    overlay = pictured.overlay(image, **options)
                else:
                    colours = [measured.colours[i] for i in indices.tolist()]
                    overlay = pictured.overlay(image, colours=colours, opacity=MEASURED_OPACITY, **options)
                    overlay = measured.with_colour_bar(overlay)
                ending = f".{self.files.overlay_format}"
                write_image(overlay, self.out / "overlays" / f"{name.removesuffix('.png')}{ending}")
        if found.semantic is not None:
            with noted(f"{image_id}: its map", notes.failed):
                write_map(found.semantic, found.semantic_names, self.out / "maps" / name)
        return notes

    def _partitioned(
        self, image_id: str, found: Instances, name: str
    ) -> tuple[Instances, npt.NDArray[np.int64], dict[str, Any] | None]:
        """What the picture of an image shows: what was found or, for a panoptic model, the partition.

        With it come the index of each object that is shown among those that were found, and what is noted of
        a partition.
        """
        if self._settings is None:
            return found, np.arange(len(found)), None
        partition = merge(found, settings=self._settings)
        writer = self._writer()
        writer.add(self.ids[image_id], image_id, partition, png=name)
        noted_of_it = {
            "image": writer.images[0], "annotation": writer.annotations[0], "categories": writer.categories,
        }  # fmt: skip
        assert partition.objects is not None
        return partition.instances(), partition.objects, noted_of_it

    def _writer(self) -> PanopticWriter:
        return PanopticWriter(self.out / "panoptic.json", self._ids_of_both)

    def complete(self, done: Iterable[Mapping[str, Any]]) -> None:
        """Write ``panoptic.json``, of a panoptic model, from the journal's lines of all images done."""
        if self._settings is None:
            return
        partitions = [row["partition"] for row in done if row["partition"]]
        writer = self._writer()
        writer.images = [entry["image"] for entry in partitions]
        writer.annotations = [entry["annotation"] for entry in partitions]
        writer.categories = partitions[-1]["categories"] if partitions else []
        writer.close()


def write_map(classes: Array, names: Sequence[str], path: Path) -> Path:
    """Write classes of pixels ``[H, W]`` as a palette PNG: their numbers, in the overlay's colours."""
    image = Image.fromarray(classes.astype(np.uint8)).convert("P")
    image.putpalette([value for colour in semantic_colours(names) for value in colour or (0, 0, 0)])
    return write_image(image, path)


def overlay_names(image_ids: Sequence[str]) -> dict[str, str]:
    """``a/b.jpg`` becomes ``a/b.png``, or ``a/b.jpg.png`` where there is an ``a/b.tif`` too."""
    stems = {i: str(Path(i).with_suffix("")) for i in image_ids}
    # Some file systems do not distinguish upper from lower case.
    taken = Counter(name.casefold() for name in (*stems.values(), *image_ids))
    return {i: f"{stem if taken[stem.casefold()] == 1 else i}.png" for i, stem in stems.items()}
