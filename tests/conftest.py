"""What several tests share: where the real data sets lie."""

import os
from importlib.util import find_spec
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


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs the extra ``export`` where it is not installed, as with the oldest torch."""
    import torch

    from rcnn.inference.exporters import OLDEST_TORCH

    packages = ("onnx", "onnxscript", "onnxruntime", "openvino")
    there = tuple(int(part) for part in torch.__version__.split(".")[:2]) >= OLDEST_TORCH
    if there and all(map(find_spec, packages)):
        return
    for item in items:
        if item.get_closest_marker("export"):
            item.add_marker(pytest.mark.skip(reason='needs the extra "export"'))
