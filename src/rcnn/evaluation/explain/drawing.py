"""The pictures of an explanation: one per chapter, as panels of one PNG, or as SVG elements of a page."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from PIL import Image

from rcnn.draw import Pixels
from rcnn.evaluation.charts import INK, svg_element
from rcnn.evaluation.explain.explanation import Box, Explanation
from rcnn.evaluation.page import plural
from rcnn.inference.postprocess import paste_masks
from rcnn.io.pillow_files import image_in
from rcnn.metrics.matches import MATCH_IOU
from rcnn.structures import Instances

SUBJECT, KEPT, DROPPED, OTHER = "#ff2d78", "#00d5a8", "#ffb000", "#3d9bff"
MOST_BOXES = 150  # of one kind in a picture
MOST_CLASSES = 8  # in a chart of scores
CONTEXT = 3.0  # sides of the subject that are shown
LEAST_SIDE = 48.0  # pixels of the image that are shown at least
LARGEST_SHOWN = 600  # pixels; larger parts are shown with fewer
DARK = 140.0  # of 255; pictures without brighter pixels are brightened
SIDE = 4.3  # inches of a panel


@dataclass(frozen=True)
class View:
    """The part of an image around the subject, in RGB.

    Attributes:
        pixels: uint8 ``[h, w, 3]``.
        window: where it is in the image, x1 y1 x2 y2.
    """

    pixels: Pixels
    window: tuple[int, int, int, int]

    @classmethod
    def around(cls, image: Pixels, box: Box) -> View:
        """A square around a box, moved into the image; as far as this reaches."""
        height, width = image.shape[:2]
        x1, y1, x2, y2 = box
        side = max(CONTEXT * max(x2 - x1, y2 - y1), LEAST_SIDE)
        (left, right), (top, bottom) = (
            _span((low + high) / 2, side, length) for low, high, length in ((x1, x2, width), (y1, y2, height))
        )
        part = image[top:bottom, left:right]
        step = max(1, max(part.shape[:2]) // LARGEST_SHOWN)
        part = part[::step, ::step]
        rgb = Instances.empty((part.shape[0], part.shape[1])).overlay(part, labels=False).convert("RGB")
        return cls(brightened(np.asarray(rgb)), (left, top, right, bottom))


def _span(middle: float, side: float, length: int) -> tuple[int, int]:
    """A span of about ``side`` pixels around a middle, inside ``length``."""
    side = min(side, length)
    start = min(max(middle - side / 2, 0), length - side)
    return int(start), max(int(np.ceil(start + side)), int(start) + 1)


def brightened(pixels: Pixels) -> Pixels:
    """A dark picture with its brightest pixels at the end of the range; others as they are."""
    top = float(np.percentile(pixels, 99.8))
    if top >= DARK:
        return pixels
    return (pixels * (255 / max(top, 1.0))).clip(0, 255).astype(np.uint8)


Draw = Callable[[Any, Explanation, View], None]


@dataclass(frozen=True)
class Chapter:
    """Stages that are told together, with one picture.

    Attributes:
        key: its name.
        title: its heading.
        stages: keys of the stages.
        draw: draws the picture on axes.
        drawn: whether there is something to draw.
    """

    key: str
    title: str
    stages: tuple[str, ...]
    draw: Draw
    drawn: Callable[[Explanation], bool]


def chapters(explanation: Explanation) -> list[Chapter]:
    """The chapters that an explanation has."""
    there = {stage.key for stage in explanation.stages}
    return [chapter for chapter in CHAPTERS if there & {*chapter.stages}]


def picture(image: Pixels, explanation: Explanation) -> Image.Image:
    """All chapters in one picture, with the verdict above them."""
    view = View.around(image, explanation.subject.box)
    drawn = [chapter for chapter in chapters(explanation) if chapter.drawn(explanation)]
    columns = min(3, max(1, len(drawn)))
    rows = -(-len(drawn) // columns) or 1
    figure = Figure(figsize=(SIDE * columns, (SIDE + 0.75) * rows + 0.9), layout="constrained")
    FigureCanvasAgg(figure)
    title = figure.suptitle(textwrap.fill(explanation.verdict, 44 * columns), fontsize=13, x=0.01, ha="left")
    title.set_color("#111418")
    for place, chapter in enumerate(drawn):
        axes = figure.add_subplot(rows, columns, place + 1)
        axes.set_title(f"{place + 1}  {chapter.title}", fontsize=12, loc="left", color="#111418")
        chapter.draw(axes, explanation, view)
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=110, facecolor="white")
    return image_in(data, "PNG").convert("RGB")


def chapter_svg(chapter: Chapter, image: Pixels, explanation: Explanation) -> str:
    """The picture of one chapter as an SVG element; empty where there is nothing to draw."""
    if not chapter.drawn(explanation):
        return ""
    height = SIDE + 0.4
    if chapter.key == "classes":
        height = 0.8 + 0.55 * len(_class_rows(explanation))
    figure = Figure(figsize=(SIDE, height), layout="constrained")
    FigureCanvasAgg(figure)
    figure.patch.set_alpha(0)
    axes = figure.add_subplot()
    axes.patch.set_alpha(0)
    chapter.draw(axes, explanation, View.around(image, explanation.subject.box))
    return svg_element(figure, f"chapter-{chapter.key}")


# What is drawn


def _show(axes: Any, view: View) -> None:
    """The part of the image, without ticks."""
    x1, y1, x2, y2 = view.window
    axes.imshow(view.pixels, extent=(x1, x2, y2, y1), interpolation="nearest")
    axes.set_xlim(x1, x2)
    axes.set_ylim(y2, y1)
    axes.set_anchor("N")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)


def _outline(axes: Any, boxes: Sequence[Box], colour: str, width: float, **style: Any) -> None:
    """Outlines of boxes; ``style`` are further settings of matplotlib."""
    corners = [[(x1, y1), (x2, y1), (x2, y2), (x1, y2)] for x1, y1, x2, y2 in boxes]
    axes.add_collection(
        PolyCollection(corners, facecolors="none", edgecolors=colour, linewidths=width, **style)
    )


def _subject(axes: Any, explanation: Explanation) -> None:
    """The subject, on a dark border so that it is seen on anything."""
    _outline(axes, [explanation.subject.box], "#000000", 4.2, alpha=0.55)
    _outline(axes, [explanation.subject.box], SUBJECT, 2.2)
    if explanation.subject.point is not None:
        x, y = explanation.subject.point
        axes.plot([x], [y], marker="+", color=SUBJECT, markersize=13, markeredgewidth=2.2)


def _key(axes: Any, entries: Sequence[tuple[str, str]]) -> None:
    """What the colours mean, below the picture."""
    handles = [Line2D([], [], color=colour, linewidth=2.4) for colour, _ in entries]
    columns = 2 if len(entries) != 3 or max(len(text) for _, text in entries) > 16 else 3
    axes.legend(
        handles, [text for _, text in entries], loc="upper left", bbox_to_anchor=(0, -0.01), ncols=columns,
        fontsize=9, frameon=False, labelcolor=INK, borderpad=0, handlelength=1.2, columnspacing=1.2,
    )  # fmt: skip


def _name(explanation: Explanation) -> str:
    return (
        "annotated object"
        if explanation.subject.object is not None
        else ("box asked about" if explanation.subject.known else "place followed")
    )


def _in_view(boxes: Sequence[Box], view: View, chosen: Sequence[int]) -> list[int]:
    """Which of the chosen boxes meet the view, the first of them."""
    x1, y1, x2, y2 = view.window
    return [
        i for i in chosen if boxes[i][0] < x2 and boxes[i][2] > x1 and boxes[i][1] < y2 and boxes[i][3] > y1
    ]


def _draw_anchors(axes: Any, explanation: Explanation, view: View) -> None:
    _show(axes, view)
    found = explanation.anchors
    match = [i for i, iou in enumerate(found.ious) if iou >= MATCH_IOU][:24]
    moved = [i for i, iou in enumerate(found.moved_ious) if iou >= MATCH_IOU][:24]
    nearest = [] if match or moved else list(range(len(found.ious)))
    _outline(axes, [found.boxes[i] for i in match or nearest], OTHER, 1.1, alpha=0.9)
    _outline(axes, [found.moved[i] for i in moved], KEPT, 1.1, alpha=0.9)
    _subject(axes, explanation)
    entries = [(SUBJECT, _name(explanation)), (OTHER, "matching anchors" if match else "nearest anchors")]
    _key(axes, [*entries, *([(KEPT, "their boxes, moved by the RPN")] if moved else [])])


def _draw_proposals(axes: Any, explanation: Explanation, view: View) -> None:
    _show(axes, view)
    table = explanation.proposals
    dropped = [i for i, fate in enumerate(table.fates) if fate != "kept"]
    kept = [i for i, fate in enumerate(table.fates) if fate == "kept"]
    own = [i for i in kept if table.ious[i] >= MATCH_IOU]
    dropped_here, kept_here = _in_view(table.boxes, view, dropped), _in_view(table.boxes, view, kept)
    _outline(axes, [table.boxes[i] for i in dropped_here[:MOST_BOXES]], DROPPED, 0.6, alpha=0.35)
    _outline(axes, [table.boxes[i] for i in kept_here[:MOST_BOXES]], OTHER, 0.8, alpha=0.6)
    _outline(axes, [table.boxes[i] for i in own], KEPT, 1.5)
    _subject(axes, explanation)
    entries = [(SUBJECT, _name(explanation)), (OTHER, plural(len(kept_here), "proposal") + " here")]
    if dropped:
        entries.append((DROPPED, f"{len(dropped_here):,} dropped here"))
    _key(axes, [*entries, (KEPT, f"{len(own)} with IoU ≥ 0.5")])


def _draw_region(axes: Any, explanation: Explanation, view: View) -> None:
    _show(axes, view)
    region = explanation.region
    assert region is not None
    x1, y1, x2, y2 = region.box
    if region.grid:
        for place in np.linspace(0, 1, region.grid + 1)[1:-1]:
            x, y = x1 + place * (x2 - x1), y1 + place * (y2 - y1)
            axes.plot([x, x], [y1, y2], color=OTHER, linewidth=0.7, alpha=0.8)
            axes.plot([x1, x2], [y, y], color=OTHER, linewidth=0.7, alpha=0.8)
    _outline(axes, [region.box], OTHER, 1.8)
    _outline(axes, [region.moved], KEPT, 1.8)
    _subject(axes, explanation)
    grid = f", {region.grid} x {region.grid} cells" if region.grid else ""
    _key(
        axes,
        [
            (SUBJECT, _name(explanation)), (OTHER, f"region of interest{grid}"),
            (KEPT, f"its box, IoU {region.iou:.2f}"),
        ],
    )  # fmt: skip


def _class_rows(explanation: Explanation) -> list[tuple[str, float, str]]:
    """Names, scores and colours of the most likely classes, the subject's among them, and the background."""
    region = explanation.region
    assert region is not None
    names, label = explanation.class_names, explanation.subject.label
    order = sorted(range(len(names)), key=lambda place: -region.scores[place])[:MOST_CLASSES]
    if label is not None and label not in order:
        order = [*order[:-1], label]
    rows = [(names[i], region.scores[i], SUBJECT if i == label else OTHER) for i in order]
    return rows if region.background is None else [*rows, ("background", region.background, "#8a94a3")]


