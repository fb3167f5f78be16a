"""What can be read in several ways is reported: crowds, visibilities, parts without objects, cut tables."""

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from rcnn.data.check import check
from rcnn.data.formats import coco
from rcnn.data.formats.open import open_data
from rcnn.evaluation.evaluator import evaluate_results
from rcnn.training.planning import unswapped_flips
from rcnn.training.recipe import Recipe
from rcnn.training.split import HoldOut, hold_out
from tiny import tiny_recipe, tiny_shapes


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tiny_shapes(3).write(tmp_path / "shapes")


def changed(file: Path, change: Any) -> Path:
    """The COCO file with each annotation changed, by its index."""
    content = json.loads(file.read_text())
    for index, annotation in enumerate(content["annotations"]):
        change(index, annotation)
    file.write_text(json.dumps(content))
    return file


def said(file: Path, word: str) -> list[str]:
    return [problem.what for problem in open_data(file).problems if word in problem.what]


@pytest.mark.parametrize(
    ("marked", "crowd"),
    [("false", False), ("no", False), ("0", False), ("true", True), ("1", True), (2, True), (0.5, True)],
)
def test_a_crowd_in_another_spelling(file: Path, marked: Any, crowd: bool) -> None:
    changed(file, lambda index, entry: entry.update(iscrowd=marked) if index == 0 else None)
    crowds = sum(
        int(record.truth.crowd.sum()) for record in open_data(file).records if record.truth.crowd is not None
    )
    assert crowds == int(crowd)
    how = "crowd regions, which nothing is learned from" if crowd else "single objects"
    (what,) = said(file, "iscrowd")
    assert what.startswith("iscrowd is neither 0 nor 1; read 1 as ")
    assert f"{how}: 1 ('{marked}')" in what


@pytest.mark.parametrize("marked", [0, 1, None, False, True, 0.0, 1.0])
def test_plain_crowds_are_not_reported(file: Path, marked: Any) -> None:
    changed(file, lambda index, entry: entry.update(iscrowd=marked) if index == 0 else None)
    assert not said(file, "iscrowd")


def with_keypoints(file: Path, visibilities: list[float]) -> Path:
    content = json.loads(file.read_text())
    names = ["one", "two", "three"]
    for category in content["categories"]:
        category["keypoints"] = names[: len(visibilities)]
    for annotation in content["annotations"]:
        x, y = annotation["bbox"][:2]
        annotation["keypoints"] = [value for v in visibilities for value in (x + 1, y + 1, v)]
    file.write_text(json.dumps(content))
    return file


@pytest.mark.parametrize("large", [False, True])
def test_visibilities_outside_0_to_2(file: Path, large: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if large:
        monkeypatch.setattr(coco, "LARGE_BYTES", 1)
        monkeypatch.setenv("RCNN_CACHE", str(file.parent / "cache"))
    data = open_data(with_keypoints(file, [3, -1, 0.5]))
    objects = sum(len(record.truth) for record in data.records)
    for record in data.records:
        assert record.truth.keypoints is not None
        assert record.truth.keypoints[:, :, 2].tolist() == [[2, 0, 2]] * len(record.truth)
        assert not record.truth.keypoints[:, 1].any()
    (what,) = (problem.what for problem in data.problems if "visibility" in problem.what)
    assert what == f"{3 * objects} keypoints have a visibility other than 0, 1 and 2: 3, -1, 0.5."


def test_visibilities_of_yolo(tmp_path: Path) -> None:
    file = tiny_shapes(2).write(tmp_path / "shapes")
    picture = open_data(file).records[0].path
    for folder in ("images", "labels"):
        (tmp_path / "yolo" / folder).mkdir(parents=True)
    (tmp_path / "yolo" / "images" / "a.png").write_bytes(picture.read_bytes())
    (tmp_path / "yolo" / "labels" / "a.txt").write_text("0 0.5 0.5 0.4 0.4 0.5 0.5 3 0.6 0.6 -1\n")
    (tmp_path / "yolo" / "data.yaml").write_text(
        "train: images\nnames: [a]\nkpt_shape: [2, 3]\nflip_idx: [0, 1]\n"
    )
    data = open_data(tmp_path / "yolo")
    assert data.records[0].truth.keypoints is not None
    assert data.records[0].truth.keypoints[0, :, 2].tolist() == [2, 0]
    assert "2 keypoints have a visibility other than 0, 1 and 2: 3, -1." in [p.what for p in data.problems]


def test_plain_visibilities_are_not_reported(file: Path) -> None:
    assert not said(with_keypoints(file, [0, 1, 2]), "visibility")


def test_keypoints_that_mirrored_images_do_not_swap_are_in_the_log(file: Path) -> None:
    data = open_data(with_keypoints(file, [2, 2]))
    recipe: Recipe = tiny_recipe("keypoint_rcnn")

    def lines(**changes: Any) -> list[str]:
        return [
            str(line)
            for line in unswapped_flips(replace(recipe, augment=replace(recipe.augment, **changes)), data)
        ]

    (line,) = lines(flip=True)
    assert "no keypoint of one, two changes places" in line
    assert "augment.flip_pairs" in line
    assert lines(flip=False) == lines(flip=True, flip_pairs=()) == []
    named = replace(data, skeleton=replace(data.skeleton, mirror=(1, 0)))
    assert unswapped_flips(recipe, named) == []
    told = [problem for problem in check(data).problems if "left from right" in problem.what]
    assert len(told) == 1


def test_a_held_out_part_without_objects_is_said(tmp_path: Path) -> None:
    shapes = open_data(tiny_shapes(12).write(tmp_path / "shapes"))
    records = [
        replace(record, truth=record.truth[np.zeros(len(record.truth), np.bool_)], masks=None)
        for record in shapes.records
    ]
    # One image has objects: it stays, as the last one with its classes.
    data = replace(shapes, records=[shapes.records[0], *records[1:]])
    split = hold_out(data, [], HoldOut(0))
    assert (
        "none of them has an object, so nothing can be measured: name validation data with --val"
        in split.messages[0]
    )
    assert not len(split.val.objects.labels)
    assert "none of them" not in hold_out(shapes, [], HoldOut(0)).messages[0]


@pytest.mark.parametrize(("lowest", "cut"), [(0.5, True), (0.05, False), (0.01, False)])
def test_a_table_cut_at_a_threshold_is_said(file: Path, tmp_path: Path, lowest: float, cut: bool) -> None:
    content = json.loads(file.read_text())
    results = [
        {"image_id": a["image_id"], "category_id": a["category_id"], "bbox": a["bbox"], "score": score}
        for a in content["annotations"] for score in (0.9, lowest)
    ]  # fmt: skip
    (tmp_path / "results.json").write_text(json.dumps(results))
    evaluation, _ = evaluate_results(tmp_path / "results.json", file)
    assert evaluation.to_json()["cut_at"] == (lowest if cut else None)
    console = Console(width=300, record=True, file=io.StringIO())
    console.print(evaluation.table())
    text = "no score is below 0.50: if weaker detections were dropped, AP is too low; rcnn predict"
    assert (text in console.export_text()) is cut
