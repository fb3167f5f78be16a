"""The names of ``import rcnn``: all there, none of them dear before it is used."""

import doctest
import importlib
import os
import subprocess
import sys
from pathlib import Path
from types import FunctionType

import pytest

import rcnn

SOURCE = str(Path(__file__).parents[1] / "src")


FUNCTIONS = (
    "bench", "check", "convert", "data_stats", "demo", "evaluate", "evaluate_results", "explain",
    "explain_data", "export", "fix_data", "get_data",
    "import_weights", "list_models", "load", "measure", "merge", "merge_data", "next_images", "open_data",
    "predict", "propose", "push", "report", "sample_images", "show", "split_data", "train",
    "write_annotations",
)  # fmt: skip
MAX_MODULES = 8  # at the top level, beside the folders


@pytest.mark.parametrize("name", rcnn.__all__)
def test_every_public_name_is_what_its_module_has(name: str) -> None:
    value = getattr(rcnn, name)
    assert isinstance(value, type) != (name in FUNCTIONS)
    assert callable(value)
    assert value.__doc__
    assert (value.__module__, value.__name__) == rcnn._HOMES[name]


def test_no_module_has_the_name_of_a_function() -> None:
    """Importing ``rcnn.export``, if it was a module, would replace the function of that name."""
    entries = list(Path(rcnn.__file__).parent.iterdir())
    modules = {path.stem for path in entries if path.suffix == ".py" and path.stem != "__init__"}
    folders = {path.name for path in entries if (path / "__init__.py").is_file()}
    assert not (modules | folders) & set(rcnn.__all__)
    assert len(modules) <= MAX_MODULES


def test_what_is_listed() -> None:
    assert sorted(rcnn._HOMES) == sorted(rcnn.__all__)
    assert set(rcnn.__all__) <= set(dir(rcnn))
    assert "__version__" in dir(rcnn)


def test_an_unknown_name() -> None:
    with pytest.raises(AttributeError, match="module 'rcnn' has no attribute 'trian'"):
        _ = rcnn.trian


def test_functions_stay_functions_when_their_neighbours_are_imported() -> None:
    for module in (
        "rcnn.importers.convert",
        "rcnn.inference.writers",
        "rcnn.inference.annotation_folders",
        "rcnn.inference.next_images",
        "rcnn.training.demo",
        "rcnn.training.inventory",
        "rcnn.training.trainer",
        "rcnn.training.run",
        "rcnn.evaluation.evaluator",
        "rcnn.inference.detector",
        "rcnn.inference.exporters",
        "rcnn.inference.benchmark",
        "rcnn.evaluation.data_page",
        "rcnn.evaluation.report",
        "rcnn.evaluation.proposal_recall",
        "rcnn.data.archives",
        "rcnn.data.check",
        "rcnn.data.convert",
        "rcnn.data.fixing",
        "rcnn.data.merging",
        "rcnn.data.show",
        "rcnn.data.splitting",
        "rcnn.data.formats.open",
        "rcnn.measuring.measurements",
    ):
        importlib.import_module(module)
    for name in FUNCTIONS:
        assert isinstance(getattr(rcnn, name), FunctionType), name
    assert rcnn.train is importlib.import_module("rcnn.training.run").train


CODE = """
import sys
import rcnn
heavy = {"torch", "torchvision", "timm", "numpy", "matplotlib", "pydantic"} & set(sys.modules)
assert not heavy, heavy
assert "train" in dir(rcnn)
"""


def test_importing_the_package_costs_nothing() -> None:
    environment = {**os.environ, "PYTHONPATH": SOURCE}
    done = subprocess.run(
        [sys.executable, "-c", CODE], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_the_tour_of_the_docstring() -> None:
    """Its examples parse and begin with what can be run; the names it tells of exist."""
    (example, *rest) = doctest.DocTestParser().get_examples(rcnn.__doc__ or "")
    exec(compile(example.source, "docstring", "exec"), {})
    assert all(compile(each.source, "docstring", "exec") for each in rest)
    for name in ("open_data", "train", "FasterRCNN", "MaskRCNN", "evaluate", "load", "Detector", "Instances"):
        assert f"{name}" in (rcnn.__doc__ or "")
        assert name in rcnn.__all__
