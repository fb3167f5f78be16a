"""The objects of one image: truth, and what any model finds, networks and exported files alike."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from rcnn.draw import (
    MAX_LABELLED_OBJECTS,
    Scene,
    draw,
    palette,
    readable_scale,
)
from rcnn.io.atomic import write_atomically
from rcnn.io.escaping import for_csv
from rcnn.io.images import to_bytes
from rcnn.io.picture_files import write_image
from rcnn.lettering import Colour
from rcnn.structures.coco import file_of, results_of
from rcnn.structures.masks import Masks, Size, as_index_list
from rcnn.structures.skeleton import Skeleton
from rcnn.structures.supervision import fields_of, to_supervision

if TYPE_CHECKING:
    from PIL import Image

VOID = 255
"""In a semantic map: no class, neither learnt nor measured."""
OBJECT_COLUMNS = (
    "row", "image", "class", "score", "x1", "y1", "x2", "y2", "area", "centroid_x", "centroid_y",
)  # fmt: skip
AREA_COLUMNS = ("image", "class", "pixels", "fraction")

Moves = Literal["boxes", "points", "masks", "map"]


def _is(per: Literal["object", "image"], moves: Moves | None = None) -> dict[str, Any]:
    """What a field says of itself: one row per object or one value per image, and as what it moves."""
    return {"per": per, "moves": moves}


@dataclass(frozen=True, repr=False)
class Instances:
    """The objects of one image; the same class for truth and for predictions, ``None`` where absent.

    Fields describe themselves: ``metadata["per"]`` is ``object`` or ``image``, ``metadata["moves"]`` says as
    what a field follows when the image is resized, cut or turned.

    Attributes:
        size: (height, width) of the image that the coordinates refer to.
        boxes: float32 ``[N, 4]``, x1 y1 x2 y2 in pixels.
        labels: int64 ``[N]``, indices into ``class_names``.
        scores: float32 ``[N]`` in [0, 1], predictions only; sorted, best first.
        masks: the outlines, see :class:`Masks`.
        keypoints: float32 ``[N, K, 3]``: x, y and visibility (truth: 0 not annotated, 1 hidden, 2 visible)
            or score (predictions: the network's logit; higher is surer).
        crowd: bool ``[N]``, truth only: a region of many objects, neither positive nor negative.
        difficult: bool ``[N]``, truth only: VOC's mark for objects that the evaluation ignores.
        areas: float32 ``[N]``, truth only: the annotation's own area where the format has one (COCO).
        has_mask: bool ``[N]``, truth only: whether the object's outline is known; else its mask is its filled
            box, from which no mask is learned and on which none is measured. None: all are known.
        semantic: integers ``[H, W]``, the class of every pixel (``semantic_names``); 255 is void.
        proposals: float32 ``[P, 4]``, external proposals, best first.
        class_names: the names that ``labels`` index.
        semantic_names: the names that ``semantic`` indexes.
        skeleton: what the keypoints are, where there are any.
        path: the image file, where known.
        cut: bool ``[N]``, predictions in tiles only: whether the object goes on beyond a tile and its rest
            was not found, so that box and mask are too small. None: the image was seen whole.
    """

    size: Size
    boxes: npt.NDArray[np.float32] = field(metadata=_is("object", "boxes"))
    labels: npt.NDArray[np.int64] = field(metadata=_is("object"))
    scores: npt.NDArray[np.float32] | None = field(default=None, metadata=_is("object"))
    masks: Masks | None = field(default=None, metadata=_is("object", "masks"))
    keypoints: npt.NDArray[np.float32] | None = field(default=None, metadata=_is("object", "points"))
    crowd: npt.NDArray[np.bool_] | None = field(default=None, metadata=_is("object"))
    difficult: npt.NDArray[np.bool_] | None = field(default=None, metadata=_is("object"))
    areas: npt.NDArray[np.float32] | None = field(default=None, metadata=_is("object"))
    has_mask: npt.NDArray[np.bool_] | None = field(default=None, metadata=_is("object"))
    semantic: npt.NDArray[np.integer[Any]] | None = field(default=None, metadata=_is("image", "map"))
    proposals: npt.NDArray[np.float32] | None = field(default=None, metadata=_is("image", "boxes"))
    class_names: tuple[str, ...] = ()
    semantic_names: tuple[str, ...] = ()
    skeleton: Skeleton | None = None
    path: Path | None = None
    cut: npt.NDArray[np.bool_] | None = field(default=None, metadata=_is("object"))

    @classmethod
    def empty(cls, size: Size, class_names: tuple[str, ...] = (), **present: Any) -> Instances:
        """No objects on an image of ``size``; further fields as keywords."""
        boxes, labels = np.zeros((0, 4), np.float32), np.zeros(0, np.int64)
        return cls(size, boxes, labels, class_names=class_names, **present)

    @classmethod
    def from_supervision(
        cls, detections: Any, size: Size, class_names: Sequence[str] | None = None
    ) -> Instances:
        """Objects from ``supervision.Detections``; masks and keypoints too, where they are there.

        Args:
            detections: what supervision calls detections.
            size: (height, width) of their image.
            class_names: what ``class_id`` indexes; None takes the names that the detections carry.

        Raises:
            ValueError: class ids or names that do not fit.
        """
        return cls(**fields_of(detections, size, class_names))

    def __len__(self) -> int:
        return len(self.boxes)

    def __getitem__(self, index: Any) -> Instances:
        """The objects that a slice, a bool mask or integer indices ``[M]`` select; an integer selects one."""
        index, _ = as_index_list(index)
        rows = {name: getattr(self, name) for name in self.per_object()}
        return replace(self, **{name: value[index] for name, value in rows.items() if value is not None})

    @classmethod
    def per_object(cls) -> tuple[str, ...]:
        """The names of the fields that have one row per object."""
        return tuple(spec.name for spec in fields(cls) if spec.metadata.get("per") == "object")

    def __repr__(self) -> str:
        """One line: how many objects of which class, their scores, what else there is, the image."""
        height, width = self.size
        counts = ", ".join(f"{count} {name}" for name, count in Counter(self.names).most_common(5))
        noun = "object" if len(self) == 1 else "objects"
        parts = [f"{len(self)} {noun}" + (f" ({counts})" if counts else ""), f"{height} x {width} px"]
        if self.scores is not None and len(self):
            parts.append(f"scores {self.scores.min():.2f} to {self.scores.max():.2f}")
        shown = ("masks", "keypoints", "semantic", "proposals")
        parts += [name for name in shown if getattr(self, name) is not None]
        parts += [] if self.path is None else [repr(self.path.name)]
        return f"Instances({'; '.join(parts)})"

    @property
    def names(self) -> list[str]:
        """The class name of each object; the label where names are unknown."""
        known = self.class_names
        return [known[label] if label < len(known) else str(label) for label in self.labels.tolist()]

    @property
    def outlined(self) -> npt.NDArray[np.bool_]:
        """Which objects ``[N]`` have an outline of their own."""
        everyone = np.full(len(self), self.masks is not None)
        return everyone if self.has_mask is None else everyone & self.has_mask

    def polygons(self) -> list[list[npt.NDArray[np.float64]]]:
        """The outer outline of each object, as parts ``[K, 2]`` of x, y; its box where there are no masks."""
        if self.masks is not None:
            return self.masks.polygons()
        corners = self.boxes[:, [0, 1, 2, 1, 2, 3, 0, 3]].astype(np.float64).reshape(-1, 4, 2)
        return [[one] for one in corners]

    def torch(self) -> dict[str, Any]:
        """The objects as tensors, under torchvision's names.

        Returns:
            ``boxes`` float32 ``[N, 4]``, ``labels`` int64 ``[N]`` (from 0, indices into ``class_names``), and
            where present ``scores`` ``[N]``, ``masks`` bool ``[N, H, W]``, ``keypoints`` ``[N, K, 3]``,
            ``iscrowd`` bool ``[N]``, ``area`` ``[N]``, ``semantic`` int64 ``[H, W]``.
        """
        import torch

        renamed = {"crowd": "iscrowd", "areas": "area"}
        tensors = {}
        for spec in fields(self):
            value = getattr(self, spec.name)
            if "per" in spec.metadata and value is not None:
                array = value.dense() if isinstance(value, Masks) else value
                tensors[renamed.get(spec.name, spec.name)] = torch.from_numpy(np.array(array))
        return tensors

    def overlay(
        self,
        image: Any = None,
        *,
        labels: bool = True,
        boxes: bool | None = None,
        colours: Sequence[Colour] | None = None,
        opacity: float = 0.35,
        scale: int = 1,
        numbers: bool | Sequence[int] = False,
    ) -> Image.Image:
        """A picture of the objects on their image: outlines, boxes, keypoints, pixel classes, names.

        Args:
            image: the image that they were found on: an array ``[H, W]`` or ``[H, W, C]``, a PIL image, or a
                file; None takes the file that the objects are known to come from.
            labels: write class and score on each object; where there are more than 60, their counts instead.
            boxes: draw the boxes; by default where there are no masks or at most 20 objects.
            colours: RGB of each object, 0 to 255; by default one per class, or per object where masks are all
                of one class.
            opacity: of the masks, 0 to 1.
            scale: the picture is so many times as wide and high as the image; 2 or more makes room for texts
                and numbers on small images.
            numbers: write the number of each object: True for 1, 2, …, its row in the table of
                :meth:`save`, or one number per object. Numbers take the place of scores where all objects
                are of one class; there, and where there are more than 60 objects, one too small for a legible
                number has none.

        Raises:
            ValueError: no image, one of another size, or not one colour and one number per object.
        """
        pixels = self._pixels(image)
        given = range(1, len(self) + 1) if numbers is True else () if numbers is False else numbers
        if numbers is not False and len(given) != len(self):
            raise ValueError(f"numbers: {len(given)} for {len(self)} objects; give one for each")
        return draw(
            pixels, self._scene(labels, colours, list(given)), boxes=boxes, opacity=opacity, scale=scale
        )

    def plot(self, image: Any = None, **options: Any) -> Any:
        """Show the overlay with matplotlib, small images enlarged; options as for :meth:`overlay`."""
        from matplotlib import pyplot

        options = {"scale": readable_scale(self.size), **options}
        _, axes = pyplot.subplots(figsize=(8, 8))
        axes.imshow(np.asarray(self.overlay(image, **options)))
        axes.set_axis_off()
        return axes

    def _repr_png_(self) -> bytes:
        """The overlay in a notebook; on black where the image file is not known."""
        blank = np.zeros((*self.size, 3), np.uint8)
        image = blank if self.path is None or not self.path.is_file() else None
        picture = self.overlay(image, scale=readable_scale(self.size))
        content = io.BytesIO()
        picture.save(content, "PNG")
        return content.getvalue()

    def _pixels(self, image: Any) -> npt.NDArray[np.uint8]:
        """The image that is drawn on, uint8 ``[H, W, 3]``."""
        if image is None and self.path is None:
            raise ValueError("an overlay needs the image: predict from a file, or give overlay(image)")
        pixels = to_bytes(image if image is not None else self.path)
        if pixels.shape[:2] != tuple(self.size):
            raise ValueError(
                f"image: (height, width) {pixels.shape[:2]}, but the objects are those of an image of "
                f"{tuple(self.size)}; give the image that they were found on"
            )
        return pixels

    def _scene(self, labels: bool, colours: Sequence[Colour] | None, numbers: Sequence[int]) -> Scene:
        texts, summary = self._texts(numbers) if labels else ([], "")
        return Scene(
            self.boxes,
            self.colours() if colours is None else colours,
            texts,
            () if texts else numbers,
            summary,
            None if self.masks is None else list(self.masks.patches()),
            None if self.masks is None else self.masks.windows,
            self.keypoints,
            () if self.skeleton is None else self.skeleton.bones,
            self.semantic,
            self.semantic_names,
            labels,
        )

    def colours(self) -> list[Colour]:
        """A colour per object: its class's, or its own where masks are all of one class."""
        if len(self.class_names) < 2 and self.masks is not None:
            return palette(len(self))
        of_class = palette(int(self.labels.max(initial=-1)) + 1)
        return [of_class[label] for label in self.labels.tolist()]

    def _texts(self, numbers: Sequence[int]) -> tuple[list[str], str]:
        """What is written beside each object, and in the corner: with many objects only the latter."""
        one_class = len(self.class_names) < 2
        many = len(self) > MAX_LABELLED_OBJECTS
        shown = (many or one_class) and (len(self) > 0 or self.semantic is None)
        summary = self._counts() if shown else ""
        # Of one class there is only the score to add, which the table has beside the number.
        if many or (one_class and numbers):
            return [], summary
        names = [""] * len(self) if one_class else self.names
        scores = [""] * len(self) if self.scores is None else [f"{s:.2f}" for s in self.scores.tolist()]
        before = [f"{number}:" for number in numbers] or [""] * len(self)
        parts = zip(before, names, scores, strict=True)
        return [" ".join(filter(None, each)).removesuffix(":") for each in parts], summary

    def _counts(self) -> str:
        """Such as ``12 nucleus`` or ``70 RBC, 2 WBC``, the most frequent class first."""
        if not self.class_names:
            return f"{len(self)} objects"
        if len(self) == 0:
            return f"0 {self.class_names[0]}"
        return ", ".join(f"{count} {name}" for name, count in Counter(self.names).most_common())

    def save(self, path: str | Path, **options: Any) -> Path:
        """Write the objects to ``path``; its ending says how.

        ``.json``: a COCO file of this one image, with scores where there are any (:meth:`to_coco` gives the
        bare results); ``.csv``: a table of the objects, or of the pixel classes where there are no classes of
        objects; ``.png`` or ``.jpg``: an overlay on the image, with options as for :meth:`overlay`, such as
        ``scale=2`` or ``numbers=True`` for the rows of the table.

        Raises:
            ValueError: another ending, an overlay where the image file is not known, pixel classes alone as
                ``.json``, or options for what is no overlay.
        """
        path = Path(path)
        ending, name = path.suffix.lower(), "" if self.path is None else self.path.name
        is_picture = ending in (".png", ".jpg", ".jpeg")
        if options and not is_picture:
            given = ", ".join(options)
            raise ValueError(f"{path}: found options of overlays ({given}); expected a name *.png or *.jpg")
        if ending == ".json":
            if self.semantic is not None and not (self.class_names or len(self)):
                raise ValueError(
                    f"{path}: a COCO file holds objects, but these are pixel classes only; save them as .csv "
                    "(areas) or .png (overlay)"
                )
            write_atomically(path, json.dumps(file_of(self, name)).encode())
        elif ending == ".csv":
            of_objects = bool(self.class_names or len(self))
            head, rows = (OBJECT_COLUMNS, self.rows()) if of_objects else (AREA_COLUMNS, self.area_rows())
            first = ([i, name] if of_objects else [name] for i in range(1, len(rows) + 1))
            content = table([head, *([*start, *row] for start, row in zip(first, rows, strict=True))])
            write_atomically(path, content.encode(errors="surrogateescape"))
        elif is_picture:
            if self.path is None and options.get("image") is None:
                raise ValueError(
                    f"{path}: an overlay needs the image; predict from a file, or overlay(image).save(path)"
                )
            write_image(self.overlay(**options), path)
        else:
            raise ValueError(f"{path}: unknown extension {ending!r}; expected .json, .csv, .png or .jpg")
        return path

    def to_coco(
        self, image_id: int | str = 0, category_ids: Sequence[int] | None = None
    ) -> list[dict[str, Any]]:
        """COCO results: one dict per object with ``image_id category_id bbox score``, RLE, keypoints.

        ``bbox`` is x, y, width, height. Without ``category_ids`` a label's category id is label + 1. Objects
        without scores get a score of 1.
        """
        return results_of(self, image_id, category_ids)

    def to_supervision(self) -> Any:
        """The same objects as ``supervision.Detections``, with compact masks and keypoints.

        Keypoints are ``data["keypoints"]``, ``[N, K, 3]``.

        Raises:
            ValueError: the extra ``supervision`` is not installed.
        """
        return to_supervision(self)

    def to_pandas(self) -> Any:
        """The table of :meth:`rows` as a ``pandas.DataFrame``, numbers as numbers.

        Raises:
            ValueError: pandas is not installed.
        """
        try:
            import pandas
        except ImportError as error:
            raise ValueError("to_pandas needs pandas: pip install pandas") from error
        name = "" if self.path is None else self.path.name
        numbers = self.measures()
        columns: dict[str, Any] = {"row": np.arange(1, len(self) + 1), "image": [name] * len(self)}
        columns["class"] = self.names
        columns["score"] = np.ones(len(self), np.float32) if self.scores is None else self.scores
        return pandas.DataFrame(columns | dict(zip(OBJECT_COLUMNS[4:], numbers.T, strict=True)))

    def measures(self) -> npt.NDArray[np.float64]:
        """``[N, 7]``: x1, y1, x2, y2, area, and x and y of the centroid, in pixels.

        Area and centroid are the mask's where there are masks, else the box's; so is the centroid of an empty
        mask.
        """
        boxes = self.boxes.astype(np.float32)
        areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        centroids = (boxes[:, :2] + boxes[:, 2:]) / 2
        if self.masks is not None:
            areas, found = self.masks.areas(), self.masks.centroids()
            centroids = np.where(np.isnan(found), centroids, found.astype(np.float32))
        return np.concatenate([boxes, areas[:, None], centroids], 1).astype(np.float64)

    def rows(self) -> list[list[str]]:
        """The columns of ``objects.csv`` after row and image: class, score, box, area and centroid."""
        scores = [1.0] * len(self) if self.scores is None else self.scores.tolist()
        return [
            [name, f"{score:.4f}", *(f"{value:.2f}" for value in row)]
            for name, score, row in zip(self.names, scores, self.measures().tolist(), strict=True)
        ]

    def area_rows(self) -> list[list[str]]:
        """The columns of ``areas.csv`` after the image: class, its pixels, and their fraction of the image.

        Empty where there is no semantic map.
        """
        if self.semantic is None:
            return []
        counts = np.bincount(self.semantic.reshape(-1).astype(np.int64), minlength=len(self.semantic_names))
        total = max(1, self.semantic.size)
        named = zip(self.semantic_names, counts.tolist(), strict=False)
        return [[name, str(count), f"{count / total:.4f}"] for name, count in named]


def table(rows: Iterable[Sequence[object]]) -> str:
    """Rows as CSV; texts that spreadsheets would take for formulas are marked, see ``rcnn.io.escaping``."""
    lines = []
    for row in rows:
        line = io.StringIO()
        # Cells are quoted for what ends lines here: names may have a carriage return.
        csv.writer(line, lineterminator="\r\n").writerow([for_csv(cell) for cell in row])
        lines.append(line.getvalue().removesuffix("\r\n"))
    return "".join(f"{line}\n" for line in lines)
