"""The data of a run in two parts, for training and for validation: opened, checked, held out."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from rcnn.config import is_dotted_path
from rcnn.data.adapters import Items
from rcnn.data.check import check, check_pair, refuse_or_skip
from rcnn.data.classes import align_dataset_classes
from rcnn.data.dataset import Dataset, Record
from rcnn.data.digests import Digests, DigestSet, pack_digests, unpack_digests
from rcnn.data.external_proposals import (
    SELECTIVE_SEARCH,
    default_cache,
    keys_in,
    read_proposals,
    with_proposals,
)
from rcnn.data.formats.folders import split_of
from rcnn.data.formats.open import open_data
from rcnn.data.formats.recognition import find_splits
from rcnn.data.hold_out import choose_by_content, choose_held_out
from rcnn.data.twins import content_digests
from rcnn.io.folders import is_there
from rcnn.io.reading import Reading
from rcnn.parts.selective_search import SelectiveSearchSettings
from rcnn.processes.group import barrier, from_first_process, rank
from rcnn.structures import Skeleton
from rcnn.training.progress import working

VAL_FRACTION = 0.15
RECORD = ("trained_on", "trained_on_more")  # entries of a checkpoint's metadata, see Split.record
MAX_WARNINGS_SHOWN = 5
MAX_NAMES_SHOWN = 8
# Larger data sets are not decoded completely before training; `rcnn data check` does it at any size.
MAX_DECODED_IMAGES = 5000

Source = str | Path | Dataset | Items


@dataclass(frozen=True)
class Sources:
    """Where the data come from.

    Attributes:
        data: a folder or file that :func:`rcnn.open_data` reads, or an opened data set.
        val: the same for validation; None: the split of ``data`` for it, or a part that is held out.
        images: where the images of ``data`` are, if not beside it.
        val_images: the same for ``val``.
        proposals: a file of external proposals; None: selective search, if the model needs proposals.
        val_proposals: the same for ``val``; None: those of ``proposals``.
        format: of ``data`` and ``val``, as :func:`rcnn.open_data` takes it; None: recognised.
        reading: how image files are read; not stored, as the recipe has it.
    """

    data: Source | None = None
    val: Source | None = None
    images: str | Path | None = None
    val_images: str | Path | None = None
    proposals: str | Path | None = None
    val_proposals: str | Path | None = None
    format: str | None = None
    reading: Reading | None = None

    def __post_init__(self) -> None:
        """Open custom data sets; files and folders are opened later."""
        for name in ("data", "val"):
            value = getattr(self, name)
            if value is not None and not isinstance(value, str | Path):
                object.__setattr__(self, name, open_data(value))

    def to_json(self) -> dict[str, str | None]:
        """Absolute paths, by name; an opened data set is named by where it was opened."""
        names = [spec.name for spec in fields(self) if spec.name not in ("format", "reading")]
        values = {name: getattr(self, name) for name in names}
        places = {name: None if value is None else _place(value) for name, value in values.items()}
        return places | {"format": self.format}

    def or_else(self, stored: Mapping[str, Any]) -> Sources:
        """These sources, and for those that are None the ``stored`` ones."""
        names = [spec.name for spec in fields(self)]
        return Sources(**{n: stored.get(n) if getattr(self, n) is None else getattr(self, n) for n in names})


@dataclass(frozen=True)
class Seen:
    """The images that the model to start from was trained on.

    Attributes:
        source: what the user called the model.
        digests: of their contents.
        complete: whether these are all; models of other programs do not say which they were trained on.
    """

    source: str
    digests: DigestSet = field(default_factory=DigestSet)
    complete: bool = True

    @classmethod
    def of(cls, source: str, info: Mapping[str, Any]) -> Seen:
        """From what a checkpoint says, see :meth:`Split.record`."""
        packed = info.get("trained_on")
        complete = packed is not None and not info.get("trained_on_more", False)
        return cls(source, unpack_digests(packed or ""), complete)

    def warnings(self, val: Digests) -> list[str]:
        """Lines about validation images with these digests; none if all are new to the model."""
        known = int(self.digests.holds(val).sum())
        lines = []
        if known:
            lines.append(
                f"val: {self.source} was trained on {known} of the {len(val)} validation images, so the "
                "metrics are too good; validate on others with --val"
            )
        if not self.complete:
            lines.append(
                f"val: {self.source} does not say which images it was trained on; if validation images are "
                "among them, the metrics are too good"
            )
        return lines


@dataclass(frozen=True)
class Split:
    """The two parts of the data, and what there is to say about them.

    Attributes:
        train: the images to train on.
        val: the images to validate on.
        messages: lines for the log.
        trained_on: digests of the training images' contents; empty if they are not known.
        seen: what the model to start from was trained on.
    """

    train: Dataset
    val: Dataset
    messages: tuple[str, ...]
    trained_on: DigestSet = field(default_factory=DigestSet)
    seen: Seen | None = None

    def with_flip_pairs(self, pairs: Sequence[tuple[str, str]] | None) -> Split:
        """The same data with these mirrored partners of keypoints; None: as the data have them.

        Raises:
            ValueError: a name that is not a keypoint's, or data without keypoints.
        """
        if pairs is None:
            return self
        return replace(self, train=_with_flip_pairs(self.train, pairs), val=_with_flip_pairs(self.val, pairs))

    def record(self) -> dict[str, Any]:
        """What checkpoints say of the images that the model has seen, those of its first model included."""
        if not self.trained_on:
            return {}
        before = DigestSet() if self.seen is None else self.seen.digests
        more = self.seen is not None and not self.seen.complete
        return {"trained_on": pack_digests(self.trained_on | before)} | (
            {"trained_on_more": True} if more else {}
        )

    def fingerprints(self, *, with_proposals: bool) -> dict[str, dict[str, Any]]:
        """What recognises each part, for ``run.json``."""
        parts = {"training": self.train, "validation": self.val}
        return {name: fingerprint(p, with_proposals=with_proposals) for name, p in parts.items()}


@dataclass(frozen=True)
class HoldOut:
    """How a part is held out for validation.

    Attributes:
        seed: another one chooses other images.
        seen: images that the model to start from was trained on, which are not held out if there are others.
        kept: digests of the images that a run to resume trains on; all others are held out.
        by_order: as runs did it that did not store these.
    """

    seed: int
    seen: Seen | None = None
    kept: DigestSet | None = None
    by_order: bool = False

    def choose(self, data: Dataset, digests: Digests) -> list[int]:
        """The images that are held out."""
        if self.by_order:
            return choose_held_out(data, max(1, round(VAL_FRACTION * len(data))), self.seed)
        if self.kept is not None:
            return np.flatnonzero(~self.kept.holds(digests)).tolist()
        never = DigestSet() if self.seen is None else self.seen.digests
        held = choose_by_content(data, digests, VAL_FRACTION, self.seed, never)
        return held or choose_by_content(data, digests, VAL_FRACTION, self.seed)

    def digests(self, data: Dataset) -> Digests:
        """A digest of each image's content, read by the first process; none if they are not needed."""
        return Digests.of([]) if self.by_order else from_first_process(lambda: content_digests(data.records))

    def warnings(self, val: Dataset) -> list[str]:
        """Lines about validation images that the model to start from may know."""
        return [] if self.seen is None else self.seen.warnings(self.digests(val))


