"""The table of formats: how each one is recognised, read and written.

``FORMATS`` is a plain dict. A custom format is another row in it, or any object with the attributes of
:class:`Format` that a dotted path names (``open_data(path, format="my_package.formats:MyFormat")``); only
``name`` and ``read`` are required.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rcnn.config import did_you_mean, is_dotted_path, resolve
from rcnn.data.formats import (
    aperio,
    cell_tracking,
    cellpose,
    cityscapes,
    coco,
    coco_json,
    coco_panoptic,
    components,
    createml,
    csv_boxes,
    csv_masks,
    cvat,
    cvat_masks,
    datumaro,
    deeplabcut,
    dota,
    fiftyone_json,
    geojson,
    image_folder,
    imagej,
    kitti,
    label_image,
    label_studio,
    labelme,
    labelme_writer,
    mask_files,
    mask_folder,
    mot,
    parquet_reader,
    parquet_shards,
    semantic,
    supervisely,
    via,
    voc,
    voc_masks,
    voc_writer,
    webdataset_reader,
    webdataset_writer,
    yolo,
    yolo_layout,
    yolo_writer,
)
from rcnn.data.formats.row import Format as Format
from rcnn.data.formats.row import as_format as as_format


def _has_other_masks(path: Path, images: Path | None) -> bool:
    """Whether a folder has a mask per object, named or known classes of pixels, or CVAT's colours."""
    if images is not None and (
        cityscapes.is_cityscapes(path, images) or voc_masks.is_segmentation_folder(path, images)
    ):
        return True
    other = mask_files.has_mask_files(path, images) or semantic.is_semantic_folder(path, images)
    return other or cvat_masks.is_cvat_masks(path)


def _is_label_images(path: Path, images: Path | None = None) -> bool:
    return not _has_other_masks(path, images) and label_image.is_objects_folder(path, images)


def _is_foreground(path: Path, images: Path | None = None) -> bool:
    if _has_other_masks(path, images):
        return False
    if not label_image.is_label_folder(path, images):
        return False
    return label_image.meaning_of_folder(path, images).kind == "foreground"


def _is_segmentation(path: Path, images: Path | None = None) -> bool:
    # CVAT's masks are in colours; a folder that has boxes, too, is opened for them.
    folder = voc_masks.is_segmentation_folder(path, images) and not voc.is_voc(path)
    return (folder or voc_masks.is_segmentation_list(path)) and not cvat_masks.is_cvat_masks(path)


