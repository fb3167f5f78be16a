"""The containers of ``rcnn.structures`` in NumPy, for exported models: the same names, arrays for tensors.

Nothing here or below imports torch. Fields and methods mean what they mean there.

Legend: N objects of one image, H and W its height and width, P all pixels of the masks' windows.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import operator
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rcnn.io.atomic import write_atomically, write_image

Array = npt.NDArray[Any]
Size = tuple[int, int]

OBJECT_COLUMNS = ("image", "class", "score", "x1", "y1", "x2", "y2", "area", "centroid_x", "centroid_y")


def as_index_list(index: Any) -> tuple[Any, bool]:
    """An index of objects, and whether it is one integer, of Python, NumPy or torch: then as a list of it."""
    if getattr(index, "ndim", 0) == 0:
        with contextlib.suppress(TypeError):
            return [operator.index(index)], True
    return index, False


@dataclass(frozen=True)
class Masks:
    """N binary masks of one image, each kept only inside its own window; see ``rcnn.structures.Masks``."""

    pixels: Array
    windows: Array
    size: Size

    @classmethod
    def from_patches(cls, patches: Sequence[Array], windows: Array, size: Size) -> Masks:
        """Masks from bitmaps ``[h, w]`` and the windows x1 y1 x2 y2 ``[N, 4]`` that they fill."""
        flat = [np.asarray(patch, np.uint8).reshape(-1) for patch in patches]
        return cls(np.concatenate([np.zeros(0, np.uint8), *flat]), windows, size)

    def __len__(self) -> int:
        return len(self.windows)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(N, H, W), as the dense array would have it."""
        return (len(self), *self.size)

    def patches(self) -> Iterator[Array]:
        """Yield each mask's window as uint8 ``[h, w]``, a view."""
        start = 0
        for x1, y1, x2, y2 in self.windows.tolist():
            end = start + (y2 - y1) * (x2 - x1)
            yield self.pixels[start:end].reshape(y2 - y1, x2 - x1)
            start = end

    def __getitem__(self, index: Any) -> Any:
        """One mask as bool ``[H, W]`` for an integer; otherwise the Masks that the index selects."""
        index, one = as_index_list(index)
        patches, chosen = list(self.patches()), np.arange(len(self))[index]
        picked = Masks.from_patches([patches[i] for i in chosen], self.windows[chosen], self.size)
        return picked.dense()[0] if one else picked

    def dense(self) -> Array:
        """Full bitmaps, bool ``[N, H, W]``."""
        bitmaps = np.zeros(self.shape, bool)
        for bitmap, patch, (x1, y1, x2, y2) in zip(
            bitmaps, self.patches(), self.windows.tolist(), strict=True
        ):
            bitmap[y1:y2, x1:x2] = patch
        return bitmaps

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        return self.dense().astype(dtype or bool, copy=False)

    def areas(self) -> Array:
        """float32 ``[N]``: pixels inside each mask."""
        return np.array([patch.sum() for patch in self.patches()], np.float32)

    def rle(self) -> list[dict[str, Any]]:
        """Compressed COCO run-length codes, ``counts`` as text."""
        from pycocotools import mask as coco_mask

        height, width = self.size
        codes = []
        for patch, (x1, y1, _, _) in zip(self.patches(), self.windows.tolist(), strict=True):
            counts = column_runs(patch, y1, x1, height, width)
            code = coco_mask.frPyObjects({"counts": counts, "size": [height, width]}, height, width)
            codes.append({"size": [height, width], "counts": code["counts"].decode("ascii")})
        return codes


def column_runs(patch: Array, top: int, left: int, height: int, width: int) -> list[int]:
    """Lengths of the runs of 0, 1, 0, … of a patch placed in an image, read column by column."""
    columns = np.zeros((patch.shape[1], patch.shape[0] + 2), dtype=np.int8)
    columns[:, 1:-1] = patch.T
    steps = np.diff(columns, axis=1)
    column, row = np.nonzero(steps == 1)
    starts = (left + column) * height + top + row
    column, row = np.nonzero(steps == -1)
    ends = (left + column) * height + top + row
    if len(starts) == 0:
        return [height * width]
    # A run that ends at the image's bottom and one that begins at the next column's top are one run.
    apart = ends[:-1] != starts[1:]
    starts, ends = starts[np.r_[True, apart]], ends[np.r_[apart, True]]
    edges = np.stack([starts, ends], 1).reshape(-1)
    counts = [int(n) for n in np.diff(np.r_[0, edges])]
    rest = height * width - int(edges[-1])
    return [*counts, rest] if rest else counts


