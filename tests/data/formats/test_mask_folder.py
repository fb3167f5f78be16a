"""Mask folders: the masks come back as they were drawn, and every fault that a folder can have is told."""

import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from conftest import real_data
from rcnn.data.formats.mask_folder import read_mask_folders
from rcnn.data.formats.open import open_data


def add(folder: Path, masks: np.ndarray, name: str = "one", mode: str = "L") -> Path:
    """An image's folder with these masks ``[N, H, W]``; the image file is returned."""
    (folder / name / "images").mkdir(parents=True)
    (folder / name / "masks").mkdir()
    path = folder / name / "images" / "picture.png"
    Image.new("RGB", (masks.shape[2], masks.shape[1])).save(path)
    for index, mask in enumerate(masks):
        bitmap = Image.fromarray(mask.astype(np.uint8) * 255)
        bitmap.convert(mode).save(folder / name / "masks" / f"{index}.png")
    return path


def drawn(*windows: tuple[int, int, int, int], size: tuple[int, int] = (12, 20)) -> np.ndarray:
    masks = np.zeros((len(windows), *size), np.bool_)
    for mask, (x1, y1, x2, y2) in zip(masks, windows, strict=True):
        mask[y1:y2, x1:x2] = True
    return masks


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGB", "RGBA", "LA", "I;16"])
def test_masks_of_every_mode(tmp_path: Path, mode: str) -> None:
    masks = drawn((0, 0, 1, 1), (3, 2, 9, 11), (10, 0, 20, 12))
    masks[2, :, 13:16] = False  # two parts
    masks[1, 5, 5] = False  # a hole
    path = add(tmp_path, masks, mode=mode)
    dataset = read_mask_folders(tmp_path)
    assert dataset.problems == ()
    assert (dataset.class_names, dataset.records[0].path) == (("object",), path)
    sample = pickle.loads(pickle.dumps(dataset))[0]
    assert sample.image_id == "one"
    assert sample.truth.boxes.tolist() == [[0, 0, 1, 1], [3, 2, 9, 11], [10, 0, 20, 12]]
    assert sample.truth.labels.tolist() == [0, 0, 0]
    np.testing.assert_array_equal(sample.truth.masks.dense(), masks)


def test_random_masks_round_trip(tmp_path: Path) -> None:
    masks = np.random.default_rng(0).random((9, 13, 17)) < 0.2
    add(tmp_path, masks)
    np.testing.assert_array_equal(read_mask_folders(tmp_path)[0].truth.masks.dense(), masks)


def test_an_image_without_objects(tmp_path: Path) -> None:
    add(tmp_path, drawn())
    dataset = read_mask_folders(tmp_path)
    assert dataset.problems == ()
    assert dataset[0].truth.masks.shape == (0, 12, 20)


def test_faults_of_masks(tmp_path: Path) -> None:
    path = add(tmp_path, drawn((0, 0, 4, 4), (0, 0, 0, 0), (5, 5, 9, 9)))
    folder = tmp_path / "one" / "masks"
    Image.new("L", (20, 13), 255).save(folder / "3.png")
    (folder / "4.png").write_bytes((folder / "0.png").read_bytes()[:50])
    (folder / "notes.txt").write_text("not a mask")
    (folder / ".5.png").write_text("not one either")
    dataset = read_mask_folders(tmp_path)
    found = [(p.annotation, p.severity) for p in dataset.problems]
    assert found == [("1.png", "warning"), ("3.png", "error"), ("4.png", "error")]
    assert {p.file for p in dataset.problems} == {path}
    assert "20 by 13 pixels, its image 20 by 12" in dataset.problems[1].what
    assert dataset[0].truth.boxes.tolist() == [[0, 0, 4, 4], [5, 5, 9, 9]]
    assert len(dataset[0].truth.masks) == 2


def test_only_objects_mostly_covered_are_told(tmp_path: Path) -> None:
    # Half of the second lies in the first, which is no more than allowed; all of the third does.
    add(tmp_path, drawn((0, 0, 8, 4), (6, 0, 10, 4), (0, 0, 2, 2)))
    [problem] = read_mask_folders(tmp_path).problems
    assert (problem.annotation, problem.severity) == ("2.png", "warning")
    assert "100% of the mask is also covered" in problem.what


def test_faults_of_folders(tmp_path: Path) -> None:
    add(tmp_path, drawn((0, 0, 4, 4)))
    double = add(tmp_path, drawn(), "double").parent.parent
    Image.new("L", (3, 3)).save(double / "images" / "second.png")
    bare = add(tmp_path, drawn(), "masks missing")
    (bare.parent.parent / "masks").rmdir()
    damaged = add(tmp_path, drawn(), "no picture")
    damaged.write_text("hello")
    dataset = read_mask_folders(tmp_path)
    assert [p.file for p in dataset.problems] == [double, bare, damaged]
    assert "found 2" in dataset.problems[0].what
    assert len(dataset) == 1


