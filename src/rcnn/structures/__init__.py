"""The containers of truth and results, in NumPy, and the conventions they keep.

Legend: N objects of one image, H and W image height and width in pixels.

Convention:
    Boxes are ``x1 y1 x2 y2``, float32, absolute and continuous: pixel *i* covers ``[i, i + 1)``, so a box
    around the single pixel in the corner is ``0 0 1 1`` and its width is ``x2 - x1 = 1``. Sizes are
    ``(height, width)``. Labels index ``class_names``; there is no background class among them.
"""

from rcnn.structures.boxes import box_ious, paired_box_ious
from rcnn.structures.instances import (
    AREA_COLUMNS,
    OBJECT_COLUMNS,
    VOID,
    Instances,
    table,
)
from rcnn.structures.masks import Array, Masks, PackedMasks, Rle, Size, as_index_list, column_runs
from rcnn.structures.outlines import Outline
from rcnn.structures.panoptic import (
    OTHER,
    MergeSettings,
    Panoptic,
    merge,
    stuff_names,
    true_segments,
)
from rcnn.structures.skeleton import DEFAULT_SIGMA, Skeleton

__all__ = [
    "AREA_COLUMNS",
    "DEFAULT_SIGMA",
    "OBJECT_COLUMNS",
    "OTHER",
    "VOID",
    "Array",
    "Instances",
    "Masks",
    "MergeSettings",
    "Outline",
    "PackedMasks",
    "Panoptic",
    "Rle",
    "Size",
    "Skeleton",
    "as_index_list",
    "box_ious",
    "column_runs",
    "merge",
    "paired_box_ious",
    "stuff_names",
    "table",
    "true_segments",
]
