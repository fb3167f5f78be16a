"""Objects above pixel classes: what the page shows is the partition, at every position of its slider."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rcnn import check, open_data
from rcnn.serve.app.collection import open_collection
from rcnn.serve.app.corrections import Corrections
from rcnn.serve.app.objects import map_of, regions_of
from rcnn.serve.app.partition import partition_of, partitioned, pixel_classes_of, without_small_stuff
from rcnn.structures import OTHER, VOID, Instances, Masks, MergeSettings, merge

SIZE = (30, 40)
STUFF = ("sky", "road", "water")


def scene(generator: np.random.Generator, scored: bool = True) -> Instances:
    """Overlapping objects of two classes above a map of three classes of stuff, the things, and void."""
    count = int(generator.integers(0, 7))
    bitmaps = np.zeros((count, *SIZE), np.uint8)
    for bitmap in bitmaps:
        y, x = generator.integers(0, 20), generator.integers(0, 30)
        bitmap[y : y + generator.integers(1, 12), x : x + generator.integers(1, 12)] = 1
    masks = Masks.from_dense(bitmaps)
    blocks = generator.choice([0, 1, 2, 3, VOID], (6, 8))
    return Instances(
        SIZE, masks.boxes(), generator.integers(0, 2, count), masks=masks,
        scores=generator.random(count).astype(np.float32) if scored else None,
        semantic=np.kron(blocks, np.ones((5, 5), np.int64)), class_names=("cell", "dirt"),
        semantic_names=(OTHER, *STUFF),
    )  # fmt: skip


@pytest.mark.parametrize("seed", range(20))
def test_a_partition_cut_at_a_score_is_the_partition_from_this_score_on(seed: int) -> None:
    generator = np.random.default_rng(seed)
    found = scene(generator)
    settings = MergeSettings(0.0, 0.5, 40)
    whole = partitioned(found, settings)
    assert whole.scores is not None
    for score in (0.0, 0.3, 0.6, 0.9):
        expected = merge(found, settings=replace(settings, min_score=score))
        shown = without_small_stuff(whole[whole.scores >= score], settings.min_stuff_area)
        got = partition_of(shown)
        np.testing.assert_array_equal(got.classes(), expected.classes())
        assert got.names == expected.names
        assert sorted(got.areas()) == sorted(expected.areas())


@pytest.mark.parametrize("seed", range(5))
def test_regions_give_the_map_back(seed: int) -> None:
    generator = np.random.default_rng(seed)
    classes = generator.choice(np.array([0, 1, 2, VOID], np.uint8), SIZE)
    regions = regions_of(classes, STUFF, "s")
    np.testing.assert_array_equal(map_of(regions, SIZE, STUFF), classes)
    assert {one["class"] for one in regions} == {
        STUFF[value] for value in np.unique(classes[classes != VOID])
    }


def test_an_object_of_which_nothing_is_seen_is_left_out_of_the_partition() -> None:
    bitmaps = np.zeros((2, *SIZE), np.uint8)
    bitmaps[:, 5:10, 5:10] = 1
    masks = Masks.from_dense(bitmaps)
    truth = Instances(
        SIZE, masks.boxes(), np.zeros(2, np.int64), masks=masks, class_names=("cell",),
        semantic=np.zeros(SIZE, np.int64), semantic_names=("sky",),
    )  # fmt: skip
    partition = partition_of(truth)
    assert len(partition) == 2, "one cell and the sky"
    assert (partition.areas() > 0).all()


def test_what_is_done_is_written_with_its_pixel_classes(tmp_path: Path) -> None:
    folder = tmp_path / "views"
    folder.mkdir()
    for name in ("a.png", "b.png"):
        Image.fromarray(np.zeros((*SIZE, 3), np.uint8)).save(folder / name)
    collection = open_collection(folder)
    corrections = Corrections(collection, ("cell", "dirt"), pixel_classes=STUFF)
    truth = scene(np.random.default_rng(3), scored=False)
    first, second = collection.pictures
    corrections.mark(first, SIZE, True, lambda: corrections.beginning(truth, "m", "s"))
    corrections.mark(second, SIZE, True, list)
    corrections.close()
    data = open_data(corrections.files.panoptic_file)
    assert not check(data).errors
    expected = partition_of(replace(truth, semantic=pixel_classes_of(truth, STUFF), semantic_names=STUFF))
    assert data.semantic_names == ("cell", "dirt", *STUFF)
    np.testing.assert_array_equal(data[0].truth.semantic, expected.classes())
    assert (data[1].truth.semantic == VOID).all()
    objects = open_data(corrections.files.objects_file)
    assert [len(record.truth) for record in objects.records] == [len(truth), 0]


def test_a_name_is_a_class_of_objects_or_of_pixels(tmp_path: Path) -> None:
    folder = tmp_path / "views"
    folder.mkdir()
    Image.fromarray(np.zeros((*SIZE, 3), np.uint8)).save(folder / "a.png")
    corrections = Corrections(open_collection(folder), ("cell",), pixel_classes=("sky",))
    assert corrections.add_class(" Water  deep ", is_pixels=True) == "Water deep"
    assert corrections.add_class("water deep", is_pixels=True) == "Water deep"
    with pytest.raises(ValueError, match=r"Sky: there is a class of pixels"):
        corrections.add_class("Sky")
    with pytest.raises(ValueError, match=r"cell: there is a class of objects"):
        corrections.add_class("cell", is_pixels=True)
    corrections.close()
    again = Corrections(open_collection(folder), ())
    again.close()
    assert (again.classes, again.pixel_classes) == (["cell"], ["sky", "Water deep"])
