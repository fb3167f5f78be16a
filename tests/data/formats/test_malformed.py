"""Files of tools with any value replaced by another become a data set with problems, or a ValueError."""

import copy
import itertools
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from annotated_images import image, put
from rcnn.data.formats.brush_code import brush_code
from rcnn.data.formats.open import open_data

STRANGE: tuple[Any, ...] = (
    None,
    "x",
    "",
    -1,
    0,
    1e300,
    2.5,
    True,
    [],
    {},
    [[]],
    ["x"],
    {"x": 1},
    [1, 2, 3, 4],
)
TRIED = 5  # of them at each place: no divisor of their number
SQUARE = [[8, 6], [24, 6], [24, 20], [8, 20]]
SIZES = {"original_width": 64, "original_height": 48, "image_rotation": 0}


def label_studio() -> Any:
    mask = np.zeros((48, 64), np.bool_)
    mask[3:9, 4:20] = True
    values = {
        "rectangle": {"x": 10, "y": 10, "width": 10, "height": 10, "rotation": 30},
        "ellipse": {"x": 40, "y": 40, "radiusX": 10, "radiusY": 10, "rotation": 0},
        "polygon": {"points": [[10, 10], [30, 10], [30, 30]]},
        "keypoint": {"x": 12, "y": 12, "width": 1},
    }
    results = [
        {
            "id": k,
            "type": f"{k}labels",
            "parentID": "rectangle",
            "value": {**v, f"{k}labels": ["cat"]},
            **SIZES,
        }
        for k, v in values.items()
    ]
    brush = {"format": "rle", "rle": brush_code(mask)[:20], "brushlabels": ["cat"]}
    results.append({"id": "b", "type": "brushlabels", "value": brush, **SIZES})
    return [{"id": 1, "data": {"image": "a.png"}, "annotations": [{"id": 1, "result": results}]}]


def via(kind: str) -> Any:
    polygon = {"name": "polygon", "all_points_x": [8, 24, 24], "all_points_y": [6, 6, 20]}
    ellipse = {"name": "ellipse", "cx": 20, "cy": 20, "rx": 5, "ry": 6, "theta": 1.0}
    regions = [{"shape_attributes": s, "region_attributes": {"class": "cat"}} for s in (polygon, ellipse)]
    if kind == "2":
        return {"a.png9": {"filename": "a.png", "size": 9, "regions": regions, "file_attributes": {}}}
    return {
        "project": {"pid": "__VIA_PROJECT_ID__", "vid_list": ["1"]},
        "attribute": {"1": {"aname": "class", "options": {"0": "cat"}}},
        "file": {"1": {"fid": 1, "fname": "a.png"}},
        "view": {"1": {"fid_list": [1]}},
        "metadata": {"x": {"vid": "1", "xy": [2, 8, 6, 5, 5], "av": {"1": "0"}}},
    }


def supervisely() -> Any:
    exterior = {"points": {"exterior": SQUARE, "interior": [SQUARE[:3]]}}
    rectangle = {"points": {"exterior": [[8, 6], [23, 19]], "interior": []}}
    objects = [
        {"classTitle": "cat", "geometryType": "polygon", **exterior},
        {"classTitle": "cat", "geometryType": "rectangle", **rectangle},
        {"classTitle": "cat", "geometryType": "bitmap", "bitmap": {"data": "eNo=", "origin": [3, 4]}},
        {"classTitle": "cat", "geometryType": "graph", "nodes": {"a": {"loc": [3, 4]}, "b": {"loc": [9, 9]}}},
    ]
    return {"size": {"height": 48, "width": 64}, "objects": objects}


def createml() -> Any:
    box = {"x": 16, "y": 13, "width": 16, "height": 14}
    return [{"image": "a.png", "annotations": [{"label": "cat", "coordinates": box}]}]


def geojson() -> Any:
    ring = [*SQUARE, SQUARE[0]]
    properties = {"objectType": "annotation", "classification": {"name": "cat"}}
    shapes = [("Polygon", [ring]), ("MultiPolygon", [[ring, ring]])]
    features = [
        {"type": "Feature", "geometry": {"type": k, "coordinates": c}, "properties": properties}
        for k, c in shapes
    ]
    return {"type": "FeatureCollection", "features": features}


