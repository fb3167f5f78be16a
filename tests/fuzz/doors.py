"""Every door by which a file comes in: a whole file to begin with, what is damaged, and what opens it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from fuzz import data_sets, image_files, model_files, tables

Open = Callable[[Path], int]


@dataclass(frozen=True)
class Door:
    """One way in.

    Attributes:
        make: writes whole files into a folder; returns the path that is opened.
        open: reads the path completely and asserts that the result is right; returns how much was found,
            which is not 0 for the whole files.
        damaged: patterns of the files, below the folder, of which one is damaged.
        seconds: of processor time that one input may take.
        gate: the number of inputs that are tried in the gate.
    """

    make: Callable[[Path], Path]
    open: Open
    damaged: tuple[str, ...] = ("**/*",)
    seconds: float = 10.0
    gate: int = 200


def _data_set(key: str, make: Callable[[Path], Path]) -> Door:
    return Door(make, partial(data_sets.open_whole, key=key))


DOORS: dict[str, Door] = {
    **{key: _data_set(key, make) for key, make in data_sets.MAKERS.items()},
    **{name: _data_set(key, make) for name, (key, make) in data_sets.MORE_MAKERS.items()},
    **{
        f"image {name}": Door(partial(image_files.make, save=save), image_files.open_whole)
        for name, save in image_files.KINDS.items()
    },
    "mask image": Door(image_files.make_mask, image_files.open_mask),
    "label image": Door(image_files.make_mask, image_files.open_numbers),
    **{name: Door(*pair) for name, pair in tables.DOORS.items()},
    **{name: Door(*door, gate=model_files.GATE.get(name, 100)) for name, door in model_files.DOORS.items()},
}


def described(door: str, seed: int) -> str:
    """How an input is repeated by hand."""
    return f"python -m fuzz.child {json.dumps(door)} --seed {seed}  # with PYTHONPATH=src:tests"
