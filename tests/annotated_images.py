"""Small images on disk, and their objects as lists, for the tests of formats."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from rcnn.data.dataset import Dataset

WIDTH, HEIGHT = 64, 48
FIRST, SECOND = (8, 6, 24, 20), (34, 22, 56, 42)  # boxes


def image(folder: Path, *names: str, size: tuple[int, int] = (WIDTH, HEIGHT)) -> None:
    """Images of these names, each with other pixels."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        seed = np.random.default_rng(list(name.encode()))
        Image.fromarray(seed.integers(0, 255, (size[1], size[0], 3), np.uint8)).save(path)


def put(folder: Path, name: str, content: Any) -> Path:
    """A text file, or JSON of anything else."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def boxes(data: Dataset) -> dict[str, list[tuple[str, tuple[float, ...]]]]:
    """Class and box of every object, by the name of its image."""
    return {
        r.path.name: [
            (name, tuple(box)) for name, box in zip(r.truth.names, r.truth.boxes.tolist(), strict=True)
        ]
        for r in data.records
    }


def errors(data: Dataset) -> list[str]:
    """The errors as texts."""
    return [str(problem) for problem in data.problems if problem.severity == "error"]


def areas(data: Dataset, index: int = 0) -> list[float]:
    """The areas of the masks of an image."""
    masks = data[index].truth.masks
    assert masks is not None
    return masks.areas().tolist()
