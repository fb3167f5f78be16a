"""VOC's instance segmentation: numbers of objects, their classes, and pictures that disagree."""

import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rcnn.data.formats.open import open_data

OBJECTS = np.array([[0, 1, 1, 255], [2, 2, 0, 255]], np.uint8)
CLASSES = np.array([[0, 15, 15, 255], [8, 8, 0, 255]], np.uint8)


def folder(root: Path, objects: np.ndarray = OBJECTS, classes: np.ndarray = CLASSES) -> Path:
    for name, values in (("SegmentationObject", objects), ("SegmentationClass", classes)):
        (root / name).mkdir(exist_ok=True)
        picture = Image.fromarray(values).convert("P")
        picture.putpalette([(37 * i) % 256 for i in range(768)])
        picture.save(root / name / "a.png")
    (root / "JPEGImages").mkdir(exist_ok=True)
    Image.new("RGB", (4, 2)).save(root / "JPEGImages" / "a.jpg")
    listing = root / "ImageSets" / "Segmentation" / "train.txt"
    listing.parent.mkdir(parents=True, exist_ok=True)
    listing.write_text("a\n")
    return listing


def test_objects_and_map(tmp_path: Path) -> None:
    data = open_data(folder(tmp_path))
    assert (data.format, len(data.class_names), data.problems) == ("voc segmentation", 20, ())
    truth = pickle.loads(pickle.dumps(data))[0].truth
    assert truth.names == ["person", "cat"]
    assert truth.boxes.tolist() == [[1, 0, 3, 1], [0, 1, 2, 2]]
    assert truth.masks.dense().tolist() == [(OBJECTS == 1).tolist(), (OBJECTS == 2).tolist()]
    assert data.semantic_names[14] == "person"
    assert truth.semantic.tolist() == [[20, 14, 14, 255], [7, 7, 20, 255]]


def test_without_objects_it_is_semantic_only(tmp_path: Path) -> None:
    listing = folder(tmp_path)
    (tmp_path / "SegmentationObject" / "a.png").unlink()
    (tmp_path / "SegmentationObject").rmdir()
    assert open_data(listing).class_names == ()


@pytest.mark.parametrize(
    ("objects", "classes", "what", "left"),
    [
        (OBJECTS[:1], CLASSES, "it has 4 by 1 pixels", 0),
        (OBJECTS, CLASSES + 30, "outside the class list", 0),
        (OBJECTS, CLASSES * (CLASSES != 8), "The object 2 has no pixel of a class", 1),
    ],
)
def test_faults(tmp_path: Path, objects: np.ndarray, classes: np.ndarray, what: str, left: int) -> None:
    data = open_data(folder(tmp_path, objects, classes))
    [problem] = data.problems
    assert what in problem.what
    assert problem.file == tmp_path / "JPEGImages" / "a.jpg"
    assert sum(len(r.truth) for r in data.records) == left


@pytest.mark.parametrize("listed", [True, False])
def test_images_elsewhere(listed: bool, tmp_path: Path) -> None:
    root = tmp_path / "data"
    root.mkdir()
    source = folder(root)
    (root / "JPEGImages").rename(tmp_path / "photos")
    if not listed:
        for file in root.glob("ImageSets/Segmentation/*"):
            file.unlink()
        (root / "ImageSets" / "Segmentation").rmdir()
        source = root
    data = open_data(source, tmp_path / "photos")
    assert data.format == "voc segmentation"
    assert [record.path.parent.name for record in data.records] == ["photos"] * len(data)
    assert len(data) > 0
