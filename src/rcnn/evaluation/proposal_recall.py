"""Proposals of a whole data set, written to a file, and how many of its objects they cover.

They come from selective search or from the RPN of a trained model. Beside the file stands a page with the
curves of recall over the number of proposals.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.table import Table

from rcnn.data.dataset import Dataset
from rcnn.data.external_proposals import Boxes, ImageId, Progress, with_proposals, write_proposals
from rcnn.evaluation.charts import number, recall_chart
from rcnn.io.atomic import write_atomically
from rcnn.metrics.recall import ProposalRecall, proposal_recall
from rcnn.parts.selective_search import SelectiveSearchSettings

if TYPE_CHECKING:
    from rcnn.inference.detector import Detector

HEAD = ("proposals", "recall at 0.5", "recall at 0.7", "average recall")


def propose(
    data: Dataset,
    out: str | Path,
    *,
    detector: Detector | None = None,
    search: SelectiveSearchSettings | None = None,
    count: int | None = None,
    cache: str | Path | None = None,
    progress: Progress | None = None,
) -> ProposalRecall:
    """Write proposals for every image, and a page with their recall beside them.

    Args:
        data: the images; their boxes are what the proposals are measured against.
        out: ``.npz`` or COCO's ``.json``; the page is its name with ``.html``.
        detector: one with an RPN, whose proposals are written; None: selective search.
        search: settings of the search, R-CNN's where None.
        count: the most proposals per image; None: those of the search's settings, of an RPN 2000.
        cache: a folder that keeps what the search finds.
        progress: called with the number of images done and of all.

    Raises:
        ValueError: a detector without an RPN, two images with one id, another ending of ``out``.
    """
    out = Path(out)
    if out.suffix.lower() not in (".npz", ".json"):
        raise ValueError(f"{out}: proposals are written as .npz or .json")
    settings = search or SelectiveSearchSettings()
    settings = settings if count is None else replace(settings, count=count)
    if detector is not None:
        from rcnn.evaluation.rpn_proposals import rpn_proposals  # asks a network, which needs torch

        data = with_proposals(data, rpn_proposals(detector, data, settings.count, progress))
    else:
        data = with_proposals(data, cache=cache, settings=settings, progress=progress)
    write_proposals(out, _by_id(data))
    recall = proposal_recall([record.truth for record in data.records])
    what = "the RPN" if detector is not None else "selective search"
    write_atomically(out.with_suffix(".html"), _page(recall, f"Proposals of {what}: {out.name}").encode())
    return recall


def recall_table(recall: ProposalRecall) -> Table:
    """The recall in percent, a row for each number of proposals."""
    title = f"{recall.objects} objects, {recall.per_image:.0f} proposals an image"
    table = Table(title=title, box=SIMPLE_HEAD, padding=(0, 1))
    for name in HEAD:
        table.add_column(name, justify="right")
    for count, *values in _rows(recall):
        table.add_row(str(count), *(f"{100 * value:.1f}" for value in values))
    return table


def _rows(recall: ProposalRecall) -> Sequence[tuple[int, float, float, float]]:
    return list(zip(recall.counts, recall.at_50, recall.at_70, recall.average, strict=True))


def _by_id(data: Dataset) -> dict[ImageId, Boxes]:
    boxes: dict[ImageId, Boxes] = {}
    for record in data.records:
        if record.image_id in boxes:
            raise ValueError(f"{data.source}: two images have the id {record.image_id}; give each its own")
        assert record.truth.proposals is not None
        boxes[record.image_id] = record.truth.proposals
    return boxes


def _page(recall: ProposalRecall, title: str) -> str:
    frame = Template(files("rcnn.evaluation").joinpath("report.html").read_text(encoding="utf-8"))
    head = "".join(f"<th>{name}</th>" for name in HEAD)
    rows = "".join(
        f"<tr><td>{count}</td>{''.join(f'<td>{number(value)}</td>' for value in values)}</tr>"
        for count, *values in _rows(recall)
    )
    about = f"{recall.objects} objects, {recall.per_image:.0f} proposals an image on average."
    body = (
        f'<p>{about}</p><section class="card">{recall_chart(recall)}</section>'
        f'<section class="card"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></section>'
    )
    return frame.substitute(title=escape(title), body=body)