FORMATS: dict[str, Any] = {
    "coco": Format(
        name="coco",
        sizes=True,
        read=coco.read_coco,
        sniff=coco_json.is_instances,
        guess=coco_json.is_only_json,
        write=coco.CocoWriter,
        options=("images",),
        title="COCO",
        description="`instances.json`, with its images next to it or in the folder `--images` (`images=…`)",
        gives="boxes, masks, keypoints",
    ),
    "voc": Format(
        name="voc",
        sizes=True,
        read=voc.read_voc,
        sniff=voc.is_voc,
        write=voc_writer.VocWriter,
        options=("images", "split"),
        parents=("ImageSets",),
        title="Pascal VOC",
        description=(
            "`DATA/Annotations/*.xml` with `DATA/JPEGImages/` or `DATA/Images/`, or an `a.xml` next to each "
            "`a.jpg`; for one split, the file `DATA/ImageSets/Main/trainval.txt`"
        ),
        gives="boxes, masks if there are polygons",
    ),
    "voc-segmentation": Format(
        name="voc segmentation",
        sizes=True,
        read=voc_masks.read_voc_masks,
        sniff=_is_segmentation,
        options=("images",),
        parents=("ImageSets",),
        title="Pascal VOC segmentation",
        description=(
            "the file `DATA/ImageSets/Segmentation/train.txt`; or `DATA/` without `ImageSets`, with "
            "`JPEGImages/` and `SegmentationClass/`"
        ),
        gives="semantic maps, and masks if there are any",
    ),
    "masks": Format(
        name="mask folders",
        sizes=True,
        read=mask_folder.read_mask_folders,
        sniff=mask_files.has_mask_files,
        write=mask_folder.MaskFolderWriter,
        options=("images",),
        title="mask folders",
        description=(
            "`DATA/<id>/images/<one image>` with `DATA/<id>/masks/*.png`, one object each; or "
            "`DATA/images/a.png` with `DATA/masks/a/*.png` or `DATA/masks/a_0.png`, …"
        ),
        gives="masks",
    ),
    "labels": Format(
        name="label images",
        sizes=True,
        read=label_image.read_label_images,
        sniff=_is_label_images,
        write=label_image.LabelImageWriter,
        options=("images",),
        title="label images",
        description=(
            "`DATA/images/` with `DATA/labels/` or `masks/`, `*.png` or `.tif`, whose pixels are object "
            "numbers; or `DATA/a.png` with `DATA/a_label.tif`, `a_masks.png`, …"
        ),
        gives="masks",
    ),
    "components": Format(
        name="connected components",
        sizes=True,
        read=components.read_components,
        sniff=_is_foreground,
        options=("images",),
        title="connected components",
        description="like label images, but black and white: each separate part is one object",
        gives="masks",
    ),
    "yolo": Format(
        name="yolo",
        read=yolo.read_yolo,
        sniff=yolo_layout.is_yolo,
        guess=yolo_layout.lacks_names,
        write=yolo_writer.YoloWriter,
        options=("images", "split"),
        parents=("images",),
        title="YOLO",
        description=(
            "`data.yaml`; with several splits, `DATA/images/train` with `DATA/labels/train/*.txt`; or "
            "darknet's `obj.data`, as CVAT exports it"
        ),
        gives="boxes, masks or keypoints",
    ),
    "labelme": Format(
        name="labelme",
        sizes=True,
        read=labelme.read_labelme,
        sniff=labelme.is_labelme_folder,
        write=labelme_writer.LabelmeWriter,
        options=("images",),
        title="LabelMe",
        description="`DATA/*.json`, one per image; or `DATA/annotations/*.json` with `DATA/images/`",
        gives="masks, keypoints",
    ),
    "cityscapes": Format(
        name="cityscapes",
        sizes=True,
        read=cityscapes.read_cityscapes,
        sniff=cityscapes.is_cityscapes,
        options=("images",),
        parents=("gtFine",),
        title="Cityscapes",
        description="`DATA/gtFine/train` with `DATA/leftImg8bit/train`",
        gives="masks, semantic maps",
    ),
    "coco-panoptic": Format(
        name="coco panoptic",
        sizes=True,
        read=coco_panoptic.read_coco_panoptic,
        sniff=coco_json.is_panoptic_file,
        options=("images",),
        title="COCO panoptic",
        description="`panoptic.json`, with its PNGs in `panoptic/` and its images as for COCO",
        gives="masks, semantic maps",
    ),
    "semantic": Format(
        name="semantic",
        sizes=True,
        read=semantic.read_semantic,
        sniff=semantic.is_semantic_folder,
        options=("images",),
        title="semantic maps",
        description=(
            "`DATA/classes.txt`, `DATA/images/`, and `DATA/labels/*.png`, whose pixels are class numbers"
        ),
        gives="semantic maps",
    ),
    "via": Format(
        name="via",
        read=via.read_via,
        sniff=via.is_via,
        options=("images",),
        title="VIA",
        description="a project, JSON or CSV file of the VGG Image Annotator, versions 1 to 3",
        gives="boxes, masks",
    ),
    "csv": Format(
        name="csv",
        read=csv_boxes.read_csv_boxes,
        sniff=csv_boxes.is_csv_boxes,
        write=csv_boxes.CsvWriter,
        options=("images",),
        title="CSV boxes",
        description=(
            "a table with one line per box, such as those of TensorFlow, Roboflow, keras-retinanet, SKU110K, "
            "Open Images"
        ),
        gives="boxes",
    ),
    "createml": Format(
        name="createml",
        read=createml.read_createml,
        sniff=createml.is_createml,
        write=createml.CreatemlWriter,
        options=("images",),
        title="CreateML",
        description="`_annotations.createml.json`, a list with one entry per image",
        gives="boxes",
    ),
    "image-folder": Format(
        name="image-folder",
        read=image_folder.read_image_folder,
        sniff=image_folder.is_image_folder,
        options=("images",),
        title="Hugging Face ImageFolder",
        description="`metadata.jsonl` with `file_name` and `objects` in each line, beside the images",
        gives="boxes",
    ),
    "cvat": Format(
        name="cvat",
        sizes=True,
        read=cvat.read_cvat,
        sniff=cvat.is_cvat,
        write=cvat.CvatWriter,
        options=("images", "split"),
        title="CVAT",
        description="`annotations.xml` of images, or of a video with its frames in `DATA/images/`",
        gives="boxes, masks, keypoints",
    ),
    "label-studio": Format(
        name="label studio",
        sizes=True,
        read=label_studio.read_label_studio,
        sniff=label_studio.is_label_studio,
        write=label_studio.LabelStudioWriter,
        options=("images",),
        title="Label Studio",
        description="its JSON export, full or minimal",
        gives="boxes, masks, keypoints",
    ),
    "supervisely": Format(
        name="supervisely",
        sizes=True,
        read=supervisely.read_supervisely,
        sniff=supervisely.is_supervisely,
        options=("images",),
        title="Supervisely",
        description="a project with `meta.json`, or one data set with `DATA/ann/*.json` and `DATA/img/`",
        gives="boxes, masks, keypoints",
    ),
    "geojson": Format(
        name="geojson",
        read=geojson.read_geojson,
        sniff=geojson.is_geojson,
        write=geojson.GeojsonWriter,
        options=("images",),
        title="GeoJSON",
        description="`a.geojson` of QuPath next to each `a.tif`, or in a folder of their own",
        gives="masks",
    ),
    "imagej": Format(
        name="imagej",
        read=imagej.read_imagej,
        sniff=imagej.is_imagej,
        write=imagej.ImagejWriter,
        options=("images",),
        title="ImageJ ROIs",
        description="`a.zip` or `a_RoiSet.zip` next to each `a.tif`; or one image with `RoiSet.zip`",
        gives="boxes, masks",
    ),
    "cellpose": Format(
        name="cellpose",
        read=cellpose.read_cellpose,
        sniff=cellpose.is_cellpose,
        options=("images",),
        title="Cellpose",
        description="`a_seg.npy` next to each `a.tif`",
        gives="masks",
    ),
    "dota": Format(
        name="dota",
        read=dota.read_dota,
        sniff=dota.is_dota,
        options=("images",),
        title="DOTA",
        description="`DATA/labelTxt/*.txt` with `DATA/images/`",
        gives="masks",
    ),
    "csv-masks": Format(
        name="csv masks",
        read=csv_masks.read_csv_masks,
        sniff=csv_masks.is_csv_masks,
        options=("images",),
        title="CSV masks",
        description="a table with a run-length code per object: `ImageId,EncodedPixels`",
        gives="masks",
    ),
    "cvat-masks": Format(
        name="cvat masks",
        read=cvat_masks.read_cvat_masks,
        sniff=cvat_masks.is_cvat_masks,
        options=("images",),
        parents=("ImageSets",),
        title="CVAT masks",
        description="`DATA/labelmap.txt`, `SegmentationClass/`, `SegmentationObject/` and `JPEGImages/`",
        gives="masks, semantic maps",
    ),
    "deeplabcut": Format(
        name="deeplabcut",
        read=deeplabcut.read_deeplabcut,
        sniff=deeplabcut.is_deeplabcut,
        options=("images",),
        title="DeepLabCut",
        description="a project with `labeled-data/*/CollectedData_*.csv`, or one of its folders or tables",
        gives="keypoints, boxes around them",
    ),
    "kitti": Format(
        name="kitti",
        read=kitti.read_kitti,
        sniff=kitti.is_kitti,
        options=("images",),
        title="KITTI",
        description="`DATA/label_2/*.txt` with `DATA/image_2/`, or `labels/` with `images/`",
        gives="boxes",
    ),
    "mot": Format(
        name="mot",
        read=mot.read_mot,
        sniff=mot.is_mot,
        options=("images",),
        title="MOT Challenge",
        description="a video with `DATA/gt/gt.txt` and `DATA/img1/`, or a folder of videos",
        gives="boxes",
    ),
    "aperio": Format(
        name="aperio",
        read=aperio.read_aperio,
        sniff=aperio.is_aperio,
        options=("images",),
        title="Aperio XML",
        description="`a.xml` of ImageScope for each `a.tif`, as MoNuSeg and MoNuSAC have them",
        gives="masks",
    ),
    "datumaro": Format(
        name="datumaro",
        read=datumaro.read_datumaro,
        sniff=datumaro.is_datumaro,
        options=("images",),
        title="Datumaro",
        description="`annotations/default.json` of Datumaro, with `DATA/images/`",
        gives="boxes, masks, keypoints",
    ),
    "fiftyone": Format(
        name="fiftyone",
        read=fiftyone_json.read_fiftyone_json,
        sniff=fiftyone_json.is_fiftyone_json,
        options=("images",),
        title="FiftyOne",
        description="`samples.json` or `labels.json`, as FiftyOne exports them, with `DATA/data/`",
        gives="boxes, masks",
    ),
    "parquet": Format(
        name="parquet shards",
        sizes=True,
        read=parquet_reader.read_parquet,
        sniff=parquet_shards.is_parquet_shards,
        write=parquet_shards.ParquetWriter,
        title="Parquet shards",
        description=(
            "`DATA/*.parquet`, written by `rcnn data convert DATA OUT --to parquet`; needs the extra `bulk`"
        ),
        gives="boxes, masks, keypoints, semantic maps",
    ),
    "webdataset": Format(
        name=webdataset_reader.NAME,
        sizes=True,
        read=webdataset_reader.read_webdataset,
        sniff=webdataset_reader.is_webdataset,
        write=webdataset_writer.WebdatasetWriter,
        title="WebDataset",
        description=(
            "`DATA/*.tar`, or `shard-{000000..000099}.tar`: tar files with an image and its `.json` for each "
            "key"
        ),
        gives="boxes, masks, keypoints, semantic maps",
    ),
    "cell-tracking": Format(
        name="cell tracking",
        read=cell_tracking.read_cell_tracking,
        sniff=cell_tracking.is_cell_tracking,
        title="Cell Tracking Challenge",
        description="`DATA/01/t000.tif` with `DATA/01_GT/SEG/man_seg000.tif`, and other sequences",
        gives="masks",
    ),
}
"""The formats by the keys that ``--format`` and ``--to`` accept."""


