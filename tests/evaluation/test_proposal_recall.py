"""Writing proposals of a data set: from an RPN, from a search, and the page beside them."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from rcnn.data import external_proposals as search_module
from rcnn.data.dataset import Dataset
from rcnn.data.external_proposals import read_proposals
from rcnn.evaluation.proposal_recall import propose, recall_table
from rcnn.evaluation.rpn_proposals import rpn_proposals
from rcnn.inference.detector import Detector
from rcnn.parts.batch import Regions
from rcnn.parts.selective_search import SelectiveSearchSettings
from rcnn.transform import Transform
from tiny import NAMES, tiny_network, tiny_recipe, tiny_shapes


@pytest.fixture
def data(tmp_path: Path) -> Dataset:
    """Three pictures on disk."""
    shapes = tiny_shapes(3)
    records = []
    for index in range(3):
        path = tmp_path / f"picture{index}.png"
        Image.fromarray(shapes[index].image).save(path)
        records.append(replace(shapes.records[index], path=path, image_id=path.stem))
    return Dataset("shapes", tmp_path, NAMES, records)


def test_selective_search_is_written_and_measured(data, tmp_path, monkeypatch) -> None:
    asked = []

    def search(image, settings):
        asked.append(settings.count)
        return np.array([[0, 0, 64, 64], [8, 8, 24, 24]], np.float32)

    monkeypatch.setattr(search_module, "selective_search", search)
    recall = propose(data, tmp_path / "p.npz", count=77)
    assert asked == [77] * 3
    propose(data, tmp_path / "p.npz", search=SelectiveSearchSettings(count=5))
    assert asked[3:] == [5] * 3
    assert recall.objects == sum(len(record.truth) for record in data.records)
    assert recall.per_image == 2
    assert set(read_proposals(tmp_path / "p.npz")) == {"picture0", "picture1", "picture2"}
    page = (tmp_path / "p.html").read_text(encoding="utf-8")
    assert page.count("<svg") == 1
    assert "selective search: p.npz" in page
    assert recall_table(recall).row_count == len(recall.counts)


def test_the_rpn_of_a_model_proposes_in_the_images_own_pixels(data, tmp_path) -> None:
    recipe = tiny_recipe("faster_rcnn")
    network = tiny_network(recipe)
    plain = Detector(network, recipe.transform, NAMES)
    larger = Detector(network, Transform(scale=2.0), NAMES)
    for detector in (plain, larger):
        boxes = rpn_proposals(detector, data, 40)["picture0"]
        assert 0 < len(boxes) <= 40
        assert float(boxes.min()) >= 0
        assert 40 < float(boxes.max()) <= 64.001
    recall = propose(data, tmp_path / "p.json", detector=plain, count=40)
    read = read_proposals(tmp_path / "p.json")
    np.testing.assert_allclose(
        read["picture0"], rpn_proposals(plain, data, 40)["picture0"], rtol=0, atol=1e-3
    )
    assert 0 < recall.at_50[-1] <= 1


def test_what_cannot_be(data, tmp_path) -> None:
    with pytest.raises(ValueError, match=r"written as .npz or .json"):
        propose(data, tmp_path / "p.mat")
    with pytest.raises(ValueError, match="Linear has no RPN"):
        propose(data, tmp_path / "p.npz", detector=Detector(nn.Linear(1, 1), Transform(), NAMES))
    with pytest.raises(ValueError, match="an exported file has no RPN"):
        rpn_proposals(SimpleNamespace(), data, 5)
    twice = data.subset([0, 0])
    network = Detector(tiny_network(tiny_recipe("faster_rcnn")), Transform(), NAMES)
    with pytest.raises(ValueError, match="two images have the id picture0"):
        propose(twice, tmp_path / "p.npz", detector=network)


def test_boxes_of_the_resized_image_come_back_to_its_own(data, monkeypatch) -> None:
    network = tiny_network(tiny_recipe("faster_rcnn"))
    found = torch.tensor([[20.0, 40, 60, 80], [0, 0, 128, 128], [2, 2, 4, 4]])
    monkeypatch.setattr(network.rpn, "decode", lambda *_, **__: Regions(found, torch.zeros(3)))
    boxes = rpn_proposals(Detector(network, Transform(scale=2.0), NAMES), data, 2)
    np.testing.assert_allclose(boxes["picture1"], [[10, 20, 30, 40], [0, 0, 64, 64]])
