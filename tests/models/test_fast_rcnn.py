"""Fast R-CNN: what it is given, its two losses, and its fully connected layers by singular values."""

from dataclasses import replace
from io import StringIO

import numpy as np
import pytest
import torch
from rich.console import Console
from torch.testing import assert_close
from typer.testing import CliRunner

from found import Found, by_image
from rcnn.cli import app
from rcnn.data.external_proposals import write_proposals
from rcnn.data.formats.open import open_data
from rcnn.inference.detector import Detector
from rcnn.loading import load_detector
from rcnn.models.fast_rcnn import FastRCNN, FastRCNNSettings
from rcnn.parts.backbone import BackboneSettings
from rcnn.parts.batch import ImageBatch, Targets
from rcnn.parts.box_head import BoxHeadSettings, PoolSettings
from rcnn.parts.regions import SamplingSettings
from rcnn.training.run import train
from rcnn.transform import Transform
from tiny import tiny_recipe, tiny_shapes

TINY = FastRCNNSettings(
    BackboneSettings("efficientnet_lite0", (2,), frozen_stages=1),
    box=BoxHeadSettings(
        channels=24,
        pool=PoolSettings(pooling="pool", size=3),
        sampling=SamplingSettings(8, background_iou=(0.1, 0.5)),
    ),
)
BOXES = torch.tensor([[4.0, 4, 24, 24], [5, 5, 25, 25], [30, 10, 50, 40], [0, 0, 60, 40], [2, 2, 8, 8]])


@pytest.fixture
def model() -> FastRCNN:
    torch.manual_seed(0)
    network = FastRCNN(2, TINY).eval()
    for layer in (network.box.logits, network.box.deltas):
        torch.nn.init.normal_(layer.weight, std=0.05)
    return network


def batch(**given) -> ImageBatch:
    draw = torch.Generator().manual_seed(1)
    return ImageBatch(torch.randn((2, 3, 64, 64), generator=draw), ((40, 60), (64, 64)), **given)


def test_the_published_settings():
    box = FastRCNNSettings().box
    assert (box.pool.pooling, box.pool.size, box.channels, box.dropout) == ("pool", 7, 4096, 0.5)
    assert (box.sampling.count, box.sampling.positive_fraction, box.sampling.background_iou) == (
        64,
        0.25,
        (0.1, 0.5),
    )
    assert box.nms_iou == 0.3


def detect(model: FastRCNN, images: ImageBatch) -> list[Found]:
    with torch.no_grad():
        return by_image(model(images, min_score=0.0).detections, images.sizes)


def test_proposals_are_asked_for(model):
    with pytest.raises(
        ValueError, match=r"needs external proposals: expected ImageBatch.proposals of 2 images"
    ):
        model(batch())
    with pytest.raises(ValueError, match="no proposals, which this model needs"):
        model(batch(), [Targets.empty((40, 60)), Targets.empty((64, 64))])


def test_detections_are_of_the_proposals_of_their_image(model):
    both = detect(model, batch(proposals=(BOXES, BOXES[:0])))
    assert [len(found) > 0 for found in both] == [True, False]
    few = detect(model, batch(proposals=(BOXES[:1], BOXES[:0])))[0]
    assert len(few) == 2  # of each class


def test_both_losses_reach_the_network(model):
    truth = Targets((40, 60), BOXES[:1], torch.tensor([1]), proposals=BOXES)
    empty = Targets.empty((64, 64), proposals=BOXES)
    output = model.train()(batch(seeds=(1, 2)), [truth, empty])
    assert list(output.losses) == ["classes", "boxes"]
    assert output.losses["boxes"] > 0
    sum(output.losses.values()).backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name


def test_regions_that_overlap_nothing_are_not_background(model):
    """Of five proposals one is positive, one overlaps it by 0.1 to 0.5, three hardly: they are left out."""
    boxes = torch.tensor(
        [[4.0, 4, 24, 24], [14, 4, 34, 24], [40, 30, 60, 40], [30, 0, 60, 4], [0, 30, 8, 40]]
    )
    truth = Targets((40, 60), boxes[:1], torch.tensor([1]), proposals=boxes)
    seen = []
    model.box.register_forward_hook(lambda module, given, output: seen.append(given[1].boxes))
    model(batch(seeds=(1, 2)), [truth, Targets.empty((64, 64), proposals=boxes[:0])])
    assert sorted(seen[0][:, 0].tolist()) == [
        4,
        4,
        14,
    ]  # the true box itself, as proposal too, and its neighbour


def test_all_singular_values_give_the_same_detections(model):
    given = batch(proposals=(BOXES, BOXES))
    full = model.compressed((24, 24))
    for ours, whole in zip(detect(full, given), detect(model, given), strict=True):
        assert_close(ours.boxes, whole.boxes, rtol=1e-4, atol=1e-3)
        assert_close(ours.scores, whole.scores, rtol=1e-4, atol=1e-5)


def test_few_singular_values_are_smaller_and_the_nearest_of_their_rank(model, tmp_path):
    small = model.compressed((4, 2))
    first = model.box.layers[1]
    sizes = [sum(p.numel() for p in m.box.layers.parameters()) for m in (model, small)]
    assert sizes[1] == 4 * (first.in_features + 24) + 24 + 2 * (24 + 24) + 24
    assert sizes[1] < sizes[0]
    pair = small.box.layers[1]
    product = (pair[1].weight @ pair[0].weight).double()
    values = torch.linalg.svdvals(first.weight.double())
    assert_close((product - first.weight).norm(), values[4:].norm(), rtol=1e-4, atol=1e-6)  # Eckart and Young
    path = Detector(small, Transform(), ("a", "b")).save(tmp_path / "small.safetensors")
    again = load_detector(path, "cpu").network
    assert again.settings.ranks == (4, 2)
    assert_close(again.state_dict()["box.layers.1.0.weight"], pair[0].weight.detach())


def test_what_cannot_be_compressed(model):
    with pytest.raises(ValueError, match="has ranks from 1 to 24"):
        model.compressed((25, 2))
    with pytest.raises(ValueError, match="uncompressed fully connected layers"):
        model.compressed((4, 2)).compressed((2, 2))


def test_a_whole_run_learns(tmp_path):
    data = tiny_shapes(8).write(tmp_path / "data")
    corners = np.array([[0, 0, 20, 20], [40, 0, 64, 24], [0, 40, 30, 64], [30, 30, 64, 64]], np.float32)
    found = {r.image_id: np.concatenate([corners, r.truth.boxes + 2]) for r in open_data(data).records}
    file = write_proposals(tmp_path / "boxes.npz", found)
    settings = replace(TINY, box=replace(TINY.box, channels=64))
    recipe = replace(
        tiny_recipe("faster_rcnn", epochs=6.0, eval_images=1), model="fast_rcnn", settings=settings
    )
    folder = train(
        data, proposals=file, recipe=recipe, out=tmp_path / "run", console=Console(file=StringIO())
    )
    assert (folder / "report.html").is_file()
    detector = load_detector(folder, "cpu")
    assert type(detector.network) is FastRCNN
    record = open_data(data).records[0]
    (result,) = detector.predict([record.path], proposals=[found[record.image_id]], min_score=0.0)
    assert len(result) > 0
    evaluated = ["evaluate", str(folder), str(data), "--proposals", str(file), "--metrics", "coco", "--svd"]
    shown = CliRunner().invoke(app, [*evaluated, "24,24"])
    assert (shown.exit_code, "box" in shown.output) == (0, True), shown.output
    refused = CliRunner().invoke(app, [*evaluated, "24"])
    assert "expected two ranks" in refused.stderr
