"""The Cell Tracking Challenge: image sequences, and label images of some of their frames.

    01/t000.tif     01_GT/SEG/man_seg000.tif    of experts (gold truth)
    02/t000.tif     02_ST/SEG/man_seg000.tif    of computers (silver truth), where there is no 01_GT/SEG

The numbers in a label image are objects of the class ``object``. Frames without a label image are skipped
with a warning. ``TRA`` has marks for tracking, which are not the shapes of cells and are not read.
"""

from __future__ import annotations

import re
from pathlib import Path

from rcnn.data.builder import DatasetBuilder
from rcnn.data.dataset import Dataset
from rcnn.data.formats.folders import subfolders
from rcnn.data.formats.label_image import CLASS_NAMES, read_pairs
from rcnn.data.formats.label_pairs import Pair
from rcnn.data.problems import shortened
from rcnn.io.images import image_files

TRUTH = re.compile(r"(\d+)_(GT|ST)")
LABEL = re.compile(r"man_seg_?(\d+)")
SLICE = re.compile(r"man_seg_?\d+_\d+")
FRAME = re.compile(r"t(\d+)")


def is_cell_tracking(path: Path) -> bool:
    """Whether a folder has sequences with label images, or is ``01_GT``."""
    return bool(_segmented(path))


def _segmented(source: Path) -> dict[Path, Path]:
    """The folder of label images for each sequence at a path; gold truth comes before silver."""
    source = source.absolute()
    own = TRUTH.fullmatch(source.name)
    folders = [source] if own else [folder for folder in subfolders(source) if TRUTH.fullmatch(folder.name)]
    found: dict[Path, Path] = {}
    for folder in folders:
        match, labels = TRUTH.fullmatch(folder.name), folder / "SEG"
        if match is not None and any(LABEL.match(file.stem) for file in image_files(labels)):
            found.setdefault(folder.parent / match[1], labels)
    return found


def read_cell_tracking(folder: str | Path) -> Dataset:
    """Open the segmented frames of all sequences in a folder.

    Raises:
        ValueError: there are none, or they are slices of volumes.
    """
    source = Path(folder)
    sequences = _segmented(source)
    if not sequences:
        raise ValueError(f"{source}: expected label images such as 01_GT/SEG/man_seg000.tif; found none.")
    builder = DatasetBuilder("cell tracking", source)
    builder.declare_classes(CLASS_NAMES)
    pairs: list[Pair] = []
    bare: list[str] = []
    for sequence, labels in sequences.items():
        frames = {int(m[1]): f for f in image_files(sequence) if (m := FRAME.fullmatch(f.stem)) is not None}
        for label in image_files(labels):
            match = LABEL.fullmatch(label.stem)
            if SLICE.fullmatch(label.stem):
                raise ValueError(
                    f"{label}: this is one slice of a volume. Save the annotated slices as images of their "
                    "own, in images/, with their label images, by the same names, in labels/."
                )
            if match is not None and (frame := frames.pop(int(match[1]), None)) is not None:
                pairs.append((frame, label))
            elif match is not None:
                builder.report("Its frame is missing.", "Add it, or delete this file.", file=label)
        bare += [f"{sequence.name}/{file.name}" for _, file in sorted(frames.items())]
    if bare:
        what = f"{len(bare)} frames have no label image: {shortened(bare)}."
        builder.warn(what, "They are skipped.", "images")
    return read_pairs(builder, pairs)
