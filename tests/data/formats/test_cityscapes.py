"""Cityscapes: ids to classes, objects, groups and void; its own scripts as oracle for the classes."""

import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rcnn.data.formats.cityscapes import CLASS_NAMES, SEMANTIC_IDS, SEMANTIC_NAMES, STUFF, THINGS
from rcnn.data.formats.open import open_data

# car 0 and 1, a group of cars, a person, road, ego vehicle, caravan 0, a group of trailers
IDS = np.array([[26000, 26000, 26, 24001, 7], [1, 26001, 26, 29000, 30]], np.uint16)


def scene(root: Path, ids: np.ndarray = IDS, split: str = "train", stem: str = "ulm_0_1") -> Path:
    photos, truth = root / "leftImg8bit" / split / "ulm", root / "gtFine" / split / "ulm"
    photos.mkdir(parents=True, exist_ok=True)
    truth.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (5, 2), (3, len(stem), 4)).save(photos / f"{stem}_leftImg8bit.png")
    Image.fromarray(ids).save(truth / f"{stem}_gtFine_instanceIds.png")
    return truth


@pytest.mark.parametrize("opened", [".", "gtFine/train", "leftImg8bit/train"])
def test_objects_groups_and_map(tmp_path: Path, opened: str) -> None:
    scene(tmp_path)
    data = open_data(tmp_path / opened)
    assert (data.format, data.class_names, data.problems) == ("cityscapes", CLASS_NAMES, ())
    assert data.source == tmp_path / "gtFine" / "train"
    sample = pickle.loads(pickle.dumps(data))[0]
    truth = sample.truth
    assert sample.image_id == "ulm_0_1"
    assert truth.names == ["car", "person", "car", "car"]
    assert truth.crowd.tolist() == [True, False, False, False]
    assert truth.boxes.tolist() == [[2, 0, 3, 2], [3, 0, 4, 1], [0, 0, 2, 1], [1, 1, 2, 2]]
    assert truth.masks.dense()[0].tolist() == (IDS == 26).tolist()
    car, person, road = (SEMANTIC_NAMES.index(name) for name in ("car", "person", "road"))
    assert truth.semantic.tolist() == [[car, car, car, person, road], [255, car, car, 255, 255]]


def test_the_classes_are_those_of_its_scripts() -> None:
    labels = pytest.importorskip("cityscapesscripts.helpers.labels").labels
    judged = [label for label in labels if not label.ignoreInEval]
    assert {label.name: label.id for label in judged if label.hasInstances} == THINGS
    assert {label.name: label.id for label in judged if not label.hasInstances and label.id >= 0} == STUFF
    assert len(SEMANTIC_IDS) == 19


def test_label_ids_alone_are_semantic_maps(tmp_path: Path) -> None:
    truth = scene(tmp_path)
    (truth / "ulm_0_1_gtFine_instanceIds.png").unlink()
    Image.fromarray(np.array([[7, 26, 26, 255, 0]] * 2, np.uint8)).save(truth / "ulm_0_1_gtFine_labelIds.png")
    data = open_data(truth.parent)
    assert data.class_names == ()
    assert data.has_semantic
    assert data[0].truth.semantic.tolist() == [[8, 2, 2, 255, 255]] * 2


def test_several_parts_are_asked_for(tmp_path: Path) -> None:
    scene(tmp_path)
    scene(tmp_path, split="val")
    with pytest.raises(ValueError, match=r"several splits; name one of them: .*gtFine/train, .*gtFine/val"):
        open_data(tmp_path)
    assert len(open_data(tmp_path / "gtFine" / "val")) == 1


def test_faults(tmp_path: Path) -> None:
    truth = scene(tmp_path)
    scene(tmp_path, IDS[:1], stem="ulm_0_2")
    scene(tmp_path, stem="ulm_0_3")
    scene(tmp_path, stem="ulm_0_4")
    (truth / "ulm_0_3_gtFine_instanceIds.png").unlink()
    (tmp_path / "leftImg8bit" / "train" / "ulm" / "ulm_0_4_leftImg8bit.png").unlink()
    data = open_data(tmp_path)
    assert [r.image_id for r in data.records] == ["ulm_0_1"]
    assert [(p.file.name, p.severity) for p in data.problems] == [
        ("ulm_0_4_gtFine_instanceIds.png", "error"),
        ("ulm_0_2_leftImg8bit.png", "error"),
        ("ulm_0_3_leftImg8bit.png", "error"),
    ]
    assert "5 by 1 pixels" in data.problems[1].what
    assert "ulm_0_3_gtFine_instanceIds.png is missing" in data.problems[2].what


@pytest.mark.parametrize("given", ["leftImg8bit", "leftImg8bit/train"])
def test_images_elsewhere(given: str, tmp_path: Path) -> None:
    scene(tmp_path / "data")
    (tmp_path / "data" / "leftImg8bit").rename(tmp_path / "leftImg8bit")
    data = open_data(tmp_path / "data" / "gtFine" / "train", tmp_path / given)
    assert data.format == "cityscapes"
    assert [record.path.parents[1].name for record in data.records] == ["train"]
