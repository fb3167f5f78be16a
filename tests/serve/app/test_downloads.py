"""What is shown as files: every kind is read again, with the same objects under the same names."""

import csv
import shutil
import zipfile
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rcnn import open_data
from rcnn.bulk.results import read_rows
from rcnn.bulk.storage import Place, address_of
from rcnn.data.formats.registry import for_predictions
from rcnn.serve.app.collection import Collection, Picture, open_collection
from rcnn.serve.app.downloads import choices, written
from rcnn.serve.app.truth_files import Classes
from rcnn.structures import VOID, Instances, Masks

SIZE = (40, 60)
CLASSES = Classes(("cell", "dirt"), ("sky", "road"))
WRITABLE = for_predictions()


@pytest.fixture
def collection(tmp_path: Path) -> Collection:
    """Two images, one in a folder of its own."""
    folder = tmp_path / "views"
    (folder / "more").mkdir(parents=True)
    for name in ("a.png", "more/a.png"):
        Image.fromarray(np.full((*SIZE, 3), 90, np.uint8)).save(folder / name)
    return open_collection(folder)


def shown(collection: Collection) -> list[tuple[Picture, Instances]]:
    """One as a model with one class finds it, and one corrected, with the classes the other way round."""
    first, second = collection.pictures
    bitmaps = np.zeros((2, *SIZE), np.uint8)
    bitmaps[0, 5:20, 5:20] = 1
    bitmaps[1, 25:35, 30:50] = 1
    masks = Masks.from_dense(bitmaps)
    found = Instances(
        SIZE, masks.boxes(), np.zeros(2, np.int64), masks=masks, scores=np.array([0.9, 0.8], np.float32),
        class_names=("cell",), path=first.path,
    )  # fmt: skip
    corrected = replace(
        found, scores=None, labels=np.array([0, 1]), class_names=("dirt", "cell"), path=second.path,
        semantic=np.where(np.arange(SIZE[1]) < 20, 1, 0) + np.zeros(SIZE, np.int64),
        semantic_names=("road", "sky"),
    )  # fmt: skip
    return [(first, found), (second, corrected)]


def made(collection: Collection, to: str, tmp_path: Path) -> Path:
    file = written(shown(collection), to, CLASSES, lambda picture: np.full((*SIZE, 3), 90, np.uint8))
    assert tmp_path not in file.parents
    target = tmp_path / file.name
    shutil.copy(file, target)
    shutil.rmtree(file.parent)
    if target.suffix != ".zip":
        return target
    with zipfile.ZipFile(target) as archive:
        archive.extractall(tmp_path / to)
    return tmp_path / to


@pytest.mark.parametrize("to", WRITABLE)
def test_data_sets_are_read_again(collection: Collection, to: str, tmp_path: Path) -> None:
    data = open_data(made(collection, to, tmp_path), format=to)
    counts = Counter(name for record in data.records for name in record.load_truth().names)
    assert len(data) == 2
    assert counts.total() == 4
    if len(data.class_names) > 1:
        assert counts == {"cell": 3, "dirt": 1}, "labels are told by name"


def test_panoptic_data_are_read_again(collection: Collection, tmp_path: Path) -> None:
    data = open_data(made(collection, "panoptic", tmp_path))
    assert data.semantic_names == ("cell", "dirt", "sky", "road")
    first, second = (sample.truth for sample in data)
    assert first.names == ["cell", "cell"]
    assert (first.semantic == VOID).sum() == SIZE[0] * SIZE[1] - 425
    assert sorted(second.names) == ["cell", "dirt"]
    assert second.semantic[0, 0] == 2, "what the corrections call sky"
    assert second.semantic[0, -1] == 3


def test_tables_and_pictures(collection: Collection, tmp_path: Path) -> None:
    rows = list(csv.DictReader(made(collection, "table", tmp_path).read_text().splitlines()))
    assert [(row["image"], row["class"]) for row in rows] == [
        ("a.png", "cell"), ("a.png", "cell"), ("more/a.png", "dirt"), ("more/a.png", "cell"),
    ]  # fmt: skip
    kept = read_rows(Place.at(address_of(made(collection, "parquet", tmp_path))))
    assert [(Path(row["path"]).parent.name, row["labels"]) for row in kept] == [
        ("views", [0, 0]), ("more", [1, 0]),
    ]  # fmt: skip
    overlays = sorted(made(collection, "overlay", tmp_path).glob("*.png"))
    assert [path.name for path in overlays] == ["00001-a.png", "00002-a.png"]
    maps = made(collection, "maps", tmp_path)
    assert (maps / "classes.txt").read_text().split() == ["sky", "road"]
    with Image.open(maps / "00002-a.png") as picture:
        assert np.unique(np.asarray(picture)).tolist() == [0, 1]


def test_pixel_classes_are_offered_where_there_are_any() -> None:
    names = [{one["name"] for one in choices(has_pixels)} for has_pixels in (False, True)]
    assert names[1] - names[0] == {"maps", "panoptic"}
    assert {*WRITABLE, "overlay", "table", "parquet"} == names[0], "each format of predict --to"


def test_nothing_to_write_is_said(collection: Collection) -> None:
    with pytest.raises(ValueError, match="no image has been looked at"):
        written([], "coco", CLASSES, lambda picture: np.zeros((*SIZE, 3), np.uint8))
