"""Files that are whole or not there at all."""

from __future__ import annotations

import contextlib
import io
import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image


def write_atomically(path: Path, content: bytes) -> None:
    """Put ``content`` at ``path`` in one step; on any failure the previous file stays, alone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # One fixed name: what a killed process left is overwritten by the next save.
    part = path.with_name(f".{path.name}.part")
    try:
        with part.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        raise


def write_image(image: Image.Image, path: Path) -> Path:
    """Write ``image`` as ``.png`` or ``.jpg`` as :func:`write_atomically` does."""
    content = io.BytesIO()
    # Speed over size: an overlay is looked at once.
    kind = "PNG" if path.suffix.lower() == ".png" else "JPEG"
    image.save(content, kind, compress_level=1, quality=92)
    write_atomically(path, content.getvalue())
    return path
