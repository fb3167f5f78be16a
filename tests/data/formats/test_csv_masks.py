"""Tables of run-length codes: Kaggle's columns, their order of pixels, and malformed codes."""

from pathlib import Path

import numpy as np
import pytest

from annotated_images import HEIGHT, WIDTH, areas, boxes, errors, image, put
from rcnn.data.formats.open import open_data


def code(mask: np.ndarray, *, by_rows: bool = False) -> str:
    """Kaggle's code, pixel by pixel."""
    flat = mask.reshape(-1) if by_rows else mask.T.reshape(-1)
    steps = np.flatnonzero(np.diff(np.r_[0, flat, 0])) + 1
    return " ".join(f"{start} {end - start}" for start, end in steps.reshape(-1, 2).tolist())


def random_mask(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    mask = np.zeros((HEIGHT, WIDTH), int)
    y, x = rng.integers(0, 30, 2)
    mask[y : y + 12, x : x + 20] = rng.random((12, 20)) < 0.8
    return mask


@pytest.mark.parametrize("seed", range(3))
def test_nuclei(tmp_path: Path, seed: int) -> None:
    image(tmp_path / "stage1_train", "00ae/images/00ae.png", "0b2c/images/0b2c.png")
    first, second = random_mask(seed), random_mask(seed + 10)
    rows = [f"00ae,{code(first)}", f"00ae,{code(second)}", "0b2c,1 5 49 5"]
    file = put(tmp_path, "stage1_train_labels.csv", "\n".join(["ImageId,EncodedPixels", *rows]))
    data = open_data(tmp_path)
    assert (data.format, data.class_names) == ("csv masks", ("object",))
    masks = data[0].truth.masks
    assert np.array_equal(masks[0], first)
    assert np.array_equal(masks[1], second)
    assert boxes(data)["0b2c.png"] == [("object", (0, 0, 2, 5))]
    assert boxes(open_data(file)) == boxes(data)


def test_ships_and_images_without_objects(tmp_path: Path) -> None:
    image(tmp_path / "train_v2", "a.jpg", "b.jpg", "c.jpg")
    put(tmp_path, "train.csv", "ImageId,EncodedPixels\na.jpg,1 5\na.jpg,100 7\nb.jpg,\n")
    data = open_data(tmp_path)
    assert [len(found) for found in boxes(data).values()] == [2, 0]
    assert [p.what for p in data.problems] == ["1 images have no line in the table: c.jpg."]


def test_classes(tmp_path: Path) -> None:
    image(tmp_path, "a.jpg", "b_c.jpg")
    put(tmp_path, "x.csv", "ImageId,ClassId,EncodedPixels\na.jpg,3,1 5\nb_c.jpg,4,1 5\n")
    assert open_data(tmp_path).class_names == ("3", "4")
    put(tmp_path, "x.csv", "ImageId_ClassId,EncodedPixels\na.jpg_3,1 5\na.jpg_4,\nb_c.jpg_4,1 5\n")
    assert [[n for n, _ in found] for found in boxes(open_data(tmp_path)).values()] == [["3"], ["4"]]


def test_neurons_count_by_rows(tmp_path: Path) -> None:
    image(tmp_path, "a.png")
    mask = random_mask(3)
    row = f"a,{code(mask, by_rows=True)},{WIDTH},{HEIGHT},astro,x"
    put(tmp_path, "x.csv", f"id,annotation,width,height,cell_type,plate_time\n{row}\n")
    data = open_data(tmp_path)
    assert data[0].truth.names == ["astro"]
    assert np.array_equal(data[0].truth.masks[0], mask)


def test_one_code_for_all_objects_is_suspected(tmp_path: Path) -> None:
    image(tmp_path, "a.png", "b.png")
    mask = np.zeros((HEIGHT, WIDTH), int)
    for i in range(4):
        mask[4 * i : 4 * i + 2, 5:9] = 1
    put(tmp_path, "x.csv", f"image,rle\na.png,{code(mask)}\nb.png,{code(mask)}\n")
    data = open_data(tmp_path)
    assert areas(data) == [32]
    assert "with 4 separate parts on average" in data.problems[0].what


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ("1 5 7", "expected pairs of integers"),
        ("1 x", "expected pairs of integers"),
        ("0 5", "begins before pixel 1"),
        (f"{WIDTH * HEIGHT} 2", "ends after pixel 3072"),
        (f"1 {10**30}", "ends after pixel 3072"),
    ],
)
def test_malformed_codes_are_named(tmp_path: Path, found: str, message: str) -> None:
    image(tmp_path, "a.png")
    put(tmp_path, "x.csv", f"ImageId,EncodedPixels\na,1 5\na,{found}\n")
    problems = errors(open_data(tmp_path))
    assert len(problems) == 1
    assert message in problems[0]
    assert "a.png, annotation line 3" in problems[0]


def test_sizes_are_compared(tmp_path: Path) -> None:
    image(tmp_path, "a.png")
    put(tmp_path, "x.csv", "ImageId,EncodedPixels,Height,Width\na,1 5,64,48\n")
    assert "its annotation 48 by 64" in errors(open_data(tmp_path))[0]
