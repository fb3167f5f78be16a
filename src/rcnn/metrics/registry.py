"""The families of metrics by name, in one place: what each measures, needs, and when it is chosen.

A new family is a function from :class:`Compared` to :class:`Measures` and a line of ``FAMILIES``.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from rcnn.metrics.cityscapes import cityscapes_metrics
from rcnn.metrics.coco import Kind, coco_metrics
from rcnn.metrics.errors import KINDS, analyse_errors
from rcnn.metrics.keypoints import keypoint_errors
from rcnn.metrics.nuclei import nuclei_metrics
from rcnn.metrics.recall import proposal_recall
from rcnn.metrics.voc import voc_metrics
from rcnn.structures import Instances

KEYPOINT_CAP = 20  # COCO's


@dataclass(frozen=True)
class Compared:
    """What all families measure.

    Attributes:
        truths: one an image, labels indexing ``class_names``.
        predictions: one an image, in the same order and coordinates, of all scores.
        class_names: of both.
        has_masks: whether masks are compared beside boxes.
        has_keypoints: whether keypoints are.
        max_detections: COCO's cap by image and class.
        threshold: the score from which detections count, for metrics at one threshold.
        format: of the data set, where it is known.
        speed: what was measured of the detector at work; empty where none was run.
    """

    truths: Sequence[Instances]
    predictions: Sequence[Instances]
    class_names: tuple[str, ...]
    has_masks: bool
    has_keypoints: bool
    max_detections: int
    threshold: float
    format: str = ""
    speed: Mapping[str, float] = field(default_factory=dict)

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """What is compared, boxes first."""
        kinds: tuple[tuple[Kind, bool], ...] = (
            ("box", True), ("mask", self.has_masks), ("keypoint", self.has_keypoints),
        )  # fmt: skip
        return tuple(kind for kind, there in kinds if there)

    @property
    def shape(self) -> Kind:
        """What tells found from missed: masks where there are masks, else boxes."""
        return "mask" if self.has_masks else "box"


@dataclass(frozen=True)
class Measures:
    """What one family found.

    Attributes:
        metrics: over all classes, by ``family/name``.
        per_class: by class name likewise.
        curves: by class name ``recall`` and ``precision``, of COCO's alone.
    """

    metrics: dict[str, float]
    per_class: dict[str, dict[str, float]] = field(default_factory=dict)
    curves: dict[str, dict[str, list[float]]] = field(default_factory=dict)


@dataclass(frozen=True)
class Family:
    """A name of ``--metrics``.

    Attributes:
        about: what it measures, a line.
        measure: does it.
        lacks: what would be needed and is not there; empty where it can be measured.
        suits: whether it is chosen where none is named; only asked where nothing is lacking.
    """

    about: str
    measure: Callable[[Compared], Measures]
    lacks: Callable[[Compared], str] = lambda _: ""
    suits: Callable[[Compared], bool] = lambda _: True


def chosen_families(names: Sequence[str] | None, compared: Compared) -> tuple[str, ...]:
    """The families named, without repeats; for None, or for BASIC, those of them that suit the data.

    Raises:
        ValueError: a name that is unknown, or a family that lacks something.
    """
    if names is None or tuple(names) == BASIC:
        families = {name: FAMILIES[name] for name in names or FAMILIES}
        return tuple(n for n, f in families.items() if not f.lacks(compared) and f.suits(compared))
    check_names(names)
    for name in names:
        lacking = FAMILIES[name].lacks(compared)
        if lacking:
            raise ValueError(f"metrics {name}: needs {lacking}; leave {name} out.")
    return tuple(dict.fromkeys(names))


def check_names(names: Sequence[str]) -> None:
    """Refuse what is no family, with the nearest that is.

    Raises:
        ValueError: an unknown name.
    """
    for name in names:
        if name not in FAMILIES:
            near = difflib.get_close_matches(name.lower(), FAMILIES, 1, 0.4)
            hint = f"did you mean {near[0]}? " if near else ""
            raise ValueError(f"metrics {name!r}: unknown; {hint}known are {', '.join(FAMILIES)}.")


def _coco(compared: Compared) -> Measures:
    metrics: dict[str, float] = {}
    per_class: dict[str, dict[str, float]] = {name: {} for name in compared.class_names}
    curves: dict[str, dict[str, list[float]]] = {}
    for kind in compared.kinds:
        cap = compared.max_detections
        result = coco_metrics(
            compared.truths, compared.predictions, kind=kind, class_names=compared.class_names,
            max_detections=min(cap, KEYPOINT_CAP) if kind == "keypoint" else cap,
        )  # fmt: skip
        metrics |= {f"{kind}/{key}": value for key, value in result.metrics.items()}
        for name, values in result.per_class.items():
            per_class[name] |= {f"{kind}/{key}": value for key, value in values.items()}
        if kind == compared.shape:
            # A class without truth has a curve of NaNs.
            curves = {
                name: {"recall": result.recall, "precision": curve}
                for name, curve in result.precision.items()
                if curve[0] == curve[0]
            }
    if compared.has_keypoints:
        errors = keypoint_errors(compared.truths, compared.predictions)
        metrics |= {"keypoint/error": errors.mean, "keypoint/found": errors.found}
        metrics |= {f"keypoint/error_{name}": error for name, error in errors.per_keypoint.items()}
    return Measures(metrics, per_class, curves)


def _voc(year: str, *, eleven_point: bool) -> Callable[[Compared], Measures]:
    def measure(compared: Compared) -> Measures:
        result = voc_metrics(
            compared.truths, compared.predictions, class_names=compared.class_names, eleven_point=eleven_point
        )
        per_class = {name: {f"{year}/AP": value} for name, value in result.per_class.items()}
        return Measures({f"{year}/mAP": result.mean_ap}, per_class)

    return measure


def _nuclei(compared: Compared) -> Measures:
    result = nuclei_metrics(compared.truths, compared.predictions, compared.threshold)
    pooled = {f"nuclei/{name}": value for name, value in result.pooled.items()}
    means = {f"nuclei_per_image/{name}": value for name, value in result.per_image.items()}
    return Measures({"nuclei/threshold": result.threshold, **pooled, **means})


def _cityscapes(compared: Compared) -> Measures:
    result = cityscapes_metrics(compared.truths, compared.predictions, class_names=compared.class_names)
    per_class = {
        name: {f"cityscapes/{key}": value for key, value in values.items()}
        for name, values in result.per_class.items()
    }
    return Measures({"cityscapes/AP": result.ap, "cityscapes/AP50": result.ap_50}, per_class)


def _errors(compared: Compared) -> Measures:
    result = analyse_errors(
        compared.truths, compared.predictions, kind=compared.shape, num_classes=len(compared.class_names)
    )
    counts = {f"errors/{kind}_count": float(result.counts[kind]) for kind in KINDS}
    return Measures(
        {"errors/AP50": result.ap, **{f"errors/{kind}": result.costs[kind] for kind in KINDS}, **counts}
    )


def _proposals(compared: Compared) -> Measures:
    recall = proposal_recall(compared.truths)
    metrics = {"proposals/per_image": recall.per_image}
    for name, values in (("recall50", recall.at_50), ("recall70", recall.at_70), ("AR", recall.average)):
        metrics |= {f"proposals/{name}@{n}": v for n, v in zip(recall.counts, values, strict=True)}
    return Measures(metrics)


def _masks_lacking(compared: Compared) -> str:
    return "" if compared.has_masks else "masks in the data and in the predictions"


def _proposals_lacking(compared: Compared) -> str:
    there = compared.truths and all(truth.proposals is not None for truth in compared.truths)
    return "" if there else "a data set with proposals, from --proposals FILE (see rcnn propose)"


FAMILIES: dict[str, Family] = {
    "coco": Family("COCO's AP and AR of boxes, masks and keypoints; how far keypoints are off", _coco),
    "voc07": Family("VOC 2007's AP of boxes (11 points)", _voc("voc07", eleven_point=True)),
    "voc10": Family("VOC 2010's AP of boxes (area)", _voc("voc10", eleven_point=False)),
    "nuclei": Family(
        "F1, PQ, AJI, Dice and GlaS's metrics at one score threshold", _nuclei, lacks=_masks_lacking,
        # What nuclei and glands look like as data; other masks seldom are judged so.
        suits=lambda c: len(c.class_names) == 1,
    ),
    "cityscapes": Family(
        "Cityscapes' AP of masks", _cityscapes, lacks=_masks_lacking,
        suits=lambda c: c.format == "cityscapes",
    ),
    "errors": Family("kinds of errors, and the AP each costs (TIDE)", _errors),
    "proposals": Family("recall of the proposals given", _proposals, lacks=_proposals_lacking),
    "speed": Family(
        "images a second, seconds by stage, peak memory",
        lambda c: Measures({f"speed/{name}": value for name, value in c.speed.items()}),
        lacks=lambda c: "" if c.speed else "a MODEL that is run", suits=lambda _: False,
    ),
}  # fmt: skip
BASIC = ("coco", "voc07", "voc10")  # what is followed during training
