"""Overlays, comparisons and contact sheets, pixel by pixel."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from numpy.testing import assert_array_equal
from PIL import Image

from rcnn import draw as drawing
from rcnn.data.formats.coco_keypoints import PERSON
from rcnn.draw import IGNORED, palette, readable_scale, semantic_colours
from rcnn.evaluation import pictures
from rcnn.evaluation.pictures import FOUND, MISSED, SPURIOUS
from rcnn.lettering import font_of, shortened
from rcnn.metrics.matches import ImageMatch
from rcnn.structures import Instances, Masks

Array = npt.NDArray[Any]


def black(height: int, width: int) -> Array:
    return np.zeros((height, width, 3), np.uint8)


def channels_first(picture: Any) -> Array:
    return np.array(picture).transpose(2, 0, 1)


def draw(image: Array, instances: Instances, **options: Any) -> Array:
    return channels_first(instances.overlay(image, **options))


def draw_comparison(*given: Any) -> Array:
    return channels_first(pictures.draw_comparison(*given))


def contact_sheet(*given: Any, **options: Any) -> Array:
    return channels_first(drawing.contact_sheet(*given, **options))


def squares(
    corners: list[tuple[int, int]], side: int, size: tuple[int, int], *, masks: bool = True, names=("cell",)
) -> Instances:
    """Square objects with their upper left corners at (x, y), labels 0, 1, … in turn of the classes."""
    boxes = np.array([[x, y, x + side, y + side] for x, y in corners], np.float32).reshape(-1, 4)
    patches = [np.ones((side, side), np.uint8) for _ in corners]
    made = Masks.from_patches(patches, [(y, x) for x, y in corners], size) if masks else None
    labels = np.arange(len(corners)) % len(names)
    return Instances(size, boxes, labels, masks=made, class_names=names)


def test_a_mask_is_blended_inside_and_full_at_its_outline():
    image = black(400, 400)
    drawn = draw(
        image,
        squares([(100, 50)], 80, (400, 400)),
        labels=False,
        boxes=False,
        colours=[(200, 100, 0)],
        opacity=0.5,
    )
    assert drawn[:, 90, 140].tolist() == [100, 50, 0], "inside: half black, half colour"
    assert drawn[:, 50, 100].tolist() == [200, 100, 0], "the mask's first pixel is outline"
    assert drawn[:, 129, 179].tolist() == [200, 100, 0], "and so is its last"
    outside = drawn.copy()
    outside[:, 50:130, 100:180] = 0
    assert int(outside.sum()) == 0, "nothing outside of the mask"
    assert int(image.sum()) == 0, "the image itself is left alone"


def test_a_box_covers_its_first_pixel_and_ends_before_its_end():
    instances = squares([(10, 20)], 100, (400, 400), masks=False)
    drawn = draw(black(400, 400), instances, labels=False, colours=[(255, 0, 0)])
    assert np.flatnonzero(drawn[0, 60]).tolist() == [10, 109]
    assert np.flatnonzero(drawn[0, :, 60]).tolist() == [20, 119]
    assert drawn.shape == (3, 400, 400)


@pytest.mark.parametrize("scale", [0, -1, 1.5])
def test_a_scale_is_a_whole_number(scale: float):
    with pytest.raises(ValueError, match=f"scale {scale}: expected a whole number from 1 on"):
        draw(black(5, 5), Instances.empty((5, 5)), scale=scale)


def test_a_scale_enlarges_image_masks_and_boxes():
    drawn = draw(
        black(50, 100),
        squares([(10, 20)], 10, (50, 100)),
        labels=False,
        scale=4,
        colours=[(255, 255, 255)],
        opacity=1.0,
    )
    expected = np.zeros((3, 200, 400), np.uint8)
    expected[:, 80:120, 40:80] = 255
    assert_array_equal(drawn, expected)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (10_000, 50), (3, 900), (400, 1)])
def test_images_of_any_shape(height: int, width: int):
    instances = Instances(
        (height, width), np.array([[0.0, 0.0, width, height]], np.float32), np.zeros(1, np.int64)
    )
    for scale in (1, 2):
        shape = (3, height * scale, width * scale)
        assert draw(black(height, width), instances, scale=scale, numbers=True).shape == shape


@pytest.mark.parametrize(("size", "scale"), [((256, 320), 2), ((400, 20), 1), ((1, 1), 400), ((900, 9), 1)])
def test_the_scale_at_which_a_picture_can_be_read(size: tuple[int, int], scale: int):
    assert readable_scale(size) == scale


def test_numbers_are_written_into_objects_and_change_nothing_else():
    instances = squares([(20, 20), (120, 220)], 60, (400, 400))
    options: dict[str, Any] = {"colours": [(0, 0, 255)] * 2, "boxes": False}
    image = black(400, 400)
    plain, numbered = (draw(image, instances, labels=False, numbers=n, **options) for n in (False, True))
    changed = np.argwhere((plain != numbered).any(0))
    inside = [((changed >= (y, x)) & (changed < (y + 60, x + 60))).all(1) for x, y in ((20, 20), (120, 220))]
    assert all(each.any() for each in inside)
    assert (inside[0] | inside[1]).all()
    other = draw(image, instances, labels=False, numbers=[1, 7], **options)
    assert_array_equal(other[:, :200], numbered[:, :200])
    assert not np.array_equal(other, numbered), "another number looks different"


def test_numbers_stand_before_names_and_in_the_place_of_lone_scores():
    named = squares([(20, 40), (120, 220)], 60, (400, 400), names=("a", "b"))
    scene = named._scene(True, None, [4, 5])
    assert (list(scene.texts), list(scene.numbers)) == (["4: a", "5: b"], [])
    scored = replace(squares([(20, 40)], 60, (400, 400)), scores=np.array([0.9], np.float32))
    assert scored._scene(True, None, []).texts == ["0.90"]
    scene = scored._scene(True, None, [4])
    assert (list(scene.texts), scene.numbers) == ([], [4])


def test_there_is_a_number_for_each_object():
    with pytest.raises(ValueError, match="numbers: 1 for 2 objects"):
        draw(black(50, 50), squares([(0, 0), (20, 20)], 10, (50, 50)), numbers=[1])


def test_no_objects():
    image = np.random.default_rng(0).integers(0, 255, (420, 410, 3), np.uint8)
    assert_array_equal(draw(image, Instances.empty((420, 410)), labels=False), channels_first(image))


def test_masks_are_never_made_dense(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Masks, "dense", lambda self: pytest.fail("a dense [N, H, W] was built"))
    draw(black(400, 400), squares([(0, 0), (50, 50), (300, 10)], 40, (400, 400)))


def test_more_than_sixty_objects_are_counted_instead_of_named():
    corners = [(20 * (i % 10), 200 + 20 * (i // 10)) for i in range(61)]
    crowd = squares(corners, 10, (400, 400), names=("a", "b"))
    named = crowd[:60]
    corner = (slice(None), slice(0, 40), slice(0, 400))
    image = black(400, 400)
    many, few = draw(image, crowd, boxes=False), draw(image, named, boxes=False)
    assert int(many[corner].sum()) > 0, "the counts stand in the corner"
    assert int(few[corner].sum()) == 0
    many[corner] = 0
    assert_array_equal(many, draw(image, crowd, boxes=False, labels=False))
    assert not np.array_equal(few, draw(image, named, boxes=False, labels=False))


def test_colours_are_those_of_classes_or_of_objects():
    size = (50, 50)
    corners = [(0, 0), (20, 0), (0, 20)]
    classes = squares(corners, 5, size, names=("a", "b")).colours()
    assert classes[0] == classes[2] != classes[1]
    assert len(set(squares(corners, 5, size).colours())) == 3, "one class with masks"
    assert len(set(squares(corners, 5, size, masks=False).colours())) == 1, "one class without"
    assert len(set(palette(200))) == 200


def test_keypoints_are_drawn_where_visible():
    points = np.zeros((1, 17, 3), np.float32)
    points[0, 5] = [100.0, 100.0, 2.0]
    points[0, 6] = [200.0, 100.0, 1.0]
    points[0, 7] = [300.0, 300.0, 0.0]
    person = Instances(
        (400, 400), np.zeros((1, 4), np.float32), np.zeros(1, np.int64), keypoints=points, skeleton=PERSON
    )
    drawn = draw(black(400, 400), person, labels=False, boxes=False, colours=[(255, 0, 0)])
    assert drawn[0, 100, 100] == drawn[0, 100, 200] == drawn[0, 100, 150] == 255, "two joints and their bone"
    assert int(drawn[:, 200:].sum()) == 0, "the hidden joint and its bone are left out"


@pytest.mark.parametrize(
    ("image", "colours", "message"),
    [
        (black(50, 60), None, "height, width"),
        (black(50, 50), [(0, 0, 0)] * 2, "2 for 1"),
    ],
)
def test_wrong_input_is_named(image: Array, colours: list[tuple[int, int, int]] | None, message: str):
    with pytest.raises(ValueError, match=message):
        draw(image, squares([(0, 0)], 10, (50, 50)), colours=colours)


def test_a_comparison_marks_found_missed_spurious_and_ignored():
    size = (400, 400)
    truth = squares([(50, 100), (200, 100), (300, 300)], 60, size, masks=False)
    predictions = squares([(10, 200), (55, 105), (300, 200)], 60, size, masks=False)
    match = ImageMatch((0,), (1,), (1,), (0,), num_true=2, num_predicted=2, f1=0.5)
    drawn = draw_comparison(black(*size), truth, predictions, match)
    strip = drawn.shape[1] - 400
    left, right = drawn[:, strip:, :400], drawn[:, strip:, -400:]
    assert tuple(left[:, 120, 50].tolist()) == FOUND
    assert tuple(left[:, 120, 200].tolist()) == MISSED
    assert tuple(left[:, 320, 300].tolist()) == IGNORED, "a crowd is neither"
    assert tuple(right[:, 220, 10].tolist()) == SPURIOUS
    assert tuple(right[:, 120, 55].tolist()) == FOUND
    assert int(right[:, 200:260, 300:360].sum()) == 0, "a prediction below the threshold is not drawn"


def test_a_comparison_of_nothing():
    empty = Instances.empty((30, 20))
    match = ImageMatch((), (), (), (), num_true=0, num_predicted=0, f1=1.0)
    assert draw_comparison(black(30, 20), empty, empty, match).shape[0] == 3


def white_runs(line: Array) -> list[int]:
    """The lengths of the stretches of white in a line of pixels."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], (line == 255).astype(int), [0]])))
    return (edges[1::2] - edges[::2]).tolist()


