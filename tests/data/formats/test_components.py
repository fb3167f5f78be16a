"""What the numbers of label images mean: objects, foreground, classes; and each part as an object."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rcnn.data.formats.components import component_numbers
from rcnn.data.formats.label_kinds import foreground_of, meaning_of, separate_parts
from rcnn.data.formats.open import open_data

SIZE = (60, 80)
BOXES = [[5, 5, 20, 25], [30, 10, 60, 40], [10, 40, 25, 55]]


def drawn(values: tuple[int, ...]) -> np.ndarray:
    """Three rectangles with these values."""
    found = np.zeros(SIZE, np.uint8)
    for (x1, y1, x2, y2), value in zip(BOXES, values, strict=True):
        found[y1:y2, x1:x2] = value
    return found


def add(folder: Path, numbers: np.ndarray, name: str = "a", ending: str = "png") -> Path:
    for part, array in (("images", np.full(SIZE, ord(name), np.uint8)), ("masks", numbers)):
        (folder / part).mkdir(exist_ok=True)
        Image.fromarray(array).save(folder / part / f"{name}.{ending}", quality=95)
    return folder / "masks" / f"{name}.{ending}"


def soft(numbers: np.ndarray) -> np.ndarray:
    """The same with edges two pixels wide, and traces of compression in black and white."""
    large = Image.fromarray(numbers).resize((SIZE[1] // 2, SIZE[0] // 2), Image.Resampling.BOX)
    values = np.asarray(large.resize(SIZE[::-1], Image.Resampling.BILINEAR)).astype(int)
    edge = (values > 0) & (values < 255)
    noise = np.random.default_rng(0).integers(0, 7, SIZE)
    return np.where(edge, np.abs(values - noise), values).astype(np.uint8)


def test_black_and_white_masks_are_read_part_by_part(tmp_path: Path) -> None:
    for name in "ab":
        add(tmp_path, drawn((255, 255, 255)), name)
    data = open_data(tmp_path)
    assert (data.format, data.class_names) == ("connected components", ("object",))
    assert sorted(data[0].truth.boxes.tolist()) == sorted(BOXES)
    assert sorted(data[0].truth.masks.areas().tolist()) == [225, 300, 900]
    [problem] = data.problems
    assert "Each separate part is one object" in problem.what
    assert "--format labels" in problem.advice
    assert "--format semantic" in problem.advice


@pytest.mark.parametrize("ending", ["png", "jpg"])
def test_soft_edges_are_no_objects(tmp_path: Path, ending: str) -> None:
    for name in "ab":
        add(tmp_path, soft(drawn((255, 255, 255))), name, ending)
    data = open_data(tmp_path)
    assert [len(record.truth) for record in data.records] == [3, 3]
    found = np.array(sorted(data[0].truth.boxes.tolist()))
    assert np.abs(found - np.array(sorted(BOXES))).max() <= 1
    assert any("gray edges" in problem.what for problem in data.problems)


def test_objects_stay_objects(tmp_path: Path) -> None:
    add(tmp_path, drawn((1, 2, 255)))
    add(tmp_path, drawn((7, 9, 3)), "b")
    data = open_data(tmp_path)
    assert (data.format, data.problems, len(data[0].truth)) == ("label images", (), 3)


def classes(seed: int) -> np.ndarray:
    """A map of two classes, many parts each."""
    rng = np.random.default_rng(seed)
    found = np.zeros(SIZE, np.uint8)
    for y in range(2, SIZE[0] - 8, 10):
        for x in range(2, SIZE[1] - 8, 10):
            found[y : y + 6, x : x + 6] = rng.integers(1, 3)
    return found


def test_maps_of_classes_are_refused_with_the_ways_out(tmp_path: Path) -> None:
    for seed, name in enumerate("abc"):
        add(tmp_path, classes(seed), name)
    with pytest.raises(ValueError, match=r"look like classes.*: 1, 2,.*semantic.*components.*labels"):
        open_data(tmp_path)
    parts = open_data(tmp_path, format="components")
    assert parts.class_names == ("1", "2")
    assert len(parts[0].truth) == 5 * 7
    maps = open_data(tmp_path, format="semantic")
    assert (maps.semantic_names, maps.has_objects) == (("class 0", "class 1", "class 2"), False)
    assert open_data(tmp_path, format="labels").class_names == ("object",)
    (tmp_path / "classes.txt").write_text("ground\nant\nbee\n")
    assert open_data(tmp_path).semantic_names == ("ground", "ant", "bee")
    assert open_data(tmp_path, format="components").class_names == ("ant", "bee")


def test_a_number_in_several_parts_is_said(tmp_path: Path) -> None:
    add(tmp_path, drawn((1, 2, 1)))
    add(tmp_path, drawn((1, 2, 3)), "b")
    [problem] = open_data(tmp_path).problems
    assert "1 of 5 numbers are in several separate parts: 1 in a.png" in problem.what


@pytest.mark.parametrize("white", [1, 255])
def test_inverted_masks_are_said(tmp_path: Path, white: int) -> None:
    for name in "ab":
        add(tmp_path, np.where(drawn((1, 1, 1)) == 0, white, 0).astype(np.uint8), name)
    said = " ".join(problem.what for problem in open_data(tmp_path).problems)
    assert "In 2 images an object covers the corners and most of the image" in said


def test_maps_with_void_are_not_soft() -> None:
    assert foreground_of(drawn((1, 2, 255)).astype(np.int64)) is None
    assert foreground_of(np.zeros(SIZE, np.int64)).sum() == 0


def test_parts_by_hand() -> None:
    mask = np.zeros((6, 12), np.bool_)
    mask[0:3, 0:3] = mask[3:6, 3:6] = True  # they touch at a corner
    mask[0:4, 8:12] = True
    mask[5, 11] = True  # a speck
    assert sorted(separate_parts(mask)) == [16, 18]
    numbers, values = component_numbers(np.where(mask, 5, 0))
    assert values == [5, 5, 5]
    assert sorted(np.bincount(numbers.reshape(-1))[1:].tolist()) == [1, 16, 18]


def test_unreadable_files_do_not_decide(tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"")
    assert meaning_of([broken]).kind == "objects"