def open_split(
    sources: Sources, *, skip_bad: bool, held_out: HoldOut, boxes_only: bool, console: Console
) -> Split:
    """Open and check the data, and hold out a part for validation if none is named.

    Args:
        sources: the data; ``data`` is not None.
        skip_bad: leave out images with errors instead of refusing the data.
        held_out: decides which images are held out.
        boxes_only: errors in outlines do not matter to the model.
        console: shows that data are being read.

    Raises:
        ValueError: data with errors, or two parts that do not fit together.
        OSError: a file cannot be read.
    """
    with working(console, "reading the data"):
        sources, said = _with_own_splits(sources)
        assert sources.data is not None
        how: dict[str, Any] = {
            "format": sources.format, "reading": sources.reading,
            "skip_bad": skip_bad, "boxes_only": boxes_only,
        }  # fmt: skip
        train, lines = checked(sources.data, sources.images, **how)
        if sources.val is None:
            return hold_out(train, [*said, *lines], held_out)
        val, more = checked(sources.val, sources.val_images, **how)
        problems = check_pair(train, val)
        errors = [str(p).removeprefix("error: ") for p in problems if p.severity == "error"]
        if errors:
            raise ValueError("\n".join(errors))
        notes = [f"val: {val.source}, {len(val)} images", *(f"val {line}" for line in more[1:])]
        notes += [*map(str, problems), *held_out.warnings(val)]
        val = align_dataset_classes(val, train.class_names, train.semantic_names)
        trained_on = DigestSet.of(held_out.digests(train)) if held_out.kept is None else held_out.kept
        return Split(train, val, (*said, *lines, *notes), trained_on, held_out.seen)


