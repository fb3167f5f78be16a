"""What the documents say is true: examples run, what is named exists, figures that can be computed agree."""

import re
import runpy
import shlex
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import typer.main
from torch.utils.flop_counter import FlopCounterMode

from conftest import ROOT
from examples import examples
from rcnn import cli
from rcnn.config import setting_keys
from rcnn.io.renamed import SETTINGS
from rcnn.loading import load_detector
from rcnn.models import MODELS
from rcnn.models.light import Light
from rcnn.models.mask_rcnn import MaskRCNN, MaskRCNNSettings
from rcnn.parts.backbone import BackboneSettings, build_backbone
from rcnn.parts.box_head import BoxHead
from rcnn.parts.fpn import FPN
from rcnn.parts.mask_head import MaskHead
from rcnn.parts.rpn import RPN, RPNSettings
from rcnn.training.defaults import DEFAULT_BACKBONE
from rcnn.training.recipe import _tables, default_recipe, dump_recipe, load_recipe
from rcnn.transform import Transform

TOP = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")
DOCUMENTS = [*(ROOT / name for name in TOP), *sorted((ROOT / "docs").glob("*.md"))]
RECIPES = sorted((ROOT / "recipes").glob("*.toml"))
names = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)


def blocks(document: Path, language: str) -> list[str]:
    """The fenced blocks of a language; an empty one means none is said."""
    return [example.code for example in examples(document, language)]


def commands(document: Path) -> list[str]:
    """Every command line of ours, in blocks and between backticks."""
    text = document.read_text(encoding="utf-8")
    lines = [line for block in blocks(document, "bash") for line in block.splitlines()]
    lines += re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.S))
    found = [part.strip() for line in lines for part in line.split(" && ")]
    return [line for line in found if re.match(r"(torchrun .*--no-python )?rcnn [a-z]", line)]


@names
def test_python_compiles_and_imports_what_exists(document: Path) -> None:
    for example in blocks(document, "python"):
        compile(example, document.name, "exec")
        for line in re.findall(r"^(?:import rcnn|from rcnn\S* import .+)$", example, re.M):
            exec(line, {})


@names
def test_commands_have_the_verbs_and_options_that_there_are(document: Path) -> None:
    for line in commands(document):
        words = shlex.split(line, comments=True)
        words = words[words.index("rcnn") + 1 :]
        command: Any = typer.main.get_command(cli.app)
        while hasattr(command, "commands") and words and words[0] in command.commands:
            command = command.commands[words.pop(0)]
        assert not hasattr(command, "commands"), f"{document.name}: no such verb: {line}"
        if not words or "…" in words or (len(words) == 1 and words[0].startswith("-")):
            continue  # the verb, or an option of it, is named
        try:
            command.make_context("rcnn", words)
        except OSError:  # the option is there, the file that it names is not
            continue
        except Exception as error:
            pytest.fail(f"{document.name}: {line}: {error}")


