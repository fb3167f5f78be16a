"""External proposals: search for them, read and write their files, cache them, and add them to a data set.

Proposal files are ``.npz`` (our own: ``images``, text; ``counts``, int64; ``boxes``, float32, of all images
in turn), ``.mat`` as published with R-CNN and Fast R-CNN, and ``.json``, COCO's list of results. Once read,
boxes are ``x1 y1 x2 y2``, continuous, best first.

Legend: P proposals per image.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import threading
import warnings
import zipfile
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rcnn.data.cores import available_cores
from rcnn.data.dataset import Dataset, Record
from rcnn.io.arrays import array_of
from rcnn.io.atomic import write_atomically
from rcnn.io.download import cache_folder
from rcnn.io.images import to_bytes
from rcnn.io.json_text import parse_json
from rcnn.io.matlab import read_matlab
from rcnn.parts.selective_search import SelectiveSearchSettings, selective_search

MAX_BYTES = 2**33  # of the arrays in a file
SELECTIVE_SEARCH = "selective_search"
"""Used in place of a file name: run selective search."""

ENDINGS = ".npz, .mat (as published with Fast R-CNN) or .json (COCO proposals)"
# Part of the cache key; incremented when the same settings give other boxes.
_SEARCH_VERSION = 1

_NPZ = ("images", "counts", "boxes")  # the arrays of our own files
# Pixels by which boxes may extend beyond their image: programs round in different ways.
OUTSIDE = 3.0
LARGEST = 1e9  # pixels; coordinates beyond it are damage
MIN_SIDE = 1e-3  # pixels; clipped boxes with a shorter side are dropped

ImageId = int | str
Boxes = npt.NDArray[np.float32]
Progress = Callable[[int, int], None]


def read_proposals(path: str | Path) -> dict[ImageId, Boxes]:
    """Read a proposal file: float32 ``[P, 4]`` by image id or name, best first.

    Convention: the row ``1 1 10 20`` of a MATLAB file (y1 x1 y2 x2, 1-based, inclusive) is ``0 0 20 10``.

    Raises:
        FileNotFoundError: no such file.
        ValueError: another extension, or content that does not match the extension.
    """
    path = Path(path)
    readers = {".npz": _read_npz, ".mat": _read_mat, ".json": _read_json}
    if path.suffix.lower() not in readers:
        raise ValueError(f"{path}: unknown format of proposals; expected {ENDINGS}")
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such proposal file")
    return readers[path.suffix.lower()](path)


def write_proposals(path: str | Path, proposals: Mapping[ImageId, Boxes]) -> Path:
    """Write proposals, ``[P, 4]`` per image, best first, as ``.npz`` or COCO's ``.json``.

    Scores in the JSON file fall evenly from 1 to 1 / P, to represent the order.

    Raises:
        ValueError: another extension.
        OSError: the file could not be written.
    """
    path = Path(path)
    if path.suffix.lower() == ".npz":
        write_atomically(path, _npz_bytes(proposals))
    elif path.suffix.lower() == ".json":
        rows = list(chain.from_iterable(_coco_rows(image, boxes) for image, boxes in proposals.items()))
        write_atomically(path, json.dumps(rows).encode())
    else:
        raise ValueError(f"{path}: proposals can be written as .npz or .json")
    return path


def with_proposals(
    dataset: Dataset,
    source: str | Path | Mapping[ImageId, Boxes] = SELECTIVE_SEARCH,
    *,
    cache: str | Path | None = None,
    settings: SelectiveSearchSettings | None = None,
    progress: Progress | None = None,
) -> Dataset:
    """The same data set with ``truth.proposals`` in every record.

    Images are matched by their id, or else by their file name without its extension; in a ``.mat`` file,
    which has no ids, by name. Boxes are clipped to the image, and dropped if nothing is left. COCO's JSON
    cannot list an image without proposals: if it lists some images of the data set, the others have none,
    with a warning.

    Args:
        dataset: the images.
        source: a proposal file, ``"selective_search"``, or boxes ``[P, 4]`` by image id.
        cache: a folder that caches search results by image content and settings; None disables it.
        settings: the settings of the search.
        progress: called with the number of images searched and in total.

    Raises:
        ValueError: a file that is unusable, lacks images of the data set, or has boxes that extend beyond
            them by more than ``OUTSIDE`` pixels; or selective search without OpenCV's contrib module.
    """
    if isinstance(source, str) and source == SELECTIVE_SEARCH:
        found = search_all(dataset, cache=cache, settings=settings, progress=progress)
    else:
        name = "the given proposals" if isinstance(source, Mapping) else str(source)
        known = source if isinstance(source, Mapping) else read_proposals(source)
        found = _of_records(dataset, known, name)
    records = [_equipped(record, boxes) for record, boxes in zip(dataset.records, found, strict=True)]
    return replace(dataset, records=records)


def search_all(
    dataset: Dataset,
    *,
    cache: str | Path | None = None,
    settings: SelectiveSearchSettings | None = None,
    progress: Progress | None = None,
) -> list[Boxes]:
    """Selective search in every image of a data set, in the order of its records; see :func:`with_proposals`.

    It uses one thread per core.
    """
    chosen = settings or SelectiveSearchSettings()
    folder = None if cache is None else Path(cache)
    bare = dataset.without_masks()

    def search(index: int) -> Boxes:
        return cached_search(to_bytes(bare[index].image), chosen, folder)

    found = []
    with ThreadPoolExecutor(available_cores()) as pool:
        for boxes in pool.map(search, range(len(bare))):
            found.append(boxes)
            if progress is not None:
                progress(len(found), len(dataset))
    return found


def cached_search(
    image: npt.NDArray[np.uint8], settings: SelectiveSearchSettings, folder: Path | None
) -> Boxes:
    """:func:`selective_search` in an image, uint8 ``[H, W, 3]``, or its cached result for the same pixels.

    The cache in ``folder`` has one file per image, named by the SHA-256 of pixels and settings.
    """
    if folder is None:
        return selective_search(image, settings)
    file = folder / f"{_key(image, settings)}.npz"
    if file.is_file():
        return _read_npz(file)[""]
    boxes = selective_search(image, settings)
    # A unique name: another thread or process may be searching the same image.
    part = file.with_name(f"{file.stem}.{os.getpid()}.{threading.get_ident()}.npz")
    write_atomically(part, _npz_bytes({"": boxes}))
    part.replace(file)
    return boxes


def default_cache() -> Path:
    """The default cache of search results, below ``RCNN_CACHE`` or ``~/.cache/rcnn``."""
    return cache_folder() / "proposals"


def _key(image: npt.NDArray[np.uint8], settings: SelectiveSearchSettings) -> str:
    planes = np.ascontiguousarray(image.transpose(2, 0, 1))  # [3, H, W], as 0.1.0 kept them
    facts = {"version": _SEARCH_VERSION, "shape": list(planes.shape), **asdict(settings)}
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    digest.update(planes.tobytes())
    return digest.hexdigest()


def _equipped(record: Record, boxes: Boxes) -> Record:
    height, width = record.truth.size
    cut = np.clip(boxes, 0, np.array([width, height] * 2, np.float32))
    sides = cut[:, 2:] - cut[:, :2]
    return replace(record, truth=replace(record.truth, proposals=cut[(sides >= MIN_SIDE).all(1)]))


def _of_records(dataset: Dataset, known: Mapping[ImageId, Boxes], name: str) -> list[Boxes]:
    """The boxes of each record, all matched by id or all by file name."""
    by_text = {str(key): np.asarray(boxes, np.float32) for key, boxes in known.items()}
    keys = keys_in(dataset, by_text, name)
    absent = [key for key in keys if key not in by_text]
    if absent and name.lower().endswith(".json") and len(absent) < len(dataset):
        warnings.warn(f"{name}: no proposals for {len(absent)} of {len(dataset)} images", stacklevel=3)
        by_text |= dict.fromkeys(absent, np.zeros((0, 4), np.float32))
    elif absent:
        shown = ", ".join(absent[:8]) + (f" and {len(absent) - 8} more" if len(absent) > 8 else "")
        has = ", ".join(list(by_text)[:3]) or "nothing"
        raise ValueError(
            f"{name}: no proposals for {len(absent)} of the {len(dataset)} images of {dataset.source}: "
            f"{shown}; it has {has}, …. Use a file made from the same images, or remove these images"
        )
    found = [by_text[key] for key in keys]
    for record, boxes in zip(dataset.records, found, strict=True):
        height, width = record.truth.size
        room = np.array([width, height] * 2) + OUTSIDE
        inside = ((boxes >= -OUTSIDE) & (boxes <= room)).all(1)  # NaN is not
        if not inside.all():
            raise ValueError(
                f"{name}: boxes of {record.path.name} such as {boxes[~inside][0].tolist()} extend beyond its "
                f"{width} x {height} pixels. Are these the proposals of other images?"
            )
    return found


def keys_in(dataset: Dataset, known: Collection[str], name: str) -> list[str]:
    """The key of each image in a set of proposals: all by id, or all by file name."""
    by_id = [str(record.image_id) for record in dataset.records]
    by_name = [record.path.stem for record in dataset.records]
    missing = [sum(key not in known for key in keys) for keys in (by_id, by_name)]
    return by_id if missing[0] <= missing[1] and not name.lower().endswith(".mat") else by_name


def _npz_bytes(proposals: Mapping[ImageId, Boxes]) -> bytes:
    data = io.BytesIO()
    boxes = [np.asarray(value, np.float32).reshape(-1, 4) for value in proposals.values()]
    np.savez_compressed(
        data,
        images=np.array([str(key) for key in proposals], dtype=np.str_),
        counts=np.array([len(value) for value in boxes], dtype=np.int64),
        boxes=np.concatenate([*boxes, np.zeros((0, 4), np.float32)]),
    )
    return data.getvalue()


def _read_npz(path: Path) -> dict[ImageId, Boxes]:
    try:
        _refuse_inflated(path)
        with zipfile.ZipFile(path) as file:
            images, counts, boxes = (array_of(file.read(f"{name}.npy")) for name in _NPZ)
    except Exception as error:  # whatever zipfile and zlib raise for damaged files
        raise ValueError(
            f"{path}: not a proposal file: expected images, counts and boxes ({error})"
        ) from error
    if (images.dtype.kind, counts.dtype.kind, boxes.dtype.kind) != ("U", "i", "f"):
        raise ValueError(f"{path}: expected images as text, counts as integers, boxes as float numbers")
    if counts.size and counts.min() < 0:
        raise ValueError(f"{path}: a count of {counts.min()} boxes; create the file again")
    if boxes.shape != (int(counts.sum()), 4) or counts.shape != images.shape:
        raise ValueError(
            f"{path}: {len(images)} images, counts of {int(counts.sum())} boxes in total, and boxes of shape "
            f"{list(boxes.shape)} do not match; create the file again with `rcnn propose`"
        )
    if not (np.abs(boxes.astype(np.float64)) < LARGEST).all():
        raise ValueError(f"{path}: boxes with numbers that are not finite; create the file again")
    pieces = np.split(boxes.astype(np.float32), counts.cumsum())[:-1]
    return dict(zip((str(image) for image in images), pieces, strict=True))


def _refuse_inflated(path: Path) -> None:
    """Refuse an archive of arrays that would take more than :data:`MAX_BYTES`, however small it is.

    Raises:
        ValueError: it would.
    """
    with zipfile.ZipFile(path) as archive:
        total = sum(info.file_size for info in archive.infolist())
    if total > MAX_BYTES:
        raise ValueError(f"its arrays take {total / 2**30:.1f} GiB, the limit is {MAX_BYTES / 2**30:.0f}")


def _read_mat(path: Path) -> dict[ImageId, Boxes]:
    """The cell arrays ``boxes`` and ``images`` of the files published with R-CNN and Fast R-CNN."""
    content = _load_mat(path)
    lacking = [name for name in ("boxes", "images") if name not in content]
    if lacking:
        raise ValueError(f"{path}: no cell array {' and '.join(lacking)}; expected boxes and images")
    names = [str(cell) for cell in _cells(content["images"], str, path)]
    cells = _cells(content["boxes"], np.ndarray, path)
    if len(names) != len(cells):
        raise ValueError(f"{path}: boxes of {len(cells)} images, but names of {len(names)}")
    pairs = zip(names, cells, strict=True)
    return {name: _from_matlab(cell, f"{path}: image {name}") for name, cell in pairs}


def _load_mat(path: Path) -> dict[str, Any]:
    try:
        return read_matlab(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: not a MATLAB file, or truncated: {error}") from error


def _cells(found: Any, kind: type, path: Path) -> list[Any]:
    """The values of a cell array; texts may be in a cell of their own."""
    values = list(found.reshape(-1)) if isinstance(found, np.ndarray) and found.dtype == object else [None]
    bare = [
        v.item() if isinstance(v, np.ndarray) and v.dtype == object and v.size == 1 else v for v in values
    ]
    if not all(isinstance(value, kind) for value in bare):
        raise ValueError(f"{path}: expected boxes and images as cell arrays of numbers and of names")
    return bare


def _from_matlab(rows: npt.NDArray[Any], place: str) -> Boxes:
    """1-based, inclusive y1 x1 y2 x2 as continuous x1 y1 x2 y2."""
    if rows.size == 0:
        return np.zeros((0, 4), np.float32)
    if rows.ndim != 2 or rows.shape[1] != 4:
        raise ValueError(f"{place}: boxes of shape {list(rows.shape)}, expected [P, 4] (y1 x1 y2 x2)")
    if not np.abs(rows.astype(np.float64)).max() < LARGEST:  # NaN is not
        raise ValueError(f"{place}: boxes with numbers that are not finite")
    return rows[:, [1, 0, 3, 2]].astype(np.float32) - np.array([1, 1, 0, 0], dtype=np.float32)


def _read_json(path: Path) -> dict[ImageId, Boxes]:
    try:
        rows = parse_json(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: not JSON: {error}") from error
    wanted = "a list of objects with image_id, bbox [x, y, width, height] and score"
    if not isinstance(rows, list):
        raise ValueError(f"{path}: expected {wanted}, found {type(rows).__name__}")
    by_image: dict[ImageId, list[tuple[float, list[float]]]] = {}
    for number, row in enumerate(rows):
        try:
            x, y, width, height = (float(value) for value in row["bbox"])
            scored = float(row["score"]), [x, y, x + width, y + height]
            if not np.abs([scored[0], *scored[1]]).max() < LARGEST:  # NaN is not
                raise ValueError("numbers that are not finite")
            by_image.setdefault(_image_id(row["image_id"]), []).append(scored)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise ValueError(f"{path}: entry {number}: expected {wanted} ({error!r})") from error
    return {
        image: np.array([box for _, box in sorted(boxes, key=lambda pair: -pair[0])], np.float32)
        for image, boxes in by_image.items()
    }


def _image_id(value: Any) -> ImageId:
    """An id as files have it; whole numbers may be written as 1.0."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError(f"image_id {value!r}")
    return value


def _coco_rows(image: ImageId, boxes: Boxes) -> list[dict[str, Any]]:
    return [
        {
            "image_id": image,
            "category_id": 1,
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "score": (len(boxes) - place) / len(boxes),
        }
        for place, (x1, y1, x2, y2) in enumerate(boxes.tolist())
    ]
