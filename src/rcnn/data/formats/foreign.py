"""Files of tools and data sets that are not read: what they are, and what to do with them.

Consulted where no format is recognised, so that the message names the tool and the way on instead of all
formats. A file is known by its extension (``ENDINGS``), or by what it begins with (``CONTENTS``); folders by
what is all they contain.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from rcnn.data.formats.contents import head
from rcnn.data.formats.folders import NOT_DATA, is_image_folder, split_of, subfolders
from rcnn.io.images import IMAGE_ENDINGS, image_files

MOST_FILES, DEEPEST = 2000, 5  # files and levels of folders looked at
LOOKED_INTO = 60  # files of which the beginning is read
TEXTS = ("", ".json", ".xml", ".txt", ".csv", ".jsonl", ".odgt", ".geojson", ".ndjson", ".manifest")
EXPORT = "Export or convert the annotations to COCO JSON."
AS_COCO = "Export the data set there as COCO."
LABELBOX = "Convert it to COCO JSON; Roboflow, for example, imports it and exports COCO."
# In the names of folders and files of masks.
LABELS = re.compile(
    r"(?:^|[\W_])(?:\w*masks?|labels?|annotations?|seg|gt|ground.?truth)(?=$|[\W_\d])", re.IGNORECASE
)
NUMBER = r"-?\d+(?:\.\d+)?"

# What a file with an extension is, and what to do.
ENDINGS = {
    (".tfrecord", ".tfrecords", ".record"): ("a TFRecord file", EXPORT),
    (".parquet", ".arrow"): (
        "a table of the library datasets",
        "Open it in Python: rcnn.open_data(datasets.load_dataset(…)).",
    ),
    (".mat",): (
        "a MATLAB file",
        "Save its label images as TIFF (scipy.io.loadmat, tifffile.imwrite) in labels/, next to images/.",
    ),
    (".npy", ".npz"): (
        "NumPy arrays",
        "Save each image in images/ and its object numbers in labels/, as TIFF (tifffile.imwrite).",
    ),
    (".h5", ".hdf5", ".hdf", ".zarr", ".slp"): (
        "an HDF5 or Zarr file, as SLEAP and ilastik write them",
        "Export it: images as PNG or TIFF, annotations as COCO JSON or label images.",
    ),
    (".pt", ".pth", ".onnx", ".safetensors", ".engine", ".tflite"): (
        "a model, not a data set",
        "Name the data set here, and the model with --weights or rcnn predict.",
    ),
    (".mp4", ".avi", ".mov", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv"): (
        "a video",
        "Objects in it are found by rcnn predict; to learn from it, save annotated frames as images.",
    ),
    (".nii", ".nii.gz", ".mha", ".mhd", ".nrrd"): (
        "a medical volume (NIfTI, MetaImage or NRRD)",
        "Save its slices as PNG or TIFF: images in images/, object numbers in labels/.",
    ),
    (".dcm", ".dicom"): ("a DICOM file", "Save the images as PNG or TIFF, under the annotated names."),
    (".czi", ".nd2", ".lif", ".oib", ".oif", ".vsi", ".lsm", ".ims", ".svs", ".ndpi", ".mrxs", ".scn"): (
        "a microscope's or slide scanner's file",
        "Save the images as TIFF, for example with ImageJ (Bio-Formats) or QuPath.",
    ),
    (".cr2", ".cr3", ".nef", ".arw", ".dng", ".orf", ".rw2", ".raf"): (
        "a camera's raw file",
        "Save the photographs as JPEG or PNG.",
    ),
    (".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".7z", ".rar"): (
        "an archive",
        "Unpack it, and name the folder.",
    ),
    (".xlsx", ".xls", ".ods"): ("a spreadsheet", "Save it as CSV with one line per box."),
    (".jsonl", ".ndjson"): ("a JSON Lines file", EXPORT),
    (".manifest",): ("a manifest of SageMaker Ground Truth", EXPORT),
    (".odgt",): ("an annotation file of CrowdHuman, JSON Lines", EXPORT),
    (".jpg.txt", ".png.txt", ".json.txt", ".xml.txt", ".csv.txt"): (
        "a file whose extension was doubled",
        "Remove .txt from its name.",
    ),
}  # fmt: skip

# What a text file begins with, by extension; the first that fits counts.
CONTENTS = (
    (".json", r'"(?:samples|frames)".*"_cls"|"media_type"\s*:\s*"(?:image|video)"', "a file of FiftyOne",
     "Export the data set as COCO (dataset_type=fo.types.COCODetectionDataset), or pass it in Python."),
    (".json", r'"item"\s*:.*"slots"\s*:|darwin_json', "a file of V7 Darwin", AS_COCO),
    (".json", r'"data_row"\s*:|"DataRow ID"', "an export of Labelbox", LABELBOX),
    (".ndjson", r'.*"data_row"\s*:', "an export of Labelbox", LABELBOX),
    (".json", r'"task_id"\s*:.*"(?:params|response)"\s*:', "a file of Scale's tasks", EXPORT),
    (".json", r'"className"\s*:', "a file of SuperAnnotate",
     "Convert it to COCO with SuperAnnotate's Python package."),
    (".json", r'"label_hash"\s*:|"data_units"\s*:', "an export of Encord", AS_COCO),
    (".json", r'"export_format_version"\s*:', "an export of Hasty", AS_COCO),
    (".json", r'"captures"\s*:\s*\[', "a file of Unity's Perception package",
     "Convert it to COCO: pip install pysolotools, then solo2coco SOLO_FOLDER OUTPUT_FOLDER."),
    (".json", r'"blobs"\s*:.*"arrows"\s*:', "a file of AI2D diagrams", EXPORT),
    (".json", r'"labels"\s*:\s*\[\s*\{[^}]*"instances"\s*:\s*(?:true|false)',
     "the configuration of Mapillary Vistas", "Datumaro converts it to COCO: see the end of docs/data.md."),
    (".json", r'"(?:sample_data_token|ego_pose_token|key_camera_token)"\s*:', "a table of nuImages", EXPORT),
    (".json", r'"assets?"\s*:\s*\{.*"(?:regions|asset)"\s*:', "a file of VoTT", "Export there as CSV."),
    (".json", r'"jsonResponse"\s*:', "an export of Kili", AS_COCO),
    (".json", r'"shapes"\s*:\s*\[.*"label_id"\s*:.*"tracks"\s*:|"tracks".*"shapes".*"source"\s*:',
     "a file of a CVAT backup", "Export the task there as COCO 1.0 or CVAT 1.1."),
    (".jsonl", r'.*"spans"\s*:', "an export of Prodigy", EXPORT),
    (".json", r'"box2d"\s*:', "a file of BDD100K (Scalabel)",
     "Convert it to COCO with its toolkit: python -m bdd100k.label.to_coco -m det."),
    (".json", r'"videos"\s*:\s*\[', "a file of annotated videos (YouTube-VIS)",
     "Convert it to COCO JSON with one image per frame."),
    (".json", r'"channel_names"\s*:|"numTraining"\s*:', "a data set of nnU-Net (NIfTI)",
     "Save slices as PNG or TIFF: images in images/, object numbers in labels/."),
    ("", r"<annotation>", "a file of Pascal VOC without the extension .xml",
     "Add the extension to its name."),
    (".xml", r"<HRSC_Image\b", "an annotation file of HRSC2016", EXPORT),
    (".xml", r"<ASAP_Annotations\b", "an annotation file of ASAP",
     "Open the slide in QuPath, import the file there, and export GeoJSON."),
    (".xml", r"<dataset>.*<image\s+file=", "a file of dlib's imglab", EXPORT),
    (".txt", rf"{NUMBER},{NUMBER},{NUMBER},{NUMBER},\d+,\d+,-?\d+,-?\d+,?\s*(?:\n|$)",
     "a label file of VisDrone", "Convert it to YOLO or COCO JSON."),
    (".txt", rf"(?:\d+,\s*){{2}}(?:{NUMBER},\s*){{4}}", "a file of tracks (MOT Challenge, VisDrone)",
     "VIDEO/gt/gt.txt is read, with the frames in VIDEO/img1/; convert others to COCO JSON."),
    (".txt", r"\(\s*\d+\s*,\s*\d+\s*\)\s*,\s*\(\s*\d+", "a label file of NWPU VHR-10, (x1,y1),(x2,y2),class",
     "Write it as CSV with the columns filename,xmin,ymin,xmax,ymax,class."),
    (".txt", rf"\S+\.jpe?g\s*\n\d+\s*\n{NUMBER} {NUMBER} ", "a list of faces (WIDER FACE)",
     "Write it as CSV with the columns filename,xmin,ymin,xmax,ymax,class."),
    (".txt", r"\S.*?\.(?:jpe?g|png|bmp)\s+(?:\d+,){4}\d+", "a list for keras-yolo3, image x1,y1,x2,y2,class",
     "Write it as CSV with the columns filename,xmin,ymin,xmax,ymax,class."),
    (".txt", rf"[A-Za-z][\w &-]*(?: {NUMBER}){{4}}\s*(?:\n|$)",
     "a label file with a class name and corners x1 y1 x2 y2, as OIDv4 writes them",
     "Write it as CSV with the columns filename,xmin,ymin,xmax,ymax,class."),
    (".csv", r"[^\n]*\b(?:label|annotation|result)\b[^\n]*\n.*(?:rectangle|polygon|brush)labels?\b",
     "the CSV export of Label Studio", "Export as JSON or COCO there."),
    (".csv", r"filename(?:,\s*\w[\w -]*)+\n[^,\n]+(?:,\s*[01])+\s*(?:\n|$)",
     "a table of classes for whole images, without boxes",
     "That is classification: objects need boxes or outlines; annotate some."),
)  # fmt: skip
KNOWN = tuple((ending, re.compile(pattern, re.DOTALL), what, do) for ending, pattern, what, do in CONTENTS)


class Foreign(NamedTuple):
    """A file that is not read.

    Attributes:
        file: one of its kind.
        what: what it is.
        advice: what to do with it.
    """

    file: Path
    what: str
    advice: str

    @property
    def is_text(self) -> bool:
        """Whether it has been looked into."""
        return self.file.suffix.lower() in TEXTS

    def __str__(self) -> str:
        return f"{self.file.name} is {self.what}, which is not read. {self.advice}"


def foreign_file(source: Path) -> Foreign | None:
    """The first file at a path that is known not to be read; text files come before binary ones."""
    files = [source] if source.is_file() else list(_files_below(source))
    texts = [file for file in files if file.suffix.lower() in TEXTS][:LOOKED_INTO]
    found = next((known for file in texts if (known := _by_content(file)) is not None), None)
    return found or next((known for file in files if (known := _by_ending(file)) is not None), None)


def lack_of_annotations(source: Path) -> str | None:
    """What a path with nothing but images is, None if it has other files."""
    if source.is_file():
        if source.suffix.lower() not in IMAGE_ENDINGS:
            return None
        return "this is an image, without annotations. rcnn predict finds objects in images"
    files = list(_files_below(source))
    if not files:
        return "the folder is empty"
    if not all(file.suffix.lower() in IMAGE_ENDINGS for file in files):
        return None
    marked = next((f for f in files if LABELS.search(f.relative_to(source).as_posix())), None)
    if marked is not None:
        return (
            f"it has only images, some of which look like masks, such as {marked.relative_to(source)}. "
            "Put the images into images/ and their masks or label images, by the same names, into labels/; "
            "or name the folder that has both, with --images for images elsewhere"
        )
    if len(_class_folders(source)) > 1:
        return (
            "it has only images, in one folder per class: that is classification, which needs no "
            "detector. To find objects, annotate them with boxes or outlines"
        )
    return (
        "it has only images, without annotations. Annotate some (docs/going-on.md names tools), or find "
        "objects in them with rcnn predict"
    )


def _class_folders(source: Path) -> list[Path]:
    """The folders with images, of each split or of all, if no word in their names is known."""
    below = subfolders(source)
    below = [f for part in below for f in subfolders(part)] if any(split_of(f.name) for f in below) else below
    return [f for f in below if image_files(f) and not is_image_folder(f.name) and split_of(f.name) is None]


def _files_below(source: Path) -> Iterator[Path]:
    """The visible files at a path, those higher up first within a folder; not all of a large one."""
    seen = 0
    for folder, folders, files in os.walk(source):
        deep = len(Path(folder).relative_to(source).parts) >= DEEPEST
        folders[:] = [] if deep else sorted(f for f in folders if f[0] != "." and f not in NOT_DATA)
        for name in sorted(files):
            if not name.startswith("."):
                yield Path(folder) / name
                seen += 1
        if seen > MOST_FILES:
            return


def _by_ending(file: Path) -> Foreign | None:
    name = file.name.lower()
    for endings, (what, advice) in ENDINGS.items():
        if name.endswith(endings):
            return Foreign(file, what, advice)
    return None


def _by_content(file: Path) -> Foreign | None:
    text = head(file)
    text = re.sub(r"^(?:<\?xml.*?\?>|<!--.*?-->|\s)+", "", text, flags=re.DOTALL)
    for ending, pattern, what, advice in KNOWN:
        if file.suffix.lower() == ending and _begins(pattern, ending, text):
            return Foreign(file, what, advice)
    return None


def _begins(pattern: re.Pattern[str], ending: str, text: str) -> bool:
    """Whether a JSON text has a pattern, or another begins with it."""
    return (pattern.search(text) if ending == ".json" else pattern.match(text)) is not None
