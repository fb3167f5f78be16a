"""The merging heuristic on rows of pixels, worked by hand."""

import numpy as np
import pytest

from rcnn.structures import OTHER, VOID, Array, Instances, Masks, MergeSettings, merge, true_segments

NAMES = ("cat", "dog")
SEMANTIC = ("cat", "dog", "grass", "sky")
ALL = MergeSettings(min_stuff_area=1)


def row(bits: str) -> Array:
    return np.array([[int(b) for b in bits]])


def objects(*found: tuple[str, int, float], stuff: str, names: tuple[str, ...] = SEMANTIC) -> Instances:
    """Objects of (pixels, label, score) over a map of one row; ``-`` is void."""
    bitmaps = np.stack([row(bits) for bits, _, _ in found]) if found else np.zeros((0, 1, len(stuff)))
    masks = Masks.from_dense(bitmaps)
    semantic = np.array([[VOID if c == "-" else int(c) for c in stuff]])
    return Instances(
        (1, len(stuff)),
        masks.boxes(),
        np.array([label for _, label, _ in found], np.int64),
        scores=np.array([score for _, _, score in found], np.float32),
        masks=masks,
        semantic=semantic,
        class_names=NAMES,
        semantic_names=names,
    )


def test_better_objects_take_their_pixels_first() -> None:
    found = merge(objects(("11110000", 0, 0.7), ("00111100", 1, 0.9), stuff="22222233"), settings=ALL)
    # The dog, of the higher score, is segment 1; the cat keeps half.
    assert found.segments.tolist() == [[2, 2, 1, 1, 1, 1, 3, 3]]
    assert found.labels.tolist() == [1, 0, 3]
    assert found.objects is not None
    assert found.objects.tolist() == [1, 0], "which objects the two things are"
    assert found.instances().labels.tolist() == [1, 0]
    assert found.names == SEMANTIC
    assert found.num_things == 2
    assert found.areas().tolist() == [4, 2, 2]
    assert found.classes().tolist() == [[0, 0, 1, 1, 1, 1, 3, 3]]


def test_names_are_the_same_whatever_their_case() -> None:
    """As when two networks are combined: the map's Cat is the objects' cat, and no stuff."""
    names = ("Cat", "DOG", "grass", "sky", OTHER.upper())
    found = merge(objects(stuff="00223344", names=names), settings=ALL)
    assert found.names == ("cat", "dog", "grass", "sky")
    assert found.labels.tolist() == [2, 3]


@pytest.mark.parametrize(
    ("below", "kept"), [("01111000", True), ("01110000", False)], ids=["half is taken", "two thirds are"]
)
def test_an_object_mostly_taken_goes_whole(below: str, kept: bool) -> None:
    found = merge(objects(("11100000", 0, 0.9), (below, 0, 0.8), stuff="--------"), settings=ALL)
    assert (len(found) == 2) is kept
    if not kept:
        assert found.segments[0, 3] == 0


def test_a_hidden_object_goes_even_if_any_overlap_is_allowed() -> None:
    lenient = MergeSettings(max_overlap=1.0, min_stuff_area=1)
    found = merge(objects(("1111", 0, 0.9), ("0110", 1, 0.8), stuff="----"), settings=lenient)
    assert found.labels.tolist() == [0]


def test_unsure_objects_and_small_stuff_go() -> None:
    given = objects(("11000000", 0, 0.49), ("00110000", 1, 0.5), stuff="22222233")
    found = merge(given, settings=MergeSettings(min_stuff_area=3))
    assert found.labels.tolist() == [1, 2]
    assert found.segments.tolist() == [[2, 2, 1, 1, 2, 2, 0, 0]]


def test_the_defaults_are_panopticapis() -> None:
    assert MergeSettings() == MergeSettings(min_score=0.5, max_overlap=0.5, min_stuff_area=4096)
    assert len(merge(objects(stuff="2222"))) == 0


def test_things_of_the_map_that_no_object_covers_are_void() -> None:
    found = merge(objects(("1100", 0, 0.9), stuff="0002"), settings=ALL)
    assert found.segments.tolist() == [[1, 1, 0, 2]]


def test_two_networks_are_joined_by_names() -> None:
    given = objects(("1100", 1, 0.9), stuff="----")
    semantic = objects(stuff="0012", names=("road", "dog", "grass"))
    found = merge(given, semantic, settings=ALL)
    assert found.names == ("cat", "dog", "road", "grass")
    assert found.classes().tolist() == [[1, 1, VOID, 3]]
    assert found.num_things == 2


def test_nothing_at_all_is_void() -> None:
    found = merge(objects(stuff="----"), settings=ALL)
    assert len(found) == 0
    assert found.segments.tolist() == [[0, 0, 0, 0]]


def test_the_truth_keeps_crowds_and_small_stuff() -> None:
    truth = objects(("1100", 0, 1.0), ("0110", 1, 1.0), stuff="2232")
    truth = Instances(**{**vars(truth), "scores": None, "crowd": np.array([True, False])})
    found = true_segments(truth)
    assert found.segments.tolist() == [[1, 2, 2, 3]]
    assert found.crowd.tolist() == [True, False, False]
    assert found.labels.tolist() == [0, 1, 2]


def test_what_is_missing_is_named() -> None:
    whole = objects(("1100", 0, 0.9), stuff="2222")
    for field, message in (("masks", "masks"), ("scores", "scores"), ("semantic", "semantic map")):
        with pytest.raises(ValueError, match=message):
            merge(Instances(**{**vars(whole), field: None}))
    with pytest.raises(ValueError, match="size"):
        merge(whole, objects(stuff="22"))
    with pytest.raises(ValueError, match="masks"):
        true_segments(Instances(**{**vars(whole), "masks": None}))
    many = tuple(f"kind {n}" for n in range(254))
    with pytest.raises(ValueError, match="254 classes of things and 4 of stuff: expected 255 together"):
        merge(Instances(**{**vars(whole), "class_names": many}))


def test_a_partition_as_objects_and_stuff() -> None:
    found = merge(objects(("1100", 1, 0.9), stuff="0002"), settings=ALL).instances()
    assert found.labels.tolist() == [1]
    assert found.boxes.tolist() == [[0, 0, 2, 1]]
    assert found.masks is not None
    assert found.masks.dense().astype(int).tolist() == [[[1, 1, 0, 0]]]
    assert found.semantic is not None
    assert found.semantic_names == ("grass", "sky", "background")
    assert found.semantic.tolist() == [[2, 2, 2, 0]]
    assert len(merge(objects(stuff="----"), settings=ALL).instances()) == 0


def test_pixels_called_things_are_no_stuff() -> None:
    found = merge(objects(("1100", 0, 0.9), stuff="0001", names=(OTHER, "sky")), settings=ALL)
    assert found.names == ("cat", "dog", "sky")
    assert found.segments.tolist() == [[1, 1, 0, 2]]
