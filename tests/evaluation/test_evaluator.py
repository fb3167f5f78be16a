"""Evaluation: all metrics together, the classes by name, a whole run with a small detector."""

import io
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from objects import FAR, SIZE, A, B, filled, instances
from rcnn.data.dataset import Dataset, LeftOut, Record, Sample
from rcnn.evaluation.alignment import align_keypoints, align_truth_classes
from rcnn.evaluation.evaluator import default_max_detections, evaluate, evaluate_predictions
from rcnn.structures import VOID, Instances, Masks, Skeleton


def measured(truths, predictions, names=("a",), has_masks=False, **settings):
    return evaluate_predictions(truths, predictions, names, has_masks=has_masks, **settings)


def test_scores_of_true_and_false_detections_are_told_apart_at_any_threshold() -> None:
    found = [instances([A, B, FAR], scores=[0.9, 0.5, 0.25]), instances([FAR], scores=[0.125])]
    got = measured([instances([A, B]), instances([A])], found)
    assert (got.f1_threshold, got.f1) == pytest.approx(((0.5 + 0.25) / 2, 0.8))
    assert sorted(got.agreement.scores_true) == pytest.approx([0.5, 0.9])
    assert sorted(got.agreement.scores_false) == pytest.approx([0.125, 0.25])


@pytest.mark.parametrize("mark", ["crowd", "difficult"])
def test_crowds_and_difficult_objects_count_neither_way(mark) -> None:
    truth = instances([A, B], **{mark: [True, False]})
    found = instances([A, [0, 0, 10, 9], B], scores=[0.9, 0.8, 0.7])
    got = measured([truth], [found])
    match = got.matches[0]
    assert (match.num_true, match.num_predicted, match.f1) == (1, 1, 1.0)
    assert (match.missed_truths, match.spurious_predictions) == ((), ())
    assert (len(got.agreement.scores_true), len(got.agreement.scores_false)) == (1, 0)
    assert got.per_class["a"]["objects"] == (1 if mark == "crowd" else 2)


def test_masks_decide_where_there_are_masks() -> None:
    # The boxes agree, the masks do not.
    truth = instances([A], masks=filled([[0, 0, 10, 4]]))
    found = instances([A], scores=[0.9], masks=filled([[0, 6, 10, 10]]))
    boxes, masks = (measured([truth], [found], has_masks=flag) for flag in (False, True))
    assert (boxes.f1, masks.f1) == (1.0, 0.0)
    assert masks.metrics["box/AP50"] == pytest.approx(1.0)
    assert masks.metrics["mask/AP50"] == 0.0
    assert "mask/AP" not in boxes.metrics
    assert max(boxes.pr_curves["a"]["precision"]) == pytest.approx(1.0)
    assert max(masks.pr_curves["a"]["precision"]) == 0.0


def test_metrics_by_class_and_overall() -> None:
    truth = instances([A, B, FAR], labels=[0, 0, 1])
    found = instances([A, FAR], labels=[0, 1], scores=[0.9, 0.8])
    got = measured([truth], [found], names=("a", "b", "c"))
    assert [values["objects"] for values in got.per_class.values()] == [2, 1, 0]
    assert got.per_class["a"]["box/AP50"] == pytest.approx(51 / 101)
    assert got.per_class["a"]["voc07/AP"] == pytest.approx(6 / 11)
    assert got.per_class["a"]["voc10/AP"] == pytest.approx(0.5)
    assert got.metrics["voc07/mAP"] == pytest.approx((6 / 11 + 1) / 2)
    assert got.metrics["box/AP50"] == pytest.approx((51 / 101 + 1) / 2)
    assert sorted(got.pr_curves) == ["a", "b"]
    assert len(got.pr_curves["a"]["recall"]) == len(got.pr_curves["a"]["precision"]) == 101


@pytest.mark.parametrize(("most", "cap"), [(0, 100), (99, 100), (101, 101), (350, 350), (900, 900)])
def test_cap_follows_the_fullest_image(most, cap) -> None:
    assert default_max_detections(map(len, [instances([A] * most), instances([A])])) == cap
    assert default_max_detections([]) == 100


def test_json_is_finite_and_complete() -> None:
    truth = replace(instances([A], masks=filled([A])), path=Path("a b.png"))
    found = instances([A], scores=[0.9], masks=filled([A]))
    got = measured([truth], [found], names=("a", "b"), has_masks=True)
    values = json.loads(json.dumps(got.to_json(), allow_nan=False))
    assert math.isnan(got.per_class["b"]["mask/AP"])
    assert values["per_class"]["b"]["mask/AP"] is None
    assert values["metrics"]["mask/AP"] == pytest.approx(1.0)
    assert values["matches"][0]["path"] == "a b.png"
    assert values["matches"][0]["matched_truths"] == [0]
    assert (values["has_masks"], values["has_keypoints"], values["has_boxes"]) == (True, False, True)
    assert values["families"] == ["coco", "voc07", "voc10", "errors"]
    assert (values["semantic"], values["panoptic"]) == (None, None)
    assert values["seconds"]["measuring"] > 0


