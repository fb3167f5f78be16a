"""The model that a training starts from: its classes matched with those of the data, its weights taken over.

Classes are matched by name, ignoring case. The result has the classes of the data: those that the model knows
in the model's order, then the new ones. So where the classes are the same, so is every tensor.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rcnn.config import did_you_mean, to_plain
from rcnn.data.classes import (
    MatchedNames,
    align_dataset_classes,
    keypoint_order,
    match_names,
    matching_label,
    numbered_keypoints,
    rename_classes,
)
from rcnn.data.dataset import Dataset
from rcnn.inference.detector import Detector
from rcnn.loading import load_detector
from rcnn.models import model_name
from rcnn.models.model import Model
from rcnn.parts.class_rows import ClassKeys, Keys, TakenOver, take_over
from rcnn.structures import OTHER, stuff_names
from rcnn.training.defaults import FixedModel, Reason
from rcnn.training.options import TrainOptions
from rcnn.training.recipe import Recipe, recipe_tables
from rcnn.training.settings import TrainSettings
from rcnn.training.split import RECORD, Seen, Split

MAX_TENSORS_SHOWN = 8


@dataclass(frozen=True)
class Start:
    """A trained model to start from.

    Attributes:
        source: what the user called it.
        detector: the model, on the CPU.
        whole: the new model has its architecture, anchors, scale and conventions, too, and not only its
            weights; False where a recipe was given, which says all that.
    """

    source: str
    detector: Detector
    whole: bool

    def model_for(self, matched: Match) -> FixedModel | None:
        """The model of a plan for matched data; None where a recipe says which."""
        if not self.whole:
            return None
        network = self.detector.network
        settings = network.settings_for(network.settings, matched.split.train)
        name, transform = model_name(network), self.detector.transform
        return FixedModel(self.source, name, settings, transform, has_new=matched.has_new)

    def seen(self) -> Seen:
        """The images that it was trained on."""
        return Seen.of(self.source, self.detector.info)

    def to_json(self, split: Split) -> dict[str, Any]:
        """What a run has to know of it to be resumed with these data, which are in the model's order."""
        return {
            "source": self.source,
            "whole": self.whole,
            "min_score": self.detector.min_score,
            **{key: self.detector.info[key] for key in RECORD if key in self.detector.info},
            "class_names": list(split.train.class_names),
            "semantic_names": list(split.train.semantic_names),
        }


@dataclass(frozen=True)
class Match:
    """How the classes of a model and of data belong together.

    Attributes:
        split: the data, with labels in the order of the new model's classes.
        theirs: what the rows of the first model stand for.
        own: what those of the new one do.
        classes: of objects; None of a model that finds none.
        pixels: classes of pixels but those of objects; None of a model that does not learn them.
        keypoints: None of a model without.
    """

    split: Split
    theirs: ClassKeys
    own: ClassKeys
    classes: MatchedNames | None = None
    pixels: MatchedNames | None = None
    keypoints: MatchedNames | None = None

    @property
    def has_new(self) -> bool:
        """Whether the data have anything that the model does not know."""
        return any(m is not None and m.new for m in (self.classes, self.pixels, self.keypoints))

    def reasons(self) -> list[Reason]:
        """Lines that say what is known, new and left out."""
        lines = []
        for what, matched in (
            ("classes", self.classes), ("pixel classes", self.pixels), ("keypoints", self.keypoints),
        ):  # fmt: skip
            if matched is None:
                continue
            groups = {
                "known to the model": matched.known,
                "new, with random weights": matched.new,
                "left out": matched.left_out,
                "kept without objects in the data": matched.unseen,
            }
            lines += [Reason(what, ", ".join(names), how) for how, names in groups.items() if names]
        if self.pixels is not None and self.pixels.left_out:
            why = "each pixel gets one of the classes that remain, and its score is divided among fewer"
            lines.append(Reason("pixels", f"those of kept classes may change, too ({why})"))
        if self.classes is not None and self.classes.unseen:
            why = "objects of these that are in the images unannotated are trained as background"
            lines.append(Reason("kept classes", f"{len(self.classes.unseen)}", why))
        return lines


