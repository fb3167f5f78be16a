"""What :func:`rcnn.explain` returns: plain values that are JSON as they are (:meth:`Explanation.to_json`).

All coordinates are pixels of the image itself, boxes ``[x1, y1, x2, y2]``. Columns of one table are lists of
equal length; an index into a table is -1 where there is nothing to point to.

Fields of the JSON, for pages that step through an explanation:

| field | what it is |
|---|---|
| ``image`` ``size`` | the file, or null; ``[height, width]`` |
| ``seen_size`` ``window`` | the size that the network saw; the part of the image that it looked at, a box |
| ``model`` ``class_names`` | the network's class; what labels index |
| ``subject`` | what is followed: ``box`` ``label`` ``known`` (true: annotated or given; false: chosen among the model's own boxes) ``object`` (index of the true object) ``point`` |
| ``cause`` ``verdict`` | why it was missed, a key of ``rcnn.metrics.causes.CAUSES``, or null; one sentence |
| ``stages`` | in order: ``key`` ``title`` ``text`` ``entering`` ``leaving`` (boxes of the whole window) ``own_entering`` ``own_leaving`` (candidates for the subject) ``best_iou`` ``cause`` (where the last candidate is lost here) ``paper`` ``url`` ``code`` ``line`` ``source`` |
| ``levels`` | of the RPN: ``stride`` ``rows`` ``columns`` ``step`` (``[dx, dy]``) ``cell`` (the anchors of the first cell); anchor a of cell (row, column) is ``cell[a]`` moved by ``column * dx, row * dy`` |
| ``anchors`` | those that match the subject, best first: ``level`` ``boxes`` ``ious`` ``scores`` (objectness) ``moved`` (boxes that the RPN makes of them) ``moved_ious`` ``proposals`` (row in ``proposals``) |
| ``proposals`` | the boxes of all anchors that pass the top-k of their level, or the external ones, whose scores are null: ``boxes`` ``scores`` ``levels`` ``fates`` (``kept`` ``suppressed`` ``beyond_top_k``) ``by`` (row of the box that suppressed it) ``ious`` ``regions`` (row in ``regions``) |
| ``regions`` | what the second stage reads, best first: ``boxes`` ``levels`` (of RoIAlign) ``labels`` (the most likely class, -1 for the background) ``scores`` (of that) ``own_scores`` (of the subject's class) ``moved`` (its box for the subject's class) ``moved_ious`` |
| ``selected`` | region and class pairs above the threshold: ``regions`` ``labels`` ``boxes`` ``scores`` ``fates`` (``kept`` ``suppressed`` ``beyond_cap`` ``outside_tile``) ``by`` ``ious`` |
| ``detections`` | what the model returns: ``boxes`` ``labels`` ``scores`` |
| ``region`` | the candidate that got furthest: ``row`` (in ``regions``) ``box`` ``level`` ``stride`` ``grid`` (cells per side that are pooled) ``scores`` (one per class) ``background`` ``moved`` ``iou`` |
| ``mask`` | of the detection that shows the subject: ``detection`` (row) ``box`` ``map`` (``M x M`` probabilities) ``threshold``; null without one |
| ``limits`` | ``min_score`` ``nms_iou`` ``max_detections``, with an RPN ``rpn_nms_iou`` ``rpn_pre_nms`` ``rpn_post_nms`` |
"""  # noqa: E501 - a table

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any

from rich.table import Table

from rcnn.metrics.shown import MetricTable

Box = list[float]
"""``x1, y1, x2, y2`` in pixels of the image."""


@dataclass(frozen=True)
class Subject:
    """What is followed through the stages.

    Attributes:
        box: where it is.
        label: its class; None where the model has no such class.
        class_name: the name of its class.
        known: whether it is annotated or was given; else it was chosen among the model's own boxes.
        object: the index of the true object; None without truth.
        point: x and y that were asked about; None where a box or an object was.
    """

    box: Box
    label: int | None
    class_name: str
    known: bool
    object: int | None = None
    point: list[float] | None = None


@dataclass(frozen=True)
class Stage:
    """One step from the image to detections.

    Attributes:
        key: its name, a key of ``rcnn.evaluation.explain.sections.SECTIONS``.
        title: what it is called.
        text: what it did to the candidates for the subject.
        entering: the number of boxes in the whole window before it.
        leaving: likewise after it.
        own_entering: the number of candidates for the subject before it.
        own_leaving: likewise after it.
        best_iou: the highest IoU of a candidate that is left, of those that entered where none is.
        cause: why the subject is missed, where its last candidate is lost here.
        paper: the section of the paper.
        url: of the paper.
        code: file and function, such as ``rcnn/parts/rpn.py: RPN.decode``.
        line: the first line of that function.
        source: the function itself; empty where it is not at hand.
    """

    key: str
    title: str
    text: str
    entering: int
    leaving: int
    own_entering: int
    own_leaving: int
    best_iou: float
    cause: str | None
    paper: str
    url: str
    code: str
    line: int
    source: str


@dataclass(frozen=True)
class Level:
    """The anchors of one level: those of the first cell, and how they repeat.

    Attributes:
        stride: of the feature map, in pixels of the image as the network saw it.
        rows: of cells.
        columns: of cells.
        step: distance of neighbouring cells along x and y, in pixels of the image.
        cell: the anchors of the cell in the first row and column.
    """

    stride: int
    rows: int
    columns: int
    step: list[float]
    cell: list[Box]


