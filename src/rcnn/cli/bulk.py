"""``rcnn predict --to parquet`` and ``--status``: the options of bulk prediction, and what it prints."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rcnn.cli.console import print_error, print_text, progress_bar

if TYPE_CHECKING:
    from rcnn.bulk import BulkOptions
    from rcnn.bulk.worker import WorkerOptions

PARQUET = "parquet"
PANEL = "Bulk prediction: --to parquet"
RAY_PANEL = "On Ray"
RowsPerShard = Annotated[
    int,
    typer.Option(min=1, rich_help_panel=PANEL, help="Images per Parquet file, which is written in one step."),
]
OutlinesForm = Annotated[
    str,
    typer.Option(
        "--outlines", metavar="NAME", rich_help_panel=PANEL,
        help="Masks as COCO's run-length codes (rle) or as polygons; both are exact.",
    ),
]  # fmt: skip
Shards = Annotated[
    str | None,
    typer.Option(
        metavar="I/N", rich_help_panel=PANEL,
        help="Do every N-th shard, from the I-th, counted from 1: for N commands at the same time.",
    ),
]  # fmt: skip
RetryErrors = Annotated[
    bool,
    typer.Option(
        "--retry-errors", rich_help_panel=PANEL, help="Also predict images again that had an error."
    ),
]
RayAddress = Annotated[
    str | None,
    typer.Option(
        "--ray", metavar="[ADDRESS]", rich_help_panel=RAY_PANEL,
        help="Predict by actors on Ray: on this machine (local, the default), or auto or host:port for a "
        "cluster that runs.",
    ),
]  # fmt: skip
Actors = Annotated[
    int | None,
    typer.Option(
        min=1, rich_help_panel=RAY_PANEL, help="Number of actors on Ray. Default: one per GPU, else per CPU."
    ),
]
GpusPerActor = Annotated[
    float | None,
    typer.Option(
        min=0,
        rich_help_panel=RAY_PANEL,
        help="GPUs per actor, or a fraction. Default: 1 where there are GPUs.",
    ),
]
Status = Annotated[
    str | None,
    typer.Option(
        metavar="URI", rich_help_panel=PANEL,
        help="Print how far the bulk prediction in this folder or store is, and end.",
    ),
]  # fmt: skip


def predict_shards(
    model: str,
    images: Sequence[str],
    out: str,
    options: BulkOptions,
    *,
    worker: WorkerOptions,
    shards: str | None,
    ray: Any,
) -> None:
    """Start or continue a job, and print what it did.

    Raises:
        typer.Exit: with 1, where images could not be predicted.
    """
    from rcnn.bulk import predict_bulk

    with progress_bar("predicting") as progress:
        summary = predict_bulk(
            model, images, out, options, worker=worker, shards=_numbers(shards), ray=ray, progress=progress
        )
    if summary.repeated:
        print_text(
            f"{summary.repeated} entries of the list name an image again; each image is predicted once"
        )
    print_text(
        f"{summary.predicted} images predicted, {summary.objects} objects; "
        f"the job has {summary.images} images; written: {out}"
    )
    if summary.remaining:
        print_text(f"{summary.remaining} shards are still missing; the command without --shards does them")
    if summary.failed:
        print_error(
            f"{summary.failed} images could not be predicted; their rows have the error. Give the same "
            "command with --retry-errors to try them again"
        )
        raise typer.Exit(1)


def ray_options(address: str | None, actors: int | None, gpus_per_actor: float | None) -> Any:
    """The options of Ray; None where it is not used.

    Raises:
        ValueError: options of actors without ``--ray``.
    """
    if address is None:
        if actors is not None or gpus_per_actor is not None:
            raise ValueError("--actors and --gpus-per-actor are for --ray; add --ray")
        return None
    from rcnn.bulk.ray_workers import RayOptions

    return RayOptions(address, actors, gpus_per_actor=gpus_per_actor)


def print_status(out: str) -> None:
    """Print how far a job is."""
    from rcnn.bulk import job_status

    status = job_status(out)
    parts = [f"{status.done} of {status.images} images done", f"{status.failed} failed"]
    if status.images_per_s is not None and status.done < status.images:
        parts.append(f"{status.images_per_s:.3g} images/s")
        parts.append(f"{_duration(status.seconds_left or 0)} left")
    print_text(", ".join(parts))


def _duration(seconds: float) -> str:
    """Such as ``3 d 4 h``, ``2 h 5 min`` or ``40 s``."""
    for size, unit, smaller, name in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if seconds >= size:
            whole, rest = divmod(int(seconds), size)
            return f"{whole} {unit} {rest // smaller} {name}"
    return f"{seconds:.0f} s"


def _numbers(shards: str | None) -> tuple[int, int]:
    if shards is None:
        return 1, 1
    number, slash, of = shards.partition("/")
    if not (slash and number.isdecimal() and of.isdecimal()):
        raise ValueError(f"--shards {shards}: expected i/n, such as 3/32")
    return int(number), int(of)
