"""The rule for boxes, what the files tell, what is refused, and what skipping leaves."""

import json
import math
import pickle
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from conftest import real_data
from rcnn.data import check as check_module
from rcnn.data.check import check, check_pair, refuse_or_measure, refuse_or_skip
from rcnn.data.classes import align_dataset_classes, matching_label
from rcnn.data.convert import convert
from rcnn.data.dataset import Dataset, LeftOut
from rcnn.data.formats.open import open_data
from rcnn.data.problems import DataError, check_box
from rcnn.data.shapes import draw_shapes
from rcnn.structures import Skeleton

SIZE = (10, 20)


@pytest.mark.parametrize(
    ("box", "usable", "severity"),
    [
        ((1, 2, 5, 8), (1, 2, 5, 8), None),
        ((0, 0, 20, 10), (0, 0, 20, 10), None),
        ((4, 4, 5, 5), (4, 4, 5, 5), None),  # one pixel
        ((-1, 2, 5, 11), (0, 2, 5, 10), None),  # rounding
        ((-3, 2, 5, 8), (0, 2, 5, 8), "warning"),
        ((2, 2, 50, 80), (2, 2, 20, 10), "warning"),
        ((4, 4, 4, 8), None, "warning"),
        ((4, 4, 4.4, 8), None, "warning"),
        ((-5, 2, 0.3, 8), None, "warning"),
        ((5, 2, 1, 8), None, "error"),
        ((5, 8, 6, 2), None, "error"),
        ((20, 2, 25, 8), None, "error"),
        ((2, -5, 5, 0), None, "error"),
        ((math.nan, 2, 5, 8), None, "error"),
        ((1, 2, math.inf, 8), None, "error"),
    ],
)
def test_judge_box(
    box: tuple[float, float, float, float], usable: tuple[float, ...] | None, severity: str | None
) -> None:
    found, fault = check_box(box, SIZE)
    assert found == usable
    assert (fault.severity if fault else None) == severity


def opened(folder: Path, objects: dict[str, list[str]], classes: str = "ab") -> Dataset:
    """A COCO file: for each image the class names of its objects; every image has another colour."""
    folder.mkdir(exist_ok=True)
    images, annotations = [], []
    for number, (name, names) in enumerate(objects.items()):
        Image.new("RGB", (20, 10), (number, 0, 0)).save(folder / name)
        images.append({"id": number, "file_name": name, "width": 20, "height": 10})
        for k, label in enumerate(names):
            box = [k, 1, 4, 4]
            annotation = {"image_id": number, "category_id": classes.index(label) + 10, "bbox": box}
            annotations.append({**annotation, "id": len(annotations)})
    categories = [{"id": i + 10, "name": name} for i, name in enumerate(classes)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "x.json").write_text(json.dumps(content))
    return open_data(folder / "x.json")


def test_the_summary_counts(tmp_path: Path) -> None:
    report = check(opened(tmp_path, {"a.png": ["a", "a", "b"], "b.png": ["b"], "c.png": []}))
    assert report.problems == ()
    assert (report.num_images, report.num_empty, report.num_crowds) == (3, 1, 0)
    assert report.objects_per_class == {"a": 2, "b": 2}
    assert report.box_sizes == {5: 4, 25: 4, 50: 4, 75: 4, 95: 4}
    assert report.image_sizes == {(10, 20): 3}
    assert not report.has_masks
    assert "3 images (1 without objects)" in str(report)
    assert "a 2, b 2" in str(report)


def test_files_are_looked_at(tmp_path: Path) -> None:
    names = ["fine.png", "gone.png", "short.png", "turned.png", "twin.png"]
    dataset = opened(tmp_path, {name: ["a", "b"] for name in names})
    (tmp_path / "gone.png").unlink()
    noise = Image.effect_noise((20, 10), 90)
    noise.save(tmp_path / "short.png")
    (tmp_path / "short.png").write_bytes((tmp_path / "short.png").read_bytes()[:-60])
    Image.new("RGB", (10, 20)).save(tmp_path / "turned.png")
    (tmp_path / "twin.png").write_bytes((tmp_path / "fine.png").read_bytes())
    report = check(dataset)
    assert [(p.file.name, p.severity) for p in report.problems] == [
        ("gone.png", "error"),
        ("short.png", "error"),
        ("turned.png", "error"),
        ("twin.png", "warning"),
    ]
    assert "no such file" in report.problems[0].what
    assert "truncated" in report.problems[1].what
    assert "EXIF" in report.problems[2].advice
    assert f"the same image as {tmp_path / 'fine.png'}" in report.problems[3].what
    assert [p.file.name for p in check(dataset, decode=False).errors] == ["gone.png", "turned.png"]
    kept, left_out = refuse_or_skip(dataset, True, report=report)
    assert [r.path.name for r in kept.records] == ["fine.png", "twin.png"]
    assert [p.file.name for p in left_out] == ["gone.png", "short.png", "turned.png"]
    assert [p.file.name for p in kept.problems if p.severity == "warning"] == ["twin.png"]
    with pytest.raises(DataError, match=r"3 error\(s\)") as raised:
        refuse_or_skip(dataset, False)
    assert all(name in str(raised.value) for name in ("gone.png", "short.png", "turned.png"))


