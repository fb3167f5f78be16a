"""Data sets of a user's own: items of ours and of torchvision, the rule for labels, and what is read when."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import tv_tensors

from rcnn.data.augment import Augment
from rcnn.data.check import check
from rcnn.data.convert import convert
from rcnn.data.dataset import Dataset
from rcnn.data.formats.open import open_data
from rcnn.data.loader import training_batches
from rcnn.data.shapes import draw_shapes
from rcnn.structures import Skeleton
from rcnn.transform import Transform

SIZE = (10, 20)
PIXELS = np.arange(600, dtype=np.uint8).reshape(*SIZE, 3)
BOXES = np.array([[1, 2, 5, 8], [10, 0, 20, 4]], np.float32)


class Items:
    """Items that note when they are read."""

    def __init__(self, *items) -> None:
        self.items = items
        self.read: list[int] = []

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int):
        self.read.append(index)
        return self.items[index]


def target(labels=(1, 2), **more):
    return {"boxes": BOXES[: len(labels)], "labels": np.array(labels, np.int64), **more}


def bitmaps() -> np.ndarray:
    found = np.zeros((2, *SIZE), np.uint8)
    found[0, 2:8, 1:5] = 1
    found[1, 0:4, 10:20] = 1
    return found


def tensors(values):
    return {k: torch.from_numpy(v) if isinstance(v, np.ndarray) else v for k, v in values.items()}


@pytest.mark.parametrize(
    "image",
    [
        Image.fromarray(PIXELS),
        PIXELS,
        torch.from_numpy(PIXELS).permute(2, 0, 1),
        torch.from_numpy(PIXELS).permute(2, 0, 1) / 255,
        (PIXELS / 255).astype(np.float32),
    ],
    ids=["PIL", "array", "tensor", "float tensor", "float array"],
)
@pytest.mark.parametrize("kind", [dict, tensors], ids=["arrays", "tensors"])
def test_every_kind_of_image_and_values(image, kind) -> None:
    keypoints = np.array([[[1, 2, 2], [4, 7, 1]], [[12, 1, 2], [0, 0, 0]]], np.float32)
    more = {
        "masks": bitmaps(),
        "keypoints": keypoints,
        "iscrowd": np.array([0, 1]),
        "area": np.array([20, 7.0]),
    }
    data = open_data(Items((image, kind(target(**more)))), class_names=("cell", "dirt"))
    sample = data[0]
    np.testing.assert_array_equal(sample.image, PIXELS)
    np.testing.assert_array_equal(sample.truth.boxes, BOXES)
    assert sample.truth.names == ["cell", "dirt"]
    np.testing.assert_array_equal(sample.truth.masks, bitmaps().astype(bool))
    np.testing.assert_array_equal(sample.truth.keypoints, keypoints)
    assert sample.truth.crowd.tolist() == [False, True]
    assert sample.truth.areas.tolist() == [20, 7]
    assert [getattr(sample.truth, n).dtype for n in ("boxes", "labels", "keypoints", "areas")] == [
        np.float32, np.int64, np.float32, np.float32,
    ]  # fmt: skip
    assert data.skeleton.names == ("keypoint_0", "keypoint_1")
    assert (data.has_masks, data.problems) == (True, ())


def test_of_torchvisions_own_types() -> None:
    boxes = tv_tensors.BoundingBoxes(torch.from_numpy(BOXES), format="XYXY", canvas_size=SIZE)
    image = tv_tensors.Image(torch.from_numpy(PIXELS).permute(2, 0, 1))
    found = {"boxes": boxes, "labels": torch.tensor([1, 1]), "masks": tv_tensors.Mask(bitmaps())}
    sample = open_data([(image, found)], class_names=("cell",))[0]
    np.testing.assert_array_equal(sample.image, PIXELS)
    assert sample.truth.labels.tolist() == [0, 0]
    turned = tv_tensors.BoundingBoxes(torch.from_numpy(BOXES), format="XYWH", canvas_size=SIZE)
    with pytest.raises(ValueError, match=r"item 0: expected boxes \[N, 4\], x1 y1 x2 y2; found XYWH"):
        open_data([(image, {**found, "boxes": turned})], class_names=("cell",))


def test_our_own_samples() -> None:
    shapes = draw_shapes(3, truth="both", size=(40, 50))
    data = open_data([shapes[i] for i in range(3)])
    assert (data.class_names, data.semantic_names) == (shapes.class_names, shapes.semantic_names)
    for i in range(3):
        one, other = data[i], shapes[i]
        assert one.image_id == other.image_id
        for name in ("boxes", "labels", "semantic"):
            np.testing.assert_array_equal(getattr(one.truth, name), getattr(other.truth, name))
        np.testing.assert_array_equal(one.truth.masks, other.truth.masks)
        np.testing.assert_array_equal(one.image, other.image)


def test_items_are_read_once_for_their_boxes_and_again_when_used() -> None:
    items = Items(*[(PIXELS, target(masks=bitmaps()))] * 3)
    data = open_data(items, class_names=("cell", "dirt"))
    assert items.read == [0, 1, 2]
    assert [len(record.truth) for record in data.records] == [2, 2, 2]
    assert (len(data), data.has_objects, data.has_masks) == (3, True, True)
    data.subset([2]).without_masks()
    check(data, decode=False)
    assert items.read == [0, 1, 2]
    data[1]
    assert items.read == [0, 1, 2, 1], "image and masks come of one reading"
    data.records[2].load_truth()
    assert items.read == [0, 1, 2, 1, 2]


def test_random_items_are_noticed() -> None:
    class Random(Items):
        def __getitem__(self, index: int):
            self.read.append(index)
            return PIXELS, {"boxes": BOXES + len(self.read) / 10, "labels": [1, 1]}

    data = open_data(Random(None), class_names=("cell",))
    with pytest.raises(
        ValueError, match=r"item 0: its size or boxes have changed .* Remove random transforms"
    ):
        data[0]


def test_boxes_follow_the_rule_of_all_readers() -> None:
    boxes = np.array([[-5, 2, 5, 8], [5, 5, 5, 9], [30, 0, 40, 5], [1, 1, 2, 2]], np.float32)
    masks = np.zeros((4, *SIZE), bool)
    masks[3, 1, 1] = True
    data = open_data([(PIXELS, {"boxes": boxes, "labels": [1] * 4, "masks": masks})], class_names=("cell",))
    assert data.records[0].truth.boxes.tolist() == [[0, 2, 5, 8], [1, 1, 2, 2]]
    assert data[0].truth.masks.areas().tolist() == [0, 1]
    assert [(p.annotation, p.severity) for p in data.problems] == [
        ("object 0", "warning"), ("object 1", "warning"), ("object 2", "error"),
    ]  # fmt: skip
    assert str(data.problems[0].file).endswith("item_0")


class TestLabels:
    """Two class names, unless said otherwise."""

    @pytest.mark.parametrize(
        ("labels", "first", "expected"),
        [
            ([1, 2], 1, [0, 1]),
            ([2], 1, [1]),
            ([0, 1], 0, [0, 1]),
            ([1], 0, [1]),
            ([0, 1], None, [0, 1]),  # there is a 0
            ([0], None, [0]),
            ([1, 2], None, [0, 1]),  # no 0, and the largest is the number of classes
            ([2], None, [1]),
            ([], None, []),
        ],
    )
    def test_rule(self, labels: list[int], first: int | None, expected: list[int]) -> None:
        data = open_data([(PIXELS, target(labels))], class_names=("cell", "dirt"), first_label=first)
        assert data[0].truth.labels.tolist() == expected
        assert len(data.problems) == (first is None and len(labels) > 0)

    def test_what_the_rule_decided_is_noted(self) -> None:
        data = open_data([(PIXELS, target())], class_names=("cell", "dirt"), first_label=None)
        assert "Labels start at 1, as in torchvision" in str(data.problems[0])
        data = open_data([(PIXELS, target([0, 1]))], class_names=("cell", "dirt"), first_label=None)
        assert "Labels start at 0" in str(data.problems[0])

    @pytest.mark.parametrize(
        ("labels", "first", "message"),
        [
            (
                [1, 0],
                1,
                "item 1: an object has the label 0; 0 is the background.* pass first_label=0",
            ),
            ([1, 3], 1, "item 1: an object has the label 3; expected 1 to 2, for 2 class names"),
            ([0, 2], 0, "item 1: an object has the label 2; expected 0 to 1"),
            ([1, -1], 1, "item 1: an object has the label -1"),
            (
                [1, 1],
                None,
                "the labels are 1, and there are 2 class names: .* Pass first_label=0 or first_label=1",
            ),
            ([3, 1], None, "the labels are 1, 3, and there are 2 class names"),
            ([0, 2], None, "item 1: an object has the label 2; expected 0 to 1"),
            ([1, 2], 2, "first_label is 2; expected 0, 1 or None"),
        ],
    )
    def test_refused(self, labels: list[int], first: int | None, message: str) -> None:
        items = [(PIXELS, target([label])) for label in labels]
        with pytest.raises(ValueError, match=message):
            open_data(items, class_names=("cell", "dirt"), first_label=first)

    def test_without_names_labels_are_the_names(self) -> None:
        data = open_data([(PIXELS, target([7, 0])), (PIXELS, target([3]))])
        assert data.class_names == ("0", "3", "7")
        assert [record.truth.names for record in data.records] == [["7", "0"], ["3"]]

    def test_the_data_set_says_so_itself(self) -> None:
        items = Items((PIXELS, target([0, 1])))
        items.class_names, items.first_label = ["cell", "dirt"], 0
        assert open_data(items)[0].truth.names == ["cell", "dirt"]
        assert open_data(items, class_names=("a", "b"))[0].truth.names == ["a", "b"]

    def test_a_background_is_no_class(self) -> None:
        with pytest.raises(ValueError, match="omit the background"):
            open_data([(PIXELS, target())], class_names=("__background__", "cell", "dirt"))


@pytest.mark.parametrize(
    ("item", "message"),
    [
        (PIXELS, "expected an rcnn.Sample, or an image and a dict .* found ndarray"),
        ((PIXELS, [{"bbox": [1, 2, 3, 4]}]), "found tuple.*wrap_dataset_for_transforms_v2"),
        ((PIXELS, {"boxes": BOXES}), "its dict has no labels; it has boxes"),
        ((PIXELS, {"labels": [1]}), "neither boxes nor masks"),
        ((PIXELS, {"boxes": BOXES, "labels": [1]}), "1 labels, but 2 boxes"),
        ((PIXELS, {"boxes": BOXES, "labels": [1.5, 1.0]}), "labels as whole numbers; found float64"),
        (
            (PIXELS, {"boxes": BOXES[:, :3], "labels": [1, 1]}),
            r"expected boxes \[N, 4\].* found XYXY \[2, 3\]",
        ),
        ((PIXELS, target(masks=np.zeros((2, 4, 4)))), r"expected masks \[N, 10, 20\], as its image"),
        ((PIXELS, target(masks=bitmaps()[:1])), "1 masks, but 2 boxes"),
        ((PIXELS * 1.0, target()), "a float image must lie in"),
        ((PIXELS[..., :0], target()), "an image array must"),
    ],
)
def test_other_items_are_refused_by_name(item, message: str) -> None:
    with pytest.raises(ValueError, match=rf"(?s)builtins.list, item 1: .*{message}"):
        open_data([(PIXELS, target()), item], class_names=("cell", "dirt"))


def test_odd_but_fine() -> None:
    nothing = {"boxes": np.zeros((0, 4)), "labels": np.zeros(0)}
    empty = {"boxes": [], "labels": [], "masks": np.zeros((0, *SIZE))}
    masks_only = {"masks": bitmaps(), "labels": [1, 1]}
    data = open_data(
        [(PIXELS, nothing), (PIXELS[..., 0], empty), (PIXELS, masks_only)], class_names=("cell",)
    )
    assert [len(data[i].truth) for i in range(3)] == [0, 0, 2]
    np.testing.assert_array_equal(data[2].truth.boxes, BOXES)
    with pytest.raises(ValueError, match="it has no items"):
        open_data([])
    with pytest.raises(ValueError, match="for files and folders, not for a Python object"):
        open_data([(PIXELS, target())], format="coco")
    with pytest.raises(ValueError, match="class_names are for data sets that are Python objects"):
        open_data("cells", class_names=("cell",))


def test_ids_of_images() -> None:
    named = [(PIXELS, target(image_id=torch.tensor([n]))) for n in (12, 5)]
    assert [r.image_id for r in open_data(named, class_names=("a", "b")).records] == [12, 5]
    twice = [(PIXELS, target(image_id=7))] * 2
    assert [r.image_id for r in open_data(twice, class_names=("a", "b")).records] == [0, 1]


def test_names_of_keypoints_are_given() -> None:
    points = np.ones((2, 2, 3), np.float32)
    skeleton = Skeleton(("left_ear", "right_ear"))
    data = open_data([(PIXELS, target(keypoints=points))], class_names=("a", "b"), skeleton=skeleton)
    assert data.skeleton.mirror == (1, 0)
    assert data[0].truth.skeleton == skeleton


def test_checked_converted_and_trained_on_like_any_other(tmp_path: Path) -> None:
    shapes = draw_shapes(4, size=(40, 50))
    items = Items(
        *[
            (s.image, {"boxes": s.truth.boxes, "labels": s.truth.labels + 1, "masks": s.truth.masks.dense()})
            for s in (shapes[i] for i in range(4))
        ]
    )
    data = open_data(items, class_names=shapes.class_names)
    report = check(data)
    assert (report.num_images, report.errors) == (4, ())
    assert "Python object, 4 images" in str(report)
    convert(data, tmp_path / "out", to="coco")
    back = open_data(tmp_path / "out")
    for i in range(4):
        np.testing.assert_array_equal(back[i].image, shapes[i].image)
        np.testing.assert_array_equal(back[i].truth.masks, shapes[i].truth.masks)
    augment = Augment(crop=32, copy_paste=0.5)
    own, plain = (
        next(training_batches(d, augment, Transform(), batch_size=4, seed=1)) for d in (data, shapes)
    )
    for a, b in zip(own, plain, strict=True):
        assert torch.equal(a.image, b.image)
        assert torch.equal(a.targets.boxes, b.targets.boxes)
    again = pickle.loads(pickle.dumps(data))
    np.testing.assert_array_equal(again[3].image, shapes[3].image)
    there = next(training_batches(data, augment, Transform(), batch_size=4, seed=1, workers=1))
    assert torch.equal(there[0].image, own[0].image)


MODULE = """
import numpy as np

