"""What R-CNN fits after its fine-tuning: the closed forms, the mining, and that the whole learns."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.testing import assert_close

from rcnn.data.dataset import Dataset
from rcnn.data.external_proposals import with_proposals
from rcnn.evaluation.evaluator import evaluate
from rcnn.inference.detector import Detector
from rcnn.loading import load_detector
from rcnn.models.rcnn import RCNN, RCNNSettings, RidgeSettings, SVMSettings
from rcnn.ops.boxes import encode
from rcnn.parts.backbone import BackboneSettings
from rcnn.parts.batch import Targets
from rcnn.parts.pretrained import load_backbone_weights
from rcnn.training.svms import (
    ABSENT_CLASS_MARGIN,
    ClassSVM,
    RegressionPairs,
    find_negatives,
    find_pairs,
    fit,
    fit_ridge,
    fit_svm,
    require_sklearn,
)
from rcnn.transform import Transform
from tiny import NAMES, SIDE, tiny_shapes

pytest.importorskip("sklearn")


class TestRidge:
    def test_closed_form(self) -> None:
        """Cholesky of the published code: (X'X + lambda) w = X'y, bias included, in the whitened space."""
        draw = torch.Generator().manual_seed(0)
        features = torch.randn((40, 6), generator=draw)
        targets = features[:, :4] * 0.3 + 0.1 * torch.randn((40, 4), generator=draw) + 0.2
        weight, bias = fit_ridge(features, targets, RidgeSettings(strength=7.0))
        padded = torch.cat([features, torch.ones(40, 1)], 1).double()
        # Whitening is linear and invertible, and the same penalty holds for every direction: it cancels.
        centred = targets.double() - targets.double().mean(0)
        normal = padded.T @ padded + 7.0 * torch.eye(7, dtype=torch.float64)
        solution = torch.linalg.solve(normal, padded.T @ centred).T
        assert_close(weight, solution[:, :-1].float(), rtol=1e-4, atol=1e-5)
        assert_close(bias, (solution[:, -1] + targets.double().mean(0)).float(), rtol=1e-4, atol=1e-5)

    def test_without_a_penalty_exact_targets_are_found(self) -> None:
        features = torch.randn((30, 5), generator=torch.Generator().manual_seed(1))
        true = torch.randn((4, 5), generator=torch.Generator().manual_seed(2))
        weight, _ = fit_ridge(features, features @ true.T, RidgeSettings(strength=1e-6))
        assert_close(weight, true, rtol=1e-3, atol=1e-3)

    def test_more_features_than_samples(self) -> None:
        weight, bias = fit_ridge(
            torch.ones(2, 9), torch.tensor([[0.1, 0, 0, 0], [0.3, 0, 0, 0]]), RidgeSettings()
        )
        assert_close(bias + weight.sum(1), torch.tensor([0.2, 0, 0, 0]), rtol=0, atol=1e-3)


class TestPairs:
    def test_all_are_kept_in_their_order(self) -> None:
        pairs = RegressionPairs(None, 0)
        for i in range(3):
            pairs.add(torch.full((2, 5), float(i)), torch.full((2, 4), float(i)))
        features, target_deltas = pairs.kept()
        assert features[:, 0].tolist() == target_deltas[:, 0].tolist() == [0, 0, 1, 1, 2, 2]

    def test_an_even_draw_of_so_many(self) -> None:
        """Early and late pairs have the same chance, and memory holds no more than twice the limit."""
        kept = torch.zeros(40)
        for seed in range(200):
            pairs = RegressionPairs(5, seed)
            for i in range(40):
                pairs.add(torch.tensor([[float(i)]]), torch.full((1, 4), float(i)))
                assert len(pairs) <= 10
            features, target_deltas = pairs.kept()
            assert features[:, 0].tolist() == target_deltas[:, 0].tolist() == sorted(features[:, 0].tolist())
            kept[features[:, 0].long()] += 1
        assert kept.sum() == 1000
        # 25 expected for each; the standard error of a quarter of them is 1.5.
        assert all(abs(float(part.mean()) - 25) < 6 for part in torch.split(kept, 10))


class TestMining:
    def test_samples_by_class_overlap_and_crowd(self) -> None:
        truth = Targets(
            (60, 60), torch.tensor([[0.0, 0, 10, 10], [20, 20, 30, 30], [40, 40, 60, 60]]),
            torch.tensor([0, 1, 0]), crowd=torch.tensor([False, False, True]),
        )  # fmt: skip
        # IoU with the object of class 0: 1, 0.5, 0.2; then one on class 1, one in the crowd.
        boxes = torch.tensor(
            [[0.0, 0, 10, 10], [0, 0, 10, 5], [0, 0, 10, 2], [20, 20, 30, 30], [45, 45, 55, 55]]
        )
        assert find_negatives(boxes, truth, 0, 0.3).tolist() == [False, False, True, True, False]
        assert find_negatives(boxes, truth, 1, 0.3).tolist() == [True, True, True, False, False]
        index, labels, deltas = find_pairs(boxes, truth, 0.45)
        assert index.tolist() == [0, 1, 3]
        assert labels.tolist() == [0, 0, 1]
        assert_close(deltas, encode(truth.boxes[[0, 0, 1]], boxes[index]))
        assert len(find_pairs(boxes, Targets.empty((60, 60)), 0.6)[0]) == 0

    def test_hard_negatives_join_and_easy_ones_go(self) -> None:
        settings = SVMSettings(c=1.0, bias=1.0, positive_weight=1.0, refit_every=2)
        machine = ClassSVM(settings, torch.tensor([[2.0, 0], [2, 1]]))
        machine.add_hard_negatives(torch.tensor([[-2.0, 0], [-9, 0]]))  # all are hard before the first fit
        assert machine.fits == 1
        # The far one lies beyond the margin of -1.2 and goes; the near one is what holds the SVM.
        assert machine.negatives.tolist() == [[-2.0, 0]]
        machine.add_hard_negatives(torch.tensor([[-8.0, 0], [-5, 1]]))
        assert (len(machine.negatives), machine.fits) == (1, 1)
        machine.add_hard_negatives(torch.tensor([[1.0, 0], [0, 0]]))
        assert (len(machine.negatives), machine.fresh, machine.fits) == (3, 2, 1)
        machine.add_hard_negatives(torch.tensor([[0.5, 0]]))
        assert (machine.fresh, machine.fits) == (0, 2)
        margins = machine.margins(torch.cat([machine.positives, torch.tensor([[1.0, 0]])]))
        assert bool((margins[:2] > margins[2]).all())

    def test_one_pass_finds_what_all_at_once_would(self) -> None:
        """The mined SVM is nearly that of all negatives (§2.3: converges after one pass)."""
        draw = torch.Generator().manual_seed(3)
        positives = torch.randn((20, 4), generator=draw) + torch.tensor([3.0, 0, 0, 0])
        negatives = torch.randn((600, 4), generator=draw) * 2 - torch.tensor([2.0, 0, 0, 0])
        settings = SVMSettings(c=0.1, bias=1.0, refit_every=30)
        machine = ClassSVM(settings, positives)
        for some in negatives.split(20):
            machine.add_hard_negatives(some)
        machine.fit()
        weight, bias = fit_svm(positives, negatives, settings)
        assert len(machine.negatives) < 200
        assert_close(machine.weight, weight, rtol=0.02, atol=0.02)
        assert machine.bias == pytest.approx(bias, abs=0.03)

    def test_a_class_without_objects_is_never_found(self) -> None:
        machine = ClassSVM(SVMSettings(), torch.zeros((0, 3)))
        machine.add_hard_negatives(torch.ones(5, 3))
        machine.fit()
        assert_close(machine.margins(torch.ones(2, 3)), torch.full((2,), ABSENT_CLASS_MARGIN))


def test_without_sklearn_the_command_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(ValueError, match=r'pip install "\.\[svm\]"'):
        require_sklearn()


def test_what_cannot_be_fitted() -> None:
    network = RCNN(2, SMALL)
    with pytest.raises(ValueError, match="images without proposals"):
        fit(network, Transform(), tiny_shapes(1))


SMALL = RCNNSettings(
    BackboneSettings("efficientnet_lite0", (3,), frozen_stages=1),
    side=64,
    context=8,
    pool=2,
    layers=0,
    chunk=128,
)


def on_disk(folder: Path, count: int, first: int) -> Dataset:
    """Pictures with proposals: their objects shifted by up to a third, and boxes anywhere."""
    shapes = tiny_shapes(count, first)
    rng = np.random.default_rng(first)
    records, boxes = [], {}
    for index in range(count):
        path = folder / f"{first + index}.png"
        Image.fromarray(shapes[index].image).save(path)
        truth = shapes.records[index].truth
        side = np.tile(truth.boxes[:, 2:] - truth.boxes[:, :2], (6, 2))
        near = np.tile(truth.boxes, (6, 1)) + side * rng.uniform(-0.2, 0.2, side.shape)
        corners = rng.uniform(0, SIDE - 16, (24, 2))
        far = np.concatenate([corners, corners + rng.uniform(8, 32, (24, 2))], 1)
        records.append(replace(shapes.records[index], path=path, image_id=path.stem, masks=None))
        boxes[path.stem] = np.concatenate([far, near]).clip(0, SIDE).astype(np.float32)
    return with_proposals(Dataset("shapes", folder, NAMES, records), boxes)


def test_it_learns_and_is_stored(tmp_path: Path) -> None:
    """On features of ImageNet alone, the SVMs tell disks from squares from background, and boxes tighten."""
    train, val = on_disk(tmp_path, 16, 0), on_disk(tmp_path, 8, 100)
    torch.manual_seed(0)
    network = RCNN(len(NAMES), SMALL)
    load_backbone_weights(network.backbone, SMALL.backbone)
    detector = Detector(network.eval(), Transform(), NAMES)
    before, _ = evaluate(detector, val)
    said: list[str] = []
    fit(network, detector.transform, train, say=said.append)
    after, found = evaluate(detector, val)
    assert any("SVM of disk" in line for line in said)
    assert before.metrics["box/AP50"] < 0.3
    assert after.metrics["box/AP50"] > 0.7
    fixed = RCNN(len(NAMES), replace(SMALL, regression=False))
    fixed.load_state_dict(network.state_dict())
    unmoved, _ = evaluate(Detector(fixed.eval(), Transform(), NAMES), val)
    assert after.metrics["box/AP75"] > unmoved.metrics["box/AP75"]
    # No scikit-learn is needed to use what was fitted: it is linear layers in a checkpoint like any other.
    again = load_detector(detector.save(tmp_path / "m.safetensors"), "cpu")
    same = again.predict([record.path for record in val.records[:1]], min_score=0.01,
                         proposals=[val.records[0].truth.proposals])  # fmt: skip
    assert_close(same[0].boxes, found[0].boxes[: len(same[0])])


def test_softmax_instead_of_svms_has_its_boxes_moved_still(tmp_path: Path) -> None:
    train = on_disk(tmp_path, 6, 0)
    said: list[str] = []
    torch.manual_seed(0)
    network = RCNN(len(NAMES), replace(SMALL, classifier="softmax"))
    load_backbone_weights(network.backbone, SMALL.backbone)
    fit(network, Transform(), train, say=said.append)
    assert not any("SVM" in line for line in said)
    assert float(network.svms.weight.abs().sum()) == 0
    assert float(network.deltas.weight.abs().sum()) > 0
    (found,) = Detector(network.eval(), Transform(), NAMES).predict(
        [train.records[0].path], min_score=0.0, proposals=[train.records[0].truth.proposals]
    )
    assert len(found)


def test_a_limit_on_the_images_searched(tmp_path: Path) -> None:
    train = on_disk(tmp_path, 5, 0)
    limited = replace(SMALL, svm=replace(SMALL.svm, images=2))
    said: list[str] = []
    fit(RCNN(len(NAMES), limited), Transform(), train, say=said.append)
    assert any(line.startswith("features: 2 of 2 images") for line in said)
