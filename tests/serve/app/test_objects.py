"""Objects on their way between the package and the page, and what is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from rcnn.serve.app.collection import open_collection, safe_name
from rcnn.serve.app.corrections import Corrections
from rcnn.serve.app.launch import model_and_source
from rcnn.serve.app.objects import checked_object, instances_of, objects_of
from rcnn.structures import Instances, Masks

SIZE = (20, 30)
BOX = {"id": "a", "class": "cell", "box": [2.0, 3.0, 10.0, 9.0]}


def test_objects_come_back_as_they_were() -> None:
    generator = np.random.default_rng(0)
    bitmaps = generator.random((40, *SIZE)) < 0.4
    bitmaps[:, 0, 0] = True
    masks = Masks.from_dense(bitmaps)
    labels = generator.integers(0, 2, 40)
    found = Instances(SIZE, masks.boxes(), labels, masks=masks, class_names=("cell", "dirt"))
    back = instances_of(objects_of(found, "m"), SIZE, ("cell", "dirt"))
    assert back.masks is not None
    np.testing.assert_array_equal(back.masks.dense(), bitmaps)
    np.testing.assert_array_equal(back.labels, labels)
    np.testing.assert_array_equal(back.boxes, found.boxes)


def test_the_worked_mask() -> None:
    masks = Masks.from_patches([np.array([[0, 1], [1, 1]])], [(2, 5)], SIZE)
    found = Instances(SIZE, masks.boxes(), np.zeros(1, np.int64), masks=masks, class_names=("cell",))
    assert objects_of(found, "m")[0]["mask"] == {"window": [5, 2, 2, 2], "runs": [1, 3]}


WRONG: dict[str, Any] = {
    "a list": [],
    "no id": {**BOX, "id": 3},
    "three corners": {**BOX, "box": [1, 2, 3]},
    "texts": {**BOX, "box": ["1", 2, 3, 4]},
    "no number": {**BOX, "box": [float("nan"), 2, 3, 4]},
    "inverted": {**BOX, "box": [5, 2, 3, 4]},
    "outside": {**BOX, "box": [40, 2, 50, 4]},
    "a mask outside": {**BOX, "mask": {"window": [25, 0, 10, 2], "runs": [0, 20]}},
    "a mask of another length": {**BOX, "mask": {"window": [0, 0, 2, 2], "runs": [0, 5]}},
    "an empty mask": {**BOX, "mask": {"window": [0, 0, 2, 2], "runs": [4]}},
    "negative runs": {**BOX, "mask": {"window": [0, 0, 2, 2], "runs": [-4, 8]}},
    "no runs": {**BOX, "mask": {"window": [0, 0, 2, 2]}},
}


@pytest.mark.parametrize("given", WRONG.values(), ids=WRONG)
def test_what_is_no_object_is_refused(given: Any) -> None:
    with pytest.raises(ValueError, match=r"expected|outside|not inside|no area"):
        checked_object(given, SIZE)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("../../etc/passwd.png", "passwd.png"),
        ("C:\\cells\\a.png", "a.png"),
        ("a\x00b\n.png", "a_b_.png"),
        ("...", "image"),
        ("ü" * 300 + ".png", "ü" * 98 + ".png"),
        ("con<>.png", "con__.png"),
    ],
)
def test_names_of_dropped_files_stay_in_their_folder(given: str, expected: str) -> None:
    assert safe_name(given) == expected


def folder_of(place: Path) -> Path:
    place.mkdir()
    Image.fromarray(np.zeros((*SIZE, 3), np.uint8)).save(place / "a.png")
    return place


def test_a_change_that_is_wrong_changes_nothing(tmp_path: Path) -> None:
    collection = open_collection(folder_of(tmp_path / "cells"))
    corrections = Corrections(collection, ("cell",))
    (picture,) = collection.pictures
    good = {"id": "a", "object": BOX, "rev": None}
    corrections.change(picture, SIZE, [good], list)
    before = {path: path.read_bytes() for path in collection.out.rglob("*.json")}
    for wrong in ({**BOX, "class": "tree"}, {**BOX, "box": [5, 2, 3, 4]}):
        with pytest.raises(ValueError, match=r"expected|no area"):
            corrections.change(picture, SIZE, [good, {"id": "b", "object": wrong}], list)
    assert {path: path.read_bytes() for path in collection.out.rglob("*.json")} == before
    corrections.close()
    again = Corrections(open_collection(tmp_path / "cells"), ())
    draft = again.draft(picture)
    again.close()
    assert draft is not None
    assert [one["id"] for one in draft.objects.values()] == ["a"]


def test_one_process_at_a_time_corrects(tmp_path: Path) -> None:
    collection = open_collection(folder_of(tmp_path / "cells"))
    collection.out.mkdir()
    first = Corrections(collection)
    with pytest.raises(ValueError, match="already writing"):
        Corrections(open_collection(tmp_path / "cells"))
    first.close()


def test_damaged_drafts_are_named(tmp_path: Path) -> None:
    collection = open_collection(folder_of(tmp_path / "cells"))
    drafts = collection.out / "drafts"
    drafts.mkdir(parents=True)
    (drafts / "a.png.json").write_text("{}")
    with pytest.raises(ValueError, match=r"a\.png\.json: not a draft"):
        Corrections(collection)


def test_an_out_that_is_not_beside_the_images_is_refused(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "cells")
    elsewhere = tmp_path / "other" / "deep" / "out"
    with pytest.raises(ValueError, match="choose a folder beside the images"):
        open_collection(folder, elsewhere)


def test_one_word_is_a_model_or_a_folder(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "cells")
    assert model_and_source("nuclei", None) == ("nuclei", None)
    assert model_and_source(str(folder), None) == (None, folder)
    (folder / "best.safetensors").touch()
    assert model_and_source(str(folder), None) == (str(folder), None)
    assert model_and_source("nuclei", folder) == ("nuclei", folder)
    assert model_and_source(None, None) == (None, None)
