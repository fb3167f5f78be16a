"""Classes under other numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from rcnn.structures import VOID


def renumber(classes: npt.NDArray[np.integer[Any]], table: Sequence[int]) -> npt.NDArray[np.int64]:
    """A semantic map ``[H, W]`` with ``table[value]`` for each value; what is beyond the table is void."""
    values = np.full(VOID + 1, VOID, np.int64)
    values[: len(table)] = table
    renumbered: npt.NDArray[np.int64] = values[classes]
    return renumbered
