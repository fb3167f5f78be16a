"""Write Pascal VOC's XML files; :mod:`rcnn.data.formats.voc` describes them."""

from __future__ import annotations

from collections import Counter
from xml.etree import ElementTree

import numpy as np
import numpy.typing as npt

from rcnn.data.formats.writer import Item, Writer


class VocWriter(Writer):
    """Pascal VOC boxes; corners that are not between pixels have decimals."""

    holds = frozenset({"difficult"})
    image_folder = "JPEGImages"

    def write(self, item: Item) -> None:
        """Write one XML file."""
        sides = item.truth.boxes[:, 2:] - item.truth.boxes[:, :2]
        narrow: npt.NDArray[np.bool_] = np.any(sides <= 1, axis=1)
        item = self.drop(item, narrow, "boxes of at most one pixel, which VOC readers ignore")
        truth = item.truth
        root = ElementTree.Element("annotation")
        _leaf(root, "folder", self.image_folder)
        _leaf(root, "filename", item.image.name)
        size = ElementTree.SubElement(root, "size")
        for name, value in zip(("height", "width", "depth"), (*truth.size, 3), strict=True):
            _leaf(size, name, value)
        hard = [False] * len(truth) if truth.difficult is None else truth.difficult.tolist()
        for name, box, difficult in zip(truth.names, truth.boxes.tolist(), hard, strict=True):
            thing = ElementTree.SubElement(root, "object")
            _leaf(thing, "name", name)
            _leaf(thing, "difficult", int(difficult))
            corners = ElementTree.SubElement(thing, "bndbox")
            x1, y1, x2, y2 = box
            for corner, value in zip(("xmin", "ymin", "xmax", "ymax"), (x1 + 1, y1 + 1, x2, y2), strict=True):
                _leaf(corners, corner, f"{value:.10g}")
        ElementTree.indent(root)
        folder = self.folder / "Annotations"
        folder.mkdir(exist_ok=True)
        ElementTree.ElementTree(root).write(folder / f"{item.image.stem}.xml", "utf-8")

    def finish(self) -> None:
        """Note the classes that are lost or merged, since VOC stores class names only with objects."""
        folded = Counter(name.casefold() for name in self.dataset.class_names)
        for name in self.dataset.class_names:
            if not self.counts[name]:
                self.dropped.note("classes without an object", name)
            elif folded[name.casefold()] > 1:
                self.dropped.note("classes that differ only in case", name)


def _leaf(parent: ElementTree.Element, name: str, value: object) -> None:
    ElementTree.SubElement(parent, name).text = str(value)