CONTENTS: dict[str, tuple[str, Callable[[], Any]]] = {
    "label studio": ("x.json", label_studio),
    "via": ("x.json", lambda: via("2")),
    "via 3": ("x.json", lambda: via("3")),
    "supervisely": ("ann/a.png.json", supervisely),
    "createml": ("x.json", createml),
    "geojson": ("a.geojson", geojson),
}
KEYS = {"via 3": "via", "label studio": "label-studio"}


def changed(content: Any) -> Iterator[Any]:
    """The content with each of its values replaced by some of the strange ones in turn, or left out."""
    turns = itertools.cycle(STRANGE)
    for path in list(paths(content)):
        for value in itertools.islice(turns, TRIED):
            other = copy.deepcopy(content)
            place = other
            for key in path[:-1]:
                place = place[key]
            if value == "" and isinstance(place, dict):
                del place[path[-1]]
            else:
                place[path[-1]] = value
            yield other


def paths(content: Any) -> Iterator[tuple[Any, ...]]:
    items = content.items() if isinstance(content, dict) else enumerate(content)
    for key, value in items:
        yield (key,)
        if isinstance(value, dict | list):
            yield from ((key, *rest) for rest in paths(value))


@pytest.mark.parametrize("name", CONTENTS)
def test_json(tmp_path: Path, name: str) -> None:
    file, make = CONTENTS[name]
    image(tmp_path, "a.png", "img/a.png")
    content = make()
    tried = 0
    for other in changed(content):
        put(tmp_path, file, json.dumps(other))
        try:
            data = open_data(tmp_path, format=KEYS.get(name, name))
            for record in data.records:
                record.load_truth()
        except ValueError:
            pass
        tried += 1
    assert tried >= 50


XML = (
    '<annotations><image id="0" name="a.png" width="64" height="48">'
    '<box label="cat" xtl="8" ytl="6" xbr="24" ybr="20" rotation="20" group_id="1"/>'
    '<polygon label="cat" points="8,6;24,6;24,20" group_id="2"/>'
    '<mask label="cat" rle="1, 2, 3, 2" left="3" top="4" width="4" height="2" group_id="2"/>'
    '<ellipse label="cat" cx="20" cy="20" rx="5" ry="6"/>'
    '<skeleton label="cat"><points label="nose" points="3,4" outside="0"/></skeleton></image>'
    '<track id="0" label="cat"><box frame="0" outside="0" xtl="8" ytl="6" xbr="24" ybr="20"/>'
    '<box frame="3" outside="1" xtl="8" ytl="6" xbr="24" ybr="20"/></track></annotations>'
)
CSV = (
    "filename,width,height,class,xmin,ymin,xmax,ymax\na.png,64,48,cat,8,6,24,20\na.png,64,48,dog,8,6,24,21\n"
)
RLE = "ImageId,ClassId,EncodedPixels\na.png,1,1 5 49 5\na.png,1,100 7\n"
DOTA = "gsd:0.1\n8 6 24 6 24 20 8 20 ship 0\n8 6 24 6 24 20 8 20 ship 1\n"
TEXTS = {
    "cvat": (
        "annotations.xml",
        XML,
        r'"[^"]*"',
        ('""', '"x"', '"-1"', '"1e300"', '"nan"', '"999999"', '"1,2;3"'),
    ),
    "csv": ("x.csv", CSV, r"[^,\n]+", ("", "x", "-1", "1e300", "nan", '"', "1;2")),
    "csv-masks": ("x.csv", RLE, r"[^,\n]+", ("", "x", "-1", "1e300", "nan", '"', "1 2 3")),
    "dota": ("labelTxt/a.txt", DOTA, r"\S+", ("", "x", "-1", "1e300", "nan", "1 2")),
}


@pytest.mark.parametrize("name", TEXTS)
def test_texts(tmp_path: Path, name: str) -> None:
    file, text, pattern, strange = TEXTS[name]
    image(tmp_path, "a.png", "images/a0.png")
    for found in re.finditer(pattern, text):
        for value in strange:
            put(tmp_path, file, text[: found.start()] + value + text[found.end() :])
            try:
                data = open_data(tmp_path, format=name)
                for record in data.records:
                    record.load_truth()
            except ValueError:
                continue
