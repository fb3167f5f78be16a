"""COCO JSON: what is read, and every fault that a file can have."""

import json
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from faster_coco_eval.core import mask as coco_mask
from PIL import Image

from conftest import real_data
from rcnn.data.dataset import Dataset
from rcnn.data.formats.coco import read_coco
from rcnn.data.formats.coco_keypoints import PERSON_KEYPOINTS, PERSON_SIGMAS
from rcnn.metrics.coco import coco_metrics
from rcnn.structures import Skeleton

SQUARE = [[2, 3, 6, 3, 6, 8, 2, 8]]


def content(*annotations: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """A file with one image of 20 by 10 pixels."""
    return {
        "images": [{"id": 7, "file_name": "a b.png", "width": 20, "height": 10}],
        "categories": [{"id": 5, "name": "cat"}, {"id": 2, "name": "ant"}],
        "annotations": list(annotations),
        **changes,
    }


def thing(number: int = 1, **changes: Any) -> dict[str, Any]:
    """An annotation without faults."""
    return {
        "id": number,
        "image_id": 7,
        "category_id": 5,
        "bbox": [2, 3, 4, 5],
        "area": 20,
        "iscrowd": 0,
        "segmentation": SQUARE,
        **changes,
    }


def written(folder: Path, data: Any) -> Path:
    Image.new("RGB", (20, 10)).save(folder / "a b.png")
    path = folder / "instances_train.json"
    path.write_text(data if isinstance(data, str) else json.dumps(data))
    return path


def opened(folder: Path, *annotations: dict[str, Any], **changes: Any) -> Dataset:
    return read_coco(written(folder, content(*annotations, **changes)))


def whats(dataset: Dataset, severity: str = "error") -> list[str]:
    return [f"{p.file.name} {p.annotation}: {p.what}" for p in dataset.problems if p.severity == severity]


def test_reads_boxes_labels_areas_and_crowds(tmp_path: Path) -> None:
    rle = {"size": [10, 20], "counts": [100, 20, 80]}
    dataset = opened(
        tmp_path, thing(), thing(2, category_id=2, bbox=[10, 0, 2, 10], iscrowd=1, area=7, segmentation=rle)
    )
    assert dataset.problems == ()
    assert (dataset.class_names, dataset.category_ids) == (("ant", "cat"), (2, 5))
    sample = dataset[0]
    truth = sample.truth
    assert sample.image_id == 7
    assert sample.image.shape == (10, 20, 3)
    assert truth.size == (10, 20)
    assert truth.boxes.tolist() == [[2, 3, 6, 8], [10, 0, 12, 10]]
    assert truth.labels.tolist() == [1, 0]
    assert truth.crowd is not None
    assert truth.crowd.tolist() == [False, True]
    assert truth.areas is not None
    assert truth.areas.tolist() == [20, 7]
    assert truth.masks is not None
    assert truth.masks.boxes().tolist() == truth.boxes.tolist()
    assert truth.masks.areas().tolist() == [20, 20]
    assert truth.keypoints is None


def test_an_image_without_annotations_is_an_empty_one(tmp_path: Path) -> None:
    images = [*content()["images"], {"id": 8, "file_name": "b.png", "width": 4, "height": 3}]
    Image.new("RGB", (4, 3)).save(tmp_path / "b.png")
    dataset = opened(tmp_path, thing(), images=images)
    truth = dataset[1].truth
    assert truth.boxes.shape == (0, 4)
    assert truth.masks is not None
    assert truth.masks.shape == (0, 3, 4)
    assert dataset.has_masks


def test_holes_of_a_run_length_code_stay_open(tmp_path: Path) -> None:
    ring = np.zeros((10, 20), dtype=np.uint8, order="F")
    ring[3:8, 2:6] = 1
    ring[5, 4] = 0
    code = coco_mask.encode(ring)
    packed = {"size": code["size"], "counts": code["counts"].decode()}
    dataset = opened(tmp_path, thing(segmentation=packed))
    assert dataset.problems == ()
    np.testing.assert_array_equal(dataset[0].truth.masks[0], ring)


def test_pickles_with_its_masks(tmp_path: Path) -> None:
    dataset = opened(tmp_path, thing())
    copy = pickle.loads(pickle.dumps(dataset))
    np.testing.assert_array_equal(copy[0].truth.masks, dataset[0].truth.masks)


def test_keypoints_move_to_pixel_centres(tmp_path: Path) -> None:
    categories = [{"id": 5, "name": "cat", "keypoints": ["nose", "tail"]}]
    dataset = opened(tmp_path, thing(keypoints=[3, 4, 2, 9, 9, 0]), thing(2), categories=categories)
    keypoints = dataset[0].truth.keypoints
    assert keypoints is not None
    assert keypoints.tolist() == [[[3.5, 4.5, 2], [0, 0, 0]], [[0, 0, 0], [0, 0, 0]]]
    assert dataset.problems == ()


def test_odd_areas(tmp_path: Path) -> None:
    areas = [4e6, -1, float("nan"), None, "3", 10**400]
    dataset = opened(tmp_path, *(thing(i, area=area) for i, area in enumerate(areas)))
    truth = dataset.records[0].truth
    assert truth.areas is not None
    assert truth.areas.tolist() == [4e6, 20, 20, 20, 3, 20]  # the box's own where the file has none


def test_broken_keypoints(tmp_path: Path) -> None:
    categories = [{"id": 5, "name": "cat", "keypoints": ["nose"]}]
    dataset = opened(
        tmp_path, thing(keypoints=[3, 4]), thing(2, keypoints=[1, 2, 2] * 2), categories=categories
    )
    assert len(whats(dataset)) == 2
    assert "up to 1 triples" in whats(dataset)[0]


@pytest.mark.parametrize("place", ["", "images", "train", "instances_train", "../images", "../train"])
def test_finds_the_images(tmp_path: Path, place: str) -> None:
    folder = tmp_path / "annotations"
    folder.mkdir()
    path = written(folder, content(thing()))
    (folder / place).mkdir(exist_ok=True, parents=True)
    (folder / "a b.png").rename(folder / place / "a b.png")
    assert read_coco(path)[0].image.shape == (10, 20, 3)


def test_images_are_named(tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    path = written(tmp_path / "here", content(thing()))
    (tmp_path / "far").mkdir()
    (tmp_path / "here" / "a b.png").rename(tmp_path / "far" / "a b.png")
    with pytest.raises(ValueError, match=r"none of its images was found, for example a b\.png\. .*--images"):
        read_coco(path)
    assert len(read_coco(path, tmp_path / "far")) == 1


def test_folders_of_another_machine_are_ignored(tmp_path: Path) -> None:
    images = [{"id": 7, "file_name": "C:\\data\\a b.png", "width": 20, "height": 10}]
    assert opened(tmp_path, thing(), images=images)[0].image.shape == (10, 20, 3)


def test_the_size_comes_from_the_file_where_it_is_not_annotated(tmp_path: Path) -> None:
    dataset = opened(tmp_path, thing(), images=[{"id": 7, "file_name": "a b.png"}])
    assert dataset.records[0].truth.size == (10, 20)
    assert dataset.problems == ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "this is not JSON"),
        ('{"images": [', "this is not JSON.*line 1"),
        ("[{}]", "found a list of objects"),
        ("3", "found a int"),
        ('{"images": [], "categories": {}, "annotations": []}', "expected COCO's lists"),
        ('{"a": 1}', "found a"),
        ('{"images": [], "categories": [], "annotations": [{"segments_info": []}]}', "panoptic"),
    ],
)
def test_files_that_are_none(tmp_path: Path, text: str, message: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(ValueError, match=rf"instances_train\.json: .*{message}"):
        read_coco(path)


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    path = written(tmp_path, "")
    path.write_bytes(b"\xff\xd8\xff\xe0 a picture \x80")
    with pytest.raises(ValueError, match="this is not JSON"):
        read_coco(path)
    with pytest.raises(ValueError, match="no such file"):
        read_coco(tmp_path / "none.json")


@pytest.mark.parametrize(
    ("changes", "what", "kept"),
    [
        ({"category_id": 9}, "1: There is no category with the id 9", 0),
        (
            {"category_id": None},
            "annotations[0]: Expected an image_id and an integer category_id; found",
            0,
        ),
        ({"image_id": 99}, "1: There is no image with the id 99", 0),
        (
            {"image_id": [7]},
            "annotations[0]: Expected an image_id and an integer category_id; found",
            0,
        ),
        ({"bbox": [2, 3, -4, 5]}, "has a negative width", 0),
        ({"bbox": [2, 3, float("nan"), 5]}, "not a finite number", 0),
        ({"bbox": [30, 3, 4, 5]}, "outside the image of 20 by 10", 0),
        ({"bbox": [2, 3, 4]}, "Expected bbox as four numbers", 0),
        ({"bbox": None, "segmentation": None}, "Expected bbox as four numbers", 0),
        ({"bbox": ["two", 3, 4, 5]}, "Expected bbox as four numbers", 0),
        ({"bbox": [2, 3, 4, 5, 30]}, "Expected bbox as four numbers", 0),
        ({"segmentation": [[1, 2, 3, 4, 5]]}, "A polygon has 5 values", 1),
        ({"segmentation": [[1, 2, 3, 4, 5, float("inf")]]}, "A polygon has 6 values", 1),
        ({"segmentation": [[2, 3, 6, 3, float("nan"), 5, 6, 8, 2, 8]]}, "A polygon has 10 values", 1),
        (
            {"segmentation": [[1, 2, 3, 4, 1e9, 6]]},
            "A polygon has 6 values",
            1,
        ),  # would take gigabytes to draw
        ({"bbox": [2, 3, 10**400, 5]}, "Expected bbox as four numbers", 0),
        ({"segmentation": [2, 3, "x"]}, "Expected segmentation as a list of polygons", 1),
        ({"segmentation": {"size": [20, 10], "counts": [200]}}, "size (height, width) [20, 10]", 1),
        ({"segmentation": {"size": [10, 20], "counts": [100, 99]}}, "covers 199 pixels", 1),
        ({"segmentation": {"size": [10, 20], "counts": "abc"}}, "covers", 1),
        (
            {"segmentation": {"size": [10, 20]}},
            "the counts of the run-length code as a list of integers or as text",
            1,
        ),
    ],
)
def test_faults_of_one_annotation(tmp_path: Path, changes: dict[str, Any], what: str, kept: int) -> None:
    dataset = opened(tmp_path, thing(**changes))
    [problem] = whats(dataset)
    assert what in problem
    assert len(dataset.records[0].truth) == kept
    dataset[0]


def test_small_faults_are_mended(tmp_path: Path) -> None:
    dataset = opened(
        tmp_path,
        thing(),
        thing(2, bbox=[5, 5, 0, 3]),
        thing(3, bbox=[15, 2, 10, 5], segmentation=[[15, 2, 20, 2, 20, 7]]),
        thing(4, segmentation=[*SQUARE, [1, 1, 2, 2]]),
        thing(5, bbox=[19, 2, 1.6, 5], segmentation=[[19, 2, 20, 2, 20, 7]]),
    )
    assert whats(dataset) == []
    found = whats(dataset, "warning")
    assert [f.split(":")[0] for f in found] == ["a b.png 2", "a b.png 3", "a b.png 4"]
    assert dataset[0].truth.boxes[1].tolist() == [15, 2, 20, 7]
    assert dataset[0].truth.boxes[3].tolist() == [19, 2, 20, 7]  # rounding: said nothing


def test_one_pixel_objects_are_kept(tmp_path: Path) -> None:
    dataset = opened(tmp_path, thing(bbox=[3, 4, 1, 1], segmentation=[[3, 4, 4, 4, 4, 5, 3, 5]]))
    assert dataset.problems == ()
    assert dataset[0].truth.masks.areas().tolist() == [1]


def test_ids_and_files_that_occur_twice(tmp_path: Path) -> None:
    first = content()["images"][0]
    Image.new("RGB", (20, 10)).save(tmp_path / "b.png")
    images = [first, {**first, "file_name": "b.png"}, {**first, "id": 8}]
    dataset = opened(tmp_path, thing(), thing(), images=images)
    found = whats(dataset)
    assert "b.png image id 7: The image id 7 occurs twice" in found[0]
    assert "a b.png image id 7: The image id 7 occurs twice" in found[1]
    assert "a b.png image id 8: The file is listed twice, with the ids 7 and 8" in found[2]
    [repeated, twin] = whats(dataset, "warning")
    assert "1 annotation ids occur more than once: 1." in repeated
    assert "identical to annotation 1" in twin


def test_broken_images_and_categories(tmp_path: Path) -> None:
    images = [*content()["images"], {"id": 8}, "b.png", {"id": 9, "file_name": "none.png"}]
    categories = [
        *content()["categories"],
        {"id": 2, "name": "bee"},
        {"name": "fox"},
        {"id": 8, "name": "CAT"},
    ]
    dataset = opened(tmp_path, thing(), thing(2, image_id=9), images=images, categories=categories)
    assert whats(dataset) == [
        "instances_train.json categories[2]: The category id 2 occurs twice.",
        "instances_train.json categories[3]: A category needs an integer id and a text as name; found "
        "{'name': 'fox'}.",
        "instances_train.json images[1]: An image needs an id and a file_name; found {'id': 8}.",
        "instances_train.json images[2]: An image needs an id and a file_name; found 'b.png'.",
        "none.png None: The image file is missing.",
    ]
    assert "cat, CAT" in whats(dataset, "warning")[0]
    assert len(dataset) == 1


def test_corners_given_as_bbox_are_suspected(tmp_path: Path) -> None:
    corners = [[2, 3, 15, 9], [8, 4, 19, 8], [1, 1, 4, 4]]
    dataset = opened(tmp_path, *(thing(i, bbox=b) for i, b in enumerate(corners)))
    assert "2 of 3 boxes extend beyond" in dataset.problems[0].what
    assert dataset.problems[0].severity == "error"
    assert "x1, y1, x2, y2" in dataset.problems[0].advice


def test_a_few_boxes_among_outlines_train(tmp_path: Path) -> None:
    dataset = opened(tmp_path, thing(), thing(2), thing(3, segmentation=[], bbox=[10, 2, 5, 4]))
    assert whats(dataset) == []
    warning = whats(dataset, "warning")[-1]
    assert "1 of 3 objects have a box but no segmentation: 3." in warning
    assert dataset.has_masks
    truth = dataset[0].truth
    assert truth.has_mask.tolist() == [True, True, False]
    assert truth.masks.areas().tolist() == [20, 20, 20]  # the filled box
    assert ["segmentation" in result for result in truth.to_coco()] == [True, True, False]


def test_a_few_segmentations_among_boxes_are_left_out(tmp_path: Path) -> None:
    dataset = opened(tmp_path, thing(), thing(2, segmentation=[]), thing(3, segmentation=None))
    assert whats(dataset) == []
    assert "Only 1 of 3 objects" in whats(dataset, "warning")[-1]
    assert dataset.records[0].masks is None


def test_boxes_alone_are_fine(tmp_path: Path) -> None:
    bare = thing()
    del bare["segmentation"], bare["area"], bare["id"]
    dataset = opened(tmp_path, bare)
    assert dataset.problems == ()
    assert not dataset.has_masks
    assert dataset.records[0].truth.areas is None


@pytest.mark.parametrize(
    ("name", "images", "objects", "crowds"), [("train", 199, 1666, 16), ("val", 59, 482, 7)]
)
def test_real_instances(name: str, images: int, objects: int, crowds: int) -> None:
    path = real_data(f"coco/annotations/instances_{name}.json")
    dataset = read_coco(path)
    truths = [r.truth for r in dataset.records]
    assert (len(dataset), sum(map(len, truths)), len(dataset.class_names)) == (images, objects, 80)
    assert sum(int(t.crowd.sum()) for t in truths) == crowds
    assert dataset.problems == ()
    annotations = {a["id"]: a for a in json.loads(path.read_text())["annotations"]}
    by_image: dict[int, list[Any]] = {}
    for a in annotations.values():
        by_image.setdefault(a["image_id"], []).append(a["segmentation"])
    for record in dataset.records[:12]:
        for mine, theirs in zip(
            record.load_truth().masks.rle(), by_image.get(record.image_id, []), strict=True
        ):
            code = coco_mask.frPyObjects(theirs, *record.truth.size)
            code = coco_mask.merge(code) if isinstance(code, list) else code
            assert mine["counts"] == code["counts"].decode()


def test_real_keypoints() -> None:
    dataset = read_coco(real_data("coco/annotations/person_keypoints_val.json"))
    keypoints = np.concatenate([r.truth.keypoints for r in dataset.records])
    assert (len(dataset), keypoints.shape) == (28, (58, 17, 3))
    assert dataset.problems == ()
    # Too few images for a result; but what they hold agrees with itself, by the sigmas of COCO's persons.
    truths = [r.load_truth() for r in dataset.records]
    found = []
    for truth in truths:
        assert truth.keypoints is not None
        annotated = truth.keypoints[..., 2].any(1)
        found.append(replace(truth, scores=np.ones(len(truth), np.float32))[annotated])
    metrics = coco_metrics(truths, found, kind="keypoint", class_names=dataset.class_names).metrics
    assert metrics["AP"] == metrics["AP75"] == 1


def test_skeletons_are_read_and_broken_ones_reported(tmp_path: Path) -> None:
    category = {
        "id": 5,
        "name": "cat",
        "keypoints": ["nose", "left_ear", "right_ear"],
        "skeleton": [[1, 2], [1, 3]],
    }
    skeleton = opened(tmp_path, thing(keypoints=[3, 4, 2] * 3), categories=[category]).skeleton
    assert skeleton == Skeleton(("nose", "left_ear", "right_ear"), ((0, 1), (0, 2)), (0, 2, 1), (0.05,) * 3)
    broken = opened(tmp_path, thing(), categories=[category | {"skeleton": [[1, 9]]}])
    assert broken.skeleton is not None
    assert "skeleton cannot be used" in str(broken.problems[0])
    assert opened(tmp_path, thing()).skeleton is None


def test_outlines_much_larger_than_a_tiny_box_are_suspected(tmp_path: Path) -> None:
    around = [[2.2, 3.2, 4.9, 3.2, 4.9, 5.9]]
    [what] = whats(opened(tmp_path, thing(bbox=[3, 4, 1, 1], segmentation=around)), "warning")
    assert "1 boxes overlap their outlines by less than half" in what


@pytest.mark.parametrize("at", [(40, 40), (2, 9)])
def test_polygons_outside_their_box_are_errors(at: tuple[int, int], tmp_path: Path) -> None:
    x, y = at
    away = [[x, y, x + 3, y, x + 3, y + 1]]
    [what] = whats(opened(tmp_path, thing(), thing(2, segmentation=away)))
    assert f"The polygons are at {x}, {y}, {x + 3}, {y + 1}" in what
    assert "outside the box at 2, 3, 6, 8" in what
    assert what.startswith("a b.png 2:")


def test_codes_outside_their_box_are_errors(tmp_path: Path) -> None:
    bitmap = np.zeros((10, 20), np.uint8, order="F")
    bitmap[1:3, 12:18] = 1
    code = coco_mask.encode(bitmap)
    code["counts"] = code["counts"].decode()
    (what,) = whats(opened(tmp_path, thing(segmentation=code)))
    assert "The mask is at 12, 1, 18, 3 (x1, y1, x2, y2), entirely outside the box at 2, 3, 6, 8" in what
    bitmap[:] = 0
    empty = {"size": [10, 20], "counts": [200]}
    dataset = opened(tmp_path, thing(segmentation=empty), thing(2), thing(3))
    assert dataset[0].truth.has_mask.tolist() == [False, True, True]


def test_sizes_of_codes_as_tables_write_them(tmp_path: Path) -> None:
    code = {"size": [10.0, 20.0], "counts": [23, 5, 172]}
    dataset = opened(tmp_path, thing(bbox=[2, 3, 1, 5], segmentation=code))
    assert dataset.problems == ()
    assert dataset[0].truth.masks.areas().tolist() == [5]


def test_categories_with_other_keypoints_are_told(tmp_path: Path) -> None:
    names = [{"id": 5, "name": "cat", "keypoints": ["ear", "tail"]}]
    assert whats(opened(tmp_path, categories=[*names, {"id": 2, "name": "ant", "keypoints": ["ear"]}])) == []
    other = {"id": 2, "name": "ant", "keypoints": ["leg", "feeler", "jaw"]}
    (what,) = whats(opened(tmp_path, categories=[*names, other]), "warning")
    assert "Its keypoints leg, feeler, jaw differ from ear, tail of another category" in what


def test_sigmas_of_the_file_come_before_those_of_its_names(tmp_path: Path) -> None:
    person = {"id": 5, "name": "person", "keypoints": list(PERSON_KEYPOINTS)}
    assert opened(tmp_path, categories=[person]).skeleton.sigmas == PERSON_SIGMAS
    own = [0.05] * 17
    assert opened(tmp_path, categories=[{**person, "sigmas": own}]).skeleton.sigmas == tuple(own)


def test_keypoints_outside_the_image(tmp_path: Path) -> None:
    names = [{"id": 5, "name": "cat", "keypoints": ["ear", "tail"]}]
    points = thing(keypoints=[3, 4, 2, 500, 4, 2])
    (what,) = whats(opened(tmp_path, points, categories=names), "warning")
    assert "1 keypoints are outside the image of 20 by 10 pixels" in what


def test_a_file_of_the_same_name_elsewhere_is_another(tmp_path: Path) -> None:
    (tmp_path / "left").mkdir()
    images = [{"id": 7, "file_name": "left/a b.png", "width": 20, "height": 10}]
    with pytest.raises(ValueError, match="none of its images was found"):
        opened(tmp_path, thing(), images=images)
    for name in ("/tmp/a b.png", "/a b.png", "../a b.png", "C:\\elsewhere\\a b.png"):
        images[0]["file_name"] = name
        assert opened(tmp_path, thing(), images=images).problems == ()


def test_ids_that_are_null(tmp_path: Path) -> None:
    assert opened(tmp_path, thing(id=None), thing(id=None, bbox=[2, 3, 4, 4.9])).problems == ()


def test_iscrowd_as_text(tmp_path: Path) -> None:
    crowd = opened(tmp_path, thing(iscrowd="0")).records[0].truth.crowd
    assert crowd is not None
    assert crowd.tolist() == [False]


def test_whole_numbers_as_tables_write_them(tmp_path: Path) -> None:
    dataset = opened(tmp_path, thing(image_id=7.0, category_id=5.0))
    assert (whats(dataset), dataset.records[0].truth.labels.tolist()) == ([], [1])


def test_twins_are_reported_and_kept(tmp_path: Path) -> None:
    dataset = opened(tmp_path, thing(1), thing(2), thing(3, category_id=2))
    assert whats(dataset, "warning") == ["a b.png 2: It is identical to annotation 1."]
    assert len(dataset.records[0].truth) == 3


def test_boxes_that_are_not_those_of_their_polygons(tmp_path: Path) -> None:
    dataset = opened(tmp_path, thing(1), thing(2, bbox=[2, 3, 18, 7]))
    assert whats(dataset, "warning") == [
        "instances_train.json boxes: 1 boxes overlap their outlines by less than half: 2 of a b.png."
    ]


def test_shares_of_the_image_are_no_pixels(tmp_path: Path) -> None:
    dataset = opened(tmp_path, thing(bbox=[0.1, 0.2, 0.9, 0.7], segmentation=[]))
    assert "instances_train.json None: All 1 boxes are between 0 and 1." in whats(dataset)
    assert whats(opened(tmp_path, thing(bbox=[0, 0, 1, 1], segmentation=[]))) == [], "a pixel in the corner"


def test_files_of_other_tools_are_named(tmp_path: Path) -> None:
    via = {f"img{i}.jpg123": {"filename": f"img{i}.jpg", "regions": []} for i in range(99)}
    with pytest.raises(ValueError, match="VGG Image Annotator"):
        read_coco(written(tmp_path, via))
    with pytest.raises(ValueError, match=r"found k0 \(int\), .*, …\.$") as raised:
        read_coco(written(tmp_path, {f"k{i}": i for i in range(99)}))
    assert len(str(raised.value)) < 300


@pytest.mark.parametrize("name", ["A B.PNG", "a%20b.png"])
def test_names_that_differ_in_spelling_only(tmp_path: Path, name: str) -> None:
    images = [{"id": 7, "file_name": name, "width": 20, "height": 10}]
    dataset = opened(tmp_path, thing(), images=images)
    assert (whats(dataset), dataset.records[0].path.name) == ([], "a b.png")


def test_of_two_folders_the_one_called_like_the_file(tmp_path: Path) -> None:
    path = written(tmp_path, content(thing()))
    for folder in ("images", "train"):
        (tmp_path / folder).mkdir()
        Image.new("RGB", (20, 10)).save(tmp_path / folder / "a b.png")
    assert read_coco(path).records[0].path == tmp_path / "train" / "a b.png"


def test_images_of_lvis_have_addresses_alone(tmp_path: Path) -> None:
    """Its training images are COCO's of both parts."""
    images = []
    for number, part in enumerate(("train2017", "val2017"), 1):
        (tmp_path / part).mkdir()
        Image.new("RGB", (20, 10), (number, 0, 0)).save(tmp_path / part / "a.jpg")
        address = f"http://images.cocodataset.org/{part}/a.jpg"
        images.append({"id": number, "coco_url": address, "height": 10, "width": 20, "neg_category_ids": [2]})
    annotations = [
        {"id": n, "image_id": n, "category_id": 1, "bbox": [n, 2, 3, 4], "segmentation": [[1, 1, 5, 1, 5, 5]]}
        for n in (1, 2)
    ]
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "cat"}]}
    (tmp_path / "annotations").mkdir()
    file = tmp_path / "annotations" / "lvis_v1_train.json"
    file.write_text(json.dumps(content))
    data = read_coco(file)
    assert [r.path.parent.name for r in data.records] == ["train2017", "val2017"]
    assert [r.truth.boxes.tolist() for r in data.records] == [[[1, 2, 4, 6]], [[2, 2, 5, 6]]]
    (tmp_path / "val2017").rename(tmp_path / "elsewhere")
    assert read_coco(file, tmp_path / "elsewhere").records[1].path == tmp_path / "elsewhere" / "a.jpg"


def test_undeclared_categories_are_reported_once_per_image(tmp_path: Path) -> None:
    images = [{"id": n, "file_name": f"{n}.png", "width": 20, "height": 10} for n in (1, 2)]
    for n in (1, 2):
        Image.new("RGB", (20, 10)).save(tmp_path / f"{n}.png")
    box = {"bbox": [1, 1, 5, 5], "area": 25}
    owners = [(1, 9), (1, 9), (2, 9), (2, 8), (2, 3)]
    entries = [{"id": i, "image_id": n, "category_id": c, **box} for i, (n, c) in enumerate(owners)]
    path = tmp_path / "x.json"
    path.write_text(
        json.dumps({"images": images, "annotations": entries, "categories": [{"id": 3, "name": "c"}]})
    )
    found = [(p.file.name, p.annotation, p.what, p.objects) for p in read_coco(path).problems]
    assert found == [
        ("1.png", "0, 1", "There is no category with the id 9, which 2 annotations of the image give.", 2),
        ("2.png", "2", "There is no category with the id 9.", 1),
        ("2.png", "3", "There is no category with the id 8.", 1),
    ]
