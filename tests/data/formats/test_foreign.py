"""Data of tools that are not read: the message names the tool and the way on, in one line."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.annotated_images import image, put

from rcnn.data.formats.open import open_data, open_splits

BINARY = {
    "train/cells.tfrecord": "TFRecord.*COCO",
    "train-0.parquet": r"rcnn\.open_data\(datasets\.load_dataset",
    "labels/a.mat": "MATLAB.*TIFF",
    "fold1/masks/fold1/masks.npy": "NumPy arrays.*labels/, as TIFF",
    "labels.v001.slp": "SLEAP.*COCO",
    "best.pt": "a model, not a data set",
    "clip.MP4": "a video.*rcnn predict",
    "labelsTr/a.nii.gz": "NIfTI.*slices",
    "images/a.czi": "microscope.*ImageJ",
    "labels.xlsx": "Save it as CSV",
    "annotations.json.txt": r"Remove \.txt",
    "export/cells.7z": "Unpack it",
}
TEXT: dict[str, tuple[Any, str]] = {
    "metadata.json": ({"name": "x", "media_type": "image"}, "FiftyOne.*COCO"),
    "det_train.json": ([{"name": "a.jpg", "labels": [{"box2d": {"x1": 1}}]}], "BDD100K.*to_coco"),
    "train.json": ({"videos": [], "annotations": [], "categories": []}, "YouTube-VIS.*one image per frame"),
    "dataset.json": ({"channel_names": {"0": "x"}, "numTraining": 1}, "nnU-Net"),
    "Annotations/1.xml": ("<HRSC_Image><HRSC_Objects/></HRSC_Image>", "HRSC2016.*COCO"),
    "a.xml": ("<?xml version='1.0'?>\n<ASAP_Annotations><Annotation/></ASAP_Annotations>", "ASAP.*QuPath"),
    "boxes.xml": ("<dataset><images><image file='a.jpg'/></images></dataset>", "imglab.*COCO"),
    "tracks.txt": ("1,1,8,6,16,14,1,1,1.0\n", "MOT Challenge.*gt/gt.txt.*COCO"),
    "annotations/v.txt": ("8,6,16,14,1,4,0,0\n", "VisDrone.*COCO"),
    "ground truth/1.txt": ("(8,6),(24,20),1\n", "NWPU.*CSV"),
    "wider_face_bbx_gt.txt": ("0--Parade/a.jpg\n1\n8 6 16 14 0 0 0 0 0 0\n", "WIDER FACE.*CSV"),
    "train.txt": ("images/a.jpg 8,6,24,20,0 34,22,56,42,0\n", "keras-yolo3.*CSV"),
    "Cell/Label/a.txt": ("Cell 8.0 6.0 24.0 20.0\n", "OIDv4.*CSV"),
    "p.csv": ('image,id,label\na.jpg,1,"[{""rectanglelabels"": [""cell""]}]"\n', "Label Studio.*JSON"),
    "_classes.csv": ("filename, cell, drop\na.jpg, 1, 0\n", "whole images.*classification"),
    "_annotations.train.jsonl": ('{"image": "a.jpg"}\n', "JSON Lines.*COCO"),
    "darwin.json": ({"version": "2.0", "item": {"name": "a.jpg", "slots": []}}, "V7 Darwin.*COCO"),
    "export.json": ([{"data_row": {"id": "x"}, "projects": {}}], "Labelbox.*COCO"),
    "old.json": ([{"ID": "x", "DataRow ID": "y", "Label": {}}], "Labelbox.*COCO"),
    "export.ndjson": ('{"data_row": {"id": "x"}}\n', "Labelbox.*COCO"),
    "tasks.json": ([{"task_id": "x", "type": "a", "params": {}, "response": {}}], "Scale's tasks.*COCO"),
    "a.jpg___objects.json": ({"metadata": {}, "instances": [{"className": "c"}]}, "SuperAnnotate.*COCO"),
    "encord.json": ([{"label_hash": "x", "data_units": {}}], "Encord.*COCO"),
    "hasty.json": ({"project_name": "p", "export_format_version": "1.1", "images": []}, "Hasty.*COCO"),
    "captures_000.json": ({"version": "1", "captures": [{"filename": "a"}]}, "Unity's.*solo2coco"),
    "0.png.json": ({"blobs": {}, "text": {}, "arrows": {}}, "AI2D.*COCO"),
    "config.json": ({"labels": [{"name": "x", "instances": True}]}, "Mapillary Vistas.*Datumaro"),
    "ann.jsonl": ('{"image": "a.jpg", "spans": []}\n', "Prodigy.*COCO"),
    "train.odgt": ('{"ID": "a", "gtboxes": []}\n', "CrowdHuman.*COCO"),
}


@pytest.mark.parametrize("name", BINARY)
def test_binary_files_are_named(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"\x89\0\1\2")
    with pytest.raises(ValueError, match=BINARY[name]) as caught:
        open_splits(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", TEXT)
def test_text_files_are_named_with_the_way_on(name: str, tmp_path: Path) -> None:
    content, message = TEXT[name]
    put(tmp_path, name, content)
    image(tmp_path, "images/a.jpg")
    with pytest.raises(ValueError, match=message) as caught:
        open_splits(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_file_itself_is_named(tmp_path: Path) -> None:
    image(tmp_path, "a.jpg")
    with pytest.raises(ValueError, match=r"an image, without annotations.*rcnn predict"):
        open_data(tmp_path / "a.jpg")
    np.save(tmp_path / "masks.npy", np.zeros(3))
    with pytest.raises(ValueError, match=r"masks\.npy is NumPy arrays"):
        open_data(tmp_path / "masks.npy")


def test_images_alone_are_told_from_classification_and_from_masks(tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    image(tmp_path / "plain", "a.jpg", "b.jpg")
    image(tmp_path / "sorted", "train/cat/a.jpg", "train/dog/b.jpg", "valid/cat/c.jpg", "valid/dog/d.jpg")
    image(tmp_path / "tracks", "01/t000.tif", "01_GT/TRA/man_track000.tif")
    for name, message in [
        ("none", "the folder is empty"),
        ("plain", "only images, without annotations"),
        ("sorted", "one folder per class: that is classification"),
        ("tracks", r"look like masks, such as 01_GT/TRA/man_track000\.tif.*into labels/"),
    ]:
        with pytest.raises(ValueError, match=message):
            open_splits(tmp_path / name)


def test_data_in_folders_come_before_what_is_not_read(tmp_path: Path) -> None:
    put(tmp_path, "train.txt", "images/a.jpg 8,6,24,20,0\n")
    for part in ("one", "two"):
        image(tmp_path / part, "images/a.jpg")
        put(tmp_path / part, "labels/a.txt", "0 0.5 0.5 0.2 0.2\n")
        put(tmp_path / part, "classes.txt", "cell\n")
    with pytest.raises(ValueError, match=r"can be opened: .*one, .*two\."):
        open_splits(tmp_path)
