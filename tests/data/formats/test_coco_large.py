"""Large COCO files, streamed into flat arrays: the same data set as when they are read at once."""

import json
import os
import pickle
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from rcnn.data import flat
from rcnn.data.classes import align_dataset_classes
from rcnn.data.dataset import Dataset, LazyRecords
from rcnn.data.formats import coco, coco_large, gaps, json_stream
from rcnn.data.formats.coco import read_coco
from rcnn.data.formats.json_stream import top_level
from rcnn.structures import Instances, Masks

SQUARE = [2, 3, 6, 3, 6, 8, 2, 8]
ODD: list[dict[str, Any]] = [
    {},
    {"segmentation": [SQUARE]},
    {"segmentation": [SQUARE, [8, 1, 10, 1, 10, 3]], "bbox": [2, 1, 8, 7]},
    {"segmentation": SQUARE, "image_id": "8"},
    {"segmentation": {"size": [10, 20], "counts": [23, 5, 172]}, "bbox": [2, 3, 1, 5], "iscrowd": 1},
    {"bbox": None, "segmentation": [SQUARE], "image_id": 8},
    {"bbox": [15, 2, 10, 5], "area": None},
    {"bbox": [30, 2, 10, 5]},
    {"bbox": [1, 1]},
    {"image_id": 99},
    {"image_id": None},
    {"category_id": 77},
    {"category_id": "2"},
    {"segmentation": [[1, 2, 3]]},
    {"segmentation": [[15, 2, 20, 2, 20, 7]]},
    {"attributes": {"rotation": 90.0}, "bbox": [6, 2, 8, 4]},
    {"id": 1},
    {"keypoints": [3, 4, 2, 5, 6, 0]},
    {"keypoints": [3, 4]},
]


PLACEHOLDER = {"name": "cat", "supercategory": "none"}


def content(**changes: Any) -> dict[str, Any]:
    point_names = [{"id": 1, "name": "cat", "keypoints": ["left", "right"]}, {"id": 2, "name": "bee"}]
    plain = {"image_id": 7, "category_id": 1, "bbox": [2, 3, 4, 5], "area": 20.5, "iscrowd": 0}
    return {
        "info": {"year": 2017, "nested": [{"categories": []}]},
        "images": [
            {"id": n, "file_name": f"{c}.png", "width": 20, "height": 10, "license": 1}
            for n, c in ((7, "a"), (8, "b"), (9, "none"), ("x", "c"))
        ],
        "annotations": [{"id": n, **plain, **odd} for n, odd in enumerate(ODD, 1)],
        "categories": point_names,
        **changes,
    }


def written(folder: Path, found: dict[str, Any], *files: str) -> Path:
    for number, name in enumerate(files or "abc"):
        Image.new("RGB", (20, 10), (number, 0, 0)).save(folder / f"{name}.png")
    path = folder / "instances.json"
    path.write_text(json.dumps(found))
    return path


