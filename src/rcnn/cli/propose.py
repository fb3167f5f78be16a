"""``rcnn propose``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rcnn.cli.console import app, examples, print_table, print_text, progress_bar
from rcnn.cli.options import DataFormat, DataSource, Device, ImagesFolder, Trust, open_dataset, writable_file

METHODS = ("selective_search", "rpn")


@app.command(
    epilog=examples(
        "rcnn propose cells/ --out proposals.npz",
        "rcnn propose val.json --images photos/ --out rpn.json --model runs/photos --count 300",
    )
)
def propose(
    data: DataSource,
    out: Annotated[
        Path,
        typer.Option(
            metavar="FILE", help="Output file: .npz, or .json (COCO proposals).", callback=writable_file
        ),
    ],
    images: ImagesFolder = None,
    format: DataFormat = None,
    model: Annotated[str | None, typer.Option(metavar="RUN", help="Use the RPN of this model.")] = None,
    method: Annotated[
        str | None, typer.Option(help="selective_search, or rpn (the default with --model).")
    ] = None,
    count: Annotated[
        int | None, typer.Option(min=1, help="Maximum proposals per image. Default: 2000.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Setting of selective search, for example min_side=8. Repeatable.",
        ),
    ] = None,
    device: Device = None,
    trust: Trust = None,
) -> None:
    """Generate region proposals for every image, and report their recall."""
    wanted = method or ("rpn" if model else "selective_search")
    from rcnn.config import apply_assignments, did_you_mean

    if wanted not in METHODS:
        hint = did_you_mean(wanted, METHODS)
        raise ValueError(f"--method {wanted}: {hint}expected one of {', '.join(METHODS)}")
    if (wanted == "rpn") != (model is not None):
        raise ValueError("propose: --method rpn needs --model RUN, and selective_search takes none")
    if model is not None and settings:
        raise ValueError("propose: --set is for selective search; an RPN has the settings of its model")
    from rcnn.data.external_proposals import default_cache
    from rcnn.evaluation.proposal_recall import check_proposal_output, recall_table
    from rcnn.evaluation.proposal_recall import propose as write
    from rcnn.loading import load_detector
    from rcnn.parts.selective_search import SelectiveSearchSettings, require_opencv

    check_proposal_output(out)
    if model is None:
        require_opencv()
    search = apply_assignments(SelectiveSearchSettings(), settings or [], "search")
    dataset = open_dataset(data, images, format)
    detector = None if model is None else load_detector(model, device, trust=trust or ())
    with progress_bar("proposing") as progress:
        recall = write(
            dataset, out, detector=detector, search=search, count=count, cache=default_cache(),
            progress=progress,
        )  # fmt: skip
    print_table(recall_table(recall))
    print_text(f"written: {out} and {out.with_suffix('.html')}")