class Cells:
    class_names = ("cell",)

    def __len__(self):
        return 2

    def __getitem__(self, index):
        return np.zeros((8, 8, 3), np.uint8), {"boxes": [[1, 1, 4, 4]], "labels": [1]}

cells = Cells()

def build():
    return cells

number = 7
"""


@pytest.mark.parametrize("name", ["Cells", "cells", "build"])
def test_a_dotted_path_names_a_data_set(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_cells.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    for path in (f"my_cells:{name}", Path(f"my_cells:{name}")):
        data = open_data(path)
        assert (len(data), data.class_names, str(data.source)) == (2, ("cell",), "my_cells.Cells")
    with pytest.raises(ValueError, match="my_cells:number: expected a data set with __len__ and __getitem__"):
        open_data("my_cells:number")
    with pytest.raises(ValueError, match="my_cells has no absent"):
        open_data("my_cells:absent")


def test_training_takes_the_object_or_its_dotted_path() -> None:
    from rcnn.training.split import Sources

    items = Items((PIXELS, target()))
    items.class_names = ("cell", "dirt")
    sources = Sources(data=items, val="my_cells:Cells")
    assert isinstance(sources.data, Dataset)
    assert sources.to_json()["data"].endswith("test_adapters.Items")
    assert sources.to_json()["val"] == "my_cells:Cells"
