"""Merging: classes by name, every image once, nothing decided for the user."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from annotated_images import FIRST, HEIGHT, SECOND, WIDTH, image, put
from rcnn.cli import app
from rcnn.data.dataset import Dataset
from rcnn.data.formats.open import open_data
from rcnn.data.merging import merge_data
from rcnn.data.splitting import split_data

Objects = dict[str, list[tuple[str, tuple[int, int, int, int]]]]


def coco(folder: Path, objects: Objects, *classes: str, masks: bool = False, **more: Any) -> Path:
    """A COCO file with these objects (class and box) per image."""
    image(folder, *objects)
    ids = {name: 10 + i for i, name in enumerate(classes)}
    annotations: list[dict[str, Any]] = []
    for number, found in enumerate(objects.values(), 1):
        for name, (x1, y1, x2, y2) in found:
            entry = {"id": len(annotations), "image_id": number, "category_id": ids[name], **more}
            entry["bbox"] = [x1, y1, x2 - x1, y2 - y1]
            if masks:
                entry["segmentation"] = [[x1, y1, x2, y1, x2, y2]]
            annotations.append(entry)
    points = {"keypoints": ["a", "b"]} if "keypoints" in more else {}
    content = {
        "images": [
            {"id": i, "file_name": n, "width": WIDTH, "height": HEIGHT} for i, n in enumerate(objects, 1)
        ],
        "annotations": annotations,
        "categories": [{"id": i, "name": name, **points} for name, i in ids.items()],
    }
    return put(folder, "a.json", content)


def found(data: Dataset) -> list[tuple[str, tuple[int, ...]]]:
    """Class and box of all objects, sorted."""
    return sorted(
        (name, tuple(map(int, box)))
        for record in data.records
        for name, box in zip(record.truth.names, record.truth.boxes.tolist(), strict=True)
    )


def test_classes_are_matched_by_name(tmp_path: Path) -> None:
    a = coco(tmp_path / "a", {"1.png": [("cell", FIRST), ("dust", SECOND)]}, "cell", "dust")
    b = coco(tmp_path / "b", {"2.png": [("Cell", FIRST), ("egg", SECOND)]}, "egg", "Cell")
    made = merge_data([a, b], tmp_path / "out")
    back = open_data(tmp_path / "out")
    assert back.class_names == ("cell", "dust", "egg")
    assert found(back) == [("cell", FIRST), ("cell", FIRST), ("dust", SECOND), ("egg", SECOND)]
    assert made.objects == {"cell": 2, "dust": 1, "egg": 1}
    assert made.spellings["cell"] == ("cell", "Cell")
    assert made.images == {"": 2}


def test_classes_that_one_data_set_keeps_apart_stay_apart(tmp_path: Path) -> None:
    a = coco(tmp_path / "a", {"1.png": [("CELL", FIRST)]}, "CELL")
    b = coco(tmp_path / "b", {"2.png": [("Cell", FIRST), ("cell", SECOND)]}, "Cell", "cell")
    merge_data([a, b], tmp_path / "out")
    assert len(open_data(tmp_path / "out").class_names) == 2


def test_renamed_classes(tmp_path: Path) -> None:
    a = coco(tmp_path / "a", {"1.png": [("Zelle", FIRST)]}, "Zelle")
    b = coco(tmp_path / "b", {"2.png": [("cell", FIRST), ("cells", SECOND)]}, "cell", "cells")
    made = merge_data([a, b], tmp_path / "out", rename={"Zelle": "cell", "cells": "cell"})
    assert made.objects == {"cell": 3}
    with pytest.raises(ValueError, match=r"--rename Zele=cell: did you mean Zelle\? there is no class Zele"):
        merge_data([a, b], tmp_path / "more", rename={"Zele": "cell"})


def test_images_of_one_name_are_different_images(tmp_path: Path) -> None:
    image(tmp_path, "seed.png")
    a = coco(tmp_path / "a", {"1.png": [("cell", FIRST)]}, "cell")
    b = coco(tmp_path / "b", {"1.png": [("cell", SECOND)]}, "cell")
    (tmp_path / "seed.png").replace(tmp_path / "b" / "1.png")
    merge_data([a, b], tmp_path / "out")
    back = open_data(tmp_path / "out")
    assert len(back) == 2
    assert found(back) == [("cell", FIRST), ("cell", SECOND)]
    assert len({record.image_id for record in back.records}) == 2


def test_a_copy_that_is_annotated_alike_is_kept_once(tmp_path: Path) -> None:
    a = coco(tmp_path / "a", {"1.png": [("cell", FIRST), ("cell", SECOND)]}, "cell")
    b = coco(tmp_path / "b", {"1.png": [("cell", SECOND), ("cell", FIRST)], "2.png": []}, "cell")
    made = merge_data([a, b], tmp_path / "out")
    assert made.images == {"": 2}
    assert made.copies == ((tmp_path / "b" / "1.png", tmp_path / "a" / "1.png"),)
    assert found(open_data(tmp_path / "out")) == [("cell", FIRST), ("cell", SECOND)]


@pytest.mark.parametrize(
    ("copies", "expected"),
    [
        ("first", [("cell", FIRST)]),
        ("join", [("cell", FIRST), ("egg", SECOND)]),
    ],
)
def test_a_copy_that_is_annotated_otherwise(tmp_path: Path, copies: Any, expected: Any) -> None:
    """Two sets of the same images, each with its own class: nobody but the user knows what is right."""
    a = coco(tmp_path / "a", {"1.png": [("cell", FIRST)]}, "cell", masks=True)
    b = coco(tmp_path / "b", {"1.png": [("egg", SECOND), ("cell", FIRST)]}, "egg", "cell", masks=True)
    with pytest.raises(ValueError, match=r"1 images occur twice with other objects.*--copies join"):
        merge_data([a, b], tmp_path / "out")
    assert not (tmp_path / "out").exists()
    merge_data([a, b], tmp_path / "out", copies=copies)
    back = open_data(tmp_path / "out")
    assert found(back) == expected
    masks = back[0].truth.masks
    assert masks is not None
    assert np.abs(masks.boxes() - [box for _, box in expected]).max() <= 1  # triangles without their tips


def test_boxes_and_masks_together(tmp_path: Path) -> None:
    """Objects without an outline are known to have none."""
    a = coco(tmp_path / "a", {"1.png": [("cell", FIRST), ("cell", SECOND)]}, "cell", masks=True)
    b = coco(tmp_path / "b", {"2.png": [("cell", FIRST)]}, "cell")
    merge_data([a, b], tmp_path / "out")
    with_masks, boxes = (record.truth for record in open_data(tmp_path / "out").records)
    assert with_masks.has_mask is None
    assert boxes.has_mask is not None
    assert not boxes.has_mask.any()


def test_keypoints(tmp_path: Path) -> None:
    points = {"keypoints": [10, 8, 2, 20, 16, 2]}
    a = coco(tmp_path / "a", {"1.png": [("cell", FIRST)]}, "cell", **points)
    b = coco(tmp_path / "b", {"2.png": [("cell", FIRST)]}, "cell")
    merge_data([a, b], tmp_path / "out")
    first, second = (record.truth.keypoints for record in open_data(tmp_path / "out").records)
    assert first is not None
    assert second is not None
    assert first[0].tolist() == [[10.5, 8.5, 2], [20.5, 16.5, 2]]
    assert not np.any(second)
    text = (tmp_path / "a" / "a.json").read_text()
    put(tmp_path / "a", "a.json", text.replace('"b"', '"c"'))
    image(tmp_path / "c", "3.png")
    c = coco(tmp_path / "c", {"3.png": [("cell", FIRST)]}, "cell", **points)
    with pytest.raises(ValueError, match=r"its keypoints a, b are not those of .*: a, c"):
        merge_data([a, c], tmp_path / "more")


def test_splits_are_merged_split_by_split(tmp_path: Path) -> None:
    objects: Objects = {f"{i}.png": [("cell", FIRST)] for i in range(8)}
    split_data(coco(tmp_path / "a", objects, "cell"), tmp_path / "sa", val=0.25)
    more: Objects = {f"b{i}.png": [("cell", SECOND)] for i in range(4)}
    b = coco(tmp_path / "b", more, "cell")
    split_data(b, tmp_path / "sb", val=0.25)
    made = merge_data([tmp_path / "sa", tmp_path / "sb"], tmp_path / "out")
    assert made.images == {"train": 9, "val": 3}
    with pytest.raises(ValueError, match=r"sa has splits, .*a\.json has none"):
        merge_data([tmp_path / "sa", b], tmp_path / "more")


def test_the_format(tmp_path: Path) -> None:
    a = coco(tmp_path / "a", {"1.png": [("cell", FIRST)]}, "cell", masks=True)
    b = coco(tmp_path / "b", {"2.png": [("cell", FIRST)]}, "cell", masks=True)
    c = coco(tmp_path / "c", {"3.png": [("cell", FIRST)]}, "cell", masks=True)
    masks = merge_data([a, b], tmp_path / "first", to="masks").out
    assert merge_data([masks, c], tmp_path / "second").format == "coco"
    again = [merge_data([a, b], tmp_path / name, to="yolo").out for name in ("x", "y")]
    assert merge_data(again, tmp_path / "third").format == "yolo"
    plain = merge_data([masks, masks], tmp_path / "fourth")
    assert plain.format == "masks"
    assert merge_data([masks, masks], tmp_path / "fifth", rename={"object": "cell"}).format == "coco"


def test_a_single_data_set_and_a_misspelt_choice(tmp_path: Path) -> None:
    a = coco(tmp_path / "a", {"1.png": [("cell", FIRST)]}, "cell")
    with pytest.raises(ValueError, match="at least two data sets"):
        merge_data([a], tmp_path / "out")
    choice: Any = "both"
    with pytest.raises(ValueError, match="--copies both: expected first or join"):
        merge_data([a, a], tmp_path / "out", copies=choice)


def test_the_command(tmp_path: Path) -> None:
    a = coco(tmp_path / "a", {"1.png": [("Zelle", FIRST)]}, "Zelle")
    b = coco(tmp_path / "b", {"2.png": [("cell", FIRST)], "1.png": [("cell", SECOND)]}, "cell")
    out = tmp_path / "out"
    command = ["data", "merge", str(a), str(b), str(out), "--rename", "Zelle=cell"]
    refused = CliRunner().invoke(app, command)
    assert refused.exit_code == 1
    assert "--copies first" in refused.output
    result = CliRunner().invoke(app, [*command, "--copies", "join"])
    assert result.exit_code == 0, result.output
    assert "class cell: 3 objects, also Zelle" in result.output
    assert "is the same image as" in result.output
    assert CliRunner().invoke(app, ["data", "check", str(out)]).exit_code == 0
    wrong = CliRunner().invoke(app, [*command[:-1], "Zelle"])
    assert "--rename Zelle: expected OLD=NEW" in wrong.output
