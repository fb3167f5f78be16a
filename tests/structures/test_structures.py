"""The containers: masks against dense bitmaps and pycocotools, indexing, empties, COCO results."""

import json
from dataclasses import FrozenInstanceError, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal
from PIL import Image
from pycocotools import mask as coco_mask

from rcnn.structures import Array, Instances, Masks, Skeleton
from rcnn.structures.coco import annotations_of


def bitmaps_of(kind: str) -> Array:
    """Bool ``[N, H, W]``, each kind with something that run-length codes get wrong."""
    rng = np.random.default_rng(0)
    if kind == "noise":
        return rng.random((6, 13, 17)) > np.linspace(0.05, 0.95, 6)[:, None, None]
    bitmaps = np.zeros((4, 9, 11), bool)
    if kind == "full height":  # runs go on from one column into the next
        bitmaps[0, :, 3:6] = bitmaps[1] = True
        bitmaps[2, :, 0] = bitmaps[2, :4, 1] = True
        bitmaps[3, 5:, 9] = bitmaps[3, :, 10] = True
    if kind == "holes":
        bitmaps[:, 1:8, 1:9] = True
        bitmaps[0, 3:5, 3:5] = bitmaps[1, 1:8, 4] = bitmaps[2, 4, :] = False
        bitmaps[3, 2:7, 2:8] = False
    if kind == "corners":
        bitmaps[0, 0, 0] = bitmaps[1, -1, -1] = bitmaps[2, 0, -1] = bitmaps[3, -1, 0] = True
    return bitmaps


def bitmaps_with_gaps() -> Array:
    bitmaps = np.zeros((5, 9, 11), bool)
    bitmaps[1, 2:5, 3:4] = bitmaps[3, 0, 0] = bitmaps[3, 8, 10] = True
    return bitmaps


CASES = {
    **{kind: bitmaps_of(kind) for kind in ("noise", "full height", "holes", "corners")},
    "empty masks between others": bitmaps_with_gaps(),
    "no masks": np.zeros((0, 5, 7), bool),
    "one pixel, set": np.ones((1, 1, 1), bool),
    "one pixel, not set": np.zeros((1, 1, 1), bool),
    "one row": np.array([[[0, 1, 1, 0, 1]]], bool),
    "one column": np.array([[[0], [1], [1], [0]]], bool),
}


@pytest.fixture(params=CASES, ids=str)
def bitmaps(request) -> Array:
    return CASES[request.param]


def test_dense_inverts_from_dense(bitmaps):
    masks = Masks.from_dense(bitmaps)
    assert_array_equal(masks.dense(), bitmaps)
    assert masks.shape == tuple(bitmaps.shape)
    assert len(masks) == len(bitmaps)
    assert_array_equal(Masks.from_dense(bitmaps * 0.3).dense(), bitmaps)


def test_areas_and_boxes_equal_the_bitmaps(bitmaps):
    masks = Masks.from_dense(bitmaps)
    assert_array_equal(masks.areas(), bitmaps.sum((1, 2)).astype(np.float32))
    expected = np.zeros((len(bitmaps), 4), np.float32)
    for box, bitmap in zip(expected, bitmaps, strict=True):
        ys, xs = bitmap.nonzero()
        if len(ys):
            box[:] = xs.min(), ys.min(), xs.max() + 1, ys.max() + 1
    assert_array_equal(masks.boxes(), expected)


def test_rle_equals_pycocotools(bitmaps):
    codes = Masks.from_dense(bitmaps).rle()
    for code, bitmap in zip(codes, bitmaps, strict=True):
        expected = coco_mask.encode(np.asfortranarray(bitmap.astype(np.uint8)))
        assert code == {"size": expected["size"], "counts": expected["counts"].decode("ascii")}
        assert np.array_equal(coco_mask.decode(code), bitmap)
    json.dumps(codes)


def test_from_rle_inverts_rle(bitmaps):
    size = (bitmaps.shape[1], bitmaps.shape[2])
    back = Masks.from_rle(Masks.from_dense(bitmaps).rle(), size)
    assert_array_equal(back.dense(), bitmaps)
    assert back.size == size


def test_from_uncompressed_rle():
    # Column by column on 2 x 3: 0 | 1 1 1 | 0 0
    masks = Masks.from_rle([{"size": [2, 3], "counts": [1, 3, 2]}], (2, 3))
    assert masks.dense().tolist() == [[[False, True, False], [True, True, False]]]


