"""``rcnn push``."""

from __future__ import annotations

from typing import Annotated

import typer

from rcnn.cli.console import app, examples, print_text
from rcnn.cli.options import NetworkSource, Trust


@app.command(
    epilog=examples(
        "rcnn push runs/cells user/cells",
        "rcnn push runs/cells user/cells --private --license cc-by-4.0",
    )
)
def push(
    model: NetworkSource,
    repository: Annotated[
        str, typer.Argument(metavar="USER/NAME", help="Model repository on the Hugging Face Hub.")
    ],
    private: Annotated[
        bool, typer.Option("--private", help="Create the repository so that only its owner sees it.")
    ] = False,
    license: Annotated[
        str | None, typer.Option(metavar="NAME", help="Licence of the model, such as apache-2.0.")
    ] = None,
    trust: Trust = None,
) -> None:
    """Put a trained model on the Hugging Face Hub, with a model card."""
    from rcnn.training.push import push as upload

    url = upload(model, repository, private=private, license=license, trust=trust or ())
    print_text(f"written: {url}; use it with: rcnn predict hf://{repository} IMAGES")
