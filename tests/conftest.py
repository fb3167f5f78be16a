"""What several tests share: where the real data sets are, and fixtures for tests that train."""

import os
import tempfile
from collections.abc import Iterator
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


@pytest.fixture(scope="session", autouse=True)
def without_matrix_units() -> Iterator[None]:
    """Networks compute in float32 where nothing else is asked for, whatever CPU the tests run on."""
    import torch

    with pytest.MonkeyPatch.context() as patch:
        for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"):
            patch.setattr(torch.cpu, name, lambda: False)
        yield


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Computed by one thread, sums have one order."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def short_folder() -> Iterator[str]:
    """A folder with a name short enough for Ray's sockets."""
    with tempfile.TemporaryDirectory(prefix="r", ignore_cleanup_errors=True) as folder:
        yield folder


@pytest.fixture
def no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """The report is half of the time that a tiny run takes."""
    from rcnn.training import results

    monkeypatch.setattr(
        results, "write_report", lambda path, **_: path.write_text("a report", encoding="utf-8")
    )


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
