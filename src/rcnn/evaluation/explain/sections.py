"""What each stage is called, which section of a paper describes it, and where it is in the code.

Stages that note what they decide say both themselves (:class:`rcnn.structures.trace.Note`), so that a
cascade, an R-CNN and a user's own head are named as what they are.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import CodeType

import rcnn
from rcnn.ops.anchors import grid_anchors
from rcnn.parts.rpn import RPN

ARXIV = {
    "R-CNN": "1311.2524",
    "Fast R-CNN": "1504.08083",
    "Faster R-CNN": "1506.01497",
    "FPN": "1612.03144",
    "Mask R-CNN": "1703.06870",
    "Cascade R-CNN": "1712.00726",
}


@dataclass(frozen=True)
class Section:
    """A stage.

    Attributes:
        title: what it is called.
        note: the note that says where it is.
        paper: its section, where the note does not say it or there is no note.
        code: the function, where there is no note.
    """

    title: str
    note: str = ""
    paper: str = ""
    code: CodeType | None = None


SECTIONS: dict[str, Section] = {
    "anchors": Section("Anchors", paper="Faster R-CNN §3.1.1", code=grid_anchors.__code__),
    "rpn_boxes": Section("Boxes of the RPN", paper="Faster R-CNN §3.1", code=RPN.forward.__code__),
    "top_k": Section("Best anchors of each level", "rpn.level"),
    "rpn_nms": Section("Suppression among proposals", "rpn"),
    "proposals": Section("Best proposals", "rpn"),
    "external": Section("External proposals", "regions"),
    "box": Section("Region of interest and its box", "regions"),
    "not_background": Section("Object or background", "selection"),
    "class": Section("Class", "selection"),
    "threshold": Section("Score threshold", "selection"),
    "per_class": Section("Best regions of each class", "selection"),
    "nms": Section("Suppression within each class", "selection"),
    "cap": Section("Cap on detections", "selection"),
    "tiles": Section("Core of the tile", "tiles"),
    "tile_nms": Section("Suppression among tiles", "tiles"),
    "tile_cap": Section("Cap on detections of the image", "tiles"),
    "mask": Section("Mask", "masks"),
}


@dataclass(frozen=True)
class Source:
    """Where a stage is described and written.

    Attributes:
        paper: the section of the paper; empty where none describes it.
        url: of the paper.
        code: file and function.
        line: the first line of the function.
        text: the function itself.
    """

    paper: str
    url: str
    code: str
    line: int
    text: str


def source_of(key: str, notes: Mapping[str, tuple[str, CodeType]]) -> Source:
    """Where a stage is described and written.

    Args:
        key: of ``SECTIONS``.
        notes: the paper and the function of each note, by its stage.
    """
    section = SECTIONS[key]
    paper, code = notes.get(section.note, (section.paper, section.code))
    assert code is not None
    name = paper.partition(" §")[0]
    url = f"https://arxiv.org/abs/{ARXIV[name]}" if name in ARXIV else ""
    return Source(paper, url, f"{_shown(code)}: {code.co_qualname}", code.co_firstlineno, _text(code))


def _shown(code: CodeType) -> str:
    """The file of a function, from the package's folder on where it is in the package."""
    file, package = Path(code.co_filename), Path(rcnn.__file__).parent
    return str(file.relative_to(package.parent)) if file.is_relative_to(package) else file.name


def _text(code: CodeType) -> str:
    """The source of a function; empty where it is not at hand."""
    try:
        return inspect.cleandoc("\n" + inspect.getsource(code))
    except OSError:
        return ""