@pytest.mark.parametrize("has_masks", [False, True])
def test_table_fits_eighty_columns(has_masks) -> None:
    truth = instances([A, B], labels=[0, 1], masks=filled([A, B]))
    found = instances([A], scores=[0.9], masks=filled([A]))
    got = measured([truth], [found], names=("nucleus", "b"), has_masks=has_masks)
    console = Console(file=io.StringIO(), width=80)
    console.print(got.table())
    text = console.file.getvalue()
    assert "nucleus" in text
    assert "100.0" in text
    assert ("mask" in text) == has_masks
    assert "…" not in text


def test_classes_are_matched_by_name_whatever_their_case() -> None:
    truths, names = align_truth_classes(
        [instances([A, B, FAR], labels=[0, 1, 2])], ["wbc", "RBC", "rbc"], ["RBC", "WBC"]
    )
    assert names == ("RBC", "WBC")
    assert truths[0].labels.tolist() == [1, 0, 0]
    assert truths[0].names == ["WBC", "RBC", "RBC"]


def test_data_without_names_are_of_a_models_one_class() -> None:
    truths, names = align_truth_classes([instances([A])], ["object"], ["nucleus"])
    assert (names, truths[0].names) == (("nucleus",), ["nucleus"])
    with pytest.warns(UserWarning, match="'object', which the model does not know"):
        align_truth_classes([instances([A])], ["object"], ["nucleus", "gland"])


def with_points(points: list[list[float]], names: tuple[str, ...]) -> Instances:
    one = instances([A], scores=[0.9])
    return replace(one, keypoints=np.array([points], np.float32), skeleton=Skeleton(names))


def test_keypoints_are_matched_by_name() -> None:
    found = with_points([[1, 1, 1], [5, 5, 1], [9, 9, 1]], ("nose", "left", "right"))
    (same,) = align_keypoints([found], Skeleton(("right", "nose")))
    assert same.keypoints[0, :, 0].tolist() == [9, 1]
    assert same.skeleton.names == ("right", "nose")
    (same,) = align_keypoints([found], Skeleton(found.skeleton.names, sigmas=(0.1, 0.1, 0.1)))
    assert same is found
    (same,) = align_keypoints([found], Skeleton(("NOSE", "Right")))
    assert same.keypoints[0, :, 0].tolist() == [1, 9]
    (same,) = align_keypoints([found], Skeleton(("keypoint_0", "keypoint_1", "keypoint_2")))
    assert same is found, "YOLO's files need not name them"
    assert align_keypoints([found], None) is None
    assert align_keypoints([instances([A], scores=[0.9])], Skeleton(("nose",))) is None


def test_keypoints_that_the_model_does_not_find_are_not_measured() -> None:
    found = with_points([[1, 1, 1]], ("nose",))
    with pytest.warns(UserWarning, match="the model predicts only nose: keypoints are not measured"):
        assert align_keypoints([found], Skeleton(("nose", "tail"))) is None


def test_class_unknown_to_the_model_counts_as_missed_with_a_warning() -> None:
    given = [instances([A, B], labels=[0, 1])]
    with pytest.warns(UserWarning, match="'dog', which the model does not know"):
        truths, names = align_truth_classes(given, ["dog", "cat", "never seen"], ["cat"])
    assert names == ("cat", "dog")
    got = measured(truths, [instances([B], scores=[0.9])], names=names)
    assert got.per_class["dog"]["box/AP"] == 0.0
    assert got.metrics["box/AP"] == pytest.approx(0.5)
    assert got.matches[0].missed_truths == (0,)


class Drawn(Dataset):
    """Images whose pixels are the number of the image."""

    def __getitem__(self, index: int) -> Sample:
        image = np.full((*SIZE, 3), index, np.uint8)
        return Sample(image, self.records[index].load_truth(), self.records[index].image_id)


class Oracle:
    """Finds what it was told, image by image."""

    def __init__(self, found: list[Instances], class_names: tuple[str, ...]) -> None:
        self.found, self.class_names = found, class_names
        self.asked: list[tuple[int, float | None, int | None]] = []

    def predict(self, images, *, min_score=None, max_detections=None) -> list[Instances]:
        self.asked.append((len(images), min_score, max_detections))
        return [self.found[int(image[0, 0, 0])] for image in images]


