"""Tracks of the MOT Challenge: boxes counted from 1, flags, classes, and several videos."""

from pathlib import Path

import pytest

from annotated_images import boxes, errors, image, put
from rcnn.data.formats.open import open_data


def video(folder: Path, lines: str, *names: str) -> Path:
    image(folder / "img1", *(names or ("000001.jpg", "000002.jpg")))
    put(folder, "gt/gt.txt", lines)
    return folder


def test_boxes_are_counted_from_1(tmp_path: Path) -> None:
    place = video(
        tmp_path / "MOT17-02", "1,1,9,7,16,14,1,1,1.0\n1,2,35,23,22,20,1,3,0.5\n1,3,2,2,9,9,0,8,1\n"
    )
    for path in (place, place / "gt" / "gt.txt"):
        data = open_data(path)
        assert data.format == "mot"
        found = [("pedestrian", (8, 6, 24, 20)), ("car", (34, 22, 56, 42))]
        assert boxes(data) == {"000001.jpg": found, "000002.jpg": []}
        assert [p.what for p in data.problems] == ["1 boxes with the flag 0, which are not to be counted."]


def test_without_classes_all_are_pedestrians(tmp_path: Path) -> None:
    data = open_data(video(tmp_path, "1, 1, 9.5, 7, 16, 14, 1, -1, -1, -1\n"))
    assert boxes(data)["000001.jpg"] == [("pedestrian", (8.5, 6, 24.5, 20))]


def test_cvat_counts_from_0_and_names_classes(tmp_path: Path) -> None:
    put(tmp_path, "gt/labels.txt", "cat\ndog\n")
    data = open_data(video(tmp_path, "1,1,8,6,16,14,1,2,1.0\n", "frame_000001.png"))
    assert boxes(data) == {"frame_000001.png": [("dog", (8, 6, 24, 20))]}


def test_several_videos(tmp_path: Path) -> None:
    for name in ("one", "two"):
        video(tmp_path / name, "2,1,9,7,16,14,1,1,1.0\n")
    data = open_data(tmp_path)
    assert [len(record.truth) for record in data.records] == [0, 1, 0, 1]
    assert len({record.image_id for record in data.records}) == 4
    with pytest.raises(ValueError, match="it has 2 videos; name one"):
        open_data(tmp_path, tmp_path / "one" / "img1", format="mot")


def test_faults_are_named(tmp_path: Path) -> None:
    lines = ["1,1,9,7,16,14,1,1,1.0", "1,1,9,7,16,14,1,77,1.0", "1,1,9,x,16,14,1,1,1", "9,1,9,7,16,14,1,1,1"]
    found = errors(open_data(video(tmp_path, "\n".join(lines))))
    messages = (
        "gt.txt, line 2: There is no class 77; expected 1 to 13.",
        "gt.txt, line 3: Expected frame, track, left, top, width, height, flag and more numbers; found",
        "1 of 3 images are missing: frame 9;",
    )
    assert len(found) == len(messages)
    for text, message in zip(found, messages, strict=True):
        assert message in text


def test_frames_that_are_missing_altogether(tmp_path: Path) -> None:
    put(tmp_path, "gt/gt.txt", "1,1,9,7,16,14,1,1,1.0\n")
    with pytest.raises(ValueError, match=r"none of its frames was found.*img1.*--images"):
        open_data(tmp_path)
