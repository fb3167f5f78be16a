"""``rcnn explain``: an object of a data set, a place in an image, a whole data set; what is refused."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import nn
from typer.testing import CliRunner, Result

from rcnn.cli import app
from rcnn.evaluation.explain import missed
from rcnn.inference.detector import Detector
from rcnn.metrics.causes import CAUSES
from rcnn.models.mask_rcnn import MaskRCNN, MaskRCNNSettings
from rcnn.transform import Transform
from tiny import MASK, NAMES, ONE_LEVEL, tiny_shapes


def call(*arguments: str | Path, verb: str = "explain") -> Result:
    words = [verb, *map(str, arguments)]
    result = CliRunner().invoke(app, words, env={"COLUMNS": "120", "TERM": "dumb"})
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


class Checked(HTMLParser):
    """Every element is closed, and nothing is loaded from elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.sources: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.sources += [
            str(v) for k, v in attrs if k in ("src", "xlink:href") or (k, tag) == ("href", "link")
        ]
        if tag not in ("meta", "img", "br", "link"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.sources += [str(value) for name, value in attrs if name in ("src", "xlink:href")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def check_page(path: Path) -> str:
    text = path.read_text(encoding="utf-8")
    checked = Checked()
    checked.feed(text)
    assert checked.open == []
    assert all(source.startswith(("data:", "#")) for source in checked.sources)
    assert "<script" not in text
    return text


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Mask R-CNN, and three images with objects."""
    folder = tmp_path_factory.mktemp("explain")
    torch.manual_seed(0)
    network = MaskRCNN(2, MaskRCNNSettings(**ONE_LEVEL, mask=MASK)).eval()
    nn.init.normal_(network.box.logits.weight, std=0.05)
    Detector(network, Transform(), NAMES, min_score=0.3).save(folder / "tiny.safetensors")
    tiny_shapes(3).write(folder / "shapes")
    return folder


def one_image(folder: Path) -> Path:
    return sorted((folder / "shapes" / "images").iterdir())[0]


def test_an_object_of_a_data_set(folder: Path, tmp_path: Path) -> None:
    name = one_image(folder).name
    result = call(
        folder / "tiny.safetensors", folder / "shapes", "--image", name, "--object", "1",
        "--picture", tmp_path / "why.png", "--html", tmp_path / "why.html", "--json", tmp_path / "why.json",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    values = json.loads((tmp_path / "why.json").read_text())
    assert values["subject"]["object"] == 0
    assert values["verdict"] in result.output
    assert all(stage["title"].split()[0] in result.output for stage in values["stages"])
    with Image.open(tmp_path / "why.png") as picture:
        assert picture.format == "PNG"
        assert len(set(picture.resize((64, 64)).convert("L").tobytes())) > 10
    page = check_page(tmp_path / "why.html")
    for stage in values["stages"]:
        assert stage["title"] in page
        assert stage["paper"] in page
        assert f"{stage['code']}, line {stage['line']}" in page
    assert page.count("<svg") >= 3


def evaluated(folder: Path, out: Path, *options: str) -> tuple[dict[str, Any], str]:
    result = call(folder / "tiny.safetensors", folder / "shapes", "--json", out, *options, verb="evaluate")
    assert result.exit_code == 0, result.output
    return json.loads(out.read_text()), result.stdout


def test_an_evaluation_has_the_causes_of_an_explanation(folder: Path, tmp_path: Path) -> None:
    values, text = evaluated(folder, tmp_path / "evaluated.json")
    number = sum(len(match["missed_truths"]) for match in values["matches"])
    assert number
    assert sum(values["causes"]["counts"].values()) == number
    assert f"Why {number} objects were missed" in text
    assert all(CAUSES[cause].title.split(":")[0] in text for cause in values["causes"]["counts"])
    threshold = str(values["f1_threshold"])
    result = call(
        folder / "tiny.safetensors", folder / "shapes", "--min-score", threshold, "--max-detections",
        str(values["max_detections"]), "--json", tmp_path / "explained.json",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    explained = json.loads((tmp_path / "explained.json").read_text())
    assert explained["missed"] == values["causes"]["missed"]


def test_an_evaluation_explains_some_images_or_none(folder: Path, tmp_path: Path, monkeypatch: Any) -> None:
    for options in (("--no-causes",), ("--metrics", "coco")):
        values, text = evaluated(folder, tmp_path / "a.json", *options)
        assert values["causes"] is None
        assert "were missed" not in text
    monkeypatch.setattr(missed, "EXPLAINED", 1)
    values, text = evaluated(folder, tmp_path / "b.json", "--metrics", "coco", "--causes")
    lacking = sum(bool(match["missed_truths"]) for match in values["matches"])
    assert lacking > 1
    assert values["causes"]["num_images"] == 1
    assert f"causes: in 1 of the {lacking} images with missed objects" in text
    results = tmp_path / "theirs.json"
    results.write_text("[]")
    refused = call(folder / "shapes", "--predictions", results, "--causes", verb="evaluate")
    assert refused.exit_code == 1
    assert "--causes needs the model" in refused.output


def test_a_place_in_an_image(folder: Path, tmp_path: Path) -> None:
    image = one_image(folder)
    written = tmp_path / "here.jpg"
    result = call(
        folder / "tiny.safetensors", image, "--at", "30,30", "--class", "square", "--picture", written
    )
    assert result.exit_code == 0, result.output
    with Image.open(written) as picture:
        assert picture.format == "JPEG"
    result = call(
        folder / "tiny.safetensors", image, "--at", "10,10,30,30", "--min-score", "1", "--json", "-"
    )
    values = json.loads(result.output)
    assert values["subject"]["box"] == [10, 10, 30, 30]
    assert values["cause"] in CAUSES


def test_a_data_set(folder: Path, tmp_path: Path) -> None:
    result = call(
        folder / "tiny.safetensors", folder / "shapes", "--min-score", "0.6", "--json", tmp_path / "all.json",
        "--html", tmp_path / "all.html",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    values = json.loads((tmp_path / "all.json").read_text())
    assert sum(values["counts"].values()) == len(values["missed"]) > 0
    page = check_page(tmp_path / "all.html")
    for cause, count in values["counts"].items():
        assert re.search(rf"{re.escape(CAUSES[cause].title)}\s+{count}\b", result.output)
        assert CAUSES[cause].meaning in page
    one = values["missed"][0]
    assert f"object {one['object'] + 1}, {one['class_name']}" in result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("shapes", "--at", "3,3"), "--at is about one image: choose it with --image NAME"),
        (("shapes", "--object", "2"), "--object is about one image"),
        (("shapes", "--picture", "a.png"), "--picture is about one image"),
        (("shapes", "--class", "disk"), "--class is for an image without annotations"),
        (("IMAGE", "--object", "1"), "--image and --object choose from annotated images"),
        (("IMAGE", "--at", "here"), "--at here: expected X,Y or X1,Y1,X2,Y2 in pixels"),
        (("IMAGE", "--picture", "why.gif"), "why.gif: expected a name that ends in .png or .jpg"),
        (("shapes", "--image", "nothing.png"), "no image is called nothing.png"),
        (("shapes", "--image", "IMAGE", "--object", "99"), "objects, counted from 1"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)  # fmt: skip
def test_what_does_not_go_together(
    folder: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], message: str
) -> None:
    monkeypatch.chdir(folder)
    image = one_image(folder).relative_to(folder)
    words = [str(image) if word == "IMAGE" and i == 0 else image.name if word == "IMAGE" else word for i, word in enumerate(arguments)]  # fmt: skip # noqa: E501
    result = call("tiny.safetensors", *words)
    assert result.exit_code == 1
    assert message in " ".join(result.output.split())


def test_an_exported_file(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Exported:
        class_names = NAMES

    monkeypatch.setattr("rcnn.cli.explain.load_model", lambda *_, **__: Exported())
    result = call("model.onnx", folder / "shapes")
    assert result.exit_code == 1
    assert "an exported file does not show its stages" in " ".join(result.output.split())