@names
def test_links_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\((?!http)([^)#]+)", document.read_text(encoding="utf-8")):
        assert (document.parent / target).exists(), f"{document.name} links to {target}"


@names
def test_settings_named_exist(document: Path) -> None:
    known = {k for m in MODELS for k in setting_keys(_tables(default_recipe(m)))}
    text = document.read_text(encoding="utf-8")
    for key in re.findall(
        r"[` ]((?:model|transform|augment|train)\.[a-z_][a-z0-9_.]*(?<!\.py)(?<!\.txt))[`=]", text
    ):
        if document.name == "CHANGELOG.md":  # it names settings as they were called then
            key = ".".join(SETTINGS.get(step, step) for step in key.split("."))
        assert key in known, f"{document.name} names the setting {key}"


@names
def test_tests_and_files_named_exist(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    for file, test in re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", text):
        assert (ROOT / file).is_file(), f"{document.name} names {file}"
        assert not test or f"def {test}(" in (ROOT / file).read_text(encoding="utf-8"), (
            f"{document.name}: {file}::{test}"
        )


def test_the_readmes_tree_is_that_of_the_package() -> None:
    source = ROOT / "src" / "rcnn"
    folders = {f"{path.parent.name}/" for path in source.glob("*/__init__.py")}
    (drawn,) = (block for block in blocks(ROOT / "README.md", "") if block.startswith("src/rcnn/"))
    assert set(re.findall(r"^  (\w+/)", drawn, re.M)) == folders
    for top in re.findall(r"^(\S+)", drawn, re.M):
        assert (ROOT / top).exists(), f"README's tree has {top}"


def test_the_architectures_table_of_files_is_up_to_date() -> None:
    script = runpy.run_path(str(ROOT / "docs" / "file_table.py"))
    assert script["page"]() == script["PAGE"].read_text(encoding="utf-8"), "run: python docs/file_table.py"


def test_the_tables_of_settings_are_up_to_date() -> None:
    script = runpy.run_path(str(ROOT / "docs" / "settings_tables.py"))
    assert script["page"]() == script["PAGE"].read_text(encoding="utf-8"), (
        "run: python docs/settings_tables.py"
    )


@pytest.mark.parametrize("model", MODELS)
def test_every_setting_has_a_row_of_its_own_or_of_the_same_table(model: str) -> None:
    text = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8").partition("## All settings")[2]
    for key in setting_keys(_tables(default_recipe(model))):
        table, _, field = key.rpartition(".")
        is_listed = f"| `{key}` |" in text or (f"`[{table}]`" in text and f".{field}` |" in text)
        assert is_listed or not table, key


def test_constants_are_those_of_the_plan() -> None:
    code = (ROOT / "src" / "rcnn" / "training" / "defaults.py").read_text(encoding="utf-8")
    said = re.findall(r"`([A-Z_]+ = [^`]+)`", (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8"))
    assert said
    for line in said:
        assert f"\n{line}" in code, f"docs/recipes.md says {line}"


GOING_ON = ("rename", "keep_classes", "keep_threshold", "freeze")


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_loads_and_leaves_nothing_out(path: Path) -> None:
    recipe = load_recipe(path)
    written = path.read_text(encoding="utf-8")
    whole = tomllib.loads(dump_recipe(recipe))
    for name in GOING_ON:  # of no use without a model to start from
        assert recipe.train.start is None
        assert not whole["train"].pop(name)
    assert whole["train"].pop("interpolation") == 1  # likewise
    del whole["train"]["cache_gb"]  # of no use without a frozen backbone
    del whole["train"]["sync_bn"]  # of no use to one process
    for how in ("tf32", "deterministic", "compile"):  # how a device computes, not what
        del whole["train"][how]
    assert tomllib.loads(written) == whole
    assert written.startswith("# ")
    assert "not trained" in written.partition("\narchitecture")[0]
    assert f"`{path.stem}`" in (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("model", ["faster_rcnn", "mask_rcnn"])
def test_light_recipes_are_what_the_plan_makes(model: str) -> None:
    settings = load_recipe(ROOT / "recipes" / f"light_{model}.toml").settings
    anchors = RPNSettings(sizes=settings.rpn.sizes, ratios=settings.rpn.ratios)
    assert settings == MODELS[model].light_settings(Light(DEFAULT_BACKBONE, anchors, 0))


def gigaflops(settings: MaskRCNNSettings, regions: int, mask_regions: int, side: int = 256) -> list[float]:
    """Arithmetic of pyramid, RPN, box head and mask head, forward, for one image and one class."""
    backbone = build_backbone(settings.backbone).eval()
    maps = backbone(torch.zeros(1, 3, side, side))
    assert settings.fpn is not None
    fpn = FPN(backbone.channels, backbone.strides, settings.fpn)
    levels = fpn(maps)
    rpn = RPN(fpn.channels, fpn.strides, settings.rpn)
    box = BoxHead(fpn.channels, fpn.roi_strides, 1, settings.box)
    mask = MaskHead(fpn.channels, fpn.roi_strides, 1, settings.mask)
    small, large = torch.zeros(regions, fpn.channels, 7, 7), torch.zeros(mask_regions, fpn.channels, 14, 14)
    counted = []
    for part in (
        lambda: fpn(maps),
        lambda: rpn(levels),
        lambda: (box.logits(hidden := box.layers(small)), box.deltas(hidden)),
        lambda: mask.head(large),
    ):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            part()
        counted.append(counter.get_total_flops() / 1e9)
    return counted


def test_the_arithmetic_of_the_heads() -> None:
    """The table in docs/recipes.md, to its last digit."""
    backbone = BackboneSettings(DEFAULT_BACKBONE, (1, 2, 3, 4), frozen_stages=1)
    paper = replace(MaskRCNNSettings(), backbone=backbone)
    sizes = ((32.0,), (64.0,), (128.0,), (256.0,))
    light = MaskRCNN.light_settings(Light(DEFAULT_BACKBONE, RPNSettings(sizes=sizes), 0))
    positives = int(light.box.sampling.count * light.box.sampling.positive_fraction)
    rows = zip(
        gigaflops(paper, paper.box.sampling.count, paper.box.sampling.count // 4),
        gigaflops(light, light.box.sampling.count, min(light.mask.max_regions or positives, positives)),
        strict=True,
    )
    text = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
    for name, (theirs, ours) in zip(("pyramid", "RPN", "box head", "mask head"), rows, strict=True):
        found = re.search(rf"^\| {name} \|.*\| ([\d.]+) \| ([\d.]+) \|$", text, re.M)
        assert found is not None, name
        assert (found[1], found[2]) == (f"{theirs:.2f}", f"{ours:.2f}"), name


def test_recipes_normalise_as_their_backbone_was_trained() -> None:
    for path in RECIPES:
        recipe = load_recipe(path)
        is_default = recipe.settings.backbone.name == DEFAULT_BACKBONE
        expected = (0.5, 0.5, 0.5) if is_default else (0.485, 0.456, 0.406)
        assert isinstance(recipe.transform, Transform)
        assert recipe.transform.mean == expected


def test_the_shipped_model_has_the_settings_of_its_last_recipe() -> None:
    recipes = [load_recipe(file) for file in sorted((ROOT / "docs" / "nuclei").glob("*.toml"))]
    assert [recipe.train.start for recipe in recipes] == [
        None,
        "runs/nuclei1",
        "runs/nuclei2",
        "runs/nuclei3",
    ]
    shipped = load_detector("nuclei", device="cpu")
    assert shipped.network.settings == recipes[-1].settings
    assert shipped.transform == recipes[-1].transform
