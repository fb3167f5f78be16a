"""Label images: the layouts, numbers of any depth, and what a folder can have wrong."""

import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rcnn.data.check import check
from rcnn.data.formats.label_image import label_windows
from rcnn.data.formats.open import open_data

NUMBERS = np.array([[0, 7, 7, 0, 0], [0, 7, 0, 0, 7], [300, 0, 0, 0, 0]])


def label(path: Path, numbers: np.ndarray = NUMBERS, kind: type = np.uint16) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(numbers.astype(kind)).save(path)


def photo(path: Path, size: tuple[int, int] = (5, 3)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (len(path.stem), 9, size[0])).save(path)


@pytest.mark.parametrize(
    ("image", "picture"),
    [
        ("images/a.png", "labels/a.tif"),
        ("images/a.jpg", "masks/a.png"),
        ("images/zelle ä.png", "masks/zelle ä_mask.tif"),
        ("PNGImages/FudanPed00001.png", "PedMasks/FudanPed00001_mask.png"),
        ("a.png", "a_label.tif"),
        ("a.tif", "a_masks.tif"),
        ("a.png", "a_cp_masks.png"),
        ("000_img.png", "000_masks.png"),
        ("image/a.png", "label/a.png"),
        ("Images/a.png", "Masks/a.tif"),
        ("img/a.png", "gt/a.png"),
        ("imgs/a.png", "annotations/a_gt.png"),
        ("original/a.jpg", "masks/a.png"),
        ("images/a.jpg", "ground_truth/a.jpg.png"),
        ("images/img_7.png", "masks/mask_7.png"),
        ("train_images/a.png", "train_masks/a.png"),
        ("images/monday/a.png", "masks/monday/a.png"),
        ("images/images/a.png", "masks/a.png"),
        ("data/images/a.png", "data/masks/a.png"),
        ("data/again/images/a.png", "data/again/masks/a.png"),
    ],
)
def test_every_layout(tmp_path: Path, image: str, picture: str) -> None:
    photo(tmp_path / image)
    label(tmp_path / picture)
    data = open_data(tmp_path)
    assert (data.format, data.class_names, data.problems) == ("label images", ("object",), ())
    truth = pickle.loads(pickle.dumps(data))[0].truth
    assert truth.boxes.tolist() == [[1, 0, 5, 2], [0, 2, 1, 3]]  # 7 is in two parts
    assert truth.masks.dense()[0].tolist() == (NUMBERS == 7).tolist()
    assert truth.masks.dense()[1].tolist() == (NUMBERS == 300).tolist()


def test_equal_names_belong_together_whatever_they_end_in(tmp_path: Path) -> None:
    for name in ("001_img", "wet_mask", "c"):
        photo(tmp_path / "images" / f"{name}.png")
        label(tmp_path / "labels" / f"{name}.png")
    data = open_data(tmp_path)
    assert data.problems == ()
    assert [r.image_id for r in data.records] == ["001_img", "c", "wet_mask"]


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.int32, np.bool_])
def test_numbers_of_any_depth(tmp_path: Path, kind: type) -> None:
    numbers = np.minimum(NUMBERS, 1 if kind is np.bool_ else 255)
    photo(tmp_path / "a.png")
    label(tmp_path / "a_label.tif", numbers, kind)
    truth = open_data(tmp_path)[0].truth
    assert truth.masks.dense().any(0).tolist() == (NUMBERS > 0).tolist()
    assert len(truth) == (1 if kind is np.bool_ else 2)


def test_windows_by_brute_force() -> None:
    rng = np.random.default_rng(0)
    for shape in ((1, 1), (9, 14), (14, 9), (0, 3)):
        numbers = rng.integers(0, 6, shape)
        values, windows = label_windows(numbers)
        assert values.tolist() == [v for v in range(1, 6) if (numbers == v).any()]
        for value, window in zip(values, windows.tolist(), strict=True):
            ys, xs = np.nonzero(numbers == value)
            assert window == [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]


def test_an_image_without_objects(tmp_path: Path) -> None:
    photo(tmp_path / "images" / "a.png")
    label(tmp_path / "labels" / "a.png", NUMBERS * 0)
    data = open_data(tmp_path)
    assert data.problems == ()
    assert data[0].truth.masks.shape == (0, 3, 5)


@pytest.mark.parametrize(
    ("numbers", "kind", "what"),
    [
        (NUMBERS[:2], np.uint16, "it has 5 by 2 pixels, its image 5 by 3"),
        (-NUMBERS, np.int32, "it has the number -300"),
    ],
)
def test_label_images_that_cannot_be_used(tmp_path: Path, numbers: np.ndarray, kind: type, what: str) -> None:
    photo(tmp_path / "images" / "a.png")
    label(tmp_path / "labels" / "a.tif", numbers, kind)
    data = open_data(tmp_path)
    [problem] = data.problems
    assert what in problem.what
    assert (problem.file, problem.annotation, problem.severity) == (
        tmp_path / "images" / "a.png",
        "a.tif",
        "error",
    )
    assert len(data) == 0


def test_missing_partners_and_broken_files(tmp_path: Path) -> None:
    for name in "abc":
        photo(tmp_path / "images" / f"{name}.png")
    for name in "bcd":
        label(tmp_path / "labels" / f"{name}.tif")
    (tmp_path / "labels" / "c.tif").write_bytes(b"II*")
    (tmp_path / "labels" / "b_label.tif").write_bytes((tmp_path / "labels" / "b.tif").read_bytes())
    data = open_data(tmp_path)
    assert [r.image_id for r in data.records] == ["b"]
    found = sorted((p.severity, p.file.name, p.what[:24]) for p in data.problems)
    assert found == [
        ("error", "b.tif", "There is more than one l"),
        ("error", "c.png", f"{tmp_path}/labels/c.tif"[:24]),
        ("error", "d.tif", "Its image is missing."),
        ("warning", tmp_path.name, "1 images have no label i"),
    ]
    assert len(check(data).errors) == 3


def test_foreground_maps_are_suspected(tmp_path: Path) -> None:
    for name in "abc":
        photo(tmp_path / f"{name * 2}.png")
        label(tmp_path / f"{name * 2}_mask.png", (NUMBERS > 0) * 255, np.uint8)
    [problem] = open_data(tmp_path).problems
    assert "only the number 255" in problem.what
    assert problem.severity == "warning"


def test_two_folders_of_labels_are_refused(tmp_path: Path) -> None:
    photo(tmp_path / "images" / "a.png")
    label(tmp_path / "labels" / "a.png")
    label(tmp_path / "masks" / "a.png")
    with pytest.raises(ValueError, match="both labels/ and masks/"):
        open_data(tmp_path)


def test_images_elsewhere_and_equal_names_in_subfolders(tmp_path: Path) -> None:
    for part in ("one", "two"):
        photo(tmp_path / "photographs" / part / "a.png")
    label(tmp_path / "masks" / "one" / "a.png")
    label(tmp_path / "masks" / "two" / "a.png", NUMBERS % 300)
    for source in (tmp_path, tmp_path / "masks"):
        data = open_data(source, tmp_path / "photographs")
        assert data.problems == ()
        assert {r.image_id: len(r.truth) for r in data.records} == {"one/a": 2, "two/a": 1}


def test_many_label_images_without_images_are_one_problem(tmp_path: Path) -> None:
    photo(tmp_path / "images" / "a.png")
    for number in range(9):
        label(tmp_path / "masks" / f"{number or 'a'}.png")
    [problem] = open_data(tmp_path).problems
    assert "The images of 8 label images are missing: 1.png, 2.png" in problem.what
