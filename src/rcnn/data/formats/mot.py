"""MOT Challenge: the frames of videos, with the boxes of tracks in one text file for each video.

    MOT17-02/img1/000001.jpg
    MOT17-02/gt/gt.txt          frame,track,left,top,width,height,flag,class,visibility
    MOT17-02/gt/labels.txt      the names of the classes, if CVAT exported it

Convention:
    Frames and pixels are counted from 1: ``9,7,16,14`` is the box ``8 6 24 20``. CVAT counts pixels from 0.

Tracks are not read, only their boxes. Lines with the flag 0 mark what is not to be counted; they are left out
with a warning. Without classes (MOT15), all objects are pedestrians. A frame without a line has no objects.
"""

from __future__ import annotations

import re
from pathlib import Path

from rcnn.data.dataset import Dataset
from rcnn.data.formats.annotated import AnnotatedImages, Drawn
from rcnn.data.formats.contents import head, read_table, read_text
from rcnn.data.formats.folders import subfolders
from rcnn.data.formats.outlines import is_number
from rcnn.io.images import image_files

CLASSES = (
    "pedestrian", "person on vehicle", "car", "bicycle", "motorbike", "non motorized vehicle",
    "static person", "distractor", "occluder", "occluder on the ground", "occluder full", "reflection",
    "crowd",
)  # fmt: skip
FRAME_FOLDERS = ("img1", "images", "img", "")
NAMES_FILE = "labels.txt"
NUMBER = r"\s*[-+]?\d+(?:\.\d*)?(?:[eE][-+]?\d+)?\s*"
FIRST_LINE = re.compile(rf"\s*\d+\s*,\s*-?\d+\s*(?:,{NUMBER}){{5,8}}(?:\r?\n|$)")
FIELDS = range(7, 11)  # MOT17 has 9, MOT15 10


def is_mot(path: Path, images: Path | None = None) -> bool:
    """Whether a path is ``gt.txt``, a video with it, or a folder of such videos."""
    return bool(_truth_files(path))


def _truth_files(path: Path) -> list[Path]:
    if path.is_file():
        return [path] if path.name == "gt.txt" and FIRST_LINE.match(head(path)) else []
    places = [path / "gt.txt", path / "gt" / "gt.txt"]
    found = [file for file in places if FIRST_LINE.match(head(file))]
    return found or [f for folder in subfolders(path) if (f := folder / "gt" / "gt.txt").is_file()]


def read_mot(path: str | Path, images: str | Path | None = None) -> Dataset:
    """Open the frames of one video or several.

    Args:
        path: a file ``gt.txt``, the folder of a video, or a folder of such folders.
        images: the folder of the frames of the only video, if it is elsewhere.

    Raises:
        ValueError: there are no annotations, or no frames.
    """
    source = Path(path)
    files = _truth_files(source)
    if not files:
        raise ValueError(f"{source}: expected the boxes of a video in gt/gt.txt; found none.")
    if images is not None and len(files) > 1:
        raise ValueError(f"{source}: it has {len(files)} videos; name one of them to use --images.")
    objects = AnnotatedImages("mot", source, images=images)
    for file in files:
        _read_video(objects, file, None if images is None else Path(images))
    return objects.dataset()


def _read_video(objects: AnnotatedImages, file: Path, images: Path | None) -> None:
    above = file.absolute().parent
    video = above.parent if above.name == "gt" else above
    folders = [images] if images is not None else [video / name for name in FRAME_FOLDERS]
    files = next((found for folder in folders if folder.is_dir() and (found := image_files(folder))), [])
    frames = {int(match[0]): f for f in files if (match := re.search(r"\d+$", f.stem)) is not None}
    if not frames:
        searched = ", ".join(map(str, folders))
        raise ValueError(
            f"{file}: none of its frames was found. Searched {searched} for images whose names end with the "
            "number of the frame. Name the image folder (--images, or images=…)."
        )
    for frame in sorted(frames):
        objects.at(frames[frame], place=f"frame {frame}")
    named = file.with_name(NAMES_FILE)
    names = read_text(named).split("\n") if named.is_file() else []
    for row in read_table(file):
        _read_line(objects, frames, row.values, f"{video.name}, {file.name}, line {row.number}", names)


def _read_line(
    objects: AnnotatedImages, frames: dict[int, Path], cells: tuple[str, ...], place: str, names: list[str]
) -> None:
    """Read one box; ``names`` are the classes of CVAT, if it wrote the file."""
    values = [float(cell) for cell in cells if re.fullmatch(NUMBER, cell)]
    whole = len(cells) == len(values) in FIELDS and all(map(is_number, values))
    path = frames.get(int(values[0])) if whole else None
    if whole and path is None:
        objects.missing.setdefault(f"frame {cells[0]}")
        return
    if path is None:
        found = ",".join(cells)[:60]
        what = f"Expected frame, track, left, top, width, height, flag and more numbers; found {found!r}."
        objects.builder.report(what, "Correct or delete it.", place)
        return
    picture = objects.at(path, place=place)
    _, _, left, top, width, height, flag = values[:7]
    number = int(values[7]) if len(values) == 9 else 1
    known = [name.strip() for name in names if name.strip()] or CLASSES
    if picture is None:
        return
    if flag == 0:
        objects.ignore("boxes with the flag 0, which are not to be counted")
    elif not 1 <= number <= len(known):
        objects.wrong(picture, place, f"There is no class {number}; expected 1 to {len(known)}.")
    else:
        shift = 0 if names else 1
        x, y = left - shift, top - shift
        objects.draw(picture, Drawn(known[number - 1], place, (x, y, x + width, y + height)))
