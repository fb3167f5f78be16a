"""Regions of every kind of file, and which objects are counted in them."""

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose
from PIL import Image
from roifile import ROI_TYPE, ImagejRoi

from rcnn.measuring.measurements import measure
from rcnn.measuring.regions import Regions, open_regions
from rcnn.measuring.summary import region_rows, summary_rows
from rcnn.structures import Masks
from squares import SIZE, image, squares

LEFT = [[0, 0], [25, 0], [25, 60], [0, 60]]  # 1500 pixels; the first object's centroid is in it
MIDDLE = [[20, 5], [60, 5], [60, 35], [20, 35]]  # 1200 pixels; the second's


def feature(ring: list[list[float]], **properties: Any) -> dict[str, Any]:
    closed = [*ring, ring[0]]
    return {
        "type": "Feature", "geometry": {"type": "Polygon", "coordinates": [closed]}, "properties": properties,
    }  # fmt: skip


def geojson(path: Path, *features: dict[str, Any]) -> Path:
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return path


def imagej(path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, ring in (("left", LEFT), ("middle", MIDDLE)):
            roi = ImagejRoi.frompoints(np.array(ring))
            roi.roitype, roi.name = ROI_TYPE.POLYGON, name
            archive.writestr(f"{name}.roi", roi.tobytes())
    return path


def coco(path: Path) -> Path:
    outlines = [[[float(v) for corner in ring for v in corner]] for ring in (LEFT, MIDDLE)]
    path.write_text(json.dumps({
        "images": [{"id": 4, "file_name": "folder/a.tif"}, {"id": 5, "file_name": "b.tif"}],
        "categories": [{"id": 1, "name": "left"}, {"id": 2, "name": "middle"}],
        "annotations": [
            {"id": i, "image_id": 4, "category_id": i, "segmentation": outline}
            for i, outline in enumerate(outlines, 1)
        ],
    }))  # fmt: skip
    return path


def label_image(path: Path) -> Path:
    values = np.zeros(SIZE, np.uint8)
    values[:, :20], values[5:35, 20:60] = 3, 7
    Image.fromarray(values).save(path)
    return path


def written(kind: str, folder: Path) -> Path:
    features = [feature(LEFT, name="left"), feature(MIDDLE, classification={"name": "middle"})]
    makers = {
        "geojson": lambda: geojson(folder / "a.geojson", *features),
        "imagej": lambda: imagej(folder / "a.zip"),
        "coco": lambda: coco(folder / "regions.json"),
        "labels": lambda: label_image(folder / "a.png"),
    }
    return makers[kind]()


@pytest.mark.parametrize("kind", ["geojson", "imagej", "coco", "labels"])
def test_counts_inside_regions_of_any_file(kind: str, tmp_path: Path) -> None:
    regions = open_regions(written(kind, tmp_path)).of("a.tif", SIZE)
    assert regions.names == (("3", "7") if kind == "labels" else ("left", "middle"))
    left, middle = regions.names
    table = measure(image(), squares(), "100um", regions=regions)
    assert table["region"].tolist() == [left, middle, ""]
    rows = {tuple(row[1:3]): [row[3], *map(float, row[4:])] for row in region_rows("a", table)}
    assert [rows[left, name][0] for name in "ab"] == [1, 0]
    assert [rows[middle, name][0] for name in "ab"] == [0, 1]
    assert [rows["(outside)", name][0] for name in "ab"] == [1, 0]
    # Pixels of 0.01 mm²: the region of 1200 pixels has 12 mm².
    assert_allclose(rows[middle, "b"][1:], [1 / 12, 12], rtol=1e-5)
    outside = 48 - (12 + 12 if kind == "labels" else 15 + 12 - 1.5)
    assert_allclose(rows["(outside)", "a"][2], outside, rtol=1e-5)


def test_a_folder_has_a_file_for_each_image(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    geojson(tmp_path / "sub" / "a.geojson", feature(LEFT))
    geojson(tmp_path / "b.geojson", feature(MIDDLE, name="m"))
    files = open_regions(tmp_path)
    assert files.of("sub/a.ome.tif", SIZE).names == ("region 1",)
    assert files.of("b.png", SIZE).names == ("m",)
    with pytest.raises(ValueError, match=r"no regions of c.png; expected a file such as c.geojson"):
        files.of("c.png", SIZE)


def test_regions_may_overlap_and_have_one_name(tmp_path: Path) -> None:
    whole = [[0, 0], [80, 0], [80, 60], [0, 60]]
    path = geojson(tmp_path / "a.geojson", *(feature(ring, name="r") for ring in (LEFT, MIDDLE, whole)))
    table = measure(None, squares(), kinds=[], regions=path)
    assert table["region"].tolist() == ["r; r 3", "r 2; r 3", "r 3"]


def test_membership_is_by_the_pixel_below_the_centroid() -> None:
    masks = Masks.from_patches([np.array([[1, 0], [1, 1]])], [(2, 3)], (10, 10))
    regions = Regions(("r",), masks)
    points = np.array([[3.0, 2.0], [3.99, 2.5], [4.0, 2.5], [4.5, 3.9], [5.0, 3.0], [2.99, 2.5], [10, 10]])
    assert regions.memberships(points)[:, 0].tolist() == [True, True, False, True, False, False, False]


def test_one_region_of_a_black_and_white_mask(tmp_path: Path) -> None:
    Image.fromarray(squares().masks.dense()[1]).save(tmp_path / "tumour.png")
    table = measure(None, squares(), kinds=[], regions=tmp_path / "tumour.png")
    assert table["region"].tolist() == ["", "tumour", ""]


def test_regions_that_cannot_be_used_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no such file or folder of regions"):
        open_regions(tmp_path / "none.geojson")
    (tmp_path / "a.txt").write_text("")
    with pytest.raises(ValueError, match=r"a.txt: .txt is no file of regions"):
        open_regions(tmp_path / "a.txt")
    far = geojson(tmp_path / "far.geojson", feature([[900, 900], [950, 900], [950, 950]], name="far"))
    with pytest.raises(ValueError, match="the region far has no pixel in an image of 80 by 60"):
        open_regions(far).of("a", SIZE)
    with pytest.raises(ValueError, match="no regions; expected polygons"):
        open_regions(geojson(tmp_path / "none.geojson")).of("a", SIZE)
    point = geojson(tmp_path / "p.geojson", {"geometry": {"type": "Point", "coordinates": [1, 2]}})
    with pytest.raises(ValueError, match=r"p.geojson, feature 1: Expected the coordinates of a polygon"):
        open_regions(point).of("a", SIZE)
    Image.fromarray(np.ones((5, 5), np.uint8)).save(tmp_path / "small.png")
    with pytest.raises(
        ValueError, match=r"small.png: \(height, width\) \(5, 5\), but the image has \(60, 80\)"
    ):
        open_regions(tmp_path / "small.png").of("a", SIZE)
    with pytest.raises(ValueError, match=r"it does not list c\.tif"):
        open_regions(coco(tmp_path / "r.json")).of("c.tif", SIZE)
    (tmp_path / "bad.zip").write_bytes(b"PK no archive")
    with pytest.raises(ValueError, match=r"bad.zip: its ROIs cannot be read as regions"):
        open_regions(tmp_path / "bad.zip").of("a", SIZE)


def test_the_summary_of_an_image() -> None:
    table = measure(None, squares(labels=(0, 0, 0)), "10um", kinds=["shape"])
    first, second = summary_rows("a.png", table)
    # 60 by 80 pixels of 10 µm are 0.48 mm².
    assert first[:3] == ["a.png", "a", 3]
    assert_allclose(
        [float(v) for v in first[3:9]], [3 / 0.48, 650 / 4800, 65000 / 3, 15000, 0.48, 10], rtol=1e-5
    )
    assert first[9] == "given"
    assert second[:6] == ["a.png", "b", 0, "0", "0", ""]
