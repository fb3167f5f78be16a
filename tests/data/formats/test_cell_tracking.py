"""The Cell Tracking Challenge: frames with label images, gold before silver truth."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from annotated_images import HEIGHT, WIDTH, areas, image
from rcnn.data.formats.open import open_data


def label(folder: Path, name: str, *cells: tuple[int, int, int, int]) -> None:
    numbers = np.zeros((HEIGHT, WIDTH), np.uint16)
    for number, (x1, y1, x2, y2) in enumerate(cells, 3):
        numbers[y1:y2, x1:x2] = number
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(numbers).save(folder / name)


@pytest.fixture
def sequences(tmp_path: Path) -> Path:
    for name in ("01", "02"):
        image(tmp_path / name, "t000.png", "t001.png", "t002.png")
        label(tmp_path / f"{name}_GT/TRA", "man_track000.tif", (1, 1, 9, 9))
    label(tmp_path / "01_GT/SEG", "man_seg000.tif", (8, 6, 24, 20), (34, 22, 56, 42))
    label(tmp_path / "01_ST/SEG", "man_seg000.tif", (8, 6, 20, 20))
    label(tmp_path / "02_ST/SEG", "man_seg001.tif", (8, 6, 20, 20))
    return tmp_path


def test_gold_truth_comes_before_silver(sequences: Path) -> None:
    data = open_data(sequences)
    assert data.format == "cell tracking"
    assert [r.path.relative_to(sequences).as_posix() for r in data.records] == ["01/t000.png", "02/t001.png"]
    assert areas(data) == [16 * 14, 22 * 20]
    assert areas(data, 1) == [12 * 14]
    assert [p.what for p in data.problems] == [
        "4 frames have no label image: 01/t001.png, 01/t002.png, 02/t000.png, 02/t002.png."
    ]


def test_one_sequence(sequences: Path) -> None:
    assert len(open_data(sequences / "02_ST")) == 1
    label(sequences / "02_ST/SEG", "man_seg009.tif", (8, 6, 20, 20))
    problems = open_data(sequences / "02_ST").problems
    assert [p.what for p in problems if p.severity == "error"] == ["Its frame is missing."]


def test_slices_of_volumes_are_refused_with_the_way_out(sequences: Path) -> None:
    label(sequences / "02_ST/SEG", "man_seg_001_015.tif", (8, 6, 20, 20))
    with pytest.raises(ValueError, match=r"man_seg_001_015\.tif: this is one slice of a volume.*labels/"):
        open_data(sequences / "02_ST")
