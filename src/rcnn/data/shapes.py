"""A synthetic data set: overlapping textured shapes on textured backgrounds, with exact masks.

It serves demonstrations, tests and measurements without a download. Image i of a seed is always the same, in
whatever order images are drawn.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from PIL import Image

from rcnn.config import did_you_mean
from rcnn.data.dataset import Dataset, Record
from rcnn.data.formats.coco_panoptic import PanopticWriter
from rcnn.structures import Instances, Masks, Size, true_segments
from rcnn.structures.coco import annotations_of, category_entries, image_entry

if TYPE_CHECKING:
    import numpy.typing as npt

    Grid = npt.NDArray[np.float32]
    Bitmap = npt.NDArray[np.bool_]


def _disk(u: Grid, v: Grid) -> Bitmap:
    return u * u + v * v <= 1


def _square(u: Grid, v: Grid) -> Bitmap:
    return np.maximum(np.abs(u), np.abs(v)) <= 0.8


def _triangle(u: Grid, v: Grid) -> Bitmap:
    slope = np.float32(np.sqrt(3))
    return (v >= -0.5) & (slope * np.abs(u) + v <= 1)


def _star(u: Grid, v: Grid) -> Bitmap:
    # Five rays: between a tip (radius 1) and a notch (radius 0.45), the edge is nearly straight.
    turn = np.abs((np.arctan2(v, u) * (5 / (2 * np.pi))) % 1 - 0.5) * 2
    return np.hypot(u, v) * (1 + (1 - turn) * (1 / 0.45 - 1)) <= 1


def _ring(u: Grid, v: Grid) -> Bitmap:
    radius = u * u + v * v
    return (radius <= 1) & (radius >= 0.5**2)


# Whether points are inside, in coordinates in which the shape fits into the unit circle.
SHAPES: dict[str, Callable[[Grid, Grid], Bitmap]] = {
    "disk": _disk,
    "square": _square,
    "triangle": _triangle,
    "star": _star,
    "ring": _ring,
}
Truth = Literal["objects", "semantic", "both"]
# Independent random streams of a picture, so that the truth is available without painting.
GEOMETRY, PAINT, PARTING = 0, 1, 2
GROUNDS = ("stripes", "checks", "blotches")


@dataclass(frozen=True)
class Scenes:
    """How pictures are drawn; ``scenes.image(n)`` and ``scenes.objects_of(n)`` are picture n.

    Attributes:
        size: (height, width) of every picture.
        seed: the random seed.
        class_names: names from :data:`SHAPES`, in label order.
        objects: smallest and largest number of objects; there are fewer if they do not fit.
        diameter: smallest and largest diameter of a shape, in pixels.
        max_covered: the fraction of an object that objects drawn over it may hide.
        grounds: names from :data:`GROUNDS`, the stuff of panoptic truth: a line divides the background into
            two of them. Empty: one background of random texture.
    """

    size: Size = (160, 160)
    seed: int = 0
    class_names: tuple[str, ...] = tuple(SHAPES)
    objects: tuple[int, int] = (2, 8)
    diameter: tuple[float, float] = (24.0, 64.0)
    max_covered: float = 0.4
    grounds: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check the settings.

        Raises:
            ValueError: an unknown shape, or an empty range.
        """
        unknown = [name for name in self.class_names if name not in SHAPES]
        if unknown or not self.class_names:
            hint = did_you_mean(unknown[0], SHAPES) if unknown else ""
            raise ValueError(
                f"class_names {list(self.class_names)}: {hint}expected any of {', '.join(SHAPES)}."
            )
        if not set(self.grounds) <= set(GROUNDS):
            wrong = next(name for name in self.grounds if name not in GROUNDS)
            hint = did_you_mean(wrong, GROUNDS)
            raise ValueError(f"grounds {list(self.grounds)}: {hint}expected any of {', '.join(GROUNDS)}.")
        if min(self.size) < 1:
            raise ValueError(f"size {self.size}: expected a height and a width of at least 1 pixel.")
        for name, least in (("objects", 0), ("diameter", 1)):
            low, high = getattr(self, name)
            if not least <= low <= high:
                raise ValueError(f"{name} ({low}, {high}): expected {least} <= smallest <= largest.")

    def owners(self, number: int) -> tuple[npt.NDArray[np.int32], list[int]]:
        """The object that each pixel ``[H, W]`` of a picture shows, -1 for the background; and the labels."""
        rng = np.random.default_rng([self.seed, GEOMETRY, number])
        owners = np.full(self.size, -1, dtype=np.int32)
        labels: list[int] = []
        areas: list[int] = []
        aim = int(rng.integers(self.objects[0], self.objects[1] + 1))
        for _ in range(3 * aim):
            if len(labels) == aim:
                break
            label = int(rng.integers(len(self.class_names)))
            rows, columns, inside = self._outline(label, rng)
            window = owners[rows, columns]
            if inside.any() and self._leaves_enough(owners, window[inside], areas):
                window[inside] = len(labels)
                labels.append(label)
                areas.append(int(inside.sum()))
        return owners, labels

    def _outline(self, label: int, rng: np.random.Generator) -> tuple[slice, slice, Bitmap]:
        """A shape of random size, position and rotation: its window in the picture and its pixels there."""
        height, width = self.size
        low, high = (min(d, height, width) for d in self.diameter)
        radius = float(np.exp(rng.uniform(np.log(low), np.log(high)))) / 2
        margin = 0.7 * radius  # at most a small part is outside the picture
        x, y = rng.uniform(margin, width - margin), rng.uniform(margin, height - margin)
        rows = slice(max(0, int(y - radius)), min(height, int(np.ceil(y + radius))))
        columns = slice(max(0, int(x - radius)), min(width, int(np.ceil(x + radius))))
        v = ((np.arange(rows.start, rows.stop) + 0.5 - y) / radius).astype(np.float32)[:, None]
        u = ((np.arange(columns.start, columns.stop) + 0.5 - x) / radius).astype(np.float32)[None]
        angle = rng.uniform(0, 2 * np.pi)
        sine, cosine = np.float32(np.sin(angle)), np.float32(np.cos(angle))
        shape = SHAPES[self.class_names[label]]
        return rows, columns, shape(cosine * u + sine * v, cosine * v - sine * u)

    def _leaves_enough(
        self, owners: npt.NDArray[np.int32], hidden: npt.NDArray[np.int32], areas: Sequence[int]
    ) -> bool:
        """Whether every object stays visible if these pixels are hidden, too."""
        if not areas or hidden.max() < 0:
            return True
        count = len(areas)
        lost = np.bincount(hidden[hidden >= 0], minlength=count)
        seen = np.bincount(owners[owners >= 0], minlength=count)
        least = (1 - self.max_covered) * np.array(areas)
        return bool((seen - lost >= least).all())

    def objects_of(self, number: int) -> Instances:
        """The objects of a picture, with their visible parts as masks."""
        owners, labels = self.owners(number)
        bitmaps = owners[None] == np.arange(len(labels))[:, None, None]
        masks = Masks.from_dense(bitmaps)
        return Instances(
            self.size,
            masks.boxes(),
            np.array(labels, np.int64),
            masks=masks,
            class_names=self.class_names,
        )

    def masks(self, number: int) -> Masks:
        """The visible parts of the objects of a picture."""
        masks = self.objects_of(number).masks
        assert masks is not None
        return masks

    def semantic(self, number: int) -> npt.NDArray[np.int64]:
        """The class of every pixel of a picture, int64 ``[H, W]``; backgrounds follow the shapes."""
        owners, labels = self.owners(number)
        count = len(self.class_names)
        # Index -1 is the last one, the background.
        classes = np.array([*labels, count], np.int64)[owners]
        return np.where(classes == count, count + self.background_regions(number), classes)

    @property
    def semantic_names(self) -> tuple[str, ...]:
        """The meaning of the values of :meth:`semantic`."""
        return (*self.class_names, *(self.grounds or ("background",)))

    def background_regions(self, number: int) -> npt.NDArray[np.int64]:
        """The index in ``grounds`` that each pixel ``[H, W]`` of a picture would show without objects."""
        if not self.grounds:
            return np.zeros(self.size, dtype=np.int64)
        rng = np.random.default_rng([self.seed, PARTING, number])
        first, second = (rng.permutation(len(self.grounds)).tolist() * 2)[:2]
        angle, away = rng.uniform(0, np.pi), rng.uniform(-0.25, 0.25)
        height, width = self.size
        y, x = np.arange(height)[:, None] / height - 0.5, np.arange(width)[None] / width - 0.5
        beyond = np.cos(angle) * x + np.sin(angle) * y > away
        parts: npt.NDArray[np.int64] = np.where(beyond, first, second)
        return parts

    def image(self, number: int) -> npt.NDArray[np.uint8]:
        """The picture, uint8 ``[H, W, 3]``."""
        owners, labels = self.owners(number)
        rng = np.random.default_rng([self.seed, PAINT, number])
        ground = rng.uniform(40, 215, 3)
        image = _texture(self.size, ground, rng)
        if self.grounds:
            kinds = [GROUNDS.index(name) for name in self.grounds]
            textures = np.stack([_texture(self.size, ground, rng, kind) for kind in kinds])
            image = np.take_along_axis(textures, self.background_regions(number)[None, ..., None], 0)[0]
        for index in range(len(labels)):
            ys, xs = np.nonzero(owners == index)
            rows, columns = slice(ys.min(), ys.max() + 1), slice(xs.min(), xs.max() + 1)
            patch = _texture((rows.stop - rows.start, columns.stop - columns.start), _apart(ground, rng), rng)
            inside = owners[rows, columns] == index
            image[rows, columns][inside] = patch[inside]
        image += rng.normal(0, 6, self.size).astype(np.float32)[..., None]
        return image.clip(0, 255).astype(np.uint8)


