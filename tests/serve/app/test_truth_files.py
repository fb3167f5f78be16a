"""The data set of what is done: of images inside annotation files, of objects without outlines."""

import base64
import io
import json
from pathlib import Path

import numpy as np
from PIL import Image

from rcnn import check, open_data
from rcnn.serve.app.collection import open_collection
from rcnn.serve.app.corrections import Corrections

SIZE = (20, 30)
POLYGON = {"label": "cell", "shape_type": "polygon", "points": [[2, 2], [12, 2], [12, 9]]}


def labelme_file(path: Path, pixels: np.ndarray) -> None:
    """An annotation of LabelMe with its image inside."""
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "PNG")
    entry = {
        "version": "5.0", "flags": {}, "shapes": [POLYGON], "imagePath": f"{path.stem}.png",
        "imageData": base64.b64encode(content.getvalue()).decode(), "imageHeight": SIZE[0],
        "imageWidth": SIZE[1],
    }  # fmt: skip
    path.write_text(json.dumps(entry))


def test_images_inside_annotation_files_are_in_the_corrected_data_set(tmp_path: Path) -> None:
    folder = tmp_path / "cells"
    folder.mkdir()
    pictures = np.random.default_rng(0).integers(0, 255, (2, *SIZE, 3), np.uint8)
    for name, pixels in zip(("a", "b"), pictures, strict=True):
        labelme_file(folder / f"{name}.json", pixels)
    for turn in range(2):
        collection = open_collection(folder)
        assert [picture.name for picture in collection.pictures] == ["a.json", "b.json"], "not twice"
        corrections = Corrections(collection)
        first = collection.pictures[0]
        if turn == 0:
            corrections.mark(first, SIZE, True, list)
        else:
            corrections.write_data()
        corrections.close()
        data = open_data(corrections.files.objects_file)
        assert not check(data).errors
        assert [len(record.truth) for record in data.records] == [0, 1], "the first was emptied, and done"
        for sample, pixels in zip(data, pictures, strict=True):
            np.testing.assert_array_equal(sample.image, pixels)


def test_boxes_beside_pixel_classes_are_regions_of_objects(tmp_path: Path) -> None:
    folder = tmp_path / "views"
    folder.mkdir()
    Image.fromarray(np.zeros((*SIZE, 3), np.uint8)).save(folder / "a.png")
    collection = open_collection(folder)
    corrections = Corrections(collection, ("cell",), pixel_classes=("sky",))
    (picture,) = collection.pictures
    mask = {"window": [0, 0, 30, 10], "runs": [0, 300]}
    objects = [
        {"id": "a", "class": "cell", "box": [3.0, 3.0, 9.0, 8.0]},
        {"id": "b", "class": "sky", "stuff": True, "box": [0.0, 0.0, 30.0, 10.0], "mask": mask},
        {"id": "c", "class": "cell", "box": [20.0, 12.0, 25.0, 15.0],
         "mask": {"window": [20, 12, 5, 3], "runs": [0, 15]}},
    ]  # fmt: skip
    changes = [{"id": one["id"], "object": one, "rev": None} for one in objects]
    corrections.change(picture, SIZE, changes, list)
    corrections.mark(picture, SIZE, True, list)
    corrections.close()
    data = open_data(corrections.files.panoptic_file)
    assert not check(data).errors
    (sample,) = data
    assert sample.truth.crowd is not None
    assert sorted(sample.truth.crowd.tolist()) == [False, True], (
        "COCO's word for a region in which objects are"
    )
    assert (sample.truth.semantic == 1).sum() == 300 - 30
    boxes = open_data(corrections.files.objects_file)[0].truth
    np.testing.assert_array_equal(boxes.boxes, [[3, 3, 9, 8], [20, 12, 25, 15]])
