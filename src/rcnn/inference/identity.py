"""What distinguishes a model from others: whether two give the same results."""

from __future__ import annotations

import hashlib
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rcnn.inference.detector import Detector
    from rcnn.inference.exported import ExportedDetector


def digest_of(detector: Detector | ExportedDetector) -> str:
    """A digest of a model's weights and settings, wherever it is kept and on whatever device it runs.

    Of an exported model only the metadata are looked at; :func:`file_digest` looks at its graph, too.
    """
    about = (
        detector.class_names, detector.semantic_names, detector.transform, sorted(detector.info.items()),
    )  # fmt: skip
    digest = hashlib.sha256(repr(about).encode(errors="surrogateescape"))
    network = getattr(detector, "network", None)
    if network is not None:
        digest.update(repr(network.settings).encode())
        for tensor in network.state_dict().values():
            digest.update(str(zlib.crc32(tensor.detach().cpu().contiguous().view(-1).numpy().data)).encode())
    return digest.hexdigest()


def file_digest(path: Path) -> str:
    """The SHA-256 of a file, or of all files of a folder."""
    digest = hashlib.sha256()
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        if file.is_file():
            with file.open("rb") as content:
                digest.update(hashlib.file_digest(content, "sha256").digest())
    return digest.hexdigest()
