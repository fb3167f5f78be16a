"""What the whole data sets show: two objects in pictures of one size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from annotated_images import FIRST, HEIGHT, SECOND, WIDTH

SIZE = (HEIGHT, WIDTH)
BOXES = (FIRST, SECOND)


def numbers(shift: int = 0) -> np.ndarray:
    """Two objects, 1 and 2, as object numbers ``[H, W]``."""
    found = np.zeros(SIZE, np.uint8)
    for number, (x1, y1, x2, y2) in enumerate(BOXES, 1):
        found[y1 + shift : y2, x1:x2] = number
    return found


def save(path: Path, values: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)
    return path