@dataclass(frozen=True)
class Anchors:
    """The anchors that match the subject, best first; see the table of the module for the columns."""

    level: list[int] = field(default_factory=list)
    boxes: list[Box] = field(default_factory=list)
    ious: list[float] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    moved: list[Box] = field(default_factory=list)
    moved_ious: list[float] = field(default_factory=list)
    proposals: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Proposals:
    """All boxes that enter the suppression of the RPN, or the external proposals, best first."""

    boxes: list[Box] = field(default_factory=list)
    scores: list[float | None] = field(default_factory=list)
    levels: list[int] = field(default_factory=list)
    fates: list[str] = field(default_factory=list)
    by: list[int] = field(default_factory=list)
    ious: list[float] = field(default_factory=list)
    regions: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Regions:
    """What the second stage reads, and what it makes of each."""

    boxes: list[Box] = field(default_factory=list)
    levels: list[int] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    own_scores: list[float] = field(default_factory=list)
    moved: list[Box] = field(default_factory=list)
    moved_ious: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Selected:
    """Pairs of a region and a class whose score is above the threshold, best first."""

    regions: list[int] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    boxes: list[Box] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    fates: list[str] = field(default_factory=list)
    by: list[int] = field(default_factory=list)
    ious: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Detected:
    """What the model returns for the whole image, best first."""

    boxes: list[Box] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Region:
    """The region of the candidate that got furthest, as the second stage reads it.

    Attributes:
        row: in ``regions``.
        box: the proposal.
        level: of the pyramid that it is pooled from; -1 where the image itself is warped (R-CNN).
        stride: of that level.
        grid: P, the number of cells along each side.
        scores: of each class.
        background: the probability of the background; None of SVMs, which have none.
        moved: its box for the subject's class.
        iou: of that box with the subject.
    """

    row: int
    box: Box
    level: int
    stride: int
    grid: int
    scores: list[float]
    background: float | None
    moved: Box
    iou: float


@dataclass(frozen=True)
class MaskMap:
    """The map of the detection that shows the subject, before it is pasted into the image.

    Attributes:
        detection: row in ``detections``.
        box: where the map belongs.
        map: ``M x M`` probabilities of being inside, row by row.
        threshold: from which a pixel is inside.
    """

    detection: int
    box: Box
    map: list[list[float]]
    threshold: float = 0.5


@dataclass(frozen=True)
class Explanation:
    """The stages of the detection in one image, and what became of one object or place.

    Attributes:
        image: the file, where known.
        size: (height, width) of the image.
        seen_size: as the network saw it.
        window: the part of the image that the network looked at; a tile of a large image, else all of it.
        model: the network's class.
        class_names: what labels index.
        subject: what is followed.
        cause: why it was missed, a key of ``rcnn.metrics.causes.CAUSES``; None: it was found.
        verdict: the same in one sentence.
        stages: in the order of the computation.
        levels: the anchors of each level; empty without an RPN.
        anchors: those that match the subject.
        proposals: all boxes that enter suppression in the RPN, or the external ones.
        regions: what the second stage reads.
        selected: what enters the last suppression.
        detections: what the model returns.
        region: that of the candidate that got furthest; None where no region is a candidate.
        mask: of the detection that shows the subject.
        limits: settings that decided, by name.
    """

    image: str | None
    size: list[int]
    seen_size: list[int]
    window: Box
    model: str
    class_names: list[str]
    subject: Subject
    cause: str | None
    verdict: str
    stages: list[Stage]
    levels: list[Level]
    detections: Detected
    limits: dict[str, float]
    anchors: Anchors = field(default_factory=Anchors)
    proposals: Proposals = field(default_factory=Proposals)
    regions: Regions = field(default_factory=Regions)
    selected: Selected = field(default_factory=Selected)
    region: Region | None = None
    mask: MaskMap | None = None

    @property
    def found(self) -> bool:
        """Whether the subject was found."""
        return self.cause is None

    def table(self) -> Table:
        """The stages for a terminal: candidates that enter and leave each, and the best IoU among them."""
        rows = [
            (
                stage.title,
                f"{stage.own_entering:,}",
                f"{stage.own_leaving:,}",
                f"{stage.best_iou:.2f}" if stage.own_entering else "",
                stage.paper,
            )
            for stage in self.stages
        ]
        lost = [place for place, stage in enumerate(self.stages) if stage.cause is not None]
        columns = ("stage", "before", "after", "best IoU", "paper")
        return MetricTable("Candidates", columns, rows, bold=tuple(lost)).rich()

    def to_json(self) -> dict[str, Any]:
        """All fields by name, as JSON has them."""
        return asdict(self)

    def json_text(self) -> str:
        """:meth:`to_json` as text, coordinates and scores with four decimals."""
        return json.dumps(_rounded(self.to_json()), allow_nan=False)


def _rounded(value: Any) -> Any:
    """The same JSON value with short numbers."""
    if isinstance(value, float):
        return round(value, 4)
    if isinstance(value, dict):
        return {key: _rounded(own) for key, own in value.items()}
    return [_rounded(own) for own in value] if isinstance(value, list) else value
