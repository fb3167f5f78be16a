"""GeoJSON of QuPath: polygons with holes, classes, names of files, and malformed features."""

from pathlib import Path
from typing import Any

import pytest

from annotated_images import FIRST, SECOND, areas, boxes, errors, image, put
from rcnn.data.formats.open import open_data


def ring(box: tuple[int, int, int, int]) -> list[list[int]]:
    x1, y1, x2, y2 = box
    return [[x1, y1], [x2, y1], [x2, y2], [x1, y2], [x1, y1]]


def feature(*rings: Any, kind: str = "Polygon", **properties: Any) -> dict[str, Any]:
    geometry = {"type": kind, "coordinates": list(rings)}
    return {"type": "Feature", "geometry": geometry, "properties": properties}


def collection(*features: Any, **more: Any) -> dict[str, Any]:
    return {"type": "FeatureCollection", "features": list(features), **more}


@pytest.mark.parametrize(
    ("picture", "file"),
    [
        ("a.png", "a.geojson"), ("a.png", "a.json"), ("a.png", "annotations/a.geojson"),
        ("images/a.png", "annotations/a.geojson"), ("a.png", "a.png.geojson"),
        ("a.png", "a.png - Series 0.geojson"), ("a b.png", "A B.geojson"), ("x.png", "export.geojson"),
    ],
)  # fmt: skip
def test_files_and_their_images(tmp_path: Path, picture: str, file: str) -> None:
    image(tmp_path, picture)
    path = put(tmp_path, file, collection(feature(ring(FIRST))))
    data = open_data(tmp_path)
    assert data.format == "geojson"
    assert list(boxes(data).values()) == [[("object", FIRST)]]
    assert areas(data) == [224]
    assert boxes(open_data(path)) == boxes(data)


def test_the_longest_name_counts(tmp_path: Path) -> None:
    image(tmp_path, "a.png", "a_2.png", "a_25.png", "b.png")
    for name in ("a_2_rois", "a_25"):
        put(tmp_path, f"{name}.geojson", collection(feature(ring(FIRST))))
    data = open_data(tmp_path)
    assert [r.path.name for r in data.records] == ["a_25.png", "a_2.png"]
    assert [p.what for p in data.problems] == ["2 images have no GeoJSON file: a.png, b.png."]


def test_holes_and_parts(tmp_path: Path) -> None:
    image(tmp_path, "a.png")
    hole, island = (10, 8, 20, 16), (12, 10, 14, 12)
    many = feature([ring(FIRST), ring(hole)], [ring(island)], [ring(SECOND)], kind="MultiPolygon")
    put(tmp_path, "a.geojson", [feature(ring(FIRST), ring(hole)), many])
    data = open_data(tmp_path)
    assert areas(data) == [224 - 80, 224 - 80 + 4 + 440]
    assert not data[0].truth.masks[0][10, 12]
    assert data[0].truth.masks[1][10, 12]


@pytest.mark.parametrize(
    "properties",
    [
        {"classification": {"name": "Tumor", "colorRGB": -1}}, {"classification": "Tumor"},
        {"classification": {"names": ["Tumor"]}}, {"class": "Tumor"}, {"label": "Tumor"},
    ],
)  # fmt: skip
def test_classes(tmp_path: Path, properties: Any) -> None:
    image(tmp_path, "a.png")
    put(tmp_path, "a.geojson", collection(feature(ring(FIRST), **properties)))
    assert boxes(open_data(tmp_path)) == {"a.png": [("Tumor", FIRST)]}


