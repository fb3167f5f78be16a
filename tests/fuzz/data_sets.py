"""A small whole data set of every format, and what holds of every data set that was read."""

from __future__ import annotations

import base64
import io
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from annotated_images import HEIGHT, WIDTH, image, put
from fuzz import other_data_sets as other
from fuzz.seeds import SIZE, numbers, save
from rcnn.data.adapters import from_items
from rcnn.data.convert import convert
from rcnn.data.dataset import Dataset, Sample
from rcnn.data.formats.open import open_data
from rcnn.data.formats.registry import formats
from rcnn.data.shapes import draw_shapes
from rcnn.structures import Instances, Masks, Skeleton

SKELETON = Skeleton(("nose", "left_ear", "right_ear"), bones=((0, 1), (0, 2)))


def samples(*, keypoints: bool = False, outlines: bool = True) -> Dataset:
    """Three images with two objects each, as a data set of Python objects."""
    made = []
    for i in range(3):
        masks = Masks.from_dense(np.stack([numbers(i) == 1, numbers(i) == 2]))
        more: dict[str, Any] = {"masks": masks} if outlines else {}
        if keypoints:
            points = np.array([[[10.5, 8.5, 2], [20.5, 9.5, 1], [0, 0, 0]]] * 2, np.float32)
            points[1, :2, :2] += 26, 16
            more = {"keypoints": points}
        truth = Instances(SIZE, masks.boxes(), np.array([0, 1]), **more)
        pixels = np.random.default_rng(i).integers(0, 255, (*SIZE, 3), np.uint8)
        made.append(Sample(pixels, truth, f"p{i}"))
    return from_items(made, ("cat", "dog"), first_label=0, skeleton=SKELETON if keypoints else None)


def written(key: str, **kind: bool) -> Callable[[Path], Path]:
    """Makes the data set with the writer of a format."""

    def make(folder: Path) -> Path:
        return convert(samples(**kind), folder / "data", to=key).out

    return make


def pictures(folder: Path, *names: str) -> None:
    image(folder, *names)


def voc_segmentation(folder: Path) -> Path:
    palette = [(37 * i) % 256 for i in range(768)]
    for name, values in (("SegmentationObject", numbers()), ("SegmentationClass", numbers() * 8)):
        (folder / name).mkdir(parents=True)
        picture = Image.fromarray(values).convert("P")
        picture.putpalette(palette)
        picture.save(folder / name / "a.png")
    pictures(folder / "JPEGImages", "a.jpg")
    return put(folder, "ImageSets/Segmentation/train.txt", "a\n")


def components(folder: Path) -> Path:
    for name in "ab":
        pictures(folder / "images", f"{name}.png")
        save(folder / "masks" / f"{name}.png", (numbers() > 0).astype(np.uint8) * 255)
    return folder


def labelme(folder: Path) -> Path:
    kinds: dict[str, Any] = {
        "polygon": [[8, 6], [24, 6], [24, 20]],
        "rectangle": [[30, 20], [44, 40]],
        "circle": [[20, 20], [26, 20]],
        "linestrip": [[3, 3], [9, 9], [12, 3]],
        "point": [[12, 12]],
    }
    shapes = [
        {"label": "cat", "points": p, "shape_type": k, "group_id": 1 if k in ("point", "polygon") else None,
         "flags": {}, "description": ""}
        for k, p in kinds.items()
    ]  # fmt: skip
    stored = io.BytesIO()
    Image.fromarray(numbers()[6:20, 8:24] > 0).save(stored, "PNG")
    mask = base64.b64encode(stored.getvalue()).decode()
    shapes.append({"label": "dog", "points": [[8, 6], [23, 19]], "shape_type": "mask", "mask": mask})
    for name in "ab":
        pictures(folder, f"{name}.jpg")
        content = {
            "version": "5.4.1", "flags": {}, "shapes": shapes, "imagePath": f"{name}.jpg", "imageData": None,
            "imageHeight": HEIGHT, "imageWidth": WIDTH,
        }  # fmt: skip
        put(folder, f"{name}.json", content)
    return folder


def cityscapes(folder: Path) -> Path:
    photos, truth = folder / "leftImg8bit" / "train" / "ulm", folder / "gtFine" / "train" / "ulm"
    pictures(photos, "ulm_0_1_leftImg8bit.png")
    ids = np.array([7, 26000, 26], np.uint16)[numbers()]
    save(truth / "ulm_0_1_gtFine_instanceIds.png", ids)
    return folder


def panoptic(folder: Path) -> Path:
    return draw_shapes(2, truth="both", size=SIZE, diameter=(10.0, 20.0)).write(folder)


def semantic(folder: Path) -> Path:
    for name in "ab":
        pictures(folder / "images", f"{name}.png")
        save(folder / "labels" / f"{name}.png", numbers())
    put(folder, "classes.txt", "ground\ncat\ndog\n")
    return folder