def test_a_folder_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected folders <id>/ with images/ and masks/"):
        read_mask_folders(tmp_path)


def test_real() -> None:
    dataset = read_mask_folders(real_data("nuclei/val"))
    assert (len(dataset), sum(len(r.truth) for r in dataset.records)) == (122, 5509)
    assert dataset.problems == ()
    for record in dataset.records[::20]:
        truth = record.load_truth()
        np.testing.assert_array_equal(truth.masks.boxes(), truth.boxes)
        files = sorted((record.path.parent.parent / "masks").iterdir())
        bitmap = np.asarray(Image.open(files[3]).convert("L")) != 0
        np.testing.assert_array_equal(truth.masks[3], bitmap)


@pytest.mark.parametrize(
    "mask", ["masks/NAME/{}.png", "masks/NAME_{}.png", "masks/NAME-object{}.png", "label/NAME.mask.{}.png"]
)
def test_masks_of_all_images_in_one_folder(tmp_path: Path, mask: str) -> None:
    masks = drawn((0, 0, 5, 4), (7, 3, 15, 11))
    for name in ("a", "a_b"):
        (tmp_path / "images").mkdir(exist_ok=True)
        Image.new("RGB", (20, 12), (len(name), 9, 9)).save(tmp_path / "images" / f"{name}.png")
        for index, bitmap in enumerate(masks):
            file = tmp_path / mask.format(index).replace("NAME", name)
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(bitmap.astype(np.uint8) * 255).save(file)
    data = open_data(tmp_path)
    assert (data.format, data.problems) == ("mask folders", ())
    for index in (0, 1):
        np.testing.assert_array_equal(data[index].truth.masks.dense(), masks)


def test_label_images_in_folders_are_no_masks_of_one_object(tmp_path: Path) -> None:
    for part in ("site1", "site2"):
        for folder, array in (("images", np.zeros((12, 20))), ("masks", drawn((0, 0, 5, 4)).sum(0))):
            (tmp_path / part / folder).mkdir(parents=True)
            Image.fromarray(array.astype(np.uint8)).save(tmp_path / part / folder / "a.png")
    with pytest.raises(ValueError, match=r"One of these can be opened: .*site1, .*site2"):
        open_data(tmp_path)
    assert open_data(tmp_path / "site1").format == "label images"


def test_two_images_are_no_reason_to_delete_one(tmp_path: Path) -> None:
    double = add(tmp_path, drawn((0, 0, 4, 4)), "double").parent
    Image.new("L", (20, 12)).save(double / "second.png")
    [problem] = read_mask_folders(tmp_path).problems
    assert "found 2 (picture.png, second.png)" in problem.what
    assert "Keep only" not in problem.advice


def test_masks_in_the_transparency_and_with_soft_edges(tmp_path: Path) -> None:
    masks = drawn((0, 0, 8, 6), (9, 3, 19, 11))
    folder = add(tmp_path, masks).parent.parent / "masks"
    clear = np.full((12, 20, 4), 255, np.uint8)
    clear[..., 3] = masks[0] * 255
    Image.fromarray(clear).save(folder / "0.png")
    edges = masks[1].astype(np.uint8) * 255
    edges[3, 9:19], edges[2, 9:19], edges[2, 8], edges[0, :3] = 200, 60, 20, 5
    Image.fromarray(edges).save(folder / "1.png")
    data = read_mask_folders(tmp_path)
    assert data.problems == ()
    np.testing.assert_array_equal(data[0].truth.masks.dense(), masks)


def test_masks_that_look_like_a_background_are_said(tmp_path: Path) -> None:
    add(tmp_path, ~drawn((2, 2, 9, 9)))
    [problem] = read_mask_folders(tmp_path).problems
    assert "covers the corners and most of the image" in problem.what


def test_images_elsewhere(tmp_path: Path) -> None:
    path = add(tmp_path / "masks of mine", drawn((0, 0, 4, 4)))
    (tmp_path / "photographs").mkdir()
    path.rename(tmp_path / "photographs" / "one.png")
    path.parent.rmdir()
    data = open_data(tmp_path / "masks of mine", tmp_path / "photographs")
    assert (data.format, data[0].truth.boxes.tolist()) == ("mask folders", [[0, 0, 4, 4]])


def test_classes_of_open_images_are_not_read_but_said(tmp_path: Path) -> None:
    for place in ("data/a.png", "labels/masks/a/a_m0.png"):
        path = tmp_path / place
        path.parent.mkdir(parents=True)
        pixels = np.zeros((48, 64), np.uint8)
        pixels[6:20, 8:24] = 255
        Image.fromarray(pixels).save(path)
    (tmp_path / "labels" / "segmentations.csv").write_text("MaskPath,ImageID,LabelName\na_m0.png,a,/m/0\n")
    said = [p.what for p in open_data(tmp_path).problems]
    assert said[0] == "segmentations.csv has the classes of the masks, as Open Images writes them."