@dataclass(frozen=True)
class Skeleton:
    """What the keypoints of an object are called and how they belong together.

    Attributes:
        names: one a keypoint.
        bones: pairs of keypoints that are drawn joined.
        mirror: for each keypoint the one that takes its place in a mirrored image: the right eye for the
            left; itself where it has no partner.
        sigmas: how far annotators scatter around each keypoint, in object sizes (square root of the area);
            what COCO's object keypoint similarity is measured in.
    """

    names: tuple[str, ...]
    bones: tuple[tuple[int, int], ...] = ()
    mirror: tuple[int, ...] = ()
    sigmas: tuple[float, ...] = ()

    @classmethod
    def from_json(cls, values: Mapping[str, Any] | None) -> Skeleton | None:
        """From a model's metadata, which has lists for tuples; None where it has no skeleton."""
        if values is None:
            return None
        bones = tuple((int(a), int(b)) for a, b in values["bones"])
        return cls(tuple(values["names"]), bones, tuple(values["mirror"]), tuple(values["sigmas"]))

    def __post_init__(self) -> None:
        """Check that the parts fit, and fill in those left out: partners by name, sigmas of 0.05.

        Raises:
            ValueError: a part of another length, or a keypoint that is not there.
        """
        count = len(self.names)
        object.__setattr__(self, "mirror", self.mirror or _partners(self.names))
        object.__setattr__(self, "sigmas", self.sigmas or (DEFAULT_SIGMA,) * count)
        if len(self.sigmas) != count or not all(sigma > 0 for sigma in self.sigmas):
            raise ValueError(f"sigmas {self.sigmas}: expected {count} numbers above 0, one a keypoint")
        if sorted(self.mirror) != list(range(count)):
            raise ValueError(f"mirror {self.mirror}: expected each of 0 to {count - 1} once")
        if any(not 0 <= end < count for bone in self.bones for end in bone):
            raise ValueError(f"bones {self.bones}: expected pairs of 0 to {count - 1}")


DEFAULT_SIGMA = 0.05
# How names say left: left_ear; l_ear, ear.L; earL, LEar; paw_lf, fl_paw; lear.
LEFT = (
    "(?i:left)", "(?<![A-Za-z])[lL](?![A-Za-z])", "(?<=[a-z0-9])L(?![a-z])", "^[lL](?=[A-Z])",
    "(?<=_)[lL]", "[lL](?=_)", "^l",
)  # fmt: skip


def _partners(names: tuple[str, ...]) -> tuple[int, ...]:
    """For each name the index of its mirror image: ``left_eye`` and ``right_eye``, ``earL`` and ``earR``."""
    index = {name: i for i, name in enumerate(names)}
    partners = list(range(len(names)))
    for name, i in index.items():
        others = (index.get(re.sub(side, _opposite, name, count=1)) for side in LEFT)
        other = next((o for o in others if o is not None and o != i), None)
        if other is not None:
            partners[i], partners[other] = other, i
    return tuple(partners)


def _opposite(left: re.Match[str]) -> str:
    right = "right" if len(left[0]) > 1 else "r"
    return right.upper() if left[0].isupper() else right.title() if left[0].istitle() else right


