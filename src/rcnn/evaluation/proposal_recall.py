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
from typing import Any

import torch
from rich.box import SIMPLE_HEAD
from rich.table import Table
from torch import Tensor

from rcnn.data.dataset import Dataset
from rcnn.data.external_proposals import ImageId, Progress, with_proposals, write_proposals
from rcnn.evaluation.charts import number, recall_chart
from rcnn.inference.detector import Detector
from rcnn.io.atomic import write_atomically
from rcnn.metrics.recall import ProposalRecall, proposal_recall
from rcnn.parts.selective_search import SelectiveSearchSettings
from rcnn.structures import ImageBatch

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
        data = with_proposals(data, rpn_proposals(detector, data, settings.count, progress))
    else:
        data = with_proposals(data, cache=cache, settings=settings, progress=progress)
    write_proposals(out, _by_id(data))
    recall = proposal_recall([record.truth for record in data.records])
    what = "the RPN" if detector is not None else "selective search"
    write_atomically(out.with_suffix(".html"), _page(recall, f"Proposals of {what}: {out.name}").encode())
    return recall


def rpn_proposals(
    detector: Detector,
    data: Dataset,
    count: int,
    progress: Progress | None = None,
    *,
    min_candidates: int = 0,
) -> dict[ImageId, Tensor]:
    """What the first stage of a model proposes: by image id, ``[P, 4]`` in pixels of the image, best first.

    ``min_candidates``: at least this many anchors per level are looked at.

    Raises:
        ValueError: the model has no RPN.
    """
    network = getattr(detector, "network", None)
    if getattr(network, "rpn", None) is None:
        what = "an exported file" if network is None else type(network).__name__
        raise ValueError(f"{what} has no RPN to ask; expected a Faster or Mask R-CNN's checkpoint")
    found: dict[ImageId, Tensor] = {}
    bare = data.without_masks()
    for index, record in enumerate(data.records):
        found[record.image_id] = _rpn_boxes(detector, bare[index].image, count, min_candidates)
        if progress is not None:
            progress(len(found), len(data))
    return found


@torch.no_grad()
def _rpn_boxes(detector: Detector, image: Tensor, count: int, min_candidates: int) -> Tensor:
    network: Any = detector.network.eval()
    batch = detector.transform([image])
    batch = ImageBatch(batch.tensors.to(detector.device), batch.sizes)
    # Of a Faster R-CNN whose stages share nothing the RPN has its own.
    backbone, neck = (
        getattr(network, "rpn_backbone", network.backbone),
        getattr(network, "rpn_neck", network.neck),
    )
    output = network.rpn(neck(backbone(batch.tensors)))
    (boxes,) = network.rpn.decode(output, batch.sizes, min_proposals=count, min_candidates=min_candidates)
    (height, width), (h, w) = batch.sizes[0], image.shape[1:]
    scaled: Tensor = boxes[:count].cpu() * torch.tensor([w / width, h / height] * 2)
    return scaled


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


def _by_id(data: Dataset) -> dict[ImageId, Tensor]:
    boxes: dict[ImageId, Tensor] = {}
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
