"""Files of results and of external proposals."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from scipy.io import savemat

from annotated_images import put
from fuzz.data_sets import MAKERS, MORE_MAKERS
from fuzz.seeds import BOXES
from rcnn.data.dataset import Dataset
from rcnn.data.external_proposals import read_proposals, with_proposals, write_proposals
from rcnn.data.formats.coco_results import read_results
from rcnn.data.formats.open import open_data
from rcnn.inference.sources import find_images, listed_ids

ROWS = {0: np.array(BOXES, np.float32), 1: np.array(BOXES[:1], np.float32)}


def _proposals(name: str) -> Callable[[Path], Path]:
    return lambda folder: write_proposals(folder / name, {f"image{key}": rows for key, rows in ROWS.items()})


def _mat(folder: Path, *, compressed: bool) -> Path:
    cells, names = np.empty((1, 2), object), np.empty((2, 1), object)
    for key, rows in ROWS.items():
        cells[0, key] = rows[:, [1, 0, 3, 2]].astype(np.float64) + 1
        names[key, 0] = f"image{key}"
    data = io.BytesIO()
    savemat(data, {"boxes": cells, "images": names}, do_compression=compressed)
    path = folder / "a.mat"
    path.write_bytes(data.getvalue())
    return path


def _open_proposals(path: Path) -> int:
    found = read_proposals(path)
    for key, rows in found.items():
        assert isinstance(key, int | str)
        assert not isinstance(key, bool)
        assert rows.dtype == np.float32
        assert rows.ndim == 2
        assert rows.shape[1] == 4
        assert np.isfinite(rows).all()
    return sum(map(len, found.values()))


def _use_proposals(path: Path) -> int:
    """The proposals that a data set takes lie in its images."""
    dataset = with_proposals(_truth(path.parent), path)
    for record in dataset.records:
        rows = record.truth.proposals
        assert rows is not None
        height, width = record.truth.size
        assert ((rows >= 0) & (rows <= [width, height] * 2)).all()
    return len(dataset)


def _truth(folder: Path) -> Dataset:
    return open_data(folder / "truth", format="coco")


def _data_set_proposals(folder: Path) -> Path:
    MAKERS["coco"](folder / "truth")
    return write_proposals(folder / "proposals.json", {1: ROWS[0], 2: ROWS[1]})


def _results(folder: Path, *, kind: str) -> Path:
    made = MORE_MAKERS["coco keypoints"][1] if kind == "keypoints" else MAKERS["coco"]
    made(folder / "truth")
    if kind == "keypoints":
        (folder / "truth" / "data").rename(folder / "moved")
        (folder / "truth").rmdir()
        (folder / "moved").rename(folder / "truth")
    data = _truth(folder)
    entries = []
    for record in data.records:
        truth = record.load_truth()
        size = {"masks": None} if kind == "boxes" else {}
        scores = np.linspace(0.9, 0.5, len(truth), dtype=np.float32)

        entries += replace(truth, scores=scores, crowd=None, **size).to_coco(
            record.image_id, data.category_ids
        )
    if kind != "file":
        return put(folder, "results.json", entries)
    content = json.loads(next((folder / "truth").glob("*.json")).read_text())
    return put(folder, "results.json", content | {"annotations": entries})


def _open_results(path: Path) -> int:
    data = _truth(path.parent)
    found = read_results(path, data)
    assert len(found) == len(data)
    for one in found:
        assert one.scores is not None
        assert np.isfinite(one.scores).all()
        assert (np.diff(one.scores) <= 0).all()
        assert np.isfinite(one.boxes).all()
        assert ((one.labels >= 0) & (one.labels < len(one.class_names))).all()
        assert one.keypoints is None or np.isfinite(one.keypoints).all()
        assert one.masks is None or one.masks.size == one.size
    return sum(map(len, found))


def _open_ids(path: Path) -> int:
    ids = listed_ids(path, find_images([path.parent]))
    assert all(isinstance(one, int | str) and not isinstance(one, bool) for one in ids.values())
    return len(ids)


RESULTS, ONE = ("results.json",), ("proposals.json",)
DOORS = {
    "proposals npz": (_proposals("a.npz"), _open_proposals),
    "proposals json": (_proposals("a.json"), _open_proposals),
    "proposals mat": (partial(_mat, compressed=False), _open_proposals),
    "proposals mat compressed": (partial(_mat, compressed=True), _open_proposals),
    "proposals of a data set": (_data_set_proposals, _use_proposals, ONE),
    "results boxes": (partial(_results, kind="boxes"), _open_results, RESULTS),
    "results masks": (partial(_results, kind="masks"), _open_results, RESULTS),
    "results keypoints": (partial(_results, kind="keypoints"), _open_results, RESULTS),
    "results file": (partial(_results, kind="file"), _open_results, RESULTS),
    "image ids": (MAKERS["coco"], _open_ids, ("*.json",)),
}
