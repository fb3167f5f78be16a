"""ImageScope's regions: polygons, rectangles, ellipses, classes of annotations and attributes."""

from pathlib import Path

import numpy as np
import pytest

from annotated_images import areas, boxes, errors, image, put
from rcnn.data.formats.open import open_data, open_splits

SQUARE = [(8, 6), (24, 6), (24, 20), (8, 20)]


def region(points: list[tuple[float, float]], kind: int = 0, more: str = "") -> str:
    vertices = "".join(f'<Vertex X="{x}" Y="{y}" Z="0"/>' for x, y in points)
    return f'<Region Id="1" Type="{kind}" {more}><Vertices>{vertices}</Vertices></Region>'


def layer(regions: str, name: str = "", attribute: str = "") -> str:
    return f'<Annotation Id="1" Name="{name}">{attribute}<Regions>{regions}</Regions></Annotation>'


def document(*layers: str) -> str:
    return f'<?xml version="1.0"?>\n<Annotations MicronsPerPixel="0.25">{"".join(layers)}</Annotations>'


@pytest.mark.parametrize("data", [".", "Annotations", "Annotations/a.xml"])
def test_monuseg(data: str, tmp_path: Path) -> None:
    image(tmp_path / "Tissue Images", "a.tif", "b.tif")
    described = '<Attributes><Attribute Name="Description" Id="0" Value=""/></Attributes>'
    put(tmp_path, "Annotations/a.xml", document(layer(region(SQUARE), attribute=described)))
    put(tmp_path, "Annotations/b.xml", document())
    found = open_data(tmp_path / data, tmp_path / "Tissue Images")
    assert found.format == "aperio"
    assert boxes(found)["a.tif"] == [("object", (8, 6, 24, 20))]
    assert areas(found) == [16 * 14]


def test_classes_and_nested_folders(tmp_path: Path) -> None:
    for name in ("one", "two"):
        image(tmp_path / name, f"{name}_1.png")
        attribute = '<Attributes><Attribute Name="Epithelial" Id="0" Value=""/></Attributes>'
        layers = [layer(region(SQUARE), attribute=attribute), layer(region(SQUARE), "Stroma")]
        put(tmp_path, f"{name}/{name}_1.xml", document(*layers))
    found = open_data(tmp_path)
    assert found.class_names == ("Epithelial", "Stroma")
    assert len(found) == 2


def test_kinds_of_regions(tmp_path: Path) -> None:
    image(tmp_path, "a.png")
    corners = [(8, 6), (24, 20)]
    regions = [
        region(corners, 1),
        region(corners, 2),
        region(SQUARE, 0, 'NegativeROA="1"'),
        region(corners, 4),
    ]
    put(tmp_path, "a.xml", document(layer("".join(regions) + region(corners))))
    found = open_data(tmp_path)
    np.testing.assert_allclose(areas(found), [16 * 14, np.pi / 4 * 16 * 14], rtol=0.03)
    assert [p.what for p in found.problems] == [
        "1 negative regions (holes).",
        "1 regions of the type 4, which are no areas.",
        "1 regions of fewer than three vertices.",
    ]


@pytest.mark.parametrize("value", ["x", "nan", "1e9", ""])
def test_broken_vertices_are_named(value: str, tmp_path: Path) -> None:
    image(tmp_path, "a.png")
    broken = region(SQUARE).replace('X="24"', f'X="{value}"')
    put(tmp_path, "a.xml", document(layer(region(SQUARE) + broken)))
    (error,) = errors(open_data(tmp_path))
    assert "a.png, annotation a.xml, region 1" in error


def test_folders_of_splits_are_opened_one_by_one(tmp_path: Path) -> None:
    for folder, images in (("Training Data", "Tissue Images"), ("MoNuSegTestData", "")):
        image(tmp_path / folder / images, "a.tif")
        put(tmp_path / folder / ("Annotations" if images else ""), "a.xml", document(layer(region(SQUARE))))
    assert [(name, len(data)) for name, data in open_splits(tmp_path).items()] == [("train", 1), ("test", 1)]
