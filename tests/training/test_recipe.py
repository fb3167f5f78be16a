"""Recipes: the round trip, and what is refused and how it is said."""

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

import pytest

from rcnn.config import build_settings, to_plain
from rcnn.training import recipe as recipes
from rcnn.training.recipe import default_recipe, dump_recipe, load_recipe, named_recipes, with_settings


@dataclass(frozen=True)
class Pool:
    size: int = 7
    aligned: bool = True


@dataclass(frozen=True)
class Head:
    pool: Pool = Pool(size=14)
    extra: Pool | None = Pool()
    maybe: Pool | None = None
    kind: Literal["fc", "conv"] = "fc"
    rate: float = 0.5
    limit: int | None = None
    minutes: float | None = 20.0
    sizes: tuple[tuple[int, ...], ...] = ((32,), (64, 128))
    jitter: tuple[float, float] = (0.75, 1.25)
    folder: Path = Path("runs")
    fast: bool = False

    def __post_init__(self) -> None:
        if self.rate < 0:
            raise ValueError(f"rate must not be negative, not {self.rate}")


def test_values_are_checked_into_the_dataclass() -> None:
    values = {
        "rate": 1,
        "sizes": [[8], [16, 32]],
        "jitter": [1, 2.5],
        "kind": "conv",
        "folder": "x",
        "limit": 3,
    }
    built = build_settings(Head(), values, "head")
    assert built == Head(
        rate=1.0, sizes=((8,), (16, 32)), jitter=(1.0, 2.5), kind="conv", folder=Path("x"), limit=3
    )
    assert isinstance(built.rate, float)
    assert isinstance(built.jitter, tuple)


