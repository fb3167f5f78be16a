"""CVAT's XML: images with every shape, groups, subsets, tracks with interpolation, and malformed files."""

from pathlib import Path

import numpy as np
import pytest

from annotated_images import FIRST, SECOND, areas, boxes, errors, image, put
from rcnn.data.convert import convert
from rcnn.data.formats.cvat_tracks import Shape
from rcnn.data.formats.open import open_data

BOX = '<box label="cat" xtl="8" ytl="6" xbr="24" ybr="20" occluded="0"{}></box>'
META = (
    "<meta><task><size>{size}</size><labels><label><name>dog</name><type>any</type></label><label><name>cat</name>"
    "</label><label><name>tag</name><type>tag</type></label></labels></task></meta>"
)


def xml(folder: Path, *images: str, meta: str = "", name: str = "annotations.xml") -> Path:
    entries = "".join(images)
    return put(
        folder, name, f'<?xml version="1.0"?><annotations><version>1.1</version>{meta}{entries}</annotations>'
    )


def entry(name: str, content: str = "", more: str = "") -> str:
    return f'<image id="0" name="{name}" width="64" height="48"{more}>{content}</image>'


def test_boxes_and_labels_of_the_task(tmp_path: Path) -> None:
    image(tmp_path / "images", "a.jpg", "b.jpg", "c.jpg")
    meta = META.format(size=2)
    file = xml(tmp_path, entry("a.jpg", BOX.format("")), entry("b.jpg", '<tag label="tag"/>'), meta=meta)
    data = open_data(tmp_path)
    assert (data.format, data.class_names, data.has_masks) == ("cvat", ("dog", "cat"), False)
    assert boxes(data) == {"a.jpg": [("cat", FIRST)], "b.jpg": []}
    assert [p.what for p in data.problems] == ["1 images are not annotated: c.jpg."]
    assert boxes(open_data(file)) == boxes(data)


def test_every_outline(tmp_path: Path) -> None:
    image(tmp_path, "a.png")
    shapes = (
        '<box label="cat" xtl="10" ytl="20" xbr="30" ybr="30" rotation="90"/>'
        '<polygon label="cat" points="40,5;50,5;50,15.5;40,15.5"/>'
        '<ellipse label="cat" cx="40" cy="32" rx="10" ry="5" rotation="90.00"/>'
        '<mask label="cat" rle="1, 2, 3, 1, 1" left="3" top="4" width="4" height="2"/>'
        '<points label="cat" points="1,1"/><polyline label="cat" points="1,1;2,2"/>'
    )
    xml(tmp_path, entry("a.png", shapes))
    data = open_data(tmp_path)
    assert {p.what for p in data.problems} == {
        "1 shapes of the type points.",
        "1 shapes of the type polyline.",
    }
    truth = data[0].truth
    # A quarter turn around the centre, 20 25.
    expected = [(15, 15, 25, 35), (40, 5, 50, 15.5), (35, 22, 45, 42), (4, 4, 6, 6)]
    np.testing.assert_allclose(truth.boxes, expected, atol=1e-4)
    np.testing.assert_allclose(areas(data), [200, 105, np.pi * 50, 3], rtol=0.06)
    assert truth.masks[3][4:6, 3:7].tolist() == [[False, True, True, False], [False, False, True, False]]


def test_turns_are_clockwise(tmp_path: Path) -> None:
    image(tmp_path, "a.png")
    xml(tmp_path, entry("a.png", BOX.format(' rotation="30"')))
    truth = open_data(tmp_path)[0].truth
    angle, (half_width, half_height) = np.pi / 6, (8, 7)
    reach_x = half_width * np.cos(angle) + half_height * np.sin(angle)
    reach_y = half_width * np.sin(angle) + half_height * np.cos(angle)
    np.testing.assert_allclose(
        truth.boxes[0], [16 - reach_x, 13 - reach_y, 16 + reach_x, 13 + reach_y], atol=1e-4
    )
    # The right upper corner of the box moves down and right: (8, -7) turned is (10.4, -2.1).
    assert truth.masks[0][11, 25]
    assert not truth.masks[0][11, 6]