@pytest.fixture
def streamed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Every file counts as large, windows are tiny, and corners are written at once."""
    monkeypatch.setenv("RCNN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(coco, "LARGE_BYTES", 0)
    monkeypatch.setattr(json_stream, "CHUNK", 7)
    monkeypatch.setattr(json_stream, "PENDING", 1 << 30)
    monkeypatch.setattr(flat, "VALUES_KEPT", 5)


def same(one: Instances, other: Instances) -> bool:
    for spec in fields(one):
        a, b = getattr(one, spec.name), getattr(other, spec.name)
        if isinstance(a, Masks):
            assert (a.dense() == b.dense()).all()
        elif isinstance(a, np.ndarray):
            assert a.dtype == b.dtype
            assert a.tolist() == b.tolist(), spec.name
        else:
            assert a == b, spec.name
    return True


def assert_same(one: Dataset, other: Dataset) -> None:
    assert isinstance(other.records, LazyRecords)
    assert len(one) == len(other)
    assert sorted(map(str, one.problems)) == sorted(map(str, other.problems))
    for name in ("format", "source", "class_names", "category_ids", "skeleton", "has_masks"):
        assert getattr(one, name) == getattr(other, name), name
    for mine, theirs in zip(one.records, other.records, strict=True):
        assert (mine.path, mine.image_id) == (theirs.path, theirs.image_id)
        assert same(mine.truth, theirs.truth)
        assert same(mine.load_truth(), theirs.load_truth())


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"annotations": []},
        {"annotations": [{"id": 1, "image_id": 7, "category_id": 2, "bbox": [2, 3, 4, 5], "area": 20}]},
        {"categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "cat"}]},
        {"categories": [{**PLACEHOLDER, "id": 0}, {**PLACEHOLDER, "id": 1, "supercategory": "cat"}]},
        {"images": [{"id": 7, "coco_url": "http://images.example/val/a.png", "width": 20, "height": 10}]},
    ],
    ids=["everything", "no objects", "boxes", "equal names", "placeholder", "LVIS"],
)
def test_a_streamed_file_is_the_same_data_set(
    tmp_path: Path, streamed: None, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    found = content(**changes)
    if "categories" in changes:  # without names of keypoints
        found["annotations"] = [e for e in found["annotations"] if "keypoints" not in e]
    path = written(tmp_path, found)
    large = read_coco(path)
    monkeypatch.setattr(coco, "LARGE_BYTES", 1 << 60)
    small = read_coco(path)
    assert_same(small, large)
    assert gaps.image_folders(small) == gaps.image_folders(large)


def test_lists_in_an_order_that_cannot_be_streamed_are_read_at_once(tmp_path: Path, streamed: None) -> None:
    found = content()
    for order in (("annotations", "images", "categories"), ("categories", "annotations", "images")):
        path = written(tmp_path, {key: found[key] for key in order})
        assert not isinstance(read_coco(path).records, LazyRecords)
    unnamed = {**found, "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "bee"}]}
    assert not isinstance(read_coco(written(tmp_path, unnamed)).records, LazyRecords)


def complete(**changes: Any) -> dict[str, Any]:
    found = content(**changes)
    return {**found, "images": [entry for entry in found["images"] if entry["file_name"] != "none.png"]}


def test_the_arrays_are_kept_until_the_file_or_its_images_change(
    tmp_path: Path, streamed: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path, complete())
    first = read_coco(path)
    with monkeypatch.context() as patch:
        patch.setattr(coco, "streamed_lists", lambda _: pytest.fail("it was read again"))
        again = read_coco(path)
    assert again.records.source.store.folder is not None
    assert_same(first, again)
    (tmp_path / "d.png").write_bytes((tmp_path / "a.png").read_bytes())  # a folder of images
    assert coco_large.kept_dataset(path, None) is None
    read_coco(path)
    assert coco_large.kept_dataset(path, None) is not None
    path.write_text(json.dumps(complete(annotations=[])))
    assert read_coco(path).objects.counts.sum() == 0
    assert [p.name for p in (tmp_path / "cache" / "annotations").iterdir() if p.name.startswith(".")] == []


def test_a_data_set_with_missing_images_is_not_kept(tmp_path: Path, streamed: None) -> None:
    path = written(tmp_path, content())
    assert len(read_coco(path)) == 3
    Image.new("RGB", (20, 10)).save(tmp_path / "none.png")
    assert len(read_coco(path)) == 4


def test_without_a_cache_the_arrays_stay_in_memory(
    tmp_path: Path, streamed: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RCNN_CACHE", str(tmp_path / "instances.json" / "no folder"))
    path = written(tmp_path, complete())
    dataset = read_coco(path)
    assert dataset.records.source.store.folder is None
    monkeypatch.setattr(coco, "LARGE_BYTES", 1 << 60)
    assert_same(read_coco(path), pickle.loads(pickle.dumps(dataset)))


def test_few_data_sets_are_kept(tmp_path: Path, streamed: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coco_large, "KEPT", 2)
    for number in range(4):
        (tmp_path / str(number)).mkdir()
        read_coco(written(tmp_path / str(number), complete()))
    assert len(list((tmp_path / "cache" / "annotations").iterdir())) == 2


def test_processes_map_the_arrays_again_and_share_them(tmp_path: Path, streamed: None) -> None:
    path = written(tmp_path, complete())
    dataset = align_dataset_classes(read_coco(path), ("dog", "cat", "bee")).subset([2, 0])
    data = pickle.dumps(dataset)
    assert b"corners" not in data
    other = pickle.loads(data)
    for mine, theirs in zip(dataset.records, other.records, strict=True):
        assert same(mine.load_truth(), theirs.load_truth())
    assert dataset.records[1].truth.labels.max() <= 2
    assert [r.path.name for r in dataset.records] == ["c.png", "a.png"]
    assert isinstance(dataset.without_masks().records[:1], LazyRecords)
    assert dataset.without_masks().records[1].masks is None
    assert replace(dataset).objects.counts.tolist() == [len(r.truth) for r in dataset.records]


def test_names_that_are_not_utf8_survive(tmp_path: Path, streamed: None) -> None:
    name = os.fsdecode(b"caf\xe9.png")
    Image.new("RGB", (20, 10)).save(tmp_path / "a.png")
    (tmp_path / "a.png").rename(tmp_path / name)
    images = [{"id": 7, "file_name": name, "width": 20, "height": 10}]
    path = tmp_path / "x.json"
    path.write_text(json.dumps(content(images=images, annotations=[])))
    assert read_coco(path).records[0].path == tmp_path / name


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"images": [', "not JSON|ends early"),
        ('{"images": [1, 2, oops], "annotations": [], "categories": []}', "this is not JSON"),
        ('{"images" 3}', "this is not JSON"),
        ("[1]", "found a list"),
        ("", "this is not JSON"),
    ],
)
def test_broken_files_are_named(tmp_path: Path, streamed: None, text: str, message: str) -> None:
    path = tmp_path / "broken.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=rf"broken\.json: .*({message})"):
        read_coco(path)


def test_values_at_any_place_of_the_window(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    value = {
        "a": [1, 23.5e-3, "x\\u00e9 } ] ,", {"b": []}],
        "n": -12,
        "t": True,
        "l": [[], {}, "", 0],
        "e": [],
    }
    path = tmp_path / "x.json"
    for indent in (None, 3):
        path.write_text(json.dumps(value, indent=indent))
        for chunk in range(1, 40):
            monkeypatch.setattr(json_stream, "CHUNK", chunk)
            found = {k: v if isinstance(v, int) else list(v) for k, v in top_level(path)}
            assert found == value


@pytest.mark.parametrize("separators", [(",", ":"), (", ", ": ")])
@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("piece", [1, 30, 200, 1 << 16])
def test_elements_are_those_that_json_reads(
    separators: tuple[str, str],
    indent: int | None,
    piece: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Objects in lists within elements, braces in texts, NaN, numbers of any size."""
    found = [
        {"id": n, "nested": [{"a": n}, {"b": "}, {"}], "big": 10**30, "x": 0.1 * n, "t": '},{"é'}
        for n in range(20)
    ] + [3, "}", {}, [], {"plain": 1}, {"plain": 2}]
    monkeypatch.setattr(json_stream, "PIECE", piece)
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"list": found, "last": 1}, separators=separators, indent=indent))
    assert {k: list(v) if k == "list" else v for k, v in top_level(path)} == {"list": found, "last": 1}


@pytest.mark.parametrize("text", ['{"a": 1,}', '{"list": [{}],}', '{"a": 1}'])
def test_a_comma_has_to_be_followed_by_a_key(tmp_path: Path, text: str) -> None:
    path = tmp_path / "large.json"
    path.write_text(text)
    if text.endswith(",}"):
        with pytest.raises(ValueError, match="expected a key; found '}'"):
            list(top_level(path))
    else:
        assert dict(top_level(path)) == {"a": 1}