def test_windows_need_not_be_tight():
    """Pasted masks fill their boxes, whatever is inside."""
    patch = np.zeros((4, 5))
    patch[1, 2] = 1
    masks = Masks.from_patches([patch, np.zeros((3, 3))], [(2, 3), (0, 0)], (9, 11))
    assert masks.boxes().tolist() == [[5, 3, 6, 4], [0, 0, 0, 0]]
    assert masks.areas().tolist() == [1, 0]
    dense = masks.dense()
    assert dense[0, 3, 5]
    assert dense.sum() == 1
    assert [c["counts"] for c in masks.rle()] == [c["counts"] for c in Masks.from_dense(dense).rle()]


@pytest.mark.parametrize(
    "index",
    [
        slice(1, 4),
        slice(None, None, 2),
        slice(2, 2),
        torch.tensor([4, 0, 0, 2]),
        torch.tensor([True, False, True, False, True, False]),
        torch.zeros(6, dtype=torch.bool),
        torch.zeros(0, dtype=torch.int64),
        [5, 1],
        [],
        -1,
        3,
    ],
    ids=str,
)
def test_indexing_equals_that_of_the_dense_tensor(index):
    bitmaps = CASES["noise"]
    chosen = Masks.from_dense(bitmaps)[index]
    expected = bitmaps[np.asarray(index) if not isinstance(index, slice | int | list) else index]
    assert_array_equal(chosen if isinstance(index, int) else chosen.dense(), expected)


def test_indexing_beyond_the_end():
    with pytest.raises(IndexError):
        Masks.from_dense(CASES["noise"])[6]


def test_masks_can_be_iterated():
    assert_array_equal(np.stack(list(Masks.from_dense(CASES["holes"]))), CASES["holes"])


def test_masks_as_an_array():
    bitmaps = CASES["holes"]
    masks = Masks.from_dense(bitmaps)
    assert np.array_equal(np.asarray(masks), bitmaps)
    assert np.asarray(masks, dtype=np.uint8).dtype == np.uint8


def test_masks_are_small():
    """Two objects of 10 x 10 on 100 megapixels take 200 bytes and no bitmap on the way to their codes."""
    masks = Masks.from_patches([np.ones((10, 10))] * 2, [(0, 0), (9990, 9990)], (10_000, 10_000))
    assert masks.pixels.size == 200
    assert [int(coco_mask.area(code)) for code in masks.rle()] == [100, 100]


def three() -> Instances:
    return Instances(
        (9, 11),
        np.array([[0.0, 1, 4, 5], [2, 2, 6.5, 8], [0, 0, 1, 1]], np.float32),
        np.array([1, 0, 1]),
        scores=np.array([0.9, 0.5, 0.25], np.float32),
        masks=Masks.from_dense(CASES["holes"][:3]),
        keypoints=np.array([[[1.5, 2.5, 2.0]]] * 3, np.float32),
        crowd=np.array([False, True, False]),
        class_names=("cell", "dust"),
    )


@pytest.mark.parametrize(
    ("index", "chosen"),
    [
        (slice(1, 3), [1, 2]),
        (torch.tensor([2, 0]), [2, 0]),
        (torch.tensor([False, True, True]), [1, 2]),
        ([True, False, False], [0]),
        ([0, 0], [0, 0]),
        (1, [1]),
        (-1, [2]),
        (np.int64(1), [1]),
        (torch.tensor(2), [2]),
        (torch.tensor([2]), [2]),
        ([], []),
    ],
    ids=str,
)
def test_instances_index_every_field(index, chosen):
    whole, part = three(), three()[index]
    assert len(part) == len(chosen)
    for name in ("boxes", "labels", "scores", "keypoints", "crowd"):
        assert_array_equal(getattr(part, name), getattr(whole, name)[chosen])
    assert_array_equal(part.masks.dense(), whole.masks.dense()[chosen])
    assert part.difficult is part.areas is None
    assert (part.size, part.class_names) == (whole.size, whole.class_names)
    assert part.names == [whole.names[i] for i in chosen]


def test_containers_are_frozen():
    for container, name in (
        (three(), "boxes"),
        (Masks.empty((3, 3)), "pixels"),
    ):
        with pytest.raises(FrozenInstanceError):
            setattr(container, name, None)


def test_to_coco():
    results = three().to_coco(image_id=7)
    assert [r["image_id"] for r in results] == [7, 7, 7]
    assert [r["category_id"] for r in results] == [2, 1, 2]
    assert results[1]["bbox"] == [2, 2, 4.5, 6]
    assert [r["score"] for r in results] == [float(np.float32(s)) for s in (0.9, 0.5, 0.25)]
    assert [r["segmentation"] for r in results] == three().masks.rle()
    assert results[0]["keypoints"] == [1.0, 2.0, 2.0]  # pixel indices
    assert [r["category_id"] for r in three().to_coco(category_ids=(17, 90))] == [90, 17, 90]
    json.dumps(results)


