"""Splits in every usual layout, folders around a data set, and archives."""

import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rcnn.data.formats.folders import sides_of, split_of
from rcnn.data.formats.open import open_data, open_splits
from rcnn.data.formats.recognition import find_splits

XML = (
    "<annotation><object><name>cat</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax>"
    "</bndbox></object></annotation>"
)
COCO = {
    "images": [{"id": 1, "file_name": "a.png"}],
    "categories": [{"id": 1, "name": "cat"}],
    "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 9, 9]}],
}


def photo(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (30, 20), (len(path.parts), len(path.stem), 9)).save(path)
    return path


def text(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)


def numbers(path: Path) -> None:
    found = np.zeros((20, 30), np.uint8)
    found[:9, :9], found[12:18, 12:25] = 1, 2
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(found).save(path)


def roboflow_coco(root: Path, part: str) -> None:
    photo(root / part / "a.png")
    text(root / part / "_annotations.coco.json", json.dumps(COCO))


def roboflow_voc(root: Path, part: str) -> None:
    photo(root / part / "a.png")
    text(root / part / "a.xml", XML)


def voc_by_sides(root: Path, part: str) -> None:
    photo(root / "images" / part / "a.png")
    text(root / "annotations" / part / "a.xml", XML)


def stardist(root: Path, part: str) -> None:
    photo(root / part / "images" / "a.png")
    numbers(root / part / "masks" / "a.png")


def masks_by_sides(root: Path, part: str) -> None:
    photo(root / "images" / part / "a.png")
    numbers(root / "masks" / part / "a.png")


def masks_by_names(root: Path, part: str) -> None:
    photo(root / f"{part}_images" / "a.png")
    numbers(root / f"{part}_masks" / "a.png")


def data_science_bowl(root: Path, part: str) -> None:
    photo(root / f"stage1_{part}" / "id" / "images" / "id.png")
    for name in ("one", "two"):
        numbers(root / f"stage1_{part}" / "id" / "masks" / f"{name}.png")


def yolo_by_sides(root: Path, part: str) -> None:
    photo(root / "images" / part / "a.png")
    text(root / "labels" / part / "a.txt", "0 0.5 0.5 0.2 0.4\n")
    text(root / "classes.txt", "cat\n")


def coco_files(root: Path, part: str) -> None:
    photo(root / f"{part}2017" / "a.png")
    text(root / "annotations" / f"instances_{part}2017.json", json.dumps(COCO))


LAYOUTS = [
    roboflow_coco, roboflow_voc, voc_by_sides, stardist, masks_by_sides, masks_by_names, data_science_bowl,
    yolo_by_sides, coco_files,
]  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("above", ["", "unpacked", "unpacked/again"])
def test_splits_of_every_layout(tmp_path: Path, layout: Callable[[Path, str], None], above: str) -> None:
    for part in ("train", "val", "test"):
        layout(tmp_path / above, part)
    splits = open_splits(tmp_path)
    assert list(splits) == ["train", "val", "test"]
    for dataset in splits.values():
        assert len(dataset) == 1
        assert len(dataset[0].truth) >= 1
        assert not [p for p in dataset.problems if p.severity == "error"]
    with pytest.raises(ValueError, match=r"splits train, val, test|several COCO files"):
        open_data(tmp_path)


def test_a_single_split_is_opened(tmp_path: Path) -> None:
    stardist(tmp_path, "train")
    (tmp_path / "notes").mkdir()
    assert len(open_data(tmp_path)[0].truth) == 2


def test_a_data_set_without_splits_is_opened_under_an_empty_name(tmp_path: Path) -> None:
    photo(tmp_path / "images" / "a.png")
    numbers(tmp_path / "masks" / "a.png")
    assert (list(open_splits(tmp_path)), find_splits(tmp_path)) == ([""], {})
    assert find_splits(tmp_path / "absent") == {}


def test_of_two_folders_for_one_split_none_is_guessed(tmp_path: Path) -> None:
    for part in ("train", "train_2", "val"):
        stardist(tmp_path, part)
    assert find_splits(tmp_path) == {}
    with pytest.raises(ValueError, match=r"One of these can be opened: .*train, .*train_2, .*val"):
        open_data(tmp_path)


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train", "train"), ("Valid", "val"), ("validation", "val"), ("stage1_test", "test"),
        ("instances_train2017", "train"), ("TrainImages", "train"), ("trainval", None), ("trains", None),
        ("train_test", None), ("testimony", None),
    ],
)  # fmt: skip
def test_names_of_splits(name: str, split: str | None) -> None:
    assert split_of(name) == split


def test_sides_need_files_of_their_kind(tmp_path: Path) -> None:
    photo(tmp_path / "img" / "a.png")
    (tmp_path / "mask").mkdir()

    def has_text(folder: Path) -> bool:
        return bool(list(folder.glob("*.txt")))

    assert sides_of(tmp_path, has_text) == []
    text(tmp_path / "mask" / "a.txt", "")
    assert sides_of(tmp_path, has_text) == [(tmp_path / "img", tmp_path / "mask", "")]
    assert sides_of(tmp_path / "img", has_text) == [(tmp_path / "img", tmp_path / "mask", "")]


@pytest.mark.parametrize("given", ["export.zip", ""])
def test_archives_are_to_be_unpacked(tmp_path: Path, given: str) -> None:
    with zipfile.ZipFile(tmp_path / "export.zip", "w") as archive:
        archive.writestr("a.json", "{}")
    with pytest.raises(ValueError, match=r"the data are packed; unpack .*export\.zip"):
        open_data(tmp_path / given)
