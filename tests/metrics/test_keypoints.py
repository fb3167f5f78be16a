"""COCO's keypoint metrics against pycocotools; distances by hand."""

import contextlib
import io
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from rcnn.data.formats.coco import PERSON
from rcnn.metrics.coco import coco_metrics
from rcnn.metrics.keypoints import keypoint_errors
from rcnn.structures import Instances, Skeleton

SIZE = (400, 500)


def scenes(skeleton, images=12, seed=0):
    """Truths of all sizes, some without annotated keypoints, some crowds; predictions off by some pixels."""
    draw, count = torch.Generator().manual_seed(seed), len(skeleton.names)
    truths, predictions = [], []
    for _ in range(images):
        n = int(torch.randint(0, 5, (), generator=draw))
        corner = torch.rand(n, 2, generator=draw) * 250
        side = 15 + torch.rand(n, 2, generator=draw) * 130
        boxes = torch.cat([corner, corner + side], 1)
        places = corner[:, None] + torch.rand(n, count, 2, generator=draw) * side[:, None]
        seen = torch.randint(0, 3, (n, count, 1), generator=draw).float() * (
            torch.rand(n, 1, 1, generator=draw) > 0.15
        )
        truths.append(
            Instances(
                SIZE, boxes, torch.randint(0, 2, (n,), generator=draw),
                keypoints=torch.cat([places, seen], 2), crowd=torch.rand(n, generator=draw) > 0.9,
                areas=side.prod(1) * 0.6, skeleton=skeleton,
            )
        )  # fmt: skip
        off = torch.randn(n, count, 2, generator=draw) * 0.06 * side.prod(1).sqrt()[:, None, None]
        found = torch.cat([places + off, torch.ones(n, count, 1)], 2)
        found = torch.cat([found, found.flip(0)])
        labels = torch.cat([truths[-1].labels, truths[-1].labels])
        scores = torch.rand(2 * n, generator=draw)
        predictions.append(Instances(SIZE, torch.cat([boxes, boxes]), labels, scores, keypoints=found))
    return truths, predictions


def official(truths, predictions, skeleton, cap=20):
    """pycocotools's evaluation, and its ten figures where it has them, at the cap of 20."""
    annotations, results = [], []
    for image, (truth, found) in enumerate(zip(truths, predictions, strict=True), 1):
        for i in range(len(truth)):
            x1, y1, x2, y2 = truth.boxes[i].double().tolist()
            points = truth.keypoints[i].double()
            annotations.append(
                {
                    "id": len(annotations) + 1, "image_id": image, "category_id": int(truth.labels[i]) + 1,
                    "bbox": [x1, y1, x2 - x1, y2 - y1], "area": float(truth.areas[i]),
                    "iscrowd": int(truth.crowd[i]), "keypoints": points.flatten().tolist(),
                    "num_keypoints": int((points[:, 2] > 0).sum()),
                }
            )  # fmt: skip
        for i in range(len(found)):
            results.append(
                {
                    "image_id": image, "category_id": int(found.labels[i]) + 1,
                    "score": float(found.scores[i]),
                    "keypoints": found.keypoints[i].double().flatten().tolist(),
                }
            )  # fmt: skip
    coco = COCO()
    images = [{"id": i, "height": SIZE[0], "width": SIZE[1]} for i in range(1, len(truths) + 1)]
    coco.dataset = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": 1}, {"id": 2}],
        "info": {},
    }
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
        evaluator = COCOeval(coco, coco.loadRes(results), "keypoints")
        evaluator.params.kpt_oks_sigmas = np.array(skeleton.sigmas)
        evaluator.params.maxDets = [cap]
        evaluator.evaluate()
        evaluator.accumulate()
        if cap == 20:
            evaluator.summarize()
    return evaluator