def test_what_is_no_object_is_ignored_with_a_warning(tmp_path: Path) -> None:
    image(tmp_path, "a.png", "b.png", "c.png")
    region = feature(ring((0, 0, 60, 40)), objectType="annotation")
    put(tmp_path, "a.geojson", collection(region, feature(ring(FIRST), objectType="cell")))
    stroma = feature(ring(FIRST), classification={"name": "Region*"})
    point = {"type": "Feature", "geometry": {"type": "Point", "coordinates": [1, 2]}, "properties": {}}
    put(tmp_path, "b.geojson", collection(stroma, point))
    put(tmp_path, "c.geojson", collection())
    data = open_data(tmp_path)
    assert boxes(data) == {"a.png": [("object", FIRST)], "b.png": [], "c.png": []}
    assert [p.what for p in data.problems] == [
        "1 annotations of regions in which cells were detected.",
        "1 objects of the class Region*, which QuPath ignores.",
        "1 features of the type Point.",
    ]


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (feature([[1, 2], [3, 4]]), "Expected the coordinates of a polygon"),
        (feature("x"), "Expected the coordinates of a polygon"),
        (feature([[1, "2"], [3, 4], [5, 6]]), "Expected the coordinates of a polygon"),
        ({"type": "Feature"}, "Expected the coordinates of a polygon"),
        (3, "Expected the coordinates of a polygon"),
        (feature(ring((100, 0, 120, 9))), "is outside the image"),
    ],
)
def test_malformed_features_are_named(tmp_path: Path, found: Any, message: str) -> None:
    image(tmp_path, "a.png")
    put(tmp_path, "a.geojson", collection(found))
    problems = errors(open_data(tmp_path))
    assert len(problems) == 1
    assert message in problems[0]
    assert "a.png, annotation a.geojson, features[0]" in problems[0]


def test_other_faults_are_named(tmp_path: Path) -> None:
    image(tmp_path, "a.png", "b.png", "c.png")
    put(tmp_path, "a.geojson", collection(feature(ring(FIRST)), crs={"type": "name"}))
    put(tmp_path, "b.geojson", '{"type": "FeatureCollection", "features": [')
    put(tmp_path, "c.geojson", collection(feature(ring(FIRST), **{"class": "x"}), feature(ring(SECOND))))
    found = errors(open_data(tmp_path))
    assert "coordinates of a map (crs); expected pixels" in found[0]
    assert "this is not JSON" in found[1]
    assert "The object has no class, while others have one" in found[2]
    put(tmp_path, "c.geojson", collection())
    (tmp_path / "c.png").unlink()
    assert "1 of 3 images are missing: c" in errors(open_data(tmp_path))[-1]


@pytest.mark.parametrize("kind", ["Polygon", "MultiPolygon"])
def test_longitude_and_latitude_are_refused(kind: str, tmp_path: Path) -> None:
    """GeoJSON's own coordinates; a shape larger than a pixel tells those of an image."""
    image(tmp_path, "a.tif")
    ring = [[13.40, 52.51], [13.41, 52.51], [13.41, 52.52], [13.40, 52.51]]
    shapes = [ring, [[20, 10], [30, 10], [30, 20], [20, 10]]]
    for rings, message in (
        (shapes[:1], "13.4, 52.51, which look like longitude and latitude"),
        (shapes, None),
    ):
        features = [
            {"type": "Feature", "properties": {}, "geometry": {
                "type": kind, "coordinates": [one] if kind == "Polygon" else [[one]]}}
            for one in rings
        ]  # fmt: skip
        put(tmp_path, "a.geojson", {"type": "FeatureCollection", "features": features})
        found = [p.what for p in open_data(tmp_path).problems]
        assert bool(message) == any("longitude" in what for what in found)
        assert message is None or message in found[0]


def test_xview_is_named(tmp_path: Path) -> None:
    image(tmp_path / "train_images", "1.tif")
    properties = {"bounds_imcoords": "8,6,24,20", "type_id": 73, "image_id": "1.tif"}
    feature = {"type": "Feature", "geometry": None, "properties": properties}
    put(tmp_path, "xView_train.geojson", {"type": "FeatureCollection", "features": [feature]})
    with pytest.raises(ValueError, match=r"xView's, with boxes in the property bounds_imcoords.*CSV"):
        open_data(tmp_path)