def _with_own_splits(sources: Sources) -> tuple[Sources, list[str]]:
    """The splits of a folder that has several, unless validation data are named; and a line that says so."""
    data = sources.data
    splits = find_splits(Path(data)) if isinstance(data, str | Path) else {}
    names = {split_of(name): name for name in splits}
    if "train" not in names:
        return sources, []
    wanted = ("train",) if sources.val is not None else ("train", "val")
    opened = {
        kind: open_data(
            place.path, sources.images, split=place.split, format=sources.format, reading=sources.reading
        )
        for kind in wanted
        if kind in names and (place := splits[names[kind]])
    }
    note = f"splits: {data} has {', '.join(splits)}: training on {names['train']}"
    if sources.val is None:
        held_out = "a part of it is held out for validation"
        note += f", validation on {names['val']}" if "val" in opened else f", {held_out}"
    unused = [name for kind, name in names.items() if kind not in opened]
    note += f"; not used: {', '.join(unused)}" if unused else ""
    return replace(sources, data=opened["train"], val=opened.get("val", sources.val)), [note]


def _with_flip_pairs(part: Dataset, pairs: Sequence[tuple[str, str]]) -> Dataset:
    if part.skeleton is None:
        raise ValueError(f"augment.flip_pairs: {part.source} has no keypoints; remove the setting")
    skeleton = part.skeleton.with_partners(pairs)
    return part.mapped(partial(_with_skeleton, skeleton=skeleton), skeleton=skeleton)


def _with_skeleton(record: Record, skeleton: Skeleton) -> Record:
    return replace(record, truth=replace(record.truth, skeleton=skeleton))


def checked(
    place: Source,
    images: str | Path | None,
    format: str | None = None,
    reading: Reading | None = None,
    *,
    skip_bad: bool,
    boxes_only: bool,
) -> tuple[Dataset, list[str]]:
    """A data set without its faulty images, and lines about it.

    Raises:
        ValueError: it has errors and they are not to be skipped.
    """
    if isinstance(place, Dataset):
        opened = place if reading is None else place.read_for(reading)
    else:
        opened = open_data(place, images, format=format, reading=reading)
    # Once, and not in each process: all then leave out the same images.
    report = from_first_process(lambda: check(opened, decode=len(opened) <= MAX_DECODED_IMAGES))
    good, left_out = refuse_or_skip(opened, skip_bad, report=report, boxes_only=boxes_only)
    first, *others = str(report).splitlines()
    warned = list(map(str, report.warnings))
    if len(warned) > MAX_WARNINGS_SHOWN:
        more = len(warned) - MAX_WARNINGS_SHOWN
        warned[MAX_WARNINGS_SHOWN:] = [
            f"and {more} more warnings, listed by: rcnn data check {opened.source}"
        ]
    return good, [f"data: {first}", *others, *(f"left out: {problem}" for problem in left_out), *warned]


def hold_out(data: Dataset, lines: Sequence[str], how: HoldOut) -> Split:
    """The data with a part for validation, chosen by the images' contents; a single image is both parts."""
    digests = how.digests(data)
    if len(data) == 1:
        note = "val: the only image, so the metrics mean little"
        return Split(data, data, (*lines, note, *how.warnings(data)), DigestSet.of(digests), how.seen)
    held = how.choose(data, digests)
    kept = np.delete(np.arange(len(data)), held)
    names = ", ".join(str(data.records[i].image_id) for i in held[:MAX_NAMES_SHOWN])
    more = f" and {len(held) - MAX_NAMES_SHOWN} more" if len(held) > MAX_NAMES_SHOWN else ""
    note = f"val: {len(held)} of {len(data)} images held out with seed {how.seed}: {names}{more}"
    val = data.subset(held)
    if data.class_names and not (~val.objects.crowd).any():
        note += "; none of them has an object, so nothing can be measured: name validation data with --val"
    trained_on = DigestSet(digests.numbers[kept]) if digests else DigestSet()
    return Split(data.subset(kept), val, (*lines, note, *how.warnings(val)), trained_on, how.seen)


