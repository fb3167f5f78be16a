"""Which images of a pool are most worth annotating next: those that a model is unsure of and that look new.

An object is *doubtful* where its score is near the model's threshold, the score at which keeping and dropping
it is equally good: its doubt is 1 at the threshold t and falls linearly to 0 at t / 2 and (1 + t) / 2. The
doubts of an image add up, so that an image with many doubtful objects comes before one with few: it teaches
more for the same click on "next image". Images are then taken one by one, each time the one with the largest
product of

    (1 + doubt of its objects) * (distance to the nearest image that is annotated or already taken)

where the distance is that of plain statistics of the pixels (brightness, colour, texture, size), scaled by
their spread over the pool. So of many similar images one is taken, and copies of an image never are.

Sources: margin sampling added up over detections, Brust et al., "Active learning for deep object detection",
2018, §3; greedy selection by distance to what is chosen, Sener and Savarese, "Active learning for
convolutional neural networks: a core-set approach", 2018, algorithm 1.

Legend: I images, H height, W width, C channels, D statistics.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from rcnn.data.dataset import Record
from rcnn.data.digests import unpack_digests
from rcnn.data.twins import content_digests
from rcnn.inference.output_files import OutputFiles
from rcnn.inference.sources import find_images
from rcnn.inference.writers import Summary, predict_to_files
from rcnn.io.atomic import write_atomically
from rcnn.io.folders import free_folder, has_content
from rcnn.io.images import ImageError, read_image
from rcnn.structures import Array, Instances, table

if TYPE_CHECKING:
    from rcnn.inference.detector import Detector
    from rcnn.inference.exported import ExportedDetector

NEXT = Path("next")
NEXT_FILE = "next.csv"
NEXT_COLUMNS = ("rank", "image", "path", "doubt", "distance")
MAX_SIDE = 256  # pixels of an image that its statistics are made of, by leaving out rows and columns
LAGS = (1, 2, 4, 8)  # pixels between those that are compared for texture
DECILES = tuple(range(10, 100, 10))

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class NextImage:
    """An image that was chosen.

    Attributes:
        name: its path below the given folder.
        path: the file.
        doubt: the doubts of its objects, added up.
        distance: to the nearest image that is annotated or was chosen before it; 1 for the first of all.
    """

    name: str
    path: Path
    doubt: float
    distance: float


@dataclass(frozen=True)
class NextImages:
    """The images to annotate next.

    Attributes:
        chosen: most worth annotating first.
        pool: images looked at.
        annotated: images of the pool that were left out, since the model was trained on them or they were
            named as annotated.
        failed: a message for each image that could not be used.
    """

    chosen: tuple[NextImage, ...]
    pool: int
    annotated: int = 0
    failed: tuple[str, ...] = ()


def next_images(
    detector: Detector | ExportedDetector,
    pool: str | Path | Sequence[str | Path],
    count: int = 20,
    *,
    annotated: Sequence[str | Path] = (),
    progress: Callable[[int, int], None] | None = None,
) -> NextImages:
    """Choose the images that are most worth annotating.

    Images that the model was trained on, and those named as annotated, are not chosen, wherever their files
    are; what is chosen should look different from them.

    Args:
        detector: a model that finds objects.
        pool: image files, and folders to be searched at every depth.
        count: how many to choose; all of a smaller pool.
        annotated: images and folders that are annotated already, in the pool or elsewhere.
        progress: called with the number of images looked at and of all.

    Raises:
        FileNotFoundError: an input that does not exist.
        ValueError: a ``count`` below 1, a model that finds no objects, a folder without images, or a pool in
            which every image is annotated or unreadable.
    """
    if count < 1:
        raise ValueError(f"count is {count}: expected 1 or more images")
    if not detector.class_names:
        raise ValueError("next_images: this model classifies pixels only; expected one that finds objects")
    images = find_images([pool] if isinstance(pool, str | Path) else pool)
    others = list(find_images(annotated).values()) if annotated else []
    failed: list[str] = []
    digests = {path: _digest(path, failed) for path in (*images.values(), *others)}
    known = unpack_digests(str(detector.info.get("trained_on", ""))) | {digests[path] for path in others}
    candidates = {name: path for name, path in images.items() if digests[path] and digests[path] not in known}
    done = {digests[path]: path for path in digests if digests[path] in known and digests[path]}
    total, looked_at = len(done) + len(candidates), itertools.count(1)
    known_looks, looks, doubts = [], {}, {}
    for name, path in (*((None, path) for path in done.values()), *candidates.items()):
        image = _read(detector, path, failed)
        if image is not None and name is None:
            known_looks.append(statistics(image))
        elif image is not None and name is not None:
            looks[name], doubts[name] = statistics(image), doubt(detector, image)
        if progress is not None:
            progress(next(looked_at), total)
    left_out = len(images) - len(candidates) - sum(not digests[path] for path in images.values())
    if not looks:
        raise ValueError(
            f"none of the {len(images)} images can be chosen: {left_out} are annotated already and "
            f"{len(failed)} cannot be read{': ' + failed[0] if failed else ''}; give other images"
        )
    names = list(looks)
    order = spread_out(
        np.array([doubts[name] for name in names]), np.stack(list(looks.values())), count, known=known_looks
    )
    chosen = [NextImage(names[i], candidates[names[i]], doubts[names[i]], distance) for i, distance in order]
    return NextImages(tuple(chosen), len(images), left_out, tuple(failed))


def next_folder(out: str | Path | None) -> Path:
    """The folder named, or ``next``, ``next-2`` and so on: the first that holds nothing yet."""
    return free_folder(NEXT, has_content) if out is None else Path(out)


def write_next(
    detector: Detector | ExportedDetector,
    images: NextImages,
    out: str | Path | None = None,
    *,
    files: OutputFiles | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Summary:
    """Predict the images that were chosen into a folder, as a start for annotating them.

    The folder is that of :func:`rcnn.predict`, with ``next.csv``, which lists the images in the order of
    choice.

    Args:
        detector: the model.
        images: what :func:`next_images` chose.
        out: the folder; None: ``next``, or ``next-2`` and so on.
        files: which formats; None: COCO.
        progress: as for :func:`rcnn.predict`.

    Raises:
        ValueError: a folder that is not empty, or a format that cannot hold what the model finds.
        OSError: the folder cannot be written.
    """
    out = next_folder(out)
    files = files or OutputFiles(to=("coco",))
    paths = [image.path for image in images.chosen]
    summary = predict_to_files(detector, paths, out, files=files, progress=progress)
    rows = [
        [rank, image.name, image.path, f"{image.doubt:.4f}", f"{image.distance:.4f}"]
        for rank, image in enumerate(images.chosen, 1)
    ]
    write_atomically(out / NEXT_FILE, table([NEXT_COLUMNS, *rows]).encode(errors="surrogateescape"))
    return summary


def doubt(detector: Detector | ExportedDetector, image: Array) -> float:
    """How many objects of an image ``[H, W, C]`` are doubtful, by their scores; see this module's text."""
    threshold = detector.min_score
    (found,) = detector.predict(image, min_score=threshold / 2)
    assert isinstance(found, Instances)
    return doubt_of(found, threshold)


