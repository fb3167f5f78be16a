"""Explanations as self-contained pages, which need no network and no scripts."""

from __future__ import annotations

from html import escape
from importlib.resources import files
from pathlib import Path

import numpy as np
from PIL import Image

from rcnn.data.dataset import Dataset
from rcnn.draw import Pixels, readable_scale
from rcnn.evaluation.explain.drawing import Chapter, brightened, chapter_svg, chapters
from rcnn.evaluation.explain.explanation import Explanation, Stage
from rcnn.evaluation.page import html_page, jpeg, metric_table, plural
from rcnn.evaluation.pictures import MISSED, cropped
from rcnn.io.images import ImageError
from rcnn.lettering import Colour
from rcnn.metrics.causes import CAUSES, Causes, MissedObject
from rcnn.structures import Instances

_SUBJECT: Colour = (255, 45, 120)
MOST_CROPS = 8  # of each cause


def explanation_page(image: Pixels, explanation: Explanation) -> str:
    """The page of one explanation: the verdict, the candidates after each stage, then each stage.

    Args:
        image: uint8 ``[H, W, C]``, the image that was explained.
        explanation: of something in it.
    """
    told = chapters(explanation)
    body = [_style(), _verdict(image, explanation), _funnel(explanation, told)]
    body += [_chapter(number, one, image, explanation) for number, one in enumerate(told, 1)]
    return html_page(_title(explanation), "\n".join(body))


def causes_page(causes: Causes, dataset: Dataset, *, title: str) -> str:
    """The page of a data set: how many objects were missed for each cause, with examples."""
    return html_page(title, causes_section(causes, dataset))


def causes_section(causes: Causes, dataset: Dataset) -> str:
    """The table of causes, and for each its meaning, what may help, and examples; with its style.

    Args:
        causes: of the data set.
        dataset: its images.
    """
    if not causes.missed:
        text = (
            f"All {plural(causes.num_objects, 'object')} of {plural(causes.num_images, 'image')} were found."
        )
        return f'<section class="card"><p>{text}</p></section>'
    intro = (
        "An object is missed where no detection of its class overlaps it with IoU ≥ 0.5, or only one that "
        "counts for another object. Its cause is the first stage of the detection after which no candidate "
        "for it is left; so each missed object has one cause."
    )
    table = f'<section class="card"><p>{intro}</p>{metric_table(causes.table())}</section>'
    parts = "".join(_cause(causes, key, dataset) for key in causes.counts)
    return f'{_style()}<div class="causes">{table}{parts}</div>'


def _style() -> str:
    """What these pages add to the style of all pages."""
    sheet = files("rcnn.evaluation.explain").joinpath("page.css").read_text(encoding="utf-8")
    return f"<style>{sheet}</style>"


def _cause(causes: Causes, key: str, dataset: Dataset) -> str:
    """One cause with examples, spread over the data set."""
    own = [one for one in causes.missed if one.cause == key]
    places = np.unique(np.linspace(0, len(own) - 1, min(MOST_CROPS, len(own))).round().astype(int))
    crops = "".join(_example(own[place], dataset) for place in places.tolist())
    cause = CAUSES[key]
    heading = f"{_capital(cause.title)} ({len(own)})"
    text = f"{cause.meaning} What may help: {cause.advice}."
    return (
        f'<section class="card"><h3>{escape(heading)}</h3><p>{escape(text)}</p>'
        f'<div class="crops">{crops}</div></section>'
    )


def _example(missed: MissedObject, dataset: Dataset) -> str:
    try:
        image = dataset.records[missed.number].load_image()
    except ImageError as error:
        return f"<figure><p>{escape(str(error))}</p></figure>"
    picture = cropped(image, np.array([missed.box], np.float32), [MISSED])
    name = Path(missed.image).name
    where = f"object {missed.object + 1} of {name if len(name) <= 24 else name[:12] + '…' + name[-9:]}"
    text = f'<b>{escape(missed.class_name)}</b><span title="{escape(name)}">{escape(where)}</span>'
    return f'<figure><img src="{jpeg(picture)}" alt="{escape(missed.class_name)}">{text}</figure>'


def _title(explanation: Explanation) -> str:
    name = explanation.subject.class_name
    if explanation.cause is None:
        return f"How this {name} was found"
    return f"Why this {name} was missed" if explanation.subject.known else f"Why no {name} was detected here"


