"""supervision's detection data sets."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import supervision as sv

from annotated_images import FIRST, HEIGHT, SECOND, WIDTH, areas, boxes, image
from rcnn.data.formats.open import open_data
from rcnn.io.images import read_image


def dataset(folder: Path, *, masks: bool = True) -> sv.DetectionDataset:
    image(folder, "a.png", "b.png")
    dense = np.zeros((2, HEIGHT, WIDTH), np.bool_)
    for mask, (x1, y1, x2, y2) in zip(dense, (FIRST, SECOND), strict=True):
        mask[y1:y2, x1:x2] = True
    found = sv.Detections(
        np.array([FIRST, SECOND], float), class_id=np.array([1, 0]), mask=dense if masks else None
    )
    paths = [str(folder / name) for name in ("a.png", "b.png")]
    return sv.DetectionDataset(
        ["cat", "dog"], paths, dict(zip(paths, (found, sv.Detections.empty()), strict=True))
    )


@pytest.mark.parametrize("masks", [True, False])
def test_boxes_and_masks(tmp_path: Path, masks: bool) -> None:
    data = pickle.loads(pickle.dumps(open_data(dataset(tmp_path, masks=masks))))
    assert (data.class_names, data.problems) == (("cat", "dog"), ())
    assert boxes(data) == {"a.png": [("dog", FIRST), ("cat", SECOND)], "b.png": []}
    assert data.has_masks == masks
    if masks:
        assert areas(data) == [224, 440]
    assert np.array_equal(data[1].image, read_image(tmp_path / "b.png"))


def test_other_names(tmp_path: Path) -> None:
    assert open_data(dataset(tmp_path), class_names=["x", "y"]).class_names == ("x", "y")
    with pytest.raises(ValueError, match="1 names, but the data set has 2 classes"):
        open_data(dataset(tmp_path), class_names=["x"])
