"""The law of ``rcnn.config.ranges``, over every setting that there is."""

import math
from collections.abc import Iterator
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass, replace
from typing import Any, get_args, get_type_hints

import pytest

from rcnn.config import build_settings, override_tables, parse_assignments
from rcnn.config.ranges import RANGE, Range, check_ranges, ranged
from rcnn.inference.output_files import OutputFiles
from rcnn.io import checkpoint
from rcnn.loading import load_detector
from rcnn.models import MODELS
from rcnn.parts.box_head import BoxHeadSettings, CascadeSettings, PoolSettings
from rcnn.parts.rpn import RPNSettings
from rcnn.training.recipe import default_recipe
from rcnn.transform import Transform

VALUES = [math.nan, math.inf, -math.inf, 0, -1, 10**9]


def kinds() -> dict[type, Any]:
    """Every dataclass of settings, with a valid instance."""
    found: dict[type, Any] = {}

    def add(settings: Any) -> None:
        found.setdefault(type(settings), settings)
        for spec in fields(settings):
            value = getattr(settings, spec.name)
            if is_dataclass(value):
                add(value)

    for model in MODELS:
        recipe = default_recipe(model)
        for table in (recipe.settings, recipe.transform, recipe.augment, recipe.train):
            add(table)
    add(CascadeSettings())
    add(OutputFiles())
    return found


def is_numeric(hint: Any) -> bool:
    return hint in (int, float) or any(is_numeric(argument) for argument in get_args(hint))


def cases() -> Iterator[tuple[type, Field[Any], Any]]:
    for kind in kinds():
        hints = get_type_hints(kind)
        for spec in fields(kind):
            if spec.init and is_numeric(hints[spec.name]) and not is_dataclass(hints[spec.name]):
                yield kind, spec, hints[spec.name]


CASES = list(cases())


def with_number(value: Any, hint: Any, number: float) -> Any:
    """A setting's value with a number in it, in a tuple at the first place of its innermost first tuple."""
    if isinstance(value, tuple):
        return (with_number(value[0], hint, number), *value[1:])
    return (number,) * 2 if value is None and "tuple" in str(hint) else number


def test_every_number_has_a_range_with_its_default_inside() -> None:
    without = [f"{kind.__name__}.{spec.name}" for kind, spec, _ in CASES if RANGE not in spec.metadata]
    assert not without
    assert len(CASES) > 90
    assert all(spec.default is not MISSING for _, spec, _ in CASES)


@pytest.mark.parametrize("number", VALUES, ids=str)
@pytest.mark.parametrize(
    ("kind", "spec", "hint"), CASES, ids=lambda v: getattr(v, "__name__", getattr(v, "name", ""))
)
def test_no_setting_is_made_with_a_number_outside_its_range(
    kind: type, spec: Field[Any], hint: Any, number: float
) -> None:
    good = kinds_of()[kind]
    value = with_number(getattr(good, spec.name), hint, number)
    refused = ""
    try:
        made = replace(good, **{spec.name: value})
    except ValueError as error:
        refused = str(error)
    if refused:
        assert spec.name in refused
    else:
        assert number in spec.metadata[RANGE], f"{kind.__name__}.{spec.name} was made with {number}"
        assert getattr(made, spec.name) == value


_KINDS: dict[type, Any] = {}


def kinds_of() -> dict[type, Any]:
    if not _KINDS:
        _KINDS.update(kinds())
    return _KINDS


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("model.box.nms_iou=50", r"model\.box: nms_iou is 50.*expected a number from 0 to 1"),
        ("model.box.nms_iou=nan", r"nms_iou: got nan"),
        ("transform.std=[0.0, 1.0, 1.0]", r"std is \[0\.0, 1\.0, 1\.0\]: expected a number above 0"),
        ("model.rpn.min_side=inf", r"min_side: got inf"),
        ("model.box.pool.canonical_level=99", r"model\.box\.pool: canonical_level is 99"),
        ("model.box.pool.canonical_size=-1", r"canonical_size is -1"),
        (
            "train.batch_size=1000000000",
            r"batch_size is 1000000000: expected at least 1 image, at most 100000",
        ),
    ],
)
def test_settings_that_gave_no_objects_in_silence_are_refused(setting: str, message: str) -> None:
    recipe = default_recipe("mask_rcnn")
    tables = {"model": recipe.settings, "transform": recipe.transform, "train": recipe.train}
    with pytest.raises(ValueError, match=message):
        override_tables(tables, parse_assignments([setting]))


def test_a_checkpoints_settings_are_checked_too(tmp_path: Any) -> None:
    tensors, metadata = checkpoint.read_checkpoint(_shipped())
    metadata["transform"]["std"] = [0.5, 0.0, 0.5]
    file = checkpoint.write_checkpoint(tmp_path / "bad.safetensors", tensors, metadata)
    with pytest.raises(ValueError, match=r"bad\.safetensors: .*std is \[0\.5, 0\.0, 0\.5\]"):
        load_detector(file)


def _shipped() -> Any:
    from rcnn.loading import shipped

    return shipped()["nuclei"]


def test_python_is_checked_as_files_are() -> None:
    with pytest.raises(ValueError, match="nms_iou is 50"):
        RPNSettings(nms_iou=50)
    with pytest.raises(ValueError, match=r"size is 7\.5: expected a number from 1 to 256 \(an integer\)"):
        PoolSettings(size=7.5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="max_detections 0"):
        build_settings(BoxHeadSettings(), {"max_detections": 0}, "box")
    assert Transform(short_side=None).short_side is None


@dataclass(frozen=True)
class Mine:
    """A dataclass of a user's own."""

    open: float = ranged(0.5, 0, 1, above=True, below=True)
    pairs: tuple[tuple[int, int], ...] = ranged(((1, 2),), 1, 3)

    def __post_init__(self) -> None:
        check_ranges(self)


def test_the_ends_of_ranges() -> None:
    for number in (0, 1):
        with pytest.raises(ValueError, match=r"open is .: expected a number above 0 to below 1"):
            Mine(open=number)
    with pytest.raises(ValueError, match=r"pairs is \[\(1, 4\)\]: expected a number from 1 to 3"):
        Mine(pairs=((1, 4),))
    assert 1 in Range(0, 1)
    assert math.nan not in Range(-math.inf, math.inf)
    assert 10**400 not in Range(0, 1e308), "no float is as large"
