"""Further small whole data sets, of formats that are read and not written."""

from __future__ import annotations

import base64
import io
import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from annotated_images import FIRST, HEIGHT, WIDTH, image, put
from fuzz.seeds import numbers, save

X1, Y1, X2, Y2 = FIRST


def mot(folder: Path) -> Path:
    image(folder / "img1", "000001.jpg", "000002.jpg")
    put(folder, "gt/gt.txt", "1,1,9,7,16,14,1,1,1.0\n1,2,35,23,22,20,1,3,0.5\n2,3,2,2,9,9,0,8,1\n")
    return folder


def image_folder(folder: Path) -> Path:
    image(folder, "a.png", "b.png")
    objects = {"bbox": [[8, 6, 16, 14], [30.5, 20, 9, 9]], "categories": [0, "cat"], "iscrowd": [0, 1]}
    listed = [{"bbox": [8, 6, 16, 14], "label": "dog"}]
    entries = [{"file_name": "a.png", "objects": objects}, {"file_name": "b.png", "objects": listed}]
    put(folder, "metadata.jsonl", "\n".join(map(json.dumps, entries)) + "\n")
    return folder


def kitti(folder: Path) -> Path:
    image(folder / "image_2", "0.png", "1.png")
    line = f"0.00 0 -1.57 {X1} {Y1} {X2} {Y2} 1.5 1.6 3.7 1.0 1.7 9.3 -1.6"
    put(folder, "label_2/0.txt", f"Car {line}\nPerson sitting {line} 0.9\n")
    put(folder, "label_2/1.txt", "")
    return folder


def datumaro(folder: Path) -> Path:
    image(folder / "images" / "default", "a.png")
    annotations: list[dict[str, Any]] = [
        {"type": "bbox", "label_id": 0, "group": 0, "bbox": [8, 6, 16, 14], "attributes": {}},
        {"type": "polygon", "label_id": 1, "group": 4, "points": [34, 22, 56, 22, 56, 42, 34, 42]},
        {"type": "points", "label_id": 1, "group": 4, "points": [40, 30, 0, 0], "visibility": [2, 0]},
        {"type": "mask", "label_id": 0, "rle": {"size": [HEIGHT, WIDTH], "counts": [485, 6, 2581]}},
    ]
    skeleton = {"items": [{"label_id": 1, "labels": ["nose", "tail"], "joints": []}]}
    categories = {"label": {"labels": [{"name": "cat", "parent": ""}, {"name": "dog"}]}, "points": skeleton}
    item = {"id": "a", "annotations": annotations, "image": {"path": "a.png", "size": [HEIGHT, WIDTH]}}
    put(folder, "annotations/default.json", {"info": {}, "categories": categories, "items": [item]})
    return folder


def aperio(folder: Path) -> Path:
    image(folder, "a.png")
    corners = [(X1, Y1), (X2, Y1), (X2, Y2), (X1, Y2)]
    regions = "".join(
        f'<Region Id="{kind}" Type="{kind}"><Vertices>'
        + "".join(f'<Vertex X="{x}" Y="{y}" Z="0"/>' for x, y in points)
        + "</Vertices></Region>"
        for kind, points in ((0, corners), (1, corners[::2]), (2, corners[::2]))
    )
    layer = f'<Annotation Id="1" Name="Stroma"><Regions>{regions}</Regions></Annotation>'
    put(folder, "a.xml", f'<?xml version="1.0"?>\n<Annotations MicronsPerPixel="0.25">{layer}</Annotations>')
    return folder


def fiftyone(folder: Path) -> Path:
    image(folder / "data", "a.png")
    mask = base64.b64encode(zlib.compress(_npy(np.ones((14, 16), bool)))).decode()
    detections: list[dict[str, Any]] = [
        {"label": "cat", "bounding_box": [0.125, 0.125, 0.25, 0.25]},
        {"label": "dog", "bounding_box": [0.5, 0.5, 0.25, 0.25], "mask": mask, "iscrowd": 0},
    ]
    truth = {"_cls": "Detections", "detections": detections}
    put(folder, "samples.json", {"samples": [{"filepath": "data/a.png", "ground_truth": truth}]})
    return folder


def _npy(values: np.ndarray) -> bytes:
    stored = io.BytesIO()
    np.save(stored, values)
    return stored.getvalue()


def cell_tracking(folder: Path) -> Path:
    image(folder / "01", "t000.png", "t001.png")
    save(folder / "01_GT" / "SEG" / "man_seg000.tif", numbers().astype(np.uint16))
    return folder