def doubt_of(found: Instances, threshold: float) -> float:
    """The doubts of what was found from half of the ``threshold`` on, added up."""
    if found.scores is None:
        return 0.0
    at = (threshold / 2, threshold, (1 + threshold) / 2)
    return float(np.interp(found.scores, at, (0.0, 1.0, 0.0)).sum())


def statistics(image: Array) -> Floats:
    """Plain statistics ``[D]`` of an image ``[H, W, C]``, uint8 or float in [0, 1].

    Deciles of each channel, mean differences of pixels that lie 1, 2, 4 and 8 apart, and the logarithms of
    height and width.
    """
    height, width = image.shape[:2]
    step = max(1, math.ceil(max(height, width) / MAX_SIDE))
    small = image[::step, ::step].astype(np.float64)
    small = small / 255 if image.dtype == np.uint8 else small
    deciles = np.percentile(small, DECILES, axis=(0, 1)).reshape(-1)
    gray = small.mean(2)
    texture = [_mean_difference(gray, lag) for lag in LAGS]
    return np.concatenate([deciles, texture, np.log([height, width])])


def _mean_difference(gray: Floats, lag: int) -> float:
    """The mean difference of pixels of ``[H, W]`` that lie ``lag`` apart in a row or a column."""
    differences = [
        np.abs(gray[lag:] - gray[:-lag]).reshape(-1),
        np.abs(gray[:, lag:] - gray[:, :-lag]).reshape(-1),
    ]
    found = np.concatenate(differences)
    return float(found.mean()) if len(found) else 0.0


def spread_out(
    doubts: Floats, looks: Floats, count: int, *, known: Sequence[Floats] = ()
) -> list[tuple[int, float]]:
    """The indices of at most ``count`` images in the order of choice, each with its distance.

    Args:
        doubts: ``[I]``, of each image.
        looks: ``[I, D]``, its statistics.
        count: how many to choose.
        known: the statistics of the images that are annotated.
    """
    spread = looks.std(0)
    scale = np.where(spread > 0, spread, np.inf)  # what is the same everywhere distinguishes nothing
    scaled = looks / scale
    nearest = np.ones(len(looks))
    if len(known):
        annotated = np.stack(list(known)) / scale
        nearest = np.stack([_distances(scaled, one) for one in annotated]).min(0)
    left = np.ones(len(looks), np.bool_)
    chosen: list[tuple[int, float]] = []
    for number in range(min(count, len(looks))):
        index = int(np.argmax(np.where(left, (1 + doubts) * nearest, -1.0)))
        chosen.append((index, float(nearest[index])))
        left[index] = False
        from_it = _distances(scaled, scaled[index])
        nearest = from_it if not number and not len(known) else np.minimum(nearest, from_it)
    return chosen


def _distances(looks: Floats, one: Floats) -> Floats:
    """From each row of ``[I, D]`` to ``[D]``: root mean square over the statistics."""
    found: Floats = np.sqrt(np.square(looks - one).mean(1))
    return found


def _digest(path: Path, failed: list[str]) -> str:
    """The short digest of a file; empty, with a message in ``failed``, if it cannot be read."""
    try:
        return content_digests([Record(path, str(path), Instances.empty((0, 0)))])[0]
    except ImageError as error:
        failed.append(str(error))
        return ""


def _read(detector: Detector | ExportedDetector, path: Path, failed: list[str]) -> Array | None:
    """An image as the model takes it; None, with a message in ``failed``, if it cannot be read."""
    try:
        return read_image(path, reading=detector.reading, channels=detector.channels)
    except ImageError as error:
        failed.append(str(error))
        return None
