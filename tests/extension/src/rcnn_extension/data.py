"""A data set, a format and an augmentation of one's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from rcnn.data.builder import Annotation, DatasetBuilder
from rcnn.data.dataset import Dataset


class TwoSquares:
    """A data set as torchvision's references have them: ``(image, target)``, labels from 1."""

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> tuple[Any, dict[str, Any]]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        image = torch.full((3, 96, 96), 40, dtype=torch.uint8)
        boxes = torch.tensor([[8.0, 10, 34, 36], [50.0, 48, 80, 78]]) + index
        masks = torch.zeros((2, 96, 96), dtype=torch.uint8)
        for mask, (x1, y1, x2, y2) in zip(masks, boxes.int().tolist(), strict=True):
            mask[y1:y2, x1:x2] = 1
            image[:, y1:y2, x1:x2] = 200
        return image, {"boxes": boxes, "labels": torch.tensor([1, 2]), "masks": masks}


def mirror_colours(sample: Any, rng: np.random.Generator) -> Any:
    """An augmentation: now and then the channels of the image in another order."""
    from dataclasses import replace

    return replace(sample, image=sample.image.flip(0)) if rng.random() < 0.5 else sample


class Squares:
    """A format: a folder with ``squares.txt``, lines of an image's name and the corners of one object."""

    name = "squares"

    @staticmethod
    def read(path: Path) -> Dataset:
        """Open such a folder."""
        builder = DatasetBuilder("squares", path)
        builder.declare_classes(("square",))
        for line in (path / "squares.txt").read_text().splitlines():
            name, *corners = line.split()
            picture = builder.add_file(path / name, Path(name).stem)
            box = picture and builder.usable_box(tuple(map(float, corners)), picture, name)
            if picture and box:
                picture.annotations.append(Annotation(box, 0, name))
        return builder.build()
