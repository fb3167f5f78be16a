"""What reads, checks, converts, holds and measures data needs no torch."""

import pkgutil
import subprocess
import sys
from importlib.util import find_spec

import pytest

SINGLE = (
    "dataset",
    "check",
    "convert",
    "fixing",
    "splitting",
    "merging",
    "shapes",
    "archives",
    "external_proposals",
)  # of rcnn.data; fmt: skip
PACKAGES = ("data.formats", "structures", "io", "metrics", "evaluation")
# The last one is for several processes, which torch connects.
NEEDS_TORCH = {"rcnn.io.checkpoint", "rcnn.evaluation.rpn_proposals", "rcnn.evaluation.shares"}


def modules() -> list[str]:
    """The modules named above, found without importing them."""
    names = [f"rcnn.data.{name}" for name in SINGLE]
    for package in (f"rcnn.{name}" for name in PACKAGES):
        spec = find_spec(package)
        assert spec is not None
        inside = pkgutil.iter_modules(spec.submodule_search_locations)
        names += [package, *(f"{package}.{module.name}" for module in inside)]
    return [name for name in names if name not in NEEDS_TORCH]


@pytest.fixture(scope="module")
def failures() -> dict[str, str]:
    """Modules that cannot be imported where torch cannot, and why; one process tries all of them."""
    code = """
import importlib, sys
for name in ("torch", "torchvision", "timm"):
    sys.modules[name] = None
for name in sys.argv[1:]:
    try:
        importlib.import_module(name)
    except ImportError as error:
        print(name, error, sep="\\t")
"""
    command = [sys.executable, "-c", code, *modules()]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return dict(line.split("\t", 1) for line in done.stdout.splitlines())


@pytest.mark.parametrize("module", modules())
def test_imported_without_torch(module: str, failures: dict[str, str]) -> None:
    assert failures.get(module) is None