def via(folder: Path) -> Path:
    pictures(folder, "a.png")
    shapes = (
        {"name": "polygon", "all_points_x": [8, 24, 24], "all_points_y": [6, 6, 20]},
        {"name": "rect", "x": 8, "y": 6, "width": 9, "height": 9},
        {"name": "ellipse", "cx": 20, "cy": 20, "rx": 5, "ry": 6, "theta": 1.0},
        {"name": "circle", "cx": 20, "cy": 20, "r": 5},
    )
    regions = [{"shape_attributes": s, "region_attributes": {"class": "cat"}} for s in shapes]
    entry = {"filename": "a.png", "size": 9, "regions": regions, "file_attributes": {}}
    return put(folder, "via.json", {"a.png9": entry})


def supervisely(folder: Path) -> Path:
    pictures(folder / "img", "a.png")
    stored = io.BytesIO()
    Image.new("RGBA", (5, 4), (255, 255, 255, 255)).save(stored, "PNG")
    data = base64.b64encode(zlib.compress(stored.getvalue())).decode()
    objects = [
        {"classTitle": "cat", "geometryType": "polygon",
         "points": {"exterior": [[8, 6], [24, 6], [24, 20]], "interior": [[[10, 8], [12, 8], [12, 10]]]}},
        {"classTitle": "cat", "geometryType": "rectangle",
         "points": {"exterior": [[8, 6], [23, 19]], "interior": []}},
        {"classTitle": "dog", "geometryType": "bitmap", "bitmap": {"data": data, "origin": [3, 4]}},
        {"classTitle": "cat", "geometryType": "graph",
         "nodes": {"a": {"loc": [3, 4]}, "b": {"loc": [9, 9]}}},
    ]  # fmt: skip
    put(folder, "ann/a.png.json", {"size": {"height": HEIGHT, "width": WIDTH}, "objects": objects})
    put(folder, "meta.json", {"classes": [{"title": "dog", "shape": "any"}, {"title": "cat"}], "tags": []})
    return folder


def cellpose(folder: Path) -> Path:
    pictures(folder, "a.png", "b.png")
    masks = numbers().astype(np.uint16)
    whole = {"outlines": masks, "masks": masks, "filename": "a.png", "flows": [None, []], "ismanual": True}
    np.save(folder / "a_seg.npy", whole, allow_pickle=True)  # type: ignore[arg-type]
    np.save(folder / "b_seg.npy", masks)
    return folder


def dota(folder: Path) -> Path:
    pictures(folder / "images", "a.png")
    put(folder, "labelTxt/a.txt", "gsd:0.1\n8 6 24 6 24 20 8 20 ship 0\n20 10 50 30 46 36 16 16 ship 1\n")
    return folder


def csv_masks(folder: Path) -> Path:
    pictures(folder / "train", "a.png", "b.png")
    return put(folder, "train.csv", "ImageId,ClassId,EncodedPixels\na.png,1,1 5 49 5\nb.png,2,100 7\n")


def cvat_masks(folder: Path) -> Path:
    pictures(folder / "JPEGImages", "a.jpg")
    colours = {
        "Class": [(0, 0, 0), (250, 50, 83), (50, 183, 250)],
        "Object": [(0, 0, 0), (128, 0, 0), (0, 128, 0)],
    }
    for part, table in colours.items():
        save(folder / f"Segmentation{part}" / "a.png", np.array(table, np.uint8)[numbers()])
    lines = ["# label:color_rgb:parts:actions", "background:0,0,0::", "cat:250,50,83::", "dog:50,183,250::"]
    put(folder, "labelmap.txt", "\n".join(lines))
    put(folder, "ImageSets/Segmentation/default.txt", "a\n")
    return folder


def deeplabcut(folder: Path) -> Path:
    pictures(folder / "labeled-data" / "mouse", "img01.png", "img02.png")
    rows = [
        "scorer,Anna,Anna,Anna,Anna",
        "bodyparts,left_ear,left_ear,tail,tail",
        "coords,x,y,x,y",
        "labeled-data/mouse/img01.png,30,25,40.5,28",
        "labeled-data/mouse/img02.png,10,9,,",
    ]
    put(folder, "labeled-data/mouse/CollectedData_Anna.csv", "\n".join(rows) + "\n")
    config = "Task: x\nbodyparts:\n- left_ear\n- tail\nskeleton:\n- - left_ear\n  - tail\nbbox_margin: 4\n"
    put(folder, "config.yaml", config)
    return folder


