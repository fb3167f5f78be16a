"""A detector without training, for pictures of something dark on white."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from rcnn.inference.detector import Detector
from rcnn.models.model import Model
from rcnn.parts.batch import Detections, ImageBatch, Output
from rcnn.parts.box_head import BoxHeadSettings
from rcnn.structures import Masks
from rcnn.transform import Transform

SCORE = 0.75


@dataclass(frozen=True)
class DarkSettings:
    threshold: float = -0.5
    masks: bool = True


class Dark(Model):
    """Finds one object an image: all that is darker than a threshold, as class 1 with score 0.75."""

    Settings = DarkSettings

    def __init__(self, num_classes: int, settings: DarkSettings | None = None) -> None:
        super().__init__()
        self.settings = settings or DarkSettings()
        self.weight = nn.Parameter(torch.arange(float(num_classes)))
        self.batch_sizes: list[int] = []

    @classmethod
    def selection_of(cls, settings: Any) -> BoxHeadSettings:
        return BoxHeadSettings()

    def forward(
        self,
        batch: ImageBatch,
        targets: Any = None,
        *,
        min_score: float | None = None,
        max_detections: int | None = None,
    ) -> Output:
        assert not self.training
        assert not torch.is_grad_enabled()
        self.batch_sizes.append(len(batch))
        boxes = [self._box(t[:, :h, :w]) for t, (h, w) in zip(batch.tensors, batch.sizes, strict=True)]
        wanted = (min_score or 0) <= SCORE and max_detections != 0
        found = [(i, box) for i, box in enumerate(boxes) if box is not None and wanted]
        count = len(found)
        return Output(
            detections=Detections(
                torch.stack([box for _, box in found]) if found else torch.zeros(0, 4),
                torch.ones(count, dtype=torch.int64),
                torch.full((count,), SCORE),
                torch.tensor([i for i, _ in found], dtype=torch.int64),
                mask_maps=torch.ones(count, 28, 28) if self.settings.masks else None,
            )
        )

    def _box(self, image: Tensor) -> Tensor | None:
        dark = image.mean(0) < self.settings.threshold
        return torch.from_numpy(Masks.from_dense(dark[None].numpy()).boxes()[0]) if dark.any() else None


def detector(**settings: Any) -> Detector:
    return Detector(
        Dark(2, DarkSettings(**settings)), Transform(), ("light", "dark"), info={"metrics": {"AP": 1}}
    )


def picture(dark: bool = True) -> np.ndarray:
    """40 high and 60 wide, white; a black rectangle ``10 20 30 40``, thus 400 pixels round (20, 30)."""
    pixels = np.full((40, 60, 3), 255, dtype=np.uint8)
    if dark:
        pixels[20:40, 10:30] = 0
    return pixels


BOX = np.array([[10, 20, 30, 40]], np.float32)


def picture_file(folder: Path) -> Path:
    """:func:`picture` as a file whose name is not plain."""
    path = folder / "bilder ü" / "ein bild.png"
    path.parent.mkdir()
    Image.fromarray(picture()).save(path)
    return path
