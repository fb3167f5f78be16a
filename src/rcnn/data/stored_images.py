"""Image files inside other files, such as the rows of Parquet shards."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from rcnn.io.images import read_image
from rcnn.io.reading import current_reading


class StoredImage(ABC):
    """Loads an image from the bytes of its file; picklable, and decoded without a file of its own."""

    @property
    @abstractmethod
    def path(self) -> Path:
        """The name of the file and where it is, for messages and for its ending."""

    @property
    @abstractmethod
    def place(self) -> str:
        """Where it is in what holds it, for messages."""

    @property
    @abstractmethod
    def content_digest(self) -> str:
        """A digest of the bytes of the file, see ``rcnn.data.twins``."""

    @abstractmethod
    def content(self) -> bytes:
        """The bytes of the file.

        Raises:
            ImageError: there are none.
            ValueError: what holds them cannot be read any more.
        """

    def __call__(self) -> npt.NDArray[np.uint8]:
        """The image, as :func:`rcnn.io.images.read_image` reads its file.

        Raises:
            ImageError: it cannot be decoded.
        """
        return read_image(self.path, reading=current_reading(), content=self.content())


def stored_image(image: Callable[[], npt.NDArray[np.uint8]] | None) -> StoredImage | None:
    """What loads an image, if it does so from the bytes of a file."""
    return image if isinstance(image, StoredImage) else None