@pytest.mark.parametrize(
    "skeleton", [PERSON, Skeleton(("a", "b", "c"), sigmas=(0.05, 0.1, 0.02))], ids=["person", "three"]
)
def test_average_precision_is_pycocotools(skeleton):
    truths, predictions = scenes(skeleton)
    ours = coco_metrics(
        truths, predictions, kind="keypoint", class_names=("a", "b"), max_detections=20
    ).metrics
    theirs = official(truths, predictions, skeleton).stats
    for name, value in zip(("AP", "AP50", "AP75", "AP_medium", "AP_large", "AR"), theirs[:6], strict=True):
        expected = value if value > -1 else math.nan  # pycocotools's mark for no truth of that size
        assert ours[name] == pytest.approx(expected, abs=1e-6, nan_ok=True), name
    assert 0.05 < ours["AP"] < 0.95


@pytest.mark.parametrize("cap", [2, 20])
def test_each_class_size_and_cap_is_pycocotools(cap):
    """Sigmas differ by keypoint; pycocotools has tables where it has no summary."""
    skeleton = Skeleton(("a", "b", "c"), sigmas=(0.03, 0.1, 0.2))
    truths, predictions = scenes(skeleton, images=20, seed=3)
    ours = coco_metrics(truths, predictions, kind="keypoint", class_names=("a", "b"), max_detections=cap)
    tables = official(truths, predictions, skeleton, cap).eval
    for label, name in enumerate(("a", "b")):
        precision, recall = tables["precision"][..., label, :, 0], tables["recall"][..., label, :, 0]
        expected = {"AP": precision[..., 0], "AP50": precision[0, :, 0], "AR": recall[..., 0]}
        expected |= {"AP_medium": precision[..., 1], "AP_large": precision[..., 2]}
        for metric, values in expected.items():
            assert ours.per_class[name][metric] == pytest.approx(values.mean(), abs=1e-6), (name, metric)
    usual = replace(skeleton, sigmas=())
    blurred = coco_metrics(
        [replace(t, skeleton=usual) for t in truths], predictions, kind="keypoint", class_names=("a", "b"),
        max_detections=cap,
    )  # fmt: skip
    assert blurred.metrics["AP"] != pytest.approx(ours.metrics["AP"], abs=1e-3)


def test_objects_without_keypoints_are_neither_found_nor_missed():
    skeleton = Skeleton(("a", "b"))
    truths, _ = scenes(skeleton)
    truth = replace(next(t for t in truths if len(t))[:1], crowd=None)
    blank = replace(truth, keypoints=truth.keypoints * 0)
    nothing = Instances(
        SIZE,
        torch.zeros(0, 4),
        torch.zeros(0, dtype=torch.int64),
        torch.zeros(0),
        keypoints=torch.zeros(0, 2, 3),
    )
    metrics = coco_metrics([blank], [nothing], kind="keypoint", class_names=("a", "b")).metrics
    assert math.isnan(metrics["AP"])


def test_missing_keypoints_are_named():
    truths, predictions = scenes(PERSON)
    with pytest.raises(ValueError, match="objects without keypoints"):
        coco_metrics(
            truths, [replace(p, keypoints=None) for p in predictions], kind="keypoint", class_names=("a", "b")
        )


def test_distances_by_hand():
    skeleton = Skeleton(("nose", "tail"))
    box = torch.tensor([[10.0, 10, 50, 50], [100, 100, 150, 150]])
    points = torch.tensor([[[20.0, 20, 2], [40, 40, 1]], [[110, 110, 2], [0, 0, 0]]])
    truth = Instances(SIZE, box, torch.zeros(2, dtype=torch.int64), keypoints=points, skeleton=skeleton)
    moved = points + torch.tensor([3.0, 4.0, 0.0])
    found = Instances(SIZE, box[:1], torch.zeros(1, dtype=torch.int64), torch.ones(1), keypoints=moved[:1])
    errors = keypoint_errors([truth], [found])
    assert errors.mean == pytest.approx(5.0)
    assert errors.per_keypoint == pytest.approx({"nose": 5.0, "tail": 5.0})
    assert errors.found == 0.5
    both = replace(
        found,
        boxes=box,
        labels=truth.labels,
        scores=torch.ones(2),
        keypoints=torch.stack([moved[0], points[1]]),
    )
    errors = keypoint_errors([truth], [both])
    assert errors.per_keypoint == pytest.approx({"nose": 2.5, "tail": 5.0})
    assert errors.mean == pytest.approx(10 / 3)
