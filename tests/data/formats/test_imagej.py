"""ImageJ's ROIs: every type, names of files, groups, and damaged archives."""

import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from roifile import ROI_OPTIONS, ROI_TYPE, ImagejRoi

from annotated_images import FIRST, areas, boxes, errors, image
from rcnn.data.convert import convert
from rcnn.data.formats.open import open_data


def rectangle(
    box: tuple[int, int, int, int] = FIRST, kind: ROI_TYPE = ROI_TYPE.RECT, **more: Any
) -> ImagejRoi:
    roi = ImagejRoi()
    roi.roitype = kind
    roi.left, roi.top, roi.right, roi.bottom = box
    for key, value in more.items():
        setattr(roi, key, value)
    return roi


def polygon(points: Any, kind: ROI_TYPE = ROI_TYPE.POLYGON, **more: Any) -> ImagejRoi:
    roi = ImagejRoi.frompoints(points)
    roi.roitype = kind
    for key, value in more.items():
        setattr(roi, key, value)
    return roi


def archive(folder: Path, name: str, *rois: ImagejRoi | bytes) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as file:
        for number, roi in enumerate(rois):
            file.writestr(f"{number:04d}-0001.roi", roi if isinstance(roi, bytes) else roi.tobytes())
    return path


@pytest.mark.parametrize(
    ("picture", "file"),
    [
        ("a.tif", "a.zip"), ("a.tif", "a_RoiSet.zip"), ("a.tif", "RoiSet_a.zip"), ("a.tif", "a_rois.zip"),
        ("images/a.tif", "rois/a.zip"), ("x.tif", "RoiSet.zip"),
    ],
)  # fmt: skip
def test_archives_and_their_images(tmp_path: Path, picture: str, file: str) -> None:
    image(tmp_path, picture)
    path = archive(tmp_path, file, rectangle())
    data = open_data(tmp_path)
    assert (data.format, list(boxes(data).values())) == ("imagej", [[("object", FIRST)]])
    assert boxes(open_data(path)) == boxes(data)


def test_every_type(tmp_path: Path) -> None:
    image(tmp_path, "a.tif")
    square = np.array([[40, 5], [50, 5], [50, 15], [40, 15]])
    composite = rectangle((0, 0, 30, 30))
    steps: list[float] = []
    for x1, y1, x2, y2 in ((0, 30, 10, 40), (2, 32, 6, 36), (20, 30, 24, 34)):
        steps += [0, x1, y1, 1, x2, y1, 1, x2, y2, 1, x1, y2, 4]
    composite.multi_coordinates = np.array(steps, np.float32)
    composite.shape_roi_size = len(steps)
    rois = [
        polygon(square),
        polygon(square.astype(np.float32) + 0.5, ROI_TYPE.FREEHAND),
        polygon(square, ROI_TYPE.TRACED),
        rectangle((10, 10, 30, 20), ROI_TYPE.OVAL),
        composite,
        polygon(square, ROI_TYPE.POLYLINE),
        polygon(square, ROI_TYPE.POINT),
    ]
    archive(tmp_path, "a.zip", *rois)
    data = open_data(tmp_path)
    assert [p.what for p in data.problems] == ["1 ROIs of the type polyline.", "1 ROIs of the type point."]
    assert areas(data)[:3] == [100, 100, 100]
    assert areas(data)[3] == pytest.approx(np.pi * 50, rel=0.05)
    assert areas(data)[4] == 100 - 16 + 16
    np.testing.assert_allclose(data[0].truth.boxes[1], [40.5, 5.5, 50.5, 15.5])


def test_rectangles_between_pixels(tmp_path: Path) -> None:
    image(tmp_path, "a.tif")
    between = rectangle(options=ROI_OPTIONS.SUB_PIXEL_RESOLUTION, xd=8.25, yd=6.5, widthd=16.0, heightd=14.0)
    archive(tmp_path, "a.zip", between)
    assert boxes(open_data(tmp_path)) == {"a.tif": [("object", (8.25, 6.5, 24.25, 20.5))]}