def test_a_partial_table_keeps_the_other_fields_of_the_enclosing_default() -> None:
    """Head's pool has 14 bins: naming another field of it must not bring back Pool's own 7."""
    assert build_settings(Head(), {"pool": {"aligned": False}}, "head").pool == Pool(14, aligned=False)
    assert build_settings(Head(), {"maybe": {"size": 3}}, "head").maybe == Pool(3)


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param(Head(), id="defaults"),
        pytest.param(Head(minutes=None, extra=None), id="None where it is not the default"),
        pytest.param(Head(limit=5, maybe=Pool(2, False), sizes=(), fast=True), id="everything changed"),
    ],
)
def test_plain_values_build_an_equal_instance(settings: Head) -> None:
    assert build_settings(Head(), to_plain(settings), "head") == settings


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rate": "high"}, r"head\.rate: got 'high' \(str\), expected a number"),
        ({"rate": True}, r"head\.rate: got True \(bool\), expected a number"),
        ({"fast": 1}, r"head\.fast: got 1 \(int\), expected true or false"),
        ({"limit": 2.5}, r'head\.limit: got 2.5 \(float\), expected an integer or "none"'),
        (
            {"kind": "cnov"},
            r"head\.kind: got 'cnov' \(str\), did you mean conv\? expected one of 'fc', 'conv'",
        ),
        (
            {"jitter": [1.0]},
            r"head\.jitter: got \[1.0\] \(list\), expected a list of 2: \[a number, a number\]",
        ),
        ({"pool": {"size": "7"}}, r"head\.pool\.size: got '7' \(str\), expected an integer"),
        ({"pool": 7}, r"head\.pool: got 7, expected a table of settings"),
        ({"pool": "none"}, r"head\.pool: got 'none', expected a table"),
        ({"rates": 0.1}, r"head\.rates: no such setting; did you mean head\.rate\?"),
        ({"pool": {"alligned": True}}, r"head\.pool\.alligned: .* did you mean head\.pool\.aligned\?"),
        ({"size": 7}, r"head\.size: .* did you mean head\.pool\.size\?"),
        ({"zzz": 7}, r"head\.zzz: no such setting; expected one of: head\.pool, head\.extra, "),
        ({"rate": -1}, r"head: rate must not be negative"),
    ],
)
def test_refusals_name_key_got_and_expected(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_settings(Head(), values, "head")


@pytest.mark.parametrize("model", ["faster_rcnn", "mask_rcnn"])
def test_a_dumped_recipe_loads_equal(tmp_path: Path, model: str) -> None:
    recipe = with_settings(default_recipe(model), ["model.fpn=none", "transform.short_side=480"])
    assert recipe.settings.fpn is None
    file = tmp_path / "recipe.toml"
    file.write_text(dump_recipe(recipe), encoding="utf-8")
    assert load_recipe(file) == recipe
    assert recipe != default_recipe(model)


def test_a_dumped_recipe_is_complete() -> None:
    recipe = default_recipe("mask_rcnn")
    text = dump_recipe(recipe)
    assert text.startswith('architecture = "mask_rcnn"\n')
    assert "\nsizes = [[32], [64], [128], [256], [512]]\n" in text
    assert "\n " not in text
    for spec in fields(recipe.train):
        assert (f"{spec.name} = " in text) == (
            getattr(recipe.train, spec.name) is not None or spec.default is not None
        )


def test_settings_are_changed_by_name_in_order() -> None:
    recipe = default_recipe("mask_rcnn")
    changed = with_settings(
        recipe,
        ["model.box.max_detections=500", "train.lr = 0.5", "train.lr=0.01", "augment.scale_jitter=[0.5, 2]",
         "model.backbone.norm=batch", "augment.flip=false"],
    )  # fmt: skip
    assert changed.settings.box.max_detections == 500
    assert changed.settings.box.nms_iou == recipe.settings.box.nms_iou
    assert changed.train == replace(recipe.train, lr=0.01)
    assert changed.augment.flip is False
    assert changed.augment.scale_jitter == (0.5, 2.0)
    assert changed.settings.backbone.norm == "batch"


def test_settings_that_belong_together_come_one_by_one() -> None:
    recipe = default_recipe("faster_rcnn")
    weights = "model.box.cascade.weights=[[20, 20, 10, 10], [30, 30, 15, 15]]"
    changed = with_settings(recipe, ["model.box.cascade.ious=[0.6, 0.7]", weights])
    assert changed.settings.box.cascade.ious == (0.6, 0.7)
    assert (
        with_settings(changed, ["model.box.cascade.ious=[0.5]", "model.box.cascade=none"]).settings
        == recipe.settings
    )


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("train.lr", "expected key=value"),
        ("train.learning_rate=1", r"train\.learning_rate: no such setting"),
        ("train.lrr=1", r"did you mean train\.lr\?"),
        ("model.max_detections=500", r"did you mean model\.box\.max_detections\?"),
        ("lr=1", r"did you mean train\.lr\?"),
        ("trian.lr=1", r"did you mean train\.lr\?|did you mean train\?"),
        ("train=1", "train: got 1, expected a table"),
        ("train.lr=fast", r"train\.lr: got 'fast' \(str\), expected a number"),
        ("architecture=faster_rcnn", "architecture cannot be changed"),
        ("augment.crop=0", "augment: crop must be at least 1 pixel"),
    ],
)
def test_a_bad_setting_is_refused(assignment: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        with_settings(default_recipe("mask_rcnn"), [assignment])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("architecture = 'mask_rcnn'\n[train]\nlr = 'x'", r"r\.toml: train\.lr: got 'x'"),
        (
            "architecture = 'mask_rcnn'\n[trane]\nlr = 1",
            r"r\.toml: trane: no such setting; did you mean train\?",
        ),
        (
            "architecture = 'mask'",
            r"r\.toml: architecture 'mask' is unknown; did you mean mask_rcnn\? expected one of: rcnn",
        ),
        ("[train]", r"r\.toml: expected a line like: architecture"),
        ("architecture: mask", r"r\.toml: not a TOML file"),
        (
            "architecture = 'mask_rcnn'\n[train]\nlr = 2020-01-01",
            r"r\.toml: train\.lr: got .*, expected a number",
        ),
    ],
)
def test_a_bad_file_is_refused_by_name(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "r.toml").write_text(text)
    with pytest.raises(ValueError, match=message):
        load_recipe(tmp_path / "r.toml")


def test_a_missing_recipe_is_said_with_the_known_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recipes, "named_recipes", lambda: {"paper": tmp_path / "paper.toml"})
    with pytest.raises(FileNotFoundError, match="known by name: paper"):
        load_recipe("papr")


def test_every_recipe_of_the_package_loads() -> None:
    for name in named_recipes():
        assert load_recipe(name).model in dump_recipe(load_recipe(name))
