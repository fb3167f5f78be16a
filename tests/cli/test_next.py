"""``rcnn next``: what is said and written can be corrected and trained on."""

import csv
from pathlib import Path

import pytest
import torch
from torch import nn
from typer.testing import CliRunner, Result

from rcnn.cli import app
from rcnn.data.formats.open import open_data
from rcnn.inference.detector import Detector
from rcnn.models.mask_rcnn import MaskRCNN, MaskRCNNSettings
from rcnn.transform import Transform
from tiny import MASK, NAMES, ONE_LEVEL, tiny_shapes

pytestmark = pytest.mark.usefixtures("one_thread")


def call(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, list(map(str, arguments)), env={"COLUMNS": "200", "TERM": "dumb"})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Mask R-CNN that finds something everywhere, and four images."""
    folder = tmp_path_factory.mktemp("next")
    torch.manual_seed(0)
    network = MaskRCNN(2, MaskRCNNSettings(**ONE_LEVEL, mask=MASK)).eval()
    nn.init.normal_(network.box.logits.weight, std=0.05)
    Detector(network, Transform(), NAMES, min_score=0.3).save(folder / "tiny.safetensors")
    tiny_shapes(4).write(folder / "pool")
    return folder


def test_what_is_chosen_is_listed_and_can_be_corrected(folder: Path, tmp_path: Path) -> None:
    model, out = folder / "tiny.safetensors", tmp_path / "next"
    result = call("next", model, folder / "pool" / "images", "--count", "3", "--out", out)
    assert result.exit_code == 0, result.output
    assert f"3 of 4 images; written: {out}" in result.stdout
    assert f"to correct them: rcnn app {model} {out / 'coco'}" in result.stdout
    with (out / "next.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["rank"] for row in rows] == ["1", "2", "3"]
    data = open_data(out / "coco")
    assert sorted(Path(row["image"]).name for row in rows) == sorted(r.path.name for r in data.records)
    assert data.class_names == NAMES
    checked = call("data", "check", out / "coco")
    assert checked.exit_code == 0, checked.output
    assert "0 errors" in checked.stdout
    again = call(
        "next", model, folder / "pool" / "images", "--annotated", out / "coco", "--out", tmp_path / "b"
    )
    assert "1 of 4 images, 3 annotated already" in again.stdout, again.output


def test_without_copies_no_page_is_named(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "next"
    result = call(
        "next",
        folder / "tiny.safetensors",
        folder / "pool",
        "--to",
        "labels",
        "--no-copy-images",
        "--out",
        out,
    )
    assert result.exit_code == 0, result.output
    assert "rcnn app" not in result.stdout
    assert (out / "labels").is_dir()