def test_groups_are_classes(tmp_path: Path) -> None:
    image(tmp_path, "a.tif")
    rois = [
        rectangle(group=1, name="cell-1"),
        rectangle((0, 0, 5, 5), group=1, name="cell-22"),
        rectangle((0, 9, 5, 15), group=7, name="0001-0002"),
        rectangle((0, 20, 5, 25), group=7, name="x"),
        rectangle((0, 30, 5, 35), name="y"),
    ]
    archive(tmp_path, "a.zip", *rois)
    data = open_data(tmp_path)
    assert data[0].truth.names == ["cell", "cell", "group 7", "group 7", "object"]
    assert [p.what for p in data.problems] == ["1 ROIs belong to no group, while others do."]


def test_single_files_and_slices(tmp_path: Path) -> None:
    image(tmp_path, "a.tif", "b.tif")
    for name, box in (("a-1", FIRST), ("a-2", (0, 0, 5, 5))):
        (tmp_path / f"{name}.roi").write_bytes(rectangle(box).tobytes())
    archive(tmp_path, "b.zip", rectangle(position=1), rectangle((0, 0, 5, 5), position=2))
    data = open_data(tmp_path)
    assert {name: len(found) for name, found in boxes(data).items()} == {"a.tif": 2, "b.tif": 2}
    assert [p.what for p in data.problems] == ["The ROIs of b.zip are on 2 slices of a stack."]


def test_damaged_rois_are_named(tmp_path: Path) -> None:
    image(tmp_path, "a.tif", "c.tif")
    archive(tmp_path, "a.zip", b"Iout" + bytes(9), b"nonsense", polygon([[1, 2], [3, 4]]), rectangle())
    archive(tmp_path, "b.zip", rectangle())
    data = open_data(tmp_path)
    found = errors(data)
    assert len(data[0].truth) == 1
    assert sum("The ROI cannot be read" in problem for problem in found) == 3
    assert "1 of 2 images are missing: b" in found[-1]
    assert "1 images have no ROIs: c.tif." in [p.what for p in data.problems]


def test_other_archives_are_not_taken(tmp_path: Path) -> None:
    image(tmp_path, "a.tif")
    (tmp_path / "broken.zip").write_bytes(b"PK\3\4")
    with zipfile.ZipFile(tmp_path / "data.zip", "w") as file:
        file.writestr("a.txt", "hello")
    with pytest.raises(ValueError, match=r"unpack .*broken\.zip"):
        open_data(tmp_path)


def test_archives_of_a_later_version_are_not_taken(tmp_path: Path) -> None:
    image(tmp_path, "a.tif")
    path = archive(tmp_path, "a.zip", rectangle())
    content = path.read_bytes()
    entry = content.index(b"PK\1\2")
    path.write_bytes(content[: entry + 6] + b"\x9f\0" + content[entry + 8 :])
    with pytest.raises(ValueError, match=re.escape(str(tmp_path))):
        open_data(tmp_path, format="imagej")


def test_folders_of_single_rois_called_after_the_images(tmp_path: Path) -> None:
    image(tmp_path, "a.tif", "b.tif")
    for name, count in (("a", 2), ("b", 1)):
        (tmp_path / f"{name}_rois").mkdir()
        for number in range(count):
            corners = [[8, 6], [24, 6], [24, 20 + number], [8, 20 + number]]
            ImagejRoi.frompoints(corners).tofile(tmp_path / f"{name}_rois" / f"{number}.roi")
    data = open_data(tmp_path)
    assert {name: [box for _, box in found] for name, found in boxes(data).items()} == {
        "a.tif": [(8, 6, 24, 20), (8, 6, 24, 21)],
        "b.tif": [(8, 6, 24, 20)],
    }
    assert not data.problems


def test_archives_are_the_same_at_any_time(tmp_path: Path) -> None:
    image(tmp_path / "data", "a.tif")
    archive(tmp_path / "data", "a.zip", rectangle())
    convert(tmp_path / "data", tmp_path / "out", to="imagej")
    with zipfile.ZipFile(tmp_path / "out" / "rois" / "a.zip") as written:
        assert [entry.date_time for entry in written.infolist()] == [(1980, 1, 1, 0, 0, 0)]