def drawn(truths: list[Instances], names: tuple[str, ...], masks: list[Masks] | None = None) -> Drawn:
    makers = [None] * len(truths) if masks is None else [lambda m=m: m for m in masks]
    records = [
        Record(Path(f"{n}.png"), n, truth, make)
        for n, (truth, make) in enumerate(zip(truths, makers, strict=True))
    ]
    return Drawn("shapes", Path("drawn"), names, records)


def test_a_whole_run() -> None:
    truths = [instances([A, B], labels=[0, 1]), Instances.empty(SIZE), instances([FAR])]
    boxes = [[A, B], [], [FAR]]
    dataset = drawn(truths, ("Cat", "dog"), [filled(b) for b in boxes])
    found = [
        instances([A, B], labels=[1, 0], scores=[0.9, 0.8], masks=filled([A, B])),
        Instances.empty(SIZE),
        instances([FAR], labels=[1], scores=[0.7], masks=filled([FAR])),
    ]
    detector, done = Oracle(found, ("dog", "cat")), []
    got, predictions = evaluate(detector, dataset, batch_size=2, progress=lambda *at: done.append(at))
    assert detector.asked == [(2, 0.01, 100), (1, 0.01, 100)]
    assert done == [(1, 3), (2, 3), (3, 3)]
    assert got.kinds == ("box", "mask")
    assert got.metrics["mask/AP"] == got.metrics["box/AP"] == pytest.approx(1.0)
    assert list(got.per_class) == ["dog", "cat"]
    assert [match.path.name for match in got.matches] == ["0.png", "1.png", "2.png"]
    assert set(got.seconds) == {"decoding", "predicting", "measuring"}
    assert len(predictions) == 3


def test_a_box_detector_on_data_with_masks_is_measured_by_boxes() -> None:
    dataset = drawn([instances([A])], ("a",), [filled([A])])
    got, _ = evaluate(Oracle([instances([A], scores=[0.9])], ("a",)), dataset, max_detections=7)
    assert got.kinds == ("box",)
    assert got.metrics["box/AP"] == pytest.approx(1.0)
    assert got.max_detections == 7


def test_void_counts_neither_way_in_cityscapes_metrics() -> None:
    truth = replace(instances([A], masks=filled([A])), semantic=np.zeros(SIZE, np.uint8))
    truth.semantic[:, 40:] = VOID  # where the second detection lies
    found = instances([A, FAR], scores=[0.8, 0.9], masks=filled([A, FAR]))
    dataset = drawn([truth], ("a",), [truth.masks])
    got, _ = evaluate(Oracle([found], ("a",)), dataset, metrics=["cityscapes"])
    assert got.metrics["cityscapes/AP50"] == pytest.approx(1.0)


def test_a_place_with_errors_is_refused(tmp_path: Path) -> None:
    image = {"id": 1, "file_name": "gone.png", "width": 9, "height": 9}
    content = {"images": [image], "annotations": [], "categories": [{"id": 1, "name": "a"}]}
    (tmp_path / "a.json").write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(ValueError, match=r"gone\.png"):
        evaluate(Oracle([], ("a",)), tmp_path / "a.json")


def test_no_images_are_refused() -> None:
    with pytest.raises(ValueError, match="no images"):
        evaluate(Oracle([], ("a",)), drawn([], ("a",)))


def test_a_crowded_image_with_masks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Masks, "dense", None)  # 400 MB, and no need of them
    corners = [[x * 40, y * 40] for x in range(25) for y in range(20)]
    boxes = [[x, y, x + 30, y + 30] for x, y in corners]
    size = (800, 1000)
    truth = replace(instances(boxes, masks=filled(boxes, size)), size=size)
    scores = np.linspace(0.9, 0.1, 500, dtype=np.float32)
    got = measured([truth], [replace(truth, scores=scores)], has_masks=True)
    assert got.f1 == 1.0
    assert got.max_detections == 500
    assert got.metrics["mask/AP"] == pytest.approx(1.0)


def test_a_figure_says_what_its_truth_lost() -> None:
    left_out = LeftOut(12, 980, 3, 100)
    got = replace(measured([instances([A])], [instances([A], scores=[0.9])]), left_out=left_out)
    console = Console(file=io.StringIO(), width=200)
    console.print(got.table())
    text = console.file.getvalue()
    assert "measured without: 12 of 980 objects unreadable, 3 of 100 images left out" in text
    assert got.to_json()["left_out"] == {"objects": 12, "all_objects": 980, "images": 3, "all_images": 100}