def test_the_images_of_a_contact_sheet_fill_its_rows():
    wide, high = np.full((20, 40, 3), 255, np.uint8), np.full((40, 20, 3), 255, np.uint8)
    sheet = contact_sheet([wide, high, wide], [""] * 3, columns=2, tile=100)
    assert sheet.shape[2] == 2 * 100 + 3 * 4, "two squares and three gaps"
    assert white_runs(sheet[0, 30]) == [160, 40], "one height, 80: 160 and 40 wide"
    assert white_runs(sheet[0, :, 20]) == [80, 50]
    assert white_runs(sheet[0, :, 180]) == [80], "the last row has one image, as wide as its square"
    assert contact_sheet([wide], [""], columns=4, tile=100).shape[2] == 108, "no empty columns"


@pytest.mark.parametrize("shape", [(480, 640), (256, 256), (1040, 1388), (300, 200)])
def test_a_contact_sheet_of_equal_images_is_full(shape: tuple[int, int]):
    """At most the gaps and the captions are not image: no letterboxes."""
    sheet = contact_sheet([np.full((*shape, 3), 255, np.uint8)] * 8, ["a.png: 3"] * 8, tile=320)
    assert (sheet[0] == 255).mean() > 0.84


@pytest.mark.parametrize("shape", [(1, 900), (900, 1), (1, 1)])
def test_a_contact_sheet_of_extreme_images(shape: tuple[int, int]):
    images = [np.full((*shape, 3), 255, np.uint8), np.full((30, 30, 3), 255, np.uint8)]
    sheet = contact_sheet(images, ["a\nb", "c"], columns=2, tile=100)
    assert max(sheet.shape) < 500
    assert white_runs(sheet[0, :, -54])[0] >= 50, "the other image can be seen"


