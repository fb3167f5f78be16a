"""DeepLabCut: tables of one animal and of several, skeletons, boxes around keypoints, and malformed cells."""

from pathlib import Path

import numpy as np
import pytest

from annotated_images import errors, image, put
from rcnn.data.formats.open import open_data

ONE = """scorer,Anna,Anna,Anna,Anna
bodyparts,left_ear,left_ear,tail,tail
coords,x,y,x,y
labeled-data/mouse/img01.png,30,25,40.5,28
labeled-data/mouse/img02.png,10,9,,
labeled-data/mouse/img03.png,,,,
"""
CONFIG = "Task: x\nbodyparts:\n- left_ear\n- tail\nskeleton:\n- - left_ear\n  - tail\nbbox_margin: 4\n"


def project(folder: Path, table: str = ONE, config: str = CONFIG) -> Path:
    frames = folder / "labeled-data" / "mouse"
    image(frames, "img01.png", "img02.png", "img03.png")
    if config:
        put(folder, "config.yaml", config)
    return put(frames, "CollectedData_Anna.csv", table)


def test_one_animal(tmp_path: Path) -> None:
    table = project(tmp_path)
    for path in (tmp_path, tmp_path / "labeled-data", table.parent, table):
        data = open_data(path)
        assert (data.format, data.class_names) == ("deeplabcut", ("animal",))
        assert (data.skeleton.names, data.skeleton.bones) == (("left_ear", "tail"), ((0, 1),))
        assert [len(r.truth) for r in data.records] == [1, 1, 0]
        assert data[0].truth.keypoints.tolist() == [[[30.5, 25.5, 2], [41, 28.5, 2]]]
        assert data[1].truth.keypoints.tolist() == [[[10.5, 9.5, 2], [0, 0, 0]]]
        assert data[0].truth.boxes.tolist() == [[26.5, 21.5, 45, 32.5]]
        assert [p.advice for p in data.problems] == [
            "They are made around the keypoints, with a margin of 4 pixels."
        ]


def test_margins_end_at_the_image(tmp_path: Path) -> None:
    project(tmp_path, config="")
    data = open_data(tmp_path)
    np.testing.assert_allclose(data[1].truth.boxes, [[0, 0, 30.5, 29.5]])
    assert data.skeleton.bones == ()


def test_several_animals_and_folders_in_columns(tmp_path: Path) -> None:
    rows = [
        "scorer,,,A,A,A,A,A,A,A,A",
        "individuals,,,m1,m1,m1,m1,m2,m2,m2,m2",
        "bodyparts,,,nose,nose,tail,tail,nose,nose,tail,tail",
        "coords,,,x,y,x,y,x,y,x,y",
        "labeled-data,mouse,img01.png,10,10,12,12,30,30,,",
    ]
    project(tmp_path, "\n".join(rows))
    data = open_data(tmp_path)
    assert data.skeleton.names == ("nose", "tail")
    assert data[0].truth.keypoints[:, :, 2].tolist() == [[2, 2], [2, 0]]
    assert "2 images have no row in the table" in data.problems[-1].what


def test_malformed_cells_are_named(tmp_path: Path) -> None:
    table = ONE.replace("30,25", "x,25").replace("10,9", "1000,9").replace("img03", "img09")
    project(tmp_path, table)
    found = errors(open_data(tmp_path))
    assert len(found) == 3
    assert "CollectedData_Anna.csv, line 4, column 2: Expected a coordinate; found 'x'" in found[0]
    assert "1 keypoints are outside the image" in found[1]
    assert "1 of 3 images are missing: labeled-data/mouse/img09.png" in found[2]
    project(tmp_path, config="a: [")
    with pytest.raises(ValueError, match=r"config\.yaml: this is not YAML"):
        open_data(tmp_path)


def test_predictions_are_not_taken(tmp_path: Path) -> None:
    rows = ["scorer,A,A,A", "bodyparts,nose,nose,nose", "coords,x,y,likelihood", "0,1,2,0.9"]
    put(tmp_path, "videoDLC.csv", "\n".join(rows))
    image(tmp_path, "a.png")
    with pytest.raises(ValueError, match="no annotations of a known format"):
        open_data(tmp_path)