def open_start(options: TrainOptions, given: Recipe | None) -> Start | None:
    """The model that the user asked to start from, by ``start`` or by the setting ``train.start``.

    Raises:
        FileNotFoundError: there is no such model.
        ValueError: a model that cannot be trained on, or options that only make sense with one.
    """
    source = options.settled(given).start
    if source is None:
        for name, value in (("--rename", options.rename), ("--keep-classes", options.keep_classes)):
            if value:
                raise ValueError(f"{name} matches classes with those of a model: give one with --from MODEL")
        return None
    if options.start is not None and str(options.start) != source:
        raise ValueError(f"--from {options.start} and train.start={source} name two models: remove one")
    if given is None and (options.model or options.backbone):
        raise ValueError(
            f"{source} has a model and a backbone of its own: remove --model and --backbone, or train with "
            "other ones by a recipe: --recipe FILE --set train.start=MODEL"
        )
    detector = load_detector(source, "cpu", trust=options.trust)
    refusal = detector.network.no_start(detector.network.settings)
    if refusal is not None:
        raise ValueError(f"--from {source}: {refusal}; train from ImageNet weights, or from another model")
    return Start(source, detector, whole=given is None)


def begins_whole(info: Mapping[str, Any]) -> bool:
    """Whether the run of a ``run.json`` takes all that it begins with from a model."""
    return bool(info.get("start", {}).get("whole"))


def match_asked(start: Start, split: Split, settings: TrainSettings) -> Match:
    """As :func:`match`, with what the settings say."""
    return match(start, split, rename=dict(settings.rename), keep=settings.keep_classes)


def match(start: Start, split: Split, *, rename: Mapping[str, str], keep: bool) -> Match:
    """Bring data into the order of a model's classes.

    Args:
        start: the model.
        split: the data.
        rename: what the data call a class: what the model calls it.
        keep: keep the model's other classes.

    Raises:
        ValueError: a class to rename that there is not, on either side.
    """
    detector, network = start.detector, start.detector.network
    known = (*detector.class_names, *detector.semantic_names)
    for old, new in rename.items():
        if matching_label(known, new) is None:
            raise ValueError(
                f"--rename {old}={new}: {did_you_mean(new, known)}{start.source} has no class {new}; its "
                f"classes are {', '.join(known)}; the class of the data comes first: --rename DATA=MODEL"
            )
    split = renamed(split, rename)
    data = split.train
    classes = match_names(data.class_names, detector.class_names, keep=keep)
    things = classes.names if network.finds_objects else ()
    pixels = None
    if network.needs_semantic:
        pixels = match_names(
            stuff_names(data.class_names if network.finds_objects else (), data.semantic_names),
            stuff_names(detector.class_names, detector.semantic_names),
            keep=keep,
        )
    keypoints = _match_keypoints(detector, data) if network.needs_keypoints else None
    class_names = classes.names if network.finds_objects else data.class_names
    semantic_names = () if pixels is None else (*things, *pixels.names)
    split = ordered(split, class_names, semantic_names)
    return Match(
        split,
        _their_keys(detector, keypoints),
        ClassKeys(
            classes.keys if network.finds_objects else (),
            () if pixels is None else _pixel_keys(network, class_names, classes.keys, pixels),
            () if keypoints is None else keypoints.keys,
        ),
        classes if network.finds_objects else None,
        pixels,
        keypoints,
    )


def renamed(split: Split, rename: Mapping[str, str]) -> Split:
    """The data with other names of classes.

    Raises:
        ValueError: the training images have no such class, or have the new name already.
    """
    if not rename:
        return split
    known = {*split.train.class_names, *split.train.semantic_names}
    for old, new in rename.items():
        if old not in known:
            raise ValueError(
                f"--rename {old}={new}: {did_you_mean(old, known)}the data have no class {old}; there are "
                f"{', '.join(sorted(known))}"
            )
        if new in known and new not in rename:
            raise ValueError(
                f"--rename {old}={new}: the data have a class {new} already; `rcnn data merge` makes one of "
                "several"
            )
    return replace(split, train=rename_classes(split.train, rename), val=rename_classes(split.val, rename))


def ordered(split: Split, class_names: tuple[str, ...], semantic_names: tuple[str, ...]) -> Split:
    """The data with labels that index these names; the classes of pixels stay where none are given."""
    train, val = (
        align_dataset_classes(part, class_names, semantic_names) for part in (split.train, split.val)
    )
    return replace(split, train=train, val=val)


