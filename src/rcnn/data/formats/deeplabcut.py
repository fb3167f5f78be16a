"""DeepLabCut's labelled frames: a table of keypoints per video.

    project/config.yaml                                     the skeleton
    project/labeled-data/mouse1/CollectedData_Anna.csv      rows scorer, individuals, bodyparts, coords, then
                                                            a row per frame
    project/labeled-data/mouse1/img01.png

Convention:
    Coordinates are indices of pixels, as for COCO: half a pixel is added. Empty cells are not annotated.

Every individual with a keypoint is an object of the one class ``animal``. DeepLabCut has no boxes: they are
made around the keypoints, with its own margin of 20 pixels (``bbox_margin``).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rcnn.data.builder import Picture
from rcnn.data.dataset import Dataset
from rcnn.data.formats.annotated import AnnotatedImages, Drawn
from rcnn.data.formats.contents import head, read_table
from rcnn.data.formats.outlines import is_number
from rcnn.io.images import IMAGE_ENDINGS, visible_files
from rcnn.io.yaml import parse_yaml
from rcnn.structures import Skeleton

CLASS = "animal"
FRAMES, CONFIG = "labeled-data", "config.yaml"
HEADER = ("scorer", "individuals", "bodyparts", "coords")
MARGIN = 20.0  # pixels: DeepLabCut 3, bbox_margin
HALF = 0.5
VISIBLE = 2.0


def is_deeplabcut(path: Path, images: Path | None = None) -> bool:
    """Whether a path is a table of labelled frames, or a folder or project with some."""
    return bool(_tables(path))


def _tables(path: Path) -> list[Path]:
    if path.is_file():
        return [path] if path.suffix.lower() == ".csv" and _is_table(path) else []
    patterns = ("*.csv", f"{FRAMES}/*/*.csv", *(["*/*.csv"] if path.name == FRAMES else []))
    for pattern in patterns:
        found = [file for file in visible_files(path, pattern) if file.is_file() and _is_table(file)]
        if found:
            return found
    return []


def _is_table(file: Path) -> bool:
    """Whether a table begins with DeepLabCut's rows and has images, not the frames of a video."""
    lines = head(file).splitlines()[: len(HEADER) + 1]
    begins = [line.split(",", 1)[0].strip() for line in lines]
    if "bodyparts" not in begins[:3] or "coords" not in begins[:4]:
        return False
    return len(lines) > begins.index("coords") + 1 and any(e in lines[-1].lower() for e in IMAGE_ENDINGS)


def read_deeplabcut(path: str | Path, images: str | Path | None = None) -> Dataset:
    """Open the labelled frames of a project, of one folder, or of one table.

    Args:
        path: the project, ``labeled-data``, a folder in it, or a table.
        images: the folder of the frames, if it is elsewhere.

    Raises:
        ValueError: there is no table, or a broken one, or none of its frames is found.
    """
    source = Path(path)
    tables = _tables(source)
    if not tables:
        raise ValueError(f"{source}: expected DeepLabCut's tables CollectedData_*.csv; found none.")
    objects = AnnotatedImages("deeplabcut", source, images=images)
    settings = _settings(tables[0])
    margin = settings.get("bbox_margin", MARGIN)
    margin = float(margin) if is_number(margin) else MARGIN
    parts: dict[str, None] = {}
    for table in tables:
        parts |= dict.fromkeys(_read_table(objects, table, margin))
    what = "DeepLabCut has no boxes."
    advice = f"They are made around the keypoints, with a margin of {margin:g} pixels."
    objects.builder.warn(what, advice, "boxes")
    objects.warn_of_unlisted("have no row in the table")
    return objects.dataset([CLASS], skeleton=_skeleton(tuple(parts), settings))


def _settings(table: Path) -> dict[str, Any]:
    """The content of the project's ``config.yaml``, empty if it is not there."""
    file = next((f for f in (folder / CONFIG for folder in table.parents[:3]) if f.is_file()), None)
    if file is None:
        return {}
    try:
        content = parse_yaml(file.read_text("utf-8"), file)
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{file}: the file cannot be read ({error}). Correct or remove it.") from error
    return content if isinstance(content, dict) else {}


def _skeleton(names: tuple[str, ...], settings: dict[str, Any]) -> Skeleton:
    bones = []
    for pair in settings.get("skeleton") or []:
        if isinstance(pair, list) and len(pair) == 2 and all(end in names for end in pair):
            bones.append((names.index(pair[0]), names.index(pair[1])))
    return Skeleton(names, tuple(bones))


def _read_table(objects: AnnotatedImages, table: Path, margin: float) -> list[str]:
    """Add the frames of a table, and return its body parts."""
    rows = read_table(table)
    headers = {row.values[0]: row.values for row in rows[: len(HEADER)] if row.values[0] in HEADER}
    # The name of a frame is in one column, or its folders are in columns of their own.
    first = next(i for i, word in enumerate(headers["coords"]) if word in ("x", "y"))
    columns = list(range(first, min(len(row) for row in headers.values())))
    individuals = headers.get("individuals", ("",) * len(headers["coords"]))
    for row in rows[len(headers) :]:
        name = "/".join(cell for cell in row.values[:first] if cell)
        picture = objects.find(name, place=f"{table.name}, line {row.number}")
        if picture is None:
            continue
        points: dict[str, dict[str, dict[str, float]]] = defaultdict(lambda: defaultdict(dict))
        for column in columns:
            text = row.values[column] if column < len(row.values) else ""
            if text and text.casefold() != "nan":
                place = f"{table.name}, line {row.number}, column {column + 1}"
                value = _number(objects, picture, text, place)
                part, axis = headers["bodyparts"][column], headers["coords"][column]
                if value is not None:
                    points[individuals[column]][part][axis] = value
        for individual, found in points.items():
            _draw(objects, picture, f"{name} {individual}".strip(), found, margin)
    return list(dict.fromkeys(headers["bodyparts"][column] for column in columns))


def _number(objects: AnnotatedImages, picture: Picture, text: str, place: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not is_number(value):
        objects.wrong(picture, place, f"Expected a coordinate; found {text[:40]!r}.")
        return None
    return value


def _draw(
    objects: AnnotatedImages,
    picture: Picture,
    place: str,
    found: dict[str, dict[str, float]],
    margin: float,
) -> None:
    drawn = Drawn(CLASS, place)
    for part, axes in found.items():
        if "x" in axes and "y" in axes:
            drawn.keypoints[part] = (axes["x"] + HALF, axes["y"] + HALF, VISIBLE)
    if not drawn.keypoints:
        return
    places = np.array([point[:2] for point in drawn.keypoints.values()])
    (left, top), (right, bottom) = places.min(0) - margin, places.max(0) + margin
    outside = _outside(places.tolist(), picture)
    if outside:
        what = f"{outside} keypoints are outside the image."
        objects.wrong(picture, place, what, "Correct them. Do they belong to another image?")
        return
    height, width = picture.size
    drawn.box = (max(left, 0.0), max(top, 0.0), min(right, float(width)), min(bottom, float(height)))
    objects.draw(picture, drawn)


def _outside(places: Sequence[Sequence[float]], picture: Picture) -> int:
    height, width = picture.size
    return sum(not (0 <= x <= width + 1 and 0 <= y <= height + 1) for x, y in places)