def coco_forms(folder: Path) -> Path:
    """COCO with polygons, run lengths and crowds."""
    pictures(folder, "a.png", "b.png")
    polygon = [[8.0, 6.0, 24.0, 6.0, 24.0, 20.0, 8.0, 20.0]]
    counts = {"size": list(SIZE), "counts": [100, 20, HEIGHT * WIDTH - 120]}
    rows: list[dict[str, Any]] = [
        {"id": 1, "image_id": 1, "category_id": 3, "bbox": [8, 6, 16, 14], "area": 224, "iscrowd": 0,
         "segmentation": polygon},
        {"id": 2, "image_id": 1, "category_id": 5, "bbox": [2, 4, 2, 44], "area": 20, "iscrowd": 1,
         "segmentation": counts},
        {"id": 3, "image_id": 2, "category_id": 3, "bbox": [34, 22, 22, 20], "area": 440, "iscrowd": 0},
    ]  # fmt: skip
    images = [
        {"id": i, "file_name": f"{n}.png", "height": HEIGHT, "width": WIDTH} for i, n in ((1, "a"), (2, "b"))
    ]
    categories = [{"id": 3, "name": "cat", "supercategory": "animal"}, {"id": 5, "name": "dog"}]
    return put(
        folder, "instances.json",
        {"info": {}, "images": images, "annotations": rows, "categories": categories},
    )  # fmt: skip


MAKERS: dict[str, Callable[[Path], Path]] = {
    "coco": coco_forms,
    "voc": written("voc", outlines=False),
    "voc-segmentation": voc_segmentation,
    "masks": written("masks"),
    "labels": written("labels"),
    "components": components,
    "yolo": written("yolo"),
    "labelme": labelme,
    "cityscapes": cityscapes,
    "coco-panoptic": panoptic,
    "semantic": semantic,
    "via": via,
    "csv": written("csv", outlines=False),
    "createml": written("createml", outlines=False),
    "cvat": written("cvat"),
    "label-studio": written("label-studio"),
    "supervisely": supervisely,
    "geojson": written("geojson"),
    "imagej": written("imagej"),
    "cellpose": cellpose,
    "dota": dota,
    "csv-masks": csv_masks,
    "cvat-masks": cvat_masks,
    "deeplabcut": deeplabcut,
    "mot": other.mot,
    "kitti": other.kitti,
    "image-folder": other.image_folder,
    "datumaro": other.datumaro,
    "aperio": other.aperio,
    "fiftyone": other.fiftyone,
    "cell-tracking": other.cell_tracking,
    "parquet": written("parquet"),
    "webdataset": written("webdataset"),
}
"""By key of ``rcnn.data.formats.registry.FORMATS``: each makes a data set in a folder; the path to open."""
MORE_MAKERS: dict[str, tuple[str, Callable[[Path], Path]]] = {
    "coco keypoints": ("coco", written("coco", keypoints=True)),
    "yolo keypoints": ("yolo", written("yolo", keypoints=True)),
    "cvat keypoints": ("cvat", written("cvat", keypoints=True)),
}
"""Further data sets, with the keys of their formats."""


def require_right(data: Dataset) -> int:
    """Assert what holds of every data set that was read; the number of its objects and maps.

    Everything is loaded: masks and maps that cannot be read raise what the reader raises.
    """
    assert data.format in {row.name for row in formats().values()}
    texts = (*data.class_names, *data.semantic_names, *map(str, data.problems))
    for text in texts:
        assert isinstance(text, str), text
    objects = 0
    for record in data.records:
        assert isinstance(record.image_id, int | str)
        assert not isinstance(record.image_id, bool)
        require_right_truth(record.load_truth(), data)
        objects += len(record.truth) + (record.semantic is not None)
    return objects


def require_right_truth(truth: Instances, data: Dataset) -> None:
    """Assert that the objects of one image lie in it and fit the data set."""
    height, width = truth.size
    assert height > 0
    assert width > 0
    count = len(truth)
    assert truth.boxes.shape == (count, 4)
    assert truth.boxes.dtype == np.float32
    assert np.isfinite(truth.boxes).all()
    assert (truth.boxes[:, :2] < truth.boxes[:, 2:]).all()
    assert (truth.boxes >= 0).all()
    assert (truth.boxes <= [width, height] * 2).all()
    assert ((truth.labels >= 0) & (truth.labels < len(data.class_names))).all()
    for name in Instances.per_object():
        value = getattr(truth, name)
        assert value is None or len(value) == count, name
    if truth.masks is not None:
        assert truth.masks.size == truth.size
        assert (truth.masks.areas() >= 0).all()
    if truth.keypoints is not None:
        assert data.skeleton is not None
        assert truth.keypoints.shape == (count, len(data.skeleton.names), 3)
        assert np.isfinite(truth.keypoints).all()
    if truth.semantic is not None:
        assert truth.semantic.shape == truth.size
        classes = truth.semantic[truth.semantic != 255]
        assert classes.size == 0 or (classes.min() >= 0 and classes.max() < len(data.semantic_names))


def open_whole(path: Path, key: str) -> int:
    """Open a data set by its format, load all of it, and check it; the number of its objects."""
    return require_right(open_data(path, format=key))