def _draw_classes(axes: Any, explanation: Explanation, view: View) -> None:
    rows = _class_rows(explanation)
    threshold = explanation.limits["min_score"]
    places = np.arange(len(rows))[::-1]
    axes.barh(places, [score for _, score, _ in rows], color=[colour for *_, colour in rows], height=0.5)
    for place, (name, score, _) in zip(places, rows, strict=True):
        axes.text(0.0, place + 0.3, name.replace("$", r"\$"), color=INK, fontsize=10, va="bottom")
        axes.text(1.0, place + 0.3, f"{score:.2f}", color=INK, fontsize=10, va="bottom", ha="right")
    axes.axvline(threshold, color=INK, linewidth=1.3, linestyle=":")
    axes.set_xlim(0, 1)
    axes.set_ylim(-0.4, len(rows) - 0.2)
    axes.set_box_aspect(min(1.0, 0.13 * len(rows)))
    axes.set_anchor("N")
    axes.set_yticks([])
    axes.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
    axes.tick_params(colors=INK, labelsize=9, length=0)
    axes.spines[:].set_visible(False)
    axes.set_xlabel(f"score; dotted: the threshold, {threshold:.3g}", color=INK, fontsize=9)


def _draw_selected(axes: Any, explanation: Explanation, view: View) -> None:
    _show(axes, view)
    table = explanation.selected
    here = _in_view(table.boxes, view, range(len(table.boxes)))
    kept = [i for i in here if table.fates[i] == "kept"]
    dropped = [i for i in here if table.fates[i] != "kept"]
    _outline(axes, [table.boxes[i] for i in dropped[:MOST_BOXES]], DROPPED, 0.9, alpha=0.8, linestyles="--")
    _outline(axes, [table.boxes[i] for i in kept[:MOST_BOXES]], KEPT, 1.7)
    _subject(axes, explanation)
    entries = [(SUBJECT, _name(explanation)), (KEPT, plural(len(kept), "detection") + " here")]
    _key(axes, [*entries, (DROPPED, plural(len(dropped), "duplicate") + " dropped")])