def test_to_coco_of_truth_and_of_nothing():
    truth = Instances((5, 5), np.array([[0.0, 0, 1, 1]], np.float32), np.array([0]))
    expected = {"image_id": "a", "category_id": 1, "bbox": [0.0, 0.0, 1.0, 1.0], "score": 1.0}
    assert truth.to_coco("a") == [expected]
    assert Instances.empty((5, 5)).to_coco() == []
    assert Instances.empty((5, 5), masks=Masks.empty((5, 5)), scores=np.zeros(0, np.float32)).to_coco() == []


def test_empty_instances():
    empty = Instances.empty((4, 6), ("a",), masks=Masks.empty((4, 6)))
    assert len(empty) == len(empty[[]]) == len(empty[:]) == 0
    assert empty.boxes.shape == (0, 4)
    assert empty.boxes.dtype == np.float32
    assert empty.labels.dtype == np.int64
    assert empty.names == []
    assert empty.masks.shape == empty[torch.zeros(0, dtype=torch.bool)].masks.shape == (0, 4, 6)
    assert empty.masks.dense().shape == (0, 4, 6)
    assert empty.masks.boxes().shape == (0, 4)


def test_selecting_objects_keeps_what_belongs_to_the_image() -> None:
    semantic, proposals = np.ones((4, 6), np.int64), np.ones((7, 4), np.float32)
    one = Instances(
        (4, 6), np.ones((3, 4), np.float32), np.zeros(3, np.int64), semantic=semantic, proposals=proposals
    )[1]
    assert len(one) == 1
    assert_array_equal(one.semantic, semantic)
    assert_array_equal(one.proposals, proposals)


@pytest.mark.parametrize(
    ("names", "mirror"),
    [
        (("nose", "left_eye", "right_eye"), (0, 2, 1)),
        (("earL", "tail", "earR"), (2, 1, 0)),
        (("ear_L", "tail", "ear_R"), (2, 1, 0)),
        (("l_hip", "r_hip", "lamp"), (1, 0, 2)),
        (("LEFT EYE", "Right ear", "RIGHT EYE", "Left ear"), (2, 3, 0, 1)),
        (("leftear", "rightear"), (1, 0)),
        (("L_Eye", "R_Eye", "ear.l", "ear.r"), (1, 0, 3, 2)),
        (("LHip", "RHip", "lKnee", "rKnee"), (1, 0, 3, 2)),
        (("lear", "rear", "earL1", "earR1"), (1, 0, 3, 2)),
        (("fl_paw", "fr_paw", "paw_rh", "paw_lh"), (1, 0, 3, 2)),
        (("leg", "tail", "Lip", "leftmost", "oral_lip"), (0, 1, 2, 3, 4)),
        (("snout", "tail"), (0, 1)),
    ],
)
def test_partners_are_found_by_name(names: tuple[str, ...], mirror: tuple[int, ...]) -> None:
    assert Skeleton(names).mirror == mirror


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sigmas": (0.1,)}, "expected 2 numbers above 0"),
        ({"sigmas": (0.1, -1.0)}, "expected 2 numbers above 0"),
        ({"mirror": (0, 0)}, "expected each of 0 to 1 once"),
        ({"bones": ((0, 2),)}, "expected pairs of 0 to 1"),
    ],
)
def test_a_skeleton_that_does_not_fit_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Skeleton(("a", "b"), **settings)


def test_fields_describe_themselves():
    described = {spec.name: dict(spec.metadata) for spec in fields(Instances) if spec.metadata}
    assert described["boxes"] == {"per": "object", "moves": "boxes"}
    assert described["scores"] == {"per": "object", "moves": None}
    assert described["semantic"] == {"per": "image", "moves": "map"}
    plain = {"size", "class_names", "semantic_names", "skeleton", "path"}
    assert {spec.name for spec in fields(Instances)} == described.keys() | plain


def test_polygons_draw_the_same_masks():
    masks = Masks.from_dense(CASES["corners"])
    assert_array_equal(Masks.from_outlines(masks.polygons(), masks.size).dense(), masks.dense())
    boxes = Instances((9, 11), np.array([[1.0, 2, 4, 6]], np.float32), np.array([0]))
    assert boxes.polygons()[0][0].tolist() == [[1, 2], [4, 2], [4, 6], [1, 6]]