def test_groups_are_parts_of_one_object(tmp_path: Path) -> None:
    image(tmp_path, "a.png")
    polygon = '<polygon label="{}" group_id="{}" points="{}"/>'
    shapes = [
        polygon.format("cat", 1, "0,0;4,0;4,4;0,4"),
        polygon.format("cat", 1, "10,10;14,10;14,14;10,14"),
        polygon.format("dog", 1, "20,0;24,0;24,4;20,4"),
        '<mask label="cat" group_id="1" rle="0, 4" left="30" top="30" width="2" height="2"/>',
        polygon.format("cat", 0, "0,20;4,20;4,24;0,24"),
    ]
    xml(tmp_path, entry("a.png", "".join(shapes)))
    data = open_data(tmp_path)
    assert boxes(data) == {
        "a.png": [("cat", (0, 0, 32, 32)), ("dog", (20, 0, 24, 4)), ("cat", (0, 20, 4, 24))]
    }
    assert areas(data) == [36, 16, 16]


def test_flags_and_skeletons(tmp_path: Path) -> None:
    image(tmp_path, "a.png")
    flags = '<attribute name="difficult">true</attribute><attribute name="is_crowd">1</attribute>'
    skeleton = (
        '<skeleton label="hand"><points label="thumb" points="8,6" outside="0" occluded="0"/>'
        '<points label="wrist" points="24,20" outside="0" occluded="1"/>'
        '<points label="ring" points="1,1" outside="1" occluded="0"/></skeleton>'
    )
    xml(tmp_path, entry("a.png", BOX.format("").replace("></box>", f">{flags}</box>") + skeleton))
    data = open_data(tmp_path)
    truth = data[0].truth
    assert (truth.difficult.tolist(), truth.crowd.tolist()) == ([True, False], [True, False])
    assert data.skeleton.names == ("thumb", "wrist", "ring")
    assert truth.keypoints[1].tolist() == [[8, 6, 2], [24, 20, 1], [0, 0, 0]]
    assert truth.boxes[1].tolist() == list(FIRST)


def test_subsets_of_a_project(tmp_path: Path) -> None:
    for part in ("Train", "Validation"):
        image(tmp_path / "images" / part, "a.png")
    entries = [
        entry("a.png", BOX.format(""), ' subset="Train"'),
        entry("a.png", "", ' subset="Validation"'),
    ]
    xml(tmp_path, *entries)
    both = open_data(tmp_path)
    assert [r.path.parent.name for r in both.records] == ["Train", "Validation"]
    assert [len(r.truth) for r in both.records] == [1, 0]
    assert len({r.image_id for r in both.records}) == 2
    assert "All are read; --split" in both.problems[0].advice
    assert len(open_data(tmp_path, split="validation")[0].truth) == 0
    with pytest.raises(ValueError, match="no subset test; available: Train, Validation"):
        open_data(tmp_path, split="test")


def track(*shapes: str, number: int = 0) -> str:
    return f'<track id="{number}" label="car">{"".join(shapes)}</track>'


def key(frame: int, x: float, *, outside: int = 0, more: str = "") -> str:
    corners = f'xtl="{x}" ytl="6" xbr="{x + 10}" ybr="20"'
    return f'<box frame="{frame}" keyframe="1" outside="{outside}" occluded="0" {corners} {more}/>'


@pytest.mark.parametrize("first", [0, 1])
def test_tracks_are_interpolated(tmp_path: Path, first: int) -> None:
    image(tmp_path / "images", *(f"frame_{i + first:06d}.PNG" for i in range(8)))
    moving, staying = track(key(0, 0), key(4, 8), key(6, 8, outside=1)), track(key(5, 20), number=1)
    xml(tmp_path, moving, staying, meta=META.format(size=8))
    data = open_data(tmp_path)
    found = [r.truth.boxes[:, 0].tolist() for r in data.records]
    assert found == [[0], [2], [4], [6], [8], [8, 20], [20], [20]]
    assert ["Number 1 is read as frame 0." in p.advice for p in data.problems] == [True] * first