def _draw_mask(axes: Any, explanation: Explanation, view: View) -> None:
    mask = explanation.mask
    assert mask is not None
    _show(axes, view)
    x1, y1, x2, y2 = mask.box
    values = np.array(mask.map, np.float32)
    axes.imshow(
        values, extent=(x1, x2, y2, y1), cmap="viridis", vmin=0, vmax=1, alpha=0.72, interpolation="nearest"
    )
    box = np.array([mask.box], np.float32)
    left, top, right, bottom = view.window
    pasted = paste_masks(values[None], box, (bottom, right), mask.threshold)
    inside = pasted.dense()[0][top:bottom, left:right]
    axes.contour(
        np.arange(left, right) + 0.5, np.arange(top, bottom) + 0.5, inside, levels=[0.5], colors=[KEPT],
        linewidths=2,
    )  # fmt: skip
    _subject(axes, explanation)
    _key(
        axes,
        [
            (SUBJECT, _name(explanation)),
            (KEPT, f"mask: the map of {len(values)} x {len(values)} ≥ {mask.threshold:g}"),
        ],
    )


def _has_region(explanation: Explanation) -> bool:
    return explanation.region is not None


CHAPTERS = (
    Chapter("anchors", "Anchors", ("anchors", "rpn_boxes"), _draw_anchors, lambda e: bool(e.anchors.boxes)),
    Chapter(
        "proposals", "Proposals", ("external", "top_k", "rpn_nms", "proposals"), _draw_proposals,
        lambda e: bool(e.proposals.boxes),
    ),
    Chapter("region", "Region of interest", ("box",), _draw_region, _has_region),
    Chapter(
        "classes", "Class scores", ("not_background", "class", "threshold", "per_class"), _draw_classes,
        _has_region,
    ),
    Chapter(
        "detections", "Detections", ("nms", "cap", "tiles", "tile_nms", "tile_cap"), _draw_selected,
        lambda e: bool(e.selected.boxes),
    ),
    Chapter("mask", "Mask", ("mask",), _draw_mask, lambda e: e.mask is not None),
)  # fmt: skip