def _apart(ground: npt.NDArray[np.float64], rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """A colour distinct from the background's: the farthest of three."""
    colours = rng.uniform(20, 235, (3, 3))
    farthest: npt.NDArray[np.float64] = colours[np.linalg.norm(colours - ground, axis=1).argmax()]
    return farthest


def _texture(
    size: Size, colour: npt.NDArray[np.float64], rng: np.random.Generator, kind: int | None = None
) -> Grid:
    """``[h, w, 3]`` in a colour with stripes, checks or blotches of random direction, width and strength."""
    height, width = size
    y, x = np.arange(height, dtype=np.float32)[:, None], np.arange(width, dtype=np.float32)[None]
    angle, wavelength = rng.uniform(0, np.pi), rng.uniform(5, 16)
    phases = rng.uniform(0, 2 * np.pi, 2)
    turn = 2 * np.pi / wavelength
    along = np.sin((np.cos(angle) * x + np.sin(angle) * y) * turn + phases[0])
    across = np.sin((np.cos(angle) * y - np.sin(angle) * x) * turn + phases[1])
    drawn = rng.integers(3)
    pattern = (along, np.sign(along * across), along * across)[drawn if kind is None else kind]
    tint = rng.uniform(-30, 30, 3)
    shade = (x / max(width, 1) - 0.5) * rng.uniform(-30, 30)
    texture: Grid = (colour + pattern[..., None] * tint + shade[..., None]).astype(np.float32)
    return texture


@dataclass(frozen=True)
class Shapes(Dataset):
    """A data set of drawn pictures; ``shapes[i]`` draws one.

    Attributes:
        scenes: how they are drawn; ``image_id`` of a record is the picture's number.
    """

    scenes: Scenes = Scenes()

    def write(self, folder: str | Path) -> Path:
        """Write the data set to disk: ``images/*.png`` and ``annotations.json`` (COCO, RLE).

        Data with semantic maps only become ``labels/*.png`` and ``classes.txt`` next to the images; data with
        objects and maps become COCO's panoptic JSON and PNGs, ``annotations/*.png``.

        Returns:
            The JSON file, or the folder of semantic maps.

        Raises:
            ValueError: ``folder`` is not writable.
        """
        folder = Path(folder)
        try:
            (folder / "images").mkdir(parents=True, exist_ok=True)
            if not self.class_names:
                return self._write_maps(folder)
            target = folder / "annotations.json"
            if self.semantic_names:
                return self._write_panoptic(folder, target)
            content = self._coco(folder)
            target.write_text(json.dumps(content), encoding="utf-8")
        except OSError as error:
            raise ValueError(f"{folder} is not writable ({error}): choose another folder.") from error
        return target

    def _write_maps(self, folder: Path) -> Path:
        (folder / "labels").mkdir(exist_ok=True)
        (folder / "classes.txt").write_text("\n".join(self.semantic_names) + "\n", encoding="utf-8")
        for sample, record in ((self[i], r) for i, r in enumerate(self.records)):
            assert sample.truth.semantic is not None
            classes = sample.truth.semantic.astype(np.uint8)
            Image.fromarray(sample.image).save(folder / record.path)
            Image.fromarray(classes).save(folder / "labels" / record.path.name)
        return folder

    def _write_panoptic(self, folder: Path, target: Path) -> Path:
        writer = PanopticWriter(target)
        for sample, record in ((self[i], r) for i, r in enumerate(self.records)):
            Image.fromarray(sample.image).save(folder / record.path)
            writer.add(record.image_id, record.path.as_posix(), true_segments(sample.truth))
        return writer.close()

    def _coco(self, folder: Path) -> dict[str, Any]:
        """Save the images and return the content of the JSON file."""
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for sample, record in ((self[i], r) for i, r in enumerate(self.records)):
            Image.fromarray(sample.image).save(folder / record.path)
            images.append(image_entry(record.image_id, record.path.as_posix(), sample.truth.size))
            annotations += annotations_of(
                sample.truth, record.image_id, first=len(annotations) + 1, outlines="rle"
            )
        categories = category_entries(self.class_names)
        return {"images": images, "annotations": annotations, "categories": categories}


def draw_shapes(count: int, *, first: int = 0, truth: Truth = "objects", **settings: Any) -> Shapes:
    """A data set of ``count`` synthetic pictures, from number ``first`` on.

    Training and validation pictures of one seed: ``draw_shapes(300)`` and ``draw_shapes(60, first=300)``.

    Args:
        count: number of pictures.
        first: the number of the first picture.
        truth: ``objects`` with masks, ``semantic`` maps, or both.
        settings: those of :class:`Scenes`: ``size``, ``seed``, ``class_names``, ``objects``, ``diameter``, …
    """
    scenes = Scenes(**settings)
    records = [_record(scenes, number, truth) for number in range(first, first + count)]
    source = Path(f"shapes-seed{scenes.seed}")
    class_names = () if truth == "semantic" else scenes.class_names
    semantic_names = () if truth == "objects" else scenes.semantic_names
    return Shapes("shapes", source, class_names, records, semantic_names=semantic_names, scenes=scenes)


def _record(scenes: Scenes, number: int, truth: Truth) -> Record:
    path = Path("images") / f"{number:06d}.png"
    whole = Instances.empty(scenes.size, path=path)
    if truth != "semantic":
        whole = replace(scenes.objects_of(number), masks=None, path=path)
    if truth != "objects":
        whole = replace(whole, semantic_names=scenes.semantic_names)
    return Record(
        path,
        number,
        whole,
        masks=None if truth == "semantic" else partial(scenes.masks, number),
        semantic=None if truth == "objects" else partial(scenes.semantic, number),
        image=partial(scenes.image, number),
    )
