"""COCO's keypoint metrics against pycocotools; distances by hand."""

import contextlib
import io
import math
from dataclasses import replace

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from rcnn.data.formats.coco_keypoints import PERSON
from rcnn.metrics.coco import coco_metrics
from rcnn.metrics.keypoints import keypoint_errors
from rcnn.structures import Instances, Skeleton

SIZE = (400, 500)


def scenes(skeleton, images=12, seed=0):
    """Truths of all sizes, some without annotated keypoints, some crowds; predictions off by some pixels."""
    rng, count = np.random.default_rng(seed), len(skeleton.names)
    truths, predictions = [], []
    for _ in range(images):
        n = int(rng.integers(0, 5))
        corner = rng.random((n, 2)) * 250
        side = 15 + rng.random((n, 2)) * 130
        boxes = np.concatenate([corner, corner + side], 1).astype(np.float32)
        places = corner[:, None] + rng.random((n, count, 2)) * side[:, None]
        seen = rng.integers(0, 3, (n, count, 1)) * (rng.random((n, 1, 1)) > 0.15)
        truths.append(
            Instances(
                SIZE, boxes, rng.integers(0, 2, n),
                keypoints=np.concatenate([places, seen], 2).astype(np.float32), crowd=rng.random(n) > 0.9,
                areas=(side.prod(1) * 0.6).astype(np.float32), skeleton=skeleton,
            )
        )  # fmt: skip
        off = rng.normal(0, 0.06, (n, count, 2)) * np.sqrt(side.prod(1))[:, None, None]
        found = np.concatenate([places + off, np.ones((n, count, 1))], 2).astype(np.float32)
        found = np.concatenate([found, found[::-1]])
        labels, scores = np.tile(truths[-1].labels, 2), rng.random(2 * n).astype(np.float32)
        predictions.append(Instances(SIZE, np.tile(boxes, (2, 1)), labels, scores, keypoints=found))
    return truths, predictions


def official(truths, predictions, skeleton, cap=20):
    """pycocotools's evaluation, and its ten figures where it has them, at the cap of 20."""
    annotations, results = [], []
    for image, (truth, found) in enumerate(zip(truths, predictions, strict=True), 1):
        for i in range(len(truth)):
            x1, y1, x2, y2 = truth.boxes[i].tolist()
            points = truth.keypoints[i]
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
                    "keypoints": found.keypoints[i].flatten().tolist(),
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
    truths, predictions = scenes(skeleton, images=20, seed=2)
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
    nothing = Instances.empty(SIZE, scores=np.zeros(0, np.float32), keypoints=np.zeros((0, 2, 3), np.float32))
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
    box = np.array([[10, 10, 50, 50], [100, 100, 150, 150]], np.float32)
    points = np.array([[[20, 20, 2], [40, 40, 1]], [[110, 110, 2], [0, 0, 0]]], np.float32)
    truth = Instances(SIZE, box, np.zeros(2, np.int64), keypoints=points, skeleton=skeleton)
    moved = points + np.array([3, 4, 0], np.float32)
    found = Instances(SIZE, box[:1], np.zeros(1, np.int64), np.ones(1, np.float32), keypoints=moved[:1])
    errors = keypoint_errors([truth], [found])
    assert errors.mean == pytest.approx(5.0)
    assert errors.per_keypoint == pytest.approx({"nose": 5.0, "tail": 5.0})
    assert errors.found == 0.5
    both = replace(
        found,
        boxes=box,
        labels=truth.labels,
        scores=np.ones(2, np.float32),
        keypoints=np.stack([moved[0], points[1]]),
    )
    errors = keypoint_errors([truth], [both])
    assert errors.per_keypoint == pytest.approx({"nose": 2.5, "tail": 5.0})
    assert errors.mean == pytest.approx(10 / 3)
