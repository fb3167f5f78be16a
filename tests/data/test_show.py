"""The annotations of a data set as pictures, and what is written below them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from rcnn.data import show as showing
from rcnn.data.formats.open import open_data
from rcnn.data.shapes import draw_shapes
from rcnn.data.show import show
from rcnn.structures import Instances


@pytest.fixture
def captions(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was written below the pictures of a sheet."""
    found: list[str] = []
    sheet = showing.contact_sheet

    def spy(pictures: Any, captions: Any, **options: Any) -> Any:
        found.extend(captions)
        return sheet(pictures, captions, **options)

    monkeypatch.setattr(showing, "contact_sheet", spy)
    return found


def test_pictures_and_captions_have_the_names_of_the_images(tmp_path: Path, captions: list[str]) -> None:
    """COCO's ids are numbers, which say nothing to those who took the images."""
    drawn = draw_shapes(3, size=(96, 128))
    data = open_data(drawn.write(tmp_path / "data"))
    assert not any(str(record.image_id) in record.path.stem.split("_") for record in data.records)
    shown = show(data, tmp_path / "look")
    assert shown.images == 3
    names = [record.path.name for record in data.records]
    assert [caption.partition("\n")[0] for caption in captions] == names
    files = sorted(path.name for path in (tmp_path / "look").iterdir())
    assert files == [*(f"{i:05d}_{Path(name).stem}.png" for i, name in enumerate(names)), "sheet.png"]
    with Image.open(tmp_path / "look" / files[0]) as picture:
        assert picture.size == (512, 384), "enlarged to be read"
    counted = captions[0].partition("\n")[2].split(", ")
    assert sum(int(part.split()[0]) for part in counted) == len(data[0].truth)


def test_the_sheet_is_no_third_background(tmp_path: Path) -> None:
    data = draw_shapes(8, size=(96, 128)).write(tmp_path / "data")
    with Image.open(show(data, tmp_path / "look").sheet) as sheet:
        pixels = np.array(sheet)
    dark = (pixels == np.array([24, 26, 31])).all(2)
    assert dark.mean() < 0.2


@pytest.mark.parametrize(
    ("truth", "expected"),
    [
        (Instances.empty((4, 4), ("cell",)), "a.png\nno objects"),
        (
            Instances.empty(
                (2, 4),
                semantic=np.array([[0, 1, 1, 1], [1, 1, 2, 255]]),
                semantic_names=("sky", "road", "car"),
            ),
            "a.png\nroad 62%, sky 12%, car 12%",
        ),
    ],
    ids=["nothing", "classes of pixels"],
)
def test_captions(truth: Instances, expected: str) -> None:
    assert showing._caption("a.png", truth) == expected


def test_large_pictures_are_not_kept(tmp_path: Path) -> None:
    large = Image.new("RGB", (9000, 3000))
    assert showing._within(large, 320).size == (960, 320)
    small = Image.new("RGB", (90, 30))
    assert showing._within(small, 320).size == (90, 30)