def bring_proposals(
    split: Split, sources: Sources, search: SelectiveSearchSettings, console: Console
) -> Split:
    """Both parts with external proposals, from files or from selective search.

    Raises:
        ValueError: a file that does not fit the data, or selective search without OpenCV.
    """
    of_train = sources.proposals or SELECTIVE_SEARCH
    of_val = sources.val_proposals or of_train
    if of_val == of_train != SELECTIVE_SEARCH:
        check_distinct_names(split, str(of_train))
    if rank() > 0:
        barrier()  # the first process searches; the others find what it kept
    with working(console, "searching for proposals"):
        train, val = (
            with_proposals(part, source, cache=default_cache(), settings=search)
            for part, source in ((split.train, of_train), (split.val, of_val))
        )
    if rank() == 0:
        barrier()
    mean = np.mean([len(r.truth.proposals) for r in train.records if r.truth.proposals is not None])
    note = f"proposals: {of_train}, {mean:.0f} per image"
    return replace(split, train=train, val=val, messages=(*split.messages, note))


def check_distinct_names(split: Split, proposals: str) -> None:
    """Refuse one file of proposals in which two images have one name: the ids of COCO's parts may be alike.

    Raises:
        ValueError: it names the two images.
    """
    known = {str(key) for key in read_proposals(proposals)}
    train, val = (zip(keys_in(p, known, proposals), p.records, strict=True) for p in (split.train, split.val))
    paths = {key: record.path for key, record in train}
    for key, record in val:
        other = paths.get(key, record.path)
        if other.resolve() != record.path.resolve():
            raise ValueError(
                f"{proposals}: {other} (training) and {record.path} (validation) are both called {key}: pass "
                "the proposals of the validation images as --val-proposals"
            )


def fingerprint(part: Dataset, *, with_proposals: bool) -> dict[str, Any]:
    """What distinguishes a part of the data from others: a hash of classes, images' names and boxes.

    Proposals from a file have a hash of their own.
    """
    points = None if part.skeleton is None else part.skeleton.names
    digest = hashlib.sha256(repr((part.class_names, part.semantic_names, points)).encode())
    objects = part.objects
    ends = np.cumsum(objects.counts)
    # Not the whole paths: data may have moved.
    images = zip(part.names(), objects.sizes, ends - objects.counts, ends, strict=True)
    for name, size, first, last in images:
        digest.update(repr((name, tuple(size.tolist()))).encode())
        digest.update(objects.boxes[first:last].tobytes() + objects.labels[first:last].tobytes())
    found = {"images": len(part), "sha256": digest.hexdigest()}
    if with_proposals:
        boxes = [r.truth.proposals.tobytes() for r in part.records if r.truth.proposals is not None]
        found["proposals"] = hashlib.sha256(b"".join(boxes)).hexdigest()
    return found


def check_same_part(folder: Path, name: str, *, part: Dataset, info: Mapping[str, Any], advice: str) -> None:
    """Refuse data other than those that the run started with: they might be split otherwise.

    Args:
        folder: of the run, for the message.
        name: ``training`` or ``validation``.
        part: what was opened now.
        info: the content of ``run.json``.
        advice: what else can be done.

    Raises:
        ValueError: the part is another one, or the run does not say which it was.
    """
    stored = info.get("split") or info.get("parts")  # the name in 0.1
    before = (stored or {}).get(name)
    if not before:
        raise ValueError(f"{folder}: started by an earlier rcnn that split data otherwise; {advice}")
    now = fingerprint(part, with_proposals=info.get("proposals") is not None)
    if before != {key: now.get(key) for key in before}:
        raise ValueError(
            f"{folder}: its {name} split had {before.get('images')} images when the run started, now it has "
            f"{now['images']}, or their objects or proposals have changed: restore the data, {advice}"
        )


def _place(source: Source) -> str:
    if isinstance(source, Dataset):
        return str(source.source)
    assert isinstance(source, str | Path)
    named = is_dotted_path(str(source)) and not is_there(Path(source))
    return str(source if named else Path(source).resolve())