def take_weights(start: Start, matched: Match, network: Model, *, interpolation: float = 1) -> list[Reason]:
    """Give a new network the weights of the model, and say what was taken and what was not.

    Args:
        start: the model.
        matched: its classes and those of the data.
        network: the new one.
        interpolation: how far from these weights the result will be.

    Raises:
        ValueError: nothing fits; or the result is to stay near weights some of which are random.
    """
    theirs = start.detector.network
    report = take_over(
        network, network.class_rows(matched.own), theirs.state_dict(), theirs.class_rows(matched.theirs)
    )
    if not (report.whole or report.rows):
        raise ValueError(f"{start.source}: the weights belong to another model: none of them fits this one")
    if interpolation < 1 and (matched.has_new or report.new or report.unfit):
        raise ValueError(
            f"train.interpolation {interpolation:g} is a part of the way from {start.source}, but some "
            "classes or tensors are not in it and start at random: --set train.interpolation=1"
        )
    return _reasons(start.source, report)


def differences(start: Start, recipe: Recipe) -> list[Reason]:
    """Lines about settings of a recipe with which the model was not trained: weights do not show them."""
    detector = start.detector
    theirs = {"model": to_plain(detector.network.settings), "transform": to_plain(detector.transform)}
    own = {name: table for name, table in recipe_tables(recipe).items() if name in theirs}
    first, second = _flat(own), _flat(theirs)
    return [
        Reason("setting", f"{name}={first[name]}", f"{second[name]} in {start.source}")
        for name in first
        if name in second and first[name] != second[name] and not name.startswith("transform.read")
    ]


def _flat(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in table.items():
        name = f"{prefix}{key}"
        flat |= _flat(value, f"{name}.") if isinstance(value, Mapping) else {name: value}
    return flat


def _reasons(source: str, report: TakenOver) -> list[Reason]:
    by_class = f", {len(report.rows)} class by class" if report.rows else ""
    lines = [Reason("weights", f"{len(report.whole)} tensors of {source}{by_class}")]
    groups = {
        "new tensors, with their initial weights": report.new,
        "tensors that do not fit, with their initial weights": [
            f"{name} {list(own)}, not {list(other)}" for name, (own, other) in report.unfit.items()
        ],
        "tensors without a place in the new model": report.unused,
    }
    for how, names in groups.items():
        if names:
            more = f" and {len(names) - MAX_TENSORS_SHOWN} more" if len(names) > MAX_TENSORS_SHOWN else ""
            shown = ", ".join(names[:MAX_TENSORS_SHOWN])
            lines.append(Reason("weights", f"{len(names)} {how}", f"{shown}{more}"))
    return lines


def _match_keypoints(detector: Detector, data: Dataset) -> MatchedNames:
    own = () if data.skeleton is None else data.skeleton.names
    count = detector.network.settings.keypoint.count
    theirs = numbered_keypoints(count) if detector.skeleton is None else detector.skeleton.names
    order = keypoint_order(own, theirs)
    if order is None:
        folded = [name.casefold() for name in theirs]
        places = [folded.index(name.casefold()) if name.casefold() in folded else None for name in own]
    else:
        places = list(order)
    left_out = tuple(name for i, name in enumerate(theirs) if i not in places)
    return MatchedNames(tuple(own), tuple(places), left_out)


def _their_keys(detector: Detector, keypoints: MatchedNames | None) -> ClassKeys:
    """The indices of the model's own classes."""
    classes = tuple(range(len(detector.class_names)))
    stuff = stuff_names(detector.class_names, detector.semantic_names)
    own = MatchedNames(stuff, tuple(range(len(stuff))))
    count = 0 if keypoints is None else detector.network.settings.keypoint.count
    pixels = _pixel_keys(detector.network, detector.class_names, classes, own)
    return ClassKeys(classes, pixels, tuple(range(count)))


def _pixel_keys(network: Model, class_names: Sequence[str], classes: Keys, stuff: MatchedNames) -> Keys:
    """The keys of what a model's semantic logits index: things as one or each, and then the stuff."""
    names = network.pixel_names(class_names, (*class_names, *stuff.names))
    first = names[: len(names) - len(stuff.names)] if network.finds_objects else ()
    things: Keys = (
        (OTHER,) if first == (OTHER,) else tuple(("thing", key) for key in classes) if first else ()
    )
    return (*things, *(("stuff", key) for key in stuff.keys))
