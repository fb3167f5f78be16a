"""R-CNN's network: what it is given, the loss of fine-tuning, and how detections follow from scores."""

from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from found import Found, by_image
from rcnn.models.rcnn import RCNN, RCNNSettings
from rcnn.ops.matching import fold_seeds
from rcnn.parts.backbone import BackboneSettings
from rcnn.parts.batch import ImageBatch, Regions, Targets
from rcnn.parts.regions import SamplingSettings, sample_proposals

TINY = RCNNSettings(
    BackboneSettings("efficientnet_lite0", (2,), frozen_stages=1),
    side=32, context=4, pool=2, layers=1, channels=8, dropout=0.0, chunk=4,
    sampling=SamplingSettings(count=8),
)  # fmt: skip
BOXES = torch.tensor([[4.0, 4, 24, 24], [5, 5, 25, 25], [30, 10, 50, 40], [0, 0, 60, 40], [2, 2, 8, 8]])


@pytest.fixture
def model() -> RCNN:
    torch.manual_seed(0)
    return RCNN(2, TINY).eval()


def batch(**given) -> ImageBatch:
    draw = torch.Generator().manual_seed(1)
    return ImageBatch(torch.randn((2, 3, 64, 64), generator=draw), ((40, 60), (64, 64)), **given)


def detect(model: RCNN, images: ImageBatch) -> list[Found]:
    with torch.no_grad():
        return by_image(model(images, min_score=0.0).detections, images.sizes)


def test_proposals_are_asked_for(model: RCNN) -> None:
    with pytest.raises(
        ValueError, match=r"needs external proposals: expected ImageBatch.proposals of 2 images"
    ):
        model(batch())
    with pytest.raises(ValueError, match="no proposals, which this model needs"):
        model(batch(), [Targets.empty((40, 60)), Targets.empty((64, 64))])


def test_detections_of_each_image_are_those_of_the_image_alone(model: RCNN) -> None:
    both = detect(model, batch(proposals=(BOXES, BOXES[:0])))
    assert [len(found) > 0 for found in both] == [True, False]
    first = both[0]
    assert first.boxes[:, 2].max() <= 60
    assert first.boxes[:, 3].max() <= 40
    assert bool((first.scores[:-1] >= first.scores[1:]).all())
    # The padding of the batch is not part of the image: its pixels do not show in the context.
    dirty = batch(proposals=(BOXES, BOXES[:0]))
    dirty.tensors[0, :, 40:] = 9
    assert_close(detect(model, dirty)[0].scores, first.scores)


def test_fine_tuning_reaches_the_network_and_not_what_is_fitted(model: RCNN) -> None:
    truth = Targets((40, 60), BOXES[:1], torch.tensor([1]), proposals=BOXES)
    empty = Targets.empty((64, 64), proposals=BOXES[:0])
    output = model.train()(batch(seeds=(1, 2)), [truth, empty])
    assert set(output.losses) == {"classes"}
    output.losses["classes"].backward()
    assert model.logits.weight.grad.abs().sum() > 0
    assert model.backbone.stages[2][0][0].conv_pw.weight.grad.abs().sum() > 0
    assert model.svms.weight.grad is None
    nothing = model(batch(seeds=(1, 2)), [empty, empty]).losses["classes"]
    assert float(nothing.detach()) == 0
    model.zero_grad()
    nothing.backward()
    # Several processes wait for every gradient.
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


def test_a_quarter_is_positive_as_in_the_paper() -> None:
    """Two images of 64 regions each: 32 positives and 96 others, where there are as many."""
    sampling = RCNNSettings().sampling
    near = torch.tensor([[10.0, 10, 40, 40]]).repeat(50, 1) + torch.arange(50)[:, None] / 20
    far = torch.tensor([[50.0, 50, 60, 60]]).repeat(100, 1)
    truth = Targets((64, 64), torch.tensor([[10.0, 10, 40, 40]]), torch.tensor([0]))
    proposals = Regions.from_lists([torch.cat([near, far])] * 2)
    sampled = sample_proposals(proposals, [truth] * 2, 1, sampling, fold_seeds([0, 1]))
    assert int(sampled.is_positive.sum()) == 32
    assert len(sampled.labels) == 128


def test_svm_and_softmax(model: RCNN) -> None:
    features = torch.randn((3, 8), generator=torch.Generator().manual_seed(2))
    softmax = model.logits(features).softmax(1)[:, :2]
    assert_close(model.scores(features), softmax)
    model.svms.bias.copy_(torch.tensor([0.0, -1.0]))
    model.fitted.fill_(True)
    assert_close(model.scores(features)[0], torch.sigmoid(torch.tensor([0.0, -4.0])))
    model.settings = replace(model.settings, classifier="softmax")
    assert_close(model.scores(features), softmax)


def test_decoding_by_hand(model: RCNN) -> None:
    scores = torch.tensor([[0.9, 0.1], [0.8, 0.6], [0.3, 0.0], [0.02, 0.0], [0.0, 0.0]])
    boxes = BOXES[:, None].expand(-1, 2, -1)
    images, sizes = torch.zeros(5, dtype=torch.int64), torch.tensor([[40.0, 60.0]])
    found = model.decode(scores, boxes, images, sizes, min_score=0.05, max_detections=100)
    # The second box of class 0 overlaps the first by 0.82; that of class 1 does so with a worse one.
    assert_close(found.boxes, BOXES[[0, 1, 2]])
    assert found.labels.tolist() == [0, 1, 0]
    assert_close(found.scores, torch.tensor([0.9, 0.6, 0.3]))
    assert len(model.decode(scores, boxes, images, sizes, min_score=0.05, max_detections=1)) == 1


def test_boxes_move_by_the_regression_of_their_class(model: RCNN) -> None:
    model.fitted.fill_(True)
    model.deltas.bias.copy_(torch.tensor([0.1, 0, 0, 0, 0, 0, 0, 0]))  # class 0 by a tenth to the right
    model.svms.bias.copy_(torch.tensor([1.0, -9.0]))
    found = model(batch(proposals=(BOXES[2:3], BOXES[:0]))).detections
    assert_close(found.boxes, torch.tensor([[32.0, 10, 52, 40]]))


def test_settings_that_cannot_be() -> None:
    with pytest.raises(ValueError, match="is trained by fine-tuning"):
        RCNNSettings(classifier="softmax", finetune=False)
    with pytest.raises(ValueError, match="context 16: expected 0 to less than half of the side 32"):
        RCNNSettings(side=32)
