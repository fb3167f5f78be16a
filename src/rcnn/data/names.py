"""Which file names an annotation format can hold.

**Law:** what is written is read back equal, and a name that a format cannot hold is refused, before anything
is written.
"""

from __future__ import annotations

import re

from rcnn.data.dataset import Dataset
from rcnn.io.escaping import for_terminal

# Names stand in the text of these files, which is UTF-8.
_TEXT = {"coco", "voc", "csv", "createml", "cvat", "label-studio"}
_XML = {"voc", "cvat"}
_IN_ADDRESSES = set("&#?%")  # Label Studio's files have addresses of images
_SURROGATE = re.compile("[\ud800-\udfff]")  # a byte that is no UTF-8
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\ufffe\uffff]")


def refuse_names(dataset: Dataset, to: str) -> None:
    """Refuse images whose names the format ``to`` cannot hold.

    Raises:
        ValueError: it names the first of them, and what to do.
    """
    for record in dataset.records:
        name = record.path.name
        if to in _TEXT and _SURROGATE.search(name):
            why = "is not UTF-8"
        elif to in _XML and (_CONTROL.search(name) or name != name.strip()):
            why = "has control characters, or blanks at an end"
        elif to == "label-studio" and (_CONTROL.search(name) or set(name) & _IN_ADDRESSES):
            why = "has control characters, or characters with a meaning in addresses"
        else:
            continue
        shown = for_terminal(str(record.path).encode(errors="backslashreplace").decode())
        raise ValueError(f"{shown}: its name {why}, which --to {to} cannot hold; rename the file")
