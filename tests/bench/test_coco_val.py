"""The reproduction of COCO's values, rehearsed: published names and values, and a tiny folder."""

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from benchmarks import coco_val

from conftest import ROOT
from rcnn.catalogue import PUBLISHED
from rcnn.importers import convert
from rcnn.importers.torchvision import coco_labels
from rcnn.inference.detector import Detector
from rcnn.structures import Instances
from tiny import tiny_network, tiny_recipe, tiny_shapes


class Perfect(Detector):
    """Finds exactly what is annotated, with the classes of COCO."""

    truth: Iterator[Instances]

    def for_measuring(self) -> Any:
        return self

    def predict(self, images: Any, **_: Any) -> list[Instances]:  # type: ignore[override]
        return [next(self.truth) for _ in images]


def write_coco(folder: Path) -> Iterator[Instances]:
    """COCO's two files and folder of images, of a few shapes that are called persons and bicycles."""
    shapes = tiny_shapes(3)
    written = json.loads(shapes.write(folder / "made").read_text())
    (folder / "made" / "images").rename(folder / "val2017")
    (folder / "annotations").mkdir()
    for image in written["images"]:
        image["file_name"] = Path(image["file_name"]).name
    names = ("person", "bicycle")
    written["categories"] = [{"id": i + 1, "name": name} for i, name in enumerate(names)]
    (folder / "annotations" / "instances_val2017.json").write_text(json.dumps(written))
    truth = []
    for i in range(len(shapes)):
        objects = shapes[i].truth
        scores = torch.linspace(0.9, 0.6, len(objects)).numpy()
        truth.append(replace(objects, scores=scores, class_names=coco_labels()[1]))
    return iter(truth)


def test_names_and_values_are_those_that_are_published() -> None:
    """The table in benchmarks/README.md says what torchvision says; every model has a box AP."""
    text = (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8")
    for model in PUBLISHED:
        values = coco_val.published_values(model)
        row = re.search(rf"^\| `{model}` \|([^|]+)\|([^|]+)\|([^|]+)\| not run \|$", text, re.M)
        assert row is not None, model
        metrics = ("box/AP", "mask/AP", "keypoint/AP")
        said = {metric: cell.strip() for metric, cell in zip(metrics, row.groups(), strict=True)}
        assert said == {metric: f"{values[metric]:.1f}" if metric in values else "" for metric in metrics}


def test_a_rehearsal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """A detector that finds everything has an AP of 100 in both, which is not what is published."""
    truth = write_coco(tmp_path)
    recipe = tiny_recipe()
    detector = Perfect(tiny_network(recipe), recipe.transform, coco_labels()[1])
    object.__setattr__(detector, "truth", truth)
    monkeypatch.setattr(coco_val, "load", lambda name, precision: detector)
    code = coco_val.main(
        [str(tmp_path), "--models", "maskrcnn_resnet50_fpn_coco", "--json", str(tmp_path / "r.json")]
    )
    assert code == 1
    assert json.loads((tmp_path / "r.json").read_text()) == [
        {"model": "maskrcnn_resnet50_fpn_coco", "metric": "box/AP", "found": 100.0, "published": 37.9},
        {"model": "maskrcnn_resnet50_fpn_coco", "metric": "mask/AP", "found": 100.0, "published": 34.6},
    ]
    assert "+62.10 !" in capsys.readouterr().out


def test_what_counts_as_the_same() -> None:
    row = coco_val.Row("m", "box/AP", 37.0, 37.25)
    assert row.agrees
    assert not coco_val.Row("m", "box/AP", 37.0, 37.4).agrees


def test_a_folder_that_is_not_coco(tmp_path: Path, capsys: Any) -> None:
    with pytest.raises(SystemExit):
        coco_val.main([str(tmp_path)])
    error = capsys.readouterr().err
    assert "instances_val2017.json" in error
    assert "person_keypoints_val2017.json" in error


def test_the_weights_go_through_our_importer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every name is opened by ``rcnn.load``, by way of the importer."""
    opened = []
    monkeypatch.setattr(convert, "find_weights", lambda url: opened.append(url) or Path("none.pth"))
    monkeypatch.setattr(convert, "read_tensors", lambda path: {})
    for name in PUBLISHED:
        with pytest.raises(ValueError, match="found nothing"):
            coco_val.load(name, precision="float32")
    assert opened == list(PUBLISHED.values())
