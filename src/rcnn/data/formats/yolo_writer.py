"""Write YOLO's text files and ``data.yaml``; :mod:`rcnn.data.formats.yolo` describes them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rcnn.data.formats.writer import Described, DroppedContent, Item, Writer
from rcnn.structures import DEFAULT_SIGMA
from rcnn.structures.outlines import as_one_polygon, trace


class YoloWriter(Writer):
    """YOLO: keypoints with boxes if there are keypoints, else outlines if there are outlines, else boxes."""

    def __init__(self, folder: Path, dataset: Described, dropped: DroppedContent) -> None:
        super().__init__(folder, dataset, dropped)
        self.kind = "keypoints" if dataset.skeleton else "outlines" if dataset.has_masks else "boxes"
        self.holds = frozenset({self.kind})

    def write(self, item: Item) -> None:
        """Write one text file."""
        if self.kind == "outlines" and item.truth.masks is None and len(item.truth):
            # A model that finds boxes alone: what predictions have is known with the first.
            self.kind = "boxes"
        if self.kind == "outlines":
            item = self.with_outlines(item)
            self.note_boxes(item)
        height, width = item.truth.size
        scale = np.array([width, height])
        lines: dict[str, None] = {}  # in order, each once
        for index, fractions in enumerate(self._rows(item, scale)):
            label = int(item.truth.labels[index])
            line = " ".join([str(label), *(f"{value:.10g}" for value in fractions)])
            if line in lines:
                self.dropped.note("objects that occur twice", item.place(index))
            else:
                lines[line] = None
        folder = self.folder / "labels"
        folder.mkdir(exist_ok=True)
        text = "".join(f"{line}\n" for line in lines)
        (folder / f"{item.image.stem}.txt").write_text(text, encoding="utf-8")

    def _rows(self, item: Item, scale: npt.NDArray[np.int64]) -> Iterator[list[float]]:
        """The numbers that follow the class in each line."""
        if self.kind == "outlines":
            assert item.truth.masks is not None
            windows = item.truth.masks.windows.tolist()
            for index, (patch, (x, y, _, _)) in enumerate(
                zip(item.truth.masks.patches(), windows, strict=True)
            ):
                parts, holes = trace(patch.astype(bool), (y, x))
                if holes:
                    self.dropped.note("outlines with holes, which are filled", item.place(index))
                yield (as_one_polygon(parts) / scale).reshape(-1).tolist()
            return
        corners = item.truth.boxes.astype(np.float64)
        boxes = np.concatenate([(corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]], 1)
        for index, box in enumerate(boxes / np.tile(scale, 2)):
            row = box.tolist()
            if self.kind == "keypoints":
                assert item.truth.keypoints is not None
                points = item.truth.keypoints[index].astype(np.float64)
                points[:, :2] /= scale
                row += points.reshape(-1).tolist()
            yield row

    def finish(self) -> None:
        """Write ``data.yaml``."""
        import yaml

        content: dict[str, Any] = {
            "train": "images",
            "names": dict(enumerate(self.dataset.class_names)),
        }
        skeleton = self.dataset.skeleton
        if skeleton is not None:
            names = {label: list(skeleton.names) for label in range(len(self.dataset.class_names))}
            content |= {"kpt_shape": [len(skeleton.names), 3], "flip_idx": list(skeleton.mirror)}
            content["kpt_names"] = names
            for a, b in skeleton.bones:
                self.dropped.note("bones of the skeleton", f"{skeleton.names[a]} to {skeleton.names[b]}")
            for name, sigma in zip(skeleton.names, skeleton.sigmas, strict=True):
                if sigma != DEFAULT_SIGMA:
                    self.dropped.note("sigmas of keypoints", f"{name}: {sigma:g}")
        # Unescaped, breaks of lines such as U+0085 would be read as blanks.
        plain = all(name.isprintable() for name in self.dataset.class_names)
        text = yaml.dump(content, allow_unicode=plain, sort_keys=False)
        (self.folder / "data.yaml").write_text(text, encoding="utf-8")
