"""Label images in colours: gray as numbers, a colour per object, and pictures that are none."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from annotated_images import FIRST, HEIGHT, SECOND, WIDTH, areas, boxes, errors, image
from rcnn.data.formats.colours import colour_numbers, read_object_numbers
from rcnn.data.formats.open import open_data


def numbers() -> np.ndarray:
    found = np.zeros((HEIGHT, WIDTH), np.uint8)
    for number, (x1, y1, x2, y2) in enumerate((FIRST, SECOND), 1):
        found[y1:y2, x1:x2] = number
    return found


def write(path: Path, pixels: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


COLOURS = np.array([[0, 0, 0, 255], [255, 0, 0, 255], [0, 255, 0, 255]], np.uint8)


@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("gray", [True, False], ids=["gray", "colours"])
def test_objects(tmp_path: Path, channels: int, gray: bool) -> None:
    image(tmp_path / "images", "a.png", "b.png")
    pixels = np.repeat(numbers()[..., None], 4, 2) if gray else COLOURS[numbers()]
    for name in "ab":
        write(tmp_path / "masks" / f"{name}.png", pixels[..., :channels])
    data = open_data(tmp_path)
    assert data.format == "label images"
    assert sorted(boxes(data)["a.png"]) == [("object", FIRST), ("object", SECOND)]
    assert sorted(areas(data)) == [224, 440]
    assert errors(data) == []


def test_numbers_of_colours(tmp_path: Path) -> None:
    assert colour_numbers(np.array([[1, 2, 3], [0, 0, 0]])).tolist() == [66051, 0]
    found = read_object_numbers(write(tmp_path / "a.png", COLOURS[numbers(), :3]))
    assert np.unique(found).tolist() == [0, 255 * 256, 255 * 65536]
    found = read_object_numbers(write(tmp_path / "b.png", np.repeat(numbers()[..., None], 3, 2)))
    assert np.array_equal(found, numbers())


def test_photographs_and_soft_edges_are_refused(tmp_path: Path) -> None:
    image(tmp_path, "a.png")
    with pytest.raises(ValueError, match=r"colours, .* of them on at most 3 pixels"):
        read_object_numbers(tmp_path / "a.png")
    soft = Image.fromarray(COLOURS[numbers(), :3]).resize((2 * WIDTH, 2 * HEIGHT), Image.Resampling.BICUBIC)
    turned = np.asarray(soft.rotate(10, Image.Resampling.BICUBIC))
    with pytest.raises(ValueError, match="Export it without soft edges"):
        read_object_numbers(write(tmp_path / "b.png", turned))
    image(tmp_path, "c.jpg")
    with pytest.raises(ValueError, match="JPEG compression changes"):
        read_object_numbers(tmp_path / "c.jpg")
