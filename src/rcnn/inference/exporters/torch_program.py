"""``.pt2`` files: the traced program itself."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from rcnn.inference.exported_metadata import METADATA_FILE
from rcnn.inference.exporters.graph import without_warnings
from rcnn.io.atomic import write_atomically
from rcnn.structures import Array


def write(
    program: torch.export.ExportedProgram, metadata: Mapping[str, Any], out: Path, images: Sequence[Array]
) -> None:
    """Write the program with its metadata."""
    content = io.BytesIO()
    with without_warnings():
        torch.export.save(program, content, extra_files={METADATA_FILE: json.dumps(metadata)})
    write_atomically(out, content.getvalue())