def test_frames_that_could_be_two_are_refused(tmp_path: Path) -> None:
    image(tmp_path / "images", *(f"{i}.png" for i in (1, 2)))
    xml(tmp_path, track(key(0, 0)), meta=META.format(size=9))
    with pytest.raises(ValueError, match="is that frame 0 or frame 1"):
        open_data(tmp_path)
    (tmp_path / "images" / "1.png").rename(tmp_path / "images" / "x.png")
    with pytest.raises(ValueError, match="expected names that end with the number of the frame"):
        open_data(tmp_path)
    for file in (tmp_path / "images").iterdir():
        file.unlink()
    with pytest.raises(ValueError, match=r"annotates a video, .* ffmpeg -i VIDEO -start_number 0"):
        open_data(tmp_path)


def test_frames_without_image_are_said(tmp_path: Path) -> None:
    image(tmp_path / "images", "f_000000.png", "f_000002.png")
    xml(tmp_path, track(key(0, 0), key(2, 8), key(4, 8, outside=1)), meta=META.format(size=5))
    data = open_data(tmp_path)
    assert [r.truth.boxes[:, 0].tolist() for r in data.records] == [[0], [8]]
    assert "2 frames with objects have no image, for example frame 1" in errors(data)[0]


def test_turns_take_the_shorter_way() -> None:
    one, other = (Shape("box", "x", np.zeros(4), rotation) for rotation in (350, 10))
    assert one.towards(other, 0.5).rotation == pytest.approx(360)
    assert other.towards(one, 0.5).rotation == pytest.approx(0)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ('<box label="cat" xtl="8" ytl="6" xbr="x" ybr="20"/>', "expected the numbers xtl, ytl, xbr, ybr"),
        ('<box label="cat" xtl="8" ytl="6" xbr="24"/>', "expected the numbers xtl, ytl, xbr, ybr"),
        ('<box label="" xtl="8" ytl="6" xbr="24" ybr="20"/>', "The object has no class"),
        ('<polygon label="cat" points="1,1;2,2"/>', "it has 2 points, expected at least 3"),
        ('<polygon label="cat" points="1,1;2,2;3"/>', "expected points x,y;x,y"),
        ('<mask label="cat" rle="1, 2" left="0" top="0" width="4" height="2"/>', "its runs cover 3 pixels"),
        ('<mask label="cat" rle="" left="0" top="0" width="4" height="2"/>', "expected runs in rle"),
        (
            '<mask label="cat" rle="9" left="0" top="0" width="999999" height="999999"/>',
            "expected runs in rle",
        ),
        ('<box label="cat" xtl="8" ytl="6" xbr="24" ybr="20" rotation="x"/>', "cannot be read"),
    ],
)
def test_malformed_shapes_are_named(tmp_path: Path, shape: str, message: str) -> None:
    image(tmp_path, "a.png")
    xml(tmp_path, entry("a.png", shape))
    found = errors(open_data(tmp_path))
    assert len(found) == 1
    assert message in found[0]
    assert "a.png, annotation a.png, " in found[0]


BOMB = '<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]>'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            f'<?xml version="1.0"?>{BOMB}<annotations><image name="&b;"/></annotations>',
            "declares a document type",
        ),
        ("<annotations><image name=", "not usable XML"),
        (
            '<other><annotations/><image name="a.png"/></other>',
            "expected CVAT's <annotations>; found <other>",
        ),
    ],
)
def test_files_that_are_refused(tmp_path: Path, text: str, message: str) -> None:
    image(tmp_path, "a.png")
    put(tmp_path, "annotations.xml", text)
    with pytest.raises(ValueError, match=message):
        open_data(tmp_path)


def test_flags_come_back(tmp_path: Path) -> None:
    image(tmp_path / "in", "a.png", "b.png")
    flags = '<attribute name="difficult">true</attribute>'
    second = BOX.format("").replace('xtl="8"', 'xtl="34.0625"').replace('xbr="24"', 'xbr="56"')
    xml(
        tmp_path / "in",
        entry("a.png", BOX.format("").replace("></box>", f">{flags}</box>") + second),
        entry("b.png"),
    )
    source = open_data(tmp_path / "in")
    convert(source, tmp_path / "out", to="cvat")
    back = open_data(tmp_path / "out")
    assert boxes(back) == boxes(source)
    assert back[0].truth.difficult.tolist() == [True, False]
    assert SECOND[2] == boxes(back)["a.png"][1][1][2]