def test_a_clean_data_set_passes(tmp_path: Path) -> None:
    dataset = opened(tmp_path, {"a.png": ["a", "b"], "b.png": ["a", "b"]})
    kept, left_out = refuse_or_skip(dataset, False)
    assert (len(kept), left_out) == (2, [])


def test_long_lists_are_cut_and_counted(tmp_path: Path) -> None:
    dataset = opened(tmp_path, {f"{i:02}.png": ["a", "b"] for i in range(25)})
    for record in dataset.records[1:]:
        record.path.unlink()
    with pytest.raises(DataError) as raised:
        refuse_or_skip(dataset, False)
    assert "… and 4 more errors" in str(raised.value)
    assert "20.png" in str(raised.value)
    assert "21.png" not in str(raised.value)
    assert len(raised.value.problems) == 24
    dataset.records[0].path.unlink()
    with pytest.raises(DataError, match="Every image has an error"):
        refuse_or_skip(dataset, True)


def in_shards(to: str, folder: Path) -> Path:
    """Four pictures in shards: a usable one, one cut short, none, and a copy of the first."""
    if to == "parquet":
        pytest.importorskip("pyarrow", reason="needs the extra bulk")
    shapes = draw_shapes(4, size=(40, 60)).write(folder / "data")
    data = open_data(shapes)
    paths = [record.path for record in data.records]
    paths[3].write_bytes(paths[0].read_bytes())
    out = convert(data, folder / to, to=to).out
    content = paths[1].read_bytes()
    for file in out.iterdir():
        if to == "parquet":
            import pyarrow as pa
            import pyarrow.parquet as pq

            table = pq.read_table(file)
            rows = table.to_pylist()
            rows[1]["image"], rows[2]["image"] = content[: len(content) // 2], b"none"
            pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), file)
        else:  # the members keep their places
            whole = file.read_bytes()
            for path, kept in ((paths[1], len(content) // 2), (paths[2], 0)):
                found = path.read_bytes()
                assert whole.count(found) == 1
                whole = whole.replace(found, found[:kept].ljust(len(found), b"-"))
            file.write_bytes(whole)
    return out


@pytest.mark.parametrize(
    ("to", "places"), [("parquet", "row {} of group 0"), ("webdataset", "sample 00000000{}")]
)
def test_images_in_shards_are_looked_at(to: str, places: str, tmp_path: Path) -> None:
    data = open_data(in_shards(to, tmp_path))
    names = [record.path.name for record in data.records]
    (shard,) = {record.path.parent for record in data.records}
    report = check(data)
    assert [problem.file for problem in report.errors] == [shard / names[1], shard / names[2]]
    for number, problem in enumerate(report.errors, 1):
        assert problem.what.endswith(f"({places.format(number)})")
    assert "truncated or damaged" in report.errors[0].what
    assert "not an image of a known format" in report.errors[1].what
    (copy,) = (problem for problem in report.warnings if problem.file == shard / names[3])
    assert copy.what == f"It is the same image as {shard / names[0]}."
    headers = check(data, decode=False)
    assert [problem.file for problem in headers.errors] == [shard / names[2]]
    usable, _ = refuse_or_skip(data, True, report=report)
    assert [record.path.name for record in usable.records] == [names[0], names[3]]


@pytest.mark.parametrize("to", ["parquet", "webdataset"])
def test_of_many_shards_a_few_are_opened(to: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = open_data(in_shards(to, tmp_path))
    monkeypatch.setattr(check_module, "MAX_OPENED", 2)
    monkeypatch.setattr(check_module, "SAMPLED", 3)
    assert [problem.file.name for problem in check(data, decode=False).errors] == [data.records[2].path.name]


@pytest.mark.parametrize("skip_bad", [False, True])
def test_no_annotations_at_all_cannot_be_skipped(tmp_path: Path, skip_bad: bool) -> None:
    dataset = opened(tmp_path, {"a.png": [], "b.png": []})
    with pytest.raises(DataError, match="No image has an object"):
        refuse_or_skip(dataset, skip_bad)


def test_rare_classes_are_told_once(tmp_path: Path) -> None:
    report = check(opened(tmp_path, {"a.png": ["a", "a", "b"]}, "abc"))
    [problem] = report.warnings
    assert "2 classes have fewer than 2 objects: b (1), c (0)" in problem.what
    assert report.errors == ()


def test_classes_of_a_pair(tmp_path: Path) -> None:
    train = opened(tmp_path / "t", {"a.png": ["a", "b", "b"]}, "abc")
    assert check_pair(train, opened(tmp_path / "v", {"a.png": ["A", "b"]}, "Abz")) == []
    [unseen] = check_pair(train, opened(tmp_path / "v", {"a.png": ["c"]}, "ac"))
    assert (unseen.severity, "training split: c" in unseen.what) == ("warning", True)
    val = opened(tmp_path / "v", {"a.png": ["z", "a"]}, "az")
    [foreign] = check_pair(train, val)
    assert (foreign.severity, foreign.file) == ("error", val.source)
    assert "lacks: z" in foreign.what


def test_labels_are_aligned_by_name(tmp_path: Path) -> None:
    val = opened(tmp_path, {"a.png": ["b", "A", "b"]}, "zAb")
    aligned = align_dataset_classes(val, ("a", "c", "b"))
    truth = aligned[0].truth
    assert truth.labels.tolist() == [2, 0, 2]
    assert truth.class_names == aligned.class_names == ("a", "c", "b")
    assert aligned.category_ids == (11, 1, 12)  # "c" has the first free one
    with pytest.raises(ValueError, match="objects of the classes A; expected only b"):
        align_dataset_classes(val, ("b",))


def test_names_that_differ_in_case_only_stay_apart_where_both_are_known(tmp_path: Path) -> None:
    val = opened(tmp_path, {"a.png": ["RBC", "rbc"]}, ["RBC", "rbc"])
    assert align_dataset_classes(val, ("RBC", "rbc"))[0].truth.labels.tolist() == [0, 1]
    assert align_dataset_classes(val, ("rbc", "WBC"))[0].truth.labels.tolist() == [0, 0]
    assert matching_label(("rbc", "RBC"), "Rbc") == 0
    assert matching_label(("rbc",), "wbc") is None


@pytest.mark.parametrize("name", ["cbc/Training", "cbc/Testing", "coco/annotations/instances_train.json"])
def test_real_data_has_no_errors(name: str) -> None:
    report = check(open_data(real_data(name)))
    assert report.errors == ()
    assert len(report.warnings) == 1
    pickle.dumps(report)


@pytest.mark.parametrize(
    ("images", "count", "expected"),
    [(10, 3, [0, 4, 9]), (2, 5, [0, 1]), (5, 1, [0]), (3, 3, [0, 1, 2]), (0, 4, [])],
)
def test_images_evenly_chosen(images: int, count: int, expected: list[int]) -> None:
    dataset = Dataset("coco", Path("x.json"), (), [None] * images)  # type: ignore[list-item]
    assert dataset.evenly_spaced(count) == expected


def test_crowds_alone_are_refused(tmp_path: Path) -> None:
    def marked(number: int) -> list[str]:
        folder = tmp_path / str(number)
        dataset = opened(folder, {"a.png": ["a", "a", "a"]}, "a")
        content = json.loads(dataset.source.read_text())
        for entry in content["annotations"][:number]:
            entry["iscrowd"] = 1
        dataset.source.write_text(json.dumps(content))
        return [f"{p.severity} {p.what}" for p in check(open_data(dataset.source)).problems]

    assert marked(1) == []
    assert marked(2) == ["warning 2 of 3 objects are marked as crowd, from which nothing is learned."]
    assert marked(3) == ["error 3 of 3 objects are marked as crowd, from which nothing is learned."]


def test_what_skipping_cannot_mend_and_what_it_leaves_out(tmp_path: Path) -> None:
    dataset = opened(tmp_path, {"a.png": ["a", "a"], "b.png": ["a", "b"]})
    content = json.loads(dataset.source.read_text())
    content["annotations"][0]["category_id"] = "one"
    dataset.source.write_text(json.dumps(content))
    kept, errors = refuse_or_skip(open_data(dataset.source), True)
    assert [r.path.name for r in kept.records] == ["b.png"]
    assert "found 0 and 'one'" in errors[0].what
    content["categories"][1]["id"] = content["categories"][0]["id"]
    dataset.source.write_text(json.dumps(content))
    with pytest.raises(DataError, match="occurs twice"):
        refuse_or_skip(open_data(dataset.source), True)


def test_outlines_do_not_matter_to_boxes(tmp_path: Path) -> None:
    dataset = opened(tmp_path, {"a.png": ["a", "a", "a"]})
    content = json.loads(dataset.source.read_text())
    for entry in content["annotations"]:
        x, y, w, h = entry["bbox"]
        entry["segmentation"] = [[x, y, x + w, y, x + w, y + h]]
    content["annotations"][2]["segmentation"] = [[1, 2, 3]]
    dataset.source.write_text(json.dumps(content))
    dataset = open_data(dataset.source)
    with pytest.raises(DataError, match="A polygon has 3 values"):
        refuse_or_skip(dataset, False)
    kept, errors = refuse_or_skip(dataset, False, boxes_only=True)
    assert (len(kept), errors) == (1, [])


def with_broken_boxes(folder: Path, broken: int, images: int) -> Dataset:
    """Images with one object each, of which the boxes of the first ones cannot be read."""
    dataset = opened(folder, {f"{n}.png": ["a"] for n in range(images)})
    content = json.loads(dataset.source.read_text())
    for entry in content["annotations"][:broken]:
        entry["bbox"] = [1, 2]
    dataset.source.write_text(json.dumps(content))
    return open_data(dataset.source)


def test_a_few_unreadable_objects_are_left_out_and_counted(tmp_path: Path) -> None:
    usable, errors = refuse_or_measure(with_broken_boxes(tmp_path, 2, 40))
    assert (len(usable), len(errors)) == (38, 2)
    assert usable.left_out == LeftOut(2, 40, 2, 40)
    assert str(usable.left_out) == "2 of 40 objects unreadable, 2 of 40 images left out"
    assert usable.subset([0, 1]).left_out == usable.left_out
    whole, none = refuse_or_measure(with_broken_boxes(tmp_path / "fine", 0, 3))
    assert (len(whole), none, whole.left_out) == (3, [], None)


@pytest.mark.parametrize("broken", [3, 40])
def test_many_unreadable_objects_are_refused_unless_asked_for(tmp_path: Path, broken: int) -> None:
    dataset = with_broken_boxes(tmp_path, broken, 40)
    with pytest.raises(
        DataError, match=f"{broken} of 40 objects unreadable|Every image has an error"
    ) as caught:
        refuse_or_measure(dataset)
    assert len(caught.value.problems) == broken + 1
    if broken == 3:
        assert len(refuse_or_measure(dataset, skip_bad=True)[0]) == 37


def test_annotations_without_images_count_as_unreadable(tmp_path: Path) -> None:
    dataset = opened(tmp_path, {"a.png": ["a"] * 20, "b.png": []})
    content = json.loads(dataset.source.read_text())
    for entry in content["annotations"]:
        del entry["image_id"]
    dataset.source.write_text(json.dumps(content))
    with pytest.raises(DataError, match="20 of 20 objects unreadable"):
        refuse_or_measure(open_data(dataset.source))
    usable, _ = refuse_or_measure(open_data(dataset.source), skip_bad=True)
    assert str(usable.left_out) == "20 of 20 objects unreadable"


def test_images_that_are_missing_count_as_left_out(tmp_path: Path) -> None:
    dataset = opened(tmp_path, {f"{n}.png": ["a"] for n in range(30)})
    (tmp_path / "7.png").unlink()
    usable, _ = refuse_or_measure(open_data(dataset.source))
    assert (usable.left_out.images, usable.left_out.all_images) == (1, 30)


def test_keypoints_without_left_and_right_are_reported(tmp_path: Path) -> None:
    dataset = opened(tmp_path, {"a.png": ["a", "a"]})
    for names, reported in ((["nez", "queue"], True), (["left_ear", "right_ear"], False), (["nose"], False)):
        told = replace(dataset, skeleton=Skeleton(tuple(names)))
        assert any("No name tells left from right" in p.what for p in check(told).problems) == reported


def test_equal_lists_of_classes_match_by_position(tmp_path: Path) -> None:
    dataset = replace(opened(tmp_path, {"a.png": ["a", "b"]}), class_names=("cell", "cell"))
    assert align_dataset_classes(dataset, ("cell", "cell")).records[0].truth.labels.tolist() == [0, 1]
    assert align_dataset_classes(dataset, ("cell", "dirt")).records[0].truth.labels.tolist() == [0, 0]
