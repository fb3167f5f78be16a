"""Write proposals for a whole data set to a file, and measure how many of its objects they cover.

They come from selective search or from the RPN of a trained model. A page next to the file shows recall over
the number of proposals.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from rcnn.data.dataset import Dataset
from rcnn.data.external_proposals import Boxes, ImageId, Progress, with_proposals, write_proposals
from rcnn.data.formats.open import open_data
from rcnn.evaluation.charts import metric_chart
from rcnn.evaluation.page import html_page, metric_table
from rcnn.io.atomic import write_atomically
from rcnn.io.destinations import refuse_unwritable_file
from rcnn.metrics import curves, tables
from rcnn.metrics.recall import ProposalRecall, proposal_recall
from rcnn.parts.selective_search import SelectiveSearchSettings, require_opencv

if TYPE_CHECKING:
    from rcnn.inference.detector import Detector


def propose(
    data: Dataset | str | Path,
    out: str | Path,
    *,
    detector: Detector | None = None,
    search: SelectiveSearchSettings | None = None,
    count: int | None = None,
    cache: str | Path | None = None,
    progress: Progress | None = None,
) -> ProposalRecall:
    """Write proposals for every image, and a page with their recall.

    Args:
        data: the images, opened or a path that :func:`rcnn.open_data` reads; their boxes are what the
            proposals are measured against.
        out: ``.npz`` or COCO's ``.json``; the page has the same name with ``.html``.
        detector: writes the proposals of its RPN; None: selective search.
        search: settings of the search; None: those of R-CNN.
        count: the maximum number of proposals per image; None: that of the search's settings, or 2000 for an
            RPN.
        cache: a folder that caches the results of the search.
        progress: called with the number of images done and the number of all images.

    Raises:
        ValueError: a detector without an RPN, two images with the same id, another ending of ``out``, or a
            file that cannot be written; or selective search without the package that it needs.
    """
    out = Path(out)
    check_proposal_output(out)
    if detector is None:
        require_opencv()
    data = open_data(data)
    settings = search or SelectiveSearchSettings()
    settings = settings if count is None else replace(settings, count=count)
    if detector is not None:
        from rcnn.evaluation.rpn_proposals import rpn_proposals  # needs torch

        data = with_proposals(data, rpn_proposals(detector, data, settings.count, progress))
    else:
        data = with_proposals(data, cache=cache, settings=settings, progress=progress)
    write_proposals(out, _by_id(data))
    recall = proposal_recall([record.truth for record in data.records])
    what = "the RPN" if detector is not None else "selective search"
    write_atomically(out.with_suffix(".html"), _page(recall, f"Proposals of {what}: {out.name}").encode())
    return recall


def check_proposal_output(out: Path) -> None:
    """Refuse a path that :func:`propose` cannot write to, before anything is opened.

    Raises:
        ValueError: another ending, or the file or its page cannot be written.
    """
    if out.suffix.lower() not in (".npz", ".json"):
        raise ValueError(f"{out}: proposals are written as .npz or .json")
    for file in (out, out.with_suffix(".html")):
        refuse_unwritable_file(file)


def recall_table(recall: ProposalRecall) -> Table:
    """The recall in percent, one row per number of proposals."""
    return tables.recall(recall).rich()


def _by_id(data: Dataset) -> dict[ImageId, Boxes]:
    boxes: dict[ImageId, Boxes] = {}
    for record in data.records:
        if record.image_id in boxes:
            raise ValueError(f"{data.source}: two images have the id {record.image_id}; give each its own")
        assert record.truth.proposals is not None
        boxes[record.image_id] = record.truth.proposals
    return boxes


def _page(recall: ProposalRecall, title: str) -> str:
    about = f"{recall.objects} objects, {recall.per_image:.0f} proposals per image on average."
    parts = metric_chart(curves.recall(recall), "recall"), metric_table(tables.recall(recall))
    cards = "".join(f'<section class="card">{part}</section>' for part in parts)
    return html_page(title, f"<p>{about}</p>{cards}")
