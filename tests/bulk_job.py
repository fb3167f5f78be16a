"""A trained model so small that a shard takes moments, and the images of a job."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from rcnn.inference.detector import Detector
from rcnn.transform import Transform
from tiny import NAMES, tiny_network, tiny_recipe, tiny_shapes

BROKEN = 2  # the number of the image that is none


def saved_model(folder: Path, model: str = "mask_rcnn") -> str:
    """A checkpoint that finds something everywhere, untrained as it is."""
    torch.manual_seed(0)
    path = folder / f"{model}.safetensors"
    Detector(tiny_network(tiny_recipe(model)), Transform(), NAMES, min_score=0.05).save(path)
    return str(path)


def images(folder: Path, count: int, *, broken: bool = False) -> Path:
    """A folder of pictures ``00.png`` and so on; one of them is none."""
    folder.mkdir(parents=True)
    shapes = tiny_shapes(count)
    for number in range(count):
        path = folder / f"{number:02}.png"
        if broken and number == BROKEN:
            path.write_bytes(b"no picture")
        else:
            Image.fromarray(np.asarray(shapes[number].image)).save(path)
    return folder