def test_the_union_of_masks_by_owner() -> None:
    bitmaps = bitmaps_of("noise")
    owner = np.array([2, 0, 2, 0, 4, 2])
    masks = Masks.from_dense(bitmaps).united(owner, 5)
    expected = [bitmaps[owner == number].any(0) for number in range(5)]
    assert_array_equal(masks.dense(), expected)
    assert Masks.empty((4, 5)).united(np.zeros(0, np.int64), 0).shape == (0, 4, 5)
    assert Masks.empty((4, 5)).united(np.zeros(0, np.int64), 2).areas().tolist() == [0, 0]


def test_centroids():
    found = Masks.from_dense(CASES["corners"]).centroids()
    assert found.tolist() == [[0.5, 0.5], [10.5, 8.5], [10.5, 0.5], [0.5, 8.5]]
    assert np.isnan(Masks.from_dense(np.zeros((1, 3, 3))).centroids()).all()


def test_torch_gives_torchvisions_names():
    tensors = three().torch()
    assert tensors.keys() == {"boxes", "labels", "scores", "masks", "keypoints", "iscrowd"}
    for name, value in (
        ("boxes", three().boxes),
        ("iscrowd", three().crowd),
        ("masks", three().masks.dense()),
    ):
        assert_array_equal(tensors[name].numpy(), value)
    tensors["boxes"][:] = -1  # a copy
    assert three().boxes.min() >= 0


def test_there_and_back_with_supervision():
    pytest.importorskip("supervision")
    detections = three().to_supervision()
    back = Instances.from_supervision(detections, three().size, three().class_names)
    for name in ("boxes", "labels", "scores", "keypoints"):
        assert_array_equal(getattr(back, name), getattr(three(), name))
    assert_array_equal(back.masks.dense(), three().masks.dense())
    assert back.class_names == three().class_names
    nothing = Instances.from_supervision(Instances.empty((4, 5)).to_supervision(), (4, 5))
    assert len(nothing) == 0
    with pytest.raises(ValueError, match="class names"):
        Instances.from_supervision(detections, three().size, ("cell",))


def test_a_repr_is_one_line():
    assert repr(three()) == (
        "Instances(3 objects (2 dust, 1 cell); 9 x 11 px; scores 0.25 to 0.90; masks, keypoints)"
    ).replace("masks, keypoints", "masks; keypoints")
    assert repr(Instances.empty((2, 3))) == "Instances(0 objects; 2 x 3 px)"


@pytest.mark.parametrize("ending", [".json", ".csv", ".png", ".jpg"])
def test_saving(ending: str, tmp_path: Path):
    file = tmp_path / "image.png"
    Image.fromarray(np.zeros((9, 11, 3), np.uint8)).save(file)
    saved = replace(three(), path=file).save(tmp_path / f"found{ending}")
    content = saved.read_bytes()
    assert content
    if ending == ".json":
        written = json.loads(content)
        assert written["images"] == [{"id": 1, "file_name": "image.png", "width": 11, "height": 9}]
        assert written["annotations"] == annotations_of(three(), 1)
        assert [category["name"] for category in written["categories"]] == list(three().class_names)
    if ending == ".csv":
        assert content.decode().splitlines()[1].startswith("1,image.png,dust,0.9000,0.00,1.00,4.00,5.00,")


def test_saving_an_overlay_with_options(tmp_path: Path):
    file = tmp_path / "image.png"
    Image.fromarray(np.zeros((9, 11, 3), np.uint8)).save(file)
    found = replace(three(), path=file)
    with Image.open(found.save(tmp_path / "o.png", scale=30, numbers=True)) as picture:
        assert picture.size == (11 * 30, 9 * 30)
        expected = found.overlay(scale=30, numbers=True)
        np.testing.assert_array_equal(np.array(picture), np.array(expected))
    with Image.open(three().save(tmp_path / "p.png", image=file)) as picture:
        assert picture.size == (11, 9)
    with pytest.raises(ValueError, match=r"o\.csv: found options of overlays \(scale\); expected"):
        found.save(tmp_path / "o.csv", scale=2)


def test_saving_what_cannot_be_saved(tmp_path: Path):
    with pytest.raises(ValueError, match="unknown extension"):
        three().save(tmp_path / "found.txt")
    with pytest.raises(ValueError, match="needs the image"):
        three().save(tmp_path / "found.png")
    classes = Instances.empty((2, 2), semantic=np.zeros((2, 2), np.int64), semantic_names=("sky",))
    with pytest.raises(ValueError, match=r"found\.json: .* pixel classes only"):
        classes.save(tmp_path / "found.json")
    assert not list(tmp_path.iterdir())
