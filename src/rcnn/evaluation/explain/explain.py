"""Follow one object, or one place, through the stages of a detection."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rcnn.evaluation.alignment import align_truth_classes
from rcnn.evaluation.explain import tables
from rcnn.evaluation.explain.chain import After, Chain, Step, follow, likeliest
from rcnn.evaluation.explain.explanation import Explanation, Region, Stage, Subject
from rcnn.evaluation.explain.passes import Floats, NotExplainableError, Pass, Watched, watch
from rcnn.evaluation.explain.sections import SECTIONS, source_of
from rcnn.evaluation.explain.sentences import stage_text, verdict
from rcnn.evaluation.explain.subject import Place, at_place, object_at, true_object
from rcnn.inference.detector import Detector
from rcnn.metrics.matches import MATCH_IOU, Matching, pair
from rcnn.metrics.overlaps import Kind, ious
from rcnn.structures import Array, Instances, box_ious


def explain(
    detector: Detector,
    image: Any,
    *,
    at: Place | None = None,
    class_name: str | None = None,
    truth: Instances | None = None,
    index: int | None = None,
    min_score: float | None = None,
    max_detections: int | None = None,
    proposals: Array | None = None,
) -> Explanation:
    """Show how an object, or whatever is at a place, was found or missed, stage by stage.

    The detector predicts as always, and its stages note what they decide; the detections are those of
    :meth:`rcnn.Detector.predict`, bit for bit.

    Args:
        detector: a trained network; exported files do not show their stages.
        image: as of :meth:`rcnn.Detector.predict`.
        at: a place ``x, y`` or a box ``x1, y1, x2, y2`` in pixels of the image; with ``truth``, it chooses
            the annotated object there; else a box is followed itself, and at a point the model's own best
            box. None without ``index``: the model's best detection.
        class_name: without ``truth``, the class that is looked for; None: the likeliest.
        truth: the annotated objects of the image.
        index: which of them to follow.
        min_score: the score threshold; that of the detector where None.
        max_detections: the most detections; that of the model where None.
        proposals: as one image's of :meth:`rcnn.Detector.predict`.

    Returns:
        Plain values, see :mod:`rcnn.evaluation.explain.explanation` for every field.

    Raises:
        ValueError: a model without stages, which the message names, a place outside the image, or no such
            object or class.
    """
    check_explainable(detector)
    watched = watch(detector, image, min_score=min_score, max_detections=max_detections, proposals=proposals)
    case = None if truth is None else Case.of(watched, truth, class_names=detector.class_names)
    subject = choose_subject(watched, case, at=at, index=index, class_name=class_name)
    return explain_watched(watched, subject, case, model=type(detector.network).__name__)


def check_explainable(detector: Any) -> None:
    """Refuse what does not show its stages.

    Raises:
        NotExplainableError: an exported file, or a model that finds no objects.
    """
    network = getattr(detector, "network", None)
    if network is None:
        raise NotExplainableError(
            "explain: an exported file does not show its stages; give the run or checkpoint that it was "
            "exported from"
        )
    if not network.finds_objects:
        raise NotExplainableError(
            f"explain: {type(network).__name__} classifies pixels and finds no objects, so that none can be "
            "missed; expected a model of the R-CNN family"
        )


@dataclass(frozen=True)
class Case:
    """The truth of a watched image, and which detection found which object.

    Attributes:
        truth: with the model's labels; those of classes that it does not know lie beyond its own.
        kind: what is compared.
        matching: of the detections.
        overlaps: IoU ``[D, N]`` of detections and objects.
        num_classes: of the model.
    """

    truth: Instances
    kind: Kind
    matching: Matching
    overlaps: Floats
    num_classes: int

    @classmethod
    def of(
        cls,
        watched: Watched,
        truth: Instances,
        *,
        class_names: Sequence[str],
        compares_masks: bool | None = None,
    ) -> Case:
        """Match the truth of an image with what was found in it.

        Args:
            watched: the image.
            truth: its objects.
            class_names: of the model.
            compares_masks: whether masks are compared, and not boxes; None: where both have masks.

        Raises:
            ValueError: the truth of an image of another size.
        """
        found = watched.found
        if truth.size != found.size:
            raise ValueError(f"truth: of an image of {truth.size}, but the image is {found.size}")
        names = truth.class_names or tuple(class_names)
        if names[: len(class_names)] != tuple(class_names):
            (truth,), names = align_truth_classes([truth], names, class_names)
        if compares_masks is None:
            compares_masks = truth.masks is not None and found.masks is not None
        kind: Kind = "mask" if compares_masks else "box"
        overlaps = ious(truth, found, kind).astype(np.float32)
        return cls(truth, kind, pair(truth, found, kind), overlaps, len(class_names))

    def found_by(self, index: int) -> int | None:
        """The detection that found an object."""
        return self.matching.found.index(index) if index in self.matching.found else None

    def to_be_found(self, subject: Subject) -> Subject:
        """A true object, if it must be found.

        Raises:
            ValueError: a crowd or a difficult object, which is neither found nor missed.
        """
        if subject.object not in self.matching.objects:
            place = ", ".join(f"{edge:.0f}" for edge in subject.box)
            raise ValueError(
                f"the {subject.class_name} at {place} is a crowd, is marked as difficult, or has no outline: "
                "it is neither found nor missed; choose another object"
            )
        return subject

    @property
    def missed(self) -> tuple[int, ...]:
        """The objects that no detection found; crowds and difficult ones are not among them."""
        return self.matching.at(0.0).missed_truths

    def after(self, watched: Watched, place: int, index: int) -> After:
        """What happened to the detections of a pass, as seen from one object."""
        rows = watched.merged[place]
        returned = rows >= 0
        found = np.array([*self.matching.found, -1])[rows]
        claimed = returned & (found != index) & (found != -1)
        agrees = np.ones_like(returned)
        if self.kind == "mask":
            agrees[returned] = self.overlaps[rows[returned], index] >= MATCH_IOU
        return After(claimed, watched.suppressed[place], returned, agrees, bool(watched.tiles))


def choose_subject(
    watched: Watched,
    case: Case | None,
    *,
    at: Place | None = None,
    index: int | None = None,
    class_name: str | None = None,
) -> Subject:
    """What to follow: the object with this index or at this place, else the first missed, else what is there.

    Raises:
        ValueError: no such object or place.
    """
    if index is not None:
        if case is None:
            raise ValueError(f"object {index}: only annotated objects have a number; give truth, or a place")
        return case.to_be_found(true_object(case.truth, index))
    if case is not None and at is not None and (chosen := object_at(case.truth, at)) is not None:
        return case.to_be_found(chosen)
    if case is not None and at is None and case.missed:
        return true_object(case.truth, case.missed[0])
    return at_place(watched, at, class_name)


@dataclass(frozen=True)
class Followed:
    """A subject's chain in the pass that reports it.

    Attributes:
        place: of the pass.
        own: the pass.
        chain: None of a class that the model does not know.
        cause: why the subject is missed; None: it was found.
        detection: the row of the detection that shows it.
    """

    place: int
    own: Pass
    chain: Chain | None
    cause: str | None
    detection: int | None


def followed(watched: Watched, subject: Subject, case: Case | None) -> Followed:
    """Follow a subject, and name the cause if it was missed."""
    box = np.array(subject.box, np.float32)
    place = watched.home(box)
    own = watched.passes[place]
    if subject.label is None or (case is not None and subject.label >= case.num_classes):
        return Followed(place, own, None, "unknown_class", None)
    truth_index = subject.object
    if case is None or truth_index is None:
        after = After.without_truth(
            watched.merged[place] >= 0, watched.suppressed[place], tiled=bool(watched.tiles)
        )
        chain = follow(own, box, subject.label, after)
        rows = watched.merged[place][chain.detections]
        detection = int(rows[0]) if len(rows) else None
    else:
        chain = follow(own, box, subject.label, case.after(watched, place, truth_index))
        detection = case.found_by(truth_index)
    cause = None
    if detection is None:
        # An IoU of 0.5 in one precision may be less in another.
        cause = chain.lost_at.cause if chain.lost_at is not None else "loose"
    return Followed(place, own, chain, cause, detection)


def explain_watched(watched: Watched, subject: Subject, case: Case | None, *, model: str) -> Explanation:
    """The explanation of one subject in a watched image."""
    found = watched.found
    step = followed(watched, subject, case)
    own, chain = step.own, step.chain
    limits = _limits(own)
    image = None if found.path is None else str(found.path)
    common = {
        "image": image, "size": list(found.size), "seen_size": list(watched.seen_size),
        "window": own.window.tolist(), "model": model, "class_names": list(found.class_names),
        "subject": subject, "cause": step.cause, "limits": limits,
        "levels": tables.levels(own), "detections": tables.detected(found),
    }  # fmt: skip
    if chain is None or subject.label is None:
        return Explanation(**common, verdict=verdict(subject, step.cause, "", None), stages=[])
    proposals, rows = tables.proposals(own, chain)
    top, top_scores = likeliest(own)
    region = tables.furthest_region(own, chain, subject.label)
    facts = _facts(watched, step, subject, region)
    stages = [_stage(one, facts, watched, step.cause, chain) for one in chain.steps]
    lost = "" if chain.lost_at is None else stage_text(chain.lost_at, facts)
    score = None
    if step.detection is not None and found.scores is not None:
        score = float(found.scores[step.detection])
    return Explanation(
        **common,
        verdict=verdict(subject, step.cause, lost, score),
        stages=stages,
        anchors=tables.anchors(own.anchoring, chain, rows),
        proposals=proposals,
        regions=tables.regions(own, chain, subject.label, top, top_scores),
        selected=tables.selected(own, chain),
        region=region,
        mask=tables.mask_map(own, watched.merged[step.place], found, step.detection),
    )


def _limits(own: Pass) -> dict[str, float]:
    """The settings that decide."""
    limits = {name: own.limits[name] for name in ("min_score", "nms_iou", "max_detections")}
    if own.anchoring is not None:
        rpn = own.anchoring
        limits |= {
            "rpn_nms_iou": rpn.nms_iou, "rpn_pre_nms": float(rpn.pre_nms), "rpn_post_nms": float(rpn.post_nms)
        }  # fmt: skip
    return limits


def _stage(step: Step, facts: dict[str, str], watched: Watched, cause: str | None, chain: Chain) -> Stage:
    """A step in the form that is shown."""
    source = source_of(step.key, watched.sources)
    is_cause = cause is not None and step is chain.lost_at
    return Stage(
        step.key, SECTIONS[step.key].title, stage_text(step, facts), step.entering, step.leaving,
        step.own_entering, step.own_leaving, step.best_iou, cause if is_cause else None,
        source.paper, source.url, source.code, source.line, source.text,
    )  # fmt: skip


def _facts(watched: Watched, step: Followed, subject: Subject, region: Region | None) -> dict[str, str]:
    """What sentences say beside the numbers of a step."""
    own, chain = step.own, step.chain
    assert chain is not None
    assert subject.label is not None
    facts = {name: f"{value:,.3g}" if value < 1 else f"{value:,.0f}" for name, value in _limits(own).items()}
    facts |= {"class_name": subject.class_name, "neighbour": _neighbour(watched, step, subject.label)}
    if own.maps is not None:
        facts["map"] = " x ".join(map(str, own.maps.shape[1:]))
    if region is not None:
        best = max(region.scores)
        background = region.background
        facts |= {
            "own_score": f"{region.scores[subject.label]:.2f}",
            "top_class": watched.found.class_names[region.scores.index(best)],
            "top_score": f"{best:.2f}",
            "background": "no SVM accepts it"
            if background is None
            else f"{background:.2f} for the background",
        }
    if chain.moved_ious is not None and own.anchoring is not None:
        matching = chain.moved_ious >= MATCH_IOU
        facts["objectness"] = f"{own.anchoring.scores[matching].max(initial=0.0):.2f}"
    return facts


def _neighbour(watched: Watched, step: Followed, label: int) -> str:
    """The detection for which the subject's best one is dropped, in words."""
    own, chain = step.own, step.chain
    assert chain is not None
    mine = own.pair_labels == label
    others = own.unsuppressed[mine[own.unsuppressed]]
    if not len(others):
        return "no other is left"
    best = int(np.where(mine, chain.pair_ious, -1).argmax())
    if best in others:
        return "the one detection left here counts for another object"
    overlaps = box_ious(own.pair_boxes[others], own.pair_boxes[best][None])[:, 0]
    row = int(overlaps.argmax())
    name, score = watched.found.class_names[label], own.pair_scores[others[row]]
    return f"it overlaps a {name} with a score of {score:.2f} by IoU {overlaps[row]:.2f}"