def test_long_captions_lose_their_middle():
    font = font_of(12)
    text = "a_very_long_name_of_an_image_0001.png: 12"
    short = shortened(text, font, 120)
    assert font.getlength(short) <= 120
    assert short.startswith("a_very")
    assert short.endswith(".png: 12")
    assert shortened("short", font, 120) == "short"
    assert shortened("14 book, 4 person, 1 bottle", font, 100, tail=0).startswith("14 book, 4")
    assert shortened("14 book, 4 person, 1 bottle", font, 100, tail=0).endswith("…")
    assert shortened(text, font, 0) == "…"


def test_a_contact_sheet_needs_a_caption_for_each():
    with pytest.raises(ValueError, match="1 images and 2 captions"):
        contact_sheet([black(5, 5)], ["a", "b"])
    with pytest.raises(ValueError, match="0 images"):
        contact_sheet([], [])


def test_classes_of_pixels_are_painted_and_named_but_not_the_background():
    semantic = np.zeros((400, 400), np.int64)
    semantic[:200, :200], semantic[:200, 200:] = 1, 255
    truth = Instances.empty((400, 400), semantic=semantic, semantic_names=("background", "road", "car"))
    picture = draw(np.full((400, 400, 3), 100, np.uint8), truth, opacity=0.5)
    first = palette(1)[0]
    assert picture[:, 50, 50].tolist() == [round(50 + c / 2) for c in first]
    assert picture[:, 50, 300].tolist() == [130, 130, 130]  # void
    assert picture[:, 250, 300].tolist() == [100, 100, 100]
    legend = np.argwhere((picture == np.array(first)[:, None, None]).all(0))
    assert legend[:, 0].min() > 350  # one name, in the lower left corner
    assert semantic_colours(("sky", "Background")) == [first, None]


def test_the_image_may_be_an_array_a_picture_or_a_file(tmp_path: Path):
    pixels = np.random.default_rng(0).integers(0, 255, (410, 420, 3), np.uint8)
    found = squares([(20, 30)], 50, (410, 420))
    picture, file = Image.fromarray(pixels), tmp_path / "image.png"
    picture.save(file)
    expected = np.array(found.overlay(pixels))
    for image in (picture, file, str(file), pixels / np.float32(255)):
        assert_array_equal(np.array(found.overlay(image)), expected)
    assert_array_equal(np.array(replace(found, path=file).overlay()), expected)
    with pytest.raises(ValueError, match="needs the image"):
        found.overlay()


def test_a_notebook_shows_a_picture():
    found = squares([(20, 30)], 50, (410, 420))
    png = found._repr_png_()
    assert png.startswith(b"\x89PNG")
    axes = found.plot(black(410, 420))
    assert axes.images[0].get_array().shape == (410, 420, 3)
