"""Every Python and shell example of README.md and docs/ is run, or says why not.

The examples of a page are run in their order, in one folder that has the data and the model they name. What
would train for minutes trains for one pass instead: ``SHORTER`` lists every text that is replaced.
"""

import json
import re
import shlex
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import rcnn
from examples import NOT_RUN, PAGES, RUN, Example, examples
from rcnn.cli import app
from rcnn.models.mask_rcnn import MaskRCNNSettings
from rcnn.training.recipe import dump_recipe
from tiny import MASK, ONE_LEVEL, SIDE, tiny_recipe, tiny_shapes

SHORTER = {
    r"--minutes \d+": "--epochs 1",
    r"--epochs \d+": "--epochs 1",
    r'(start="[^"]*", )minutes=\d+': r"\1epochs=1",
    r"minutes=\d+": 'epochs=1, recipe="tiny.toml"',
}
FEWER = "--set train.workers=0 --set train.eval_images=2"
IMAGES = ("a.png", "b.png", "image.png", "cells.png", "street.png")
FOLDERS = ("new_images", "my_images", "plates/1", "plates/2")


def has_examples(page: Path) -> bool:
    return any(example.language in RUN and example.reason is None for example in examples(page))


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with everything that the pages name: data sets, images, and a trained run."""
    folder = tmp_path_factory.mktemp("examples")
    for name, count, first in (("cells", 8, 0), ("cells_test", 2, 8), ("more_cells", 6, 10)):
        tiny_shapes(count, first=first).write(folder / name)
    for name in FOLDERS:
        truth = tiny_shapes(2, first=20).write(folder / name)
        truth.rename(folder / "truth.json")  # they all have the same images
    for name in IMAGES:
        Image.fromarray(tiny_shapes(1, first=21)[0].image).save(folder / name)
    ring = [[0, 0], [SIDE, 0], [SIDE, SIDE // 2], [0, SIDE // 2], [0, 0]]
    upper = {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [ring]}, "properties": {}}
    (folder / "regions.geojson").write_text(json.dumps(upper), encoding="utf-8")
    small = replace(tiny_recipe(), settings=MaskRCNNSettings(**ONE_LEVEL, mask=MASK))
    (folder / "tiny.toml").write_text(dump_recipe(small), encoding="utf-8")
    rcnn.train(folder / "cells", recipe=folder / "tiny.toml", epochs=1, out=folder / "runs" / "cells")
    shutil.copy(folder / "cells_test" / "annotations.json", folder / "val.json")
    shutil.copytree(folder / "cells_test" / "images", folder / "images")
    rcnn.predict(rcnn.load(folder / "runs" / "cells"), [folder / "images"], folder / "theirs")
    shutil.move(folder / "theirs" / "predictions.json", folder / "theirs.json")
    return folder


@pytest.fixture
def workplace(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the template, as the working directory; its run is that of the copy."""
    folder = tmp_path / "work"
    shutil.copytree(template, folder)
    run = folder / "runs" / "cells" / "run.json"
    run.write_text(run.read_text("utf-8").replace(str(template), str(folder)), encoding="utf-8")
    monkeypatch.chdir(folder)
    return folder


def given(page: Path) -> dict[str, Any]:
    """The names that a page's Python takes for granted."""
    size = (SIDE, SIDE)
    semantic = np.zeros(size, np.uint8)
    pixels = rcnn.Instances.empty(size, class_names=(), semantic=semantic, semantic_names=("sky", "road"))
    return {
        "rcnn": rcnn,
        "mask_rcnn": rcnn.load("runs/cells"),
        "fcn": SimpleNamespace(predict=lambda image: [pixels]),
    }


def shorter(text: str) -> str:
    """An example that trains for one pass instead of minutes."""
    for long, short in SHORTER.items():
        text = re.sub(long, short, text)
    return text


def make_room(text: str) -> None:
    """Remove the run that an example writes again; a user's first training finds none."""
    for out in re.findall(r"--out (runs/\S+)|out=\"(runs/[^\"]+)\"", text):
        shutil.rmtree("".join(out), ignore_errors=True)


def call(command: str) -> None:
    """Run one command of ours in this process."""
    words = shlex.split(shorter(command))
    assert words[0] == "rcnn", f"{command}: only rcnn is run here; say why the example is not run"
    if words[:3] == ["rcnn", "train", "--resume"] and "--epochs" in words:
        words[words.index("--epochs") + 1] = "2"  # the template's run has one
    if words[1] == "train" and "--resume" not in words:
        make_room(command)
        words += shlex.split(FEWER) + ([] if "--epochs" in words else ["--epochs", "1"])
        words += [] if {"--recipe", "--backbone", "--from"} & {*words} else ["--recipe", "tiny.toml"]
    result = CliRunner().invoke(app, words[1:], env={"COLUMNS": "120", "TERM": "dumb"})
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, f"{command}: {result.output}"


@pytest.mark.parametrize("page", [*filter(has_examples, PAGES)], ids=lambda page: page.name)
def test_the_examples_of_a_page_run(page: Path, workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("matplotlib.pyplot.show", lambda: None)
    names = given(page)
    for number, example in enumerate(examples(page), 1):
        if example.reason is not None:
            continue
        if example.language == "python":
            if "rcnn.train(" in example.code:
                make_room(example.code)
            exec(compile(shorter(example.code), f"{page.name}, block {number}", "exec"), names)
        elif example.language == "bash":
            for command in example.commands:
                call(command)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_is_not_run_says_why(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    found = examples(page)
    assert len(re.findall(r"^```\w*$", text, re.M)) == 2 * len(found), "a fence is open, or indented"
    for example in found:
        assert example.language in (*RUN, *NOT_RUN), (
            f"```{example.language}: expected one of {RUN} or {NOT_RUN}"
        )
        assert example.reason is None or len(example.reason.split()) > 2
    assert text.count("<!-- not run:") == sum(example.reason is not None for example in found)


def test_a_block_and_its_commands(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "<!-- not run: needs the internet -->\n```bash\npip install x && rcnn demo  # now\n# no\n```\n"
        "```python\n1\n```\n"
    )
    first, second = examples(page)
    assert first == Example(page, "bash", "pip install x && rcnn demo  # now\n# no\n", "needs the internet")
    assert first.commands == ["pip install x", "rcnn demo"]
    assert second.reason is None
    assert examples(page, "python") == [second]
    assert shorter("rcnn train a --minutes 20") == "rcnn train a --epochs 1"
