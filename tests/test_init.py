"""The names of ``import rcnn``: all there, none of them dear before it is used."""

import doctest
import importlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import rcnn

SOURCE = str(Path(__file__).parents[1] / "src")


@pytest.mark.parametrize("name", rcnn.__all__)
def test_every_public_name_is_what_its_module_has(name: str) -> None:
    value = getattr(rcnn, name)
    assert value.__name__ == name
    assert value.__module__ == rcnn._HOMES[name]
    assert value.__doc__


def test_what_is_listed() -> None:
    assert sorted(rcnn._HOMES) == sorted(rcnn.__all__)
    assert set(rcnn.__all__) <= set(dir(rcnn))
    assert "__version__" in dir(rcnn)


def test_an_unknown_name() -> None:
    with pytest.raises(AttributeError, match="module 'rcnn' has no attribute 'trian'"):
        _ = rcnn.trian


def test_functions_stay_functions_when_their_neighbours_are_imported() -> None:
    for module in (
        "rcnn.training.trainer",
        "rcnn.training.run",
        "rcnn.evaluation.evaluator",
        "rcnn.inference.detector",
        "rcnn.data.formats.open",
    ):
        importlib.import_module(module)
    for function in (rcnn.train, rcnn.evaluate, rcnn.load, rcnn.open_data):
        assert isinstance(function, Callable)
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