def _verdict(image: Pixels, explanation: Explanation) -> str:
    """The whole image with the subject marked, and the result."""
    height, width = image.shape[:2]
    step = max(1, max(height, width) // 900)
    small = brightened(image[::step, ::step])
    box = np.array([explanation.subject.box], np.float32) / step
    marked = Instances((small.shape[0], small.shape[1]), box, np.zeros(1, np.int64))
    overview: Image.Image = marked.overlay(
        small, labels=False, boxes=True, colours=[_SUBJECT], scale=readable_scale(marked.size)
    )
    cause = explanation.cause
    badge = "found" if cause is None else CAUSES[cause].title
    advice = "" if cause is None else f'<p class="advice">What may help: {escape(CAUSES[cause].advice)}.</p>'
    rows = "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in _facts(explanation).items())
    return (
        f'<section class="card verdict"><img src="{jpeg(overview)}" alt="the image, with what is followed '
        f'marked"><div><span class="badge{" found" if cause is None else ""}">{escape(badge)}</span>'
        f"<p>{escape(explanation.verdict)}</p>{advice}<dl>{rows}</dl></div></section>"
    )


def _facts(explanation: Explanation) -> dict[str, str]:
    subject, limits = explanation.subject, explanation.limits
    x1, y1, x2, y2 = subject.box
    if subject.object is not None:
        what = f"annotated object {subject.object + 1}"
    else:
        what = "a given box" if subject.known else "the model's own best box at this place"
    (height, width), (seen_height, seen_width) = explanation.size, explanation.seen_size
    facts = {} if explanation.image is None else {"image": Path(explanation.image).name}
    return facts | {
        "followed": f"{what}, {x2 - x1:.0f} x {y2 - y1:.0f} px at {x1:.0f}, {y1:.0f}",
        "size": f"{width} x {height} px, seen as {seen_width} x {seen_height}",
        "model": explanation.model,
        "threshold": f"{limits['min_score']:.3g}",
    }


def _funnel(explanation: Explanation, told: list[Chapter]) -> str:
    """The number of candidates after each stage, as bars."""
    if not explanation.stages:
        return ""
    numbers = {key: number for number, chapter in enumerate(told, 1) for key in chapter.stages}
    most = max(1, *(stage.own_leaving for stage in explanation.stages))
    rows = "".join(
        f'<li class="{_state(stage)}"><a href="#chapter-{numbers[stage.key]}">{escape(stage.title)}</a>'
        f'<i style="--share:{100 * (stage.own_leaving / most) ** 0.5:.1f}%"></i>'
        f"<b>{stage.own_leaving:,}</b></li>"
        for stage in explanation.stages
    )
    text = "Boxes that are candidates for the object after each stage; bars grow with the square root."
    return (
        f'<section class="card"><h3>What is left after each stage</h3><ol class="funnel">{rows}</ol>'
        f'<p class="caption">{text}</p></section>'
    )


def _state(stage: Stage) -> str:
    """How a stage is shown: the one at which the last candidate is lost, or one without candidates."""
    if stage.cause is not None:
        return "lost"
    return "" if stage.own_entering else "none"


def _chapter(number: int, chapter: Chapter, image: Pixels, explanation: Explanation) -> str:
    stages = [stage for stage in explanation.stages if stage.key in chapter.stages]
    drawing = chapter_svg(chapter, image, explanation)
    left = f"<div>{drawing}</div>" if drawing else ""
    texts = "".join(map(_stage, stages))
    return (
        f'<section class="card chapter{"" if drawing else " bare"}" id="chapter-{number}">'
        f"<h2><span>{number}</span>{escape(chapter.title)}</h2>{left}<div>{texts}</div></section>"
    )


def _stage(stage: Stage) -> str:
    paper = ""
    if stage.paper:
        paper = f'<a href="{escape(stage.url)}">{escape(stage.paper)}</a>'
    where = f"{escape(stage.code)}, line {stage.line}"
    code = f"<br>{where}</small>"
    if stage.source:
        code = f"</small><details><summary>{where}</summary><pre>{escape(stage.source)}</pre></details>"
    return (
        f'<div class="stage {_state(stage)}"><h3>{escape(stage.title)}</h3><p>{escape(stage.text)}</p>'
        f"<small>{paper}{code}</div>"
    )


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