def formats() -> dict[str, Format]:
    """The rows of ``FORMATS``, with defaults added to custom ones."""
    return {key: as_format(row, f"FORMATS[{key!r}]") for key, row in FORMATS.items()}


def find_format(name: str) -> Format:
    """The format named by a key of ``FORMATS``, another spelling of one, or a dotted path.

    Raises:
        ValueError: no such format, or an object that is not a format.
    """
    key = format_key(name)
    if key in FORMATS:
        return as_format(FORMATS[key], f"FORMATS[{key!r}]")
    if is_dotted_path(name):
        return as_format(resolve(name), name)
    raise ValueError(
        f"format {name!r}: {did_you_mean(name, FORMATS)}expected one of {', '.join(FORMATS)}, or a dotted "
        "path to a custom format, such as my_package.formats:MyFormat"
    )


def format_key(name: str) -> str:
    """The key of ``FORMATS`` that is meant: ``labelstudio`` is ``label-studio``; other names as they are."""
    keys = {key.replace("-", ""): key for key in FORMATS}
    return name if name in FORMATS else keys.get(name.replace("-", "").replace("_", ""), name)


def writable() -> list[str]:
    """The keys of the writable formats."""
    return [key for key, row in formats().items() if row.write is not None]


def for_predictions() -> list[str]:
    """The keys of the writable formats that predictions can be written in, too."""
    return [key for key in writable() if getattr(find_format(key).write, "for_predictions", True)]


def names_of_formats() -> str:
    """The titles of the formats for messages."""
    return ", ".join(row.title or row.name for row in formats().values())


def markdown_table() -> str:
    """The list of formats in docs/data.md."""
    lines = ["| format | `--format` | DATA | gives |", "|---|---|---|---|"]
    for key, row in formats().items():
        link = f"[{row.title}](#{row.title.lower().replace(' ', '-')})"
        lines.append(f"| {link} | `{key}` | {row.description} | {row.gives} |")
    return "\n".join(lines)