@dataclass(frozen=True)
class Instances:
    """The objects found in one image.

    Attributes:
        size: (height, width) of the image.
        boxes: float32 ``[N, 4]``, x1 y1 x2 y2 in pixels.
        labels: int64 ``[N]``, indices into ``class_names``.
        scores: float32 ``[N]`` in [0, 1], best first.
        masks: the outlines, where the model finds any.
        keypoints: float32 ``[N, K, 3]``: x, y and score, where the model finds any.
        class_names: the names that ``labels`` index.
        skeleton: what the keypoints are.
        path: the image file, where known.
    """

    size: Size
    boxes: Array
    labels: Array
    scores: Array
    masks: Masks | None = None
    keypoints: Array | None = None
    class_names: tuple[str, ...] = ()
    skeleton: Skeleton | None = None
    path: Path | None = None

    def __len__(self) -> int:
        return len(self.boxes)

    def __getitem__(self, index: Any) -> Instances:
        """The objects that a slice, a bool mask or integer indices ``[M]`` select; an integer selects one."""
        index, _ = as_index_list(index)
        values = {spec.name: getattr(self, spec.name) for spec in fields(self)}
        return replace(self, **{k: v[index] for k, v in values.items() if isinstance(v, np.ndarray | Masks)})

    @property
    def names(self) -> list[str]:
        """The class name of each object."""
        return [self.class_names[label] for label in self.labels.tolist()]

    def to_coco(
        self, image_id: int | str = 0, category_ids: Sequence[int] | None = None
    ) -> list[dict[str, Any]]:
        """COCO results: one dict an object with ``image_id category_id bbox score``, RLE, keypoints.

        ``bbox`` is x, y, width, height. Without ``category_ids`` a label's category id is label + 1.
        """
        results: list[dict[str, Any]] = []
        for (x1, y1, x2, y2), label, score in zip(
            self.boxes.tolist(), self.labels.tolist(), self.scores.tolist(), strict=True
        ):
            category = label + 1 if category_ids is None else category_ids[label]
            box = [x1, y1, x2 - x1, y2 - y1]
            results.append({"image_id": image_id, "category_id": category, "bbox": box, "score": score})
        for result, code in zip(results, [] if self.masks is None else self.masks.rle(), strict=False):
            result["segmentation"] = code
        for result, points in zip(results, [] if self.keypoints is None else self.keypoints, strict=False):
            # COCO's keypoints are pixel indices: half a pixel less than continuous coordinates.
            result["keypoints"] = (points.astype(np.float64) - [0.5, 0.5, 0]).reshape(-1).tolist()
        return results

    def to_supervision(self) -> Any:
        """The same objects as ``supervision.Detections`` (needs the ``supervision`` extra)."""
        try:
            import supervision
        except ImportError as error:
            raise ValueError('to_supervision needs: pip install "rcnn[supervision]"') from error
        return supervision.Detections(
            xyxy=self.boxes,
            class_id=self.labels,
            confidence=self.scores,
            mask=None if self.masks is None else self.masks.dense(),
            data={"class_name": np.array(self.names, dtype=str)},
        )

    def rows(self) -> list[list[str]]:
        """The columns of ``objects.csv`` after the image: class, score, box, area and centroid, in pixels.

        Area and centroid are the mask's where there are masks, else the box's.
        """
        boxes = self.boxes
        areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        centroids = (boxes[:, :2] + boxes[:, 2:]) / 2
        if self.masks is not None:
            areas = self.masks.areas()
            for i, (patch, window) in enumerate(zip(self.masks.patches(), self.masks.windows, strict=True)):
                ys, xs = patch.nonzero()
                if len(ys):  # pixel i covers [i, i + 1): its centre is at i + 0.5
                    centroids[i] = xs.mean() + window[0] + 0.5, ys.mean() + window[1] + 0.5
        numbers = np.concatenate([boxes, areas[:, None], centroids], 1).tolist()
        return [
            [name, f"{score:.4f}", *(f"{value:.2f}" for value in row)]
            for name, score, row in zip(self.names, self.scores.tolist(), numbers, strict=True)
        ]

    def save(self, path: str | Path) -> Path:
        """Write the objects to ``path``: ``.json`` COCO results, ``.csv`` a table, ``.png .jpg`` an overlay.

        Raises:
            ValueError: another ending, or an overlay where the image file is not known.
        """
        path = Path(path)
        name = "" if self.path is None else self.path.name
        if path.suffix.lower() == ".json":
            write_atomically(path, json.dumps(self.to_coco(name or 0)).encode())
        elif path.suffix.lower() == ".csv":
            write_atomically(path, table([OBJECT_COLUMNS, *([name, *row] for row in self.rows())]).encode())
        elif path.suffix.lower() in (".png", ".jpg", ".jpeg"):
            if self.path is None:
                raise ValueError(f"{path}: an overlay needs the image; predict from a file")
            from rcnn.io.images import read_pixels

            write_image(overlay(read_pixels(self.path), self), path)
        else:
            raise ValueError(f"{path}: unknown ending {path.suffix!r}; expected .json, .csv, .png or .jpg")
        return path


def table(rows: Iterable[Sequence[object]]) -> str:
    """CSV."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


COLOURS = ((0, 190, 255), (255, 136, 0), (80, 220, 60), (255, 70, 150), (170, 110, 255), (255, 221, 0))


def overlay(image: Array, found: Instances, opacity: float = 0.35) -> Any:
    """The image, uint8 ``[H, W, 3]``, with masks, boxes, keypoints and names drawn, as a Pillow image."""
    from PIL import Image, ImageDraw

    picture = np.array(image)
    one_class = len(found.class_names) < 2
    colours = [COLOURS[(i if one_class else label) % len(COLOURS)] for i, label in enumerate(found.labels)]
    if found.masks is not None:
        for patch, window, colour in zip(
            found.masks.patches(), found.masks.windows.tolist(), colours, strict=True
        ):
            x1, y1, x2, y2 = window
            part, inside = picture[y1:y2, x1:x2], patch.astype(bool)
            part[inside] = (part[inside] * (1 - opacity) + np.array(colour) * opacity).astype(np.uint8)
    drawn = Image.fromarray(picture)
    pen = ImageDraw.Draw(drawn)
    for i, colour in enumerate(colours):
        x1, y1, x2, y2 = found.boxes[i].tolist()
        if found.masks is None:
            pen.rectangle((x1, y1, x2, y2), outline=colour)
        for x, y, score in [] if found.keypoints is None else found.keypoints[i].tolist():
            if score > 0:
                pen.ellipse((x - 2, y - 2, x + 2, y + 2), fill=colour)
        pen.text((x1 + 2, y1 + 1), f"{found.names[i]} {found.scores[i]:.2f}", fill=colour)
    return drawn
