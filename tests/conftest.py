"""What several tests share: where the real data sets lie."""

import os
from pathlib import Path

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:  # as many workers as cores, each with one thread
    os.environ.setdefault("OMP_NUM_THREADS", "1")

ROOT = Path(__file__).parent.parent


def real_data(name: str) -> Path:
    """A folder or file of the real data sets; the test is skipped where they are absent."""
    folder = Path(os.environ.get("RCNN_DATA", ROOT.parent / "shared" / "data")) / name
    if not folder.exists():
        pytest.skip(f"needs the real data set {name} (RCNN_DATA or ../shared/data)")
    return folder
