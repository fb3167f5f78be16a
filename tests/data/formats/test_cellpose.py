"""Cellpose's files: the masks of the dictionary, plain arrays, and files that are refused without running."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from annotated_images import FIRST, HEIGHT, SECOND, WIDTH, areas, boxes, errors, image
from rcnn.data.formats.open import open_data


def numbers(dtype: Any = np.uint16) -> np.ndarray:
    masks = np.zeros((HEIGHT, WIDTH), dtype)
    for number, (x1, y1, x2, y2) in enumerate((FIRST, SECOND), 1):
        masks[y1:y2, x1:x2] = number
    return masks


def content(masks: Any) -> dict[str, Any]:
    """The dictionary as Cellpose's window saves it."""
    return {
        "outlines": np.zeros((HEIGHT, WIDTH), np.uint16),
        "colors": np.zeros((2, 3), np.uint8),
        "masks": masks,
        "filename": "/home/me/a.tif",
        "flows": [np.zeros((1, 4, 4, 3), np.uint8), None, [], []],
        "ismanual": np.zeros(2, np.bool_),
        "manual_changes": [["01/02/2024, 10:00:00", "added mask", [3, 4]]],
        "model_path": 0,
        "cellprob_threshold": np.float32(0),
        "normalize_params": {"lowhigh": None, "percentile": [1.0, 99.0]},
        "diameter": np.float64(30),
        "texts": np.array(["a", "b"]),
    }


@pytest.mark.parametrize(
    ("dtype", "whole"),
    [(np.uint16, True), (np.int32, True), (np.uint8, False), (np.float32, True), (np.int64, False)],
)
def test_masks(tmp_path: Path, dtype: Any, whole: bool) -> None:
    image(tmp_path, "a.tif", "b.png", "c.png")
    for name in "ab":
        found = numbers(dtype)
        np.save(tmp_path / f"{name}_seg.npy", content(found) if whole else found, allow_pickle=True)
    data = open_data(tmp_path)
    assert (data.format, data.class_names) == ("cellpose", ("object",))
    assert boxes(data) == {n: [("object", FIRST), ("object", SECOND)] for n in ("a.tif", "b.png")}
    assert areas(pickle.loads(pickle.dumps(data))) == [224, 440]
    assert [p.what for p in data.problems] == ["1 images have no file of Cellpose: c.png."]
    assert len(open_data(tmp_path / "a_seg.npy")) == 1


def test_masks_that_are_images_too_are_preferred(tmp_path: Path) -> None:
    image(tmp_path, "a.tif")
    np.save(tmp_path / "a_seg.npy", content(numbers()), allow_pickle=True)
    from PIL import Image

    Image.fromarray(numbers()).save(tmp_path / "a_cp_masks.png")
    assert open_data(tmp_path).format == "label images"


class Touch:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return exec, (f"open({str(self.path)!r}, 'w').close()",)


@pytest.mark.parametrize("inside", ["dictionary", "array of objects"])
def test_no_code_of_a_file_runs(tmp_path: Path, inside: str) -> None:
    image(tmp_path, "a.tif")
    touch = Touch(tmp_path / "touched")
    found = content(touch) if inside == "dictionary" else np.array([touch, 1], object)
    np.save(tmp_path / "a_seg.npy", found, allow_pickle=True)
    problem = errors(open_data(tmp_path))[0]
    assert "asks for builtins.exec, where only numpy arrays and plain containers are read" in problem
    assert "Save the masks as PNG or TIFF in Cellpose" in problem
    assert not (tmp_path / "touched").exists()


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (content(np.zeros((3, HEIGHT, WIDTH), np.uint16)), "its masks have the shape [3, 48, 64]"),
        (content(np.zeros((WIDTH, HEIGHT), np.uint16)), "its masks have 48 by 64 pixels, the image 64 by 48"),
        (content(np.full((HEIGHT, WIDTH), 0.5)), "its masks are fractions"),
        (content(np.full((HEIGHT, WIDTH), -1)), "its masks have negative numbers"),
        ({"outlines": 3}, "it has no masks"),
        (np.zeros((HEIGHT, WIDTH)), "it is no dictionary of Cellpose, but an array of fractions"),
        (np.array(["text"]), "it has no masks"),
    ],
)
def test_unusable_files_are_named(tmp_path: Path, found: Any, message: str) -> None:
    image(tmp_path, "a.tif")
    np.save(tmp_path / "a_seg.npy", found, allow_pickle=True)
    problems = errors(open_data(tmp_path))
    assert len(problems) == 1
    assert message in problems[0]
    assert "a.tif, annotation a_seg.npy" in problems[0]


def test_damaged_and_missing_files_are_named(tmp_path: Path) -> None:
    image(tmp_path, "a.tif", "b.tif")
    np.save(tmp_path / "a_seg.npy", content(numbers()), allow_pickle=True)
    raw = (tmp_path / "a_seg.npy").read_bytes()
    (tmp_path / "a_seg.npy").write_bytes(raw[: len(raw) // 2])
    (tmp_path / "b_seg.npy").write_bytes(b"nonsense")
    np.save(tmp_path / "z_seg.npy", content(numbers()), allow_pickle=True)
    found = errors(open_data(tmp_path))
    assert "The images of 1 of 3 files are missing: z_seg.npy" in found[0]
    assert all("The file of Cellpose cannot be used" in problem for problem in found[1:])
    for name in "ab":
        (tmp_path / f"{name}.tif").unlink()
    with pytest.raises(ValueError, match="none of the images of its 3 files was found"):
        open_data(tmp_path)
